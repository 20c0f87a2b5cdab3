"""What changed since an image was searched for objects, and where the boxes found in it are now. Pure functions.

The idea is SparseTem's: compute only where the scene differs from a reference frame, by a threshold that is found
online. There the difference gates a network's convolutions, tile by tile; here it gates and crops whole images, which
any network and any backend can run. Images are compared as small grey ones of about SMALL_AREA_PX pixels, in tiles of
TILE_PX. A tile has changed if it differs by more than its noise explains, where

  noise      of each tile is what it differed by while it did not change, as a moving average, held within bounds that
             follow the noise of the present image (Immerkaer, "Fast Noise Variance Estimation", 1996, of the flattest
             quarter of the tiles): a camera that turns up its gain in the dusk makes no change
  exposure   is taken out by a line fitted to the tiles' means, trimmed, so that what moves does not bend it

and the boxes are moved by dense optical flow (DIS, Kroeger et al., arXiv 1603.03590) from the image back to the
reference: what the flow cannot find in the reference is new, by the same threshold.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SMALL_AREA_PX = 20_000
TILE_PX = 8

_LEAST_NOISE = 0.35  # grey levels, of a tile: rounding alone makes 0.3
_MOST_NOISE = 8.0
_NOISE_GAIN = 0.1  # of a new frame in the moving average
_TRIM_ROUNDS = 2
_SAME_BRIGHTNESS = 0.5  # grey levels, of the median tile
_LEAST_LIT = 2.0  # grey levels, standard deviation of the tiles' means below which no gain can be fitted
_SAMPLES = 6  # of the flow along each side of a box
_LEAST_SAMPLE_BOX_PX = 4.0  # small pixels: the divergence within a smaller box is noise
_MOST_GROWTH = 0.2  # of a box in one step
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_IMMERKAER_SCALE = 1.0 / 6.0  # its response to noise of standard deviation 1 has 6


class Small(NamedTuple):
    """A small grey image: grey (h, w) uint8; tile_means (h / TILE_PX, w / TILE_PX) float32."""

    grey: Array
    tile_means: Array


class Moved(NamedTuple):
    """Boxes (N, 4) float64 where they are now, and the share (N,) of each that was found again, 0..1."""

    xyxy_px: Array
    found: Array


def small_size(height_px: int, width_px: int) -> tuple[int, int]:
    """(width, height) of the small image: about SMALL_AREA_PX in whole tiles, and at least two of them on each side."""
    scale = min(1.0, (SMALL_AREA_PX / (height_px * width_px)) ** 0.5)
    longest = SMALL_AREA_PX // TILE_PX**2
    tiles = [min(max(round(side * scale / TILE_PX), 2), longest) for side in (width_px, height_px)]
    return tiles[0] * TILE_PX, tiles[1] * TILE_PX


def shrink(bgr: Array, size_wh: tuple[int, int]) -> Small:
    """The small image of (H, W, 3) uint8; bilinear, for it is four times as fast as the mean of all pixels."""
    grey = cv2.cvtColor(cv2.resize(bgr, size_wh), cv2.COLOR_BGR2GRAY)
    return Small(grey, tile_mean(grey.astype(np.float32)))


def tile_mean(values: Array) -> Array:
    """Means of the tiles of a float32 image whose sides are whole tiles."""
    size = (values.shape[1] // TILE_PX, values.shape[0] // TILE_PX)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))


def exposure(reference_means: Array, means: Array) -> tuple[float, float]:
    """(gain, offset) such that means = gain * reference_means + offset for the tiles in which the scene is the same.

    A line through the tiles, fitted again to the half that lies nearest; gain 1 where the image has no contrast to tell
    it from the offset, and (1, 0) where half of the tiles are as bright as before.
    """
    x, y = reference_means.ravel().astype(np.float64), means.ravel().astype(np.float64)
    if _median(np.abs(y - x)) < _SAME_BRIGHTNESS:
        return 1.0, 0.0
    gain, offset = 1.0, float(_median(y - x))
    for _ in range(_TRIM_ROUNDS):
        errors = np.abs(y - gain * x - offset)
        near = errors <= _median(errors)
        u, v = x[near], y[near]
        mean_u, mean_v = float(u.mean()), float(v.mean())
        variance = float(((u - mean_u) ** 2).mean())
        if variance < _LEAST_LIT**2:
            return 1.0, float(_median(y - x))
        gain = min(max(float(((u - mean_u) * (v - mean_v)).mean()) / variance, 0.25), 4.0)
        offset = mean_v - gain * mean_u
    return gain, offset


def image_noise(grey: Array) -> float:
    """Mean absolute difference of two images of one scene, in grey levels, as one image tells it."""
    response = cv2.convertScaleAbs(cv2.filter2D(grey, cv2.CV_16S, _IMMERKAER)).astype(np.float32)
    tiles = tile_mean(response).ravel()
    flattest = float(np.partition(tiles, len(tiles) // 4)[len(tiles) // 4]) * _IMMERKAER_SCALE
    return min(max(flattest * 2**0.5, _LEAST_NOISE), _MOST_NOISE)


class TileNoise:
    """The noise of each tile, in grey levels of mean absolute difference; see the module's docstring."""

    def __init__(self) -> None:
        self._noise = np.zeros((0, 0), np.float32)

    def changed(self, differences: Array, image_noise: float, threshold: float) -> Array:
        """Which tiles differ by more than threshold times their noise, (rows, columns) bool; learns from the others."""
        if self._noise.shape != differences.shape:
            self._noise = np.full(differences.shape, image_noise, np.float32)
        noise = np.clip(self._noise, 0.5 * image_noise, 2.0 * image_noise)
        changed: Array = differences > threshold * noise
        self._noise = np.where(changed, noise, noise + np.float32(_NOISE_GAIN) * (differences - noise))
        return changed


