"""The life of tracks, in the image and in the world alike: forget, predict, associate, update, start.

A track begins tentative at a detection that nothing else explains, is confirmed by its `min_hits`-th detection, and is
forgotten when it has not been seen for longer than its age limit in seconds (tentative tracks have a shorter one). A
track that is over the limit is forgotten before association, so a gap in the recording never joins old and new.

How a track moves and looks is the matter of a `Motion`: `tracking.image_motion` or `tracking.world_motion`. The
structure follows Stone Soup's tracker and SORT (Bewley et al., 2016); it departs from SORT in counting time by stamps
and not by frames, in reporting nothing of tentative tracks, and in giving account of every detection.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tracking.association import gated_assignment

Array = NDArray[Any]

_LIMIT = 1e6  # px or m: beyond it a coordinate is a fault, not a place


class Outcome(IntEnum):
    """What became of one detection."""

    MATCHED = 0
    STARTED = 1  # it began a tentative track
    TOO_WEAK_TO_START = 2  # no track explains it, and its score is below start_score
    NOT_FINITE = 3
    OUT_OF_RANGE = 4
    NO_SIZE = 5  # a side of the box is zero or negative
    UNKNOWN_LABEL = 6
    LOW_SCORE = 7
    DUPLICATE = 8  # the same box and label as another detection, whose score is at least as good


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """When tracks begin, count and end."""

    min_score: float = 0.0  # detections below it are not looked at
    start_score: float = 0.0  # detections below it may continue a track but start none
    min_hits: int = 3  # detections that confirm a track
    max_age_s: float = 1.0  # a confirmed track unseen for longer is forgotten
    max_tentative_age_s: float = (
        0.5  # the same for a tentative track; above the detections' period, or none is confirmed
    )
    coast_s: float = 0.0  # confirmed tracks are reported while unseen for at most this long
    class_aware: bool = True  # True: a track has one class. False: any detection may match, the class is voted

    def __post_init__(self) -> None:
        if not self.start_score >= self.min_score > -np.inf:
            raise ValueError(f"start_score must be at least min_score, and finite: {self.start_score}")
        if self.min_hits < 1:
            raise ValueError(f"min_hits must be 1 or more, not {self.min_hits}")
        for name in ("max_age_s", "max_tentative_age_s"):
            if not 0.0 < getattr(self, name) <= 3600.0:
                raise ValueError(f"{name} must be above 0 and at most 3600, not {getattr(self, name)}")
        if not 0.0 <= self.coast_s <= self.max_age_s:
            raise ValueError(f"coast_s must be from 0 to max_age_s, not {self.coast_s}")


@dataclass(frozen=True, eq=False)
class Observations:
    """The detections of one instant as a Motion measures them.

    measurements (K, N) float64, one column for each detection; scores (N,); labels (N,), each below class_count.
    """

    stamp_ns: int
    measurements: Array
    scores: Array
    labels: Array
    class_count: int


@dataclass(frozen=True, eq=False)
class Step:
    """The account of one step: outcomes (N,) int8 of `Outcome`, and track_ids (N,) int64, -1 for a rejected detection.

    forgotten_ids: the tracks that ended, ascending.
    """

    stamp_ns: int
    outcomes: Array
    track_ids: Array
    forgotten_ids: Array


class Motion(Protocol):
    """The states of the tracks, in the tracker's order: how they move, look and compare with measurements (K, M)."""

    size_rows: slice  # the rows of a measurement that must be positive
    gate: float  # the cost from which a pair is impossible

    def keep(self, tracks: Array) -> None:
        """Keep the tracks of a boolean mask."""
        ...

    def predict(self, dt_s: float) -> None:
        """Move all tracks dt_s forward."""
        ...

    def costs(self, measurements: Array) -> Array:
        """Cost (T, M) of every track with every measurement."""
        ...

    def update(self, tracks: Array, measurements: Array) -> None:
        """Correct the tracks at these indices, each by its own measurement."""
        ...

    def start(self, measurements: Array) -> None:
        """Append one track for each measurement."""
        ...


@dataclass(eq=False)
class TrackTable:
    """The book of tracks, one row each.

    ids, first_ns, last_ns (T,) int64: when first and last seen; hits (T,) int64; scores (T,) float32, the last seen;
    votes (T, C) int64, detections of each class.
    """

    ids: Array
    hits: Array
    first_ns: Array
    last_ns: Array
    scores: Array
    votes: Array

    @property
    def labels(self) -> Array:
        """(T,) int64, the class with most votes, the first of equals."""
        result: Array = self.votes.argmax(axis=1) if len(self.votes) else np.zeros(0, dtype=np.int64)
        return result

    def keep(self, tracks: Array) -> None:
        """Keep the tracks of a boolean mask."""
        for name, column in vars(self).items():
            setattr(self, name, column[tracks])

    def append(self, rows: TrackTable) -> None:
        """Add tracks at the end."""
        for name, column in vars(self).items():
            setattr(self, name, np.concatenate([column, getattr(rows, name)]))


