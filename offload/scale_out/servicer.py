"""The protocol's methods over a fleet. Requests of one stream go to whichever replicas have room, like all others."""

from __future__ import annotations

import asyncio
from typing import Any

from offload.scale_out.fleet import Fleet
from offload.server.engine import Refused
from offload.server.servicer import STREAM_LIMIT, TAKEN_BACK, InferenceServicer, acknowledgement, error_answer
from offload.wire import messages as pb
from tercel.core.errors import require


class FleetServicer(InferenceServicer):
    """GRPCInferenceService. Health and metadata are read off the fleet as off an engine."""

    def __init__(self, fleet: Fleet) -> None:
        engine: Any = fleet
        super().__init__(engine, lambda: fleet.problems)
        self._fleet = fleet
        self._statuses = require("grpc", extra="offload").StatusCode

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """One request. A call that is cancelled is taken back from its replica."""
        remaining_s = context.time_remaining()
        try:
            return await self._fleet.infer(request, None if remaining_s is None else int(remaining_s * 1e9))
        except Refused as refusal:
            return await context.abort(getattr(self._statuses, refusal.status), refusal.reason)

    async def ModelStreamInfer(self, requests: Any, context: Any) -> None:  # noqa: ARG002
        """Requests under way side by side, matched by id, answered as they end; errors are answers, too."""
        await _Stream(self._fleet, context).serve()


class _Stream:
    """One call: a loop that reads, one that writes (a write must never be cancelled), between them a task a request."""

    def __init__(self, fleet: Fleet, context: Any) -> None:
        self._fleet = fleet
        self._context = context
        self._room = asyncio.Semaphore(STREAM_LIMIT)
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._outbox: asyncio.Queue[Any] = asyncio.Queue()

    async def serve(self) -> None:
        """Until the client has sent all and has all answers, or is gone."""
        end = require("grpc", extra="offload").aio.EOF
        writer = asyncio.ensure_future(self._write())
        try:
            while (request := await self._context.read()) is not end:
                if "tercel_cancel" in request.parameters:
                    self._cancel(request.id)
                    continue
                await self._room.acquire()
                if "tercel_ack" in request.parameters:
                    self._outbox.put_nowait(acknowledgement(request))
                task = asyncio.ensure_future(self._answer(request))
                self._tasks[task] = request.id
                task.add_done_callback(self._over)
            while self._tasks:
                await asyncio.wait(self._tasks)
            self._outbox.put_nowait(None)
            await writer
        finally:
            writer.cancel()
            for task in self._tasks:
                task.cancel()

    async def _answer(self, request: Any) -> None:
        try:
            response = pb.ModelStreamInferResponse(infer_response=await self._fleet.infer(request, None))
        except Refused as refusal:
            response = error_answer(request, refusal)
        self._outbox.put_nowait(response)

    async def _write(self) -> None:
        """Write what is in the outbox, one after another, until None."""
        while (response := await self._outbox.get()) is not None:
            if response is not TAKEN_BACK:
                await self._context.write(response)
            if response is TAKEN_BACK or "tercel_received" not in response.infer_response.parameters:
                self._room.release()

    def _cancel(self, request_id: str) -> None:
        """Take a request back; no answer will come."""
        for task, known in list(self._tasks.items()):
            if request_id and known == request_id:
                task.cancel()

    def _over(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if task.cancelled() or task.exception() is not None:
            self._outbox.put_nowait(TAKEN_BACK)
