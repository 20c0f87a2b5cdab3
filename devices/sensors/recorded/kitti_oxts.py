"""KITTI's GPS/IMU packets (OXTS RT3003) as inertial, satellite and truth messages.

The pose follows the devkit's convertOxtsToPose.m: a Mercator projection scaled by the cosine of the first latitude,
and R = Rz(yaw) Ry(pitch) Rx(roll). It departs from it in one thing: the world keeps east, north and up as its axes
and only its origin moves to the first packet, so that z is up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.reading import Item, floats, note
from tercel.core.geometry import from_rotation_translation, inverse, so3_exp
from tercel.core.messages import Imu, NavSatFix, Odometry

Array = NDArray[Any]

EARTH_RADIUS_M = 6378137.0

# Columns of a packet (the devkit's dataformat.txt).
_LAT_DEG, _LON_DEG, _ALT_M, _ROLL, _PITCH, _YAW, _NORTH_MPS, _EAST_MPS = range(8)
_UP_MPS, _ACCELERATION, _RATES, _USED = 10, slice(11, 14), slice(17, 20), 23


def parse_packet(line: str) -> Array:
    """The first 23 numbers of a packet. Raises ValueError if there are fewer or the position is not on Earth."""
    packet = floats(line.split(), _USED)
    if abs(packet[_LAT_DEG]) > 85.0 or abs(packet[_LON_DEG]) > 180.0:
        raise ValueError("the latitude or longitude is out of range")
    return packet


def mercator_T_imu(packet: Array, reference_lat_deg: float) -> Array:
    """(4, 4): the IMU in metres east, north and up of the Mercator grid scaled for the reference latitude."""
    scale = np.cos(np.radians(reference_lat_deg))
    east_m = scale * EARTH_RADIUS_M * np.radians(packet[_LON_DEG])
    north_m = scale * EARTH_RADIUS_M * np.log(np.tan(np.radians(90.0 + packet[_LAT_DEG]) / 2.0))
    roll, pitch, yaw = so3_exp(np.diag(packet[[_ROLL, _PITCH, _YAW]]))
    return from_rotation_translation(yaw @ pitch @ roll, np.array([east_m, north_m, packet[_ALT_M]]))


def oxts_stream(
    packets: Iterable[tuple[int, str, str]], lidar_T_imu: Array | None, problems: list[str]
) -> Iterator[Item]:
    """/imu/data, /gps/fix and /truth/odometry of (stamp_ns, name for problems, line).

    The truth is the pose of "lidar" if lidar_T_imu is known, else of "imu", in "world" (east, north, up from the
    first packet's position), with velocities in the child frame.
    """
    origin: Array | None = None
    origin_lat_deg = 0.0
    for stamp_ns, name, line in packets:
        try:
            packet = parse_packet(line)
        except ValueError as error:
            note(problems, f"{name}: {error}; skipped")
            continue
        if origin is None:
            origin_lat_deg = float(packet[_LAT_DEG])
            origin = mercator_T_imu(packet, origin_lat_deg)[:3, 3]
        world_T_imu = mercator_T_imu(packet, origin_lat_deg)
        world_T_imu[:3, 3] -= origin
        yield from _packet_messages(stamp_ns, packet, world_T_imu, lidar_T_imu)


def _packet_messages(stamp_ns: int, packet: Array, world_T_imu: Array, lidar_T_imu: Array | None) -> list[Item]:
    imu = Imu(
        stamp_ns=stamp_ns,
        frame_id="imu",
        angular_velocity_radps=packet[_RATES],
        linear_acceleration_mps2=packet[_ACCELERATION],
    )
    fix = NavSatFix(
        stamp_ns=stamp_ns,
        frame_id="imu",
        latitude_deg=float(packet[_LAT_DEG]),
        longitude_deg=float(packet[_LON_DEG]),
        altitude_m=float(packet[_ALT_M]),
    )
    # A point p of the rigid body moves with v + rates x p; lidar_T_imu None leaves the pose at the IMU itself.
    child_T_imu = np.eye(4) if lidar_T_imu is None else lidar_T_imu
    imu_T_child = inverse(child_T_imu)
    velocity_world_mps = packet[[_EAST_MPS, _NORTH_MPS, _UP_MPS]]
    velocity_imu_mps = world_T_imu[:3, :3].T @ velocity_world_mps + np.cross(packet[_RATES], imu_T_child[:3, 3])
    truth = Odometry(
        stamp_ns=stamp_ns,
        frame_id="world",
        child_frame_id="imu" if lidar_T_imu is None else "lidar",
        frame_T_child=world_T_imu @ imu_T_child,
        linear_velocity_mps=child_T_imu[:3, :3] @ velocity_imu_mps,
        angular_velocity_radps=child_T_imu[:3, :3] @ packet[_RATES],
    )
    return [("/imu/data", stamp_ns, imu), ("/gps/fix", stamp_ns, fix), ("/truth/odometry", stamp_ns, truth)]
