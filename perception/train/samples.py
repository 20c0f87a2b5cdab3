"""Training pictures without end: labelled pictures cut, placed, mixed and disturbed, from one seeded random stream.

A sample is one window of one picture or a mosaic of four (YOLOv4, arXiv 2004.10934), at random scale, mirrored or not,
with objects of the labelled photographs pasted in now and then, and with the colours, noise, blur and compression that
cameras add. So few photographs are allowed for training that the augmentation is most of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.classes import TERCEL_CLASSES
from perception.labelled import LabelledFolder, in_classes

Array = NDArray[Any]

PAD_VALUE = 114
LEAST_SIDE_PX, LEAST_VISIBLE = 3.0, 0.35  # of a true box that still counts after cutting


@dataclass(frozen=True, eq=False)
class Picture:
    """bgr (H, W, 3) uint8, boxes_px (N, 4) float32 x1 y1 x2 y2, labels (N,) int32 in TERCEL_CLASSES."""

    bgr: Array
    boxes_px: Array
    labels: Array


@dataclass(frozen=True, eq=False)
class Source:
    """Pictures of one kind; share of the samples that are made of them; taught: whether the teacher
    knows such pictures, so that they may be blended; scales: of the whole picture's fit into a sample."""

    name: str
    pictures: list[Picture]
    share: float
    taught: bool
    scales: tuple[float, float]


def pictures_of(labelled: LabelledFolder) -> list[Picture]:
    """Labelled images in our six classes, in memory."""
    pictures = []
    for index in range(len(labelled)):
        ours = in_classes(labelled[index], TERCEL_CLASSES)
        pictures.append(Picture(ours.image.pixels, ours.truth.boxes_xyxy_px, ours.truth.labels))
    return pictures


