"""Two robots on a simulated street: what each one's LiDAR finds, the radio between them, and a clock that is off.

The second robot drives four seconds ahead of the first on the same road. Each finds what is within 45 m of it, nine
times out of ten, with noise and some clutter, and tracks it. The second one's tracks go to the first by a radio with
delay and loss, stamped by a clock with an offset and a drift. Everything comes from the seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.models import CLASS_NAMES
from devices.sensors.simulated.motion import states_at
from devices.sensors.simulated.scene import Objects
from devices.sensors.simulated.street import Street
from tercel.core.geometry import inverse, transform_points
from tercel.core.messages import Detections3D, Odometry, RemoteTracks, Tracks3D
from tracking.fusion import FusionConfig, WorldFusion

Array = NDArray[Any]

EPOCH_NS = 1_700_000_000_000_000_000
PERIOD_S = 0.1
REACH_M = 45.0
AHEAD_S = 4.0
PHASE_S = 0.037  # the second robot's sweeps end between those of the first
NOISE = {"center_noise_m": 0.15, "center_noise_sizes": 0.0}  # as it is
_SENSOR_M = np.array([0.0, 0.0, 1.9])


@dataclass(frozen=True)
class Radio:
    """What lies between the robots. Delays are uniform; a request for the time takes one way as long as a report."""

    least_delay_s: float = 0.05
    most_delay_s: float = 0.4
    loss: float = 0.2
    offset_s: float = 0.3
    drift_ppm: float = 100.0

    def their_ns(self, time_s: float) -> int:
        """The second robot's clock at a moment."""
        return stamp_ns(time_s + self.offset_s + self.drift_ppm * 1e-6 * time_s)


def stamp_ns(time_s: float) -> int:
    """The first robot's clock at a moment."""
    return EPOCH_NS + round(time_s * 1e9)


class TwoRobots:
    """The street for duration_s. Frames are the first robot's sweeps."""

    def __init__(self, seed: int, duration_s: float, radio: Radio | None = None) -> None:
        self._seed = seed
        self._street = Street(seed)
        self.radio = radio or Radio()
        self.times_s = np.arange(1, round(duration_s / PERIOD_S)) * PERIOD_S
        self.truth = [self._near(float(t), both=True) for t in self.times_s]
        self.sweeps = [self._sweep(float(t), 0.0, "lidar") for t in self.times_s]

    @cached_property
    def reports(self) -> list[RemoteTracks]:
        """What reaches the first robot, in order of arrival; each with an exchange of stamps, if its request came."""
        rng, radio = np.random.default_rng([self._seed, 7]), self.radio
        arrived = []
        for time_s, tracks in self._second_robots_tracks():
            sent_s = time_s + rng.uniform(0.01, 0.03)
            asked_s, back_s = (
                sent_s - rng.uniform(radio.least_delay_s, radio.most_delay_s),
                sent_s + rng.uniform(radio.least_delay_s, radio.most_delay_s),
            )
            lost, request_lost = rng.random(2) < radio.loss
            if lost:
                continue
            their_sent_ns = radio.their_ns(sent_s)
            exchange = np.array([stamp_ns(asked_s), their_sent_ns, their_sent_ns, stamp_ns(back_s)])
            arrived.append(
                RemoteTracks(
                    stamp_ns=stamp_ns(back_s), frame_id="world", robot="second", sent_ns=their_sent_ns,
                    tracks=replace(tracks, stamp_ns=radio.their_ns(time_s)),
                    exchange_ns=None if request_lost else exchange,
                )
            )  # fmt: skip
        return sorted(arrived, key=lambda report: report.stamp_ns)

    def echo(self, tracks: Tracks3D, time_s: float) -> RemoteTracks:
        """The first robot's own tracks, as a second one would repeat them after the least delay."""
        their_ns = self.radio.their_ns(time_s)
        return RemoteTracks(
            stamp_ns=stamp_ns(time_s + self.radio.least_delay_s), frame_id="world", robot="second",
            tracks=replace(tracks, stamp_ns=their_ns), sent_ns=their_ns,
        )  # fmt: skip

    def _second_robots_tracks(self) -> Iterator[tuple[float, Tracks3D]]:
        fusion = WorldFusion(FusionConfig(**NOISE))
        for time_s in (self.times_s + PHASE_S).tolist():
            odometry, boxes = self._sweep(time_s, AHEAD_S, "second_lidar")
            fusion.move(odometry)
            tracks = fusion.see_boxes(boxes)["tracks"]
            assert isinstance(tracks, Tracks3D)
            yield time_s, tracks

    def _pose(self, time_s: float, ahead_s: float) -> Array:
        pose: Array = states_at(self._street.trajectory, np.array([time_s + ahead_s])).world_T_base[0].copy()
        pose[:3, 3] += _SENSOR_M
        return pose

    def _near(self, time_s: float, *, ahead_s: float = 0.0, both: bool = False) -> Objects:
        """The objects within reach of a robot, or of either."""
        objects = self._street.snapshot(time_s).objects
        near = np.zeros(len(objects.ids), dtype=bool)
        for lead_s in (0.0, AHEAD_S) if both else (ahead_s,):
            place = self._pose(time_s, lead_s)[:3, 3]
            near |= np.linalg.norm(objects.centers_m[:, :2] - place[:2], axis=1) < REACH_M
        return objects.take(np.flatnonzero(near))

    def only_second_sees(self, frame: int) -> Array:
        """Which objects of truth[frame] (mask) are beyond the first robot's reach."""
        place = self._pose(float(self.times_s[frame]), 0.0)[:3, 3]
        result: Array = np.linalg.norm(self.truth[frame].centers_m[:, :2] - place[:2], axis=1) >= REACH_M
        return result

    def _sweep(self, time_s: float, ahead_s: float, frame_id: str) -> tuple[Odometry, Detections3D]:
        """Where a robot is, and what it finds there."""
        rng = np.random.default_rng([self._seed, round(time_s * 1000), round(ahead_s)])
        world_T_lidar = self._pose(time_s, ahead_s)
        objects = self._near(time_s, ahead_s=ahead_s)
        objects = objects.take(np.flatnonzero(rng.random(len(objects.ids)) < 0.9))
        clutter = int(rng.poisson(0.2))
        around = np.column_stack([rng.uniform(-REACH_M, REACH_M, (clutter, 2)), np.full(clutter, -1.0)])
        noisy = objects.centers_m + rng.normal(0.0, [0.15, 0.15, 0.05], (len(objects.ids), 3))
        centers = np.concatenate([transform_points(inverse(world_T_lidar), noisy), around])
        count = len(objects.ids)
        heading = float(np.arctan2(world_T_lidar[1, 0], world_T_lidar[0, 0]))
        odometry = Odometry(
            stamp_ns=stamp_ns(time_s), frame_id="world", child_frame_id=frame_id, frame_T_child=world_T_lidar
        )
        return odometry, Detections3D(
            stamp_ns=stamp_ns(time_s), frame_id=frame_id, centers_m=centers,
            sizes_m=np.concatenate([objects.sizes_m, np.full((clutter, 3), [4.0, 1.8, 1.5])]),
            yaws_rad=np.concatenate([objects.yaws_rad - heading, np.zeros(clutter)]),
            scores=np.ones(count + clutter), labels=np.concatenate([objects.labels, np.ones(clutter)]),
            class_names=CLASS_NAMES,
        )  # fmt: skip
