"""All replicas as one engine: what the servicer and the metrics ask of an Engine, answered through Ray.

Ray chooses the replica, the one of two with fewer requests. The answer is waited for until the deadline and no longer.
A request whose replica dies is given to another once, for a model's run has no effect but its answer; the account has
it once, with what became of it in the end.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from offload.scale_out.replica import REPLICA
from offload.server.account import Account
from offload.server.engine import NO_DEADLINE_NS, UNKNOWN, Refused
from offload.wire import messages as pb
from tercel.core.errors import require

ATTEMPTS = 2
DESCRIBE_S = 5.0
"""The replicas may take so long to say what they serve."""
DIED = "the replica died"


class Fleet:
    """handle: of the Ray Serve deployment. limit: requests under way at most. clock_ns: any that runs on.

    accounts: by model; draining: refuses all that is new; models: metadata by name, problems: why others are not
    served, both of the last refresh; queued: requests under way; answered: by replica; retried: requests given to a
    second one.
    """

    def __init__(self, handle: Any, *, limit: int, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.accounts: dict[str, Account] = {}
        self.draining = False
        self.models: dict[str, Any] = {}
        self.problems: dict[str, str] = {}
        self.queued = 0
        self.answered: Counter[str] = Counter()
        self.retried = 0
        self._describe, self._run = handle.describe, handle.infer  # each look-up makes a handle anew
        self._limit = limit
        self._clock_ns = clock_ns
        errors, serve_errors = require("ray.exceptions", extra="ray"), require("ray.serve.exceptions", extra="ray")
        self._died = (errors.RayActorError, errors.ObjectLostError)
        self._unavailable = (serve_errors.RayServeException, errors.RayError)
        self._busy = serve_errors.BackPressureError

    async def refresh(self) -> None:
        """Ask a replica what it serves; if none says it, nothing is served."""
        try:
            name, metadata, problems = await asyncio.wait_for(_answer(self._describe.remote()), DESCRIBE_S)
        except (asyncio.TimeoutError, self._busy, *self._unavailable):
            self.models = {}
            return
        self.answered[name] += 0
        abouts = [pb.ModelMetadataResponse.FromString(data) for data in metadata]
        self.models = {about.name: about for about in abouts}
        self.problems = problems
        for about in abouts:
            self.accounts.setdefault(about.name, Account())

    async def infer(self, request: Any, timeout_ns: int | None) -> Any:
        """The response of one of the replicas. timeout_ns: of the call, from now; the request's own counts, too.

        Raises Refused.
        """
        if "timeout" in request.parameters:
            wanted_ns = request.parameters["timeout"].int64_param * 1000
            timeout_ns = wanted_ns if timeout_ns is None else min(timeout_ns, wanted_ns)
        account = self.accounts.setdefault(
            request.model_name if request.model_name in self.models else UNKNOWN, Account()
        )
        account.received += 1
        deadline_ns = self._clock_ns() + (NO_DEADLINE_NS if timeout_ns is None else timeout_ns)
        self.queued += 1
        try:
            response = await self._asked(request, deadline_ns)
        except Refused as refusal:
            self._count_refusal(account, refusal)
            raise
        except asyncio.CancelledError:
            account.cancelled += 1
            raise
        except BaseException:
            account.failed["reading the answer failed"] += 1
            raise
        finally:
            self.queued -= 1
        account.done += 1
        account.late += self._clock_ns() > deadline_ns
        self.answered[response.parameters[REPLICA].string_param] += 1
        return response

    async def _asked(self, request: Any, deadline_ns: int) -> Any:
        if self.draining:
            raise Refused("UNAVAILABLE", "the server drains")
        if self.queued > self._limit:
            raise Refused("RESOURCE_EXHAUSTED", "the queue is full")
        data = request.SerializeToString()
        for attempt in range(ATTEMPTS):
            remaining_ns = deadline_ns - self._clock_ns()
            if remaining_ns <= 0:
                break
            sent = self._run.remote(data, remaining_ns)
            try:
                status, answer = await asyncio.wait_for(_answer(sent), remaining_ns / 1e9)
            except asyncio.TimeoutError:
                sent.cancel()
                break
            except asyncio.CancelledError:
                sent.cancel()
                raise
            except self._busy:
                raise Refused("RESOURCE_EXHAUSTED", "the queue is full") from None
            except self._died:
                self.retried += attempt + 1 < ATTEMPTS
                continue
            except self._unavailable:
                raise Refused("INTERNAL", "no replica answers") from None
            if status != "OK":
                raise Refused(status, answer)
            return pb.ModelInferResponse.FromString(answer)
        else:
            raise Refused("INTERNAL", DIED)
        raise Refused("DEADLINE_EXCEEDED", "deadline passed in the queue")

    def _count_refusal(self, account: Account, refusal: Refused) -> None:
        if refusal.status == "DEADLINE_EXCEEDED":
            account.expired += 1
        elif refusal.status == "INTERNAL":
            account.failed[refusal.reason] += 1
        else:
            account.refused[refusal.reason] += 1

    async def drain(self) -> None:
        """Refuse what is new and wait until all that is under way has ended."""
        self.draining = True
        while self.queued:
            await asyncio.sleep(0.01)


async def _answer(sent: Any) -> Any:
    """Ray's responses are awaitable, but no coroutines."""
    return await sent
