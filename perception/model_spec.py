"""What a camera detector must know about its network: input size, preparation of pixels, and kind of head.

A head is recognised by the shapes of its outputs; their names are not trusted (exporters shuffle them). Each head
brings the preparation that its authors trained with:

    head        outputs for input H x W, C classes            pixels                                   fit
    yolox       (1, N, 5 + C), N cells at strides 8 16 32     BGR 0..255                               top-left, pad 114
    nanodet     3 x (N_s, C) and 3 x (N_s, 32), [1, ...] too  BGR minus mean, over standard deviation  centred, pad 0
    fastestdet  (1, 5 + C, H/16, W/16)                        BGR / 255                                stretched

Sources: YOLOX (arXiv 2107.08430), NanoDet (github.com/RangiLyu/nanodet), FastestDet (github.com/dog-qiuqiu/FastestDet).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from perception.coco import class_names_for
from tercel.core.errors import UserError

Fit = Literal["letterbox_top_left", "letterbox_centred", "stretch"]
HeadKind = Literal["yolox", "nanodet", "fastestdet"]
Shape = tuple[int, ...]
Triple = tuple[float, float, float]

STRIDES_PX = (8, 16, 32)
FASTESTDET_STRIDE_PX = 16
DFL_BINS = 8
"""Each NanoDet box side is a distribution over this many distances, 0..7 strides."""

MAX_INPUT_SIDE_PX = 4096


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a detector's network that its component needs.

    input_height_px, input_width_px: of the tensor (1, 3, H, W) float32. fit: how an image of another shape is placed
    into it; pad_value fills the rest, in 0..255. The tensor is (pixel - mean) / std per channel, in `colour` order;
    mean and std are on the scale 0..255. class_names: one for each class of the head.
    """

    head: HeadKind
    input_height_px: int
    input_width_px: int
    fit: Fit
    class_names: tuple[str, ...]
    pad_value: int = 0
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    colour: Literal["bgr", "rgb"] = "bgr"

    def __post_init__(self) -> None:
        for side in (self.input_height_px, self.input_width_px):
            if not 1 <= side <= MAX_INPUT_SIDE_PX:
                raise ValueError(
                    f"input size {self.input_height_px}x{self.input_width_px} not in 1..{MAX_INPUT_SIDE_PX}"
                )
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"pad_value {self.pad_value} not in 0..255")
        if min(self.std) <= 0.0:
            raise ValueError(f"std {self.std} must be above 0")
        if not self.class_names:
            raise ValueError("class_names is empty")

    @property
    def input_shape(self) -> Shape:
        """(1, 3, H, W)."""
        return (1, 3, self.input_height_px, self.input_width_px)


def detector_spec(
    input_shape: Sequence[int],
    output_shapes: Sequence[Sequence[int]],
    *,
    class_names: tuple[str, ...] | None = None,
    where: str = "model",
) -> ModelSpec:
    """The spec of a detector with these shapes; class_names default to COCO's where there are 80 classes.

    Raises UserError, naming `where`, for an input that is not one colour image, for outputs of no known head, and for
    a wrong number of class names.
    """
    height, width = _image_size(input_shape, where)
    shapes = [tuple(shape) for shape in output_shapes]
    head, class_count = _recognise(shapes, height, width, where)
    names = class_names_for(class_count) if class_names is None else tuple(class_names)
    if len(names) != class_count:
        raise UserError(f"{where}: {len(names)} class names given, but the model has {class_count} classes")
    if head == "yolox":
        return ModelSpec(head, height, width, "letterbox_top_left", names, pad_value=114)
    if head == "nanodet":
        mean, std = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
        return ModelSpec(head, height, width, "letterbox_centred", names, pad_value=0, mean=mean, std=std)
    return ModelSpec(head, height, width, "stretch", names, std=(255.0, 255.0, 255.0))


def cell_counts(height_px: int, width_px: int) -> tuple[int, ...]:
    """How many grid cells an input has at each of STRIDES_PX."""
    return tuple((height_px // stride) * (width_px // stride) for stride in STRIDES_PX)


def nanodet_order(shapes: Sequence[Shape], height_px: int, width_px: int) -> tuple[list[int], list[int]] | None:
    """Which outputs are class scores and which are box distributions, each in the order of STRIDES_PX.

    Of the two outputs with a stride's number of rows, boxes are the one with 4 * DFL_BINS columns; where both have
    (32 classes), the later one. None if the shapes are not NanoDet's.
    """
    columns = 4 * DFL_BINS
    scores, boxes = [], []
    if len(shapes) != 2 * len(STRIDES_PX) or any(len(s) < 2 or any(side != 1 for side in s[:-2]) for s in shapes):
        return None
    for cells in cell_counts(height_px, width_px):
        pair = [index for index, shape in enumerate(shapes) if shape[-2] == cells]
        if len(pair) != 2 or columns not in (shapes[pair[0]][-1], shapes[pair[1]][-1]):
            return None
        if shapes[pair[1]][-1] != columns:
            pair.reverse()
        scores.append(pair[0])
        boxes.append(pair[1])
    return (scores, boxes) if len({shapes[index][-1] for index in scores}) == 1 else None


def _image_size(input_shape: Sequence[int], where: str) -> tuple[int, int]:
    shape = tuple(input_shape)
    if len(shape) != 4 or shape[0] != 1:
        raise UserError(f"{where}: input shape {shape} is not one image (1, 3, height, width)")
    if shape[1] != 3:
        raise UserError(f"{where}: input has {shape[1]} channels; a camera detector needs 3 (1, 3, height, width)")
    if not all(1 <= side <= MAX_INPUT_SIDE_PX for side in shape[2:]):
        raise UserError(f"{where}: input size {shape[2]}x{shape[3]} is not in 1..{MAX_INPUT_SIDE_PX} pixels a side")
    return shape[2], shape[3]


def _recognise(shapes: Sequence[Shape], height_px: int, width_px: int, where: str) -> tuple[HeadKind, int]:
    """(head, class count) of output shapes."""
    cells = sum(cell_counts(height_px, width_px))
    if len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][:2] == (1, cells) and shapes[0][2] > 5:
        return "yolox", shapes[0][2] - 5
    grid = (height_px // FASTESTDET_STRIDE_PX, width_px // FASTESTDET_STRIDE_PX)
    if len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][0] == 1 and shapes[0][2:] == grid and shapes[0][1] > 5:
        return "fastestdet", shapes[0][1] - 5
    order = nanodet_order(shapes, height_px, width_px)
    if order is not None:
        return "nanodet", shapes[order[0][0]][-1]
    seen = ", ".join(str(shape).replace(" ", "") for shape in shapes[:8]) + (", ..." if len(shapes) > 8 else "")
    raise UserError(
        f"{where}: outputs {seen} for input {height_px}x{width_px} are no head known here; "
        "export a YOLOX, NanoDet or FastestDet model without its post-processing"
    )
