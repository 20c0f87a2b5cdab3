"""COCO's JSON (cocodataset.org, "Data format" and "Results format"): labelled images read, detections written.

A detections file that we write is both at once: images, categories and annotations as in a file of labels, and each
annotation with its score, so that its annotations by themselves are a results file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.class_maps import is_coco
from perception.coco import COCO_CLASSES
from perception.label_files import Boxes
from tercel.core.errors import UserError
from tercel.core.messages import Detections2D

Array = NDArray[Any]

MAX_JSON_BYTES = 1 << 30
_UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
"""COCO's category ids run from 1 to 90, and these were never given out."""

COCO_CATEGORY_IDS: tuple[int, ...] = tuple(number for number in range(1, 91) if number not in _UNUSED_IDS)


@dataclass(frozen=True, eq=False)
class CocoFile:
    """Labels of one file. images: (file name, boxes in pixels), in the file's order."""

    path: Path
    class_names: tuple[str, ...]
    images: list[tuple[str, Boxes]]


def category_ids(class_names: Sequence[str]) -> tuple[int, ...]:
    """The category id of each label: COCO's own for its 80 classes, else 1, 2, ..."""
    return COCO_CATEGORY_IDS if is_coco(class_names) else tuple(range(1, len(class_names) + 1))


def find_coco_files(path: Path, *, missing_ok: bool = False) -> list[Path]:
    """The file itself, or the COCO files of a folder: *.json and annotations/*.json that hold images and annotations.

    Raises UserError if there are none, unless missing_ok.
    """
    if path.is_file():
        return [path]
    files = [*sorted(path.glob("annotations/*.json")), *sorted(path.glob("*.json"))]
    instances = [file for file in files if file.name.startswith("instances_")]
    found = instances or [file for file in files if _looks_like_coco(file)]
    if not found and not missing_ok:
        raise UserError(f"{path}: holds no COCO JSON; annotations/instances_NAME.json or one *.json is wanted")
    return found


def read_coco_json(path: Path) -> CocoFile:
    """Read a file of labels. Raises UserError, in one line, for anything that is not COCO's format."""
    content = _load(path)
    try:
        categories = {int(row["id"]): str(row["name"]) for row in content["categories"]}
        names = tuple(categories.values())
        label_of = {identity: label for label, identity in enumerate(categories)}
        if set(names) == set(COCO_CLASSES):
            names = COCO_CLASSES
            label_of = {identity: names.index(name) for identity, name in categories.items()}
        rows: dict[int, list[Mapping[str, Any]]] = {int(image["id"]): [] for image in content["images"]}
        for row in content["annotations"]:
            rows[int(row["image_id"])].append(row)
        images = [(str(image["file_name"]), _boxes(rows[int(image["id"])], label_of)) for image in content["images"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not COCO's format ({type(error).__name__}: {error}); check the file") from None
    if not names or not images:
        raise UserError(f"{path}: has no {'images' if names else 'categories'}")
    return CocoFile(path, names, images)


def _boxes(rows: Sequence[Mapping[str, Any]], label_of: Mapping[int, int]) -> Boxes:
    xywh = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    if not np.isfinite(xywh).all():
        raise ValueError("a bbox is not finite")
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    labels = np.array([label_of[int(row["category_id"])] for row in rows], np.int32)
    ignored = np.array([bool(row.get("iscrowd")) or bool(row.get("ignore")) for row in rows], bool)
    areas = np.array([row.get("area", w * h) for row, (w, h) in zip(rows, xywh[:, 2:], strict=True)], np.float64)
    kept = ~ignored
    return Boxes(xyxy[kept], labels[kept], xyxy[ignored], labels[ignored], areas[kept])


def detections_document(
    images: Sequence[tuple[str, int, int]], found: Sequence[Detections2D], class_names: Sequence[str]
) -> dict[str, Any]:
    """The JSON of what was found in images of (file name, width px, height px); boxes as x y width height.

    Ids count from 1; a category's as category_ids has it.
    """
    ids = category_ids(class_names)
    annotations: list[dict[str, Any]] = []
    for image_id, message in enumerate(found, start=1):
        corners = message.boxes_xyxy_px.astype(np.float64)
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(3)
        for box, score, label in zip(xywh.tolist(), message.scores.tolist(), message.labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[label],
                    "bbox": box,
                    "area": round(box[2] * box[3], 3),
                    "iscrowd": 0,
                    "score": round(score, 5),
                }
            )
    return {
        "images": [
            {"id": image_id, "file_name": name, "width": width, "height": height}
            for image_id, (name, width, height) in enumerate(images, start=1)
        ],
        "categories": [{"id": identity, "name": name} for identity, name in zip(ids, class_names, strict=True)],
        "annotations": annotations,
    }


def _looks_like_coco(path: Path) -> bool:
    try:
        content = _load(path)
    except UserError:
        return False
    return all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories"))


def _load(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise UserError(f"{path}: is too large for a file of labels")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({str(error)[:80]}); check the file") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a list, not COCO's images, annotations and categories")
    return content
