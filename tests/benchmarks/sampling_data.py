"""Streams of image detections with truth, for choosing which of their frames to look at.

- mot15: public detections, the sequences' own rates (7 to 30 Hz);
- kitti: RRC cars and pedestrians, 10 Hz;
- sdd: the drone's view, 30 Hz; its annotations with noise of 5 % of a box's scale, a tenth of them missing (seeded).

Each in two halves of whole recordings, fixed before anything was tuned.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from forecast_data import CLASSES, HALVES, SDD_HZ, data_folder
from numpy.typing import NDArray

from tercel.core.messages import Detections2D
from tracking.evaluation.overlaps import TrackSet, iou_one_by_one, overlaps
from tracking.evaluation.preprocessing import kitti_overlaps, mot_overlaps
from tracking.evaluation.scores import Scores, score
from tracking.files import BoxSequence, read_det2d_csv, read_kitti, read_mot, read_seqinfo

Array = NDArray[Any]

SEQUENCES = {
    "mot15": {
        "tuned on": ("ADL-Rundle-6", "ETH-Bahnhof", "KITTI-13", "PETS09-S2L1", "TUD-Campus"),
        "other": ("ADL-Rundle-8", "ETH-Pedcross2", "ETH-Sunnyday", "KITTI-17", "TUD-Stadtmitte", "Venice-2"),
    },
    **{name: dict(HALVES[name]) for name in ("kitti", "sdd")},
}
SDD_NOISE, SDD_MISSES = 0.05, 0.1


@dataclass(frozen=True, eq=False)
class Stream:
    """One recording: its detections, frame by frame, and how tracks (all frames, by index from 0) score."""

    name: str
    detections: tuple[Detections2D, ...]
    score: Callable[[BoxSequence], Scores]


def read_stream(data: str, name: str) -> Stream:
    """One sequence of a data set."""
    return {"mot15": _mot15, "kitti": _kitti, "sdd": _sdd}[data](name)


def _mot15(name: str) -> Stream:
    folder = data_folder() / "mot15" / name
    info = read_seqinfo(folder / "seqinfo.ini")
    truth, found = read_mot(folder / "gt" / "gt.txt", []), read_mot(folder / "det" / "det.txt", [])
    frames = range(1, info.length + 1)

    def judge(tracks: BoxSequence) -> Scores:
        return score(mot_overlaps(truth, _moved(tracks, 1), frames))

    return Stream(name, _messages(found, frames, info.rate_hz, ("pedestrian",)), judge)


def _kitti(name: str) -> Stream:
    folder = data_folder() / "kitti_tracking"
    truth = read_kitti(folder / "label_02" / f"{name}.txt.gz", [])
    parts = []
    for label, kind in enumerate(("Car", "Pedestrian")):
        path = next((folder / "det2d_rrc" / kind).glob(f"{name}.*"), None)
        if path is not None:
            part = read_det2d_csv(path, [], kind)
            parts.append((part.frames, part.boxes_xyxy_px, part.scores, np.full(len(part), label)))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    frame, boxes, scores, labels = (column[order] for column in columns)
    names = ("Car", "Pedestrian")
    found = BoxSequence(frame, np.full(len(frame), -1), boxes, scores, labels.astype(np.int32), names)
    frames = range(int(max(truth.frames.max(), frame.max())) + 1)

    def judge(tracks: BoxSequence) -> Scores:
        return score(kitti_overlaps(truth, tracks, frames, "car")) + score(
            kitti_overlaps(truth, tracks, frames, "pedestrian")
        )

    return Stream(name, _messages(found, frames, 10.0, names), judge)


def _sdd(name: str) -> Stream:
    with gzip.open(data_folder() / "sdd_drone_tracks" / f"{name}.txt.gz", "rt") as file:
        words = [line.split() for line in file]
    rows = np.array([[float(word) for word in line[:9]] for line in words])
    classes = np.array([CLASSES["sdd"].get(line[9].strip('"'), "") for line in words])
    names = tuple(sorted(set(classes) - {""}))
    kept = np.flatnonzero((rows[:, 6] == 0) & (classes != ""))
    kept = kept[np.argsort(rows[kept, 5], kind="stable")]
    frame, boxes = rows[kept, 5].astype(np.int64), rows[kept, 1:5]
    frame -= frame.min()
    truth = TrackSet(frame, rows[kept, 0].astype(np.int64), boxes)
    frames = range(int(frame.max()) + 1)
    rng = np.random.default_rng(sum(map(ord, name)))
    scale = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1, keepdims=True))
    noisy = boxes + rng.normal(size=boxes.shape) * SDD_NOISE * scale
    hit = rng.random(len(boxes)) >= SDD_MISSES
    labels = np.array([names.index(classes[row]) for row in kept], dtype=np.int32)
    found = BoxSequence(frame, np.full(len(frame), -1), noisy, np.ones(len(frame)), labels, names).take(hit)

    def judge(tracks: BoxSequence) -> Scores:
        given = TrackSet(tracks.frames, tracks.ids, tracks.boxes_xyxy_px)
        return score(overlaps(truth, given, iou_one_by_one, frames))

    return Stream(name, _messages(found, frames, SDD_HZ, names), judge)


def _messages(found: BoxSequence, frames: range, rate_hz: float, names: tuple[str, ...]) -> tuple[Detections2D, ...]:
    return tuple(
        Detections2D(
            stamp_ns=round(index * 1e9 / rate_hz), frame_id="camera", boxes_xyxy_px=found.boxes_xyxy_px[rows],
            scores=found.scores[rows], labels=found.labels[rows], class_names=names,
        )
        for index, rows in enumerate(found.rows_of(frames))
    )  # fmt: skip


def _moved(tracks: BoxSequence, by: int) -> BoxSequence:
    return BoxSequence(
        tracks.frames + by, tracks.ids, tracks.boxes_xyxy_px, tracks.scores, tracks.labels, tracks.class_names
    )
