"""The 80 class names of COCO (Lin et al. 2014), in the order that detectors trained on it number them."""

from __future__ import annotations

COCO_CLASSES: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Of COCO's category ids 1 to 90, those that no category has."""


def _by_category_id() -> tuple[str, ...]:
    names = iter(COCO_CLASSES)
    return tuple(f"unused_{number}" if number in _UNUSED_IDS else next(names) for number in range(1, 91))


COCO91_CLASSES: tuple[str, ...] = _by_category_id()
"""The same names by COCO's own category ids 1 to 90, as torchvision and TensorFlow number them."""


def class_names_for(class_count: int) -> tuple[str, ...]:
    """COCO's names for 80 classes, else class_0, class_1, ..."""
    if class_count == len(COCO_CLASSES):
        return COCO_CLASSES
    return tuple(f"class_{index}" for index in range(class_count))
