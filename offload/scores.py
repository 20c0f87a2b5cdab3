"""How good a run was: completion, utility, quality of experience, energy; in all, and kind by kind.

QoS utility is the sum over tasks (DEMS, arXiv 2412.20860, section 3). QoE utility is the sum of bonuses over kinds, boxes
and tumbling windows in which at least the kind's target share was done in time (GEMS, section 6); a task belongs to the
window in which it was created.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.scenario import Day
from offload.simulator import FATES, Run
from offload.tasks import Fate

Array = NDArray[Any]

_DONE = np.array([fate not in (Fate.LATE, Fate.DROPPED) for fate in FATES])


@dataclass(frozen=True)
class Power:
    """What the board draws, in watts, beside its idle draw: while a lane works, and while the radio sends."""

    lane_w: float = 4.0
    radio_w: float = 1.5


@dataclass(frozen=True)
class Scores:
    """completion: share of tasks done in time. energy_j: of the board, beside idling. fates and reasons: counts."""

    tasks: int
    completion: float
    qos_utility: float
    qoe_utility: float
    energy_j: float
    fates: dict[str, int]
    reasons: dict[str, int]
    kinds: dict[str, dict[str, float]]

    @property
    def total_utility(self) -> float:
        """QoS and QoE together."""
        return self.qos_utility + self.qoe_utility

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tasks": self.tasks,
            "completion": round(self.completion, 6),
            "qos_utility": round(self.qos_utility, 6),
            "qoe_utility": round(self.qoe_utility, 6),
            "total_utility": round(self.total_utility, 6),
            "energy_j": round(self.energy_j, 3),
            "fates": self.fates,
            "reasons": self.reasons,
            "kinds": self.kinds,
        }


def score(day: Day, run: Run, power: Power | None = None) -> Scores:
    """Score a run of a day."""
    power = power or Power()
    done = _DONE[run.fate]
    bonuses = qoe_bonuses(day, done)
    kinds = {}
    for index, kind in enumerate(day.kinds):
        of_kind = day.kind == index
        kinds[kind.name] = {
            "tasks": int(of_kind.sum()),
            "completion": float(done[of_kind].mean()) if of_kind.any() else 0.0,
            "qos_utility": float(run.utility[of_kind].sum()),
            "qoe_utility": float(bonuses[index]),
        }
    fates = {fate.value: int((run.fate == index).sum()) for index, fate in enumerate(FATES)}
    return Scores(
        tasks=len(done),
        completion=float(done.mean()) if len(done) else 0.0,
        qos_utility=float(run.utility.sum()),
        qoe_utility=float(bonuses.sum()),
        energy_j=_energy_j(day, run, power),
        fates=fates,
        reasons=dict(sorted(Counter(reason for reason in run.reasons if reason).items())),
        kinds=kinds,
    )


def qoe_bonuses(day: Day, done: Array) -> Array:
    """(K,) the sum of each kind's bonuses over boxes and windows. done (N,) bool: done in time."""
    window = day.created_ns // day.window_ns
    boxes = int(day.box.max(initial=0)) + 1
    bonuses = np.zeros(len(day.kinds))
    for index, kind in enumerate(day.kinds):
        of_kind = day.kind == index
        cell = window[of_kind] * boxes + day.box[of_kind]
        wanted = np.bincount(cell)
        reached = np.bincount(cell, weights=done[of_kind])
        bonuses[index] = kind.qoe_bonus * int(((wanted > 0) & (reached >= kind.qoe_target * wanted - 1e-9)).sum())
    return bonuses


def _energy_j(day: Day, run: Run, power: Power) -> float:
    """Lanes at work, and radio: what the options state of the board's time, and uploads at the links' own rate."""
    lane_s = radio_s = 0.0
    for index, kind in enumerate(day.kinds):
        for position, option in enumerate(kind.options):
            rows = (day.kind == index) & (run.option == position)
            lane_s += float((option.edge_ns * day.edge_factor[rows]).sum()) / 1e9
            if option.place != "edge" and rows.any():
                sizes = np.where(option.upload_bytes, option.upload_bytes, day.size_bytes[rows])
                radio_s += _upload_s(day, run.started_ns[rows], sizes, day.box[rows])
    return lane_s * power.lane_w + radio_s * power.radio_w


def _upload_s(day: Day, started_ns: Array, sizes: Array, boxes: Array) -> float:
    total_ns = 0
    for started, size, box in zip(started_ns.tolist(), sizes.tolist(), boxes.tolist(), strict=True):
        sent_ns = day.links[box].sent_ns(max(started, 0), size)
        total_ns += min(sent_ns - max(started, 0), day.window_ns) if sent_ns is not None else 0
    return total_ns / 1e9
