"""The network of `tercel-nano`, in torch: backbone, neck, and the two heads of which only one is released.

Plain 3x3 convolutions with ReLU6, because that is what INT8 makes faster on CPUs: of the candidates in `Shape` the
benchmark `bench_nano_network.py` measured the latency in both backends, and multiply-accumulates were not looked at
(FemtoDet, arXiv 2301.06719, and LowFormer, arXiv 2409.03460, say why: depthwise layers move bytes and compute little).
Residual blocks add before the activation, so that a quantized addition folds into the convolution before it.

The neck brings coarse context down (nearest upsampling and addition; no concatenation, whose inputs would have to share
one quantization step) and one 3x3 convolution at each stride makes the features of the head. Two heads read them: the
one-to-many head is used in training only; the one-to-one head needs no non-maximum suppression (YOLOv10, arXiv
2405.14458; YOLO26). Box sides come out of a ReLU, in strides from the cell's middle, without a distribution (no DFL).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES_PX = (8, 16, 32)
PIXEL_SCALE = 128.0
PRIOR_PROBABILITY = 0.01  # of a class in a cell before training: RetinaNet's start, which keeps the first steps calm


@dataclass(frozen=True)
class Shape:
    """Channels of the stages at strides 4, 8, 16, 32; residual blocks of each stage; neck's channels.

    kind: of the residual blocks: "dense" (one 3x3), "bottleneck" (1x1 to half the channels, 3x3) or "mobile" (1x1,
    depthwise 3x3, 1x1). edges: fixed Scharr gradients and a Gaussian blur beside the picture, as in
    LEGNet (arXiv 2503.14012).
    """

    channels: tuple[int, int, int, int] = (32, 48, 96, 128)
    blocks: tuple[int, int, int, int] = (0, 2, 2, 1)
    neck: int = 48
    kind: str = "dense"
    edges: bool = False
    activation: str = "relu6"


def _activation(shape: Shape) -> nn.Module:
    return nn.ReLU6(inplace=True) if shape.activation == "relu6" else nn.ReLU(inplace=True)


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch normalisation, without activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
    )


class Residual(nn.Module):
    """x + f(x), then the activation."""

    def __init__(self, channels: int, shape: Shape) -> None:
        super().__init__()
        if shape.kind == "dense":
            self.body = convolution(channels, channels, 3)
        elif shape.kind == "bottleneck":
            half = channels // 2
            self.body = nn.Sequential(
                convolution(channels, half, 1), _activation(shape), convolution(half, channels, 3)
            )
        else:
            wide = channels * 2
            self.body = nn.Sequential(
                convolution(channels, wide, 1),
                _activation(shape),
                convolution(wide, wide, 3, groups=wide),
                _activation(shape),
                convolution(wide, channels, 1),
            )
        self.activation = _activation(shape)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        out: Tensor = self.activation(x + self.body(x))
        return out


class Head(nn.Module):
    """One 3x3 convolution for each stride, then class logits and box sides."""

    def __init__(self, shape: Shape, class_count: int) -> None:
        super().__init__()
        strides = range(len(STRIDES_PX))
        self.towers = nn.ModuleList(
            nn.Sequential(convolution(shape.neck, shape.neck, 3), _activation(shape)) for _ in strides
        )
        self.classes = nn.ModuleList(nn.Conv2d(shape.neck, class_count, 1) for _ in strides)
        self.sides = nn.ModuleList(nn.Conv2d(shape.neck, 4, 1) for _ in strides)
        for classes, sides in zip(self.classes, self.sides, strict=True):
            nn.init.normal_(classes.weight, std=0.01)
            nn.init.constant_(classes.bias, -math.log(1.0 / PRIOR_PROBABILITY - 1.0))
            nn.init.normal_(sides.weight, std=0.01)
            nn.init.constant_(sides.bias, 2.0)  # boxes of four strides: a dead ReLU would never learn

    def forward(self, features: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Features (N, C, H/s, W/s) -> for each stride class logits (N, classes, h, w), box sides (N, 4, h, w)
        before their ReLU."""
        result = []
        for feature, tower, classes, sides in zip(features, self.towers, self.classes, self.sides, strict=True):
            hidden = tower(feature)
            result.append((classes(hidden), sides(hidden)))
        return result


class EdgeStem(nn.Module):
    """The picture beside its Scharr gradient and its Gaussian blur: fixed 3x3 filters over the brightness (LEGNet)."""

    def __init__(self) -> None:
        super().__init__()
        scharr = torch.tensor([[-3.0, 0.0, 3.0], [-10.0, 0.0, 10.0], [-3.0, 0.0, 3.0]]) / 32.0
        gauss = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16.0
        filters = torch.stack([scharr, scharr.T, gauss])[:, None].expand(3, 3, 3, 3) / 3.0
        self.register_buffer("filters", filters.clone())

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 6, H, W)."""
        filters: Tensor = self.filters
        return torch.cat([x, functional.conv2d(x, filters, padding=1)], dim=1)


class TercelNano(nn.Module):
    """Pictures (N, 3, H, W) float32, BGR 0..255, H and W multiples of 32."""

    def __init__(self, shape: Shape, class_count: int) -> None:
        super().__init__()
        self.shape = shape
        self.edges: nn.Module = EdgeStem() if shape.edges else nn.Identity()
        colours = 6 if shape.edges else 3
        self.stem = nn.Sequential(
            nn.Conv2d(colours, shape.channels[0], 6, 4, 1, bias=False),  # one overlapping patch for each cell
            nn.BatchNorm2d(shape.channels[0], eps=1e-3, momentum=0.03),
            _activation(shape),
        )
        stages, previous = [], shape.channels[0]
        for index, (channels, blocks) in enumerate(zip(shape.channels, shape.blocks, strict=True)):
            down = [convolution(previous, channels, 3, 2), _activation(shape)] if index else []
            stages.append(nn.Sequential(*down, *(Residual(channels, shape) for _ in range(blocks))))
            previous = channels
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList(convolution(channels, shape.neck, 1) for channels in shape.channels[1:])
        self.activation = _activation(shape)
        self.one_to_one = Head(shape, class_count)
        self.one_to_many = Head(shape, class_count)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """The neck's features at strides 8, 16, 32."""
        # A scale alone, which export folds into the first convolution; a shift would change what its padding means.
        return self.neck_of(self.stem(self.edges(pictures / PIXEL_SCALE)))

    def neck_of(self, x: Tensor) -> list[Tensor]:
        """The same, from the stem's output."""
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        coarse = self.activation(self.laterals[2](found[3]))
        middle = self.activation(self.laterals[1](found[2]) + _double(coarse))
        fine = self.activation(self.laterals[0](found[1]) + _double(middle))
        return [fine, middle, coarse]

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """The released outputs: for each stride class logits (N, classes, h, w) and box sides (N, 4, h, w) >= 0."""
        heads = self.one_to_one(self.features(pictures))
        return tuple(out for logits, sides in heads for out in (logits, functional.relu(sides)))


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
