"""Tracks as data for the page's player: whole sequences, frame by frame, in few bytes.

Boxes are 16-bit integers in base64, so many of them to a pixel that the image spans 16,000. What would be too much for
a page is thinned: every n-th frame is kept, and `Film.every` says so. The script that shows it is player.js.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.report.drawing import data_uri
from tercel.report.track_images import fit, size_of, small_jpeg
from tercel.report.tracking_account import reason_of
from tercel.report.tracking_space import flat
from tercel.report.tracking_steps import Tracked
from tracking.screening import Outcome

Array = NDArray[Any]

MAX_BYTES = 2_200_000
IMAGE_BYTES = 1_700_000
_SPAN = 16_000  # of 32,767: boxes may reach beyond the image
_TRACK_BYTES, _SPACE_BYTES, _OTHER_BYTES, _FRAME_BYTES = 11, 10, 9, 8
_NO_POSE = 32_767  # in place of a yaw; yaws are at most 31,416


@dataclass(frozen=True)
class Film:
    """One sequence as the player takes it. every: it shows each so many-th frame."""

    content: dict[str, Any]
    every: int
    has_images: bool


def films(tracked: Sequence[Tracked], images: Mapping[str, Mapping[int, Path]]) -> list[Film]:
    """The sequences, within MAX_BYTES all together. images: the files by frame, of the sequences that have some."""
    with_images = [t for t in tracked if images.get(t.loaded.source.name)]
    boxes_budget = MAX_BYTES - (IMAGE_BYTES if with_images else 0)
    share = IMAGE_BYTES // max(1, len(with_images))
    pictures = {}
    for t in with_images:
        name = t.loaded.source.name
        pictures[name] = fit(images[name], t.frames.tolist(), share)
    everies = [pictures.get(t.loaded.source.name, (0, 1))[1] for t in tracked]
    needed = sum(_bytes(t) / every for t, every in zip(tracked, everies, strict=True))
    thinner = max(1, math.ceil(needed / boxes_budget))
    return [
        film(t, every * thinner, images.get(t.loaded.source.name), pictures.get(t.loaded.source.name, (0, 1))[0])
        for t, every in zip(tracked, everies, strict=True)
    ]


def film(tracked: Tracked, every: int = 1, images: Mapping[int, Path] | None = None, width_px: int = 0) -> Film:
    """One sequence, each every-th frame, with the images at a width."""
    source, frames = tracked.loaded.source, tracked.frames[::every]
    size_px = image_size(tracked, images)
    scale = _SPAN / max(size_px)
    rows = np.flatnonzero(np.isin(tracked.tracks.frames, frames))
    tracks = tracked.tracks.take(rows)
    ids, first_rows, index = np.unique(tracks.ids, return_index=True, return_inverse=True)
    content: dict[str, Any] = {
        "name": source.name,
        "rate": source.rate_hz,
        "every": every,
        "size": size_px,
        "scale": scale,
        "classes": [str(name) for name in tracks.class_names],
        "frames": _packed(frames, "<u4"),
        "ids": ids.tolist(),
        "labels": tracks.labels[first_rows].tolist(),
        "counts": _packed(_per_frame(tracks.frames, frames), "<u2"),
        "index": _packed(index, "<u4" if len(ids) >= 1 << 16 else "<u2"),
        "boxes": _packed(_whole(tracks.boxes_xyxy_px * scale), "<i2"),
        "unseen": _packed(tracked.unseen_s[rows] > 0.0, "u1"),
        "others": _others(tracked, frames, scale),
    }
    if tracked.boxes_world is not None and tracked.poses is not None:
        content["above"] = _above(tracked.boxes_world[:, rows], tracked.poses, frames)
    if images:
        jpegs = [small_jpeg(images.get(frame), width_px) for frame in frames.tolist()]
        content["images"] = [None if jpeg is None else data_uri("jpeg", jpeg) for jpeg in jpegs]
    return Film(content, every, bool(images))


def image_size(tracked: Tracked, images: Mapping[int, Path] | None = None) -> tuple[int, int]:
    """Width and height of the image, px: as its folder or its images say, else as far as boxes reach."""
    told = tracked.loaded.source.size_px
    if min(told) > 0:
        return told
    read = size_of(images) if images else None
    if read is not None:
        return read
    corners = np.concatenate([tracked.tracks.boxes_xyxy_px[:, 2:], tracked.loaded.boxes.boxes_xyxy_px[:, 2:]])
    corners = corners[(np.abs(corners) < 1e5).all(axis=1)]
    if not len(corners):
        return 640, 480
    width, height = np.ceil(np.quantile(corners, 0.998, axis=0)).tolist()
    return max(16, int(width)), max(16, int(height))


def _others(tracked: Tracked, frames: Array, scale: float) -> dict[str, Any]:
    """The detections that continued no confirmed track, and why."""
    boxes = tracked.loaded.boxes
    rows = np.flatnonzero((tracked.outcomes != Outcome.MATCHED) & np.isin(boxes.frames, frames))
    kinds, index = np.unique(tracked.outcomes[rows], return_inverse=True)
    names = {int(Outcome.NEW): "new", int(Outcome.TENTATIVE): "tentative"}
    return {
        "kinds": [names.get(kind) or f"rejected: {reason_of(kind)}" for kind in kinds.tolist()],
        "counts": _packed(_per_frame(boxes.frames[rows], frames), "<u2"),
        "index": _packed(index, "u1"),
        "boxes": _packed(_whole(boxes.boxes_xyxy_px[rows] * scale), "<i2"),
    }


def _above(boxes_world: Array, poses: Mapping[int, Array], frames: Array) -> dict[str, Any]:
    """The tracks from above in the world, and the camera's way: x, y scaled; length, width in cm; yaw in 0.1 mrad."""
    known = [flat(poses[frame]) if frame in poses else None for frame in frames.tolist()]
    places = np.array([pose if pose is not None else (0.0, 0.0, 0.0) for pose in known]).reshape(-1, 3)
    x, y, _, length, width, _, yaw = boxes_world
    reach = max(1.0, float(np.abs(places[:, :2]).max(initial=0.0)), float(np.abs(boxes_world[:2]).max(initial=0.0)))
    scale = 32_000 / reach
    yaws = np.array([_NO_POSE if pose is None else round(pose[2] * 1e4) for pose in known])
    columns = [x * scale, y * scale, length * 100.0, width * 100.0, np.arctan2(np.sin(yaw), np.cos(yaw)) * 1e4]
    return {
        "scale": scale,
        "boxes": _packed(_whole(np.stack(columns, axis=1)), "<i2"),
        "poses": _packed(_whole(np.column_stack([places[:, :2] * scale, yaws])), "<i2"),
    }


def _bytes(tracked: Tracked) -> float:
    """What a whole sequence takes in the page."""
    each = _TRACK_BYTES + (_SPACE_BYTES if tracked.boxes_world is not None else 0)
    others = int((tracked.outcomes != Outcome.MATCHED).sum())
    return (each * len(tracked.tracks) + _OTHER_BYTES * others + _FRAME_BYTES * len(tracked.frames)) * 4.0 / 3.0


def _per_frame(of_boxes: Array, frames: Array) -> Array:
    """How many of the boxes each frame has; both ascending."""
    counts: Array = np.searchsorted(of_boxes, frames, side="right") - np.searchsorted(of_boxes, frames, side="left")
    return np.minimum(counts, 65_535)


def _whole(values: Array) -> Array:
    with np.errstate(invalid="ignore"):
        result: Array = np.clip(np.round(np.nan_to_num(values)), -32_767, 32_767)
    return result


def _packed(values: Array, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")
