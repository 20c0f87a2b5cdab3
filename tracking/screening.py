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
    NO_COVARIANCE = 17  # another robot's track whose velocity or covariance cannot be one

    @property
    def rejected(self) -> bool:
        """Whether the detection took no part in any track."""
        return self >= Outcome.TOO_WEAK_TO_START

    @property
    def words(self) -> str:
        """ "matched", "rejected: low score" and so on, to be counted under."""
        name = self.name.lower().replace("_", " ")
        return f"rejected: {name}" if self.rejected else name


@dataclass(frozen=True, eq=False)
class Observations:
    """The detections of one instant as a Motion measures them.

    measurements (K, N) float64, one column for each detection; scores (N,); labels (N,), each below class_count.
    world_T_sensor (4, 4): from where they were seen, where measurements are of the world and it is known.
    """

    stamp_ns: int
    measurements: Array
    scores: Array
    labels: Array
    class_count: int
    world_T_sensor: Array | None = None

    def take(self, detections: Array) -> Observations:
        """The detections at these indices."""
        return Observations(
            self.stamp_ns,
            self.measurements.take(detections, axis=1),
            self.scores.take(detections),
            self.labels.take(detections),
            self.class_count,
            self.world_T_sensor,
        )


def screen(seen: Observations, min_score: float, size_rows: slice) -> tuple[Array, Array]:
    """Why each detection cannot be used, (N,) int8 of `Outcome`, and the indices of those that can.

    Usable detections bear TOO_WEAK_TO_START, which is what becomes of them if no one finds a use for them.
    """
    measurements, scores, labels = seen.measurements, seen.scores, seen.labels
    outcomes = np.empty(len(scores), dtype=np.int8)
    outcomes.fill(Outcome.TOO_WEAK_TO_START)
    usable = np.arange(len(scores))
    if len(scores) and not _all_sound(seen, min_score, size_rows):
        reasons = _faults(seen, min_score, size_rows)
        faulty = reasons > 0
        outcomes[faulty] = reasons[faulty]
        usable = (~faulty).nonzero()[0]
    repeated = _repeats(measurements, scores, labels, usable)
    if len(repeated):
        outcomes[usable[repeated]] = Outcome.DUPLICATE
        usable = np.delete(usable, repeated)
    return outcomes, usable


def _all_sound(seen: Observations, min_score: float, size_rows: slice) -> bool:
    """Whether no detection has a fault: six numbers tell, as NaN fails every comparison. The usual case, and quick."""
    low, high = np.minimum.reduce, np.maximum.reduce
    measurements, scores, labels = seen.measurements, seen.scores, seen.labels
    with np.errstate(invalid="ignore"):
        return bool(
            low(measurements, axis=None) >= -_LIMIT
            and high(measurements, axis=None) <= _LIMIT
            and low(measurements[size_rows], axis=None) > 0.0
            and low(scores) >= min_score
            and high(scores) < np.inf
            and low(labels) >= 0
            and high(labels) < seen.class_count
        )


def _faults(seen: Observations, min_score: float, size_rows: slice) -> Array:
    """The first reason that holds for each detection, (N,); 0 where there is none."""
    measurements, scores, labels = seen.measurements, seen.scores, seen.labels
    with np.errstate(invalid="ignore"):
        reasons = (
            (Outcome.NOT_FINITE, ~(np.isfinite(measurements).all(axis=0) & np.isfinite(scores))),
            (Outcome.OUT_OF_RANGE, (np.abs(measurements) > _LIMIT).any(axis=0)),
            (Outcome.NO_SIZE, (measurements[size_rows] <= 0.0).any(axis=0)),
            (Outcome.UNKNOWN_LABEL, (labels < 0) | (labels >= seen.class_count)),
            (Outcome.LOW_SCORE, scores < min_score),
        )
    return np.select([holds for _, holds in reasons], [int(reason) for reason, _ in reasons], 0)


def _repeats(measurements: Array, scores: Array, labels: Array, usable: Array) -> Array:
    """Which of the usable detections repeat another one's box and label; of equals the best score stays."""
    ranked = measurements[0].take(usable)
    ranked.sort()
    if not (ranked[1:] == ranked[:-1]).any():
        return usable[:0]
    measurements, scores, labels = measurements[:, usable], scores[usable], labels[usable]
    # Sorted by box and label, then by falling score: of equal boxes the first is the best, and the others repeat it.
    keys = np.vstack([measurements, labels])
    order = np.lexsort(np.vstack([-scores, keys]))
    equal = (keys[:, order[1:]] == keys[:, order[:-1]]).all(axis=0)
    return np.sort(order[1:][equal])
