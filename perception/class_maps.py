"""Which class of COCO, or of our six, the classes of other sources are.

A name means the same wherever it stands; case and the joints of words do not matter. A name that is nowhere here
belongs to a class only if it is one of that class list itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.classes import TERCEL_CLASSES, tercel_from_coco
from perception.coco import COCO_CLASSES

Array = NDArray[Any]

RIDERS: Mapping[str, tuple[str, ...]] = {"cyclist": ("person", "bicycle", "motorcycle")}
"""Names of a rider together with what is ridden, and the classes that such a box shows without being one's box."""

_TO_COCO = {
    "pedestrian": "person", "person sitting": "person", "van": "car", "minibus": "bus", "tram": "train",
    "motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant",
    "diningtable": "dining table", "tvmonitor": "tv",
}  # fmt: skip
_TO_TERCEL = {"cyclist": "two-wheeler", "rider": "person", "trailer": "large vehicle"}


@cache
def label_table(from_names: tuple[str, ...], to_names: tuple[str, ...]) -> Array:
    """(len(from_names),) int32: for each label the label among to_names, -1 where there is none.

    to_names: COCO_CLASSES, TERCEL_CLASSES, or a list that shares names with from_names. The table is read-only.
    """
    targets = {_plain(name): label for label, name in enumerate(to_names)}
    table = np.array([_label(_plain(name), targets, to_names) for name in from_names], np.int32)
    table.flags.writeable = False
    return table


def is_coco(class_names: Sequence[str]) -> bool:
    """Whether these are COCO's 80 classes, in its order."""
    return tuple(class_names) == COCO_CLASSES


def _label(name: str, targets: Mapping[str, int], to_names: tuple[str, ...]) -> int:
    if name in targets:
        return targets[name]
    coco = _TO_COCO.get(name, name)
    if to_names == TERCEL_CLASSES:
        if name in _TO_TERCEL:
            return TERCEL_CLASSES.index(_TO_TERCEL[name])
        return int(tercel_from_coco()[COCO_CLASSES.index(coco)]) if coco in COCO_CLASSES else -1
    return targets.get(coco, -1)


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())
