"""What the learned policy sees when it decides on one task: 67 features of each server, and the task's own.

After MEC-MORL (mec_morl_multipolicy, MIT): for each server its speed, the size of the task there, the rate of the link
to it, how much it has to do, and a histogram of 60 bins of that. The servers here are the board's lanes and the cloud
behind the uplink. Departures, since tasks here have deadlines: the histogram's axis is the time that is left of a task,
in bins of 20 ms, and it sums work, not tasks; "the server exists" and "not the last step" became "may still be used"
and "is in time". Speed, rate and backlog are estimates from what was seen (`offload.estimates`), not the simulator's
truth. The task's own features (kind, slack, chances, windows of GEMS, what else waits or is about to come) are added;
the preference, an input as in GMORL, is the last.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offload.estimates import BoardEstimate, RemoteEstimate
from offload.policies.policy import PolicyContext
from offload.policies.qoe import Windows
from offload.policies.rhythm import Rhythm
from offload.tasks import Option, Outcome, Task, TaskKind

Array = NDArray[Any]

BINS, BIN_NS = 60, 20_000_000
OF_SERVER = 7 + BINS
OF_TASK = 31
FEATURES = 2 * OF_SERVER + OF_TASK
MOST_SEEN = 24
"""Waiting tasks that are looked at, in order of arrival, so that a decision's time is bounded."""
AHEAD_NS = 400_000_000

BOARD, CLOUD, DROP, WAIT = range(4)
ACTIONS = 4
"""Run it on the board (or queue for it where no lane is free), in the cloud, give it up, or let the lane pass on."""


class _Known(NamedTuple):
    """What a kind earns and takes, in units of 100 and of seconds; zero where it cannot run."""

    edge_gain: float
    cloud_gain: float
    edge_s: float
    cloud_s: float
    density: float


