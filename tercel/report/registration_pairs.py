"""Pairs of scans of a recording, drawn by its true poses.

Scans with point times are straightened by the true motion first: it is registration that is judged with them, not
odometry. Only the scans that are drawn are kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.distant.pairs import Pair, choose_pairs
from registration.sweep import deskew
from tercel.core.errors import UserError
from tercel.core.frames import StaticFrames
from tercel.core.geometry import inverse, se3_log
from tercel.core.messages import Odometry, PointCloud, Transforms
from tercel.report.frames import Trajectory
from tercel.report.odometry_input import TRUTH_TOPIC, Feed, open_feed

Array = NDArray[Any]

_SLACK_NS = 50_000_000
_MIN_POINTS = 100
_MIN_SWEEP_S = 1e-3


def read_pairs(path: Path, topic: str | None, per_bin: int, seed: int) -> tuple[list[Pair], dict[int, Array]]:
    """Up to per_bin pairs of each distance, and the points (N, 3) float32 of the scans that they name.

    topic: the recording's topic of clouds, None for the likeliest. Raises UserError if there are no scans, no truth, or
    no two scans far enough apart.
    """
    feed = open_feed(path, topic=topic, inertial=False, rate_hz=10.0)
    if TRUTH_TOPIC not in feed.roles:
        raise UserError(f"{feed.name} has no {TRUTH_TOPIC}; recordings of tercel world and imports with poses have it")
    truth, stamps_ns = _truth_and_stamps(feed)
    rows, poses = [], []
    for row, stamp_ns in enumerate(stamps_ns):
        try:
            poses.append(truth.at(stamp_ns, slack_ns=_SLACK_NS))
        except KeyError:
            continue
        rows.append(row)
    world_T_sensor = np.stack(poses) if poses else np.zeros((0, 4, 4))
    pairs = choose_pairs(world_T_sensor, world_T_sensor, per_bin=per_bin, seed=seed)
    if not pairs:
        raise UserError(f"{feed.name} has no two scans with truth that are 5 to 50 m apart; a longer drive is wanted")
    wanted = {rows[index] for pair in pairs for index in (pair.target, pair.source)}
    by_row = {row: _straight(cloud, truth) for row, cloud in enumerate(_clouds(feed)) if row in wanted}
    return pairs, {index: by_row[row] for index, row in enumerate(rows) if row in by_row}


def _clouds(feed: Feed) -> Iterator[PointCloud]:
    """The scans that decode and have points to speak of."""
    for item in feed.items():
        if isinstance(item.message, PointCloud) and len(item.message.points_m) >= _MIN_POINTS:
            yield item.message


def _truth_and_stamps(feed: Feed) -> tuple[Trajectory, list[int]]:
    """The true poses of the sensor, and the stamps of _clouds. Raises UserError if the sensor cannot be placed."""
    statics: list[Transforms] = []
    poses: list[Odometry] = []
    stamps_ns: list[int] = []
    frame = ""
    for item in feed.items():
        message = item.message
        if isinstance(message, Transforms):
            statics.append(message)
        elif isinstance(message, Odometry):
            poses.append(message)
        elif isinstance(message, PointCloud) and len(message.points_m) >= _MIN_POINTS:
            frame = frame or message.frame_id
            stamps_ns.append(message.stamp_ns)
    try:
        given = Trajectory.of(TRUTH_TOPIC, poses)
        truthchild_T_sensor = StaticFrames(statics).lookup(given.child_frame_id, frame)
    except (ValueError, KeyError) as error:
        raise UserError(f"{feed.name}: its scans cannot be placed: {error.args[0]}") from None
    world_T_sensor = given.frame_T_child @ truthchild_T_sensor
    return Trajectory(TRUTH_TOPIC, given.frame_id, frame, given.stamps_ns, world_T_sensor), stamps_ns


def _straight(cloud: PointCloud, truth: Trajectory) -> Array:
    """The finite points (N, 3) float32 as the sensor would have seen them from where it was at the stamp."""
    offsets_s = cloud.time_offset_s
    usable = np.isfinite(cloud.points_m).all(axis=1)
    if offsets_s is None:
        return np.array(cloud.points_m[usable])
    usable &= np.isfinite(offsets_s)
    points_m, offsets_s = cloud.points_m[usable], offsets_s[usable]
    begin_s, end_s = float(offsets_s.min(initial=0.0)), float(offsets_s.max(initial=0.0))
    if end_s - begin_s < _MIN_SWEEP_S:
        return np.array(points_m)
    try:
        first, last = (truth.at(cloud.stamp_ns + round(at * 1e9), slack_ns=_SLACK_NS) for at in (begin_s, end_s))
    except KeyError:
        return np.array(points_m)
    twist = se3_log(inverse(first) @ last) / (end_s - begin_s)
    return deskew(points_m, offsets_s, twist)
