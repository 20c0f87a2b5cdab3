"""ROS messages, as rosbags' dataclasses, as the suite's messages; detection arrays straight from their CDR bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core import geometry
from tercel.core.errors import Rejected
from tercel.core.messages import (
    BATTERY_STATUSES,
    RADIATIONS,
    BatteryState,
    CameraInfo,
    CompressedImage,
    Image,
    Imu,
    Message,
    NavSatFix,
    NextLook,
    Odometry,
    PointCloud,
    Range,
    Tracks2D,
    Tracks3D,
    Transforms,
)
from tercel.ros.clouds import cloud_from_pointcloud2
from tercel.ros.detection_arrays import BOX_2D, BOX_3D, Boxes
from tercel.ros.layouts import pixels_from_buffer
from tercel.ros.write import NEXT_LOOK

Array = NDArray[Any]

_NO_FIX = -1  # sensor_msgs/NavSatStatus


def _stamp(header: Any) -> tuple[int, str]:
    return header.stamp.sec * 10**9 + header.stamp.nanosec, header.frame_id


def _xyz(vector: Any) -> Array:
    return np.array([vector.x, vector.y, vector.z])


def _matrix(position: Any, quat: Any) -> Array:
    rotation = geometry.rotation_from_quat_xyzw(np.array([quat.x, quat.y, quat.z, quat.w]))
    return geometry.from_rotation_translation(rotation, _xyz(position))


def _image(ros: Any) -> Image:
    stamp_ns, frame_id = _stamp(ros.header)
    pixels = pixels_from_buffer(
        ros.data, height=ros.height, width=ros.width, step=ros.step, encoding=ros.encoding,
        big_endian=bool(ros.is_bigendian),
    )  # fmt: skip
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return Image(stamp_ns=stamp_ns, frame_id=frame_id, pixels=native, encoding=ros.encoding)


def _compressed_image(ros: Any) -> CompressedImage:
    stamp_ns, frame_id = _stamp(ros.header)
    return CompressedImage(stamp_ns=stamp_ns, frame_id=frame_id, format=ros.format, data=ros.data)


def _camera_info(ros: Any) -> CameraInfo:
    stamp_ns, frame_id = _stamp(ros.header)
    k, d, r, p = (getattr(ros, n) if hasattr(ros, n) else getattr(ros, n.upper()) for n in "kdrp")  # ROS 1 has K D R P
    return CameraInfo(
        stamp_ns=stamp_ns, frame_id=frame_id, width_px=ros.width, height_px=ros.height,
        distortion_model=ros.distortion_model, distortion=d, intrinsics=np.reshape(k, (3, 3)),
        rectification=np.reshape(r, (3, 3)), projection=np.reshape(p, (3, 4)),
    )  # fmt: skip


def _pointcloud2(ros: Any) -> PointCloud:
    return cloud_from_pointcloud2(ros, *_stamp(ros.header))


def _imu(ros: Any) -> Imu:
    stamp_ns, frame_id = _stamp(ros.header)
    return Imu(
        stamp_ns=stamp_ns, frame_id=frame_id, angular_velocity_radps=_xyz(ros.angular_velocity),
        linear_acceleration_mps2=_xyz(ros.linear_acceleration),
    )  # fmt: skip


def _navsatfix(ros: Any) -> NavSatFix:
    if ros.status.status == _NO_FIX:  # its position is zeros or the last one known
        raise Rejected("no satellite fix")
    stamp_ns, frame_id = _stamp(ros.header)
    return NavSatFix(
        stamp_ns=stamp_ns, frame_id=frame_id, latitude_deg=ros.latitude, longitude_deg=ros.longitude,
        altitude_m=ros.altitude,
    )  # fmt: skip


def _range(ros: Any) -> Range:
    stamp_ns, frame_id = _stamp(ros.header)
    return Range(
        stamp_ns=stamp_ns, frame_id=frame_id, range_m=ros.range, min_range_m=ros.min_range, max_range_m=ros.max_range,
        field_of_view_rad=ros.field_of_view, radiation=_word(RADIATIONS, ros.radiation_type),
    )  # fmt: skip


def _battery_state(ros: Any) -> BatteryState:
    stamp_ns, frame_id = _stamp(ros.header)
    return BatteryState(
        stamp_ns=stamp_ns, frame_id=frame_id, voltage_v=ros.voltage, current_a=ros.current, charge_ah=ros.charge,
        capacity_ah=ros.capacity, charge_fraction=ros.percentage, temperature_c=ros.temperature,
        status=_word(BATTERY_STATUSES, ros.power_supply_status), is_present=bool(ros.present),
        cell_voltages_v=ros.cell_voltage,
    )  # fmt: skip


def _word(words: tuple[str, ...], number: int) -> str:
    if not 0 <= number < len(words):
        raise Rejected("message content makes no sense")
    return words[number]


def _known_covariance(values: Array) -> Array | None:
    return values.reshape(6, 6) if np.any(values) else None


def _odometry(ros: Any) -> Odometry:
    stamp_ns, frame_id = _stamp(ros.header)
    pose, twist = ros.pose.pose, ros.twist.twist
    return Odometry(
        stamp_ns=stamp_ns, frame_id=frame_id, child_frame_id=ros.child_frame_id,
        frame_T_child=_matrix(pose.position, pose.orientation), covariance=_known_covariance(ros.pose.covariance),
        linear_velocity_mps=_xyz(twist.linear), angular_velocity_radps=_xyz(twist.angular),
    )  # fmt: skip


def _pose_stamped(ros: Any) -> Odometry:
    stamp_ns, frame_id = _stamp(ros.header)
    with_covariance = hasattr(ros.pose, "covariance")
    pose = ros.pose.pose if with_covariance else ros.pose
    return Odometry(
        stamp_ns=stamp_ns, frame_id=frame_id, child_frame_id="",
        frame_T_child=_matrix(pose.position, pose.orientation),
        covariance=_known_covariance(ros.pose.covariance) if with_covariance else None,
    )  # fmt: skip


def _transform_stamped(ros: Any) -> Transforms:
    return _together([ros])


def _tf_message(ros: Any) -> Transforms:
    return _together(ros.transforms)


def _together(stamped: list[Any]) -> Transforms:
    matrices = [_matrix(t.transform.translation, t.transform.rotation) for t in stamped]
    return Transforms(
        stamp_ns=max((_stamp(t.header)[0] for t in stamped), default=0), frame_id="",
        parents=tuple(t.header.frame_id for t in stamped), children=tuple(t.child_frame_id for t in stamped),
        parent_T_child=np.array(matrices).reshape(-1, 4, 4),
    )  # fmt: skip


def _next_look(ros: Any) -> NextLook:
    if not ros.source.startswith(NEXT_LOOK):
        raise Rejected("a time reference that tells no next look")
    stamp_ns, frame_id = _stamp(ros.header)
    critical_id, _, reason = ros.source.removeprefix(NEXT_LOOK).partition(" ")
    return NextLook(
        stamp_ns=stamp_ns, frame_id=frame_id, due_ns=ros.time_ref.sec * 10**9 + ros.time_ref.nanosec, reason=reason,
        critical_id=int(critical_id),
    )  # fmt: skip


# --- detections ----------------------------------------------------------------------------------------------------


def tracks_2d(found: Boxes) -> Tracks2D:
    """The message of a Detection2DArray's content."""
    half = found.boxes[:, 3:] / 2
    with np.errstate(invalid="ignore"):  # a box of infinite size has corners that are not numbers
        corners = np.concatenate([found.boxes[:, :2] - half, found.boxes[:, :2] + half], axis=1)
    n = len(corners)
    return Tracks2D(
        **_common(found), boxes_xyxy_px=corners, velocities_px_per_s=np.full((n, 2), np.nan, np.float32),
        ages_s=np.full(n, np.nan, np.float32),
    )  # fmt: skip


