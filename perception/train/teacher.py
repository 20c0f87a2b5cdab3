"""What a released detector sees in each cell of a training picture: the target of distillation.

YOLOX-nano (Apache-2.0) gives objectness and 80 class probabilities for the cells at strides 8, 16, 32, which are the
student's own cells where both take pictures of one size. The product is kept in 8 bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import require

Array = NDArray[Any]

TEACHER_CLASSES = 80


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

    def probabilities(self, bgr: Array) -> Array:
        """Picture (side, side, 3) uint8 -> (cells, 80) uint8, 255 times the probability."""
        tensor = np.ascontiguousarray(bgr.transpose(2, 0, 1)[None].astype(np.float32))
        raw = next(iter(self._request.infer([tensor]).values()))[0]
        result: Array = np.round(raw[:, 4:5] * raw[:, 5:] * 255.0).astype(np.uint8)
        return result
