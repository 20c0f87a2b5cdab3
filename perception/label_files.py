"""Label files of YOLO and KITTI: which of them belong to which images, and the boxes that they hold.

A row that cannot be used is skipped and said in one line of `problems`; a folder that is laid out otherwise is a
UserError.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded import kitti_labels
from devices.sensors.recorded.reading import floats, note, short_name
from perception.coco import COCO_CLASSES
from perception.image_files import SUFFIXES
from tercel.core.errors import UserError

Array = NDArray[Any]
Pair = tuple[Path, Path | None, str]
"""An image, its label file and its name in the data set."""

MAX_LABEL_BYTES = 1 << 24
_SLACK = 0.05
"""How far outside of its image a normalised coordinate may lie, being clipped; beyond, it is in other units."""

DATASET_CLASSES: dict[str, tuple[str, ...]] = {
    "img_coco256": COCO_CLASSES,
    "img_aerial_cars": ("car", "truck", "bus", "minibus", "cyclist"),
}
"""Class names of data sets that do not say them themselves, by the name of their folder."""


def _empty_boxes() -> Array:
    return np.zeros((0, 4))


def _empty_labels() -> Array:
    return np.zeros(0, np.int32)


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes (N, 4) float64 x1 y1 x2 y2 in pixels or, normalised, in parts of the image; labels (N,) int32; areas (N,).

    ignored_xyxy (K, 4) and ignored_labels (K,): regions; -1 is every class.
    """

    xyxy: Array = field(default_factory=_empty_boxes)
    labels: Array = field(default_factory=_empty_labels)
    ignored_xyxy: Array = field(default_factory=_empty_boxes)
    ignored_labels: Array = field(default_factory=_empty_labels)
    areas_px2: Array | None = None
    normalised: bool = False

    def in_pixels(self, width_px: int, height_px: int) -> Boxes:
        """The same in the pixels of an image of this size."""
        if not self.normalised:
            return self
        size = np.array([width_px, height_px, width_px, height_px], np.float64)
        return replace(self, xyxy=self.xyxy * size, ignored_xyxy=self.ignored_xyxy * size, normalised=False)


# --- YOLO ------------------------------------------------------------------------------------------------------------


def find_yolo_pairs(folder: Path) -> list[Pair]:
    """Images below folder with their labels: the same path below labels/ instead of images/, or beside the image.

    Raises UserError if there are no images, or not one of them has a label file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check the path")
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not images:
        raise UserError(f"{folder}: holds no image ({', '.join(SUFFIXES)})")
    pairs = [(path, _labels_of(path, folder), path.relative_to(folder).as_posix()) for path in images]
    if not any(labels for _, labels, _ in pairs):
        raise UserError(
            f"{folder}: none of its {len(images)} images has labels; put NAME.txt beside NAME.jpg or into labels/, "
            "or COCO's JSON into the folder"
        )
    return pairs


def _labels_of(image: Path, folder: Path) -> Path | None:
    parts = list(image.relative_to(folder).parts)
    places = [image.with_suffix(".txt")]
    if "images" in parts[:-1]:
        at = len(parts) - 2 - parts[-2::-1].index("images")
        parts[at] = "labels"
        places.insert(0, folder.joinpath(*parts).with_suffix(".txt"))
    return next((place for place in places if place.is_file()), None)


def yolo_class_names(folder: Path) -> tuple[str, ...]:
    """The class names that a folder of YOLO's says. Raises UserError if it says none."""
    name = folder.resolve().name
    if name in DATASET_CLASSES:
        return DATASET_CLASSES[name]
    for path in (folder / "data.yaml", folder / "dataset.yaml", folder / f"{name}.yaml"):
        if path.is_file():
            return _names_from_yaml(path)
    for path in (folder / "classes.txt", *sorted(folder.glob("*.names"))):
        if path.is_file():
            names = tuple(line.strip() for line in _text(path).splitlines() if line.strip())
            if names:
                return names
    raise UserError(f"{folder}: says no class names; write one a line into classes.txt, or `names:` into data.yaml")


def _names_from_yaml(path: Path) -> tuple[str, ...]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(_text(path))
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path}: no YAML ({str(error).splitlines()[0]}); mend it") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: names: must be a list of class names, or number them from 0")
    return tuple(map(str, names))


