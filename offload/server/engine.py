"""The server without its network: models, admission, a bounded queue, worker threads, and an account of every request.

Who hosts it (a gRPC process, a Ray Serve replica) calls `infer` on one event loop. Requests are served earliest
deadline first; a request of a model that gains by it is joined with those of the same model that are next in the queue.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from offload.server.account import Account
from offload.server.admission import RunTimes, all_in_time
from offload.server.models import BATCH_ROWS, Array, Model, rows_of
from tercel.core.errors import Rejected

VERSION = "1"
UNKNOWN = "(unknown)"
"""Under this name the account has requests of models that are not served."""
NO_DEADLINE_NS = 60_000_000_000
"""What a request without a deadline gets."""
REPLY_NS = 1_000_000
"""Kept free between the end of a run and the deadline, for the answer to be written."""
TRY_NS = 1_000_000_000
"""A model all of whose requests were refused for so long is tried with one that seems too late: only a run can show
that an estimate has grown wrong."""


QUICK_NS = 200_000
"""A run that took less than this when the model was loaded is done on the event loop: a thread's two wake-ups cost
more than the loop loses by it."""


class Refused(Exception):
    """No answer. status: of gRPC, see offload.wire; reason: short and without numbers, so that it can be counted."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class Answer:
    """Outputs by name; queue_ns from arrival to the start of the run; compute_ns of the run."""

    outputs: Mapping[str, Array]
    queue_ns: int
    compute_ns: int


class _Served:
    """A model and what is known of its runs."""

    def __init__(self, model: Model, now_ns: int) -> None:
        self.model = model
        self.times = RunTimes(model.took_ns, now_ns)
        self.quick_rows = max((rows for rows, ns in model.took_ns.items() if ns < QUICK_NS), default=0)
        self.refusing_since_ns: int | None = None  # the first refusal since it last ran

    def is_tried(self, now_ns: int) -> bool:
        """Whether the next request is admitted even if it seems too late."""
        return self.refusing_since_ns is not None and now_ns - self.refusing_since_ns > TRY_NS


class Request:
    """An admitted request; future: of its answer. They are ordered by deadline, then by arrival."""

    __slots__ = ("arrived_ns", "deadline_ns", "forgotten", "future", "order", "probe", "rows", "served", "tensors")

    def __init__(self, served: _Served, tensors: Mapping[str, Array], arrived_ns: int, deadline_ns: int) -> None:
        self.served = served
        self.tensors = tensors
        self.rows = rows_of(served.model, tensors)
        self.arrived_ns = arrived_ns
        self.deadline_ns = deadline_ns
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.order = (deadline_ns, 0)
        self.forgotten = False
        self.probe = served.is_tried(arrived_ns)

    def __lt__(self, other: Request) -> bool:
        return self.order < other.order


