"""The tracks that fusion keeps in the world, and one step with a report of whatever sensor.

A report is what one source says of one instant: boxes of a LiDAR (`Boxes`, here), boxes in a camera's image
(`tracking.fusion_camera`), tracks of another robot (`tracking.fusion_robots`). Each knows its own measurement model;
the step is the same for all: forget, predict, associate, correct, start. It is that of `tracking.tracker`, whose book
and motion it shares, but for this:
- reports of one instant follow each other without a step in time, in the order of their keys;
- every report is a hit, so that what camera and LiDAR both see is confirmed sooner;
- a track is also forgotten when it may be anywhere: a camera can keep one in sight whose distance nobody measures;
- classes are those of the fusion; the first may be "object", which goes with every class: label-free LiDAR clusters
  take the class that a camera gives them.

A step never changes the tracks that it is given: it returns others, so that `tracking.out_of_sequence` can go back.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tracking.association import Assignment, Pairs, assign
from tracking.out_of_sequence import Key
from tracking.screening import Observations, Outcome, screen
from tracking.tracker import Step, TrackTable
from tracking.world_motion import Tracker3DConfig, WorldMotion

Array = NDArray[Any]

ANY_CLASS = "object"
FIRST_ROBOT_ID = 1_000_000_000_001  # of tracks that began with another robot's report; our own count from 1
_OTHER_NAMES = {
    "obstacle": ANY_CLASS,
    "unknown": ANY_CLASS,
    "pedestrian": "person",
    "person_sitting": "person",
    "cyclist": "bicycle",
    "bicyclist": "bicycle",
    "motorbike": "motorcycle",
    "van": "car",
    "vehicle": "car",
}


@dataclass(frozen=True, kw_only=True)
class FusionConfig(Tracker3DConfig):
    """How reports are fused. min_score, start_score and confirm_score are of the LiDAR's boxes.

    classes: the names of the classes that tracks may have, that of things without a known class, if any, first.
    """

    classes: tuple[str, ...] = (ANY_CLASS, "person", "bicycle", "car", "motorcycle", "bus", "truck")
    robot_coast_s: float = 1.0  # what another robot saw last is shown while unseen for at most this long
    max_sigma_m: float = 6.0  # a track whose place on the ground is less certain in its worst direction is forgotten
    alone_score: float = -np.inf  # a weaker LiDAR box does not confirm its track unless a camera has seen that
    camera_min_score: float = 0.3  # a camera's boxes below it are not looked at
    camera_min_iou: float = 0.3  # a camera's box overlaps the image of its track by more than this
    camera_noise_px: float = 2.0  # standard deviation of a box's sides in the image; camera_noise_sizes comes on top
    camera_noise_sizes: float = 0.1  # part of its width and height that a box's sides err by
    camera_height_noise: float = 0.3  # the same of its height as a cue of distance; its errors last, so more
    camera_start_score: float = np.inf  # camera boxes from this score up start tracks by the size of their class
    lidar_silence_s: float = 0.3  # after the last output the LiDAR is waited for so long, then the camera sets the pace
    history_s: float = 1.0  # reports may be so late
    history_reports: int = 100  # so many reports are remembered
    waiting_reports: int = 32  # so many reports wait for a pose
    max_pose_gap_s: float = 0.5  # poses farther apart are not interpolated

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_streak or self.warm_up_steps:
            raise ValueError("min_streak and warm_up_steps count steps of one sensor: with several they mean nothing")
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError(f"classes must be different names, at least one, not {self.classes}")
        if ANY_CLASS in self.classes[1:]:
            raise ValueError(f"{ANY_CLASS!r} must be the first of the classes, if it is one")
        for name in ("max_sigma_m", "camera_noise_px", "history_s", "max_pose_gap_s"):
            if not 0.0 < getattr(self, name) <= 1000.0:
                raise ValueError(f"{name} must be above 0 and at most 1000, not {getattr(self, name)}")
        for name in ("lidar_silence_s", "robot_coast_s"):
            if not 0.0 <= getattr(self, name) <= 60.0:
                raise ValueError(f"{name} must be from 0 to 60, not {getattr(self, name)}")
        for name in ("camera_min_iou", "camera_noise_sizes", "camera_height_noise"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        for name in ("history_reports", "waiting_reports"):
            if not 1 <= getattr(self, name) <= 10_000:
                raise ValueError(f"{name} must be from 1 to 10000, not {getattr(self, name)}")


@lru_cache(maxsize=64)
def class_indices(names: tuple[str, ...], classes: tuple[str, ...]) -> Array:
    """For each of a source's class names its index in `classes`, -1 for none; one more -1 at the end, for label -1.

    Case does not count, and some names have others: pedestrian is person, obstacle is object.
    """
    known = {name.lower(): index for index, name in enumerate(classes)}
    plain = [name.lower() for name in names]
    indices = [known.get(name, known.get(_OTHER_NAMES.get(name, name), -1)) for name in plain]
    return np.array([*indices, -1], dtype=np.int64)


def translate_labels(labels: Array, names: tuple[str, ...], classes: tuple[str, ...]) -> Array:
    """Labels (N,) of a source with these class names as indices into `classes`, -1 where there is none."""
    inside = (labels >= 0) & (labels < len(names))
    result: Array = class_indices(names, classes)[np.where(inside, labels, len(names))]
    return result


class WorldTracks:
    """All tracks at one moment. `step` works on a copy; nobody else changes it.

    table and motion hold the tracks in the same order; own_ns (T,) int64 is when one of our own sensors last saw each.
    """

    def __init__(self, config: FusionConfig) -> None:
        self.config = config
        self.table = TrackTable(len(config.classes))
        self.motion = WorldMotion(config)
        self.own_ns = np.zeros(0, dtype=np.int64)
        self.supported = np.zeros(0, dtype=bool)
        self.stamp_ns: int | None = None
        self._next_id, self._next_robot_id = 1, FIRST_ROBOT_ID

    def __len__(self) -> int:
        return len(self.table)

    def copy(self) -> WorldTracks:
        """The same tracks, to be changed."""
        other = copy(self)
        other.table, other.motion = self.table.copy(), self.motion.copy()
        other.own_ns, other.supported = self.own_ns.copy(), self.supported.copy()
        return other

    @property
    def labels(self) -> Array:
        """(T,) int64: the class with most votes; "object" only where no other has any."""
        votes = self.table.votes
        if self.config.classes[0] != ANY_CLASS or len(votes) < 2 or not len(self):
            return self.table.labels
        named = votes[1:]
        return np.where(named.any(axis=0), named.argmax(axis=0) + 1, 0)

    @property
    def sigmas_m(self) -> Array:
        """(T,) standard deviation of the place on the ground, in its worst direction."""
        xx, yy, xy = (self.motion.state.covariance[i, j] for i, j in ((0, 0), (1, 1), (0, 1)))
        result: Array = np.sqrt((xx + yy) / 2.0 + np.sqrt(((xx - yy) / 2.0) ** 2 + xy**2))
        return result

    def shown(self) -> Array:
        """Indices of the tracks to show: confirmed, and seen within coast_s; by another robot, within robot_coast_s."""
        if self.stamp_ns is None:
            return np.zeros(0, dtype=np.intp)
        last_ns, config = self.table.last_ns, self.config
        coast_ns = np.where(self.own_ns >= last_ns, round(config.coast_s * 1e9), round(config.robot_coast_s * 1e9))
        return np.flatnonzero((self.table.confirmed > 0) & (self.stamp_ns - last_ns <= coast_ns))

    def of_one_class(self, pairs: Pairs, labels: Array) -> Pairs:
        """The pairs of a track and a detection, of these labels, whose classes go together."""
        if not self.config.class_aware or len(self.config.classes) < 2:
            return pairs
        ours, theirs = self.labels[pairs.rows], labels[pairs.columns]
        agree = ours == theirs
        if self.config.classes[0] == ANY_CLASS:
            agree |= (ours == 0) | (theirs == 0)
        return pairs.where(agree)

    def advance(self, stamp_ns: int) -> Array:
        """Move on to a moment and forget what is lost by then; returns the ids of the forgotten."""
        table, config = self.table, self.config
        if self.stamp_ns is not None and stamp_ns > self.stamp_ns:
            self.motion.predict((stamp_ns - self.stamp_ns) * 1e-9)
        self.stamp_ns = stamp_ns
        limits_ns = np.array([round(config.max_tentative_age_s * 1e9), round(config.max_age_s * 1e9)])
        kept = (stamp_ns - table.last_ns <= limits_ns[table.confirmed]) & (self.sigmas_m <= config.max_sigma_m)
        forgotten_ids: Array = table.ids[~kept]
        if len(forgotten_ids):
            rows = np.flatnonzero(kept)
            table.keep(rows)
            self.motion.keep(rows)
            self.own_ns, self.supported = self.own_ns[rows], self.supported[rows]
        return forgotten_ids

    def note(self, tracks: Array, report: Report, detections: Array) -> None:
        """Enter into the book that each of the tracks goes with its detection."""
        table, before_ns, scores = self.table, self.table.last_ns[tracks], self.table.scores[tracks]
        seen = report.seen.take(detections)
        table.update(tracks, seen)
        table.last_ns[tracks] = np.maximum(before_ns, report.last_ns[detections])
        if report.own:
            self.own_ns[tracks] = report.key[0]
        if not report.has_scores:
            table.scores[tracks] = scores
        self.supported[tracks] |= report.supporting[detections]
        enough = (table.hits[tracks] >= self.config.min_hits) & self.supported[tracks]
        table.confirmed[tracks] |= enough | report.confirming[detections]

    def begin(self, report: Report, detections: Array) -> Array:
        """Begin a track for each of the detections in the book; returns the ids."""
        first = self._next_id if report.own else self._next_robot_id
        seen = report.seen.take(detections)
        supported = report.supporting[detections]
        self.supported = np.concatenate([self.supported, supported])
        ids = self.table.start(first, seen, report.confirming[detections] | (supported & (self.config.min_hits <= 1)))
        if report.own:
            self._next_id += len(ids)
        else:
            self._next_robot_id += len(ids)
        new = slice(len(self) - len(ids), len(self))
        self.table.last_ns[new] = report.last_ns[detections]
        self.own_ns = np.concatenate([self.own_ns, np.full(len(ids), report.key[0] if report.own else 0)])
        return ids


class Report(Protocol):
    """What one source says of one instant; arrays are of its N detections. Methods work on some of them, by index."""

    @property
    def key(self) -> Key:
        """Its place among all reports."""
        ...

    @property
    def seen(self) -> Observations:
        """The detections; labels are indices into the config's classes, -1 where there is none."""
        ...

    @property
    def own(self) -> bool:
        """Whether a sensor of ours says it."""
        ...

    @property
    def has_scores(self) -> bool:
        """Whether its scores are to stand for a track's, and not only to sift."""
        ...

    @property
    def min_score(self) -> float:
        """Weaker detections are not looked at."""
        ...

    @property
    def size_rows(self) -> slice:
        """The rows of a measurement that must be positive."""
        ...

    @property
    def faults(self) -> Array:
        """(N,) an `Outcome` for detections that this source cannot mean, 0 for others."""
        ...

    @property
    def starting(self) -> Array:
        """(N,) bool, which may begin a track."""
        ...

    @property
    def supporting(self) -> Array:
        """(N,) bool, which are good enough evidence for their track to be confirmed after min_hits."""
        ...

    @property
    def confirming(self) -> Array:
        """(N,) bool, which confirm their track at once."""
        ...

    @property
    def last_ns(self) -> Array:
        """(N,) int64, when each was really seen."""
        ...

    def associate(self, tracks: WorldTracks, detections: Array) -> Assignment:
        """Which track, a row, goes with which of these detections, a column."""
        ...

    def correct(self, tracks: WorldTracks, rows: Array, detections: Array) -> None:
        """Correct the states of the tracks at these rows, each by its detection."""
        ...

    def start(self, tracks: WorldTracks, detections: Array) -> None:
        """Append a state for each of these detections."""
        ...


