"""The suite's messages as ROS 2 messages and back. CDR bytes are the one boundary: rosbags encodes and decodes.

| ours | ROS 2 |
| --- | --- |
| Image, CompressedImage, CameraInfo, Imu, NavSatFix, Range, BatteryState | sensor_msgs, same names |
| PointCloud | sensor_msgs/PointCloud2: x y z intensity ring time |
| Odometry | nav_msgs/Odometry; geometry_msgs/PoseStamped and PoseWithCovarianceStamped are read too |
| Transforms | tf2_msgs/TFMessage; geometry_msgs/TransformStamped is read too |
| Detections2D, Tracks2D | vision_msgs/Detection2DArray |
| Detections3D, Tracks3D | vision_msgs/Detection3DArray |
| NextLook | sensor_msgs/TimeReference: when to look next is `time_ref`, why stands in `source` |
| Predictions | visualization_msgs/MarkerArray, to look at: not read back |
| RemoteTracks | vision_msgs/Detection3DArray, ids as "robot/7"; read back as tracks: only who hears them knows when |

What does not travel is said in `tercel.ros.write`. A track that comes back from ROS has NaN for velocity and age. A
detection array always comes back as tracks, with id -1 where the message gives none, so that a topic's type is known
before its first message.
"""

from __future__ import annotations

from typing import Any

from tercel.core.errors import Rejected
from tercel.core.messages import Message
from tercel.ros import detection_arrays
from tercel.ros.layouts import image_for_ports
from tercel.ros.read import CDR_READERS, READERS
from tercel.ros.store import STORE
from tercel.ros.write import CDR_WRITERS, WRITERS, header

__all__ = ["MAX_STAMP_NS", "STORE", "decode", "encode", "from_ros", "message_type_of", "ros_type_of", "to_ros"]

MAX_STAMP_NS = 2**31 * 10**9  # builtin_interfaces/Time counts seconds in an int32
_RANGE = "sensor_msgs/msg/Range"


def encode(message: Message) -> tuple[str, memoryview]:
    """The ROS 2 type name and the CDR bytes of a message."""
    direct = CDR_WRITERS.get(type(message))
    if direct is not None:
        return direct[0], memoryview(direct[1](message))
    ros_type, ros = to_ros(message)
    return ros_type, STORE.serialize_cdr(ros, ros_type)


def decode(ros_type: str, data: bytes | bytearray | memoryview, *, images: bool = False) -> Message:
    """Our message of CDR bytes; its arrays are views of them where the layout allows.

    With images, a compressed image and a camera's raw one become pixels that components know. Raises Rejected if the
    suite has no use for the type, the bytes do not decode, or what they say makes no sense.
    """
    if ros_type not in READERS:
        raise Rejected(f"no use for type {ros_type}")
    message = _decode_boxes(ros_type, data) or from_ros(_deserialize(ros_type, memoryview(data)), ros_type)
    return image_for_ports(message) if images else message


def _decode_boxes(ros_type: str, data: bytes | bytearray | memoryview) -> Message | None:
    if ros_type not in CDR_READERS:
        return None
    box_floats, build = CDR_READERS[ros_type]
    boxes = detection_arrays.read(data, box_floats)
    return None if boxes is None else _with_stamp(build(boxes))


def _deserialize(ros_type: str, data: memoryview) -> Any:
    try:
        return STORE.deserialize_cdr(data, ros_type)
    except Exception:  # the decoder is generated code: a damaged message can raise anything
        if ros_type != _RANGE:
            raise Rejected("message does not decode") from None
    try:  # Humble's Range ends where newer ones have four bytes of variance
        return STORE.deserialize_cdr(memoryview(bytes(data) + bytes(4)), ros_type)
    except Exception:
        raise Rejected("message does not decode") from None


def ros_type_of(kind: type[Message]) -> str:
    """The ROS 2 type that a message type is written as. Raises KeyError for one that is not of the suite."""
    return CDR_WRITERS[kind][0] if kind in CDR_WRITERS else WRITERS[kind][0]


def to_ros(message: Message) -> tuple[str, Any]:
    """The ROS 2 type name and the rosbags dataclass of a message."""
    kind = type(message)
    if kind in CDR_WRITERS:
        ros_type, write = CDR_WRITERS[kind]
        return ros_type, STORE.deserialize_cdr(write(message), ros_type)
    ros_type, writer = WRITERS[kind]
    return ros_type, writer(message, header(message.stamp_ns, message.frame_id))


def message_type_of(ros_type: str) -> type[Message] | None:
    """The message type that a ROS type becomes, or None if the suite has no use for it."""
    entry = READERS.get(ros_type)
    return None if entry is None else entry[0]


def from_ros(ros: Any, ros_type: str) -> Message:
    """Our message of a rosbags dataclass. Raises Rejected if its content makes no sense."""
    try:
        return _with_stamp(READERS[ros_type][1](ros))
    except (ValueError, AttributeError, TypeError, OverflowError):
        raise Rejected("message content makes no sense") from None


def _with_stamp(message: Message) -> Message:
    if not 0 <= message.stamp_ns < MAX_STAMP_NS:
        raise Rejected("stamp outside 1970 to 2038")
    return message