def read_yolo_labels(path: Path | None, class_count: int, problems: list[str]) -> Boxes:
    """The boxes of one file, normalised. Rows that cannot be used are noted in problems."""
    boxes, labels = [], []
    for where, line in _rows(path, problems) if path is not None else ():
        try:
            label, box = _yolo_row(line.split(), class_count)
        except ValueError as error:
            note(problems, f"{where}: {error}; skipped")
            continue
        labels.append(label)
        boxes.append(box)
    return Boxes(np.array(boxes, np.float64).reshape(-1, 4), np.array(labels, np.int32), normalised=True)


def _yolo_row(words: list[str], class_count: int) -> tuple[int, Array]:
    """Label and normalised box of one row. Raises ValueError for one that makes no sense."""
    outline = len(words) >= 7 and len(words) % 2 == 1
    values = floats(words, len(words) if outline else 5)
    label = int(values[0])
    if label != values[0] or not 0 <= label < class_count:
        raise ValueError(f"class {words[0]} is not one of 0..{class_count - 1}")
    if outline:
        points = values[1:].reshape(-1, 2)
        box = np.concatenate([points.min(axis=0), points.max(axis=0)])
    else:
        centre, half = values[1:3], values[3:5] / 2.0
        box = np.concatenate([centre - half, centre + half])
    if box.min() < -_SLACK or box.max() > 1.0 + _SLACK:
        raise ValueError("coordinates are not in 0..1; YOLO's are parts of the image's width and height")
    if not (box[2:] > box[:2]).all():
        raise ValueError("the box has no area")
    return label, np.clip(box, 0.0, 1.0)


# --- KITTI -----------------------------------------------------------------------------------------------------------


def find_kitti_pairs(folder: Path, *, missing_ok: bool = False) -> list[Pair]:
    """Images and labels of KITTI's object benchmark. Raises UserError if there are none, unless missing_ok."""
    root = folder / "training" if (folder / "training" / "label_2").is_dir() else folder
    pairs: list[Pair] = []
    for labels in sorted([*root.glob("label_2/*.txt"), *root.glob("label_2_*.txt")]):
        flat = labels.parent == root
        stem = labels.stem.replace("label_2_", "image_2_", 1) if flat else labels.stem
        place = root if flat else root / "image_2"
        image = next((place / f"{stem}{suffix}" for suffix in SUFFIXES if (place / f"{stem}{suffix}").is_file()), None)
        if image is not None:
            pairs.append((image, labels, image.relative_to(root).as_posix()))
    if not pairs and not missing_ok:
        raise UserError(f"{folder}: no KITTI object frames; image_2/000000.png with label_2/000000.txt are wanted")
    return pairs


def read_kitti_labels(path: Path | None, problems: list[str]) -> tuple[Boxes, tuple[str, ...]]:
    """Boxes of one label_2 file, DontCare and Misc as ignored regions of every class; and KITTI's class names."""
    names = kitti_labels.CLASS_NAMES
    misc = names.index("Misc")
    boxes, labels, ignored = [], [], []
    for where, line in _rows(path, problems) if path is not None else ():
        try:
            if line.startswith("DontCare"):
                ignored.append(floats(line.split()[4:], 4))
                continue
            row = kitti_labels.parse_row(line, tracking=False)
        except ValueError as error:
            note(problems, f"{where}: {error}; skipped")
            continue
        if row is None or row.label == misc:
            ignored += [] if row is None else [row.values[:4]]
            continue
        boxes.append(row.values[:4])
        labels.append(row.label)
    regions = np.array(ignored, np.float64).reshape(-1, 4)
    found = Boxes(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(labels, np.int32),
        regions,
        np.full(len(regions), -1, np.int32),
    )
    return found, names


# --- text ------------------------------------------------------------------------------------------------------------


def _rows(path: Path, problems: list[str]) -> Iterator[tuple[str, str]]:
    """(file and line, text) of each row that is not empty; a file that cannot be read is noted."""
    try:
        text = _text(path)
    except (OSError, UserError) as error:
        note(problems, f"{short_name(path)}: {error}; skipped")
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{short_name(path)} line {number}", line.strip()


def _text(path: Path) -> str:
    """A small text file. Raises UserError if it is too large."""
    size = path.stat().st_size
    if size > MAX_LABEL_BYTES:
        raise UserError(f"{path}: {math.ceil(size / 2**20)} MiB are too many for a file of names or labels")
    return path.read_text(encoding="utf-8", errors="replace")
