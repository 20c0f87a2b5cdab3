"""The ways of saying which detection continues which track; each is an `Associate` of `tracking.tracker`.

All start from the pairs of boxes that overlap at all, found once, and take from them in stages: a stage picks some
tracks, some detections and a cost, and settles what it can; the next stage has what is left.

- `ByOverlap`: SORT (Bewley et al., 2016). One stage, by IoU.
- `ByScore`: BYTE (Zhang et al., ByteTrack, 2022). Strong detections first; weak ones may only continue a track.
- `ObservationCentric`: OC-SORT (Cao et al., 2023). IoU and consistency of direction, then the last observation.
- `Combined`: ours, of what `tests/benchmarks/bench_trackers.py` shows to help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.association import Assignment, Pairs, assign, assignment, overlapping_pairs, paired_iou
from tracking.image_motion import ImageMotion, corners
from tracking.screening import Observations
from tracking.tracker import TrackTable

Array = NDArray[Any]

_NONE = np.zeros(0, dtype=np.intp)
_ANY = 9.0  # a gate that no cost reaches: the pairs were gated before


class Stages:
    """What the stages of one association have settled so far."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        self._free_rows = np.ones(shape[0], dtype=bool)
        self._free_columns = np.ones(shape[1], dtype=bool)
        self._found: list[Assignment] = []

    @property
    def open(self) -> bool:
        """Whether there are still both a track and a detection to settle."""
        return bool(self._free_rows.any() and self._free_columns.any())

    def settle(self, pairs: Pairs, gate: float) -> None:
        """Assign what can be assigned of these pairs among the tracks and detections that are still free."""
        if self._found:
            pairs = pairs.where(self._free_rows[pairs.rows] & self._free_columns[pairs.columns])
        if len(pairs.rows):
            found = assign(pairs, gate)
            self._free_rows[found.rows] = False
            self._free_columns[found.columns] = False
            self._found.append(found)

    def result(self) -> Assignment:
        """All that was settled, in order of the tracks."""
        if len(self._found) == 1:
            return self._found[0]
        if not self._found:
            return assignment(_NONE, _NONE, np.zeros(0), self._shape)
        parts = [(found.rows, found.columns, found.costs) for found in self._found]
        rows, columns, costs = (np.concatenate(column) for column in zip(*parts, strict=True))
        return assignment(rows, columns, costs, self._shape)


def of_one_class(pairs: Pairs, table: TrackTable, seen: Observations, class_aware: bool) -> Pairs:
    """The pairs of a track and a detection of one class; all pairs, where classes do not count."""
    if not class_aware or seen.class_count < 2:
        return pairs
    return pairs.where(table.labels[pairs.rows] == seen.labels[pairs.columns])


@dataclass(frozen=True)
class ByOverlap:
    """SORT: the greatest sum of IoUs of all pairs, of which those below min_iou are then dropped."""

    min_iou: float = 0.3
    class_aware: bool = True

    def __call__(self, table: TrackTable, motion: ImageMotion, seen: Observations) -> Assignment:
        """Tracks are rows, detections columns."""
        predicted, boxes = motion.boxes_xyxy_px, corners(seen.measurements)
        pairs = of_one_class(overlapping_pairs(predicted, boxes), table, seen, self.class_aware)
        # As published: a pair below min_iou takes part in the sum, where it may stand in another's way, and is dropped.
        found = assign(pairs, 1.0)
        return found.where(found.costs <= 1.0 - self.min_iou)


@dataclass(frozen=True)
class ByScore:
    """BYTE: confirmed tracks with strong detections by IoU times score; of the tracks left over those seen in the last
    step with weak detections by IoU; tentative tracks with the strong detections left over."""

    strong_score: float = 0.6
    max_cost: float = 0.8
    max_weak_cost: float = 0.5
    max_tentative_cost: float = 0.7
    class_aware: bool = True

    def __call__(self, table: TrackTable, motion: ImageMotion, seen: Observations) -> Assignment:
        """Tracks are rows, detections columns."""
        pairs = overlapping_pairs(motion.boxes_xyxy_px, corners(seen.measurements))
        pairs = of_one_class(pairs, table, seen, self.class_aware)
        fused = pairs.at(1.0 - (1.0 - pairs.costs) * seen.scores[pairs.columns])
        strong = (seen.scores >= self.strong_score)[pairs.columns]
        confirmed = (table.confirmed > 0)[pairs.rows]
        just_seen = (table.streaks > 0)[pairs.rows] | (table.hits == 1)[pairs.rows]
        stages = Stages(pairs.shape)
        stages.settle(fused.where(confirmed & strong), self.max_cost)
        stages.settle(pairs.where(confirmed & ~strong & just_seen), self.max_weak_cost)
        stages.settle(fused.where(~confirmed & strong), self.max_tentative_cost)
        return stages.result()


