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

from tracking.association import (
    Assignment,
    Pairs,
    assign,
    assigned_pairs,
    assignment,
    contested_pairs,
    overlapping_pairs,
    touching,
)
from tracking.image_motion import ImageMotion, corners
from tracking.screening import Observations
from tracking.tracker import TrackTable

Array = NDArray[Any]

_NONE = np.zeros(0, dtype=np.intp)
_ANY = 9.0  # a gate that no cost reaches: the pairs were gated before


class Stages:
    """What the stages of one association have settled so far, of a table of `shape` tracks and detections."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.free_rows = np.ones(shape[0], dtype=bool)
        self.free_columns = np.ones(shape[1], dtype=bool)
        self._found: list[tuple[Array, Array, Array]] = []

    def free(self, pairs: Pairs) -> Pairs:
        """The pairs whose track and detection are both still free."""
        if not self._found or not len(pairs.rows):
            return pairs
        return pairs.where(self.free_rows.take(pairs.rows) & self.free_columns.take(pairs.columns))

    def settle(self, pairs: Pairs, gate: float) -> None:
        """Assign what can be assigned of these pairs among the tracks and detections that are still free."""
        pairs = self.free(pairs)
        if len(pairs.rows):
            self._take(*assigned_pairs(pairs, gate))

    def settle_plain(self, pairs: Pairs) -> None:
        """Assign all of these pairs, none of which shares its track or detection with another."""
        self._take(pairs.rows, pairs.columns, pairs.costs)

    def result(self) -> Assignment:
        """All that was settled, in order of the tracks."""
        if not self._found:
            return assignment(_NONE, _NONE, np.zeros(0), self.shape)
        rows, columns, costs = (np.concatenate(column) for column in zip(*self._found, strict=True))
        return assignment(rows, columns, costs, self.shape)

    def _take(self, rows: Array, columns: Array, costs: Array) -> None:
        self.free_rows[rows] = False
        self.free_columns[columns] = False
        self._found.append((rows, columns, costs))


def of_one_class(pairs: Pairs, table: TrackTable, seen: Observations, class_aware: bool) -> Pairs:
    """The pairs of a track and a detection of one class; all pairs, where classes do not count."""
    if not class_aware or seen.class_count < 2:
        return pairs
    return pairs.where(table.labels[pairs.rows] == seen.labels[pairs.columns])


@dataclass(frozen=True)
class ByOverlap:
    """SORT: where no track and no detection has two partners of min_iou, these; else the greatest sum of IoUs of all
    pairs, of which those below min_iou are then dropped."""

    min_iou: float = 0.3
    class_aware: bool = True

    def __call__(self, table: TrackTable, motion: ImageMotion, seen: Observations) -> Assignment:
        """Tracks are rows, detections columns."""
        predicted, boxes = motion.boxes_xyxy_px, corners(seen.measurements)
        pairs = of_one_class(overlapping_pairs(predicted, boxes), table, seen, self.class_aware)
        near = pairs.where(pairs.costs <= 1.0 - self.min_iou)
        if not contested_pairs(near).any():
            return assignment(near.rows, near.columns, near.costs, near.shape)
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
        just_seen = (table.streaks >= 0)[pairs.rows]
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
        boxes, found = motion.boxes, seen.measurements
        rows, columns = touching(corners(boxes, self.reach).T, corners(found, self.reach).T)
        pairs = Pairs(rows, columns, rows, (boxes.shape[1], found.shape[1]))
        pairs = of_one_class(pairs, table, seen, self.class_aware)
        stages = Stages(pairs.shape)
        near = pairs.at(self._costs(boxes, found, pairs, 0.0))
        self._settle_near(near.where(near.costs < 1.0 - self.min_iou), table, motion, found, stages)
        left = stages.free(pairs)
        if len(left.rows):
            stages.settle(left.at(self._costs(boxes, found, left, self.reach)), 1.0 - self.min_grown_iou)
        left = stages.free(self._seen_places(table, motion, seen, stages))
        if len(left.rows):
            stages.settle(left.at(self._costs(motion.seen_boxes, found, left, 0.0)), 1.0 - self.min_iou)
        return stages.result()

    def _settle_near(self, near: Pairs, table: TrackTable, motion: ImageMotion, found: Array, stages: Stages) -> None:
        """Confirmed tracks first, then tentative ones; the direction tells only where there is a choice."""
        if not len(near.rows):
            return
        contested = contested_pairs(near)
        stages.settle_plain(near.where(~contested))
        near = near.where(contested)
        if len(near.rows):
            if self.direction_weight:
                near = near.at(near.costs - self.direction_weight * direction_agreement(motion.memory, found, near))
            confirmed = table.confirmed.take(near.rows) > 0
            stages.settle(near.where(confirmed), _ANY)
            stages.settle(near.where(~confirmed), _ANY)

    def _seen_places(self, table: TrackTable, motion: ImageMotion, seen: Observations, stages: Stages) -> Pairs:
        """The free tracks that were missed in the last step, and the free detections where they were last seen."""
        rows = (stages.free_rows & (table.streaks < 0)).nonzero()[0]
        columns = stages.free_columns.nonzero()[0]
        old = corners(motion.seen_boxes.take(rows, axis=1)).T
        in_rows, in_columns = touching(old, corners(seen.measurements.take(columns, axis=1)).T)
        rows, columns = rows.take(in_rows), columns.take(in_columns)
        return of_one_class(Pairs(rows, columns, rows, stages.shape), table, seen, self.class_aware)

    def _costs(self, boxes: Array, found: Array, pairs: Pairs, reach: float) -> Array:
        """1 - IoU x (smaller / larger height)^height_power of the pairs, with boxes cx, cy, w, h grown by reach."""
        a, b = boxes.take(pairs.rows, axis=1), found.take(pairs.columns, axis=1)
        ratios = a[3] / b[3]
        costs: Array = 1.0 - centered_iou(a, b, reach) * np.minimum(ratios, 1.0 / ratios) ** self.height_power
        return costs


def centered_iou(a: Array, b: Array, reach: float = 0.0) -> Array:
    """IoU (K,) of each of the boxes cx, cy, w, h (4, K) with the one of the same column, all grown by reach."""
    growth = 1.0 + 2.0 * reach
    sizes = growth * np.minimum(a[2:], b[2:])
    sides = np.minimum((0.5 * growth) * (a[2:] + b[2:]) - np.abs(a[:2] - b[:2]), sizes)
    np.maximum(sides, 0.0, out=sides)
    overlap = sides[0] * sides[1]
    result: Array = overlap / (growth * growth * (a[2] * a[3] + b[2] * b[3]) - overlap)
    return result


def direction_agreement(memory: Array, measurements: Array, pairs: Pairs) -> Array:
    """1/2 - angle / pi for each pair (K,), of the way a track went and the way to the detection: 1/2 is straight on.

    memory (S, 2, T): centres of the last detections, newest first (`ImageMotion.memory`). The way of a track leads from
    the oldest to the newest, the way to a detection from that same oldest. Zero where a track was seen once, or stood.
    OC-SORT's code looks so many frames back, and so does ours, in steps in which the track was seen.
    """
    oldest = memory[-1].take(pairs.rows, axis=1)
    way_x, way_y = memory[0].take(pairs.rows, axis=1) - oldest
    x, y = measurements[:2].take(pairs.columns, axis=1) - oldest
    lengths = np.sqrt((way_x * way_x + way_y * way_y) * (x * x + y * y))
    cosines = (way_x * x + way_y * y) / np.maximum(lengths, 1e-12)
    agreement: Array = np.where(lengths > 0.0, 0.5 - np.arccos(np.clip(cosines, -1.0, 1.0)) / np.pi, 0.0)
    return agreement