def step(tracks: WorldTracks, report: Report) -> tuple[WorldTracks, Step]:
    """The tracks after one report, and the account of its detections. `tracks` stay as they are."""
    later = tracks.copy()
    forgotten_ids = later.advance(report.key[0])
    outcomes, usable = screen(report.seen, report.min_score, report.size_rows)
    faults = report.faults[usable]
    outcomes[usable[faults > 0]] = faults[faults > 0]
    usable = usable[faults == 0]
    track_ids = np.full(len(outcomes), -1, dtype=np.int64)

    pairs = report.associate(later, usable)
    matched = usable[pairs.columns]
    if len(matched):
        report.correct(later, pairs.rows, matched)
        later.note(pairs.rows, report, matched)
    track_ids[matched] = later.table.ids[pairs.rows]
    outcomes[matched] = np.where(later.table.confirmed[pairs.rows] > 0, Outcome.MATCHED, Outcome.TENTATIVE)

    fresh = usable[pairs.unmatched_columns]
    fresh = fresh[report.starting[fresh]]
    if len(fresh):
        report.start(later, fresh)
        track_ids[fresh] = later.begin(report, fresh)
        outcomes[fresh] = Outcome.NEW
    return later, Step(report.key[0], outcomes, track_ids, forgotten_ids)


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes that a LiDAR, or another sensor that measures distance, sees in the world: `WorldMotion.observe`'s rows."""

    source: str
    seen: Observations
    config: FusionConfig
    own = True
    has_scores = True
    size_rows = WorldMotion.size_rows

    @property
    def key(self) -> Key:
        """The first of an instant: what starts tracks comes before what only continues them."""
        return self.seen.stamp_ns, 0, self.source

    @property
    def min_score(self) -> float:
        """Weaker boxes are not looked at."""
        return self.config.min_score

    @property
    def faults(self) -> Array:
        """None that `screen` does not find."""
        return np.zeros(len(self.seen.scores), dtype=np.int8)

    @property
    def starting(self) -> Array:
        """Those that are strong enough."""
        result: Array = self.seen.scores >= self.config.start_score
        return result

    @property
    def supporting(self) -> Array:
        """Those that are strong enough alone."""
        result: Array = self.seen.scores >= self.config.alone_score
        return result

    @property
    def confirming(self) -> Array:
        """Those that are strong enough."""
        result: Array = self.seen.scores >= self.config.confirm_score
        return result

    @property
    def last_ns(self) -> Array:
        """Now."""
        return np.full(len(self.seen.scores), self.seen.stamp_ns)

    def associate(self, tracks: WorldTracks, detections: Array) -> Assignment:
        """By distance, among the likely pairs."""
        seen = self.seen.take(detections)
        pairs = tracks.of_one_class(tracks.motion.likely_pairs(seen.measurements), seen.labels)
        return assign(pairs, self.config.gate_m)

    def correct(self, tracks: WorldTracks, rows: Array, detections: Array) -> None:
        """Place, size and heading."""
        tracks.motion.update(rows, self.seen.take(detections))

    def start(self, tracks: WorldTracks, detections: Array) -> None:
        """At the box, at rest."""
        tracks.motion.start(self.seen.take(detections))