class Tracker:
    """Tracks over time: one `step` for each instant.

    `table` and `motion` hold the tracks in the same order; ids count up from 1 and are never used again.
    """

    def __init__(self, config: TrackerConfig, motion: Motion) -> None:
        self.config = config
        self.motion = motion
        self.table = _new_rows(0, 0, 0, np.zeros(0), np.zeros(0, dtype=np.int64), class_count=0)
        self._stamp_ns: int | None = None
        self._next_id = 1

    def step(self, seen: Observations) -> Step:
        """Take in the detections of one instant and account for each of them.

        Raises Rejected, and changes nothing, if the stamp is not after the previous one or the classes have changed.
        """
        dt_s = self._advance(seen)
        outcomes = screen(seen, self.config.min_score, self.motion.size_rows)
        usable = np.flatnonzero(outcomes == Outcome.TOO_WEAK_TO_START)
        track_ids = np.full(len(outcomes), -1, dtype=np.int64)

        forgotten_ids = self._forget(seen.stamp_ns)
        self.motion.predict(dt_s)
        costs = self.motion.costs(seen.measurements[:, usable])
        if self.config.class_aware:
            costs[self.table.labels[:, None] != seen.labels[usable][None, :]] = np.inf
        pairs = gated_assignment(costs, self.motion.gate)

        matched = usable[pairs.columns]
        self._update(pairs.rows, seen, matched)
        outcomes[matched], track_ids[matched] = Outcome.MATCHED, self.table.ids[pairs.rows]

        fresh = usable[pairs.unmatched_columns]
        fresh = fresh[seen.scores[fresh] >= self.config.start_score]
        outcomes[fresh], track_ids[fresh] = Outcome.STARTED, self._start(seen, fresh)
        return Step(seen.stamp_ns, outcomes, track_ids, forgotten_ids)

    def reported(self) -> Array:
        """Indices of the tracks to show now: confirmed, and seen within coast_s."""
        if self._stamp_ns is None:
            return np.zeros(0, dtype=np.intp)
        unseen_ns = self._stamp_ns - self.table.last_ns
        shown = (self.table.hits >= self.config.min_hits) & (unseen_ns <= round(self.config.coast_s * 1e9))
        return np.flatnonzero(shown)

    def _advance(self, seen: Observations) -> float:
        """Set the time to that of the detections; returns the time since the last step, in seconds."""
        if self._stamp_ns is None:
            self.table.votes = np.zeros((0, seen.class_count), dtype=np.int64)
            self._stamp_ns = seen.stamp_ns
            return 0.0
        if seen.class_count != self.table.votes.shape[1]:
            raise Rejected("the classes changed within the stream")
        if seen.stamp_ns <= self._stamp_ns:
            raise Rejected("stamp not after the previous one")
        dt_s = (seen.stamp_ns - self._stamp_ns) * 1e-9
        self._stamp_ns = seen.stamp_ns
        return dt_s

    def _forget(self, stamp_ns: int) -> Array:
        """End the tracks that have not been seen for too long; returns their ids."""
        table = self.table
        limits_s = np.where(table.hits >= self.config.min_hits, self.config.max_age_s, self.config.max_tentative_age_s)
        alive = stamp_ns - table.last_ns <= np.round(limits_s * 1e9)
        forgotten_ids: Array = table.ids[~alive]
        if len(forgotten_ids):
            table.keep(alive)
            self.motion.keep(alive)
        return forgotten_ids

    def _update(self, tracks: Array, seen: Observations, matched: Array) -> None:
        """Give each track its detection."""
        if len(tracks):
            table = self.table
            self.motion.update(tracks, seen.measurements[:, matched])
            table.hits[tracks] += 1
            table.last_ns[tracks] = seen.stamp_ns
            table.scores[tracks] = seen.scores[matched]
            table.votes[tracks, seen.labels[matched]] += 1

    def _start(self, seen: Observations, fresh: Array) -> Array:
        """Begin a tentative track at each fresh detection; returns the new ids."""
        rows = _new_rows(
            self._next_id, len(fresh), seen.stamp_ns, seen.scores[fresh], seen.labels[fresh], seen.class_count
        )
        if len(fresh):
            self.table.append(rows)
            self.motion.start(seen.measurements[:, fresh])
            self._next_id += len(fresh)
        return rows.ids


def screen(seen: Observations, min_score: float, size_rows: slice) -> Array:
    """Why each detection cannot be used, (N,) int8 of `Outcome`; TOO_WEAK_TO_START stands for "no reason yet"."""
    measurements, scores, labels = seen.measurements, seen.scores, seen.labels
    with np.errstate(invalid="ignore"):
        reasons = (
            (Outcome.NOT_FINITE, ~(np.isfinite(measurements).all(axis=0) & np.isfinite(scores))),
            (Outcome.OUT_OF_RANGE, (np.abs(measurements) > _LIMIT).any(axis=0)),
            (Outcome.NO_SIZE, (measurements[size_rows] <= 0.0).any(axis=0)),
            (Outcome.UNKNOWN_LABEL, (labels < 0) | (labels >= seen.class_count)),
            (Outcome.LOW_SCORE, scores < min_score),
        )
    outcomes = np.full(len(scores), Outcome.TOO_WEAK_TO_START, dtype=np.int8)
    for reason, holds in reversed(reasons):
        outcomes[holds] = reason
    usable = np.flatnonzero(outcomes == Outcome.TOO_WEAK_TO_START)
    # Sorted by box and label, then by falling score: of equal boxes the first is the best, and the others repeat it.
    keys = np.vstack([measurements[:, usable], labels[usable]])
    order = np.lexsort(np.vstack([-scores[usable], keys]))
    repeats = (keys[:, order[1:]] == keys[:, order[:-1]]).all(axis=0)
    outcomes[usable[order[1:][repeats]]] = Outcome.DUPLICATE
    return outcomes


def _new_rows(first_id: int, count: int, stamp_ns: int, scores: Array, labels: Array, class_count: int) -> TrackTable:
    """The book's entries of `count` tracks that begin with one detection each."""
    votes = np.zeros((count, class_count), dtype=np.int64)
    votes[np.arange(count), labels] = 1
    return TrackTable(
        ids=np.arange(first_id, first_id + count, dtype=np.int64),
        hits=np.ones(count, dtype=np.int64),
        first_ns=np.full(count, stamp_ns, dtype=np.int64),
        last_ns=np.full(count, stamp_ns, dtype=np.int64),
        scores=scores.astype(np.float32),
        votes=votes,
    )