def differences(reference_grey: Array, grey: Array, gain: float = 1.0, offset: float = 0.0) -> Array:
    """Mean absolute difference (rows, columns) of each tile between grey and gain * reference_grey + offset."""
    if (gain, offset) != (1.0, 0.0):
        reference_grey = cv2.convertScaleAbs(reference_grey, alpha=gain, beta=offset)
    return tile_mean(cv2.absdiff(reference_grey, grey).astype(np.float32))


def detail(grey: Array) -> Array:
    """Mean absolute gradient (rows, columns) of each tile, in grey levels for each pixel, over both directions.

    What an error of one pixel in its motion would make of it.
    """
    values = grey.astype(np.float32)
    return tile_mean(np.abs(cv2.Sobel(values, cv2.CV_32F, 1, 0, scale=0.125))) + tile_mean(
        np.abs(cv2.Sobel(values, cv2.CV_32F, 0, 1, scale=0.125))
    )


def flow_to(reference_grey: Array, grey: Array) -> Array:
    """Where in the reference each pixel of the image comes from: (h, w, 2) float32, to be added to its place."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    search.setFinestScale(1)
    return np.asarray(search.calc(grey, reference_grey, None))  # type: ignore[call-overload]


def warped(reference_grey: Array, flow: Array) -> Array:
    """The reference as it would look now, (h, w) uint8; black where the flow comes from outside of it."""
    places = flow + _places(*reference_grey.shape)
    return np.asarray(cv2.remap(reference_grey, places, None, cv2.INTER_LINEAR))  # type: ignore[call-overload]


def move_boxes(boxes_xyxy_px: Array, flow: Array, new_tiles: Array, scale_xy: tuple[float, float]) -> Moved:
    """Boxes (N, 4) of the reference, in image pixels -> where they are now, by the flow of `flow_to`.

    Each box is sampled at _SAMPLES x _SAMPLES places; it is shifted by the median of their motion and grows by the
    median divergence between its halves. new_tiles (rows, columns) bool: what the flow did not find in the reference.
    scale_xy: small pixels for each image pixel.
    """
    scale = np.tile(scale_xy, 2)
    x1, y1, x2, y2 = (np.asarray(boxes_xyxy_px, dtype=np.float64) * scale).T
    places = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    shape = (len(x1), _SAMPLES, _SAMPLES)
    x = np.broadcast_to((x1[:, None] + places * (x2 - x1)[:, None])[:, None, :], shape)
    y = np.broadcast_to((y1[:, None] + places * (y2 - y1)[:, None])[:, :, None], shape)
    step = -_at(flow, x, y)  # the flow is of places now, which are not yet known: two rounds of a fixed point
    step = -_at(flow, x + step[..., 0], y + step[..., 1])
    if not len(x1):
        return Moved(np.zeros((0, 4)), np.zeros(0))
    shift = np.stack([_median(step[..., 0].reshape(len(x1), -1)), _median(step[..., 1].reshape(len(x1), -1))], axis=1)
    width, height = x2 - x1, y2 - y1
    half = _SAMPLES // 2
    wider = _median((step[:, :, half:, 0] - step[:, :, :half, 0]).reshape(len(x1), -1)) / (width / 2)
    taller = _median((step[:, half:, :, 1] - step[:, :half, :, 1]).reshape(len(x1), -1)) / (height / 2)
    growth = np.clip((wider * width + taller * height) / (width + height), -_MOST_GROWTH, _MOST_GROWTH)
    growth[np.minimum(width, height) < _LEAST_SAMPLE_BOX_PX] = 0.0
    half_size = np.stack([width, height], axis=1) * (0.5 + 0.5 * growth[:, None])
    centre = np.stack([x1 + x2, y1 + y2], axis=1) * 0.5 + shift
    found = 1.0 - _at(new_tiles, (x + step[..., 0]) / TILE_PX, (y + step[..., 1]) / TILE_PX).mean(axis=(1, 2))
    return Moved(np.concatenate([centre - half_size, centre + half_size], axis=1) / scale, found)


def overlap_with(boxes_xyxy_px: Array, others_xyxy_px: Array) -> Array:
    """Intersection over union (N,) of box i with other i; 0 where both are empty."""
    low = np.maximum(boxes_xyxy_px[:, :2], others_xyxy_px[:, :2])
    high = np.minimum(boxes_xyxy_px[:, 2:], others_xyxy_px[:, 2:])
    shared = np.clip(high - low, 0.0, None).prod(axis=1)
    areas = [np.clip(b[:, 2:] - b[:, :2], 0.0, None).prod(axis=1) for b in (boxes_xyxy_px, others_xyxy_px)]
    union = areas[0] + areas[1] - shared
    result: Array = np.divide(shared, union, out=np.zeros_like(union, dtype=np.float64), where=union > 0)
    return result


def _median(values: Array) -> Array:
    """The upper median of the last axis: a fifth of np.median's time for a few values."""
    middle = values.shape[-1] // 2
    result: Array = np.partition(values, middle, axis=-1)[..., middle]
    return result


@cache
def _places(height: int, width: int) -> Array:
    """x y (height, width, 2) float32 of each pixel."""
    y, x = np.indices((height, width), dtype=np.float32)
    return np.stack([x, y], axis=-1)


def _at(image: Array, x: Array, y: Array) -> Array:
    """The image's values at the nearest pixels to x, y (any shape), the border's beyond it."""
    rows = np.clip(y, 0, image.shape[0] - 1).astype(np.intp)
    columns = np.clip(x, 0, image.shape[1] - 1).astype(np.intp)
    values: Array = image[rows, columns]
    return values
