"""IDF1: how long one track carries one object, over the whole sequence.

Ristani et al., Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking (2016): each truth identity
is given at most one track and the other way round, so that the most boxes agree; as in MOTChallenge's TrackEval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracking.evaluation.matching import least_cost
from tracking.evaluation.overlaps import Overlaps


@dataclass(frozen=True)
class Identity:
    """Counts of boxes; the measures follow from them, so that sequences add up with `+`."""

    true_positives: int = 0
    false_negatives: int = 0
    false_positives: int = 0

    def __add__(self, other: Identity) -> Identity:
        return Identity(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def idf1(self) -> float:
        """True positives over the mean number of truth and track boxes."""
        return self.true_positives / max(1.0, self.true_positives + 0.5 * (self.false_negatives + self.false_positives))

    def summary(self) -> dict[str, int | float]:
        """Measures and counts under TrackEval's names."""
        return {
            "IDF1": self.idf1,
            "IDR": self.true_positives / max(1, self.true_positives + self.false_negatives),
            "IDP": self.true_positives / max(1, self.true_positives + self.false_positives),
            "IDTP": self.true_positives,
            "IDFN": self.false_negatives,
            "IDFP": self.false_positives,
        }


def identity(overlaps: Overlaps, *, threshold: float = 0.5) -> Identity:
    """Identity counts of one sequence; boxes agree where their similarity is at least the threshold, above 0."""
    o = overlaps
    near = o.similarities >= threshold
    couples = np.stack([o.truth_ids[o.truth_rows[near]], o.track_ids[o.track_rows[near]]])
    (truth_ids, track_ids), counts = np.unique(couples, axis=1, return_counts=True)
    truth_names, row = np.unique(truth_ids, return_inverse=True)
    track_names, column = np.unique(track_ids, return_inverse=True)
    costs = np.zeros((len(truth_names), len(track_names)))
    costs[row, column] = -counts
    agreed = int(counts[least_cost(costs, ties=False)[row] == column].sum())
    return Identity(agreed, len(o.truth_ids) - agreed, len(o.track_ids) - agreed)
