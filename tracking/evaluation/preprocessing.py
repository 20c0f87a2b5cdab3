"""What of a benchmark's truth and of the tracks is compared: the rules of MOTChallenge and of KITTI, as in TrackEval.

Some truth need not be found: sitting people, reflections, vans, heavily occluded objects. A track on one of them is
neither right nor wrong, so it is taken out, and then they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import UserError
from tracking.evaluation.matching import best_pairs
from tracking.evaluation.overlaps import EPS, Overlaps, TrackSet, covered_one_by_one, iou_one_by_one, overlaps
from tracking.files import MOT_CLASSES, BoxSequence

Array = NDArray[Any]

MOT_BENCHMARKS = ("mot15", "mot17", "mot20")
KITTI_DISTRACTORS = {"car": ("van",), "pedestrian": ("person", "person_sitting"), "cyclist": ()}
"""KITTI's classes that can be evaluated, and the similar ones on which a track is no error."""

_MOT_DISTRACTORS = ("person_on_vehicle", "static_person", "distractor", "reflection")
_MIN_IOU = 0.5
_MAX_OCCLUSION = 2
_MAX_TRUNCATION = 0
_MIN_HEIGHT_PX = 25.0
_MIN_COVERED = 0.5


def mot_overlaps(truth: BoxSequence, tracks: BoxSequence, frames: Sequence[int], benchmark: str = "mot15") -> Overlaps:
    """Pedestrians of a MOTChallenge sequence against tracks of that class.

    frames: all frames of the sequence. benchmark: mot15 knows no classes, and truth whose flag is 0 counts nowhere, so
    that a track on it is a false positive; mot17 (with MOT16) and mot20 have classes and distractors.
    Raises UserError if a row lies outside the frames or a track has no id.
    """
    if benchmark not in MOT_BENCHMARKS:
        raise ValueError(f"unknown benchmark {benchmark!r}")
    if (tracks.ids < 0).any():
        raise UserError("a row of the tracks has no id (below 0); these are detections: track them first")
    _require_frames(truth, frames, "truth")
    _require_frames(tracks, frames, "tracks")
    tracks = tracks.of_classes(MOT_CLASSES[0])
    flagged = truth.scores.astype(np.int64) != 0
    if benchmark == "mot15":
        return overlaps(_track_set(truth.take(flagged)), _track_set(tracks), iou_one_by_one, frames)
    distractors = _MOT_DISTRACTORS + (("non_mot_vehicle",) if benchmark == "mot20" else ())
    found = overlaps(_track_set(truth), _track_set(tracks), iou_one_by_one, frames)
    matched = _matched(found)
    unwanted = _is_class(truth, distractors)[found.truth_rows[matched]]
    keep = np.ones(len(tracks), dtype=bool)
    keep[found.track_rows[matched][unwanted]] = False
    return found.select(flagged & _is_class(truth, MOT_CLASSES[:1]), keep)


def kitti_overlaps(truth: BoxSequence, tracks: BoxSequence, frames: Sequence[int], class_name: str) -> Overlaps:
    """One class of a KITTI tracking sequence against tracks, by image boxes.

    class_name: a key of KITTI_DISTRACTORS. Left out: tracks on a similar class, on truth that is mostly occluded or
    cut off by the image's border; and of the tracks without truth those of at most 25 px height and those of which more
    than half lies in a DontCare region. Rows without an id are no tracks. Raises UserError if a row lies outside the
    frames.
    """
    regions = truth.of_classes("DontCare")
    truth, tracks = truth.take(truth.ids >= 0), tracks.take(tracks.ids >= 0)
    _require_frames(truth, frames, "truth")
    _require_frames(tracks, frames, "tracks")
    truth = truth.of_classes(class_name, *KITTI_DISTRACTORS[class_name])
    tracks = tracks.of_classes(class_name)
    counts = _is_class(truth, (class_name,)) & ~_hidden(truth)
    found = overlaps(_track_set(truth), _track_set(tracks), iou_one_by_one, frames)
    matched = _matched(found)
    keep = np.ones(len(tracks), dtype=bool)
    keep[found.track_rows[matched]] = False
    keep[keep] = ~_negligible(tracks.take(keep), regions)
    keep[found.track_rows[matched]] = counts[found.truth_rows[matched]]
    return found.select(counts, keep)


def _hidden(truth: BoxSequence) -> Array:
    if truth.occluded is None or truth.truncated is None:
        raise ValueError("KITTI truth tells how far each object is occluded and truncated")
    hidden: Array = (truth.occluded.astype(np.int64) > _MAX_OCCLUSION) | (
        truth.truncated.astype(np.int64) > _MAX_TRUNCATION
    )
    return hidden


def _negligible(tracks: BoxSequence, regions: BoxSequence) -> Array:
    """Tracks too small to be labelled, or inside a region that was not labelled, (N,) bool."""
    small = tracks.boxes_xyxy_px[:, 3] - tracks.boxes_xyxy_px[:, 1] <= _MIN_HEIGHT_PX + EPS
    # The regions have no ids: their row numbers name them.
    region_set = TrackSet(regions.frames, np.arange(len(regions)), regions.boxes_xyxy_px)
    inside = overlaps(_track_set(tracks), region_set, covered_one_by_one, np.unique(tracks.frames))
    small[inside.truth_rows[inside.similarities > _MIN_COVERED + EPS]] = True
    result: Array = small
    return result


def _matched(found: Overlaps) -> Array:
    """Indices of the pairs that are matched by IoU alone, without regard to identities."""
    near = np.flatnonzero(found.similarities >= _MIN_IOU - EPS)
    kept = best_pairs(found, near, found.similarities[near])
    result: Array = near[kept]
    return result


def _track_set(boxes: BoxSequence) -> TrackSet:
    return TrackSet(boxes.frames, boxes.ids, boxes.boxes_xyxy_px)


def _is_class(boxes: BoxSequence, names: Sequence[str]) -> Array:
    return np.isin(boxes.labels, [i for i, name in enumerate(boxes.class_names) if name.lower() in names])


def _require_frames(boxes: BoxSequence, frames: Sequence[int], what: str) -> None:
    outside = boxes.frames[~np.isin(boxes.frames, frames)]
    if len(outside):
        raise UserError(
            f"the {what} have boxes in frame {outside[0]}, outside the sequence's {frames[0]} to {frames[-1]}"
        )
