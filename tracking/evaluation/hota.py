"""HOTA: detection, association and localisation in one measure, at nineteen thresholds of similarity.

Luiten et al., HOTA: A Higher Order Metric for Evaluating Multi-object Tracking (IJCV 2021). The matching of a frame
maximises similarity times the alignment of the two identities over the whole sequence, as the authors' TrackEval does
it (once for all thresholds); its numbers are reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.evaluation.matching import best_pairs
from tracking.evaluation.overlaps import EPS, Overlaps

Array = NDArray[Any]

ALPHAS = np.arange(0.05, 0.99, 0.05)
"""Thresholds of similarity from which a pair is a match, (19,)."""


def _zeros() -> Array:
    return np.zeros(len(ALPHAS))


@dataclass(frozen=True, eq=False)
class Hota:
    """Sums for each threshold, all (19,) float64; the measures follow from them, so that sequences add up with `+`.

    association_sum, recall_sum, precision_sum: over all matches, the Jaccard index, recall and precision of the
    matched identities; similarity_sum: over all matches.
    """

    true_positives: Array = field(default_factory=_zeros)
    false_negatives: Array = field(default_factory=_zeros)
    false_positives: Array = field(default_factory=_zeros)
    association_sum: Array = field(default_factory=_zeros)
    recall_sum: Array = field(default_factory=_zeros)
    precision_sum: Array = field(default_factory=_zeros)
    similarity_sum: Array = field(default_factory=_zeros)

    def __add__(self, other: Hota) -> Hota:
        return Hota(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def per_alpha(self) -> dict[str, Array]:
        """The measures at each threshold, (19,), under TrackEval's names."""
        tp, fn, fp = self.true_positives, self.false_negatives, self.false_positives
        matches = np.maximum(1.0, tp)
        det_a, ass_a = tp / np.maximum(1.0, tp + fn + fp), self.association_sum / matches
        det_re = tp / np.maximum(1.0, tp + fn)
        return {
            "HOTA": np.sqrt(det_a * ass_a),
            "DetA": det_a,
            "AssA": ass_a,
            "DetRe": det_re,
            "DetPr": tp / np.maximum(1.0, tp + fp),
            "AssRe": self.recall_sum / matches,
            "AssPr": self.precision_sum / matches,
            "LocA": np.maximum(1e-10, self.similarity_sum) / np.maximum(1e-10, tp),
            "OWTA": np.sqrt(det_re * ass_a),
        }

    def summary(self) -> dict[str, float]:
        """The means over the thresholds, and HOTA and LocA at the lowest one."""
        curves = self.per_alpha()
        hota, loc_a = float(curves["HOTA"][0]), float(curves["LocA"][0])
        means = {name: float(curve.mean()) for name, curve in curves.items()}
        return means | {"HOTA(0)": hota, "LocA(0)": loc_a, "HOTALocA(0)": hota * loc_a}


def hota(overlaps: Overlaps) -> Hota:
    """HOTA of one sequence."""
    o = overlaps
    truth_counts = np.bincount(o.truth_ids).astype(np.float64)
    track_counts = np.bincount(o.track_ids).astype(np.float64)
    # Identities meet in `couples`; each overlapping pair belongs to one of them.
    keys = o.truth_ids[o.truth_rows] * len(track_counts) + o.track_ids[o.track_rows]
    couples, couple_of = np.unique(keys, return_inverse=True)
    truth_count = truth_counts[couples // max(len(track_counts), 1)]
    track_count = track_counts[couples % max(len(track_counts), 1)]

    potential = np.bincount(couple_of, weights=_shares(o), minlength=len(couples))
    alignment = potential / (truth_count + track_count - potential)
    matched = best_pairs(o, np.arange(len(couple_of)), alignment[couple_of] * o.similarities)

    similar = o.similarities[matched]
    valid = similar[:, None] >= ALPHAS - EPS
    counts = np.stack([np.bincount(couple_of[matched][v], minlength=len(couples)) for v in valid.T], axis=1)
    together = truth_count[:, None] + track_count[:, None] - counts
    tp = valid.sum(axis=0).astype(np.float64)
    return Hota(
        true_positives=tp,
        false_negatives=len(o.truth_ids) - tp,
        false_positives=len(o.track_ids) - tp,
        association_sum=(counts * (counts / np.maximum(1.0, together))).sum(axis=0),
        recall_sum=(counts * (counts / truth_count[:, None])).sum(axis=0),
        precision_sum=(counts * (counts / track_count[:, None])).sum(axis=0),
        similarity_sum=(similar[:, None] * valid).sum(axis=0),
    )


def _shares(o: Overlaps) -> Array:
    """Each pair's similarity over that of all pairs which its two rows are in, (K,)."""
    by_truth = np.bincount(o.truth_rows, weights=o.similarities, minlength=len(o.truth_ids))
    by_track = np.bincount(o.track_rows, weights=o.similarities, minlength=len(o.track_ids))
    whole = by_truth[o.truth_rows] + by_track[o.track_rows] - o.similarities
    shares: Array = np.divide(o.similarities, whole, out=np.zeros_like(whole), where=whole > EPS)
    return shares
