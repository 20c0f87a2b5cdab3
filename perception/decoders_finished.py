"""Heads whose network already computed boxes and scores: what is left is to pick, and to say where they lie.

yolov5      YOLOv5, YOLOv7: rows of centre and size in input pixels, objectness, class probabilities;
            score = objectness * class.
yolov8      YOLOv8, 9, 11, 12 and YOLO26's one-to-many head: columns of centre and size in input pixels, class
            probabilities. A class lies in one run of memory, and stays there: see boxes.above_by_class.
end_to_end  YOLOv10, YOLO26, exports with suppression: x1 y1 x2 y2 score label; YOLOv7: image x1 y1 x2 y2 label score.
            They are the best pairs of a cell and a class, so one box may come several times, with other labels.
rtdetr      centre and size in 0..1 and class probabilities; of transformers, class logits and boxes apart.
ssd         boxes, and scores whose first class is the background.
detections  boxes, labels and scores apart, and perhaps how many of them count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.boxes import Boxes, above, above_by_class, corners
from perception.model_spec import BoxFormat, ModelSpec
from tercel.core.errors import Rejected

Array = NDArray[Any]

MAX_SCORE = 1.01
"""A probability may exceed 1 by rounding, in float16 or INT8; a logit that was taken for one exceeds it by far."""
MAX_UNIT = 8.0
"""No box of an image reaches so far outside of it; one that was written in pixels does."""


def decode_yolov5(spec: ModelSpec, outputs: Sequence[Array], threshold: float, multi_label: bool) -> Boxes:
    """(1, N, 5 + C)."""
    rows = _one(outputs, 5 + len(spec.class_names), axis=2)
    likely = np.flatnonzero(rows[:, 4] >= threshold)  # a class probability is at most 1
    raw = rows[likely]
    scores = raw[:, 4:5] * raw[:, 5:]
    picked, labels = above(scores, threshold, multi_label)
    return _boxes(spec, raw[picked, :4], scores[picked, labels], labels, "cxcywh_px")


def decode_yolov8(spec: ModelSpec, outputs: Sequence[Array], threshold: float, multi_label: bool) -> Boxes:
    """(1, 4 + C, N)."""
    columns = _one(outputs, 4 + len(spec.class_names), axis=1)
    scores = columns[4:]
    picked, labels = above_by_class(scores, threshold, multi_label)
    return _boxes(spec, columns[:4, picked].T, scores[labels, picked], labels, "cxcywh_px")


def decode_end_to_end(spec: ModelSpec, outputs: Sequence[Array], threshold: float, multi_label: bool) -> Boxes:
    """(1, K, 6), (K, 6) or (K, 7)."""
    shape = outputs[0].shape if len(outputs) == 1 else ()
    if len(shape) not in (2, 3) or shape[:-2] not in ((), (1,)) or shape[-1] not in (6, 7):
        raise Rejected("model output has the wrong shape")
    rows = outputs[0].reshape(-1, shape[-1])
    boxes, scores, labels = (rows[:, :4], rows[:, 4], rows[:, 5])
    if shape[-1] == 7:
        boxes, scores, labels = (rows[:, 1:5], rows[:, 6], rows[:, 5])
    picked = np.flatnonzero(scores >= threshold)
    if not multi_label:
        picked = picked[_best_of_equal(boxes[picked], scores[picked])]
    return _boxes(spec, boxes[picked], scores[picked], _labels(spec, labels[picked]), "xyxy_px")


def decode_rtdetr(spec: ModelSpec, outputs: Sequence[Array], threshold: float, multi_label: bool) -> Boxes:
    """(1, K, 4 + C), or boxes (1, K, 4) and logits (1, K, C)."""
    if len(outputs) == 2:
        boxes, logits = _pair(outputs, len(spec.class_names))
        scores = 1.0 / (1.0 + np.exp(-logits))
    else:
        rows = _one(outputs, 4 + len(spec.class_names), axis=2)
        boxes, scores = rows[:, :4], rows[:, 4:]
    picked, labels = above(scores, threshold, multi_label)
    return _boxes(spec, boxes[picked], scores[picked, labels], labels, "cxcywh_unit")


def decode_ssd(spec: ModelSpec, outputs: Sequence[Array], threshold: float, multi_label: bool) -> Boxes:
    """Boxes (1, N, 4) and scores (1, N, first_label + C)."""
    boxes, scores = _pair(outputs, spec.first_label + len(spec.class_names))
    scores = scores[:, spec.first_label :]
    picked, labels = above(scores, threshold, multi_label)
    return _boxes(spec, boxes[picked], scores[picked, labels], labels, "xyxy_unit")


def decode_detections(spec: ModelSpec, outputs: Sequence[Array], threshold: float, multi_label: bool) -> Boxes:
    """Boxes ([1,] K, 4), labels ([1,] K), scores ([1,] K), and perhaps how many of the first ones count."""
    if len(outputs) not in (3, 4):
        raise Rejected("model output has the wrong shape")
    boxes, labels, scores = outputs[:3]
    if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4 or boxes.shape[:-2] not in ((), (1,)):
        raise Rejected("model output has the wrong shape")
    if labels.shape != boxes.shape[:-1] or scores.shape != labels.shape or any(o.size != 1 for o in outputs[3:]):
        raise Rejected("model output has the wrong shape")
    count = int(np.clip(outputs[3].reshape(-1)[0], 0, scores.size)) if len(outputs) == 4 else scores.size
    boxes, labels, scores = boxes.reshape(-1, 4), labels.reshape(-1), scores.reshape(-1)
    picked = np.flatnonzero(scores[:count] >= threshold)
    if not multi_label:
        picked = picked[_best_of_equal(boxes[picked], scores[picked])]
    return _boxes(spec, boxes[picked], scores[picked], _labels(spec, labels[picked]), "xyxy_px")


def _best_of_equal(boxes: Array, scores: Array) -> Array:
    """Of boxes (N, 4) that are equal to the bit, the index of the one of highest score; in input order."""
    order = np.argsort(-scores, kind="stable")
    kept = np.unique(boxes[order], axis=0, return_index=True)[1] if len(order) else order
    return np.sort(order[kept])


def _one(outputs: Sequence[Array], depth: int, axis: int) -> Array:
    """The only output, (1, A, B) with `depth` along the axis, as (A, B)."""
    if len(outputs) != 1 or outputs[0].ndim != 3 or len(outputs[0]) != 1 or outputs[0].shape[axis] != depth:
        raise Rejected("model output has the wrong shape")
    return np.asarray(outputs[0][0])


def _pair(outputs: Sequence[Array], classes: int) -> tuple[Array, Array]:
    """Boxes (1, N, 4) and scores (1, N, classes), as (N, 4) and (N, classes)."""
    if len(outputs) != 2 or outputs[0].ndim != 3 or outputs[0].shape[::2] != (1, 4):
        raise Rejected("model output has the wrong shape")
    if outputs[1].shape != (*outputs[0].shape[:2], classes):
        raise Rejected("model output has the wrong shape")
    return outputs[0][0], outputs[1][0]


def _labels(spec: ModelSpec, labels: Array) -> Array:
    """Labels as the head numbers them -> (N,) int32 indices of class_names."""
    indices = labels - spec.first_label
    if not ((indices == np.floor(indices)) & (indices >= 0) & (indices < len(spec.class_names))).all():
        raise Rejected("model output has a label without a class name")
    return np.asarray(indices, np.int32)


def _boxes(spec: ModelSpec, boxes: Array, scores: Array, labels: Array, usual: BoxFormat) -> Boxes:
    if scores.max(initial=0.0) > MAX_SCORE:
        raise Rejected("model output has scores above 1")
    form = spec.box_format or usual
    if form.endswith("unit") and np.abs(boxes).max(initial=0.0) > MAX_UNIT:
        raise Rejected("model output has pixels where 0..1 is wanted")
    xyxy = corners(boxes, form, spec.input_height_px, spec.input_width_px)
    return Boxes(xyxy, scores, labels)