class Sampler:
    """Samples (picture (side, side, 3) uint8 BGR, boxes (N, 4), labels (N,), blended) of a seeded stream.

    Of two blended photographs only the teacher can say what is to be seen: the boxes given are one photograph's.
    """

    def __init__(self, sources: list[Source], side_px: int, seed: int) -> None:
        self._sources = sources
        self._shares = np.array([source.share for source in sources]) / sum(source.share for source in sources)
        self._side = side_px
        self._rng = np.random.default_rng(seed)
        photographs = [picture for source in sources if source.taught for picture in source.pictures]
        self._objects = [
            [(picture, box) for picture in photographs for box in picture.boxes_px[picture.labels == label]]
            for label in range(len(TERCEL_CLASSES))
        ]

    def draw(self) -> tuple[Array, Array, Array, bool]:
        """The next sample."""
        rng = self._rng
        source = self._sources[int(rng.choice(len(self._sources), p=self._shares))]
        bgr, boxes, labels = self._view(source)
        blended = source.taught and rng.random() < 0.5
        if blended:
            share = rng.uniform(0.3, 0.7)
            bgr = cv2.addWeighted(bgr, share, self._view(source)[0], 1.0 - share, 0.0)
        if rng.random() < 0.4:
            bgr, boxes, labels = self._paste(bgr, boxes, labels)
        if rng.random() < 0.5:
            bgr = np.ascontiguousarray(bgr[:, ::-1])
            boxes = boxes.copy()
            boxes[:, [0, 2]] = self._side - boxes[:, [2, 0]]
        return _disturb(bgr, rng), boxes.astype(np.float32), labels.astype(np.int32), blended

    def _view(self, source: Source) -> tuple[Array, Array, Array]:
        """One window or a mosaic."""
        if self._rng.random() < 0.5:
            return self._window(source, self._side, self._side)
        return self._mosaic(source)

    def _window(self, source: Source, width: int, height: int) -> tuple[Array, Array, Array]:
        """A window of the source's next picture; the rest is padding."""
        rng = self._rng
        picture = source.pictures[int(rng.integers(len(source.pictures)))]
        size = np.array(picture.bgr.shape[1::-1], float)
        fit = self._side / size.max()
        scale = fit * np.exp(rng.uniform(np.log(source.scales[0]), np.log(source.scales[1])))
        scale_xy = scale * np.array([np.exp(rng.uniform(-0.12, 0.12)), 1.0])
        room = np.array([width, height]) - size * scale_xy  # negative: the picture is larger than the window
        offset = rng.uniform(size=2) * room
        matrix = np.array([[scale_xy[0], 0, offset[0]], [0, scale_xy[1], offset[1]]])
        source_bgr = picture.bgr
        if scale < 0.6:  # against aliasing, which no camera shows so
            factor = max(scale / 0.9, 0.05)
            source_bgr = cv2.resize(source_bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            shrunk = np.array(source_bgr.shape[1::-1]) / size
            matrix[:, :2] /= shrunk
        border = (PAD_VALUE,) * 3
        bgr = cv2.warpAffine(source_bgr, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=border)
        boxes = picture.boxes_px * np.tile(scale_xy, 2) + np.tile(offset, 2)
        return bgr, *_clipped(boxes, picture.labels, width, height)

    def _mosaic(self, source: Source) -> tuple[Array, Array, Array]:
        side = self._side
        x, y = (int(side * self._rng.uniform(0.3, 0.7)) for _ in range(2))
        bgr = np.empty((side, side, 3), np.uint8)
        boxes, labels = [], []
        for left, top, right, bottom in ((0, 0, x, y), (x, 0, side, y), (0, y, x, side), (x, y, side, side)):
            part, found, names = self._window(source, right - left, bottom - top)
            bgr[top:bottom, left:right] = part
            boxes.append(found + np.array([left, top, left, top]))
            labels.append(names)
        return bgr, np.concatenate(boxes), np.concatenate(labels)

    def _paste(self, bgr: Array, boxes: Array, labels: Array) -> tuple[Array, Array, Array]:
        """One to three objects of the photographs, rare classes as often as common ones; what they cover is gone."""
        rng = self._rng
        bgr = bgr.copy()
        for _ in range(int(rng.integers(1, 4))):
            label = int(rng.integers(len(self._objects)))
            if not self._objects[label]:
                continue
            picture, box = self._objects[label][int(rng.integers(len(self._objects[label])))]
            x1, y1, x2, y2 = np.clip(box, 0, np.tile(picture.bgr.shape[1::-1], 2)).astype(int)
            height = int(np.exp(rng.uniform(np.log(14.0), np.log(0.8 * self._side))))
            width = round(height * (x2 - x1) / max(y2 - y1, 1))
            if min(x2 - x1, y2 - y1) < 8 or not 6 <= width < self._side or height > 1.5 * (y2 - y1):
                continue
            patch = cv2.resize(picture.bgr[y1:y2, x1:x2], (width, height), interpolation=cv2.INTER_AREA)
            left, top = int(rng.integers(self._side - width)), int(rng.integers(self._side - height))
            new = np.array([[left, top, left + width, top + height]], float)
            covered = _covered(boxes, new[0])
            if (covered > 0.05).any() and (covered < 0.6).any() and covered.max() > 0.3:
                continue  # half hidden boxes are truths of a doubtful kind
            window = bgr[top : top + height, left : left + width]
            alpha = _soft_ellipse(height, width) if rng.random() < 0.7 else np.ones((height, width, 1), np.float32)
            window[:] = (window * (1 - alpha) + patch * alpha).astype(np.uint8)
            boxes = np.concatenate([boxes[covered < 0.6], new])
            labels = np.concatenate([labels[covered < 0.6], [label]])
        return bgr, boxes, labels


def _soft_ellipse(height: int, width: int) -> Array:
    """(H, W, 1) float32: 1 inside a rounded box that fills the patch, falling to 0 in its corners."""
    y = np.abs(np.linspace(-1, 1, height))[:, None] ** 4
    x = np.abs(np.linspace(-1, 1, width))[None] ** 4
    weight: Array = np.clip((1.15 - (x + y)) / 0.3, 0.0, 1.0)[..., None].astype(np.float32)
    return weight


def _covered(boxes: Array, by: Array) -> Array:
    """Share of each box (N, 4) that lies under another box (4,)."""
    overlap = np.minimum(boxes[:, 2:], by[2:]) - np.maximum(boxes[:, :2], by[:2])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    covered: Array = np.clip(overlap, 0, None).prod(1) / np.maximum(area, 1e-6)
    return covered


def _clipped(boxes: Array, labels: Array, width: int, height: int) -> tuple[Array, Array]:
    inside = np.clip(boxes, 0, np.tile([width, height], 2))
    size = inside[:, 2:] - inside[:, :2]
    visible = size.prod(1) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-6)
    kept = (size.min(1, initial=np.inf) >= LEAST_SIDE_PX) & (visible >= LEAST_VISIBLE)
    return inside[kept], labels[kept]


def _disturb(bgr: Array, rng: np.random.Generator) -> Array:
    """Colour, brightness, contrast, blur, noise, grey and compression, as lenses, sensors and codecs do."""
    gain, shift = np.exp(rng.uniform(-0.35, 0.35)), rng.uniform(-25, 25)
    tint = np.exp(rng.uniform(-0.12, 0.12, 3))
    gamma = np.exp(rng.uniform(-0.3, 0.3))
    ramp = 255.0 * (np.arange(256) / 255.0) ** gamma
    table = np.clip((ramp[:, None] - 114) * gain * tint + 114 + shift, 0, 255).astype(np.uint8)
    bgr = cv2.LUT(bgr, table[None])
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
        hue = (np.arange(256) + int(rng.integers(-8, 9))) % 180
        saturation = np.clip(np.arange(256) * np.exp(rng.uniform(-0.6, 0.4)), 0, 255)
        hsv = cv2.LUT(hsv, np.stack([hue, saturation, np.arange(256)], 1).astype(np.uint8)[None])
        bgr = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if rng.random() < 0.08:
        bgr = cv2.cvtColor(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if rng.random() < 0.15:
        bgr = cv2.GaussianBlur(bgr, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < 0.2:
        noise = rng.normal(0, rng.uniform(2, 12), bgr.shape).astype(np.float32)
        bgr = np.clip(bgr + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
        bgr = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return bgr
