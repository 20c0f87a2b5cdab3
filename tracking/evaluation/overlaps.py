"""Which truth and which tracks overlap, frame by frame: what all measures start from.

All frames are one list of pairs, sorted by frame, so that no measure loops over frames, boxes or identities. Similarity
is 0 for strangers and 1 for twins; pairs with similarity 0 are not kept, as no measure asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Similarity = Callable[[Array, Array], Array]

EPS = float(np.finfo("float").eps)
"""TrackEval's slack at every threshold."""

_BLOCK_PAIRS = 1 << 14  # what fits the cache


@dataclass(frozen=True, eq=False)
class TrackSet:
    """Objects over time, one row for each object in each frame, in any order.

    frames (N,) int64: frame numbers or stamps; ids (N,) int64, each once in a frame; places (N, D) float64: box
    corners x1 y1 x2 y2 for IoU, centres for distances. Raises ValueError if the shapes differ or an id occurs twice.
    """

    frames: Array
    ids: Array
    places: Array

    def __post_init__(self) -> None:
        if not self.frames.shape == self.ids.shape == self.places.shape[:1] or self.places.ndim != 2:
            raise ValueError(f"shapes {self.frames.shape} {self.ids.shape} {self.places.shape} do not fit together")
        order = np.lexsort([self.ids, self.frames])
        keys = np.stack([self.frames, self.ids])[:, order]
        twice = np.flatnonzero((keys[:, 1:] == keys[:, :-1]).all(axis=0))
        if len(twice):
            frame, name = keys[:, twice[0]]
            raise ValueError(f"id {name} occurs twice in frame {frame}")


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Truth (T rows) and tracks (R rows) of one sequence, by frame, and the K pairs of them that overlap in a frame.

    truth_frames, track_frames: frames as indices from 0 to frame_count - 1; truth_ids, track_ids: identities counted
    from 0 without gaps; truth_rows, track_rows (K,): the pairs, by frame; similarities (K,) float64 above 0.
    """

    frame_count: int
    truth_frames: Array
    truth_ids: Array
    track_frames: Array
    track_ids: Array
    truth_rows: Array
    track_rows: Array
    similarities: Array

    @property
    def pair_frames(self) -> Array:
        """The frame of each pair."""
        frames: Array = self.truth_frames[self.truth_rows]
        return frames

    def select(self, truth: Array, tracks: Array) -> Overlaps:
        """Only the rows of these masks, (T,) and (R,) bool."""
        pairs = truth[self.truth_rows] & tracks[self.track_rows]
        return Overlaps(
            frame_count=self.frame_count,
            truth_frames=self.truth_frames[truth],
            truth_ids=_numbered(self.truth_ids[truth]),
            track_frames=self.track_frames[tracks],
            track_ids=_numbered(self.track_ids[tracks]),
            truth_rows=(np.cumsum(truth) - 1)[self.truth_rows[pairs]],
            track_rows=(np.cumsum(tracks) - 1)[self.track_rows[pairs]],
            similarities=self.similarities[pairs],
        )


def overlaps(
    truth: TrackSet, tracks: TrackSet, similarity: Similarity, frames: Iterable[int] | None = None
) -> Overlaps:
    """Compare all truth with all tracks of the same frame. Rows come out by frame, in a frame in the given order.

    similarity: of (K, D) and (K, D) places, one by one, (K,); what is not above 0 is no pair. frames: those that were
    labelled, rows of others are left out of account; default: every frame with truth. Give them where a labelled frame
    may be empty.
    """
    wanted = np.unique(truth.frames if frames is None else np.fromiter(frames, dtype=np.int64))
    truth_order, truth_frames = _by_frame(truth, wanted)
    track_order, track_frames = _by_frame(tracks, wanted)
    truth_places, track_places = truth.places[truth_order], tracks.places[track_order]
    found = [
        (rows[keep], columns[keep], values[keep])
        for rows, columns in _same_frame(truth_frames, track_frames)
        for values in [similarity(truth_places[rows], track_places[columns])]
        for keep in [values > 0.0]
    ]
    rows, columns, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return Overlaps(
        frame_count=len(wanted),
        truth_frames=truth_frames,
        truth_ids=_numbered(truth.ids[truth_order]),
        track_frames=track_frames,
        track_ids=_numbered(tracks.ids[track_order]),
        truth_rows=rows,
        track_rows=columns,
        similarities=values,
    )


@np.errstate(over="ignore", invalid="ignore")  # boxes of others may hold anything: such are no pair
def iou_one_by_one(first_xyxy: Array, second_xyxy: Array) -> Array:
    """Intersection over union (K,) of boxes (K, 4) and (K, 4); 0 or NaN where a box is not one."""
    overlap = _intersections(first_xyxy, second_xyxy)
    area, other = _areas(first_xyxy), _areas(second_xyxy)
    union = area + other - overlap
    usable = (area > EPS) & (other > EPS) & (union > EPS)
    result: Array = np.divide(overlap, union, out=np.zeros_like(union), where=usable)
    return result


def covered_one_by_one(first_xyxy: Array, second_xyxy: Array) -> Array:
    """How much of each box (K, 4) the other (K, 4) covers, 0 to 1, (K,); 0 where the first has no area."""
    area = _areas(first_xyxy)
    overlap = _intersections(first_xyxy, second_xyxy)
    result: Array = np.divide(overlap, area, out=np.zeros_like(area), where=area > EPS)
    return result


def nearness(gate_m: float) -> Similarity:
    """A similarity of centres: 1 at distance 0, 0.5 at gate_m, 0 from twice as far on."""
    if not 0.0 < gate_m < np.inf:
        raise ValueError(f"gate_m is {gate_m}, not positive")

    def similarity(first_m: Array, second_m: Array) -> Array:
        distance_m = np.sqrt(((first_m - second_m) ** 2).sum(axis=1))
        result: Array = np.maximum(0.0, 1.0 - distance_m / (2.0 * gate_m))
        return result

    return similarity


def _intersections(first_xyxy: Array, second_xyxy: Array) -> Array:
    ax1, ay1, ax2, ay2 = first_xyxy.T
    bx1, by1, bx2, by2 = second_xyxy.T
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0.0)
    result: Array = width * np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1), 0.0)
    return result


def _areas(xyxy: Array) -> Array:
    x1, y1, x2, y2 = xyxy.T
    result: Array = (x2 - x1) * (y2 - y1)
    return result


def _by_frame(objects: TrackSet, wanted: Array) -> tuple[Array, Array]:
    """Row indices of the objects in wanted frames, by frame, and for each the index of its frame."""
    rows = np.flatnonzero(np.isin(objects.frames, wanted))
    rows = rows[np.argsort(objects.frames[rows], kind="stable")]
    return rows, np.searchsorted(wanted, objects.frames[rows])


def _same_frame(truth_frames: Array, track_frames: Array) -> Iterable[tuple[Array, Array]]:
    """All pairs of rows with the same frame, in blocks of bounded size (one row's partners are never split)."""
    starts = np.searchsorted(track_frames, truth_frames, side="left")
    counts = np.searchsorted(track_frames, truth_frames, side="right") - starts
    ends = np.cumsum(counts)
    low = 0
    while True:
        done = ends[low - 1] if low else 0
        high = max(int(np.searchsorted(ends, done + _BLOCK_PAIRS, side="right")), low + 1)
        count = counts[low:high]
        rows = np.repeat(np.arange(low, low + len(count)), count)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        yield rows, np.repeat(starts[low:high], count) + within
        low = high
        if low >= len(counts):
            return


def _numbered(ids: Array) -> Array:
    """The same identities counted from 0."""
    return np.unique(ids, return_inverse=True)[1].astype(np.int64)
