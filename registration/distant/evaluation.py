"""How often, how exactly and how fast pairs of scans are registered, by their distance.

Recall is the share of pairs that are right: less than 2 m and 5 degrees off, as in FCGF, Predator, APR and GCL. RRE and
RTE are the rotation's and the translation's errors, means over the right pairs only, as those papers give them; medians
over all pairs stand beside them, because a mean over the right ones flatters a method that gets few right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import inverse, so3_log

Array = NDArray[Any]

MAX_TRANSLATION_M, MAX_ROTATION_DEG = 2.0, 5.0


@dataclass(frozen=True)
class Outcome:
    """One pair: its bin of distance, the errors (inf where no finite pose was given), and the method's confidence,
    and time_s of the processor: what a free core takes, whatever else the machine does."""

    bin_m: tuple[float, float]
    translation_m: float
    rotation_deg: float
    confidence: float
    time_s: float

    @property
    def right(self) -> bool:
        """Whether the pair counts as recalled."""
        return self.translation_m < MAX_TRANSLATION_M and self.rotation_deg < MAX_ROTATION_DEG


def errors_of(truth: Array, found: Array) -> tuple[float, float]:
    """Metres between the translations of two poses (4, 4), and degrees between their rotations; inf if not finite."""
    if not np.isfinite(found).all():
        return float("inf"), float("inf")
    turned = so3_log(inverse(truth)[:3, :3] @ found[:3, :3])
    return float(np.linalg.norm(found[:3, 3] - truth[:3, 3])), float(np.degrees(np.linalg.norm(turned)))


def measure(
    register: Callable[[Array, Array], tuple[Array, float]],
    pairs: Iterable[tuple[Array, Array, Array, tuple[float, float]]],
) -> list[Outcome]:
    """Register pairs of target (N, 3), source (M, 3), truth (4, 4) and bin; register gives a pose and a confidence."""
    outcomes = []
    for target_m, source_m, truth, bin_m in pairs:
        start = time.process_time()
        found, confidence = register(target_m, source_m)
        elapsed_s = time.process_time() - start
        outcomes.append(Outcome(bin_m, *errors_of(truth, found), confidence, elapsed_s))
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """pairs, recall, rre_deg and rte_m (means over the right pairs, NaN if none is), medians over all, time_s_p50."""
    right = [outcome for outcome in outcomes if outcome.right]

    def of(name: str, chosen: Sequence[Outcome], statistic: Callable[[Array], Any]) -> float:
        values = np.array([getattr(outcome, name) for outcome in chosen])
        return float(statistic(values)) if len(values) else float("nan")

    return {
        "pairs": len(outcomes),
        "recall": len(right) / len(outcomes) if outcomes else float("nan"),
        "rre_deg": of("rotation_deg", right, np.mean),
        "rte_m": of("translation_m", right, np.mean),
        "rotation_deg_p50": of("rotation_deg", outcomes, np.median),
        "translation_m_p50": of("translation_m", outcomes, np.median),
        "time_s_p50": of("time_s", outcomes, np.median),
    }


def by_distance(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """A summary for each bin, nearest first, under names like "40-50 m"."""
    bins = sorted({outcome.bin_m for outcome in outcomes})
    return {
        f"{low:g}-{high:g} m": summary([outcome for outcome in outcomes if outcome.bin_m == (low, high)])
        for low, high in bins
    }


def roc(right: Sequence[float], wrong: Sequence[float]) -> dict[str, float]:
    """Confidences of right and wrong poses: auc, and the recall at which no wrong one is accepted."""
    high, low = np.asarray(right, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    if not len(high) or not len(low):
        return {"auc": float("nan"), "recall_without_wrong": float("nan")}
    above = (high[:, None] > low[None, :]).mean() + 0.5 * (high[:, None] == low[None, :]).mean()
    return {"auc": float(above), "recall_without_wrong": float((high > low.max()).mean())}


def table(methods: dict[str, dict[str, dict[str, float]]]) -> str:
    """Text: a row for each method and bin of by_distance."""
    lines = [f"{'':28} {'distance':>9} pairs recall  RRE °  RTE m  medians ° and m   s/pair"]
    for method, bins in methods.items():
        for name, row in bins.items():
            lines.append(
                f"{method:28} {name:>9} {row['pairs']:5.0f} {row['recall']:6.1%} {row['rre_deg']:6.2f} "
                f"{row['rte_m']:6.2f} {row['rotation_deg_p50']:8.2f} {row['translation_m_p50']:7.2f} "
                f"{row['time_s_p50']:8.2f}"
            )
    return "\n".join(lines)