class View:
    """The state of one box as its board knows it. It is told all events and decisions, and decides nothing."""

    def __init__(self, context: PolicyContext, preference: float) -> None:
        self.preference = preference
        self.waiting: dict[int, Task] = {}
        self.running: dict[int, int] = {}
        self.refused: set[int] = set()
        self._lanes = context.lanes
        self._known = {kind: _known(kind) for kind in context.kinds}
        self._window_ns = context.window_ns
        self._board = BoardEstimate()
        self._remote = RemoteEstimate()
        self._windows = Windows(context.window_ns)
        self._seen: dict[tuple[str, int], list[int]] = {}
        self._rhythm = Rhythm()
        self._away: dict[int, tuple[Task, Option]] = {}
        self._options: dict[int, Option] = {}

    # --- events ------------------------------------------------------------------------------------------------------

    def arrived(self, task: Task) -> None:
        """A new task."""
        self._windows.created(task)
        self._rhythm.arrived(task)
        self._count(task)[0] += 1
        self.waiting[task.id] = task

    def started(self, now_ns: int, task: Task, option: Option) -> None:
        """A task was started."""
        self.waiting.pop(task.id, None)
        self._options[task.id] = option
        if option.place == "edge":
            self.running[task.id] = now_ns + self._board.edge_ns(now_ns, option)
        else:
            self._away[task.id] = task, option
            self._remote.send(now_ns, task, option)

    def lane_freed(self, now_ns: int, task: Task, took_ns: int) -> None:
        """The board's run of a task is over."""
        del self.running[task.id]
        self._board.observe(now_ns, self._options[task.id], took_ns)

    def uploaded(self, now_ns: int, task: Task) -> None:
        """The far side has all of a task."""
        self._remote.link.uploaded(now_ns, task)

    def returned(self, now_ns: int, task: Task) -> None:
        """The far side has refused or lost a task; it waits again, for the board alone."""
        self._remote.lost(now_ns, task)
        del self._away[task.id]
        self._options.pop(task.id)
        self.refused.add(task.id)
        self.waiting[task.id] = task

    def ended(self, now_ns: int, outcome: Outcome) -> None:
        """A task has ended."""
        task = outcome.task
        self.waiting.pop(task.id, None)
        self.refused.discard(task.id)
        self.running.pop(task.id, None)
        self._windows.ended(task, outcome.on_time)
        self._count(task)[1] += not outcome.on_time
        option = self._options.pop(task.id, None)
        if option is None or self._away.pop(task.id, None) is None:
            return
        if outcome.on_time and outcome.timing is not None:
            self._remote.answered(now_ns, task, outcome.timing.server_ns, outcome.timing.rtt_ns)
        elif outcome.timing is not None:
            self._remote.cut_off(now_ns, task)
        else:
            self._remote.lost(now_ns, task)

    def _count(self, task: Task) -> list[int]:
        """[created, failed] of the task's kind in its window; older windows are forgotten."""
        window = task.created_ns // self._window_ns
        key = task.kind.name, window
        if key not in self._seen:
            self._seen[key] = [0, 0]
            self._seen.pop((task.kind.name, window - 2), None)
        return self._seen[key]

    # --- what is known of a decision ---------------------------------------------------------------------------------

    @property
    def lane_is_free(self) -> bool:
        """Whether a run on the board could begin."""
        return len(self.running) < self._lanes

    def free_ns(self, now_ns: int) -> int:
        """From now until a lane is expected to be free."""
        return 0 if self.lane_is_free else max(0, min(self.running.values()) - now_ns)

    def density(self, task: Task) -> float:
        """What the board gains over the cloud by a task, for each second of a lane."""
        return self._known[task.kind].density

    def slowness(self, now_ns: int) -> float:
        """How much longer than stated runs on the board take."""
        return self._board.factor(now_ns)

    def allowed(self, now_ns: int, task: Task, *, may_wait: bool) -> Array:
        """(ACTIONS,) bool: what can be done with a task. It may always be dropped."""
        edge = task.kind.edge
        begin_ns = now_ns + self.free_ns(now_ns)
        in_time = edge is not None and begin_ns + self._board.edge_ns(now_ns, edge) <= task.deadline_ns
        cloud = task.kind.cloud
        in_cloud = cloud is not None and task.id not in self.refused and now_ns + cloud.server_ns < task.deadline_ns
        return np.array([in_time, in_cloud, True, may_wait and in_time])

    def features(self, now_ns: int, task: Task, *, may_wait: bool) -> Array:
        """(FEATURES,) float32, of the order of one."""
        others = [other for other in self.waiting.values() if other is not task][:MOST_SEEN]
        left_s = (task.deadline_ns - now_ns) * 1e-9
        own = self._known[task.kind]
        free_s = self.free_ns(now_ns) * 1e-9
        slow = self.slowness(now_ns)
        board = [1.0, 1.0 / slow, float(self._lanes), own.edge_s * slow, float(free_s + own.edge_s * slow <= left_s)]
        board += [free_s, 0.1 * len(others), *self._work(now_ns, others)]
        queue = self._queue(now_ns, task, others, free_s, slow)
        cloud, chances = self._cloud(now_ns, task, left_s)
        window = self._window(now_ns, task)
        extra = [
            left_s, own.edge_gain, own.cloud_gain, own.density, own.cloud_s, left_s - free_s - own.edge_s * slow,
            float(may_wait), float(self.lane_is_free), task.weight, task.size_bytes * 1e-5,
            *chances, *queue, *window, *self._coming(now_ns, free_s + own.edge_s * slow, own), self.preference,
        ]  # fmt: skip
        return np.array(board + cloud + extra, np.float32)

    def _work(self, now_ns: int, others: list[Task]) -> list[float]:
        """Seconds of lane that wait, by how much time is left of their tasks."""
        bins = [0.0] * BINS
        for other in others:
            bins[min(max(other.deadline_ns - now_ns, 0) // BIN_NS, BINS - 1)] += self._known[other.kind].edge_s
        return bins

    def _cloud(self, now_ns: int, task: Task, left_s: float) -> tuple[list[float], list[float]]:
        """The cloud's 67 features, and what is to be expected of the task there."""
        link = self._remote.link
        rate = link.rate(now_ns)
        bins = [0.0] * BINS
        for other, under_way in self._away.values():
            bins[min(max(other.deadline_ns - now_ns, 0) // BIN_NS, BINS - 1)] += under_way.expected_ns * 1e-9
        option = task.kind.cloud
        if option is None or task.id in self.refused:
            return [0.0] * 7 + bins, [0.0] * 5
        forecast = self._remote.forecast(now_ns, task, option, rate)
        chance = self._remote.chance(forecast, left_s * 1e9)
        total_s = (forecast.network_ns + forecast.server_ns) * 1e-9
        speed = option.server_ns / max(1.0, forecast.server_ns)
        head = [1.0, speed, 1.0, min(forecast.network_ns * 1e-9, 3.0), chance]
        head += [math.log10(rate * 8e3 + 1e-3), 0.1 * len(self._away), *bins]
        worth = chance * task.weight * option.benefit - option.cost
        spare_s = max(-2.0, left_s - total_s)
        backlog_s = min(link.backlog_bytes / rate * 1e-9, 3.0)
        return head, [chance, 0.01 * worth, spare_s, link.rtt_ns * 1e-9, backlog_s]

    def _queue(self, now_ns: int, task: Task, others: list[Task], free_s: float, slow: float) -> list[float]:
        """What stands ahead of a task, by deadline and by density, and what would be late if it ran next."""
        own = self._known[task.kind]
        earlier_s = denser_s = lost = lost_density = best = 0.0
        for other in others:
            known = self._known[other.kind]
            spare_s = (other.deadline_ns - now_ns) * 1e-9 - free_s - known.edge_s * slow
            if spare_s < 0 or not known.edge_s:
                continue
            earlier_s += known.edge_s * (other.deadline_ns <= task.deadline_ns)
            denser_s += known.edge_s * (known.density > own.density)
            best = max(best, known.density)
            if spare_s < own.edge_s * slow:
                lost += known.density * known.edge_s
                lost_density = max(lost_density, known.density)
        spare_s = (task.deadline_ns - now_ns) * 1e-9 - free_s - own.edge_s * slow
        return [earlier_s, denser_s, lost, lost_density, best, spare_s - earlier_s, spare_s - denser_s]

    def _window(self, now_ns: int, task: Task) -> list[float]:
        """How the task's kind stands in its window of GEMS."""
        created, failed = self._count(task)
        may_fail = 1.0 - task.kind.qoe_target
        passed = now_ns % self._window_ns / self._window_ns
        share = failed / max(1, created)
        return [0.1 * self._windows.price(task), 0.01 * task.kind.qoe_bonus, share, share - may_fail, passed]

    def _coming(self, now_ns: int, until_s: float, own: _Known) -> list[float]:
        """Of the tasks that steady sources are about to send while this one would hold a lane: work, the best density,
        and how soon one comes that gains more.
        """
        work_s = best = 0.0
        soonest_s = 1.0
        for expected in self._rhythm.expected(now_ns, now_ns + min(AHEAD_NS, round(until_s * 1e9)))[:8]:
            known = self._known[expected.kind]
            work_s += known.edge_s
            best = max(best, known.density)
            if known.density > own.density:
                soonest_s = min(soonest_s, (expected.at_ns - now_ns) * 1e-9)
        return [work_s, best, soonest_s]


def _known(kind: TaskKind) -> _Known:
    edge, cloud = kind.edge, kind.cloud
    edge_gain = 0.01 * edge.utility if edge else 0.0
    cloud_gain = 0.01 * cloud.utility if cloud else 0.0
    edge_s = edge.edge_ns * 1e-9 if edge else 0.0
    density = (edge_gain - max(0.0, cloud_gain)) / edge_s if edge_s else 0.0
    return _Known(edge_gain, cloud_gain, edge_s, cloud.expected_ns * 1e-9 if cloud else 0.0, density)
