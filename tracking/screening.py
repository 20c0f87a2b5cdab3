"""What a tracker is given: the detections of one instant as measurements, and which of them cannot be used, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_LIMIT = 1e6  # px or m: beyond it a coordinate is a fault, not a place


class Outcome(IntEnum):
    """What became of one detection. Those from 10 on were rejected, for the reason that they are named after."""

    MATCHED = 0  # it continued a confirmed track, or confirmed it
    NEW = 1  # it began a track
    TENTATIVE = 2  # it continued a track that is yet to be confirmed
    TOO_WEAK_TO_START = 10  # no track explains it, and its score is below start_score
    NOT_FINITE = 11
    OUT_OF_RANGE = 12
    NO_SIZE = 13  # a side of the box is zero or negative
    UNKNOWN_LABEL = 14
    LOW_SCORE = 15
    DUPLICATE = 16  # the same box and label as another detection, whose score is at least as good

    @property
    def rejected(self) -> bool:
        """Whether the detection took no part in any track."""
        return self >= Outcome.TOO_WEAK_TO_START


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

    def take(self, detections: Array) -> Observations:
        """The detections at these indices."""
        return Observations(
            self.stamp_ns,
            self.measurements[:, detections],
            self.scores[detections],
            self.labels[detections],
            self.class_count,
        )


def screen(seen: Observations, min_score: float, size_rows: slice) -> tuple[Array, Array]:
    """Why each detection cannot be used, (N,) int8 of `Outcome`, and the indices of those that can.

    Usable detections bear TOO_WEAK_TO_START, which is what becomes of them if no one finds a use for them.
    """
    measurements, scores, labels = seen.measurements, seen.scores, seen.labels
    outcomes = np.full(len(scores), Outcome.TOO_WEAK_TO_START, dtype=np.int8)
    with np.errstate(invalid="ignore"):
        # One question for all: NaN fails every comparison, so a detection that passes here has no fault.
        sound = (np.abs(measurements) <= _LIMIT).all(axis=0)
        sound &= (measurements[size_rows] > 0.0).all(axis=0)
        sound &= (scores >= min_score) & (scores < np.inf)
        sound &= (labels >= 0) & (labels < seen.class_count)
        if not sound.all():
            faulty = ~sound
            outcomes[faulty] = _faults(measurements[:, faulty], scores[faulty], labels[faulty], size_rows, seen)
    usable = np.flatnonzero(sound)
    repeated = _repeats(measurements[:, usable], scores[usable], labels[usable])
    if len(repeated):
        outcomes[usable[repeated]] = Outcome.DUPLICATE
        usable = np.delete(usable, repeated)
    return outcomes, usable


def _faults(measurements: Array, scores: Array, labels: Array, size_rows: slice, seen: Observations) -> Array:
    """The first reason that holds, (N,), of detections that cannot be used."""
    reasons = (
        (Outcome.NOT_FINITE, ~(np.isfinite(measurements).all(axis=0) & np.isfinite(scores))),
        (Outcome.OUT_OF_RANGE, (np.abs(measurements) > _LIMIT).any(axis=0)),
        (Outcome.NO_SIZE, (measurements[size_rows] <= 0.0).any(axis=0)),
        (Outcome.UNKNOWN_LABEL, (labels < 0) | (labels >= seen.class_count)),
    )
    return np.select([holds for _, holds in reasons], [reason for reason, _ in reasons], Outcome.LOW_SCORE)


def _repeats(measurements: Array, scores: Array, labels: Array) -> Array:
    """Indices of the detections that repeat another one's box and label; of equals the best score stays."""
    ranked = np.sort(measurements[0])
    if not (ranked[1:] == ranked[:-1]).any():
        return np.zeros(0, dtype=np.intp)
    # Sorted by box and label, then by falling score: of equal boxes the first is the best, and the others repeat it.
    keys = np.vstack([measurements, labels])
    order = np.lexsort(np.vstack([-scores, keys]))
    equal = (keys[:, order[1:]] == keys[:, order[:-1]]).all(axis=0)
    return np.sort(order[1:][equal])
