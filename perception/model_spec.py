"""What a camera detector must know about its network: input size, preparation of pixels, and kind of head.

A head is recognised by perception/heads.py and decoded by perception/decoders.py. Each one brings the preparation that
its authors trained with, which a model card (perception/model_card.py) overrides:

    head            outputs for input H x W, C classes                 pixels                             fit
    yolox           (1, N, 5 + C), N cells at strides 8 16 32          BGR 0..255                         top-left, 114
    yolov5          (1, 3 N, 5 + C) also YOLOv7                        RGB / 255                          centred, 114
    yolov8          (1, 4 + C, N) also YOLO11 and their like           RGB / 255                          centred, 114
    end_to_end      (1, K, 6) YOLOv10, YOLO26, exports with NMS        RGB / 255                          centred, 114
                    the same of ultralytics' later RT-DETR             RGB / 255                          stretched
    rtdetr          (1, K, 4 + C), or (1, K, C) and (1, K, 4)          RGB / 255                          stretched
    nanodet         3 x (N_s, C) and 3 x (N_s, 32), [1, ...] too       BGR minus mean, over deviation     centred, 0
    nanodet_plus    (1, N, C + 32), N cells at strides 8 16 32 64      the same                           stretched
    fastestdet      (1, 5 + C, H/16, W/16)                             BGR / 255                          stretched
    yolo_fastestv2  2 x (1, h, w, 15 + C), or 3 maps for each stride   BGR / 255                          stretched
    ssd             (1, N, 4) and (1, N, 1 + C), background first      (RGB - 127) / 128                  stretched
    detections      boxes (K, 4), labels (K,), scores (K,)             RGB / 255; uint8 as it is          stretched
    tercel          cls_s (1, C, h, w), box_s (1, 4, h, w) per stride  BGR 0..255                         centred, 114

Sources: YOLOX (arXiv 2107.08430); YOLOv5, v8 and their successors as the ultralytics exporter writes them; YOLOv7
(arXiv 2207.02696); RT-DETR (arXiv 2304.08069) as ultralytics and transformers export it; github.com/RangiLyu/nanodet;
github.com/dog-qiuqiu/FastestDet and /Yolo-FastestV2; SSD as github.com/qfgaohao/pytorch-ssd, torchvision, the ONNX
model zoo and TensorFlow's detection zoo export it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Fit = Literal["letterbox_top_left", "letterbox_centred", "stretch"]
HeadKind = Literal[
    "yolox",
    "yolov5",
    "yolov8",
    "end_to_end",
    "rtdetr",
    "nanodet",
    "nanodet_plus",
    "fastestdet",
    "yolo_fastestv2",
    "ssd",
    "detections",
    "tercel",
]
BoxFormat = Literal["xyxy_px", "xyxy_unit", "yxyx_unit", "cxcywh_px", "cxcywh_unit"]
Layout = Literal["nchw", "nhwc"]
InputDtype = Literal["float32", "float16", "uint8"]
Colour = Literal["bgr", "rgb"]
Shape = tuple[int, ...]
Triple = tuple[float, float, float]

STRIDES_PX = (8, 16, 32)
NANODET_PLUS_STRIDES_PX = (8, 16, 32, 64)
YOLO_FASTESTV2_STRIDES_PX = (16, 32)
FASTESTDET_STRIDE_PX = 16
DFL_BINS = 8
"""Each NanoDet box side is a distribution over this many distances, 0..7 strides."""
ANCHORS_PER_CELL = 3
"""Of the heads with anchors: YOLOv5, YOLOv7 and Yolo-FastestV2."""

WITHOUT_NMS: frozenset[HeadKind] = frozenset({"end_to_end", "rtdetr", "detections", "tercel"})
"""Heads that give each object once: nothing is suppressed."""

MAX_INPUT_SIDE_PX = 4096
MAX_CLASSES = 10_000


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a detector's network that its component needs.

    input_height_px, input_width_px, layout, dtype: of the tensor (1, 3, H, W), or (1, H, W, 3) as "nhwc". fit: how an
    image of another shape is placed into it; pad_value fills the rest, in 0..255. The tensor is (pixel - mean) / std
    per channel, in `colour` order; mean and std are on the scale 0..255. class_names: one for each class of the head.

    output_order: which outputs of the file the head's decoder takes, in its order; empty: all, as they are.
    box_format: how the heads that give finished boxes write them (px: of the input; unit: 0..1); None: as usual for
    the head. first_label: the number that the head gives to the first of class_names; 1 where 0 is the background.
    """

    head: HeadKind
    input_height_px: int
    input_width_px: int
    fit: Fit
    class_names: tuple[str, ...]
    pad_value: int = 0
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    colour: Colour = "bgr"
    layout: Layout = "nchw"
    dtype: InputDtype = "float32"
    output_order: tuple[int, ...] = ()
    box_format: BoxFormat | None = None
    first_label: int = 0

    def __post_init__(self) -> None:
        for side in (self.input_height_px, self.input_width_px):
            if not 1 <= side <= MAX_INPUT_SIDE_PX:
                raise ValueError(
                    f"input size {self.input_height_px}x{self.input_width_px} not in 1..{MAX_INPUT_SIDE_PX}"
                )
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"pad_value {self.pad_value} not in 0..255")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0.0:
            raise ValueError(f"mean {self.mean} must be finite and std {self.std} above 0")
        if self.dtype == "uint8" and (self.mean, self.std) != ((0.0,) * 3, (1.0,) * 3):
            raise ValueError("a uint8 input takes pixels as they are: no mean, no std")
        if not 1 <= len(self.class_names) <= MAX_CLASSES:
            raise ValueError(f"{len(self.class_names)} class names: 1 to {MAX_CLASSES} are wanted")
        if self.first_label not in (0, 1):
            raise ValueError(f"first_label {self.first_label} must be 0 or 1")

    @property
    def input_shape(self) -> Shape:
        """(1, 3, H, W), or (1, H, W, 3)."""
        size = (self.input_height_px, self.input_width_px)
        return (1, 3, *size) if self.layout == "nchw" else (1, *size, 3)

    @property
    def needs_nms(self) -> bool:
        """Whether the head gives several boxes for one object."""
        return self.head not in WITHOUT_NMS


def cell_counts(height_px: int, width_px: int, strides_px: Sequence[int] = STRIDES_PX) -> tuple[int, ...]:
    """How many grid cells an input has at each stride; a cell that only partly lies in the input does not count."""
    return tuple((height_px // stride) * (width_px // stride) for stride in strides_px)


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
