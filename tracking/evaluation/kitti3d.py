"""KITTI's tracking in space, averaged over recall: sAMOTA, AMOTA and AMOTP, and CLEAR MOT where it is best.

Weng et al., 3D Multi-Object Tracking: A Baseline and New Evaluation Metrics (AB3DMOT, 2020), sections III and IV, and
the evaluation code published with it. A track counts or not as a whole, by the mean score of its boxes. CLEAR MOT is
counted at those scores that give recalls of 1/40, 2/40, ... as far as the tracks reach, and averaged: the integral
measures know no favourable threshold. Beside them stands the threshold with the best MOTA.

Truth and tracks are compared by the IoU of their volumes, or of their image boxes. Truth that is hidden, cut off by the
image's border or of a similar class need not be found; neither right nor wrong is a track on it, or a track without
truth that is at most 25 px high or lies to more than half in a DontCare region.

The published numbers rest on what the code does, also where that is not what one would expect, and so do ours:
- truth that need not be found but was, is a true positive of recall, precision and MOTP;
- people who sit are no similar class of pedestrians in KITTI's tracking labels, as these name them otherwise;
- a box that found truth once, at whatever threshold, is never excused again at the thresholds after it;
- the mean score of a track is taken anew from its own mean for each threshold, so that the track which sets a threshold
  may by rounding stay below it (as_published=False leaves this out: MOTA of their cars is then 86.81, not 86.24).
Theirs takes minutes to hours. Here overlaps are computed once, and a threshold costs a few array operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import UserError
from tracking import boxes3d
from tracking.evaluation.matching import best_pairs
from tracking.evaluation.overlaps import Overlaps, TrackSet, covered_one_by_one, iou_one_by_one, overlaps
from tracking.files import BoxSequence

Array = NDArray[Any]

SIMILAR_CLASSES = {"car": ("van",), "pedestrian": ("person_sitting",), "cyclist": ()}
LEVELS = 40
"""Recalls at which the measures are averaged: 1 / LEVELS, 2 / LEVELS, ... 1."""

_MAX_OCCLUSION = 2
_MAX_TRUNCATION = 0
_MIN_HEIGHT_PX = 25.0
_MIN_COVERED = 0.5
_PER_PAIR = 1000.0  # more than the overlaps of a frame can sum to: as many pairs as possible, then the best
_ALL = -10000.0  # a score below all scores


@dataclass(frozen=True)
class Clear3d:
    """CLEAR MOT of the tracks whose mean score is at least `threshold`; `recall_level` is the recall it stands for.

    truths: those that have to be found. matches: all, of which `excused` ones are with truth that need not be found.
    mostly_tracked, mostly_lost: fractions of the truth's objects, found in more than 80 and less than 20 % of frames.
    """

    threshold: float
    recall_level: float
    truths: int
    matches: int
    excused: int
    misses: int
    false_positives: int
    id_switches: int
    fragmentations: int
    mostly_tracked: float
    mostly_lost: float
    overlap_sum: float

    @property
    def mota(self) -> float:
        """1 - errors / truths; 0 where there is no truth."""
        return 1.0 - self._errors / self.truths if self.truths else 0.0

    @property
    def smota(self) -> float:
        """MOTA by what this recall level allows for, 0 to 1: the misses that it implies are no errors."""
        if not self.truths:
            return 0.0
        implied = (1.0 - self.recall_level) * self.truths
        return min(1.0, max(0.0, 1.0 - (self._errors - implied) / (self.recall_level * self.truths)))

    @property
    def motp(self) -> float:
        """Mean overlap of the matches."""
        return self.overlap_sum / self.matches if self.matches else 0.0

    @property
    def recall(self) -> float:
        """Matches of matches and misses."""
        return self.matches / max(self.matches + self.misses, 1)

    @property
    def precision(self) -> float:
        """Matches of matches and false positives."""
        return self.matches / max(self.matches + self.false_positives, 1)

    @property
    def _errors(self) -> int:
        return self.misses + self.false_positives + self.id_switches


@dataclass(frozen=True)
class Kitti3dScores:
    """levels: CLEAR MOT at each recall level that the tracks reach; best: at the threshold with the best MOTA."""

    levels: tuple[Clear3d, ...]
    best: Clear3d

    @property
    def samota(self) -> float:
        """Mean of sMOTA over all recall levels; 0 counts for those that are not reached."""
        return sum(level.smota for level in self.levels) / LEVELS

    @property
    def amota(self) -> float:
        """Mean of MOTA over all recall levels."""
        return sum(level.mota for level in self.levels) / LEVELS

    @property
    def amotp(self) -> float:
        """Mean of MOTP over all recall levels."""
        return sum(level.motp for level in self.levels) / LEVELS

    def summary(self) -> dict[str, int | float]:
        """The published table's columns; ratios are fractions. What is no average stands for the best MOTA."""
        best = self.best
        return {
            "sAMOTA": self.samota,
            "AMOTA": self.amota,
            "AMOTP": self.amotp,
            "MOTA": best.mota,
            "MOTP": best.motp,
            "IDS": best.id_switches,
            "FRAG": best.fragmentations,
            "FP": best.false_positives,
            "FN": best.misses,
            "MT": best.mostly_tracked,
            "ML": best.mostly_lost,
            "TP": best.matches,
            "threshold": best.threshold,
        }


