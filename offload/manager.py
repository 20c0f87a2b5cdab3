"""The offload manager: carries out what a policy decides, on whatever executors and clock it is given.

The manager tells its policy of arrivals, of lanes that are free again, of results and of time; starts what the policy
starts, and settles each task exactly once. A split run is a head on the board and then a tail on the far side. The same
object runs under the replay host's and the simulator's virtual clock and live.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from offload.executors import Clock, Executor, Ran, Remote, TaskLost, TaskTooLate
from offload.policies.policy import Decision, Drop, Policy, Start
from offload.tasks import DONE, Fate, Option, Outcome, Task, Timing
from tercel.core.errors import Rejected

NEVER_SENT = "never left the board"
TOO_LATE_ON_EDGE = "late on the board"
TOO_LATE_REMOTE = "late in the cloud"
CLOSED = "manager closed"
STARTED_LATE = "started after its deadline"


def _ignore(_outcome: Outcome) -> None:
    pass


class Manager:
    """Runs tasks by one policy. All calls come from the event loop's thread.

    remote may be None where no policy sends anything there. on_outcome is called once for each task.
    """

    def __init__(
        self,
        policy: Policy,
        clock: Clock,
        edge: Executor,
        remote: Remote | None = None,
        on_outcome: Callable[[Outcome], None] = _ignore,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._edge = edge
        self._remote = remote
        if remote is not None:
            remote.on_upload = self._uploaded
        self._on_outcome = on_outcome
        self._open: dict[int, Task] = {}
        self._waiters: dict[int, asyncio.Future[Outcome]] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._alarm_ns: int | None = None
        self._alarms: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._pending: deque[Decision] = deque()
        self._carrying_out = False
        self._closed = False

    @property
    def open_tasks(self) -> int:
        """Tasks that were submitted and have not ended."""
        return len(self._open)

    def submit(self, task: Task) -> None:
        """Take a task in. Raises ValueError for an id that is still open."""
        if task.id in self._open:
            raise ValueError(f"task {task.id} is already here")
        if self._closed:
            raise ValueError("the manager is closed")
        self._open[task.id] = task
        self._empty.clear()
        self._carry_out(self._policy.arrived(self._clock.now_ns, task))

    async def run(self, task: Task) -> Outcome:
        """Take a task in and wait for its end."""
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiters[task.id] = waiter
        try:
            self.submit(task)
            return await waiter
        finally:
            self._waiters.pop(task.id, None)

    async def drain(self) -> None:
        """Wait until every task has ended."""
        await self._empty.wait()

    async def close(self) -> None:
        """End now: what runs is cancelled, every open task is dropped and accounted for."""
        self._closed = True
        running = [*self._running.values(), *self._alarms]
        for run in running:
            run.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for task in list(self._open.values()):
            self._settle(Outcome(task, Fate.DROPPED, self._clock.now_ns, CLOSED))

    # --- decisions -------------------------------------------------------------------------------------------------

    def _carry_out(self, decisions: Sequence[Decision]) -> None:
        """Carry decisions out, and those that the policy makes meanwhile, in order; then see to its next alarm."""
        self._pending.extend(decisions)
        if self._carrying_out:
            return
        self._carrying_out = True
        try:
            while self._pending:
                decision = self._pending.popleft()
                if isinstance(decision, Start):
                    self._start(decision.task, decision.option)
                else:
                    self._drop(decision)
        finally:
            self._carrying_out = False
        self._set_alarm()

    def _start(self, task: Task, option: Option) -> None:
        if task.id not in self._open or task.id in self._running:
            raise ValueError(f"the policy starts task {task.id}, which is not waiting")
        if self._clock.now_ns >= task.deadline_ns:
            self._end(Outcome(task, Fate.DROPPED, self._clock.now_ns, STARTED_LATE))
            return
        run = asyncio.get_running_loop().create_task(self._run(task, option))
        self._running[task.id] = run

    def _drop(self, decision: Drop) -> None:
        task = decision.task
        if task.id not in self._open or task.id in self._running:
            raise ValueError(f"the policy drops task {task.id}, which is not waiting")
        self._end(Outcome(task, Fate.DROPPED, self._clock.now_ns, decision.reason))

    # --- runs ------------------------------------------------------------------------------------------------------

    async def _run(self, task: Task, option: Option) -> None:
        began_ns = self._clock.now_ns
        head = Ran(task.payload)
        if option.place != "cloud":
            try:
                head = await self._edge.run(task, option, task.payload)
            except Rejected as rejection:
                self._free_lane(task, began_ns)
                self._end_run(Outcome(task, Fate.DROPPED, self._clock.now_ns, str(rejection), option))
                return
            self._free_lane(task, began_ns)
        if option.place == "edge":
            self._end_run(self._done(task, option, began_ns, head))
        else:
            await self._run_remote(task, option, began_ns, head)

    async def _run_remote(self, task: Task, option: Option, began_ns: int, head: Ran) -> None:
        if self._remote is None:
            raise ValueError(f"the policy sends task {task.id} to a cloud that is not there")
        try:
            tail = await self._remote.run(task, option, head.outputs)
        except TaskLost as lost:
            del self._running[task.id]
            if not self._closed:
                self._carry_out(self._policy.returned(self._clock.now_ns, task, option, lost.reason))
        except TaskTooLate as late:
            now_ns = self._clock.now_ns
            timing = Timing(began_ns, now_ns, edge_ns=head.edge_ns)
            if late.sent or option.place == "split":
                cost = -option.cost
                self._end_run(Outcome(task, Fate.LATE, now_ns, TOO_LATE_REMOTE, option, timing, cost))
            else:
                self._end_run(Outcome(task, Fate.DROPPED, now_ns, NEVER_SENT, option, timing))
        except Rejected as rejection:
            self._end_run(Outcome(task, Fate.DROPPED, self._clock.now_ns, str(rejection), option))
        else:
            self._end_run(self._done(task, option, began_ns, tail, edge_ns=head.edge_ns))

    def _done(self, task: Task, option: Option, began_ns: int, ran: Ran, edge_ns: int = 0) -> Outcome:
        now_ns = self._clock.now_ns
        timing = Timing(
            began_ns, now_ns, edge_ns or ran.edge_ns, ran.upload_ns, ran.upload_bytes, ran.rtt_ns, ran.server_ns
        )
        if now_ns <= task.deadline_ns:
            return Outcome(task, DONE[option.place], now_ns, "", option, timing, task.utility(option), ran.outputs)
        reason = TOO_LATE_ON_EDGE if option.place == "edge" else TOO_LATE_REMOTE
        return Outcome(task, Fate.LATE, now_ns, reason, option, timing, -option.cost, ran.outputs)

    def _uploaded(self, task: Task) -> None:
        if task.id in self._running and not self._closed:
            self._carry_out(self._policy.uploaded(self._clock.now_ns, task))

    def _free_lane(self, task: Task, began_ns: int) -> None:
        now_ns = self._clock.now_ns
        if not self._closed:
            self._carry_out(self._policy.lane_freed(now_ns, task, now_ns - began_ns))

    def _end_run(self, outcome: Outcome) -> None:
        del self._running[outcome.task.id]
        self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        self._settle(outcome)
        if not self._closed:
            self._carry_out(self._policy.ended(outcome.ended_ns, outcome))

    def _settle(self, outcome: Outcome) -> None:
        del self._open[outcome.task.id]
        self._on_outcome(outcome)
        waiter = self._waiters.pop(outcome.task.id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(outcome)
        if not self._open:
            self._empty.set()

    # --- alarms ----------------------------------------------------------------------------------------------------

    def _set_alarm(self) -> None:
        """See that the policy is woken when it wants; a later alarm than wanted may stand beside an earlier one."""
        wake_ns = self._policy.wake_ns
        if wake_ns is None or self._closed or (self._alarm_ns is not None and self._alarm_ns <= wake_ns):
            return
        self._alarm_ns = wake_ns
        alarm = asyncio.get_running_loop().create_task(self._ring(wake_ns))
        self._alarms.add(alarm)
        alarm.add_done_callback(self._alarms.discard)

    async def _ring(self, when_ns: int) -> None:
        await self._clock.sleep_until_ns(when_ns)
        if self._alarm_ns != when_ns:
            return  # an earlier one took its place
        self._alarm_ns = None
        wake_ns = self._policy.wake_ns
        if wake_ns is not None and wake_ns <= self._clock.now_ns:
            self._carry_out(self._policy.woken(self._clock.now_ns))
        else:
            self._set_alarm()
