"""The detections that trackers are compared on: MOT15-train's public ones, and a simulated stream of moving boxes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.files import MOT_CLASSES, BoxSequence, read_mot, read_seqinfo

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Stream:
    """One sequence: what was detected, and what is true. Frames count from 1 to length."""

    name: str
    rate_hz: float
    length: int
    width_px: int
    height_px: int
    detections: BoxSequence
    truth: BoxSequence

    @property
    def frames(self) -> range:
        """All frames."""
        return range(1, self.length + 1)


def mot15_streams(folder: Path) -> list[Stream]:
    """All sequences of a MOT15 folder. Raises UserError for a file that cannot be read."""
    streams = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        info = read_seqinfo(path / "seqinfo.ini")
        detections, truth = (read_mot(path / kind / f"{kind}.txt", []) for kind in ("det", "gt"))
        size = info.width_px, info.height_px
        streams.append(Stream(path.name, info.rate_hz, info.length, *size, detections, truth))
    return streams


def simulated_stream(objects: int, length: int, seed: int = 7) -> Stream:
    """Boxes at 30 Hz that drift, turn now and then, and bounce off the borders of the picture.

    For 50 objects the picture has 1920 x 1080 px, for more it grows, so that their density stays. Nine of ten are
    detected in a frame (each miss independent), with 3 % of the box's size as noise on its centre and 4 % on its
    size, and a score from Beta(9, 2); one false box for ten objects is anywhere, with a score from Beta(3, 4).
    """
    rng = np.random.default_rng(seed)
    scale = np.sqrt(objects / 50.0)
    picture = np.round(np.array([1920.0, 1080.0]) * scale)
    sizes = _sizes(rng, objects)
    centers = _paths(rng, picture, objects, length)
    truth = np.concatenate([centers - sizes / 2.0, centers + sizes / 2.0], axis=2)  # (length, objects, 4)
    rows: list[Array] = []
    for frame in range(1, length + 1):
        seen = rng.random(objects) < 0.9
        middle = centers[frame - 1, seen] + rng.normal(0.0, 0.03, (seen.sum(), 2)) * sizes[seen]
        size = sizes[seen] * np.exp(rng.normal(0.0, 0.04, (seen.sum(), 2)))
        count = rng.poisson(0.1 * objects)
        middle = np.vstack([middle, rng.uniform(0.0, 1.0, (count, 2)) * picture])
        size = np.vstack([size, _sizes(rng, count)])
        scores = np.concatenate([rng.beta(9.0, 2.0, seen.sum()), rng.beta(3.0, 4.0, count)])
        found = np.column_stack([np.full(len(size), frame), middle - size / 2.0, middle + size / 2.0, scores])
        rows.append(rng.permutation(found))
    table = np.vstack(rows)
    detections = _sequence(table[:, 0], np.full(len(table), -1), table[:, 1:5], table[:, 5])
    frames, ids = np.repeat(np.arange(1, length + 1), objects), np.tile(np.arange(1, objects + 1), length)
    known = _sequence(frames, ids, truth.reshape(-1, 4), np.ones(len(frames)))
    return Stream(f"{objects} objects", 30.0, length, int(picture[0]), int(picture[1]), detections, known)


def _sizes(rng: np.random.Generator, count: int) -> Array:
    """Widths and heights (count, 2) in px, of people rather than of cars."""
    heights = rng.uniform(60.0, 240.0, count)
    return np.column_stack([heights * rng.uniform(0.35, 0.6, count), heights])


def _paths(rng: np.random.Generator, picture: Array, objects: int, length: int) -> Array:
    """Centres (length, objects, 2) in px: every two seconds or so an object turns or brakes for 20 frames."""
    position, velocity = rng.uniform(0.0, picture, (objects, 2)), rng.normal(0.0, 4.0, (objects, 2))
    push, remaining = np.zeros((objects, 2)), np.zeros(objects, dtype=int)
    path = np.empty((length, objects, 2))
    for frame in range(length):
        path[frame] = position
        begins = (remaining == 0) & (rng.random(objects) < 1.0 / 60.0)
        push = np.where(begins[:, None], rng.normal(0.0, 0.3, (objects, 2)), push) * ((remaining > 0) | begins)[:, None]
        remaining = np.where(begins, 20, np.maximum(remaining - 1, 0))
        velocity = np.clip(velocity + push, -12.0, 12.0)
        position = position + velocity
        outside = (position < 0.0) | (position > picture)
        velocity = np.where(outside, -velocity, velocity)
        position = np.clip(position, 0.0, picture)
    return path


def _sequence(frames: Array, ids: Array, boxes: Array, scores: Array) -> BoxSequence:
    """Boxes of pedestrians."""
    return BoxSequence(
        frames=frames.astype(np.int64), ids=ids.astype(np.int64), boxes_xyxy_px=boxes, scores=scores,
        labels=np.zeros(len(frames), dtype=np.int32), class_names=MOT_CLASSES[:1],
    )  # fmt: skip


def write_detections(path: Path, streams: list[Stream]) -> None:
    """The detections in the form that run_peer.py reads."""
    arrays: dict[str, Any] = {}
    for stream in streams:
        key, boxes = stream.name, stream.detections
        arrays[f"{key}/frames"], arrays[f"{key}/scores"] = boxes.frames, boxes.scores
        arrays[f"{key}/boxes"] = boxes.boxes_xyxy_px
        arrays[f"{key}/shape"] = np.array([stream.length, stream.width_px, stream.height_px])
        arrays[f"{key}/rate_hz"] = np.array([stream.rate_hz])
    np.savez(path, **arrays)
