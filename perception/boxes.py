"""Candidate boxes of a detector: picking those above a threshold, and non-maximum suppression."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.model_spec import BoxFormat

Array = NDArray[Any]


class Boxes(NamedTuple):
    """Boxes (N, 4) float32 x1 y1 x2 y2, scores (N,) float32, labels (N,) int32."""

    xyxy_px: Array
    scores: Array
    labels: Array

    def take(self, rows: Array) -> Boxes:
        """The boxes at these rows (indices or a mask)."""
        return Boxes(self.xyxy_px[rows], self.scores[rows], self.labels[rows])


def above(scores: Array, threshold: float, multi_label: bool) -> tuple[Array, Array]:
    """Rows and labels int32 of scores (N, C) that reach the threshold: each row's best, or all that do.

    One comparison over all of it and then only the hits, which are few: several times faster than a reduction row by
    row.
    """
    rows, labels = np.divmod(_few_nonzero((scores >= threshold).reshape(-1)), max(scores.shape[1], 1))
    if not multi_label:
        rows = np.unique(rows)
        labels = scores[rows].argmax(axis=1)
    return rows, labels.astype(np.int32)


def above_by_class(scores: Array, threshold: float | Array, multi_label: bool) -> tuple[Array, Array]:
    """As `above`, of scores (C, N), which stay as they lie in memory: to transpose them costs more than the rest.

    threshold: one for all columns, or (N,).
    """
    hits = scores >= threshold
    if multi_label:
        labels, columns = np.divmod(_few_nonzero(hits.reshape(-1)), max(scores.shape[1], 1))
    else:
        columns = np.flatnonzero(hits.any(axis=0))
        labels = scores[:, columns].argmax(axis=0)
    return columns, labels.astype(np.int32)


def _few_nonzero(hits: Array) -> Array:
    """np.flatnonzero of a bool array (N,) with few hits, eight at a time: 4x faster."""
    whole = len(hits) // 8 * 8
    words = np.flatnonzero(hits[:whole].view(np.uint64) != 0)
    word, place = np.nonzero(hits[:whole].reshape(-1, 8)[words])
    return np.concatenate([words[word] * 8 + place, whole + np.flatnonzero(hits[whole:])])


def corners(boxes: Array, form: BoxFormat, height_px: int, width_px: int) -> Array:
    """Boxes (N, 4) float32 in any format -> x1 y1 x2 y2 in pixels of an input of this size."""
    if form.endswith("unit"):
        height_width = form.startswith("yx")
        boxes = boxes * np.tile(
            np.array([height_px, width_px] if height_width else [width_px, height_px], np.float32), 2
        )
    if form.startswith("yxyx"):
        return boxes[:, [1, 0, 3, 2]]
    if form.startswith("cxcywh"):
        halves = boxes[:, 2:] / np.float32(2.0)
        return np.concatenate([boxes[:, :2] - halves, boxes[:, :2] + halves], axis=1)
    return boxes


def usable(boxes: Boxes) -> Boxes:
    """Without the boxes that hold a NaN or infinity or have no area."""
    x1, y1, x2, y2 = boxes.xyxy_px.T
    finite = np.isfinite(boxes.xyxy_px).all(axis=1) & np.isfinite(boxes.scores)
    return boxes.take(finite & (x2 > x1) & (y2 > y1))


def best(boxes: Boxes, max_count: int) -> Boxes:
    """The max_count boxes of highest score, best first, ties in input order."""
    return boxes.take(np.argsort(-boxes.scores, kind="stable")[:max_count])


def suppress(boxes: Boxes, iou_threshold: float, max_count: int) -> Boxes:
    """Greedy non-maximum suppression within each class; at most max_count boxes, best first, ties in input order.

    OpenCV's, because it is measured: 0.01 ms for 20 boxes and 2.4 ms for 1000, against 0.03 and 7.4 of the same in
    vectorised numpy.
    """
    if len(boxes.scores) == 0:
        return boxes
    boxes = best(boxes, len(boxes.scores))
    xywh = boxes.xyxy_px.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    kept = cv2.dnn.NMSBoxesBatched(xywh.tolist(), boxes.scores.tolist(), boxes.labels.tolist(), 0.0, iou_threshold)
    return boxes.take(np.sort(np.asarray(kept, dtype=np.int64).reshape(-1))[:max_count])
