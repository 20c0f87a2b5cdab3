"""COCO's average precision of detections in images, as pycocotools computes it (iouType "bbox", area "all").

For each class and overlap threshold: each image's detections, best score first and at most 100 for a class, take in
turn the unmatched true box of their class that they overlap most, if by at least the threshold. All images' detections
then make one precision-recall curve, best first; precision is made to fall monotonically and is averaged at 101
recalls 0, 0.01 .. 1. The mean is over the classes that have a true box. Departures: no crowd regions, no area ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.messages import Detections2D

Array = NDArray[Any]

COCO_IOU_THRESHOLDS: tuple[float, ...] = tuple((np.arange(10) * 0.05 + 0.5).round(2).tolist())
MAX_DETECTIONS = 100
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """ap (C, T) float64, NaN for a class without a true box; truth_counts (C,) int64; iou_thresholds (T,)."""

    ap: Array
    truth_counts: Array
    iou_thresholds: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over all classes that have a true box, and all thresholds; NaN if none has."""
        present = self.truth_counts > 0
        return float(self.ap[present].mean()) if present.any() else float("nan")

    def at(self, iou_threshold: float) -> Array:
        """AP (C,) at one of the thresholds. Raises ValueError if it is not among them."""
        column: Array = self.ap[:, self.iou_thresholds.index(iou_threshold)]
        return column

    def mean_at(self, iou_threshold: float) -> float:
        """Mean AP at one threshold over the classes that have a true box: AP50 is mean_at(0.5)."""
        present = self.truth_counts > 0
        return float(self.at(iou_threshold)[present].mean()) if present.any() else float("nan")


def average_precision(
    found: Sequence[Detections2D],
    truth: Sequence[Detections2D],
    *,
    iou_thresholds: tuple[float, ...] = COCO_IOU_THRESHOLDS,
) -> AveragePrecision:
    """Compare what was found in each image with the truth of the same image (whose scores are not looked at).

    Raises ValueError for sequences of different lengths, different class names, or a label outside of them.
    """
    if len(found) != len(truth) or not truth:
        raise ValueError(
            f"{len(found)} images with detections, {len(truth)} with truth; need equal numbers, at least 1"
        )
    names = truth[0].class_names
    if any(message.class_names != names for message in (*found, *truth)):
        raise ValueError("all images must have the same class_names")
    if any(((m.labels < 0) | (m.labels >= len(names))).any() for m in (*found, *truth)):
        raise ValueError(f"a label is not in 0..{len(names) - 1}")
    truth_counts = np.zeros(len(names), np.int64)
    for message in truth:
        truth_counts += np.bincount(message.labels, minlength=len(names))
    ap = np.full((len(names), len(iou_thresholds)), np.nan)
    for label in np.flatnonzero(truth_counts):
        matches = [_class_matches(f, t, int(label), iou_thresholds) for f, t in zip(found, truth, strict=True)]
        scores = np.concatenate([scores for scores, _ in matches])
        matched = np.concatenate([matched for _, matched in matches])
        matched = matched[np.argsort(-scores, kind="stable")]
        ap[label] = [interpolated_ap(column, int(truth_counts[label])) for column in matched.T]
    return AveragePrecision(ap, truth_counts, tuple(iou_thresholds))


def interpolated_ap(matched: Array, truth_count: int) -> float:
    """AP of one class: matched (N,) bool says which detections, best score first, are right; truth_count >= 1."""
    true_positives = np.cumsum(matched)
    precision = true_positives / np.arange(1, len(matched) + 1)
    recall = true_positives / truth_count
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at_level = np.searchsorted(recall, RECALL_LEVELS, side="left")
    return float(np.append(envelope, 0.0)[at_level].mean())


def match(ious: Array, iou_thresholds: tuple[float, ...]) -> Array:
    """Greedy matching of detections (rows, best first) to true boxes (columns): (N, T) bool, which rows get one.

    ious (N, G). Each row takes the free column of greatest overlap, the last one of equals, as pycocotools does.
    """
    limits = np.minimum(np.asarray(iou_thresholds), 1.0 - 1e-10)
    free = np.ones((len(limits), ious.shape[1]), dtype=bool)
    matched = np.zeros((len(ious), len(limits)), dtype=bool)
    rows = np.arange(len(limits))
    for index, overlaps in enumerate(ious if ious.shape[1] else ()):
        candidates = np.where(free, overlaps, -1.0)
        best = ious.shape[1] - 1 - candidates[:, ::-1].argmax(axis=1)
        hit = candidates[rows, best] >= limits
        free[rows[hit], best[hit]] = False
        matched[index] = hit
    return matched


def iou_matrix(first_xyxy_px: Array, second_xyxy_px: Array) -> Array:
    """Intersection over union (N, M) float64 of boxes (N, 4) and (M, 4); 0 where both have no area."""
    first = np.asarray(first_xyxy_px, dtype=np.float64)
    second = np.asarray(second_xyxy_px, dtype=np.float64)
    x1, y1, x2, y2 = first.T[:, :, None]
    u1, v1, u2, v2 = second.T[:, None, :]
    overlap = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1), 0) * np.maximum(
        np.minimum(y2, v2) - np.maximum(y1, v1), 0
    )
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - overlap
    result: Array = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return result


def _class_matches(
    found: Detections2D, truth: Detections2D, label: int, iou_thresholds: tuple[float, ...]
) -> tuple[Array, Array]:
    """Scores (N,) of one image's detections of one class, best first, and (N, T) bool: which of them are right."""
    rows = np.flatnonzero(found.labels == label)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")][:MAX_DETECTIONS]
    ious = iou_matrix(found.boxes_xyxy_px[rows], truth.boxes_xyxy_px[truth.labels == label])
    return found.scores[rows], match(ious, iou_thresholds)
