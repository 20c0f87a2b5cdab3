"""How good a run was: completion, utility, quality of experience, energy, in all and kind by kind; what it held when.

QoS utility is the sum over tasks (DEMS, arXiv 2412.20860, section 3). QoE utility is the sum of bonuses over kinds,
boxes and tumbling windows in which at least the kind's target share was done in time (GEMS, section 6); a task belongs
to the window in which it was created.
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
            "kinds": {kind: {k: round(v, 6) for k, v in values.items()} for kind, values in self.kinds.items()},
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
            "late": int((run.fate[of_kind] == FATES.index(Fate.LATE)).sum()),
            "dropped": int((run.fate[of_kind] == FATES.index(Fate.DROPPED)).sum()),
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
    held = held_by(day, run)
    return (int(held.lane_ns.sum()) * power.lane_w + int(held.uplink_ns.sum()) * power.radio_w) / 1e9


@dataclass(frozen=True)
class Held:
    """When each of N tasks held a lane and the uplink: (N,) int64 ns, from and to equal (-1) where it never did."""

    lane_from_ns: Array
    lane_to_ns: Array
    uplink_from_ns: Array
    uplink_to_ns: Array

    @property
    def lane_ns(self) -> Array:
        """For how long it held a lane."""
        return self.lane_to_ns - self.lane_from_ns

    @property
    def uplink_ns(self) -> Array:
        """For how long it held the uplink."""
        return self.uplink_to_ns - self.uplink_from_ns


def held_by(day: Day, run: Run) -> Held:
    """What a run's tasks held and when, computed again by the simulator's rules from when each was started, and in
    which order they asked for the uplink.
    """
    edge_ns, upload_bytes = _parts(day, run)
    ran = (run.option >= 0) & (run.started_ns >= 0)
    on_lane = ran & (edge_ns > 0)
    slowdown = np.ones(len(edge_ns))
    for slow in day.slowdowns:
        slowdown[(slow.from_ns <= run.started_ns) & (run.started_ns < slow.to_ns)] *= slow.factor
    lane_from_ns = np.where(on_lane, run.started_ns, -1)
    took_ns = np.rint(edge_ns * day.edge_factor * slowdown).astype(np.int64)
    lane_to_ns = np.where(on_lane, run.started_ns + took_ns, -1)
    asked_ns = np.where(on_lane, lane_to_ns, run.started_ns)
    uplink_from_ns, uplink_to_ns = np.full(len(edge_ns), -1, np.int64), np.full(len(edge_ns), -1, np.int64)
    sent = run.asked[(ran & (upload_bytes > 0))[run.asked]]
    free_ns = [0] * len(day.links)
    deadline_ns = day.created_ns + np.array([kind.deadline_ns for kind in day.kinds], np.int64)[day.kind]
    for row in sent.tolist():
        box, until_ns = int(day.box[row]), int(deadline_ns[row])
        from_ns = max(int(asked_ns[row]), free_ns[box])
        if from_ns >= until_ns:
            continue
        done_ns = day.links[box].sent_ns(from_ns, int(upload_bytes[row]))
        free_ns[box] = until_ns if done_ns is None else min(done_ns, until_ns)
        uplink_from_ns[row], uplink_to_ns[row] = from_ns, free_ns[box]
    return Held(lane_from_ns, lane_to_ns, uplink_from_ns, uplink_to_ns)


def _parts(day: Day, run: Run) -> tuple[Array, Array]:
    """(N,) the option's time on a lane, and (N,) what goes up; 0 where there is no such part."""
    edge_ns, upload_bytes = np.zeros(len(run.option), np.int64), np.zeros(len(run.option), np.int64)
    for index, kind in enumerate(day.kinds):
        for position, option in enumerate(kind.options):
            rows = (day.kind == index) & (run.option == position)
            edge_ns[rows] = option.edge_ns
            if option.place != "edge":
                upload_bytes[rows] = option.upload_bytes or day.size_bytes[rows]
    return edge_ns, upload_bytes