def evaluate(
    truth: Mapping[str, BoxSequence],
    tracks: Mapping[str, BoxSequence],
    *,
    class_name: str,
    min_iou: float = 0.25,
    in_image: bool = False,
    as_published: bool = True,
) -> Kitti3dScores:
    """Score KITTI tracks of one class, all sequences together.

    truth, tracks: by sequence; a sequence without tracks is all missed. class_name: a key of SIMILAR_CLASSES.
    min_iou: from which overlap on a track may match truth. in_image: compare image boxes (published with 0.5) instead
    of volumes (0.25, 0.5, 0.7). as_published: let tracks slip below their own score by rounding. Raises UserError for
    tracks without truth, without boxes, or with an id twice in a frame.
    """
    if class_name not in SIMILAR_CLASSES or not 0.0 < min_iou <= 1.0:
        raise ValueError(f"class_name is {class_name!r} and min_iou {min_iou}: one of {list(SIMILAR_CLASSES)}, 0 to 1")
    strangers = sorted(set(tracks) - set(truth))
    if strangers:
        raise UserError(f"there are tracks but no truth of {', '.join(strangers[:5])}; leave them out")
    parts = [_compare(truth[name], tracks.get(name), class_name, in_image) for name in truth]
    comparison = _Comparison(_joined(parts), min_iou, as_published)
    everything, scores = comparison.count(_ALL, 1.0)
    levels = tuple(
        comparison.count(threshold, level)[0]
        for threshold, level in recall_levels(scores, everything.matches + everything.misses)
    )
    best = max(levels, key=lambda level: level.mota, default=everything)  # of equals the first
    return Kitti3dScores(levels, comparison.count(best.threshold if best.mota > 0.0 else _ALL, 1.0)[0])


def recall_levels(scores: Array, truths: int) -> list[tuple[float, float]]:
    """The score to ask of tracks for each recall level, from 1 / LEVELS on: (threshold, level).

    scores (K,): of the matches; truths: what recall is of. The threshold is the score at which recall comes nearest to
    the level. The lowest score stands for one level beyond the recall that is reached.
    """
    falling = np.sort(scores)[::-1]
    count = len(falling)
    reached = np.arange(1, count + 1) / max(truths, 1)
    after = np.append(reached[1:], reached[-1:])
    result, level, start = [], 0.0, 0
    while start < count:
        nearest = (after[start:] - level >= level - reached[start:]).nonzero()[0]
        start = start + int(nearest[0]) if len(nearest) else count - 1
        result.append((float(falling[start]), level))
        level += 1.0 / LEVELS
        start += 1
    return result[1:]


@dataclass(frozen=True, eq=False)
class _Part:
    """One sequence: who overlaps whom, what of the truth is excused, and the tracks' scores and negligible boxes."""

    overlaps: Overlaps
    excused: Array
    scores: Array
    negligible: Array


