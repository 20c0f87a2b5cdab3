"""The protocol's methods over an Engine: messages in, messages out. Knows gRPC's contexts, but not who hosts it."""

# ruff: noqa: ARG002  (gRPC gives every method a request and a context)

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import tercel
from offload.server.engine import VERSION, Answer, Engine, Refused, Request
from offload.server.models import Array, Model
from offload.wire import messages as pb
from offload.wire.tensors import CODEC, DATATYPES, get_tensors, put_tensors
from tercel.core.errors import Rejected, require

EXTENSIONS = ("model_repository", "tercel_ack", "tercel_cancel", "tercel_codec")
STREAM_LIMIT = 256
"""Requests of one stream that are under way at most; beyond them it is not read."""


class InferenceServicer:
    """GRPCInferenceService. problems: what of the model folder cannot be served, name -> reason."""

    def __init__(self, engine: Engine, problems: Callable[[], Mapping[str, str]] = dict) -> None:
        self._engine = engine
        self._problems = problems
        self._codes = require("grpc", extra="offload").StatusCode

    # --- health and metadata ---

    async def ServerLive(self, request: Any, context: Any) -> Any:
        """Whether the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        """Whether there is a model and requests are accepted."""
        return pb.ServerReadyResponse(ready=bool(self._engine.models) and not self._engine.draining)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        """Whether a model can be asked."""
        known = request.name in self._engine.models and request.version in ("", VERSION)
        return pb.ModelReadyResponse(ready=known and not self._engine.draining)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(name="tercel", version=tercel.__version__, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """Inputs and outputs of a model; NOT_FOUND if there is none."""
        model = self._engine.models.get(request.name)
        if model is None or request.version not in ("", VERSION):
            return await context.abort(self._codes.NOT_FOUND, "no such model or version")
        response = pb.ModelMetadataResponse(name=model.name, versions=[VERSION], platform="onnxruntime_onnx")
        for listed, specs in ((response.inputs, model.inputs), (response.outputs, model.outputs)):
            for spec in specs:
                listed.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """All models; those that cannot be served, or not in their newest file, with the reason."""
        response = pb.RepositoryIndexResponse()
        served, problems = self._engine.models, self._problems()
        for name in sorted({*served, *problems}):
            if name in served or not request.ready:
                state = "READY" if name in served else "UNAVAILABLE"
                response.models.add(name=name, version=VERSION, state=state, reason=problems.get(name, ""))
        return response

    # --- inference ---

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """One request. A call that is cancelled, or past its deadline, leaves the queue."""
        remaining_s = context.time_remaining()
        try:
            submitted = self.submit(request, None if remaining_s is None else int(remaining_s * 1e9))
            return await self.answer(request, submitted)
        except Refused as refusal:
            return await context.abort(getattr(self._codes, refusal.status), refusal.reason)

    async def ModelStreamInfer(self, requests: Any, context: Any) -> None:
        """Requests under way side by side, matched by id, answered as they end; errors are answers, too."""
        await _Stream(self, context).serve()

    def submit(self, request: Any, timeout_ns: int | None) -> Request:
        """Give a message to the engine. timeout_ns: what is left of the call's own deadline. Raises Refused."""
        if "timeout" in request.parameters:
            wanted_ns = request.parameters["timeout"].int64_param * 1000
            timeout_ns = wanted_ns if timeout_ns is None else min(timeout_ns, wanted_ns)
        read = partial(_read, request)
        return self._engine.submit(request.model_name, read, timeout_ns=timeout_ns, version=request.model_version)

    async def answer(self, request: Any, submitted: Request) -> Any:
        """The answer's message, once there is one. Raises Refused."""
        return _response(request, await self._engine.answer(submitted))

    def forget(self, submitted: Request) -> None:
        """Take it back; nothing if it has ended."""
        self._engine.forget(submitted)


TAKEN_BACK = object()
"""In an outbox, behind the acknowledgement of a request that was cancelled: only then is there room for another, or a
client that cancels all and reads nothing would make the outbox grow for ever."""


