"""A camera detector taken step by step, with the time that each step takes: pixels to tensor, network, boxes.

It computes what perception.camera_detector does, without its event loop, and gives the network's raw outputs away for
whoever wants other boxes of them. Wall and CPU times are measured and never decide anything.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.boxes import Boxes
from perception.camera_detector import CameraDetector, CameraDetectorConfig
from perception.images import Placement, TensorMaker
from perception.runtime import LocalModels, Network

Array = NDArray[Any]

STAGES = ("preprocess", "network", "boxes")


@dataclass(frozen=True, eq=False)
class Look:
    """Of one image: the boxes in its pixels, and what they came from."""

    boxes: Boxes
    outputs: Sequence[Array]
    placement: Placement


class DetectorSteps:
    """A detector and its stopwatch. Raises UserError, as CameraDetector, if the network is none."""

    def __init__(self, network: Network, config: CameraDetectorConfig | None = None) -> None:
        self.network = network
        self.detector = CameraDetector(config, LocalModels({"detector": network}))
        self._make_tensor = TensorMaker(self.detector.spec)
        self._stages_s: list[tuple[float, float, float]] = []
        self._cpu_s: list[float] = []

    def __call__(self, bgr: Array) -> Look:
        """Look at an image (H, W, 3) uint8 BGR; at the first one twice, since first runs are slow.

        Raises Rejected if the network fails or its answer is not sound.
        """
        if not self._stages_s:
            self.network.run(self._make_tensor(bgr)[0])
        cpu_s, began_s = time.process_time(), time.perf_counter()
        tensor, placement = self._make_tensor(bgr)
        made_s = time.perf_counter()
        outputs = self.network.run(tensor)
        inferred_s = time.perf_counter()
        boxes = self.detector.boxes_from_outputs(outputs, placement)
        done_s = time.perf_counter()
        self._cpu_s.append(time.process_time() - cpu_s)
        self._stages_s.append((made_s - began_s, inferred_s - made_s, done_s - inferred_s))
        return Look(boxes, outputs, placement)

    def times(self) -> dict[str, Any]:
        """Of all images so far: latency_ms_p50 and _p95, stages_ms_p50 by name, cpu_s_per_image, the median of the CPU
        seconds of all threads. Without images: None.
        """
        if not self._stages_s:
            return {"latency_ms_p50": None, "latency_ms_p95": None, "cpu_s_per_image": None, "stages_ms_p50": {}}
        stages_ms = np.array(self._stages_s) * 1e3
        latency_ms = stages_ms.sum(axis=1)
        return {
            "latency_ms_p50": round(float(np.median(latency_ms)), 3),
            "latency_ms_p95": round(float(np.quantile(latency_ms, 0.95)), 3),
            "cpu_s_per_image": round(float(np.median(self._cpu_s)), 5),
            "stages_ms_p50": dict(zip(STAGES, np.median(stages_ms, axis=0).round(3).tolist(), strict=True)),
        }