def _compare(truth: BoxSequence, tracks: BoxSequence | None, class_name: str, in_image: bool) -> _Part:
    names = (class_name, *SIMILAR_CLASSES[class_name])
    if truth.occluded is None or truth.truncated is None:
        raise ValueError("KITTI truth tells how far each object is occluded and truncated")
    regions = truth.of_classes("DontCare")
    objects = truth.take(truth.ids >= 0).of_classes(*names)
    found = (objects.take(np.zeros(0, np.intp)) if tracks is None else tracks.take(tracks.ids >= 0)).of_classes(*names)
    frames = np.union1d(objects.frames, found.frames)
    places, similarity = (_image_boxes, iou_one_by_one) if in_image else (_volumes, _iou_3d)
    try:
        compared = overlaps(_track_set(objects, places), _track_set(found, places), similarity, frames)
    except ValueError as error:
        raise UserError(f"{error}, as {' or '.join(names)}; an id names one object in a frame") from None
    hidden = (_whole(objects.occluded) > _MAX_OCCLUSION) | (_whole(objects.truncated) > _MAX_TRUNCATION)
    return _Part(
        compared,
        excused=hidden | ~_is_class(objects, class_name),
        scores=found.scores,
        negligible=_negligible(found, regions) | ~_is_class(found, class_name),
    )


def _joined(parts: list[_Part]) -> _Part:
    """All sequences as one, of which frames and identities go on counting."""
    all_overlaps = [part.overlaps for part in parts]
    frames = _starts([o.frame_count for o in all_overlaps])
    truth_ids = _starts([o.truth_ids.max(initial=-1) + 1 for o in all_overlaps])
    track_ids = _starts([o.track_ids.max(initial=-1) + 1 for o in all_overlaps])
    truth_rows = _starts([len(o.truth_ids) for o in all_overlaps])
    track_rows = _starts([len(o.track_ids) for o in all_overlaps])

    def joined(name: str, starts: Array) -> Array:
        arrays = [getattr(o, name) + start for o, start in zip(all_overlaps, starts, strict=False)]
        return np.concatenate([np.zeros(0, np.int64), *arrays])

    return _Part(
        Overlaps(
            frame_count=int(frames[-1]),
            truth_frames=joined("truth_frames", frames),
            truth_ids=joined("truth_ids", truth_ids),
            track_frames=joined("track_frames", frames),
            track_ids=joined("track_ids", track_ids),
            truth_rows=joined("truth_rows", truth_rows),
            track_rows=joined("track_rows", track_rows),
            similarities=np.concatenate([np.zeros(0), *(o.similarities for o in all_overlaps)]),
        ),
        excused=np.concatenate([np.zeros(0, bool), *(part.excused for part in parts)]),
        scores=np.concatenate([np.zeros(0), *(part.scores for part in parts)]),
        negligible=np.concatenate([np.zeros(0, bool), *(part.negligible for part in parts)]),
    )


class _Comparison:
    """Truth and tracks compared; `count` may be asked for one threshold after the other."""

    def __init__(self, part: _Part, min_iou: float, as_published: bool) -> None:
        o = part.overlaps
        self._part, self._as_published = part, as_published
        self._near = np.flatnonzero(1.0 - o.similarities <= 1.0 - min_iou)
        self._boxes = np.bincount(o.track_ids)  # of each track
        # np.bincount adds one after the other, as the published code does.
        self._means = np.bincount(o.track_ids, weights=part.scores) / self._boxes
        self._found_once = np.zeros(len(o.track_ids), dtype=bool)
        self._life = _Lives(o.truth_frames, o.truth_ids, part.excused)

    def count(self, threshold: float, level: float) -> tuple[Clear3d, Array]:
        """CLEAR MOT of the tracks with this mean score or more, and the scores of all matches."""
        o, excused = self._part.overlaps, self._part.excused
        wanted = (self._means >= threshold)[o.track_ids]
        pairs = self._near[wanted[o.track_rows[self._near]]]
        pairs = pairs[best_pairs(o, pairs, _PER_PAIR + o.similarities[pairs])]
        truth_rows, track_rows = o.truth_rows[pairs], o.track_rows[pairs]
        self._found_once[track_rows] = True
        track_of_truth = np.full(len(o.truth_ids), -1)
        track_of_truth[truth_rows] = o.track_ids[track_rows]
        counted = wanted & ~(self._part.negligible & ~self._found_once)
        switches, fragmentations, mostly_tracked, mostly_lost = self._life.follow(track_of_truth)
        clear = Clear3d(
            threshold=threshold,
            recall_level=level,
            truths=int((~excused).sum()),
            matches=len(pairs),
            excused=int(excused[truth_rows].sum()),
            misses=int(((track_of_truth < 0) & ~excused).sum()),
            false_positives=int(counted.sum()) - len(pairs),
            id_switches=switches,
            fragmentations=fragmentations,
            mostly_tracked=mostly_tracked,
            mostly_lost=mostly_lost,
            overlap_sum=float(o.similarities[pairs].sum()),
        )
        scores = self._means[o.track_ids[track_rows]]
        if self._as_published:
            self._means = _mean_again(self._means, self._boxes)
        return clear, scores