@dataclass(frozen=True)
class ObservationCentric:
    """OC-SORT: IoU with a bonus for pairs in the direction in which the track was going; then the tracks left over by
    the IoU with their last observation."""

    min_iou: float = 0.3
    inertia: float = 0.2  # weight of the direction: its cosine's angle counts from -1/2 to 1/2
    class_aware: bool = True

    def __call__(self, table: TrackTable, motion: ImageMotion, seen: Observations) -> Assignment:
        """Tracks are rows, detections columns."""
        boxes = corners(seen.measurements)
        pairs = of_one_class(overlapping_pairs(motion.boxes_xyxy_px, boxes), table, seen, self.class_aware)
        near = pairs.where(pairs.costs <= 1.0 - self.min_iou)
        agreement = direction_agreement(motion.memory, seen.measurements, near)
        stages = Stages(pairs.shape)
        stages.settle(near.at(near.costs - self.inertia * agreement * seen.scores[near.columns]), 2.0)
        last = overlapping_pairs(corners(motion.seen_boxes), boxes, self.min_iou)
        stages.settle(of_one_class(last, table, seen, self.class_aware), 1.0)
        return stages.result()


@dataclass(frozen=True)
class Combined:
    """Ours. The overlap counts less the more the heights differ, because a person's or car's height changes slowly and
    tells the near from the far (Hybrid-SORT's height modulated IoU, Yang et al., 2024; here with a power of the ratio);
    a direction kept is a bonus (OC-SORT). Confirmed tracks choose first, then tentative ones; of what is left, boxes
    that come close when both are grown by `reach` (C-BIoU, Yang et al., 2023); last, the place where a track was last
    seen.
    """

    min_iou: float = 0.3
    height_power: float = 2.0
    direction_weight: float = 0.3
    reach: float = 0.3  # boxes are grown by this part of their size on each side
    min_grown_iou: float = 0.2
    class_aware: bool = True

    def __call__(self, table: TrackTable, motion: ImageMotion, seen: Observations) -> Assignment:
        """Tracks are rows, detections columns."""
        boxes, measurements = motion.boxes, seen.measurements
        grown = overlapping_pairs(corners(boxes, self.reach), corners(measurements, self.reach))
        grown = of_one_class(grown, table, seen, self.class_aware)
        near = self._by_height(grown.at(_costs(boxes, measurements, grown)), boxes, measurements)
        near = near.where(near.costs < 1.0 - self.min_iou)
        if self.direction_weight and len(near.rows):
            agreement = direction_agreement(motion.memory, measurements, near)
            near = near.at(near.costs - self.direction_weight * agreement)
        stages = Stages(grown.shape)
        confirmed = table.confirmed.take(near.rows) > 0
        stages.settle(near.where(confirmed), _ANY)
        stages.settle(near.where(~confirmed), _ANY)
        if stages.open:
            stages.settle(self._by_height(grown, boxes, measurements), 1.0 - self.min_grown_iou)
        if stages.open:
            last = overlapping_pairs(corners(motion.seen_boxes), corners(measurements), self.min_iou)
            last = self._by_height(of_one_class(last, table, seen, self.class_aware), motion.seen_boxes, measurements)
            stages.settle(last, 1.0 - self.min_iou)
        return stages.result()

    def _by_height(self, pairs: Pairs, boxes: Array, measurements: Array) -> Pairs:
        """The pairs with their overlap, 1 - cost, times a power of the ratio of the smaller to the larger height."""
        ratios = boxes[3].take(pairs.rows) / measurements[3].take(pairs.columns)
        return pairs.at(1.0 - (1.0 - pairs.costs) * np.minimum(ratios, 1.0 / ratios) ** self.height_power)


def _costs(boxes: Array, measurements: Array, pairs: Pairs) -> Array:
    """1 - IoU of pairs of boxes cx, cy, w, h (4, N) and (4, M)."""
    first, second = corners(boxes.take(pairs.rows, axis=1)), corners(measurements.take(pairs.columns, axis=1))
    return 1.0 - paired_iou(first, second)


def direction_agreement(memory: Array, measurements: Array, pairs: Pairs) -> Array:
    """1/2 - angle / pi for each pair (K,), of the way a track went and the way to the detection: 1/2 is straight on.

    memory (S, 4, T): boxes of the last steps, newest first, NaN where unseen (`ImageMotion.memory`, after predict, so
    that the first is the step to come). The way of a track leads from its oldest remembered box to its newest, the way
    to a detection from that same oldest box. Zero where a track has but one box, or did not move.
    """
    known = ~np.isnan(memory[1:, 0])  # (S - 1, T)
    tracks = np.arange(memory.shape[2])
    newest = memory[1 + known.argmax(axis=0), :2, tracks].T
    oldest = memory[len(memory) - 1 - known[::-1].argmax(axis=0), :2, tracks].T
    way = (newest - oldest)[:, pairs.rows]
    to_detection = measurements[:2, pairs.columns] - oldest[:, pairs.rows]
    lengths = np.hypot(*way) * np.hypot(*to_detection)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.clip((way * to_detection).sum(axis=0) / lengths, -1.0, 1.0)
        return np.where(lengths > 0.0, 0.5 - np.arccos(cosine) / np.pi, 0.0)
