"""CLEAR MOT: how well tracks follow the truth, counted frame by frame.

Bernardin and Stiefelhagen, Evaluating Multiple Object Tracking Performance (2008), counted as MOTChallenge's TrackEval
counts it: in a frame the correspondences of the previous one are kept where they still hold, and the sum of the
similarities is maximised; a switch is counted when an object is matched to another track than the last one it was
matched to, however long ago. A frame without truth or without tracks ends neither a correspondence nor a stretch of
matches. Where there is no truth the measures are 0, and all of it is mostly lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.evaluation.matching import best_of_frame, uncontested
from tracking.evaluation.overlaps import EPS, Overlaps

Array = NDArray[Any]

_KEPT_BONUS = 1000.0  # more than all similarities of a frame can sum to


@dataclass(frozen=True)
class Clear:
    """Counts; the measures follow from them, so that sequences add up with `+`.

    similarity_sum: over all matches. The object counts are of truth objects over the whole sequence: mostly tracked in
    more than 80 % of their frames, mostly lost in less than 20 %, partly tracked the rest.
    """

    frames: int = 0
    matches: int = 0
    misses: int = 0
    false_positives: int = 0
    id_switches: int = 0
    fragmentations: int = 0
    mostly_tracked: int = 0
    partly_tracked: int = 0
    mostly_lost: int = 0
    similarity_sum: float = 0.0

    def __add__(self, other: Clear) -> Clear:
        return Clear(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def truths(self) -> int:
        """Truth boxes."""
        return self.matches + self.misses

    @property
    def mota(self) -> float:
        """(matches - false positives - switches) / truths."""
        return self._of_truths(self.matches - self.false_positives - self.id_switches)

    @property
    def motp(self) -> float:
        """Mean similarity of the matches."""
        return self.similarity_sum / max(self.matches, 1)

    @property
    def recall(self) -> float:
        """Matches / truths."""
        return self._of_truths(self.matches)

    @property
    def precision(self) -> float:
        """Matches / (matches + false positives)."""
        return self.matches / max(self.matches + self.false_positives, 1)

    def summary(self) -> dict[str, int | float]:
        """Measures and counts under TrackEval's names."""
        objects = self.mostly_tracked + self.partly_tracked + self.mostly_lost
        switches_log = math.log10(self.id_switches) if self.id_switches else 0.0
        return {
            "MOTA": self.mota,
            "MOTP": self.motp,
            "MODA": self._of_truths(self.matches - self.false_positives),
            "CLR_Re": self.recall,
            "CLR_Pr": self.precision,
            "MTR": self.mostly_tracked / max(objects, 1),
            "PTR": self.partly_tracked / max(objects, 1),
            "MLR": self.mostly_lost / objects if objects else 1.0,
            "sMOTA": self._of_truths(self.similarity_sum - self.false_positives - self.id_switches),
            "CLR_TP": self.matches,
            "CLR_FN": self.misses,
            "CLR_FP": self.false_positives,
            "IDSW": self.id_switches,
            "MT": self.mostly_tracked,
            "PT": self.partly_tracked,
            "ML": self.mostly_lost,
            "Frag": self.fragmentations,
            "CLR_F1": self.matches / max(1.0, self.matches + 0.5 * (self.misses + self.false_positives)),
            "MOTAL": self._of_truths(self.matches - self.false_positives - switches_log),
        }

    def _of_truths(self, part: float) -> float:
        return part / self.truths if self.truths else 0.0


def clear(overlaps: Overlaps, *, threshold: float = 0.5) -> Clear:
    """CLEAR MOT of one sequence; pairs whose similarity is at least the threshold, above 0, can be matched."""
    o = overlaps
    near = np.flatnonzero(o.similarities >= threshold - EPS)
    turns = _turns(o)[o.pair_frames[near]]
    truth_ids, track_ids = o.truth_ids[o.truth_rows[near]], o.track_ids[o.track_rows[near]]
    order = np.flatnonzero(_follow(o, near, turns, truth_ids, track_ids))
    similarity_sum = float(o.similarities[near[order]].sum())

    # The matches of each object one after another.
    order = order[np.lexsort([turns[order], truth_ids[order]])]
    same_object = truth_ids[order[1:]] == truth_ids[order[:-1]]
    switched = same_object & (track_ids[order[1:]] != track_ids[order[:-1]])
    broken = same_object & (turns[order[1:]] - turns[order[:-1]] > 1)

    seen = np.bincount(o.truth_ids)
    ratios = np.bincount(truth_ids[order], minlength=len(seen)) / np.maximum(seen, 1)
    mostly, partly = int((ratios > 0.8).sum()), int((ratios >= 0.2).sum())
    return Clear(
        frames=o.frame_count,
        matches=len(order),
        misses=len(o.truth_ids) - len(order),
        false_positives=len(o.track_ids) - len(order),
        id_switches=int(switched.sum()),
        fragmentations=int(broken.sum()),
        mostly_tracked=mostly,
        partly_tracked=partly - mostly,
        mostly_lost=len(seen) - partly,
        similarity_sum=similarity_sum,
    )


def _turns(o: Overlaps) -> Array:
    """The frames' places among those that have both truth and tracks, (frame_count,)."""
    truth, tracks = np.zeros((2, o.frame_count), dtype=bool)
    truth[o.truth_frames] = True
    tracks[o.track_frames] = True
    return np.cumsum(truth & tracks)


def _follow(o: Overlaps, pairs: Array, turns: Array, truth_ids: Array, track_ids: Array) -> Array:
    """Which of the pairs are matches, (P,) bool. Only frames with contested pairs need to look at the previous one."""
    truth_rows, track_rows = o.truth_rows[pairs], o.track_rows[pairs]
    matched = uncontested(truth_rows, track_rows)
    previous = np.full(truth_ids.max(initial=-1) + 1, -1)
    for turn in np.unique(turns[~matched]):
        start, middle, end = np.searchsorted(turns, [turn - 1, turn, turn + 1])
        before, now = start + np.flatnonzero(matched[start:middle]), slice(middle, end)
        previous[truth_ids[before]] = track_ids[before]
        weights = o.similarities[pairs[now]] + _KEPT_BONUS * (previous[truth_ids[now]] == track_ids[now])
        previous[truth_ids[before]] = -1
        frame = o.truth_frames[truth_rows[middle]]
        matched[now] = best_of_frame(o, frame, truth_rows[now], track_rows[now], weights)
    return matched
