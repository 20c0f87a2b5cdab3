"""The life of tracks, in the image and in the world alike: forget, predict, associate, update, start.

A tracker is assembled from parts. How a track moves and looks is the matter of a `Motion` (`tracking.image_motion`,
`tracking.world_motion`); which detection goes with which track that of an `Associate` (`tracking.associators`); when a
track begins, counts and ends stands in the `TrackerConfig`. The named trackers (`tracking.sort`, `bytetrack`,
`ocsort`, `ab3dmot`, and our own) are such assemblies.

A track begins at a detection that nothing else explains. It is tentative until it is confirmed, and is forgotten when
it has not been seen for longer than its age limit in seconds. A track that is over the limit is forgotten before
association, so a gap in the recording never joins old and new. The structure follows Stone Soup's tracker and SORT
(Bewley et al., 2016); it departs from them in counting time by stamps and not by frames, and in giving account of every
detection: each is matched, new, tentative, or rejected for a reason.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tracking.association import Assignment
from tracking.screening import Observations, Outcome, screen

Array = NDArray[Any]

_OF_CONFIRMED = np.array([Outcome.TENTATIVE, Outcome.MATCHED], dtype=np.int8)
_MISSED = -1
_ID, _HITS, _STREAK, _CONFIRMED, _FIRST_NS, _LAST_NS, _VOTES = range(7)


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """When tracks begin, count and end."""

    min_score: float = 0.0  # detections below it are not looked at
    start_score: float = 0.0  # detections below it may continue a track but start none
    min_hits: int = 3  # detections that confirm a track
    min_streak: int = 0  # if not 0, a track counts only while it was continued so many steps in a row (SORT)
    warm_up_steps: int = 0  # in the first steps every track counts
    confirm_score: float = np.inf  # a detection with this score confirms its track at once
    max_age_s: float = 1.0  # a confirmed track unseen for longer is forgotten
    max_tentative_age_s: float = (
        0.5  # the same for a tentative track; above the detections' period, or none is confirmed
    )
    coast_s: float = 0.0  # confirmed tracks are reported while unseen for at most this long
    class_aware: bool = True  # True: a track has one class. False: any detection may match, the class is voted

    def __post_init__(self) -> None:
        if not np.isfinite(self.min_score):
            raise ValueError(f"min_score must be finite, not {self.min_score}")
        if not self.min_score <= self.start_score < np.inf:
            raise ValueError(f"start_score must be at least min_score, and finite, not {self.start_score}")
        if np.isnan(self.confirm_score):
            raise ValueError("confirm_score must be a number")
        if self.min_hits < 1:
            raise ValueError(f"min_hits must be 1 or more, not {self.min_hits}")
        for name in ("min_streak", "warm_up_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("max_age_s", "max_tentative_age_s"):
            if not 0.0 < getattr(self, name) <= 3600.0:
                raise ValueError(f"{name} must be above 0 and at most 3600, not {getattr(self, name)}")
        if not 0.0 <= self.coast_s <= self.max_age_s:
            raise ValueError(f"coast_s must be from 0 to max_age_s, not {self.coast_s}")


@dataclass(frozen=True, eq=False)
class Step:
    """The account of one step: outcomes (N,) int8 of `Outcome`, and track_ids (N,) int64, -1 for a rejected detection.

    forgotten_ids: the tracks that ended, ascending.
    """

    stamp_ns: int
    outcomes: Array
    track_ids: Array
    forgotten_ids: Array


def _column(row: int) -> Any:
    """A property of `TrackTable`: one row of its numbers, (T,) int64, a view."""
    return property(lambda table: table._numbers[row])


class TrackTable:
    """The book of tracks, one column each, in the order of the motion's states.

    scores (T,) float64 of their last detections; all else is one array (6 + C, T) int64, of which the properties are
    views: ids; hits, detections in all; streaks, steps in a row that continued it, -1 after a miss; confirmed; first_ns
    and last_ns, when first and last seen; votes (C, T), detections of each of the C classes.
    """

    def __init__(self, class_count: int) -> None:
        self._numbers = np.zeros((_VOTES + class_count, 0), dtype=np.int64)
        self.scores = np.zeros(0)

    def __len__(self) -> int:
        return len(self.scores)

    ids = _column(_ID)
    hits = _column(_HITS)
    streaks = _column(_STREAK)
    confirmed = _column(_CONFIRMED)
    first_ns = _column(_FIRST_NS)
    last_ns = _column(_LAST_NS)

    @property
    def votes(self) -> Array:
        """(C, T) int64."""
        rows: Array = self._numbers[_VOTES:]
        return rows

    @property
    def labels(self) -> Array:
        """(T,) int64, the class with most votes, the first of equals."""
        votes = self.votes
        if len(votes) < 2 or not len(self):
            return np.zeros(len(self), dtype=np.int64)
        result: Array = votes.argmax(axis=0)
        return result

    def copy(self) -> TrackTable:
        """The same book, to be written in."""
        other = copy(self)
        other._numbers, other.scores = self._numbers.copy(), self.scores.copy()
        return other

    def keep(self, tracks: Array) -> None:
        """Keep the tracks at these indices."""
        self._numbers, self.scores = self._numbers.take(tracks, axis=1), self.scores.take(tracks)

    def start(self, first_id: int, seen: Observations, confirmed: Array) -> Array:
        """Add a track for each detection at the end; returns their ids."""
        count = len(seen.scores)
        rows = np.zeros((len(self._numbers), count), dtype=np.int64)
        rows[_ID] = ids = np.arange(first_id, first_id + count)
        rows[_HITS] = 1
        rows[_CONFIRMED] = confirmed
        rows[_FIRST_NS] = rows[_LAST_NS] = seen.stamp_ns
        rows[_VOTES + seen.labels, np.arange(count)] = 1
        self._numbers = np.concatenate([self._numbers, rows], axis=1)
        self.scores = np.concatenate([self.scores, seen.scores])
        return ids

    def update(self, tracks: Array, seen: Observations) -> None:
        """Note one detection for each of the tracks at these indices."""
        continued = self._numbers.take(tracks, axis=1)
        continued[_STREAK] = np.maximum(continued[_STREAK], 0) + 1
        continued[_HITS] += 1
        continued[_LAST_NS] = seen.stamp_ns
        continued[_VOTES + seen.labels, np.arange(len(tracks))] += 1
        self._numbers[_STREAK] = _MISSED
        self._numbers[:, tracks] = continued
        self.scores[tracks] = seen.scores


class Motion(Protocol):
    """The states of the tracks, in the tracker's order: how they move and look, against measurements (K, M)."""

    size_rows: slice  # the rows of a measurement that must be positive

    def keep(self, tracks: Array) -> None:
        """Keep the tracks at these indices."""
        ...

    def predict(self, dt_s: float) -> None:
        """Move all tracks dt_s forward."""
        ...

    def update(self, tracks: Array, seen: Observations) -> None:
        """Correct the tracks at these indices, each by its own detection."""
        ...

    def start(self, seen: Observations) -> None:
        """Append one track for each detection."""
        ...


