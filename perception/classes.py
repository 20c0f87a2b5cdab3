"""The six classes of Tercel's own detector, and which of COCO's 80 classes fall under each.

A robot asks of a thing what it may do next and how bad a collision would be: a person, something on two wheels, a car,
something larger, an animal, or an obstacle that stands where one could drive. COCO classes that are none of these
(food, cutlery, things held in a hand) belong to no class of ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.coco import COCO_CLASSES

Array = NDArray[Any]

TERCEL_CLASSES: tuple[str, ...] = ("person", "two-wheeler", "car", "large vehicle", "animal", "obstacle")

_MEMBERS: dict[str, tuple[str, ...]] = {
    "person": ("person",),
    "two-wheeler": ("bicycle", "motorcycle"),
    "car": ("car",),
    "large vehicle": ("bus", "train", "truck"),
    "animal": ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    "obstacle": ("fire hydrant", "stop sign", "parking meter", "bench", "chair", "couch", "potted plant", "suitcase"),
}


def tercel_from_coco() -> Array:
    """(80,) int32: for each COCO label the label in TERCEL_CLASSES, or -1 where there is none."""
    table = np.full(len(COCO_CLASSES), -1, np.int32)
    for label, name in enumerate(TERCEL_CLASSES):
        table[[COCO_CLASSES.index(member) for member in _MEMBERS[name]]] = label
    return table
