"""A manager on a virtual clock, with a policy that follows a script and executors that do as they are told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from offload.executors import Ran, nothing_heard
from offload.manager import Manager
from offload.policies.policy import Decision, Drop, Start
from offload.tasks import Option, Outcome, Task, TaskKind
from tercel.core.clock import VirtualClock, run_virtual

MS_NS = 1_000_000

EDGE = Option("edge", 10.0, 1.0, 100 * MS_NS, 100 * MS_NS)
CLOUD = Option("cloud", 9.0, 3.0, 200 * MS_NS, server_ns=50 * MS_NS)
SPLIT = Option("split", 8.0, 2.0, 150 * MS_NS, edge_ns=40 * MS_NS, server_ns=30 * MS_NS)
KIND = TaskKind("kind", 500 * MS_NS, (EDGE, CLOUD, SPLIT))


def task_at(number: int, at_ms: int = 0, **more: Any) -> Task:
    """A task of the one kind."""
    return Task(number, KIND, at_ms * MS_NS, **more)


class Scripted:
    """A policy that does with a task what its payload says, and keeps a log of its events.

    payload: the options to try one after another, as the far side refuses; then the task is dropped.
    """

    def __init__(self) -> None:
        self.wake_ns: int | None = None
        self.log: list[tuple[str, int]] = []
        self.replies: dict[str, Callable[[Task], Sequence[Decision]]] = {}

    def _event(self, event: str, task: Task, usual: Callable[[Task], Sequence[Decision]]) -> Sequence[Decision]:
        self.log.append((event, task.id))
        return self.replies.get(event, usual)(task)

    def _next(self, task: Task) -> Sequence[Decision]:
        options: deque[Option] = task.payload
        return [Start(task, options.popleft())] if options else [Drop(task, "nothing left")]

    def _none(self, _task: Task) -> Sequence[Decision]:
        return ()

    def arrived(self, now_ns: int, task: Task) -> Sequence[Decision]:
        return self._event("arrived", task, self._next)

    def returned(self, now_ns: int, task: Task, option: Option, reason: str) -> Sequence[Decision]:
        return self._event("returned", task, self._next)

    def lane_freed(self, now_ns: int, task: Task, took_ns: int) -> Sequence[Decision]:
        return self._event("lane_freed", task, self._none)

    def uploaded(self, now_ns: int, task: Task) -> Sequence[Decision]:
        return self._event("uploaded", task, self._none)

    def ended(self, now_ns: int, outcome: Outcome) -> Sequence[Decision]:
        return self._event("ended", outcome.task, self._none)

    def woken(self, now_ns: int) -> Sequence[Decision]:
        """Wants nothing more."""
        self.log.append(("woken", now_ns // MS_NS))
        self.wake_ns = None
        return ()


class Place:
    """An executor that takes so long and then raises or returns what it is told to, task by task."""

    def __init__(self, clock: VirtualClock, took_ms: int = 100) -> None:
        self.clock = clock
        self.took_ms: dict[int | None, int] = {None: took_ms}
        self.ends: dict[int, BaseException] = {}
        self.on_upload: Callable[[Task], None] = nothing_heard
        self.upload_ms: int | None = None
        self.cancelled: list[int] = []
        self.payloads: dict[int, Any] = {}

    async def run(self, task: Task, option: Option, payload: Any) -> Ran:
        """Says after upload_ms that it has the task."""
        self.payloads[task.id] = payload
        began_ns = self.clock.now_ns
        try:
            if self.upload_ms is not None:
                await self.clock.sleep_until_ns(began_ns + self.upload_ms * MS_NS)
                self.on_upload(task)
            took_ns = self.took_ms.get(task.id, self.took_ms[None]) * MS_NS
            await self.clock.sleep_until_ns(began_ns + took_ns)
        except asyncio.CancelledError:
            self.cancelled.append(task.id)
            raise
        if task.id in self.ends:
            raise self.ends[task.id]
        return Ran(f"outputs {task.id}", edge_ns=took_ns, server_ns=7, rtt_ns=5)


class Bench:
    """A manager on a virtual clock with a scripted policy and two places."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.policy = Scripted()
        self.edge, self.remote = Place(self.clock), Place(self.clock, 200)
        self.outcomes: list[Outcome] = []
        self.manager = Manager(self.policy, self.clock, self.edge, self.remote, self.outcomes.append)

    def submit(self, number: int, *options: Option, at_ms: int = 0) -> Task:
        """Submit a task that is to be run so."""
        task = task_at(number, at_ms, payload=deque(options))
        self.manager.submit(task)
        return task

    def until(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run to the end; a hang is a RuntimeError of the virtual clock."""
        return run_virtual(main, self.clock)

    def run(self, *tasks: tuple[int, tuple[Option, ...]]) -> dict[int, Outcome]:
        """Submit tasks, drain; what became of each."""

        async def main() -> None:
            for number, options in tasks:
                self.submit(number, *options)
            await self.manager.drain()

        self.until(main())
        assert self.manager.open_tasks == 0
        assert len({outcome.task.id for outcome in self.outcomes}) == len(self.outcomes)
        return {outcome.task.id: outcome for outcome in self.outcomes}
