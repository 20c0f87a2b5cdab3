"""Trajectory files as /truth/odometry: TUM's text ("t x y z qx qy qz qw") and EuRoC's state estimates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.reading import Item, floats, note, ns_from_seconds, ns_from_text, short_name, text_rows
from tercel.core.geometry import from_rotation_translation, rotation_from_quat_xyzw
from tercel.core.messages import Odometry

Array = NDArray[Any]


def tum_trajectory(path: Path, child: str, problems: list[str]) -> Iterator[Item]:
    """The poses of `child` in "world"; stamps in seconds. A malformed row is noted."""
    for number, line in text_rows(path, problems):
        words = line.replace(",", " ").split()
        try:
            values = floats(words[1:], 7)
            item = _odometry(ns_from_seconds(words[0]), child, values[:3], values[3:], None)
        except ValueError as error:
            note(problems, f"{short_name(path)} line {number}: {error}; skipped")
            continue
        yield item


def euroc_states(path: Path, problems: list[str]) -> Iterator[Item]:
    """The poses and velocities of "imu" in "world" of EuRoC's state_groundtruth_estimate0: t[ns], p, q(wxyz), v, ..."""
    for number, line in text_rows(path, problems):
        words = line.split(",")
        try:
            values = floats(words[1:], 10)
            quat_xyzw = values[[4, 5, 6, 3]]
            item = _odometry(ns_from_text(words[0]), "imu", values[:3], quat_xyzw, values[7:10])
        except ValueError as error:
            note(problems, f"{short_name(path)} line {number}: {error}; skipped")
            continue
        yield item


def _odometry(stamp_ns: int, child: str, position_m: Array, quat_xyzw: Array, velocity_world_mps: Array | None) -> Item:
    if abs(np.linalg.norm(quat_xyzw) - 1.0) > 0.01:
        raise ValueError("the quaternion is not of length one")
    rotation = rotation_from_quat_xyzw(quat_xyzw)
    truth = Odometry(
        stamp_ns=stamp_ns,
        frame_id="world",
        child_frame_id=child,
        frame_T_child=from_rotation_translation(rotation, position_m),
        linear_velocity_mps=None if velocity_world_mps is None else rotation.T @ velocity_world_mps,
    )
    return "/truth/odometry", stamp_ns, truth