class Engine:
    """Models behind a queue. threads: runs that go on at once; queue_limit: requests that wait at most.

    draining: refuses all that is new. accounts: by model. All methods are called on one event loop.
    """

    def __init__(
        self, *, threads: int = 2, queue_limit: int = 128, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        if threads < 1 or queue_limit < 1:
            raise ValueError(f"threads {threads} and queue_limit {queue_limit} must be at least 1")
        self.accounts: dict[str, Account] = {}
        self.draining = False
        self.queue_limit = queue_limit
        self._clock_ns = clock_ns
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="model")
        self._served: dict[str, _Served] = {}
        self._queue: list[Request] = []
        self._orders = count()
        self._running: dict[int, int] = {}  # run -> when it is expected to end
        self._runs = count()
        self._empty: asyncio.Event | None = None

    # --- models ---

    @property
    def models(self) -> dict[str, Model]:
        """Those that are served, by name."""
        return {name: served.model for name, served in self._served.items()}

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    def put_model(self, model: Model) -> None:
        """Serve a model, in place of the one of its name; requests that are admitted already get the old one."""
        self._served[model.name] = _Served(model, self._clock_ns())
        self.accounts.setdefault(model.name, Account())

    def remove_model(self, name: str) -> None:
        """Serve it no more."""
        del self._served[name]

    def estimate_ns(self, name: str) -> int:
        """What a run of one row of a served model is taken to take."""
        return self._served[name].times.estimate_ns(1, self._clock_ns())

    # --- requests ---

    async def infer(
        self, name: str, read: Callable[[Model], Mapping[str, Array]], *, timeout_ns: int | None, version: str = ""
    ) -> Answer:
        """Run a model. read gives the tensors, once the request looks feasible. timeout_ns: from now, or no deadline.

        Raises Refused. A caller that is cancelled leaves nothing in the queue.
        """
        return await self.answer(self.submit(name, read, timeout_ns=timeout_ns, version=version))

    def submit(
        self, name: str, read: Callable[[Model], Mapping[str, Array]], *, timeout_ns: int | None, version: str = ""
    ) -> Request:
        """Like infer, up to the waiting: a request that is admitted, and may be done already. Raises Refused."""
        arrived_ns = self._clock_ns()
        served = self._served.get(name)
        account = self.accounts.setdefault(name if served else UNKNOWN, Account())
        account.received += 1
        deadline_ns = arrived_ns + (NO_DEADLINE_NS if timeout_ns is None else timeout_ns)
        try:
            request = self._admitted(served, version, read, arrived_ns, deadline_ns)
        except Refused as refusal:
            account.refused[refusal.reason] += 1
            raise
        except BaseException:
            account.failed["reading the request failed"] += 1
            raise
        insort(self._queue, request)
        self._dispatch()
        return request

    async def answer(self, request: Request) -> Answer:
        """Wait for a request that was submitted; who submits and does not wait must forget it. Raises Refused."""
        try:
            return await request.future
        except asyncio.CancelledError:
            self.forget(request)
            raise

    def _admitted(
        self,
        served: _Served | None,
        version: str,
        read: Callable[[Model], Mapping[str, Array]],
        now_ns: int,
        deadline_ns: int,
    ) -> Request:
        """The request, if it can be in time and is sound. Raises Refused."""
        if self.draining:
            raise Refused("UNAVAILABLE", "the server drains")
        if served is None or version not in ("", VERSION):
            raise Refused("NOT_FOUND", "no such model or version")
        self._drop_expired(now_ns)
        if len(self._queue) >= self.queue_limit:
            raise Refused("RESOURCE_EXHAUSTED", "the queue is full")
        order = (deadline_ns, next(self._orders))
        if not self._feasible(served, 1, order, now_ns):
            raise Refused("RESOURCE_EXHAUSTED", "would not be done in time")
        try:
            tensors = read(served.model)
            served.model.check(tensors)
        except Rejected as error:
            raise Refused("INVALID_ARGUMENT", str(error)) from None
        request = Request(served, tensors, now_ns, deadline_ns)
        request.order = order
        if request.probe:
            served.refusing_since_ns = now_ns
        if request.rows != 1 and not self._feasible(served, request.rows, order, now_ns):
            raise Refused("RESOURCE_EXHAUSTED", "would not be done in time")
        return request

    def _feasible(self, served: _Served, rows: int, order: tuple[int, int], now_ns: int) -> bool:
        """Whether a new request, and those behind it in the queue, would be in time."""
        if order[0] <= now_ns:
            return False
        at = bisect_left(self._queue, order, key=lambda request: request.order)
        jobs = [(one.deadline_ns - REPLY_NS, one.served.times.estimate_ns(one.rows, now_ns)) for one in self._queue]
        took_ns = 0 if served.is_tried(now_ns) else served.times.estimate_ns(rows, now_ns)
        jobs.insert(at, (order[0] - REPLY_NS, took_ns))
        busy = [max(now_ns, ends_ns) for ends_ns in self._running.values()]
        if all_in_time(jobs, busy + [now_ns] * (self._threads - len(busy)), first=at):
            return True
        if served.refusing_since_ns is None:
            served.refusing_since_ns = now_ns
        return False

    def forget(self, request: Request) -> None:
        """Take a request back: its caller has gone, for its deadline or other reasons. Nothing if it has ended."""
        if request.forgotten:
            return
        request.forgotten = True
        if not request.future.cancel() and not request.future.cancelled():
            request.future.exception()  # it had ended, and was counted, just before
            return
        if request in self._queue:
            self._queue.remove(request)
        account = self.accounts[request.served.model.name]
        if self._clock_ns() >= request.deadline_ns:
            account.expired += 1
        else:
            account.cancelled += 1
        self._note_empty()

    # --- runs ---

    def _dispatch(self) -> None:
        """Give free workers what is next."""
        while len(self._running) < self._threads and self._queue:
            now_ns = self._clock_ns()
            self._drop_expired(now_ns)
            batch = self._next_batch(now_ns)
            if not batch:
                break
            served = batch[0].served
            rows = sum(one.rows for one in batch)
            served.refusing_since_ns = None
            self.accounts[served.model.name].runs += 1
            work = partial(_run, served.model, [one.tensors for one in batch])
            if rows <= served.quick_rows:
                self._answer(batch, now_ns, work())
                continue
            run = next(self._runs)
            self._running[run] = now_ns + served.times.estimate_ns(rows, now_ns)
            ran = asyncio.get_running_loop().run_in_executor(self._pool, work)
            ran.add_done_callback(partial(self._ended, run, batch, now_ns))
        self._note_empty()

    def _drop_expired(self, now_ns: int) -> None:
        """Drop from the queue's head what cannot be in time even if it runs now as fast as any did of late."""
        while self._queue:
            head = self._queue[0]
            needs_ns = 0 if head.probe else head.served.times.fastest_ns()
            if now_ns + needs_ns < head.deadline_ns:
                break
            del self._queue[0]
            self.accounts[head.served.model.name].expired += 1
            if not head.future.done():
                head.future.set_exception(Refused("DEADLINE_EXCEEDED", "deadline passed in the queue"))

    def _next_batch(self, now_ns: int) -> list[Request]:
        """The head of the queue, with those behind it that it can be joined with and still be in time."""
        if not self._queue:
            return []
        batch = [self._queue[0]]
        served, rows = batch[0].served, batch[0].rows
        for one in self._queue[1:BATCH_ROWS] if served.model.batched else ():
            rows += one.rows
            ends_ns = now_ns + served.times.estimate_ns(rows, now_ns)
            if one.served is not served or rows > BATCH_ROWS or ends_ns + REPLY_NS > batch[0].deadline_ns:
                break
            batch.append(one)
        del self._queue[: len(batch)]
        return batch

    def _ended(self, run: int, batch: list[Request], began_ns: int, ran: asyncio.Future[Any]) -> None:
        """A worker is free again."""
        del self._running[run]
        gone: list[dict[str, Array] | Rejected] = [Rejected("the server stopped")] * len(batch)
        self._answer(batch, began_ns, gone if ran.cancelled() else ran.result())
        self._dispatch()

    def _answer(self, batch: list[Request], began_ns: int, results: list[dict[str, Array] | Rejected]) -> None:
        """Give those who still wait what a run has given, and count it."""
        now_ns = self._clock_ns()
        served = batch[0].served
        account = self.accounts[served.model.name]
        if not isinstance(results[0], Rejected):
            served.times.add(sum(one.rows for one in batch), now_ns - began_ns, now_ns)
            account.computed.add(now_ns - began_ns)
        for one, result in zip(batch, results, strict=True):
            if one.future.done():  # its caller has gone, and is counted
                continue
            account.queued.add(began_ns - one.arrived_ns)
            if isinstance(result, Rejected):
                account.failed[str(result)] += 1
                one.future.set_exception(Refused("INTERNAL", str(result)))
            else:
                account.done += 1
                account.late += now_ns > one.deadline_ns
                one.future.set_result(Answer(result, began_ns - one.arrived_ns, now_ns - began_ns))

    # --- the end ---

    async def drain(self) -> None:
        """Refuse what is new and wait until what is admitted has ended."""
        self.draining = True
        self._empty = self._empty or asyncio.Event()
        self._note_empty()
        await self._empty.wait()

    def _note_empty(self) -> None:
        if self._empty is not None and not self._queue and not self._running:
            self._empty.set()

    def close(self) -> None:
        """Give the threads back; what still runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _run(model: Model, requests: list[Mapping[str, Array]]) -> list[dict[str, Array] | Rejected]:
    """In a worker thread: joined, and where that fails one by one, so that one request cannot spoil the others'."""
    try:
        return list(model.run_joined(requests))
    except Rejected as error:
        if len(requests) == 1:
            return [error]
    return [_run(model, [one])[0] for one in requests]