class _Lives:
    """The truth's objects, box after box, to follow by which track each box was found."""

    def __init__(self, frames: Array, ids: Array, excused: Array) -> None:
        self._order = np.lexsort([frames, ids])
        self._ids = ids[self._order]
        self._excused = excused[self._order]
        changes = self._ids[1:] != self._ids[:-1]
        self._first = np.concatenate([np.ones(1, bool), changes])[: len(ids)]
        self._last = np.concatenate([changes, np.ones(1, bool)])[: len(ids)]
        self._counted = np.bincount(self._ids, weights=~self._excused)

    def follow(self, tracks: Array) -> tuple[int, int, float, float]:
        """Switches, fragmentations, and the fractions of objects mostly tracked and mostly lost.

        tracks: of each row of the truth the track that found it, or -1.
        """
        now, first, last, excused = tracks[self._order], self._first, self._last, self._excused
        before, after = np.roll(now, 1), np.roll(now, -1)
        # The track that last found the object; none after a box that is excused.
        settled = first | excused | (now >= 0)
        value = np.where(excused & ~first, -1, now)
        latest = np.maximum.accumulate(np.where(settled, np.arange(len(now)), 0))
        known = value[np.roll(latest, 1)] if len(now) else now
        later = ~first & ~excused & (now >= 0)
        switches = later & (known >= 0) & (known != now) & (before >= 0)
        changed = later & (before != now)
        fragmentations = changed & np.where(last, True, (known >= 0) & (after >= 0))
        tracked = np.bincount(self._ids, weights=(now >= 0) & (first | ~excused))
        of_counted = self._counted > 0
        ratios = tracked[of_counted] / self._counted[of_counted]
        objects = max(len(ratios), 1)
        return (
            int(switches.sum()),
            int(fragmentations.sum()),
            float((ratios > 0.8).sum() / objects),
            float((ratios < 0.2).sum() / objects),
        )


def _mean_again(means: Array, counts: Array) -> Array:
    """The mean of `counts` equal numbers, added one after the other: the same but for rounding."""
    total = np.zeros_like(means)
    for index in range(int(counts.max(initial=0))):
        total += np.where(index < counts, means, 0.0)
    result: Array = total / counts
    return result


def _negligible(tracks: BoxSequence, regions: BoxSequence) -> Array:
    """Boxes too low to be labelled, or inside a region that was not labelled, (N,) bool."""
    small: Array = np.abs(tracks.boxes_xyxy_px[:, 3] - tracks.boxes_xyxy_px[:, 1]) <= _MIN_HEIGHT_PX
    frames = np.unique(tracks.frames)
    rows = TrackSet(tracks.frames, np.arange(len(tracks)), tracks.boxes_xyxy_px)
    areas = TrackSet(regions.frames, np.arange(len(regions)), regions.boxes_xyxy_px)
    inside = overlaps(rows, areas, covered_one_by_one, frames)
    small[inside.truth_rows[inside.similarities > _MIN_COVERED]] = True
    return small


def _image_boxes(boxes: BoxSequence) -> Array:
    return boxes.boxes_xyxy_px


def _volumes(boxes: BoxSequence) -> Array:
    """(N, 7), the rows of `boxes3d`."""
    if boxes.boxes_3d is None or (len(boxes) > 0 and (boxes.boxes_3d[:, :3] <= 0.0).all()):
        raise UserError("the tracks or the truth have no boxes in space; compare them in the image")
    places: Array = boxes3d.from_kitti(boxes.boxes_3d).T
    return places


def _iou_3d(first: Array, second: Array) -> Array:
    return boxes3d.paired_iou_3d(first.T, second.T)


def _track_set(boxes: BoxSequence, places: Any) -> TrackSet:
    return TrackSet(boxes.frames, boxes.ids, places(boxes))


def _is_class(boxes: BoxSequence, class_name: str) -> Array:
    return np.isin(boxes.labels, [i for i, name in enumerate(boxes.class_names) if name.lower() == class_name])


def _whole(values: Array | None) -> Array:
    return np.asarray(values).astype(np.int64)


def _starts(counts: list[int]) -> Array:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
