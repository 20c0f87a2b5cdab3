"""What decisions are rewarded for, once it is known what became of each task, and what lies beyond a decision.

Two rewards, each with a preference w in 0..1 that the policy is told:

"time and energy", after MEC-MORL: -(w * completion time / 1 s + (1 - w) * energy / 1 J). There the increase of the
summed completion time is estimated when a task is placed; here each task's own time is measured, and what a decision
does to others comes by `returns`. Time and energy have other units there (factors 0.01 and 50). Tasks there
have no deadlines and all complete: here one that is late or dropped counts as two deadlines long.

"utility": w * QoS + (1 - w) * 10 * QoE, over 100. QoE is a bonus for a window of 20 s, far beyond the horizon, so a
task in time gets what it changed in it: the difference of a logistic of the window's count, 2 tasks wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.scenario import Day
from offload.scores import Power, held_by
from offload.simulator import FATES, Run
from offload.tasks import Fate
from tests.benchmarks.learned_offload.policy import Step

Array = NDArray[Any]

REWARDS = ("utility", "time and energy")
QOE_FACTOR = 10.0
WIDTH = 2.0
HORIZON_NS = 600_000_000
"""After so much time another task's reward counts for 1/e: about as long as a decision holds a lane or the link."""


def done_in_time(run: Run) -> Array:
    """(N,) bool."""
    done = np.array([fate not in (Fate.LATE, Fate.DROPPED) for fate in FATES])
    result: Array = done[run.fate]
    return result


def completion_s(day: Day, run: Run) -> Array:
    """(N,) from creation to the result; two deadlines where there was none in time."""
    deadline_ns = np.array([kind.deadline_ns for kind in day.kinds], np.int64)[day.kind]
    result: Array = np.where(done_in_time(run), run.ended_ns - day.created_ns, 2 * deadline_ns) * 1e-9
    return result


def energy_j(day: Day, run: Run) -> Array:
    """(N,) what each task took of the board beside idling."""
    power, held = Power(), held_by(day, run)
    result: Array = (held.lane_ns * power.lane_w + held.uplink_ns * power.radio_w) * 1e-9
    return result


def qoe_share(day: Day, run: Run) -> Array:
    """(N,) the bonus that each task in time has brought nearer."""
    done = done_in_time(run)
    cell = (day.created_ns // day.window_ns) * len(day.kinds) + day.kind
    cell = cell * len(day.links) + day.box
    wanted = np.bincount(cell)[cell]
    reached = np.bincount(cell, weights=done)[cell]
    target = np.array([kind.qoe_target for kind in day.kinds])[day.kind] * wanted
    bonus = np.array([kind.qoe_bonus for kind in day.kinds])[day.kind]
    with_it = np.where(done, reached, reached + 1)
    gained = _logistic((with_it - target) / WIDTH) - _logistic((with_it - 1 - target) / WIDTH)
    result: Array = np.where(done, bonus * gained, 0.0)
    return result


def task_rewards(day: Day, run: Run, reward: str, preference: float) -> Array:
    """(N,) what each task is worth."""
    if reward == "utility":
        result: Array = 0.01 * (preference * run.utility + (1 - preference) * QOE_FACTOR * qoe_share(day, run))
        return result
    if reward == "time and energy":
        return -(preference * completion_s(day, run) + (1 - preference) * energy_j(day, run))
    raise ValueError(f"no reward {reward!r}")


def returns(steps: Sequence[Step], of_task: Array) -> Array:
    """(S,) what followed from each of one box's decisions: its own task's reward, whenever it came, and those of the
    tasks that were decided on last after it, discounted by the time between.

    With generalised advantages and one discount for all (tried first) what waits on the board for its turn is worth
    less than what goes to the cloud at once, and the policy left the board idle.
    """
    last = {step.task_id: index for index, step in enumerate(steps)}
    result = np.zeros(len(steps))
    ahead, then_ns = 0.0, 0
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        ahead *= math.exp(-(then_ns - step.now_ns) / HORIZON_NS) if index < len(steps) - 1 else 0.0
        own, own_at = float(of_task[step.task_id]), last[step.task_id]
        if own_at == index:
            ahead += own
        then_ns = step.now_ns
        result[index] = ahead + own * (1.0 - math.exp(-(steps[own_at].now_ns - step.now_ns) / HORIZON_NS))
    return result


def hypervolume(points: Array, reference: tuple[float, float]) -> float:
    """The area that points (P, 2), of which less is better, cover up to a reference point."""
    inside = sorted((x, y) for x, y in points.tolist() if x < reference[0] and y < reference[1])
    area, lowest = 0.0, reference[1]
    for x, y in inside:
        if y < lowest:
            area += (reference[0] - x) * (lowest - y)
            lowest = y
    return area


def _logistic(x: Array) -> Array:
    result: Array = 1.0 / (1.0 + np.exp(-x))
    return result