def tracks_3d(found: Boxes) -> Tracks3D:
    """The message of a Detection3DArray's content. Of a box that is not upright, the yaw."""
    x, y, z, w = found.boxes[:, 3:7].T
    n = len(found.boxes)
    return Tracks3D(
        **_common(found), centers_m=found.boxes[:, :3], sizes_m=found.boxes[:, 7:],
        yaws_rad=np.arctan2(2.0 * (w * z + x * y), w * w + x * x - y * y - z * z),
        velocities_mps=np.full((n, 3), np.nan), ages_s=np.full(n, np.nan, np.float32),
    )  # fmt: skip


def _common(found: Boxes) -> dict[str, Any]:
    class_names = tuple(sorted(set(found.names)))
    index = {name: i for i, name in enumerate(class_names)}
    return {
        "stamp_ns": found.stamp_ns,
        "frame_id": found.frame_id,
        "class_names": class_names,
        "labels": np.array([index[name] for name in found.names], np.int32),
        "scores": np.array(found.scores),
        "ids": np.array(found.ids, np.int64),
    }


def _boxes_of(ros: Any, rows: Sequence[tuple[float, ...]], box_floats: int) -> Boxes:
    best = [max(d.results, key=lambda r: r.hypothesis.score, default=None) for d in ros.detections]
    return Boxes(
        *_stamp(ros.header), np.array(rows, np.float64).reshape(-1, box_floats),
        [r.hypothesis.score if r is not None else 0.0 for r in best],
        [r.hypothesis.class_id if r is not None else "" for r in best],
        [int(d.id) if d.id.isascii() and d.id.isdecimal() and len(d.id) < 19 else -1 for d in ros.detections],
    )  # fmt: skip


