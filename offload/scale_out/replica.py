"""One replica: an engine of its own in a Ray actor. Messages come and go as bytes, so that Ray parses and copies none.

The folder of models must be on every node, under the same path; each replica loads it once, and again what changes.
Requests reach a replica from a `Fleet`, by `infer`, or from Ray's own proxies, by the protocol's method names. Ray's
proxies do not pass a call's gRPC deadline on: behind them only the parameter `timeout` counts, which our client sends.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from offload.server.engine import Engine, Refused
from offload.server.folder import Change, ModelFolder
from offload.server.security import read_token
from offload.server.servicer import InferenceServicer
from offload.wire import messages as pb
from offload.wire.service import UNARY
from tercel.core.errors import UserError, nearest_hint, require

APPLICATION = "tercel"
REPLICA = "tercel_replica"
"""Parameter of a response: which replica has computed it, PID@HOST."""


@dataclass(frozen=True)
class ReplicaOptions:
    """What each replica is made of. models: a folder, on every node. replicas: at least and at most; target: requests
    under way a replica for which Ray adds no further one. token_file: on every node; what clients behind Ray's own
    proxies must know (behind our port it is asked for there).
    """

    models: str
    replicas: tuple[int, int] = (1, 1)
    threads: int = 1
    queue_limit: int = 128
    target: float = 2.0
    token_file: str = ""

    def __post_init__(self) -> None:
        least, most = self.replicas
        if not 1 <= least <= most:
            raise UserError(f"replicas {least}:{most}: write MIN:MAX, MIN at least 1 and at most MAX")
        if self.threads < 1 or self.queue_limit < 1 or self.target <= 0:
            raise UserError("threads and queue_limit begin at 1, target is above 0")


class Replica:
    """An engine with its models. Raises UserError if none of them can be served."""

    def __init__(self, options: ReplicaOptions) -> None:
        self.name = f"{os.getpid()}@{socket.gethostname()}"
        self._folder = ModelFolder(Path(options.models))
        self._engine = Engine(threads=options.threads, queue_limit=options.queue_limit)
        self._servicer = InferenceServicer(self._engine, lambda: dict(self._folder.problems))
        self._token = read_token(Path(options.token_file)) if options.token_file else None
        self._looking: asyncio.Task[None] | None = None
        self._put(self._folder.look(settle=False))
        if not self._engine.models:
            reasons = "; ".join(self._folder.problems.values())
            raise UserError(reasons or f"{options.models}: no model in it can be served; put NAME.onnx there")

    # --- what Ray calls from time to time ---

    async def check_health(self) -> None:
        """Look at the folder, and raise if nothing can be served: a replica that refuses all would draw all."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        if not self._engine.models:
            raise RuntimeError("no model can be served")

    async def _look(self) -> None:
        self._put(await asyncio.get_running_loop().run_in_executor(None, self._folder.look))

    def _put(self, changes: list[Change]) -> None:
        for change in changes:
            if change.model is not None:
                self._engine.put_model(change.model)
            elif change.name in self._engine.models:
                self._engine.remove_model(change.name)

    # --- what a Fleet calls ---

    async def infer(self, data: bytes, timeout_ns: int | None) -> tuple[str, bytes | str]:
        """ModelInfer: "OK" and the response, or another of gRPC's statuses and its reason. timeout_ns: from now."""
        return await self._answer("ModelInfer", data, timeout_ns)

    async def describe(self) -> tuple[str, list[bytes], dict[str, str]]:
        """Name, ModelMetadataResponse of each model, and why others are not served."""
        metadata = []
        for name in sorted(self._engine.models):
            about = await self._servicer.ModelMetadata(pb.ModelMetadataRequest(name=name), _Context(None))
            metadata.append(about.SerializeToString())
        return self.name, metadata, dict(self._folder.problems)

    async def _answer(self, method: str, data: bytes, timeout_ns: int | None) -> tuple[str, bytes | str]:
        try:
            request = UNARY[method][0].FromString(data)
            response = await getattr(self._servicer, method)(request, _Context(timeout_ns))
        except pb.DecodeError:
            return "INVALID_ARGUMENT", "the message cannot be read"
        except Refused as refusal:
            return refusal.status, refusal.reason
        if method == "ModelInfer":
            response.parameters[REPLICA].string_param = self.name
        return "OK", response.SerializeToString()

    # --- what Ray's own proxies call ---

    async def _call(self, method: str, data: bytes, grpc_context: Any) -> Encoded:
        if not self._let_in(grpc_context):
            return _refusal(grpc_context, "UNAUTHENTICATED", "wrong token or none")
        status, answer = await self._answer(method, data, None)
        return Encoded(answer) if isinstance(answer, bytes) else _refusal(grpc_context, status, answer)

    async def ModelStreamInfer(self, requests: AsyncIterator[bytes], grpc_context: Any) -> AsyncIterator[Encoded]:
        """A stream, all of it on this replica."""
        if not self._let_in(grpc_context):
            yield _refusal(grpc_context, "UNAUTHENTICATED", "wrong token or none")
            return
        stream = _StreamContext(requests)
        serving = asyncio.ensure_future(self._servicer.ModelStreamInfer(None, stream))
        serving.add_done_callback(stream.end)
        try:
            while (response := await stream.responses.get()) is not None:
                response.infer_response.parameters[REPLICA].string_param = self.name
                yield Encoded(response.SerializeToString())
            await serving
        finally:
            serving.cancel()

    def _let_in(self, grpc_context: Any) -> bool:
        if self._token is None:
            return True
        given = [value for key, value in grpc_context.invocation_metadata() if key == "authorization"]
        return len(given) == 1 and hmac.compare_digest(str(given[0]).encode(), f"Bearer {self._token}".encode())


