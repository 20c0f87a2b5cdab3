"""Scans of a simulated street from any place along it, for tests of places, loops and merging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.lidar import sweep
from devices.sensors.simulated.motion import Progress, Waves, states_at
from devices.sensors.simulated.street import Street
from devices.sensors.simulated.world import WorldConfig, base_T_sensor, make_lidar
from registration.keyframes import Keyframe, KeyframeConfig, Recorded, thin
from registration.place import describe
from tercel.core.geometry import inverse, rotation_about_z, se3_exp

Array = NDArray[Any]


class _Still(Progress):
    """Stands at `at_m` along the road, at any time."""

    def __init__(self, at_m: float) -> None:
        super().__init__(1.0, Waves((), (), ()))
        object.__setattr__(self, "at_m", at_m)

    def __call__(self, time_s: Array) -> tuple[Array, Array, Array]:
        zero = np.zeros(np.shape(time_s))
        return zero + self.at_m, zero, zero  # type: ignore[attr-defined]


_street = cache(Street)  # its houses are made once


@cache
def street_scan(seed: int, at_m: float, lane: int, backwards: bool, time_s: float = 5.0) -> tuple[Array, Array]:
    """A scan (N, 3) from a place on a street, and world_T_sensor (4, 4). lane: -1 the right one, 1 the left one.

    backwards: the sensor looks back along the road.
    """
    street = _street(seed)
    street.trajectory = replace(street.trajectory, lateral_m=1.75 * lane, progress=_Still(at_m))
    lidar = make_lidar(WorldConfig("street", seed=seed, lidar_columns=360))
    rng = np.random.default_rng([seed, round(at_m * 10), lane + 1, backwards])
    seen = sweep(lidar, street.trajectory, street.snapshot(time_s).primitives, time_s, rng)
    turn = np.eye(4)
    turn[:3, :3] = rotation_about_z(np.pi if backwards else 0.0)
    pose = states_at(street.trajectory, np.array([time_s])).world_T_base[0] @ base_T_sensor("street", "lidar") @ turn
    return (seen.points_m @ turn[:3, :3]).astype(np.float32), pose


def drive(
    seed: int,
    places_m: Sequence[float],
    lane: int = -1,
    *,
    backwards: bool = False,
    time_s: float = 5.0,
    drift: Array | None = None,
) -> tuple[Recorded, Array]:
    """A recording whose every scan is a keyframe, and the true world_T_sensor (N, 4, 4).

    drift (6,): error of the odometry at each step, a tangent.
    """
    config = KeyframeConfig()
    scans = [street_scan(seed, float(at_m), lane, backwards, time_s) for at_m in places_m]
    truth = np.stack([pose for _, pose in scans])
    poses = [np.eye(4)]
    for step in inverse(truth[:-1]) @ truth[1:]:
        poses.append(poses[-1] @ step @ se3_exp(np.zeros(6) if drift is None else drift))
    keyframes = [Keyframe(row, thin(scan, config.voxel_m), describe(scan)) for row, (scan, _) in enumerate(scans)]
    stamps_ns = np.arange(len(scans), dtype=np.int64) * 250_000_000
    return Recorded(stamps_ns, np.stack(poses), np.ones(len(scans), dtype=bool), keyframes, config), truth
