"""A robot for the dashboard's tests: sensors, tracks and diagnostics of a made-up drive, as serialised ROS messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tercel.core import geometry
from tercel.core.messages import Image, Message, Odometry, PointCloud, Tracks2D, Tracks3D, Transforms
from tercel.report.dashboard_state import DashboardState
from tercel.ros.convert import STORE, encode
from tercel.ros.diagnostics import DIAGNOSTICS_TYPE

MS = 1_000_000
S = 1_000_000_000
WALL_NS = 1_700_000_000 * S
WIDTH_PX, HEIGHT_PX = 320, 240
Row = tuple[int, str, str, Mapping[str, object]]
"""Level, name, message and values of one diagnostic status."""


def diagnostics(rows: Iterable[Row], stamp_ns: int = 0) -> bytes:
    """A serialised DiagnosticArray."""
    types = STORE.types
    time = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    pair = types["diagnostic_msgs/msg/KeyValue"]
    statuses = [
        types["diagnostic_msgs/msg/DiagnosticStatus"](
            level=level, name=name, message=message, hardware_id="robot",
            values=[pair(key=key, value=str(value)) for key, value in values.items()],
        )
        for level, name, message, values in rows
    ]  # fmt: skip
    header = types["std_msgs/msg/Header"](stamp=time, frame_id="")
    array = types[DIAGNOSTICS_TYPE](header=header, status=statuses)
    return bytes(STORE.serialize_cdr(array, DIAGNOSTICS_TYPE))


def component(name: str, kind: str, rate_hz: float, *, level: int = 0, message: str = "working", lost: int = 0) -> Row:
    """One component's status with the numbers of a live host."""
    values: dict[str, object] = {
        "component": kind, "received": 100 + lost, "processed": 100, "dropped": lost, "rejected": 0,
        "rate_in_hz": rate_hz, "rate_hz": rate_hz, "latency_ms.p50": 12.5, "latency_ms.p99": 31.0, "took_ms.p50": 8.25,
    }  # fmt: skip
    if lost:
        values["inputs.image.dropped.queue full"] = lost
    return level, f"robot: {name}", message, values


def offload(fates: Mapping[str, int], policy: str = "tercel") -> Row:
    """The offload manager's status."""
    return 0, "robot: offload", "", {"policy": policy, **{f"fates.{fate}": n for fate, n in fates.items()}}


def data_of(message: Message) -> tuple[str, bytes]:
    """ROS type and bytes of one of our messages."""
    ros_type, data = encode(message)
    return ros_type, bytes(data)


def static_frames(stamp_ns: int) -> Transforms:
    """The LiDAR one metre above the robot's base."""
    base_T_lidar = geometry.from_rotation_translation(np.eye(3), np.array([0.0, 0.0, 1.0]))
    return Transforms(
        stamp_ns=stamp_ns, frame_id="", parents=("base_link",), children=("lidar",), parent_T_child=base_T_lidar[None]
    )


def pose(step: int, stamp_ns: int) -> Odometry:
    """Half a metre further along x with each step."""
    odom_T_base = geometry.from_rotation_translation(np.eye(3), np.array([0.5 * step, 0.0, 0.0]))
    return Odometry(stamp_ns=stamp_ns, frame_id="odom", child_frame_id="base_link", frame_T_child=odom_T_base)


def sweep(stamp_ns: int) -> PointCloud:
    """A wall ten metres ahead, and ground."""
    y, z = np.meshgrid(np.linspace(-5, 5, 80), np.linspace(-1, 1, 10))
    wall = np.stack([np.full(y.size, 10.0), y.ravel(), z.ravel()], axis=1)
    x, y = np.meshgrid(np.linspace(1, 9, 40), np.linspace(-4, 4, 40))
    ground = np.stack([x.ravel(), y.ravel(), np.full(x.size, -1.0)], axis=1)
    return PointCloud(stamp_ns=stamp_ns, frame_id="lidar", points_m=np.concatenate([wall, ground]))


def picture(step: int, stamp_ns: int) -> Image:
    """Green ground, blue sky, and a red square that moves to the right."""
    pixels = np.full((HEIGHT_PX, WIDTH_PX, 3), (200, 120, 40), dtype=np.uint8)
    pixels[HEIGHT_PX // 2 :] = (40, 160, 60)
    x = square_x_px(step)
    pixels[100:140, x : x + 40] = (30, 30, 220)
    return Image(stamp_ns=stamp_ns, frame_id="camera", pixels=pixels, encoding="bgr8")


def square_x_px(step: int) -> int:
    """Where the red square begins."""
    return 20 + 4 * step % 240


def tracks_2d(step: int, stamp_ns: int, class_name: str = "car") -> Tracks2D:
    """The red square's box."""
    x = float(square_x_px(step))
    return Tracks2D(
        stamp_ns=stamp_ns, frame_id="camera", boxes_xyxy_px=np.array([[x, 100.0, x + 40, 140.0]]),
        scores=np.array([0.9]), labels=np.array([0]), class_names=(class_name,), ids=np.array([7]),
        velocities_px_per_s=np.zeros((1, 2)), ages_s=np.zeros(1),
    )  # fmt: skip


def tracks_3d(stamp_ns: int) -> Tracks3D:
    """A car that stands ahead and to the left, in the odometry's frame."""
    return Tracks3D(
        stamp_ns=stamp_ns, frame_id="odom", centers_m=np.array([[12.0, 4.0, 0.8]]),
        sizes_m=np.array([[4.0, 1.8, 1.6]]), yaws_rad=np.array([math.pi / 6]), scores=np.array([0.8]),
        labels=np.array([0]), class_names=("car",), ids=np.array([3]), velocities_mps=np.zeros((1, 3)),
        ages_s=np.zeros(1),
    )  # fmt: skip


def drive(step: int, stamp_ns: int, **changes: Any) -> list[tuple[str, str, bytes]]:
    """All topics at one moment: name, ROS type and bytes. changes: to a class name, for injection."""
    messages: dict[str, Message] = {
        "/camera/image": picture(step, stamp_ns),
        "/tracks_2d": tracks_2d(step, stamp_ns, **changes),
        "/odometry": pose(step, stamp_ns),
        "/lidar/points": sweep(stamp_ns),
        "/tracks_3d": tracks_3d(stamp_ns),
        "/tf_static": static_frames(stamp_ns),
    }
    return [(topic, *data_of(message)) for topic, message in messages.items()]


def driven(seconds: float, *, rate_hz: int = 10, state: DashboardState | None = None, **changes: Any) -> DashboardState:
    """A state after so many seconds of the made-up drive; ticks come as often as messages."""
    state = state or DashboardState("test")
    for step in range(round(seconds * rate_hz)):
        now_ns = S + step * S // rate_hz
        for topic, ros_type, data in drive(step, WALL_NS + now_ns, **changes):
            state.receive(topic, ros_type, data, now_ns, WALL_NS + now_ns + 20 * MS)
        state.tick(now_ns)
    return state
