"""One policy in a synchronous event loop that knows how long each run really takes, and checks what any policy owes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from offload.policies.policy import Decision, Policy, Start
from offload.tasks import DONE, Fate, Option, Outcome, Task, TaskKind, Timing

MS_NS = 1_000_000
ENDS, WAKES, ARRIVES = range(3)  # the order of events of one instant

Log = list[tuple[float, str, int]]
"""(time in ms, "edge", "cloud", "late", "lost" or why it was dropped, the task's id): what was done when."""


def make_kind(
    name: str,
    deadline_ms: int,
    edge: tuple[int, float] | None = None,
    cloud: tuple[int, float] | None = None,
    spread: float = 0.0,
    qoe_target: float = 0.9,
) -> TaskKind:
    """A kind whose options are (expected ms, utility)."""
    options = []
    if edge is not None:
        edge_ns = edge[0] * MS_NS
        options.append(Option("edge", edge[1] + 100, 100, edge_ns, edge_ns, edge_spread=spread))
    if cloud is not None:
        options.append(Option("cloud", cloud[1] + 100, 100, cloud[0] * MS_NS, remote_spread=spread))
    return TaskKind(name, deadline_ms * MS_NS, tuple(options), qoe_target=qoe_target)


def make_task(number: int, kind: TaskKind, at_ms: int, weight: float = 1.0) -> Task:
    """A task that arrives at that time."""
    return Task(number, kind, at_ms * MS_NS, weight=weight)


def done_in_cloud(task: Task, took_ms: int, *, on_time: bool = True) -> Outcome:
    """The outcome of a run in the cloud that began with the task."""
    ended_ns = task.created_ns + took_ms * MS_NS
    fate = Fate.DONE_CLOUD if on_time else Fate.LATE
    return Outcome(task, fate, ended_ns, option=task.kind.cloud, timing=Timing(task.created_ns, ended_ns))


def decisions_at(now_ms: float, decisions: Iterable[Decision]) -> Log:
    """Decisions as they stand in a log."""
    return [
        (now_ms, one.option.place if isinstance(one, Start) else one.reason, one.task.id)
        for one in decisions
    ]  # fmt: skip


class Driver:
    """Runs tasks by a policy.

    edge_ns, cloud_ns: how long a run takes, as expected unless said. A run in the cloud is cut off at its deadline;
    where cloud_ns says None it is lost after lost_after_ns.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        lanes: int = 1,
        edge_ns: Callable[[Task], int] | None = None,
        cloud_ns: Callable[[Task], int | None] | None = None,
        lost_after_ns: int = 0,
    ) -> None:
        self.policy = policy
        self.log: Log = []
        self.waiting: set[int] = set()
        self.outcomes: dict[int, Outcome] = {}
        self._lanes = lanes
        self._busy: set[int] = set()
        self._edge_ns = edge_ns or (lambda task: task.kind.edge.edge_ns)  # type: ignore[union-attr]
        self._cloud_ns = cloud_ns or (lambda task: task.kind.cloud.expected_ns)  # type: ignore[union-attr]
        self._lost_after_ns = lost_after_ns
        self._events: list[tuple[int, int, int, Callable[[int], None]]] = []
        self._count = 0
        self._woken_at = (-1, 0)

    def run(self, tasks: Sequence[Task]) -> Log:
        """Let the tasks arrive and everything end; the log."""
        for task in tasks:
            self._at(task.created_ns, ARRIVES, partial(self._arrive, task))
        while self._events:
            now_ns, _, _, happen = heapq.heappop(self._events)
            happen(now_ns)
        assert not self.waiting, f"never ended: {sorted(self.waiting)}"
        assert self.policy.wake_ns is None, "waits for something when nothing is left"
        assert set(self.outcomes) == {task.id for task in tasks}
        for holds_tasks in ("_queue", "_deferred", "_running_until_ns", "_refused", "_probes"):
            assert not getattr(self.policy, holds_tasks, None), f"{holds_tasks} would grow for ever"
        return self.log

    def _at(self, when_ns: int, order: int, happen: Callable[[int], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when_ns, order, self._count, happen))

    def _arrive(self, task: Task, now_ns: int) -> None:
        self.waiting.add(task.id)
        self._carry_out(now_ns, self.policy.arrived(now_ns, task))

    def _carry_out(self, now_ns: int, decisions: Iterable[Decision]) -> None:
        dropped = []
        for decision in decisions:
            task = decision.task
            assert task.id in self.waiting, f"{decision} of a task that is not waiting"
            self.waiting.remove(task.id)
            self.log.extend(decisions_at(now_ns / MS_NS, [decision]))
            if isinstance(decision, Start):
                assert now_ns < task.deadline_ns, f"{decision} at or after its deadline"
                assert decision.option in task.kind.options
                self._start(now_ns, task, decision.option)
            else:
                dropped.append(Outcome(task, Fate.DROPPED, now_ns, decision.reason))
        for outcome in dropped:
            self._end(now_ns, outcome)
        wake_ns = self.policy.wake_ns
        if wake_ns is not None:
            self._at(max(wake_ns, now_ns), WAKES, lambda at_ns: self._wake(at_ns, wake_ns))

    def _wake(self, now_ns: int, wanted_ns: int) -> None:
        if self.policy.wake_ns != wanted_ns:
            return
        times = self._woken_at[1] + 1 if self._woken_at[0] == now_ns else 1
        assert times < 10, "wants to be woken at the same time again and again"
        self._woken_at = now_ns, times
        self._carry_out(now_ns, self.policy.woken(now_ns))

    def _start(self, now_ns: int, task: Task, option: Option) -> None:
        if option.place == "edge":
            self._busy.add(task.id)
            assert len(self._busy) <= self._lanes, "more tasks than lanes"
            took_ns = self._edge_ns(task)
            self._at(now_ns + took_ns, ENDS, lambda at_ns: self._edge_ends(at_ns, task, option, took_ns))
            return
        cloud_ns = self._cloud_ns(task)
        if cloud_ns is None:
            self._at(now_ns + self._lost_after_ns, ENDS, lambda at_ns: self._lose(at_ns, task, option))
        else:
            ends_ns = min(now_ns + cloud_ns, task.deadline_ns)
            in_time = now_ns + cloud_ns <= task.deadline_ns
            self._at(ends_ns, ENDS, lambda at_ns: self._ran(at_ns, task, option, now_ns, in_time=in_time))

    def _lose(self, now_ns: int, task: Task, option: Option) -> None:
        self.waiting.add(task.id)
        self.log.append((now_ns / MS_NS, "lost", task.id))
        self._carry_out(now_ns, self.policy.returned(now_ns, task, option, "refused"))

    def _edge_ends(self, now_ns: int, task: Task, option: Option, took_ns: int) -> None:
        self._busy.remove(task.id)
        self._carry_out(now_ns, self.policy.lane_freed(now_ns, task, took_ns))
        self._ran(now_ns, task, option, now_ns - took_ns, in_time=now_ns <= task.deadline_ns)

    def _ran(self, now_ns: int, task: Task, option: Option, started_ns: int, *, in_time: bool) -> None:
        if not in_time:
            self.log.append((now_ns / MS_NS, "late", task.id))
        fate = DONE[option.place] if in_time else Fate.LATE
        self._end(now_ns, Outcome(task, fate, now_ns, option=option, timing=Timing(started_ns, now_ns)))

    def _end(self, now_ns: int, outcome: Outcome) -> None:
        assert outcome.task.id not in self.outcomes, "ended twice"
        self.outcomes[outcome.task.id] = outcome
        self._carry_out(now_ns, self.policy.ended(now_ns, outcome))
