"""Raw outputs of a detection network -> boxes in the network's input pixels.

The heads are described where they are decoded: perception/decoders_grid.py and perception/decoders_finished.py. Cells
below the threshold are dropped before anything else is computed. A network whose output is not finite is broken,
whatever its other values: the whole answer is rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception import decoders_finished as finished
from perception import decoders_grid as grid
from perception.boxes import Boxes, best, suppress, usable
from perception.model_spec import HeadKind, ModelSpec
from tercel.core.errors import Rejected

__all__ = ["Boxes", "best", "decode", "suppress", "usable"]

Array = NDArray[Any]

_DECODERS: dict[HeadKind, Callable[[ModelSpec, Sequence[Array], float, bool], Boxes]] = {
    "yolox": grid.decode_yolox,
    "yolov5": finished.decode_yolov5,
    "yolov8": finished.decode_yolov8,
    "end_to_end": finished.decode_end_to_end,
    "rtdetr": finished.decode_rtdetr,
    "nanodet": grid.decode_nanodet,
    "nanodet_plus": grid.decode_nanodet_plus,
    "fastestdet": grid.decode_fastestdet,
    "yolo_fastestv2": grid.decode_yolo_fastestv2,
    "ssd": finished.decode_ssd,
    "detections": finished.decode_detections,
    "tercel": grid.decode_tercel,
}


def decode(spec: ModelSpec, outputs: Sequence[Array], score_threshold: float, *, multi_label: bool = False) -> Boxes:
    """All boxes of at least score_threshold, in the network's input pixels, overlapping ones not yet merged.

    outputs: all of the network's, in the file's order. A cell gives one box of its best class or, multi_label, one of
    each class that reaches the threshold.

    Raises Rejected for outputs whose shapes are not the head's, or that are not finite.
    """
    if spec.output_order:
        if max(spec.output_order) >= len(outputs):
            raise Rejected("model output has the wrong shape")
        outputs = [outputs[index] for index in spec.output_order]
    arrays = [np.asarray(output, dtype=np.float32) for output in outputs]
    if not all(np.isfinite(array).all() for array in arrays):
        raise Rejected("model output is not finite")
    with np.errstate(over="ignore", invalid="ignore"):  # a runaway box size is dropped by `usable`
        boxes = _DECODERS[spec.head](spec, arrays, score_threshold, multi_label)
    return boxes.take(boxes.scores >= np.float32(score_threshold))
