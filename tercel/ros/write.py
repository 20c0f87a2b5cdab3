"""The suite's messages as ROS 2 messages: rosbags' dataclasses, and for detections CDR bytes at once.

What does not travel, because ROS has no field for it:

- velocities, ages and covariances of tracks, and the names of classes that no box has;
- Predictions go out as lines to look at: no covariances, and no times but the last one's, a marker's lifetime;
- RemoteTracks go out as the tracks that they hold, the robot's name before each id: no clocks of the exchange;
- BatteryState: what the message does not have (technology, health, temperatures of cells) is "unknown".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core import geometry
from tercel.core.messages import (
    BATTERY_STATUSES,
    RADIATIONS,
    BatteryState,
    CameraInfo,
    CompressedImage,
    Detections2D,
    Detections3D,
    Image,
    Imu,
    Message,
    NavSatFix,
    NextLook,
    Odometry,
    PointCloud,
    Predictions,
    Range,
    RemoteTracks,
    Tracks2D,
    Tracks3D,
    Transforms,
)
from tercel.ros import detection_arrays
from tercel.ros.clouds import pointcloud2_buffer
from tercel.ros.layouts import height_of
from tercel.ros.markers import marker_array
from tercel.ros.store import STORE, make

Array = NDArray[Any]
_T = STORE.types

NEXT_LOOK = "next look: "  # what a TimeReference's source begins with if it is a NextLook


def header(stamp_ns: int, frame_id: str) -> Any:
    """std_msgs/Header."""
    time = _T["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return _T["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def _vector(values: Sequence[float] | Array) -> Any:
    return _T["geometry_msgs/msg/Vector3"](*(float(v) for v in values))


def _point(values: Array) -> Any:
    return _T["geometry_msgs/msg/Point"](*(float(v) for v in values))


def _quaternion(rotation: Array) -> Any:
    return _T["geometry_msgs/msg/Quaternion"](*geometry.quat_xyzw_from_rotation(rotation).tolist())


def _image(m: Image, head: Any) -> Any:
    pixels = np.ascontiguousarray(m.pixels)
    rows, width = pixels.shape[:2]
    data = pixels.view(np.uint8).reshape(-1)
    return _T["sensor_msgs/msg/Image"](
        header=head, height=height_of(m), width=width, encoding=m.encoding,
        is_bigendian=int(pixels.dtype.str.startswith(">")), step=len(data) // rows if rows else 0, data=data,
    )  # fmt: skip


def _compressed_image(m: CompressedImage, head: Any) -> Any:
    return _T["sensor_msgs/msg/CompressedImage"](header=head, format=m.format, data=m.data)


def _camera_info(m: CameraInfo, head: Any) -> Any:
    roi = _T["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return _T["sensor_msgs/msg/CameraInfo"](
        header=head, height=m.height_px, width=m.width_px, distortion_model=m.distortion_model, d=m.distortion,
        k=m.intrinsics.reshape(9), r=m.rectification.reshape(9), p=m.projection.reshape(12),
        binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def _pointcloud2(m: PointCloud, head: Any) -> Any:
    data, columns, step = pointcloud2_buffer(m)
    field = _T["sensor_msgs/msg/PointField"]
    fields = [field(name=name, offset=offset, datatype=kind, count=1) for name, offset, kind in columns]
    count = len(m.points_m)
    return _T["sensor_msgs/msg/PointCloud2"](
        header=head, height=1, width=count, fields=fields, is_bigendian=False, point_step=step,
        row_step=step * count, data=data, is_dense=bool(np.isfinite(m.points_m).all()),
    )  # fmt: skip


def _imu(m: Imu, head: Any) -> Any:
    unknown = np.zeros(9)
    no_orientation = np.array([-1.0, *[0.0] * 8])  # sensor_msgs/Imu: -1 means "not measured"
    return _T["sensor_msgs/msg/Imu"](
        header=head, orientation=_T["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
        orientation_covariance=no_orientation,
        angular_velocity=_vector(m.angular_velocity_radps), angular_velocity_covariance=unknown,
        linear_acceleration=_vector(m.linear_acceleration_mps2), linear_acceleration_covariance=unknown,
    )  # fmt: skip


def _navsatfix(m: NavSatFix, head: Any) -> Any:
    return _T["sensor_msgs/msg/NavSatFix"](
        header=head, status=_T["sensor_msgs/msg/NavSatStatus"](status=0, service=1),
        latitude=m.latitude_deg, longitude=m.longitude_deg, altitude=m.altitude_m,
        position_covariance=np.zeros(9), position_covariance_type=0,
    )  # fmt: skip


def _range(m: Range, head: Any) -> Any:
    return _T["sensor_msgs/msg/Range"](
        header=head, radiation_type=RADIATIONS.index(m.radiation), field_of_view=m.field_of_view_rad,
        min_range=m.min_range_m, max_range=m.max_range_m, range=m.range_m, variance=0.0,
    )  # fmt: skip


def _battery_state(m: BatteryState, head: Any) -> Any:
    cells = np.asarray(m.cell_voltages_v, np.float32)
    return make(
        "sensor_msgs/msg/BatteryState", header=head, voltage=m.voltage_v, temperature=m.temperature_c,
        current=m.current_a, charge=m.charge_ah, capacity=m.capacity_ah, design_capacity=float("nan"),
        percentage=m.charge_fraction, power_supply_status=BATTERY_STATUSES.index(m.status), present=m.is_present,
        cell_voltage=cells,
    )  # fmt: skip


def _pose(frame_T_child: Array) -> Any:
    return _T["geometry_msgs/msg/Pose"](_point(frame_T_child[:3, 3]), _quaternion(frame_T_child[:3, :3]))


def _odometry(m: Odometry, head: Any) -> Any:
    zero = np.zeros(3)
    covariance = np.zeros(36) if m.covariance is None else m.covariance.reshape(36)
    linear = zero if m.linear_velocity_mps is None else m.linear_velocity_mps
    angular = zero if m.angular_velocity_radps is None else m.angular_velocity_radps
    twist = _T["geometry_msgs/msg/Twist"](linear=_vector(linear), angular=_vector(angular))
    return _T["nav_msgs/msg/Odometry"](
        header=head, child_frame_id=m.child_frame_id,
        pose=_T["geometry_msgs/msg/PoseWithCovariance"](pose=_pose(m.frame_T_child), covariance=covariance),
        twist=_T["geometry_msgs/msg/TwistWithCovariance"](twist=twist, covariance=np.zeros(36)),
    )  # fmt: skip


def _transforms(m: Transforms, _header: Any) -> Any:
    transforms = [
        _T["geometry_msgs/msg/TransformStamped"](
            header=header(m.stamp_ns, parent),
            child_frame_id=child,
            transform=_T["geometry_msgs/msg/Transform"](_vector(matrix[:3, 3]), _quaternion(matrix[:3, :3])),
        )
        for parent, child, matrix in zip(m.parents, m.children, m.parent_T_child, strict=True)
    ]
    return _T["tf2_msgs/msg/TFMessage"](transforms=transforms)


def _next_look(m: NextLook, head: Any) -> Any:
    due = _T["builtin_interfaces/msg/Time"](sec=m.due_ns // 10**9, nanosec=m.due_ns % 10**9)
    return _T["sensor_msgs/msg/TimeReference"](
        header=head, time_ref=due, source=f"{NEXT_LOOK}{m.critical_id} {m.reason}"
    )


WRITERS: dict[type[Message], tuple[str, Callable[[Any, Any], Any]]] = {
    Image: ("sensor_msgs/msg/Image", _image),
    CompressedImage: ("sensor_msgs/msg/CompressedImage", _compressed_image),
    CameraInfo: ("sensor_msgs/msg/CameraInfo", _camera_info),
    PointCloud: ("sensor_msgs/msg/PointCloud2", _pointcloud2),
    Imu: ("sensor_msgs/msg/Imu", _imu),
    NavSatFix: ("sensor_msgs/msg/NavSatFix", _navsatfix),
    Range: ("sensor_msgs/msg/Range", _range),
    BatteryState: ("sensor_msgs/msg/BatteryState", _battery_state),
    Odometry: ("nav_msgs/msg/Odometry", _odometry),
    Transforms: ("tf2_msgs/msg/TFMessage", _transforms),
    Predictions: ("visualization_msgs/msg/MarkerArray", marker_array),
    NextLook: ("sensor_msgs/msg/TimeReference", _next_look),
}


# --- detections: CDR bytes at once ---------------------------------------------------------------------------------


def _names_of(m: Detections2D | Detections3D) -> list[str]:
    return [m.class_names[label] for label in m.labels.tolist()]


def _ids_of(m: Detections2D | Detections3D, prefix: str = "") -> list[str]:
    if isinstance(m, (Tracks2D, Tracks3D)):
        return [f"{prefix}{i}" if i >= 0 else "" for i in m.ids.tolist()]
    return [""] * len(m.labels)


def _detection2d_array(m: Detections2D) -> bytes:
    boxes = np.zeros((len(m.labels), detection_arrays.BOX_2D))
    corners = m.boxes_xyxy_px
    boxes[:, :2] = (corners[:, :2] + corners[:, 2:]) / 2
    boxes[:, 3:] = corners[:, 2:] - corners[:, :2]
    return detection_arrays.write(m.stamp_ns, m.frame_id, boxes, m.scores, _names_of(m), _ids_of(m))


def _boxes_3d(m: Detections3D) -> Array:
    """(N, 10): centre, quaternion x y z w, size."""
    boxes = np.zeros((len(m.labels), detection_arrays.BOX_3D))
    boxes[:, :3], boxes[:, 7:] = m.centers_m, m.sizes_m
    boxes[:, 5], boxes[:, 6] = np.sin(m.yaws_rad / 2), np.cos(m.yaws_rad / 2)
    return boxes


def _detection3d_array(m: Detections3D) -> bytes:
    return detection_arrays.write(m.stamp_ns, m.frame_id, _boxes_3d(m), m.scores, _names_of(m), _ids_of(m))


def _remote_tracks(m: RemoteTracks) -> bytes:
    t = m.tracks
    ids = _ids_of(t, prefix=f"{m.robot}/")
    return detection_arrays.write(t.stamp_ns, t.frame_id, _boxes_3d(t), t.scores, _names_of(t), ids)


CDR_WRITERS: dict[type[Message], tuple[str, Callable[[Any], bytes]]] = {
    Detections2D: ("vision_msgs/msg/Detection2DArray", _detection2d_array),
    Tracks2D: ("vision_msgs/msg/Detection2DArray", _detection2d_array),
    Detections3D: ("vision_msgs/msg/Detection3DArray", _detection3d_array),
    Tracks3D: ("vision_msgs/msg/Detection3DArray", _detection3d_array),
    RemoteTracks: ("vision_msgs/msg/Detection3DArray", _remote_tracks),
}
