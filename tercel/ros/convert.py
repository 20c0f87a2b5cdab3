"""The suite's messages as ROS 2 messages and back. CDR bytes are the one boundary: rosbags encodes and decodes.

| ours | ROS 2 |
| --- | --- |
| Image, CompressedImage, CameraInfo, Imu, NavSatFix | sensor_msgs, same names |
| PointCloud | sensor_msgs/PointCloud2: x y z intensity ring time |
| Odometry | nav_msgs/Odometry; geometry_msgs/PoseStamped and PoseWithCovarianceStamped are read too |
| Transforms | tf2_msgs/TFMessage |
| Detections2D, Tracks2D | vision_msgs/Detection2DArray |
| Detections3D, Tracks3D | vision_msgs/Detection3DArray |

vision_msgs has no field for a velocity or an age: a track that comes back from ROS has NaN there. A detection array
always comes back as tracks, with id -1 where the message gives none, so that a topic's type is known before its first
message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core import geometry
from tercel.core.errors import Rejected
from tercel.core.messages import (
    CameraInfo,
    CompressedImage,
    Detections2D,
    Detections3D,
    Image,
    Imu,
    Message,
    NavSatFix,
    Odometry,
    PointCloud,
    Tracks2D,
    Tracks3D,
    Transforms,
)
from tercel.ros.layouts import cloud_from_pointcloud2, pixels_from_buffer, pointcloud2_buffer
from tercel.ros.store import STORE

__all__ = [
    "MAX_STAMP_NS",
    "STORE",
    "decode",
    "encode",
    "from_ros",
    "message_type_of",
    "ros_type_of",
    "to_ros",
]

Array = NDArray[Any]


MAX_STAMP_NS = 2**31 * 10**9  # builtin_interfaces/Time counts seconds in an int32
_T = STORE.types


def encode(message: Message) -> tuple[str, memoryview]:
    """The ROS 2 type name and the CDR bytes of a message."""
    msgtype, ros = to_ros(message)
    return msgtype, STORE.serialize_cdr(ros, msgtype)


def decode(ros_type: str, data: bytes | bytearray | memoryview) -> Message:
    """Our message of CDR bytes; its arrays are views of them where the layout allows.

    Raises Rejected if the suite has no use for the type, the bytes do not decode, or what they say makes no sense.
    """
    if ros_type not in _READERS:
        raise Rejected(f"no use for type {ros_type}")
    try:
        ros = STORE.deserialize_cdr(memoryview(data), ros_type)
    except Exception:  # the decoder is generated code: a damaged message can raise anything
        raise Rejected("message does not decode") from None
    return from_ros(ros, ros_type)


# --- ours to ROS ---------------------------------------------------------------------------------------------------


def ros_type_of(kind: type[Message]) -> str:
    """The ROS 2 type that a message type is written as. Raises KeyError for a type without one."""
    return _WRITERS[kind][0]


def to_ros(message: Message) -> tuple[str, Any]:
    """The ROS 2 type name and the rosbags dataclass of a message."""
    msgtype, writer = _WRITERS[type(message)]
    return msgtype, writer(message, _make_header(message.stamp_ns, message.frame_id))


def _make_header(stamp_ns: int, frame_id: str) -> Any:
    time = _T["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return _T["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def _vector(values: Sequence[float] | Array) -> Any:
    return _T["geometry_msgs/msg/Vector3"](*(float(v) for v in values))


def _point(values: Array) -> Any:
    return _T["geometry_msgs/msg/Point"](*(float(v) for v in values))


def _quaternion(rotation: Array) -> Any:
    return _T["geometry_msgs/msg/Quaternion"](*geometry.quat_xyzw_from_rotation(rotation).tolist())


def _image(m: Image, header: Any) -> Any:
    pixels = np.ascontiguousarray(m.pixels)
    height, width = pixels.shape[:2]
    data = pixels.view(np.uint8).reshape(-1)
    return _T["sensor_msgs/msg/Image"](
        header=header, height=height, width=width, encoding=m.encoding, is_bigendian=0,
        step=len(data) // height if height else 0, data=data,
    )  # fmt: skip


def _compressed_image(m: CompressedImage, header: Any) -> Any:
    return _T["sensor_msgs/msg/CompressedImage"](header=header, format=m.format, data=m.data)


def _camera_info(m: CameraInfo, header: Any) -> Any:
    roi = _T["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return _T["sensor_msgs/msg/CameraInfo"](
        header=header, height=m.height_px, width=m.width_px, distortion_model=m.distortion_model, d=m.distortion,
        k=m.intrinsics.reshape(9), r=m.rectification.reshape(9), p=m.projection.reshape(12),
        binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def _pointcloud2(m: PointCloud, header: Any) -> Any:
    data, columns, step = pointcloud2_buffer(m)
    field = _T["sensor_msgs/msg/PointField"]
    fields = [field(name=name, offset=offset, datatype=kind, count=1) for name, offset, kind in columns]
    count = len(m.points_m)
    return _T["sensor_msgs/msg/PointCloud2"](
        header=header, height=1, width=count, fields=fields, is_bigendian=False, point_step=step,
        row_step=step * count, data=data, is_dense=bool(np.isfinite(m.points_m).all()),
    )  # fmt: skip


def _imu(m: Imu, header: Any) -> Any:
    unknown = np.zeros(9)
    no_orientation = np.array([-1.0, *[0.0] * 8])  # sensor_msgs/Imu: -1 means "not measured"
    return _T["sensor_msgs/msg/Imu"](
        header=header, orientation=_T["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
        orientation_covariance=no_orientation,
        angular_velocity=_vector(m.angular_velocity_radps), angular_velocity_covariance=unknown,
        linear_acceleration=_vector(m.linear_acceleration_mps2), linear_acceleration_covariance=unknown,
    )  # fmt: skip


def _navsatfix(m: NavSatFix, header: Any) -> Any:
    return _T["sensor_msgs/msg/NavSatFix"](
        header=header, status=_T["sensor_msgs/msg/NavSatStatus"](status=0, service=1),
        latitude=m.latitude_deg, longitude=m.longitude_deg, altitude=m.altitude_m,
        position_covariance=np.zeros(9), position_covariance_type=0,
    )  # fmt: skip


def _pose(frame_T_child: Array) -> Any:
    return _T["geometry_msgs/msg/Pose"](_point(frame_T_child[:3, 3]), _quaternion(frame_T_child[:3, :3]))


def _odometry(m: Odometry, header: Any) -> Any:
    zero = np.zeros(3)
    covariance = np.zeros(36) if m.covariance is None else m.covariance.reshape(36)
    linear = zero if m.linear_velocity_mps is None else m.linear_velocity_mps
    angular = zero if m.angular_velocity_radps is None else m.angular_velocity_radps
    twist = _T["geometry_msgs/msg/Twist"](linear=_vector(linear), angular=_vector(angular))
    return _T["nav_msgs/msg/Odometry"](
        header=header, child_frame_id=m.child_frame_id,
        pose=_T["geometry_msgs/msg/PoseWithCovariance"](pose=_pose(m.frame_T_child), covariance=covariance),
        twist=_T["geometry_msgs/msg/TwistWithCovariance"](twist=twist, covariance=np.zeros(36)),
    )  # fmt: skip


def _transforms(m: Transforms, _header: Any) -> Any:
    transforms = [
        _T["geometry_msgs/msg/TransformStamped"](
            header=_make_header(m.stamp_ns, parent),
            child_frame_id=child,
            transform=_T["geometry_msgs/msg/Transform"](_vector(matrix[:3, 3]), _quaternion(matrix[:3, :3])),
        )
        for parent, child, matrix in zip(m.parents, m.children, m.parent_T_child, strict=True)
    ]
    return _T["tf2_msgs/msg/TFMessage"](transforms=transforms)


def _hypotheses(m: Detections2D | Detections3D) -> list[Any]:
    no_pose = _T["geometry_msgs/msg/PoseWithCovariance"](pose=_pose(np.eye(4)), covariance=np.zeros(36))
    hypothesis = _T["vision_msgs/msg/ObjectHypothesis"]
    with_pose = _T["vision_msgs/msg/ObjectHypothesisWithPose"]
    return [
        with_pose(hypothesis=hypothesis(class_id=m.class_names[label], score=score), pose=no_pose)
        for label, score in zip(m.labels.tolist(), m.scores.tolist(), strict=True)
    ]


def _id_strings(m: Detections2D | Detections3D) -> list[str]:
    if isinstance(m, (Tracks2D, Tracks3D)):
        return [str(i) if i >= 0 else "" for i in m.ids.tolist()]
    return [""] * len(m.labels)


def _detection2d_array(m: Detections2D, header: Any) -> Any:
    centers = (m.boxes_xyxy_px[:, :2] + m.boxes_xyxy_px[:, 2:]) / 2
    sizes = m.boxes_xyxy_px[:, 2:] - m.boxes_xyxy_px[:, :2]
    box, pose, point = (_T[f"vision_msgs/msg/{n}"] for n in ("BoundingBox2D", "Pose2D", "Point2D"))
    rows = zip(centers.tolist(), sizes.tolist(), _hypotheses(m), _id_strings(m), strict=True)
    detections = [
        _T["vision_msgs/msg/Detection2D"](
            header=header, results=[result], id=identity,
            bbox=box(center=pose(position=point(x=cx, y=cy), theta=0.0), size_x=w, size_y=h),
        )
        for (cx, cy), (w, h), result, identity in rows
    ]  # fmt: skip
    return _T["vision_msgs/msg/Detection2DArray"](header=header, detections=detections)


def _detection3d_array(m: Detections3D, header: Any) -> Any:
    box, pose, quat = (
        _T["vision_msgs/msg/BoundingBox3D"],
        _T["geometry_msgs/msg/Pose"],
        _T["geometry_msgs/msg/Quaternion"],
    )
    half = m.yaws_rad / 2
    rows = zip(
        m.centers_m,
        m.sizes_m,
        np.sin(half).tolist(),
        np.cos(half).tolist(),
        _hypotheses(m),
        _id_strings(m),
        strict=True,
    )
    detections = [
        _T["vision_msgs/msg/Detection3D"](
            header=header, results=[result], id=identity,
            bbox=box(center=pose(_point(center), quat(0.0, 0.0, sin, cos)), size=_vector(size)),
        )
        for center, size, sin, cos, result, identity in rows
    ]  # fmt: skip
    return _T["vision_msgs/msg/Detection3DArray"](header=header, detections=detections)


_WRITERS: dict[type[Message], tuple[str, Callable[[Any, Any], Any]]] = {
    Image: ("sensor_msgs/msg/Image", _image),
    CompressedImage: ("sensor_msgs/msg/CompressedImage", _compressed_image),
    CameraInfo: ("sensor_msgs/msg/CameraInfo", _camera_info),
    PointCloud: ("sensor_msgs/msg/PointCloud2", _pointcloud2),
    Imu: ("sensor_msgs/msg/Imu", _imu),
    NavSatFix: ("sensor_msgs/msg/NavSatFix", _navsatfix),
    Odometry: ("nav_msgs/msg/Odometry", _odometry),
    Transforms: ("tf2_msgs/msg/TFMessage", _transforms),
    Detections2D: ("vision_msgs/msg/Detection2DArray", _detection2d_array),
    Tracks2D: ("vision_msgs/msg/Detection2DArray", _detection2d_array),
    Detections3D: ("vision_msgs/msg/Detection3DArray", _detection3d_array),
    Tracks3D: ("vision_msgs/msg/Detection3DArray", _detection3d_array),
}


# --- ROS to ours ---------------------------------------------------------------------------------------------------


def message_type_of(msgtype: str) -> type[Message] | None:
    """The message type that a ROS type becomes, or None if the suite has no use for it."""
    entry = _READERS.get(msgtype)
    return None if entry is None else entry[0]


def from_ros(ros: Any, msgtype: str) -> Message:
    """Our message of a rosbags dataclass. Raises Rejected if its content makes no sense."""
    try:
        message: Message = _READERS[msgtype][1](ros)
    except (ValueError, AttributeError, TypeError, OverflowError):
        raise Rejected("message content makes no sense") from None
    if not 0 <= message.stamp_ns < MAX_STAMP_NS:
        raise Rejected("stamp outside 1970 to 2038")
    return message


def _stamp(header: Any) -> tuple[int, str]:
    return header.stamp.sec * 10**9 + header.stamp.nanosec, header.frame_id


def _xyz(vector: Any) -> Array:
    return np.array([vector.x, vector.y, vector.z])


def _matrix(position: Any, quat: Any) -> Array:
    rotation = geometry.rotation_from_quat_xyzw(np.array([quat.x, quat.y, quat.z, quat.w]))
    return geometry.from_rotation_translation(rotation, _xyz(position))


def _read_image(ros: Any) -> Image:
    stamp_ns, frame_id = _stamp(ros.header)
    pixels = pixels_from_buffer(
        ros.data, height=ros.height, width=ros.width, step=ros.step, encoding=ros.encoding,
        big_endian=bool(ros.is_bigendian),
    )  # fmt: skip
    return Image(stamp_ns=stamp_ns, frame_id=frame_id, pixels=pixels, encoding=ros.encoding)


def _read_compressed_image(ros: Any) -> CompressedImage:
    stamp_ns, frame_id = _stamp(ros.header)
    return CompressedImage(stamp_ns=stamp_ns, frame_id=frame_id, format=ros.format, data=ros.data)


def _read_camera_info(ros: Any) -> CameraInfo:
    stamp_ns, frame_id = _stamp(ros.header)
    k, d, r, p = (getattr(ros, n) if hasattr(ros, n) else getattr(ros, n.upper()) for n in "kdrp")  # ROS 1 has K D R P
    return CameraInfo(
        stamp_ns=stamp_ns, frame_id=frame_id, width_px=ros.width, height_px=ros.height,
        distortion_model=ros.distortion_model, distortion=d, intrinsics=np.reshape(k, (3, 3)),
        rectification=np.reshape(r, (3, 3)), projection=np.reshape(p, (3, 4)),
    )  # fmt: skip


def _read_pointcloud2(ros: Any) -> PointCloud:
    return cloud_from_pointcloud2(ros, *_stamp(ros.header))


def _read_imu(ros: Any) -> Imu:
    stamp_ns, frame_id = _stamp(ros.header)
    return Imu(
        stamp_ns=stamp_ns, frame_id=frame_id, angular_velocity_radps=_xyz(ros.angular_velocity),
        linear_acceleration_mps2=_xyz(ros.linear_acceleration),
    )  # fmt: skip


def _read_navsatfix(ros: Any) -> NavSatFix:
    stamp_ns, frame_id = _stamp(ros.header)
    return NavSatFix(
        stamp_ns=stamp_ns, frame_id=frame_id, latitude_deg=ros.latitude, longitude_deg=ros.longitude,
        altitude_m=ros.altitude,
    )  # fmt: skip


def _known_covariance(values: Array) -> Array | None:
    return values.reshape(6, 6) if np.any(values) else None


def _read_odometry(ros: Any) -> Odometry:
    stamp_ns, frame_id = _stamp(ros.header)
    pose, twist = ros.pose.pose, ros.twist.twist
    return Odometry(
        stamp_ns=stamp_ns, frame_id=frame_id, child_frame_id=ros.child_frame_id,
        frame_T_child=_matrix(pose.position, pose.orientation), covariance=_known_covariance(ros.pose.covariance),
        linear_velocity_mps=_xyz(twist.linear), angular_velocity_radps=_xyz(twist.angular),
    )  # fmt: skip


def _read_pose_stamped(ros: Any) -> Odometry:
    stamp_ns, frame_id = _stamp(ros.header)
    with_covariance = hasattr(ros.pose, "covariance")
    pose = ros.pose.pose if with_covariance else ros.pose
    return Odometry(
        stamp_ns=stamp_ns, frame_id=frame_id, child_frame_id="",
        frame_T_child=_matrix(pose.position, pose.orientation),
        covariance=_known_covariance(ros.pose.covariance) if with_covariance else None,
    )  # fmt: skip


def _read_transforms(ros: Any) -> Transforms:
    stamped = ros.transforms
    matrices = [_matrix(t.transform.translation, t.transform.rotation) for t in stamped]
    return Transforms(
        stamp_ns=max((_stamp(t.header)[0] for t in stamped), default=0), frame_id="",
        parents=tuple(t.header.frame_id for t in stamped), children=tuple(t.child_frame_id for t in stamped),
        parent_T_child=np.array(matrices).reshape(-1, 4, 4),
    )  # fmt: skip


def _read_labels(ros: Any) -> tuple[tuple[str, ...], list[int], list[float], list[int]]:
    """Class names, label indices, scores and ids. An id that is not a number is -1."""
    best = [max(d.results, key=lambda r: r.hypothesis.score, default=None) for d in ros.detections]
    names = [r.hypothesis.class_id if r is not None else "" for r in best]
    class_names = tuple(sorted(set(names)))
    index = {name: i for i, name in enumerate(class_names)}
    scores = [r.hypothesis.score if r is not None else 0.0 for r in best]
    ids = [int(d.id) if d.id.isdecimal() and len(d.id) < 19 else -1 for d in ros.detections]
    return class_names, [index[name] for name in names], scores, ids


def _read_detection2d_array(ros: Any) -> Tracks2D:
    stamp_ns, frame_id = _stamp(ros.header)
    class_names, labels, scores, ids = _read_labels(ros)
    rows = [(d.bbox.center.position.x, d.bbox.center.position.y, d.bbox.size_x, d.bbox.size_y) for d in ros.detections]
    cxcywh = np.array(rows, dtype=np.float64).reshape(-1, 4)
    boxes = np.concatenate([cxcywh[:, :2] - cxcywh[:, 2:] / 2, cxcywh[:, :2] + cxcywh[:, 2:] / 2], axis=1)
    return Tracks2D(
        stamp_ns=stamp_ns, frame_id=frame_id, boxes_xyxy_px=boxes, scores=np.array(scores), labels=np.array(labels),
        class_names=class_names, ids=np.array(ids), velocities_px_per_s=np.full((len(ids), 2), np.nan),
        ages_s=np.full(len(ids), np.nan),
    )  # fmt: skip


def _read_detection3d_array(ros: Any) -> Tracks3D:
    stamp_ns, frame_id = _stamp(ros.header)
    class_names, labels, scores, ids = _read_labels(ros)
    n = len(ids)
    poses = [d.bbox.center for d in ros.detections]
    quats = np.array([(p.orientation.z, p.orientation.w) for p in poses]).reshape(n, 2)
    return Tracks3D(
        stamp_ns=stamp_ns, frame_id=frame_id,
        centers_m=np.array([(p.position.x, p.position.y, p.position.z) for p in poses]).reshape(n, 3),
        sizes_m=np.array([(d.bbox.size.x, d.bbox.size.y, d.bbox.size.z) for d in ros.detections]).reshape(n, 3),
        yaws_rad=geometry.wrap_angle(2.0 * np.arctan2(quats[:, 0], quats[:, 1])), scores=np.array(scores),
        labels=np.array(labels), class_names=class_names, ids=np.array(ids),
        velocities_mps=np.full((n, 3), np.nan), ages_s=np.full(n, np.nan),
    )  # fmt: skip


_READERS: dict[str, tuple[type[Message], Callable[[Any], Message]]] = {
    "sensor_msgs/msg/Image": (Image, _read_image),
    "sensor_msgs/msg/CompressedImage": (CompressedImage, _read_compressed_image),
    "sensor_msgs/msg/CameraInfo": (CameraInfo, _read_camera_info),
    "sensor_msgs/msg/PointCloud2": (PointCloud, _read_pointcloud2),
    "sensor_msgs/msg/Imu": (Imu, _read_imu),
    "sensor_msgs/msg/NavSatFix": (NavSatFix, _read_navsatfix),
    "nav_msgs/msg/Odometry": (Odometry, _read_odometry),
    "geometry_msgs/msg/PoseStamped": (Odometry, _read_pose_stamped),
    "geometry_msgs/msg/PoseWithCovarianceStamped": (Odometry, _read_pose_stamped),
    "tf2_msgs/msg/TFMessage": (Transforms, _read_transforms),
    "vision_msgs/msg/Detection2DArray": (Tracks2D, _read_detection2d_array),
    "vision_msgs/msg/Detection3DArray": (Tracks3D, _read_detection3d_array),
}
