"""COCO's scores of detections, by pycocotools itself: AP over classes, overlaps and sizes of objects.

perception.average_precision gives the same AP without pycocotools, for run time; it knows no sizes and no ignored
regions. Here a region that is not to be judged is what COCO calls a crowd: any number of boxes may lie in it, by the
share of their own area, and count neither as right nor as wrong.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.labelled import ANY_CLASS, LabelledImage
from tercel.core.errors import require
from tercel.core.messages import Detections2D

Array = NDArray[Any]

SIZES = ("small", "medium", "large")
"""Objects under 32x32 pixels, up to 96x96, and above."""
MAX_DETECTIONS = 100
_ALL_AREAS, _AT_50, _AT_75, _AT_MOST_100 = 0, 0, 5, 2


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of one image, without the image: see LabelledImage."""

    boxes: Detections2D
    ignored: Detections2D
    areas_px2: Array | None = None

    @classmethod
    def of(cls, labelled: LabelledImage) -> Truth:
        """Of a labelled image, whose pixels need not be kept."""
        return cls(labelled.truth, labelled.ignored, labelled.areas_px2)


@dataclass(frozen=True, eq=False)
class DetectionScores:
    """precision (T, R, C, A) float64 as COCOeval accumulates it, -1 where a class has no truth of a size: overlaps 0.5
    to 0.95, recalls 0 to 1 by 0.01, classes, and all, small, medium, large objects. At most 100 boxes of a class in an
    image count.

    recall (T, C, A); truth_counts (C,) int64, without what is ignored.
    """

    class_names: tuple[str, ...]
    precision: Array
    recall: Array
    truth_counts: Array

    def summary(self) -> dict[str, Any]:
        """AP, AP50, AP75, AP_small, AP_medium, AP_large, AR; None without truth. `classes`: the same by name."""
        return {
            **self._figures(slice(None)),
            "classes": {
                name: {**self._figures(label), "truths": int(self.truth_counts[label])}
                for label, name in enumerate(self.class_names)
                if self.truth_counts[label]
            },
        }

    def curve_at_50(self, label: int) -> Array:
        """Precision (101,) of a class at the recalls 0, 0.01 .. 1, for an overlap of 0.5."""
        curve: Array = self.precision[_AT_50, :, label, _ALL_AREAS]
        return curve

    def _figures(self, label: int | slice) -> dict[str, float | None]:
        of_all = self.precision[:, :, label, _ALL_AREAS]
        figures = {"AP": of_all, "AP50": of_all[_AT_50], "AP75": of_all[_AT_75]}
        figures |= {f"AP_{size}": self.precision[:, :, label, area] for area, size in enumerate(SIZES, start=1)}
        return {name: _mean(values) for name, values in figures.items()} | {
            "AR": _mean(self.recall[:, label, _ALL_AREAS])
        }


def coco_scores(found: Sequence[Detections2D], truths: Sequence[Truth]) -> DetectionScores:
    """Compare what was found in each image with what is true of it; all have the same class names.

    Raises ValueError for unequal lengths or class names, or labels outside of them, UserError without pycocotools.
    """
    if len(found) != len(truths) or not truths:
        raise ValueError(f"{len(found)} images with detections, {len(truths)} with truth; need equal numbers, not 0")
    names = truths[0].boxes.class_names
    messages = [*found, *(truth.boxes for truth in truths)]
    if any(message.class_names != names for message in messages):
        raise ValueError("all images must have the same class_names")
    if any(((m.labels < 0) | (m.labels >= len(names))).any() for m in messages):
        raise ValueError(f"a label is not in 0..{len(names) - 1}")
    coco = require("pycocotools.coco", extra="evaluate")
    evaluation = require("pycocotools.cocoeval", extra="evaluate")
    dataset = {
        "info": {},  # loadRes copies it
        "images": [{"id": image} for image in range(1, len(truths) + 1)],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(names)],
    }
    counts = sum((np.bincount(truth.boxes.labels, minlength=len(names)) for truth in truths), np.zeros(len(names), int))
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        true = _index(coco.COCO(), dataset, _truth_rows(truths, len(names)))
        detected = _index(coco.COCO(), dataset, _found_rows(found))
        judge = evaluation.COCOeval(true, detected, "bbox")
        judge.evaluate()
        judge.accumulate()
    precision, recall = judge.eval["precision"], judge.eval["recall"]
    return DetectionScores(names, precision[..., _AT_MOST_100], recall[..., _AT_MOST_100], counts.astype(np.int64))


def _index(coco: Any, dataset: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    coco.dataset = {**dataset, "annotations": rows}
    coco.createIndex()
    return coco


def _truth_rows(truths: Sequence[Truth], class_count: int) -> list[dict[str, Any]]:
    """COCO's annotations; a region of every class becomes one of each. Ids from 1: pycocotools takes 0 for no match."""
    rows: list[dict[str, Any]] = []
    for image, truth in enumerate(truths, start=1):
        areas = truth.areas_px2
        for index, (xywh, label) in enumerate(_boxes_of(truth.boxes)):
            area = xywh[2] * xywh[3] if areas is None else float(areas[index])
            rows.append(_row(len(rows) + 1, image, label, xywh, area=area, iscrowd=0))
        for xywh, label in _boxes_of(truth.ignored):
            for each in range(class_count) if label == ANY_CLASS else (label,):
                rows.append(_row(len(rows) + 1, image, each, xywh, area=xywh[2] * xywh[3], iscrowd=1))
    return rows


def _found_rows(found: Sequence[Detections2D]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image, message in enumerate(found, start=1):
        for (xywh, label), score in zip(_boxes_of(message), message.scores.tolist(), strict=True):
            rows.append(_row(len(rows) + 1, image, label, xywh, area=xywh[2] * xywh[3], iscrowd=0, score=score))
    return rows


def _boxes_of(message: Detections2D) -> list[tuple[list[float], int]]:
    corners = message.boxes_xyxy_px.astype(np.float64)
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return list(zip(xywh.tolist(), message.labels.tolist(), strict=True))


def _row(identity: int, image: int, label: int, xywh: list[float], **rest: float) -> dict[str, Any]:
    return {"id": identity, "image_id": image, "category_id": label + 1, "bbox": xywh, **rest}


def _mean(values: Array) -> float | None:
    """Of what there is truth for, as COCOeval.summarize takes it; None if there is none."""
    known = values[values > -1]
    mean = float(known.mean()) if known.size else math.nan
    return None if math.isnan(mean) else mean
