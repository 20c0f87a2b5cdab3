"""CLEAR MOT: how well tracks follow the truth, counted frame by frame.

Bernardin and Stiefelhagen, Evaluating Multiple Object Tracking Performance (2008). In each frame a correspondence of
the previous frame is kept while it stays within the gate; the rest are assigned optimally. An identity switch is
counted when a truth object is matched to another track than the last one it was matched to, however long ago. The
counting of fragmentations and of mostly tracked objects (matched in more than 80 % of their frames) follows
MOTChallenge's TrackEval, with which the numbers agree but for one thing: there a frame without any track breaks no
correspondence and no stretch of matches, here it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.association import gated_assignment, pairwise_distances, pairwise_iou

Array = NDArray[Any]
PairwiseCost = Callable[[Array, Array], Array]


@dataclass(frozen=True, eq=False)
class TrackSet:
    """Objects over time, one row for each object in each frame, in any order.

    frames (N,) int64: frame numbers or stamps; ids (N,) int64, each once in a frame; places (N, D) float64: box
    corners x1 y1 x2 y2 for IoU, centres for distances.
    """

    frames: Array
    ids: Array
    places: Array

    def __post_init__(self) -> None:
        if not self.frames.shape == self.ids.shape == self.places.shape[:1] or self.places.ndim != 2:
            raise ValueError(f"shapes {self.frames.shape} {self.ids.shape} {self.places.shape} do not fit together")
        if len(np.unique(np.stack([self.frames, self.ids]), axis=1).T) != len(self.ids):
            raise ValueError("an id occurs twice in a frame")


@dataclass(frozen=True)
class ClearMot:
    """Counts; the measures follow from them, so that sequences add up with `+`.

    cost_sum: over all matches, 1 - IoU or metres. The object counts are of truth objects over the whole sequence:
    mostly tracked in more than 80 % of their frames, mostly lost in less than 20 %, partly tracked the rest.
    """

    frames: int = 0
    truths: int = 0
    matches: int = 0
    misses: int = 0
    false_positives: int = 0
    id_switches: int = 0
    fragmentations: int = 0
    mostly_tracked: int = 0
    partly_tracked: int = 0
    mostly_lost: int = 0
    cost_sum: float = 0.0

    def __add__(self, other: ClearMot) -> ClearMot:
        return ClearMot(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def mota(self) -> float:
        """1 - (misses + false positives + switches) / truths; NaN without truth."""
        return 1.0 - _ratio(self.misses + self.false_positives + self.id_switches, self.truths)

    @property
    def motp(self) -> float:
        """Mean cost of the matches: 1 - IoU, or metres; NaN without matches."""
        return _ratio(self.cost_sum, self.matches)

    @property
    def recall(self) -> float:
        """Matches / truths; NaN without truth."""
        return _ratio(self.matches, self.truths)

    @property
    def precision(self) -> float:
        """Matches / (matches + false positives); NaN without tracks."""
        return _ratio(self.matches, self.matches + self.false_positives)

    def summary(self) -> dict[str, int | float | None]:
        """Counts and measures by name, for a JSON file: None where there is nothing to measure."""
        measures = {name: getattr(self, name) for name in ("mota", "motp", "recall", "precision")}
        return {**vars(self), **{name: None if np.isnan(value) else value for name, value in measures.items()}}


def evaluate_iou(
    truth: TrackSet, tracks: TrackSet, *, min_iou: float = 0.5, frames: Iterable[int] | None = None,
    ignored: Array | None = None,
) -> ClearMot:  # fmt: skip
    """CLEAR MOT of boxes x1 y1 x2 y2, matched where their IoU is at least min_iou. See `evaluate`."""
    gate = np.nextafter(1.0 - min_iou, 2.0)
    return evaluate(truth, tracks, lambda a, b: 1.0 - pairwise_iou(a, b), float(gate), frames=frames, ignored=ignored)


def evaluate_distance(
    truth: TrackSet, tracks: TrackSet, *, gate_m: float = 2.0, frames: Iterable[int] | None = None,
    ignored: Array | None = None,
) -> ClearMot:  # fmt: skip
    """CLEAR MOT of centres in metres, matched where they are nearer than gate_m. See `evaluate`."""
    return evaluate(truth, tracks, pairwise_distances, gate_m, frames=frames, ignored=ignored)


def evaluate(
    truth: TrackSet, tracks: TrackSet, cost: PairwiseCost, gate: float, *, frames: Iterable[int] | None = None,
    ignored: Array | None = None,
) -> ClearMot:  # fmt: skip
    """Count matches of tracks with truth, pairs whose cost is below the gate.

    frames: those that were labelled, the others are left out of account; default: every frame with a truth object.
    Give them where a labelled frame may be empty. ignored (N,) bool marks truth rows that need not be found (unsure,
    or of a similar class): a track left over near one of them is no false positive.
    """
    wanted = np.unique(truth.frames) if frames is None else np.unique(np.fromiter(frames, dtype=np.int64))
    ignored = np.zeros(len(truth.ids), dtype=bool) if ignored is None else ignored
    counted, unsure = _by_frame(truth, wanted, ~ignored), _by_frame(truth, wanted, ignored)
    tracked = _by_frame(tracks, wanted, np.ones(len(tracks.ids), dtype=bool))
    book = _Book()
    for truth_rows, unsure_rows, track_rows in zip(counted, unsure, tracked, strict=True):
        costs = cost(truth.places[truth_rows], tracks.places[track_rows])
        rows, columns = _match(costs, gate, truth.ids[truth_rows], tracks.ids[track_rows], book.previous)
        left_over = np.setdiff1d(np.arange(len(track_rows)), columns)
        near_unsure = cost(truth.places[unsure_rows], tracks.places[track_rows[left_over]]) < gate
        book.enter(truth.ids[truth_rows], rows, tracks.ids[track_rows][columns])
        book.cost_sum += float(costs[rows, columns].sum())
        book.false_positives += int(len(left_over) - near_unsure.any(axis=0).sum())
    return book.close(len(wanted))


class _Book:
    """Running counts, and for each truth object: to whom it was matched last, how often seen and matched."""

    def __init__(self) -> None:
        self.previous: dict[int, int] = {}  # truth id -> track id, in the previous frame
        self.last: dict[int, int] = {}  # the same, at its last match
        self.seen: dict[int, int] = {}
        self.matched: dict[int, int] = {}
        self.runs: dict[int, int] = {}  # unbroken stretches of matches
        self.cost_sum, self.false_positives, self.id_switches = 0.0, 0, 0

    def enter(self, truth_ids: Array, rows: Array, track_ids: Array) -> None:
        """Note one frame: all its truth objects, and that truth_ids[rows] are matched to track_ids."""
        for truth_id in truth_ids.tolist():
            self.seen[truth_id] = self.seen.get(truth_id, 0) + 1
        current = dict(zip(truth_ids[rows].tolist(), track_ids.tolist(), strict=True))
        for truth_id, track_id in current.items():
            self.id_switches += self.last.get(truth_id, track_id) != track_id
            self.runs[truth_id] = self.runs.get(truth_id, 0) + (truth_id not in self.previous)
            self.matched[truth_id] = self.matched.get(truth_id, 0) + 1
        self.last.update(current)
        self.previous = current

    def close(self, frames: int) -> ClearMot:
        """The counts."""
        seen = np.array(list(self.seen.values()), dtype=np.int64)
        matched = np.array([self.matched.get(truth_id, 0) for truth_id in self.seen], dtype=np.int64)
        mostly_tracked, mostly_lost = int((matched > 0.8 * seen).sum()), int((matched < 0.2 * seen).sum())
        return ClearMot(
            frames=frames,
            truths=int(seen.sum()),
            matches=int(matched.sum()),
            misses=int(seen.sum() - matched.sum()),
            false_positives=self.false_positives,
            id_switches=self.id_switches,
            fragmentations=sum(runs - 1 for runs in self.runs.values()),
            mostly_tracked=mostly_tracked,
            partly_tracked=len(seen) - mostly_tracked - mostly_lost,
            mostly_lost=mostly_lost,
            cost_sum=self.cost_sum,
        )


def _match(
    costs: Array, gate: float, truth_ids: Array, track_ids: Array, previous: dict[int, int]
) -> tuple[Array, Array]:
    """Rows and columns of the matches: as in the previous frame where still within the gate, else the best."""
    before = np.array([previous.get(truth_id, -1) for truth_id in truth_ids.tolist()], dtype=np.int64)
    kept = (before[:, None] == track_ids[None, :]) & (before[:, None] >= 0) & (costs < gate)
    # TrackEval's weights: 1000 for a kept pair plus the similarity, which for IoU from 0.5 is half of 2 - cost / gate.
    pairs = gated_assignment(np.where(costs < gate, costs / gate - 2.0 - 2000.0 * kept, np.inf), 0.0)
    return pairs.rows, pairs.columns


def _by_frame(objects: TrackSet, wanted: Array, chosen: Array) -> list[Array]:
    """Row indices of the chosen objects for each wanted frame, ordered by id so that row order does not matter."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.lexsort([objects.ids[rows], objects.frames[rows]])]
    starts = np.searchsorted(objects.frames[rows], wanted, side="left")
    ends = np.searchsorted(objects.frames[rows], wanted, side="right")
    return [rows[start:end] for start, end in zip(starts, ends, strict=True)]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
