"""Images -> the tensor that a network takes, and boxes back from the network's pixels to the image's.

An image of any colour encoding becomes BGR uint8, is resized to its place in the network's input (with its aspect ratio
kept and the rest padded, or stretched), and is normalised on its way into the tensor: a uint8 has 256 values, so
(v - mean) / std is a table of 256 floats. Where that table is v itself or v / std, bit for bit, a conversion or a
division of whole planes gives the same 3 to 5 times sooner. Padding is written, not computed. What stands between
image and tensor is allocated once for each size; the tensor is new for each image, because an offloaded one may still
be on its way when the next image comes.

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
    """Turns BGR images into one network's input tensors; see the module's docstring. For one caller at a time."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        # In the order of the image's channels: blue, green, red.
        order = slice(None) if spec.colour == "bgr" else slice(None, None, -1)
        mean, std = np.array(spec.mean)[order], np.array(spec.std)[order]
        self._table = ((np.arange(256)[:, None] - mean) / std).astype(np.float32)
        self._divisors = std.astype(np.float32)[:, None, None]
        values = np.arange(256, dtype=np.float32)
        self._is_plain = bool((self._table == values[:, None]).all())
        self._is_scaled = bool((self._table == (values / self._divisors[:, 0]).T).all())
        self._image: Array = np.empty((0, 0, 3), np.uint8)
        self._planes: Array = np.empty((3, 0, 0), np.uint8)

    def __call__(self, bgr: Array) -> tuple[Array, Placement]:
        """Image (H, W, 3) uint8 -> tensor in the spec's shape and dtype, and where the image lies in it."""
        spec = self._spec
        placement = place(bgr.shape[0], bgr.shape[1], spec.input_height_px, spec.input_width_px, spec.fit)
        size = (placement.placed_height_px, placement.placed_width_px)
        if self._image.shape[:2] != size:
            self._image = np.empty((*size, 3), np.uint8)
            self._planes = np.empty((3, *size), np.uint8)
        cv2.resize(bgr, size[::-1], dst=self._image)
        tensor = np.empty(spec.input_shape, np.uint8 if spec.dtype == "uint8" else np.float32)
        planes = tensor[0] if spec.layout == "nchw" else tensor[0].transpose(2, 0, 1)
        if spec.colour == "rgb":
            planes = planes[::-1]
        self._pad(planes, placement)
        top, left = placement.offset_y_px, placement.offset_x_px
        self._fill(planes[:, top : top + size[0], left : left + size[1]])
        return np.asarray(tensor, dtype=spec.dtype), placement

    def _fill(self, planes: Array) -> None:
        """The resized image, normalised, into its part of the tensor, given as planes (3, h, w) of blue, green, red."""
        if self._spec.layout == "nhwc":
            pixels = self._image if self._is_plain else cv2.LUT(self._image, self._table[None])
            planes.transpose(1, 2, 0)[:] = pixels
            return
        cv2.split(self._image, list(self._planes))
        if self._is_plain:
            np.copyto(planes, self._planes)
        elif self._is_scaled:
            np.divide(self._planes, self._divisors, out=planes, dtype=np.float32)
        else:
            for plane, table, out in zip(self._planes, self._table.T.copy(), planes, strict=True):
                cv2.LUT(plane, table[None], dst=out)

    def _pad(self, planes: Array, placement: Placement) -> None:
        """The padding's value into what the image leaves of the planes (3, H, W)."""
        value = self._table[self._spec.pad_value][:, None, None]
        top, left = placement.offset_y_px, placement.offset_x_px
        bottom, right = top + placement.placed_height_px, left + placement.placed_width_px
        for rest in (
            planes[:, :top],
            planes[:, bottom:],
            planes[:, top:bottom, :left],
            planes[:, top:bottom, right:],
        ):
            if rest.size:
                rest[:] = value