def _detection2d_array(ros: Any) -> Tracks2D:
    rows = []
    for d in ros.detections:
        center = d.bbox.center
        rows.append((center.position.x, center.position.y, center.theta, d.bbox.size_x, d.bbox.size_y))
    return tracks_2d(_boxes_of(ros, rows, BOX_2D))


def _detection3d_array(ros: Any) -> Tracks3D:
    rows = []
    for d in ros.detections:
        p, q, s = d.bbox.center.position, d.bbox.center.orientation, d.bbox.size
        rows.append((p.x, p.y, p.z, q.x, q.y, q.z, q.w, s.x, s.y, s.z))
    return tracks_3d(_boxes_of(ros, rows, BOX_3D))


READERS: dict[str, tuple[type[Message], Callable[[Any], Message]]] = {
    "sensor_msgs/msg/Image": (Image, _image),
    "sensor_msgs/msg/CompressedImage": (CompressedImage, _compressed_image),
    "sensor_msgs/msg/CameraInfo": (CameraInfo, _camera_info),
    "sensor_msgs/msg/PointCloud2": (PointCloud, _pointcloud2),
    "sensor_msgs/msg/Imu": (Imu, _imu),
    "sensor_msgs/msg/NavSatFix": (NavSatFix, _navsatfix),
    "sensor_msgs/msg/Range": (Range, _range),
    "sensor_msgs/msg/BatteryState": (BatteryState, _battery_state),
    "sensor_msgs/msg/TimeReference": (NextLook, _next_look),
    "nav_msgs/msg/Odometry": (Odometry, _odometry),
    "geometry_msgs/msg/PoseStamped": (Odometry, _pose_stamped),
    "geometry_msgs/msg/PoseWithCovarianceStamped": (Odometry, _pose_stamped),
    "geometry_msgs/msg/TransformStamped": (Transforms, _transform_stamped),
    "tf2_msgs/msg/TFMessage": (Transforms, _tf_message),
    "vision_msgs/msg/Detection2DArray": (Tracks2D, _detection2d_array),
    "vision_msgs/msg/Detection3DArray": (Tracks3D, _detection3d_array),
}
CDR_READERS: dict[str, tuple[int, Callable[[Boxes], Message]]] = {
    "vision_msgs/msg/Detection2DArray": (BOX_2D, tracks_2d),
    "vision_msgs/msg/Detection3DArray": (BOX_3D, tracks_3d),
}
