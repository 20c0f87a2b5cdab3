"""What another robot's tracks say about ours.

Its tracks are estimates, not measurements: what it knows may come from us. So they are fused by covariance intersection
(`tracking.covariance_intersection`), which no echo can make overconfident, and an echo is no sighting either: a track
counts as seen when the robot last detected it (`unseen_s`), not when it says so, or two robots would keep each other's
ghosts alive. The other robot confirms what it reports, so a track that begins with its report counts at once. Sizes and
headings of tracks that we have stay ours.

Its clock is not known exactly. The uncertainty is added to its tracks along their velocities. And its tracks are moved
on by a margin of three sigma before they take their place: an echo that came to stand before the sweep that it knows of
would have that sweep count twice, and no intersection would notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tercel.core.messages import Tracks3D
from tracking import kalman
from tracking.association import Assignment, assign, near_pairs
from tracking.clock_offset import motion_lag
from tracking.covariance_intersection import intersect, is_covariance
from tracking.fusion_world import Boxes, FusionConfig, WorldTracks, translate_labels
from tracking.kalman import KalmanState
from tracking.motion_models import constant_velocity
from tracking.out_of_sequence import Key
from tracking.screening import Observations, Outcome, screen
from tracking.world_motion import CHI2_3DOF_999, WorldMotion

Array = NDArray[Any]

_LIMIT_MPS = 300.0
_MARGIN_SIGMAS, _MOST_MARGIN_S = 3.0, 0.1


@dataclass(frozen=True, eq=False)
class RobotTracks:
    """A `Report` of another robot's tracks, in our world and by our clock.

    state: their places and velocities, with the uncertainty of its clock; unseen_ns (N,) int64; faults (N,): an
    `Outcome` for tracks whose velocity or covariance cannot be one, 0 for others.
    """

    source: str
    seen: Observations
    state: KalmanState
    unseen_ns: Array
    faults: Array
    config: FusionConfig
    own = False
    has_scores = False
    size_rows = WorldMotion.size_rows
    min_score = -np.inf  # the other robot has judged

    @classmethod
    def of(
        cls,
        robot: str,
        tracks: Tracks3D,
        stamp_ns: int,
        world_T_frame: Array,
        clock_sigma_s: float,
        config: FusionConfig,
    ) -> RobotTracks:
        """The tracks of a message, whose stamp by our clock is stamp_ns, moved on by the margin.

        Raises Rejected if they have no covariances.
        """
        if tracks.covariances is None:
            raise Rejected("the robot's tracks have no covariances")
        labels = translate_labels(tracks.labels, tracks.class_names, config.classes)
        observed = WorldMotion.observe(tracks, world_T_frame)
        rotation = world_T_frame[:3, :3]
        turn = np.kron(np.eye(2), rotation)
        with np.errstate(invalid="ignore", over="ignore"):
            velocities = rotation @ tracks.velocities_mps.T
            covariance = np.einsum("ik,nkl,jl->ijn", turn, tracks.covariances, turn)
            covariance[:3, :3] += clock_sigma_s**2 * velocities[:, None] * velocities[None]
            state = KalmanState(np.concatenate([observed.measurements[:3], velocities]), covariance)
            faults = np.where(_sound(state), 0, int(Outcome.NO_COVARIANCE))
            margin_s = min(_MARGIN_SIGMAS * clock_sigma_s, _MOST_MARGIN_S)
            horizontal, vertical = config.acceleration_noise_horizontal**2, config.acceleration_noise_vertical**2
            psd = np.array([horizontal, horizontal, vertical])
            state = kalman.predict(state, *constant_velocity(margin_s, psd, 3))
        margin_ns = round(margin_s * 1e9)
        unseen_s = np.zeros(len(labels)) if tracks.unseen_s is None else tracks.unseen_s.astype(np.float64)
        unseen_ns = np.round(np.clip(np.nan_to_num(unseen_s, nan=3600.0), 0.0, 3600.0) * 1e9).astype(np.int64)
        places = np.where(faults == 0, state.mean[:3], observed.measurements[:3])
        measurements = np.concatenate([places, observed.measurements[3:]])
        seen = Observations(stamp_ns + margin_ns, measurements, tracks.scores, labels, len(config.classes))
        return cls(robot, seen, state, unseen_ns + margin_ns, faults, config)

    @property
    def key(self) -> Key:
        """After what our own sensors say of the same instant."""
        return self.seen.stamp_ns, 2, self.source

    @property
    def starting(self) -> Array:
        """Those that the other robot has seen of late."""
        recent: Array = self.unseen_ns <= round(self.config.coast_s * 1e9)
        return recent

    @property
    def supporting(self) -> Array:
        """All."""
        return np.ones(len(self.seen.scores), dtype=bool)

    @property
    def confirming(self) -> Array:
        """All."""
        return np.ones(len(self.unseen_ns), dtype=bool)

    @property
    def last_ns(self) -> Array:
        """When the other robot last saw them."""
        result: Array = self.seen.stamp_ns - self.unseen_ns
        return result

    def associate(self, tracks: WorldTracks, detections: Array) -> Assignment:
        """By distance, among those that may be in one place with both uncertainties."""
        ours, theirs = tracks.motion.state, self.state
        reach_m = self.config.gate_m
        pairs = near_pairs(ours.mean[:2].T, theirs.mean[:2, detections].T, reach_m)
        pairs = tracks.of_one_class(pairs, self.seen.labels[detections])
        gaps, covariances = self._gaps(tracks, pairs.rows, detections[pairs.columns])
        return assign(pairs.where(kalman.squared_length(gaps, covariances) < CHI2_3DOF_999), reach_m)

    def correct(self, tracks: WorldTracks, rows: Array, detections: Array) -> None:
        """Covariance intersection of places and velocities."""
        motion = tracks.motion
        fused, _ = intersect(motion.state.take(rows), self.state.take(detections))
        motion.state = motion.state.put(rows, fused)

    def start(self, tracks: WorldTracks, detections: Array) -> None:
        """As the other robot says."""
        count, motion = len(tracks), tracks.motion
        motion.start(self.seen.take(detections))
        motion.state = motion.state.put(np.arange(count, count + len(detections)), self.state.take(detections))

    def lag(self, sweep: Boxes) -> tuple[float, float] | None:
        """By how many seconds these tracks lag behind a sweep of ours, and the standard deviation of that; None where
        nothing that moves is in both.

        Boxes are asked and not our tracks, which believe these tracks already.
        """
        dt_s = (sweep.seen.stamp_ns - self.seen.stamp_ns) * 1e-9
        state = self.state.take(np.flatnonzero(self.faults == 0))
        places, covariance = _moved(state, dt_s)
        boxes = np.flatnonzero(screen(sweep.seen, sweep.min_score, sweep.size_rows)[0] == Outcome.TOO_WEAK_TO_START)
        pairs = near_pairs(places[:2].T, sweep.seen.measurements[:2, boxes].T, self.config.gate_m)
        found = sweep.seen.measurements[:, boxes[pairs.columns]]
        gaps = found[:3] - places[:, pairs.rows]
        sigmas = self.config.center_noise_m + self.config.center_noise_sizes * found[3:6].max(axis=0, initial=0.0)
        covariances = covariance[:, :, pairs.rows] + kalman.diagonal_noise(np.tile(sigmas**2, (3, 1)))
        likely = kalman.squared_length(gaps, covariances) < CHI2_3DOF_999
        chosen = assign(pairs.where(likely), self.config.gate_m)
        kept = np.isin(pairs.rows * len(boxes) + pairs.columns, chosen.rows * len(boxes) + chosen.columns)
        return motion_lag(gaps[:, kept], state.mean[3:, pairs.rows[kept]], covariances[:, :, kept])

    def _gaps(self, tracks: WorldTracks, rows: Array, detections: Array) -> tuple[Array, Array]:
        """Our places minus theirs (3, K), and the covariances of that if the two know nothing of each other."""
        ours, theirs = tracks.motion.state.take(rows), self.state.take(detections)
        return ours.mean[:3] - theirs.mean[:3], ours.covariance[:3, :3] + theirs.covariance[:3, :3]


def _sound(state: KalmanState) -> Array:
    """Which velocities and covariances (N,) bool can be such."""
    possible = (np.abs(state.mean[3:]) <= _LIMIT_MPS).all(axis=0)
    return np.asarray(possible & is_covariance(np.moveaxis(state.covariance, -1, 0)))


def _moved(state: KalmanState, dt_s: float) -> tuple[Array, Array]:
    """Places (3, N) a moment later or earlier, at constant velocity, and their covariances (3, 3, N)."""
    cross = state.covariance[:3, 3:]
    covariance = state.covariance[:3, :3] + dt_s * (cross + np.swapaxes(cross, 0, 1))
    return state.mean[:3] + dt_s * state.mean[3:], covariance + dt_s**2 * state.covariance[3:, 3:]
