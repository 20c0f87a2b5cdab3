"""Fleets under policies on a virtual clock: the manager that flies, with executors that sleep for the drawn time.

One box is one manager with its lanes and its link; boxes do not meet, so they run one after another. The uplink is one
connection: uploads go one at a time, in the order they were sent, and one whose deadline passes is cut off. The same
day and policy give the same result on any machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.executors import Ran, TaskTooLate, nothing_heard
from offload.manager import Manager
from offload.policies.policy import Policy, PolicyContext
from offload.scenario import ColdStarts, Day
from offload.tasks import Fate, Option, Outcome, Task
from tercel.core.clock import VirtualClock, run_virtual

Array = NDArray[Any]

FATES = tuple(Fate)


class SimulatedEdge:
    """Lanes that sleep for the time that was drawn for a task."""

    def __init__(self, clock: VirtualClock, day: Day) -> None:
        self._clock = clock
        self._day = day
        self._factors = day.edge_factor.tolist()
        self._busy = 0

    async def run(self, task: Task, option: Option, payload: Any) -> Ran:
        """Raises ValueError if no lane is free: the policy counts them."""
        if self._busy >= self._day.lanes:
            raise ValueError(f"task {task.id}: no lane is free")
        self._busy += 1
        now_ns = self._clock.now_ns
        took_ns = round(option.edge_ns * self._factors[task.id] * self._day.slowdown(now_ns))
        try:
            await self._clock.sleep_until_ns(now_ns + took_ns)
        finally:
            self._busy -= 1
        return Ran(payload, edge_ns=took_ns)


class SimulatedRemote:
    """A cloud behind one box's link. asked: is told of each task that asks for the uplink, in the order of uploads."""

    def __init__(self, clock: VirtualClock, day: Day, box: int, asked: Callable[[Task], None] = nothing_heard) -> None:
        self._clock = clock
        self._asked = asked
        self._link = day.links[box]
        self._factors = day.server_factor.tolist()
        self._uplink_free_ns = 0
        self.on_upload: Callable[[Task], None] = nothing_heard
        self._instances = _Instances(day.cold) if day.cold else None

    async def run(self, task: Task, option: Option, payload: Any) -> Ran:
        """Sleeps until the answer is there, or until the deadline: then raises TaskTooLate."""
        self._asked(task)
        start_ns = max(self._clock.now_ns, self._uplink_free_ns)
        if start_ns >= task.deadline_ns:
            await self._clock.sleep_until_ns(task.deadline_ns)
            raise TaskTooLate(sent=False)
        upload_bytes = task.upload_bytes(option)
        sent_ns = self._link.sent_ns(start_ns, upload_bytes)
        if sent_ns is None or sent_ns >= task.deadline_ns:
            self._uplink_free_ns = task.deadline_ns
            await self._clock.sleep_until_ns(task.deadline_ns)
            raise TaskTooLate
        self._uplink_free_ns = sent_ns
        rtt_ns = self._link.rtt_ns(sent_ns)
        server_ns = round(option.server_ns * self._factors[task.id])
        if self._instances is not None:
            server_ns += self._instances.cold_ns(task.kind.name, sent_ns + rtt_ns // 2, server_ns)
        ended_ns = sent_ns + rtt_ns + server_ns
        if sent_ns + rtt_ns < min(ended_ns, task.deadline_ns):
            await self._clock.sleep_until_ns(sent_ns + rtt_ns)
            self.on_upload(task)
        if ended_ns > task.deadline_ns:
            await self._clock.sleep_until_ns(task.deadline_ns)
            raise TaskTooLate
        await self._clock.sleep_until_ns(ended_ns)
        return Ran(payload, upload_bytes=upload_bytes, upload_ns=sent_ns - start_ns, rtt_ns=rtt_ns, server_ns=server_ns)


class _Instances:
    """Which instances of each kind are warm: the time at which each is, or was, free."""

    def __init__(self, cold: ColdStarts) -> None:
        self._cold = cold
        self._free_ns: dict[str, list[int]] = {}

    def cold_ns(self, kind: str, at_ns: int, server_ns: int) -> int:
        """What a request that comes at at_ns waits for an instance; takes one for the time that it needs."""
        pool = [free_ns for free_ns in self._free_ns.get(kind, []) if free_ns > at_ns - self._cold.keep_ns]
        idle = [free_ns for free_ns in pool if free_ns <= at_ns]
        wait_ns = 0 if idle else self._cold.start_ns
        if idle:
            pool.remove(max(idle))
        pool.append(at_ns + wait_ns + server_ns)
        self._free_ns[kind] = pool
        return wait_ns


@dataclass(frozen=True)
class Run:
    """What became of a day's N tasks. fate (N,) int8 index into FATES; option (N,) int8 index into the kind's options,
    -1 if none was run; started_ns, ended_ns (N,) int64, started -1 if it never was; utility (N,) float64; reasons.
    asked (M,) int64: the tasks that asked for the uplink, box after box in the order of their uploads.
    """

    fate: Array
    option: Array
    started_ns: Array
    ended_ns: Array
    utility: Array
    reasons: tuple[str, ...]
    asked: Array


def simulate(
    day: Day,
    policy: Callable[[PolicyContext], Policy],
    *,
    deviate: float | None = 1.645,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Run:
    """Run a day under one policy, made anew for each box. deviate: see PolicyContext.

    progress: is told the share of boxes that are done. Raises ValueError for a policy that starts what does not wait,
    more than there are lanes, or wants to be woken for ever.
    """
    outcomes: list[Outcome | None] = [None] * len(day.created_ns)
    asked: list[int] = []
    context = PolicyContext(day.kinds, day.lanes, deviate, day.window_ns)
    for box in range(len(day.links)):
        tasks = day.tasks(box)

        def settle(outcome: Outcome) -> None:
            if outcomes[outcome.task.id] is not None:
                raise ValueError(f"task {outcome.task.id} ended twice")
            outcomes[outcome.task.id] = outcome

        clock = VirtualClock()
        remote = SimulatedRemote(clock, day, box, lambda task: asked.append(task.id))
        run_virtual(_run_box(clock, day, tasks, policy(context), remote, settle), clock)
        progress((box + 1) / len(day.links))
    return _table([outcome for outcome in outcomes if outcome is not None], len(outcomes), asked)


async def _run_box(
    clock: VirtualClock,
    day: Day,
    tasks: list[Task],
    policy: Policy,
    remote: SimulatedRemote,
    settle: Callable[[Outcome], None],
) -> None:
    manager = Manager(policy, clock, SimulatedEdge(clock, day), remote, settle)
    for task in tasks:
        await clock.sleep_until_ns(task.created_ns)
        manager.submit(task)
    await manager.drain()
    await asyncio.sleep(0)


def _table(outcomes: list[Outcome], count: int, asked: list[int]) -> Run:
    if len(outcomes) != count:
        raise ValueError(f"{count - len(outcomes)} tasks never ended")
    index = {fate: position for position, fate in enumerate(FATES)}
    return Run(
        fate=np.array([index[outcome.fate] for outcome in outcomes], np.int8),
        option=np.array(
            [-1 if outcome.option is None else outcome.task.kind.options.index(outcome.option) for outcome in outcomes],
            np.int8,
        ),
        started_ns=np.array([outcome.timing.started_ns if outcome.timing else -1 for outcome in outcomes], np.int64),
        ended_ns=np.array([outcome.ended_ns for outcome in outcomes], np.int64),
        utility=np.array([outcome.utility for outcome in outcomes], np.float64),
        reasons=tuple(outcome.reason for outcome in outcomes),
        asked=np.array(asked, np.int64),
    )
