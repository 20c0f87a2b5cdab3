"""What a released detector sees in a training picture: in each cell, for distillation, and as boxes, for labels.

YOLOX-nano (Apache-2.0) gives objectness and 80 class probabilities for the cells at strides 8, 16, 32, which are the
student's own cells where both take pictures of one size. The product is kept in 8 bits. Its boxes are
the labels where two photographs were blended: it says what can still be seen, and so the same photograph never teaches
the same answer twice (a patient and consistent teacher, arXiv 2106.05237).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.boxes import Boxes, suppress
from perception.classes import tercel_from_coco
from tercel.core.errors import require

Array = NDArray[Any]

TEACHER_CLASSES = 80
SURE = 0.3  # a label's least score
_STRIDES_PX = (8, 16, 32)


class Seen(NamedTuple):
    """probabilities (cells, 80) uint8, 255 times the probability; boxes_px (N, 4) float32 and labels (N,) int32 in
    TERCEL_CLASSES of what the teacher is sure of."""

    probabilities: Array
    boxes_px: Array
    labels: Array


class Teacher:
    """A YOLOX model of any input size, run at side_px (a multiple of 32) by OpenVINO, on one thread."""

    def __init__(self, path: Path, side_px: int) -> None:
        openvino = require("openvino", extra="openvino")
        core = openvino.Core()
        model = core.read_model(str(path))
        model.reshape([1, 3, side_px, side_px])
        self._request = core.compile_model(
            model, "CPU", {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        ).create_infer_request()
        self._ours = tercel_from_coco()
        cells = [np.indices((side_px // s, side_px // s))[::-1].reshape(2, -1).T for s in _STRIDES_PX]
        self._cells = np.concatenate(cells).astype(np.float32)
        self._strides = np.concatenate([np.full((len(c), 1), s) for c, s in zip(cells, _STRIDES_PX, strict=True)])
        self._side = side_px

    def __call__(self, bgr: Array) -> Seen:
        """Picture (side, side, 3) uint8 -> what the teacher sees in it."""
        tensor = np.ascontiguousarray(bgr.transpose(2, 0, 1)[None].astype(np.float32))
        raw = next(iter(self._request.infer([tensor]).values()))[0]
        scores = raw[:, 4:5] * raw[:, 5:]
        best, labels = scores.max(1), self._ours[scores.argmax(1)]
        rows = np.flatnonzero((best >= SURE) & (labels >= 0))
        strides = self._strides[rows]
        centres, halves = (raw[rows, :2] + self._cells[rows]) * strides, np.exp(raw[rows, 2:4]) * strides / 2
        corners = np.concatenate([centres - halves, centres + halves], 1).clip(0, self._side).astype(np.float32)
        kept = suppress(Boxes(corners, best[rows], labels[rows].astype(np.int32)), 0.5, 100)
        return Seen(np.round(scores * 255.0).astype(np.uint8), kept.xyxy_px, kept.labels)