class Associate(Protocol):
    """Says which track, a row, goes with which detection, a column."""

    def __call__(self, table: TrackTable, motion: Any, seen: Observations) -> Assignment:
        """Every detection is usable: faulty ones were rejected before."""
        ...


class Tracker:
    """Tracks over time: one `step` for each instant.

    `table` and `motion` hold the tracks in the same order; ids count up from 1 and are never used again. `tally` counts
    what became of all detections so far, by `Outcome`.
    """

    def __init__(self, config: TrackerConfig, motion: Motion, associate: Associate) -> None:
        self.config = config
        self.motion = motion
        self.associate = associate
        self.table = TrackTable(0)
        self.steps = 0
        self.tally = np.zeros(max(Outcome) + 1, dtype=np.int64)
        self._stamp_ns: int | None = None
        self._next_id = 1
        self._limits_ns = np.array([round(config.max_tentative_age_s * 1e9), round(config.max_age_s * 1e9)])

    def step(self, seen: Observations) -> Step:
        """Take in the detections of one instant and account for each of them.

        Raises Rejected, and changes nothing, if the stamp is not after the previous one or the classes have changed.
        """
        dt_s = self._advance(seen)
        outcomes, usable = screen(seen, self.config.min_score, self.motion.size_rows)
        track_ids = np.empty(len(outcomes), dtype=np.int64)
        track_ids.fill(-1)
        candidates = seen if len(usable) == len(outcomes) else seen.take(usable)

        forgotten_ids = self._forget(seen.stamp_ns)
        self.motion.predict(dt_s)
        pairs = self.associate(self.table, self.motion, candidates)

        self._update(pairs.rows, candidates.take(pairs.columns))
        matched = usable.take(pairs.columns)
        track_ids[matched] = self.table.ids.take(pairs.rows)
        outcomes[matched] = _OF_CONFIRMED.take(self.table.confirmed.take(pairs.rows))

        fresh = pairs.unmatched_columns
        if len(fresh):
            fresh = fresh[candidates.scores[fresh] >= self.config.start_score]
            outcomes[usable[fresh]] = Outcome.NEW
            track_ids[usable[fresh]] = self._start(candidates.take(fresh))
        self.tally += np.bincount(outcomes, minlength=len(self.tally))
        return Step(seen.stamp_ns, outcomes, track_ids, forgotten_ids)

    def counters(self) -> dict[str, int]:
        """What became of all detections so far, in words; "detections" is the sum of the others."""
        counted = {outcome.words: int(self.tally[outcome]) for outcome in Outcome if self.tally[outcome]}
        return {"detections": int(self.tally.sum()), **counted}

    def accepts(self, stamp_ns: int) -> bool:
        """Whether a step with this stamp would be after the last one."""
        return self._stamp_ns is None or stamp_ns > self._stamp_ns

    def reported(self) -> Array:
        """Indices of the tracks to show now: confirmed, and seen within coast_s."""
        if self._stamp_ns is None:
            return np.zeros(0, dtype=np.intp)
        table, config = self.table, self.config
        recent = table.last_ns >= self._stamp_ns - round(config.coast_s * 1e9)
        shown: Array = (recent & (table.confirmed > 0)).nonzero()[0]
        return shown

    def _advance(self, seen: Observations) -> float:
        """Set the time to that of the detections; returns the time since the last step, in seconds."""
        if self._stamp_ns is None:
            self.table = TrackTable(seen.class_count)
            dt_s = 0.0
        elif seen.class_count != len(self.table.votes):
            raise Rejected("the classes changed within the stream")
        elif seen.stamp_ns <= self._stamp_ns:
            raise Rejected("stamp not after the previous one")
        else:
            dt_s = (seen.stamp_ns - self._stamp_ns) * 1e-9
        self._stamp_ns = seen.stamp_ns
        self.steps += 1
        return dt_s

    def _forget(self, stamp_ns: int) -> Array:
        """End the tracks that have not been seen for too long; returns their ids."""
        table = self.table
        alive = stamp_ns - table.last_ns <= self._limits_ns.take(table.confirmed)
        if alive.all():
            return np.zeros(0, dtype=np.int64)
        forgotten_ids: Array = table.ids[~alive]
        kept = alive.nonzero()[0]
        table.keep(kept)
        self.motion.keep(kept)
        return forgotten_ids

    def _update(self, tracks: Array, seen: Observations) -> None:
        """Give each track its detection; the others lose their streak."""
        table, config = self.table, self.config
        table.update(tracks, seen)
        if len(tracks):
            self.motion.update(tracks, seen)
        if config.min_streak:
            table.confirmed[:] = (table.streaks >= config.min_streak) | (self.steps <= config.warm_up_steps)
        else:
            sure = (table.hits.take(tracks) >= config.min_hits) | (seen.scores >= config.confirm_score)
            table.confirmed[tracks] |= sure

    def _start(self, seen: Observations) -> Array:
        """Begin a track at each of the detections; returns the new ids."""
        config = self.config
        at_once = self.steps <= config.warm_up_steps or (config.min_hits <= 1 and not config.min_streak)
        ids = self.table.start(self._next_id, seen, at_once | (seen.scores >= config.confirm_score))
        self.motion.start(seen)
        self._next_id += len(ids)
        return ids
