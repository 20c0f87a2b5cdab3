"""Several regions of an image in one network input, and the boxes found there back in the image. Pure functions.

Regions are rectangles around changed tiles and around boxes that need another look. They are cut out with some context
and packed, shelf by shelf, into a network input that is smaller than the one for whole images, at the scale of the
whole image or, where there is room, larger: what is saved on pixels without change is in part spent on the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.boxes import Boxes

Array = NDArray[Any]

MAX_REGIONS = 12
ZOOMS = (2.0, 1.6, 1.3, 1.0)
"""Scales that are tried, best first, relative to that of a whole image."""

_GAP_PX = 8  # between regions: a box of one must not take in pixels of the next
_SEED_SHARE = 0.25  # of a box within a region, from which on the region takes in all of it
_INSIDE_SHARE = 0.7  # of a box within the regions, from which on it counts as looked at again
_EDGE_PX = 1.5  # of the mosaic: a box that comes so near to a cut may go on behind it
_COVERED_SHARE = 0.5  # of a cut box within a known one of its class, from which on it is a part of that


class Mosaic(NamedTuple):
    """rects_px (R, 4) int: regions x1 y1 x2 y2 of the image. cells_px (R, 4) int: where each lies in the mosaic."""

    rects_px: Array
    cells_px: Array


def regions(seeds: Array, boxes_xyxy_px: Array, image_wh: tuple[int, int], context: float) -> Array:
    """Rectangles (R, 4) int, disjoint, that hold all seed tiles; R = MAX_REGIONS + 1 at most.

    seeds (rows, columns) bool: tiles over the whole image. boxes_xyxy_px (N, 4): known objects; a region that holds a
    good part of one takes in all of it. context: each rectangle grows by this share of its mean side on each side.
    """
    _, _, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(seeds, dtype=np.uint8), connectivity=8)
    x, y, width, height = stats[1 : MAX_REGIONS + 2, :4].T.astype(np.float64)
    tile_wh = np.array(image_wh) / np.array(seeds.shape[::-1])
    rects = np.stack([x, y, x + width, y + height], axis=1) * np.tile(tile_wh, 2)
    shares = _shared(rects, boxes_xyxy_px) / np.maximum(_area(boxes_xyxy_px), 1e-9)
    taken = shares >= _SEED_SHARE
    low = np.where(taken[..., None], boxes_xyxy_px[None, :, :2], np.inf).min(axis=1, initial=np.inf)
    high = np.where(taken[..., None], boxes_xyxy_px[None, :, 2:], -np.inf).max(axis=1, initial=-np.inf)
    rects = np.concatenate([np.minimum(rects[:, :2], low), np.maximum(rects[:, 2:], high)], axis=1)
    margin = context * (rects[:, 2:] - rects[:, :2]).mean(axis=1, keepdims=True)
    rects = np.concatenate([rects[:, :2] - margin, rects[:, 2:] + margin], axis=1)
    limit = np.tile(np.array(image_wh, dtype=np.float64), 2)
    rects = np.clip(rects, 0.0, limit)
    whole = np.concatenate([np.floor(rects[:, :2]), np.ceil(rects[:, 2:])], axis=1)
    return _merged(whole).astype(np.int64)


def pack(rects_px: Array, input_wh: tuple[int, int], scale_xy: tuple[float, float]) -> Mosaic | None:
    """The regions in one input of this size, at the largest of ZOOMS that fits; None if none does.

    scale_xy: input pixels for each image pixel that a whole image has, the least that a region may have.
    """
    if not 1 <= len(rects_px) <= MAX_REGIONS:
        return None
    sizes = rects_px[:, 2:] - rects_px[:, :2]
    for zoom in ZOOMS:
        wh = np.maximum(np.round(sizes * np.array(scale_xy) * zoom), 1).astype(np.int64)
        corners = _shelves(wh, input_wh)
        if corners is not None:
            return Mosaic(rects_px, np.concatenate([corners, corners + wh], axis=1))
    return None


def paint(bgr: Array, mosaic: Mosaic, input_wh: tuple[int, int], pad_value: int) -> Array:
    """The mosaic (h, w, 3) uint8 of an image (H, W, 3) uint8."""
    canvas = np.full((input_wh[1], input_wh[0], 3), pad_value, np.uint8)
    for (x1, y1, x2, y2), (u1, v1, u2, v2) in zip(mosaic.rects_px, mosaic.cells_px, strict=True):  # a few
        canvas[v1:v2, u1:u2] = cv2.resize(bgr[y1:y2, x1:x2], (int(u2 - u1), int(v2 - v1)))
    return canvas


def boxes_to_image(boxes: Boxes, mosaic: Mosaic, image_wh: tuple[int, int]) -> tuple[Boxes, Array]:
    """Boxes in the mosaic -> boxes in the image, and (N,) bool: which reach an edge at which their region was cut.

    A box belongs to the region that its middle lies in, and is clipped to it; one between the regions is dropped.
    """
    middles = (boxes.xyxy_px[:, None, :2] + boxes.xyxy_px[:, None, 2:]) / 2
    inside: Array = np.asarray(
        ((middles >= mosaic.cells_px[None, :, :2]) & (middles < mosaic.cells_px[None, :, 2:])).all(axis=2)
    )
    rows = np.flatnonzero(inside.any(axis=1))
    own = inside[rows].argmax(axis=1)
    boxes, cells, rects = boxes.take(rows), mosaic.cells_px[own], mosaic.rects_px[own]
    low: Array = (boxes.xyxy_px[:, :2] < cells[:, :2] + _EDGE_PX) & (rects[:, :2] > 0)
    high: Array = (boxes.xyxy_px[:, 2:] > cells[:, 2:] - _EDGE_PX) & (rects[:, 2:] < np.array(image_wh))
    cut: Array = np.asarray((low | high).any(axis=1))
    clipped = np.clip(boxes.xyxy_px, np.tile(cells[:, :2], 2), np.tile(cells[:, 2:], 2))
    scale = (rects[:, 2:] - rects[:, :2]) / (cells[:, 2:] - cells[:, :2])
    xyxy = (clipped - np.tile(cells[:, :2], 2)) * np.tile(scale, 2) + np.tile(rects[:, :2], 2)
    return boxes._replace(xyxy_px=xyxy.astype(np.float32)), cut


def held_beside(held: Boxes, fresh: Boxes, cut: Array, rects_px: Array, same_iou: float) -> tuple[Array, Array]:
    """Which of the held boxes, and which of the fresh ones from the regions, make the new picture: two masks.

    What lay in the regions was looked at again, and what is not found there any more is gone; so is a held box of a
    fresh one's class that overlaps it by more than same_iou. But a fresh box that is cut at a region's edge and lies
    within a held one of its class is a part of that: the held one stays.
    """
    shared, same = _shared(fresh.xyxy_px, held.xyxy_px), fresh.labels[:, None] == held.labels[None, :]
    fresh_area, held_area = np.maximum(_area(fresh.xyxy_px), 1e-9)[:, None], np.maximum(_area(held.xyxy_px), 1e-9)
    outside: Array = _shared(held.xyxy_px, rects_px).sum(axis=1) < _INSIDE_SHARE * held_area
    part: Array = (shared >= _COVERED_SHARE * fresh_area) & same & cut[:, None] & outside
    whole = ~np.asarray(part.any(axis=1))
    twice: Array = (shared > same_iou * (fresh_area + held_area - shared)) & same & whole[:, None]
    return outside & ~np.asarray(twice.any(axis=0)), whole


def _shelves(wh: Array, input_wh: tuple[int, int]) -> Array | None:
    """Left top corners (R, 2) of rectangles of these sizes, tallest first on shelves; None if they do not fit."""
    corners = np.zeros_like(wh)
    left, top, shelf = 0, 0, 0
    for index in np.argsort(-wh[:, 1], kind="stable"):  # at most MAX_REGIONS
        width, height = wh[index]
        if left and left + width > input_wh[0]:
            left, top, shelf = 0, top + shelf + _GAP_PX, 0
        if left + width > input_wh[0] or top + height > input_wh[1]:
            return None
        corners[index] = left, top
        left, shelf = left + width + _GAP_PX, max(shelf, height)
    return corners


def _merged(rects: Array) -> Array:
    """Rectangles that overlap become the one around them, until none do."""
    while len(rects) > 1:
        first, second = np.nonzero(np.triu(_shared(rects, rects) > 0, 1))
        if not len(first):
            break
        pair = rects[[first[0], second[0]]]
        around = np.concatenate([pair[:, :2].min(axis=0), pair[:, 2:].max(axis=0)])[None]
        rects = np.concatenate([np.delete(rects, [first[0], second[0]], axis=0), around])
    return rects


def _shared(first: Array, second: Array) -> Array:
    """Areas (N, M) that boxes (N, 4) share with boxes (M, 4)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    areas: Array = np.clip(high - low, 0.0, None).prod(axis=2)
    return areas


def _area(boxes: Array) -> Array:
    areas: Array = np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None).prod(axis=1)
    return areas