class _Stream:
    """One ModelStreamInfer call: a loop that reads, one that writes, and a task for each request that has to wait."""

    def __init__(self, servicer: InferenceServicer, context: Any) -> None:
        self._servicer = servicer
        self._context = context
        self._room = asyncio.Semaphore(STREAM_LIMIT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_id: dict[str, asyncio.Task[None]] = {}
        self._outbox: deque[Any] = deque()
        self._wake = asyncio.Event()

    async def serve(self) -> None:
        """Until the client has sent all and has all answers, or is gone."""
        end = require("grpc", extra="offload").aio.EOF
        writer = asyncio.ensure_future(self._write())
        try:
            while (request := await self._context.read()) is not end:
                if "tercel_cancel" in request.parameters:
                    self._cancel(request.id)
                    continue
                self._begin(request)
                await self._room.acquire()
            while self._tasks:
                await asyncio.wait(self._tasks)
            self._put(None)
            await writer
        finally:
            writer.cancel()
            for task in self._tasks:
                task.cancel()

    def _begin(self, request: Any) -> None:
        """Answer a request at once, if it is refused or was quick, or later."""
        try:
            submitted = self._servicer.submit(request, None)
        except Refused as refusal:
            self._put(error_answer(request, refusal))
            return
        if submitted.future.done():
            self._put(_stream_answer(request, submitted.future))
            return
        if "tercel_ack" in request.parameters:
            self._put(acknowledgement(request))
        task = asyncio.ensure_future(self._answer(request, submitted))
        self._tasks.add(task)
        if request.id:
            self._by_id[request.id] = task
        task.add_done_callback(partial(self._over, request.id, submitted))

    async def _answer(self, request: Any, submitted: Request) -> None:
        await asyncio.wait([submitted.future])
        self._put(_stream_answer(request, submitted.future))

    def _over(self, request_id: str, submitted: Request, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._by_id.get(request_id) is task:
            del self._by_id[request_id]
        if task.cancelled():
            self._servicer.forget(submitted)
            self._put(TAKEN_BACK)

    def _cancel(self, request_id: str) -> None:
        """Take a request back; no answer will come."""
        task = self._by_id.pop(request_id, None)
        if task is not None:
            task.cancel()

    def _put(self, response: Any) -> None:
        self._outbox.append(response)
        self._wake.set()

    async def _write(self) -> None:
        """Write what is in the outbox, one after another, until None."""
        while True:
            while self._outbox:
                response = self._outbox.popleft()
                if response is None:
                    return
                if response is not TAKEN_BACK:
                    await self._context.write(response)
                if response is TAKEN_BACK or "tercel_received" not in response.infer_response.parameters:
                    self._room.release()
            self._wake.clear()
            await self._wake.wait()


def _stream_answer(request: Any, ended: asyncio.Future[Answer]) -> Any:
    """The answer's message, or the error's."""
    try:
        return pb.ModelStreamInferResponse(infer_response=_response(request, ended.result()))
    except Refused as refusal:
        return error_answer(request, refusal)


def acknowledgement(request: Any) -> Any:
    """The stream's message that all of a request has come."""
    response = pb.ModelStreamInferResponse()
    response.infer_response.id = request.id
    response.infer_response.parameters["tercel_received"].bool_param = True
    return response


def _read(request: Any, model: Model) -> dict[str, Array]:
    """The request's tensors. Raises Rejected."""
    known = {spec.name for spec in model.outputs}
    if any(output.name not in known for output in request.outputs):
        raise Rejected("no such output")
    if len(request.inputs) != len(model.inputs):
        raise Rejected("input names are not the model's")
    for entry in request.inputs:
        if CODEC in entry.parameters:  # a few bytes may announce much: what the model does not take is not decoded
            model.check_announced(entry.name, DATATYPES.get(entry.datatype), entry.shape)
    return get_tensors(request.inputs, request.raw_input_contents)


def _response(request: Any, answer: Answer) -> Any:
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=VERSION, id=request.id)
    response.parameters["tercel_queue_ns"].int64_param = answer.queue_ns
    response.parameters["tercel_compute_ns"].int64_param = answer.compute_ns
    wanted = [output.name for output in request.outputs] or list(answer.outputs)
    outputs = {name: answer.outputs[name] for name in wanted}
    put_tensors(response.outputs, response.raw_output_contents, outputs)
    return response


def error_answer(request: Any, refusal: Refused) -> Any:
    """The stream's message that a request was refused."""
    response = pb.ModelStreamInferResponse(error_message=refusal.reason)
    response.infer_response.id = request.id
    response.infer_response.model_name = request.model_name
    response.infer_response.parameters["tercel_status"].string_param = refusal.status
    return response
