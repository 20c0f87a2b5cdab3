"""Images -> the tensor that a network takes, and boxes back from the network's pixels to the image's.

An image of any colour encoding becomes BGR uint8, is resized into the network's input (with its aspect ratio kept and
the rest padded, or stretched), and is normalised and laid out as planes in one table lookup per channel: a uint8 has
256 values, so (v - mean) / std is a table of 256 floats. Canvas and planes are allocated once for each network; the
tensor is new for each image, because an offloaded one may still be on its way when the next image comes.

Of 16-bit pixels the upper byte is taken, as cv2.imread does: the encoding says that they fill their range. What a
10- or 12-bit camera packs into 16 bits is dark by that, so its host scales it. Depth (16UC1) is no colour image.

Pixel coordinates are continuous: pixel i covers [i, i + 1), as cv2.resize has it, so input = image * scale + offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.model_spec import Fit, ModelSpec
from tercel.core.errors import Rejected
from tercel.core.messages import Image

Array = NDArray[Any]

MAX_IMAGE_SIDE_PX = 32767
"""OpenCV's own limit for resizing and warping."""

_CHANNELS = {"bgr8": 3, "rgb8": 3, "bgra8": 4, "rgba8": 4, "mono8": 1}
_EIGHT_BIT = {"bgr16": "bgr8", "rgb16": "rgb8", "bgra16": "bgra8", "rgba16": "rgba8", "mono16": "mono8"}
_TO_BGR = {
    "rgb8": cv2.COLOR_RGB2BGR,
    "bgra8": cv2.COLOR_BGRA2BGR,
    "rgba8": cv2.COLOR_RGBA2BGR,
    "mono8": cv2.COLOR_GRAY2BGR,
}


def bgr_from_image(image: Image) -> Array:
    """The image as (H, W, 3) uint8 BGR, contiguous; shares memory where it already is. 16-bit values lose a byte.

    Raises Rejected for an encoding that holds no colour image, pixels that do not fit the encoding, and an empty or
    oversized image.
    """
    encoding = _EIGHT_BIT.get(image.encoding, image.encoding)
    channels = _CHANNELS.get(encoding)
    if channels is None:
        raise Rejected("image encoding is not a colour image")
    pixels = image.pixels
    if encoding != image.encoding and pixels.dtype != np.uint16:
        raise Rejected("image pixels are not uint16")
    if encoding == image.encoding and pixels.dtype != np.uint8:
        raise Rejected("image pixels are not uint8")
    if (pixels.shape[2] if pixels.ndim == 3 else 1) != channels:
        raise Rejected("image channels do not fit its encoding")
    if pixels.size == 0:
        raise Rejected("image is empty")
    if max(pixels.shape[:2]) > MAX_IMAGE_SIDE_PX:
        raise Rejected("image is too large")
    pixels = np.ascontiguousarray(pixels if encoding == image.encoding else (pixels >> 8).astype(np.uint8))
    if encoding == "bgr8":
        return pixels
    return np.asarray(cv2.cvtColor(pixels, _TO_BGR[encoding]))


@dataclass(frozen=True)
class Placement:
    """Where an image lies in a network's input: input_px = image_px * scale + offset, in x and y."""

    image_width_px: int
    image_height_px: int
    placed_width_px: int
    placed_height_px: int
    offset_x_px: int
    offset_y_px: int

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Input pixels for each image pixel; exact, so x and y may differ by the rounding to whole pixels."""
        return self.placed_width_px / self.image_width_px, self.placed_height_px / self.image_height_px

    def boxes_to_image(self, boxes_xyxy_input_px: Array) -> Array:
        """Boxes (N, 4) in the network's pixels -> (N, 4) float32 in the image's, clipped to the image."""
        scale = np.tile(self.scale_xy, 2)
        offset = np.tile([self.offset_x_px, self.offset_y_px], 2)
        limit = np.tile([self.image_width_px, self.image_height_px], 2)
        boxes = (np.asarray(boxes_xyxy_input_px, dtype=np.float64) - offset) / scale
        clipped: Array = np.clip(boxes, 0.0, limit).astype(np.float32)
        return clipped

    def boxes_to_input(self, boxes_xyxy_px: Array) -> Array:
        """Boxes (N, 4) in the image's pixels -> (N, 4) float64 in the network's."""
        scale = np.tile(self.scale_xy, 2)
        offset = np.tile([self.offset_x_px, self.offset_y_px], 2)
        result: Array = np.asarray(boxes_xyxy_px, dtype=np.float64) * scale + offset
        return result


def place(image_height_px: int, image_width_px: int, input_height_px: int, input_width_px: int, fit: Fit) -> Placement:
    """Place an image into a network's input: stretched over all of it, or as large as fits at its own aspect ratio."""
    if fit == "stretch":
        return Placement(image_width_px, image_height_px, input_width_px, input_height_px, 0, 0)
    scale = min(input_height_px / image_height_px, input_width_px / image_width_px)
    width = min(max(round(image_width_px * scale), 1), input_width_px)
    height = min(max(round(image_height_px * scale), 1), input_height_px)
    left, top = 0, 0
    if fit == "letterbox_centred":
        left, top = (input_width_px - width) // 2, (input_height_px - height) // 2
    return Placement(image_width_px, image_height_px, width, height, left, top)


class TensorMaker:
    """Turns BGR images into one network's input tensors; see the module's docstring."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        size = (spec.input_height_px, spec.input_width_px)
        self._canvas = np.full((*size, 3), spec.pad_value, np.uint8)
        self._planes = [np.empty(size, np.uint8) for _ in range(3)]
        self._tables = [
            ((np.arange(256) - mean) / std).astype(np.float32)[None]
            for mean, std in zip(spec.mean, spec.std, strict=True)
        ]
        self._placement: Placement | None = None

    def __call__(self, bgr: Array) -> tuple[Array, Placement]:
        """Image (H, W, 3) uint8 -> tensor in the spec's shape and dtype, and where the image lies in it."""
        spec = self._spec
        placement = place(bgr.shape[0], bgr.shape[1], spec.input_height_px, spec.input_width_px, spec.fit)
        if placement != self._placement:
            self._canvas.fill(spec.pad_value)
            self._placement = placement
        top, left = placement.offset_y_px, placement.offset_x_px
        size = (placement.placed_width_px, placement.placed_height_px)
        cv2.resize(bgr, size, dst=self._canvas[top : top + size[1], left : left + size[0]])
        cv2.split(self._canvas, self._planes)
        planes = self._planes if spec.colour == "bgr" else self._planes[::-1]
        tensor = np.empty((1, 3, spec.input_height_px, spec.input_width_px), np.float32)
        for plane, table, out in zip(planes, self._tables, tensor[0], strict=True):
            cv2.LUT(plane, table, dst=out)
        if spec.layout == "nhwc":
            tensor = tensor.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(tensor, dtype=spec.dtype), placement