def _proxied(method: str) -> Callable[..., Any]:
    """A method of the protocol as Ray's proxies call it. They look for the name of the second argument."""

    async def call(self: Replica, data: bytes, grpc_context: Any) -> Encoded:
        return await self._call(method, data, grpc_context)

    call.__name__ = method
    return call


for _method in UNARY:
    setattr(Replica, _method, _proxied(_method))


@dataclass(frozen=True)
class Encoded:
    """A message that is bytes already, for those who expect one that is not."""

    data: bytes

    def SerializeToString(self) -> bytes:
        """The bytes."""
        return self.data


def _refusal(grpc_context: Any, status: str, reason: str) -> Encoded:
    """Ray takes the status from the context and sends no message then; a raise would be logged with its traceback."""
    grpc_context.set_code(getattr(require("grpc", extra="ray").StatusCode, status))
    grpc_context.set_details(reason)
    return Encoded(b"")


@dataclass
class _Context:
    """What the servicer asks of a call."""

    timeout_ns: int | None

    def time_remaining(self) -> float | None:
        """Seconds."""
        return None if self.timeout_ns is None else self.timeout_ns / 1e9

    async def abort(self, code: Any, reason: str) -> None:
        """Raises Refused."""
        raise Refused(code.name, reason)


@dataclass
class _StreamContext:
    """What the servicer asks of a stream. responses: what it has written; None: the end."""

    requests: AsyncIterator[bytes]
    responses: asyncio.Queue[Any] = field(default_factory=lambda: asyncio.Queue(256))

    async def read(self) -> Any:
        """The next request, or grpc.aio's EOF."""
        async for data in self.requests:
            try:
                return pb.ModelInferRequest.FromString(data)
            except pb.DecodeError:
                break  # as gRPC does: a stream with a message that cannot be read is over
        return require("grpc", extra="ray").aio.EOF

    async def write(self, response: Any) -> None:
        """Hand a response on."""
        await self.responses.put(response)

    def end(self, _: Any) -> None:
        """No more will be written."""
        asyncio.ensure_future(self.responses.put(None))  # noqa: RUF006


# --- the application -----------------------------------------------------------------------------------------------


def application(options: ReplicaOptions) -> Any:
    """The Ray Serve application. Refusing is left to the replicas, who know their queues: Ray's own limit is beyond
    theirs. A replica that is gone is noticed within a second or two, one that hangs within ten."""
    serve = require("ray.serve", extra="ray")
    least, most = options.replicas
    settings: dict[str, Any] = {"num_replicas": least}
    if most > least:
        settings = {
            "autoscaling_config": {
                "min_replicas": least,
                "max_replicas": most,
                "target_ongoing_requests": options.target,
                "metrics_interval_s": 1,  # not ten: load comes fast
                "look_back_period_s": 4,
                "upscale_delay_s": 2,
                "downscale_delay_s": 60,
            }
        }
    deployment = serve.deployment(
        Replica,
        name="Replica",
        ray_actor_options={"num_cpus": options.threads},
        max_ongoing_requests=2 * options.queue_limit,
        max_queued_requests=options.queue_limit,
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.5,
        **settings,
    )
    return deployment.bind(options)


def build(args: dict[str, Any]) -> Any:
    """The application from the `args` of a Serve config file: the fields of ReplicaOptions. Raises UserError."""
    known = [one.name for one in fields(ReplicaOptions)]
    for key in args:
        if key not in known:
            raise UserError(f"args: no {key!r} in ReplicaOptions; {nearest_hint(key, known)}")
    if "models" not in args:
        raise UserError("args: models is missing; name the folder, which is on every node")
    if "replicas" in args:
        args = {**args, "replicas": tuple(args["replicas"])}
    return application(ReplicaOptions(**args))
