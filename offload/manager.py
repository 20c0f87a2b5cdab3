"""The offload manager: carries out what a policy decides, on whatever executors and clock it is given.

The manager tells its policy of arrivals, of lanes that are free again, of results and of time; starts what the policy
starts, and settles each task exactly once. A split run is a head on the board and then a tail on the far side. The same
object runs under the replay host's and the simulator's virtual clock and live.

A programmer's mistake, be it a policy that starts what does not wait or an executor that raises what it should not,
ends the manager at once: what is open is dropped and accounted for, and the error is raised by `submit`, `run`, `drain`
and `close`, whichever waits or comes next. A failure is never waited for in vain, and never lost.
"""

from __future__ import annotations

import asyncio
import math
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
BROKEN = "manager failed"
STARTED_LATE = "started after its deadline"

MOST_RINGS = 1000
"""A policy that is woken so often within one instant and still wants to be would be woken for ever."""


def _ignore(_outcome: Outcome) -> None:
    pass


class Manager:
    """Runs tasks by one policy. All calls come from the event loop's thread.

    remote may be None where no policy sends anything there. on_outcome is called once for each task, in the order in
    which they end, and before anybody who waits for the task goes on.
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
        self._running: set[int] = set()
        self._on_board: set[int] = set()  # of those, what holds a lane
        self._strange: set[int] = set()  # of those, what an earlier policy has started
        self._is_handing_over = False
        self._jobs: dict[asyncio.Task[None], None] = {}  # runs and alarms; a dict, since its order is that of starting
        self._alarm_ns: int | None = None
        self._rings = (0, 0)  # when the policy was woken last, and how often at that instant
        self._empty = asyncio.Event()
        self._empty.set()
        self._pending: deque[Decision] = deque()
        self._carrying_out = False
        self._closed = False
        self._failure: BaseException | None = None

    @property
    def open_tasks(self) -> int:
        """Tasks that were submitted and have not ended."""
        return len(self._open)

    def submit(self, task: Task) -> None:
        """Take a task in.

        Raises ValueError for an id that is still open, a weight that is no number and a manager that is closed; the
        failure of one that has failed, or fails at this.
        """
        self._check(task)
        self._open[task.id] = task
        self._empty.clear()
        try:
            self._give(task)
        except Exception as error:
            self._fail(error)
            raise

    async def run(self, task: Task) -> Outcome:
        """Take a task in and wait for its end. Raises as `submit` and `drain` do.

        Whoever is cancelled while waiting leaves the task here: it goes on to its end, which on_outcome is told.
        """
        self._check(task)
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiters[task.id] = waiter
        try:
            self.submit(task)
            return await waiter
        finally:
            if self._waiters.get(task.id) is waiter:
                del self._waiters[task.id]
            if waiter.done() and not waiter.cancelled():
                waiter.exception()  # or asyncio says that nobody has seen what `submit` raised

    def change_policy(self, policy: Policy) -> None:
        """Let another policy, a new one, decide from now on. Raises as `submit` does.

        What runs goes on to its end and is accounted for; neither policy is told of it. What waits, and what comes, is
        the new policy's as soon as nothing that the old one has started holds a lane of the board any more: a policy
        counts lanes itself, and begins with all of them. What the old policy had learnt is forgotten.
        """
        self._check_works()
        self._policy = policy
        self._pending.clear()  # what the old policy wanted; its tasks still wait
        self._strange |= self._running
        self._is_handing_over = True
        try:
            self._hand_over()
        except Exception as error:
            self._fail(error)
            raise

    async def drain(self) -> None:
        """Wait until every task has ended. Raises what made the manager fail, if it has."""
        await self._empty.wait()
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """End now: what runs is cancelled and waited for, every open task is dropped and accounted for.

        May be called again. Raises what made the manager fail, if it has, when all that is done.
        """
        self._closed = True
        jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        self._give_up(CLOSED)
        if self._failure is not None:
            raise self._failure

    def _check_works(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise ValueError("the manager is closed")

    def _check(self, task: Task) -> None:
        self._check_works()
        if task.id in self._open:
            raise ValueError(f"task {task.id} is already here")
        if not math.isfinite(task.weight):
            raise ValueError(f"task {task.id}: the weight {task.weight} is no number")

    # --- failure ---------------------------------------------------------------------------------------------------

    def _keep(self, job: asyncio.Task[None]) -> None:
        self._jobs[job] = None
        job.add_done_callback(self._job_over)

    def _job_over(self, job: asyncio.Task[None]) -> None:
        del self._jobs[job]
        if job.cancelled():
            if not self._closed:
                self._fail(RuntimeError("an executor cancelled a run that the manager did not"))
        elif (error := job.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Only the first failure counts: others are likely its consequences."""
        if self._failure is not None:
            return
        self._failure = error
        self._closed = True
        self._pending.clear()
        for job in self._jobs:
            job.cancel()
        self._give_up(BROKEN)

    def _give_up(self, reason: str) -> None:
        for task in list(self._open.values()):
            try:
                self._settle(Outcome(task, Fate.DROPPED, self._clock.now_ns, reason))
            except Exception as error:  # on_outcome's: the others must be accounted for all the same
                self._fail(error)

    # --- decisions -------------------------------------------------------------------------------------------------

    def _give(self, task: Task) -> None:
        """Give the policy a task that it has not seen; while lanes are handed over, the task waits here."""
        if not self._is_handing_over:
            self._carry_out(self._policy.arrived(self._clock.now_ns, task))

    def _hand_over(self) -> None:
        """Give a new policy what waits, once the lanes are free."""
        if not self._is_handing_over or self._on_board:
            return
        self._is_handing_over = False
        now_ns = self._clock.now_ns
        for task in list(self._open.values()):
            if task.id in self._running or self._open.get(task.id) is not task:
                continue
            if now_ns >= task.deadline_ns:
                self._settle(Outcome(task, Fate.DROPPED, now_ns, STARTED_LATE))
            else:
                self._give(task)

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
        if self._open.get(task.id) is not task or task.id in self._running:
            raise ValueError(f"the policy starts task {task.id}, which is not waiting")
        if option not in task.kind.options:
            raise ValueError(f"the policy starts task {task.id} in a way that {task.kind.name} does not have")
        if option.place != "edge" and self._remote is None:
            raise ValueError(f"the policy sends task {task.id} to a cloud that is not there")
        if self._clock.now_ns >= task.deadline_ns:
            self._end(Outcome(task, Fate.DROPPED, self._clock.now_ns, STARTED_LATE))
            return
        self._running.add(task.id)
        if option.place != "cloud":
            self._on_board.add(task.id)
        self._keep(asyncio.get_running_loop().create_task(self._run(task, option)))

    def _drop(self, decision: Drop) -> None:
        task = decision.task
        if self._open.get(task.id) is not task or task.id in self._running:
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
        elif self._remote is not None:  # as `_start` has seen to
            await self._run_remote(self._remote, task, option, began_ns, head)

    async def _run_remote(self, remote: Remote, task: Task, option: Option, began_ns: int, head: Ran) -> None:
        try:
            tail = await remote.run(task, option, head.outputs)
        except TaskLost as lost:
            self._running.discard(task.id)
            if self._closed:
                return
            if task.id in self._strange:
                self._strange.discard(task.id)
                self._give(task)
            else:
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
        """Comes from the remote executor, which must not pay for what fails here."""
        if self._open.get(task.id) is not task or task.id not in self._running or self._closed:
            return
        if task.id in self._strange:
            return
        try:
            self._carry_out(self._policy.uploaded(self._clock.now_ns, task))
        except Exception as error:
            self._fail(error)

    def _free_lane(self, task: Task, began_ns: int) -> None:
        now_ns = self._clock.now_ns
        self._on_board.discard(task.id)
        if self._closed:
            return
        if task.id in self._strange:
            self._hand_over()
        else:
            self._carry_out(self._policy.lane_freed(now_ns, task, now_ns - began_ns))

    def _end_run(self, outcome: Outcome) -> None:
        self._running.discard(outcome.task.id)
        self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        is_strange = outcome.task.id in self._strange
        self._strange.discard(outcome.task.id)
        self._settle(outcome)
        if not self._closed and not is_strange:
            self._carry_out(self._policy.ended(outcome.ended_ns, outcome))

    def _settle(self, outcome: Outcome) -> None:
        """Account for a task; nothing if it was given up meanwhile."""
        if self._open.get(outcome.task.id) is not outcome.task:
            return
        del self._open[outcome.task.id]
        waiter = self._waiters.pop(outcome.task.id, None)
        if waiter is not None and not waiter.done():
            if self._failure is None:
                waiter.set_result(outcome)
            else:
                waiter.set_exception(self._failure)
        if not self._open:
            self._empty.set()
        self._on_outcome(outcome)

    # --- alarms ----------------------------------------------------------------------------------------------------

    def _set_alarm(self) -> None:
        """See that the policy is woken when it wants; a later alarm than wanted may stand beside an earlier one."""
        wake_ns = self._policy.wake_ns
        if wake_ns is None or self._closed or (self._alarm_ns is not None and self._alarm_ns <= wake_ns):
            return
        self._alarm_ns = wake_ns
        self._keep(asyncio.get_running_loop().create_task(self._ring(wake_ns)))

    async def _ring(self, when_ns: int) -> None:
        await self._clock.sleep_until_ns(when_ns)
        if self._alarm_ns != when_ns:
            return  # an earlier one took its place
        self._alarm_ns = None
        now_ns, wake_ns = self._clock.now_ns, self._policy.wake_ns
        if wake_ns is None or wake_ns > now_ns:
            self._set_alarm()
            return
        self._rings = now_ns, self._rings[1] + 1 if self._rings[0] == now_ns else 1
        if self._rings[1] > MOST_RINGS:
            raise ValueError(f"the policy wants to be woken at {now_ns} ns again and again")
        self._carry_out(self._policy.woken(now_ns))
