"""Heads whose numbers are relative to the cell they stand in.

yolox           YOLOX (arXiv 2107.08430), anchor free: for each cell x y w h, objectness and class probabilities.
                centre = (xy + cell) * stride, size = exp(wh) * stride, score = objectness * class.
nanodet         NanoDet-m (Generalized Focal Loss, arXiv 2006.04388, eq. 5-6): each box side is the expectation of a
                softmax over DFL_BINS distances, in strides, from the cell's middle; the class score already is the
                quality. The middle is at (stride - 1) / 2, as in the repository that our NanoDet files come from; with
                stride / 2, AP50 is 0.004-0.008 lower for people at 320 and 416.
nanodet_plus    the same sides, from the cell's upper left corner.
fastestdet      FastestDet: centre = (cell + tanh(xy)) * stride, size = sigmoid(wh) * input,
                score = objectness^0.6 * class^0.4.
yolo_fastestv2  Yolo-FastestV2: three anchors in a cell share its class probabilities (softmax).
                centre = (2 sigmoid(xy) - 0.5 + cell) * stride, size = (2 sigmoid(wh))^2 * anchor,
                score = sigmoid(objectness) * class. Its own exporter has applied sigmoid and softmax already.
tercel          Our own: distances left, top, right, bottom in strides from the cell's middle, score = sigmoid(logit).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.boxes import Boxes, above, above_by_class
from perception.model_spec import (
    ANCHORS_PER_CELL,
    DFL_BINS,
    FASTESTDET_STRIDE_PX,
    NANODET_PLUS_STRIDES_PX,
    STRIDES_PX,
    YOLO_FASTESTV2_STRIDES_PX,
    ModelSpec,
    nanodet_order,
)
from tercel.core.errors import Rejected

Array = NDArray[Any]

YOLO_FASTESTV2_ANCHORS_PX = np.array(
    [
        [[12.64, 19.39], [37.88, 51.48], [55.71, 138.31]],
        [[126.91, 78.23], [131.57, 214.55], [279.92, 258.87]],
    ],
    np.float32,
)
"""(strides, anchors, width height) of the published COCO weights (data/coco.data)."""


def decode_yolox(spec: ModelSpec, outputs: Sequence[Array], threshold: float, multi_label: bool) -> Boxes:
    """(1, N, 5 + C)."""
    cells, strides = _grid(spec.input_height_px, spec.input_width_px, STRIDES_PX)
    _require_shapes(outputs, [(1, len(cells), 5 + len(spec.class_names))])
    likely = np.flatnonzero(outputs[0][0, :, 4] >= threshold)  # a class probability is at most 1
    raw = outputs[0][0, likely]
    scores = raw[:, 4:5] * raw[:, 5:]
    rows, labels = above(scores, threshold, multi_label)
    raw, cells, strides = raw[rows], cells[likely[rows]], strides[likely[rows]]
    return _around((raw[:, :2] + cells) * strides, np.exp(raw[:, 2:4]) * strides, scores[rows, labels], labels)


def decode_nanodet(spec: ModelSpec, outputs: Sequence[Array], threshold: float, multi_label: bool) -> Boxes:
    """3 x ([1,] N_s, C) and 3 x ([1,] N_s, 32), in any order."""
    order = nanodet_order([o.shape for o in outputs], spec.input_height_px, spec.input_width_px)
    if order is None or outputs[order[0][0]].shape[-1] != len(spec.class_names):
        raise Rejected("model output has the wrong shape")
    levels = []
    for stride, scores_at, sides_at in zip(STRIDES_PX, *order, strict=True):
        scores = outputs[scores_at].reshape(-1, len(spec.class_names))
        rows, labels = above(scores, threshold, multi_label)
        logits = outputs[sides_at].reshape(-1, 4 * DFL_BINS)[rows]
        middles = _grid(spec.input_height_px, spec.input_width_px, (stride,))[0][rows] * stride + (stride - 1) / 2
        levels.append((middles, logits, scores[rows, labels], labels, np.full((len(rows), 1), stride, np.float32)))
    middles, logits, scores, labels, strides = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    return _from_sides(middles, _expected_sides(logits) * strides, scores, labels)


def decode_nanodet_plus(spec: ModelSpec, outputs: Sequence[Array], threshold: float, multi_label: bool) -> Boxes:
    """(1, N, C + 32)."""
    cells, strides = _grid(spec.input_height_px, spec.input_width_px, NANODET_PLUS_STRIDES_PX, partial=True)
    classes = len(spec.class_names)
    _require_shapes(outputs, [(1, len(cells), classes + 4 * DFL_BINS)])
    scores = outputs[0][0, :, :classes]
    rows, labels = above(scores, threshold, multi_label)
    sides = _expected_sides(outputs[0][0, rows, classes:])
    return _from_sides(cells[rows] * strides[rows], sides * strides[rows], scores[rows, labels], labels)


def decode_fastestdet(spec: ModelSpec, outputs: Sequence[Array], threshold: float, multi_label: bool) -> Boxes:
    """(1, 5 + C, H/16, W/16)."""
    size = (spec.input_height_px, spec.input_width_px)
    stride = FASTESTDET_STRIDE_PX
    _require_shapes(outputs, [(1, 5 + len(spec.class_names), size[0] // stride, size[1] // stride)])
    raw = outputs[0][0].reshape(5 + len(spec.class_names), -1)
    objectness = np.maximum(raw[0], 1e-9) ** np.float32(0.6)
    wanted = (threshold / objectness) ** np.float32(2.5) * np.float32(1.0 - 1e-5)  # of a class; `decode` is exact
    picked, labels = above_by_class(raw[5:], wanted, multi_label)
    scores = objectness[picked] * np.maximum(raw[5:][labels, picked], 0.0) ** np.float32(0.4)
    cells, raw = _grid(*size, (stride,))[0][picked], raw[:, picked].T
    sizes = np.array(size[::-1], np.float32) / (1.0 + np.exp(-raw[:, 3:5]))
    return _around((cells + np.tanh(raw[:, 1:3])) * np.float32(stride), sizes, scores, labels)


def decode_yolo_fastestv2(spec: ModelSpec, outputs: Sequence[Array], threshold: float, multi_label: bool) -> Boxes:
    """2 x (1, h, w, 4 A + A + C), or 2 x (1, 4 A, h, w), (1, A, h, w), (1, C, h, w) raw."""
    anchors, classes = ANCHORS_PER_CELL, len(spec.class_names)
    size = (spec.input_height_px, spec.input_width_px)
    grids = [(size[0] // stride, size[1] // stride) for stride in YOLO_FASTESTV2_STRIDES_PX]
    raw = len(outputs) != len(grids)
    if raw:
        depths = (4 * anchors, anchors, classes)
        _require_shapes(outputs, [(1, depth, *grid) for grid in grids for depth in depths])
        maps = [o[0].reshape(o.shape[1], -1).T for o in outputs]
        sides, objectness, probabilities = (np.concatenate(maps[first::3]) for first in range(3))
        objectness = _sigmoid(objectness)
    else:
        _require_shapes(outputs, [(1, *grid, 5 * anchors + classes) for grid in grids])
        rows = np.concatenate([o.reshape(-1, o.shape[-1]) for o in outputs])
        sides, objectness, probabilities = np.split(rows, [4 * anchors, 5 * anchors], axis=1)
    cell, anchor = np.nonzero(objectness >= threshold)  # a class probability is at most 1
    scores = probabilities[cell]
    if raw:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    scores = scores * objectness[cell, anchor][:, None]
    picked, labels = above(scores, threshold, multi_label)
    cell, anchor = cell[picked], anchor[picked]
    xywh = sides.reshape(-1, anchors, 4)[cell, anchor]
    xywh = _sigmoid(xywh) if raw else xywh
    cells, strides = _grid(*size, YOLO_FASTESTV2_STRIDES_PX)
    level = np.searchsorted(YOLO_FASTESTV2_STRIDES_PX, strides[cell, 0])
    centres = (xywh[:, :2] * 2.0 - np.float32(0.5) + cells[cell]) * strides[cell]
    sizes = (xywh[:, 2:] * 2.0) ** 2 * YOLO_FASTESTV2_ANCHORS_PX[level, anchor]
    return _around(centres, sizes, scores[picked, labels], labels)


def decode_tercel(spec: ModelSpec, outputs: Sequence[Array], threshold: float, multi_label: bool) -> Boxes:
    """cls (1, C, h, w) of every stride, then box (1, 4, h, w) of every stride."""
    size, classes = (spec.input_height_px, spec.input_width_px), len(spec.class_names)
    grids = [(size[0] // stride, size[1] // stride) for stride in STRIDES_PX]
    _require_shapes(outputs, [(1, depth, *grid) for depth in (classes, 4) for grid in grids])
    logits = np.concatenate([o.reshape(classes, -1) for o in outputs[: len(grids)]], axis=1)
    sides = np.concatenate([o.reshape(4, -1) for o in outputs[len(grids) :]], axis=1)
    picked, labels = above_by_class(logits, _logit(threshold), multi_label)
    cells, strides = _grid(*size, STRIDES_PX)
    middles = (cells[picked] + np.float32(0.5)) * strides[picked]
    return _from_sides(middles, sides[:, picked].T * strides[picked], _sigmoid(logits[labels, picked]), labels)


@cache
def _grid(height_px: int, width_px: int, strides_px: tuple[int, ...], partial: bool = False) -> tuple[Array, Array]:
    """Cells (N, 2) float32, x y in cells, and the stride (N, 1) of each, stride by stride, row by row.

    partial: whether cells that only partly lie in the input count.
    """
    cells, strides = [], []
    for stride in strides_px:
        more = stride - 1 if partial else 0
        y, x = np.indices(((height_px + more) // stride, (width_px + more) // stride), dtype=np.float32)
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((len(cells[-1]), 1), stride, np.float32))
    return np.concatenate(cells), np.concatenate(strides)


def _require_shapes(outputs: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> None:
    if [o.shape for o in outputs] != list(shapes):
        raise Rejected("model output has the wrong shape")


def _sigmoid(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _logit(threshold: float) -> float:
    """The logit whose sigmoid is the threshold, or a little less: what rounding lets in, `decode` drops."""
    if not 0.0 < threshold < 1.0:
        return -np.inf if threshold <= 0.0 else 15.0
    return float(np.log(threshold / (1.0 - threshold))) - 1e-4


def _expected_sides(logits: Array) -> Array:
    """(N, 4 * DFL_BINS) -> (N, 4) distances in strides."""
    logits = logits.reshape(-1, 4, DFL_BINS)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights @ np.arange(DFL_BINS, dtype=np.float32) / weights.sum(axis=-1))


def _from_sides(points: Array, sides: Array, scores: Array, labels: Array) -> Boxes:
    """Boxes from points (N, 2) and distances (N, 4) left, top, right, bottom."""
    return Boxes(np.concatenate([points - sides[:, :2], points + sides[:, 2:]], axis=1), scores, labels)


def _around(centres: Array, sizes: Array, scores: Array, labels: Array) -> Boxes:
    halves = sizes / np.float32(2.0)
    return Boxes(np.concatenate([centres - halves, centres + halves], axis=1), scores, labels)
