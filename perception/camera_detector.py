"""Component: camera images -> boxes, by a detection network that runs wherever the host's `Models` run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perception.decoders import Boxes, best, decode, suppress, usable
from perception.images import Placement, TensorMaker, bgr_from_image
from perception.model_spec import ModelSpec
from tercel.core.component import Component, Input, Models, Output, on
from tercel.core.errors import UserError, nearest_hint
from tercel.core.messages import Detections2D, Image

Array = NDArray[Any]

MAX_CANDIDATES = 3000
"""Boxes, best first, that non-maximum suppression sees; its time grows with their square (20 ms at 3000)."""


class DetectorModels(Models, Protocol):
    """`Models` that can also say what kind of detector a model is."""

    def spec(self, model: str) -> ModelSpec:
        """Raises UserError if there is no such model or it is no camera detector."""
        ...


@dataclass(frozen=True)
class CameraDetectorConfig:
    """Which network, and which of its boxes to give out."""

    model: str = "detector"
    """The name under which the host knows the network."""
    score_threshold: float = 0.3
    """Lowest score that is given out, 0..1."""
    nms_iou: float = 0.5
    """Of two boxes of one class that overlap by more than this (intersection over union), the weaker one goes.

    Not asked of heads that give each object once (ModelSpec.needs_nms)."""
    max_detections: int = 300
    """Most boxes in one message, best first."""
    classes: tuple[str, ...] = ()
    """Names of the classes to give out; empty: all."""
    multi_label: bool = False
    """Whether one box may come out under several classes. COCO's score rewards that; a tracker is better without."""
    deadline_ms: float | None = None
    """How long after its capture an image's answer is still of use; None: always."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.score_threshold <= 1.0:
            raise ValueError(f"score_threshold {self.score_threshold} must be in 0..1")
        if not 0.0 < self.nms_iou <= 1.0:
            raise ValueError(f"nms_iou {self.nms_iou} must be above 0 and at most 1")
        if not 1 <= self.max_detections <= MAX_CANDIDATES:
            raise ValueError(f"max_detections {self.max_detections} must be in 1..{MAX_CANDIDATES}")
        if self.deadline_ms is not None and not 0.0 < self.deadline_ms < float("inf"):
            raise ValueError(f"deadline_ms {self.deadline_ms} must be above 0")


class CameraDetector(Component):
    """Boxes in the image's own pixels, of every class that the network knows, best score first."""

    Config = CameraDetectorConfig
    live_settings = frozenset({"score_threshold", "nms_iou", "max_detections", "multi_label", "deadline_ms"})
    config: CameraDetectorConfig
    models: DetectorModels

    image = Input(Image)
    detections = Output(Detections2D)

    def __init__(self, config: CameraDetectorConfig | None = None, models: DetectorModels | None = None) -> None:
        super().__init__(config, models)
        if models is None:
            raise UserError("the camera detector runs a network, but no models are given; name one .onnx file")
        self.spec = models.spec(self.config.model)
        self._tensor_from_bgr = TensorMaker(self.spec)
        self._wanted = _wanted_classes(self.config.classes, self.spec.class_names)

    @on(image)
    async def detect(self, image: Image) -> dict[str, Detections2D]:
        """Raises Rejected for an image that is empty or no colour image, and if no sound answer can be had."""
        tensor, placement = self._tensor_from_bgr(bgr_from_image(image))
        deadline_ms = self.config.deadline_ms
        deadline_ns = None if deadline_ms is None else image.stamp_ns + round(deadline_ms * 1e6)
        outputs = await self.models.infer(self.config.model, tensor, deadline_ns=deadline_ns)
        boxes = self.boxes_from_outputs(outputs, placement)
        return {"detections": self._message(image, boxes)}

    def _message(self, image: Image, boxes: Boxes) -> Detections2D:
        return Detections2D(
            stamp_ns=image.stamp_ns,
            frame_id=image.frame_id,
            boxes_xyxy_px=boxes.xyxy_px,
            scores=boxes.scores,
            labels=boxes.labels,
            class_names=self.spec.class_names,
        )

    def boxes_from_outputs(self, outputs: Sequence[Array], placement: Placement) -> Boxes:
        """The network's raw outputs -> the boxes to give out, in the image's pixels and clipped to it."""
        config = self.config
        boxes = decode(self.spec, outputs, config.score_threshold, multi_label=config.multi_label)
        boxes = boxes.take(self._wanted[boxes.labels])
        boxes = usable(boxes._replace(xyxy_px=placement.boxes_to_image(boxes.xyxy_px)))
        if not self.spec.needs_nms:
            return best(boxes, config.max_detections)
        if len(boxes.scores) > MAX_CANDIDATES:
            boxes = best(boxes, MAX_CANDIDATES)
        return suppress(boxes, config.nms_iou, config.max_detections)


def _wanted_classes(wanted: tuple[str, ...], known: tuple[str, ...]) -> Array:
    """(C,) bool: which classes to give out."""
    for name in wanted:
        if name not in known:
            raise UserError(f"the detector has no class {name!r}; {nearest_hint(name, known)}")
    return np.array([not wanted or name in wanted for name in known])
