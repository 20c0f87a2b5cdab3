"""One connection to an inference server: its channel, the bidirectional stream over it, and the watch for its loss.

A connection is opened, used, and lost once; who holds it opens the next. A link that is cut without a word is noticed
by a ping that stays unanswered while nothing else comes in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from offload.remote_access import RemoteAccess, channel_options
from offload.wire import messages as pb
from offload.wire.service import InferenceStub
from tercel.core.errors import require

PING_S = 1.0
"""Between two pings, which are also how the round trip is measured."""
SLOWEST_BYTES_PER_S = 125_000
"""The slowest link that is of use: a ping that stands behind uploads is given their time on it."""
REMEMBERED = 4096
"""Ended requests whose second or late answers are told from those of unknown ones."""


@dataclass
class RemoteCounts:
    """sent = received + refused + lost + expired + cancelled: of requests that went up the link, counted as they end.

    refused: by the server. lost: no answer, or none of use. expired: the deadline passed. cancelled: taken back.
    unsent: never went up, for there was no connection or no time. Of answers: duplicate, a second one; stale, to what
    had expired or was cancelled; unknown, to nothing we asked. connections: opened.
    """

    sent: int = 0
    received: int = 0
    refused: int = 0
    lost: int = 0
    expired: int = 0
    cancelled: int = 0
    unsent: int = 0
    duplicate: int = 0
    stale: int = 0
    unknown: int = 0
    connections: int = 0


class Unreachable(Exception):
    """No connection. reason: short and without numbers."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Failed(Exception):
    """A request has no result. status: gRPC's, or LOST where the connection broke."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Sending:
    """A request on its way. sent: whether it has begun to go up; upload_s: how long that took, round trip included, if
    the server has said when it had all of it, which received is called at; answer: the stream's.
    """

    __slots__ = ("answer", "began_s", "message", "received", "sent", "upload_s")

    def __init__(self, message: Any, received: Callable[[], None] | None = None) -> None:
        self.message = message
        self.received = received
        self.sent = False
        self.began_s = 0.0
        self.upload_s: float | None = None
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


def upload_s_at_most(sendings: Iterable[Sending]) -> float:
    """How long uploads take on the slowest link that is of use, seconds."""
    upload_bytes: int = sum(sending.message.ByteSize() for sending in sendings)
    return upload_bytes / SLOWEST_BYTES_PER_S


class Connection:
    """An open connection. Made by `open_connection`.

    extensions: what the server says it can do. rtt_ns: the shortest of the last round trips of an empty call. lost: set
    at the end; streams: whether the server has the stream (it may turn out at the first use that it has not).
    """

    def __init__(self, channel: Any, access: RemoteAccess, counts: RemoteCounts, silence_s: float) -> None:
        self.stub = InferenceStub(channel)
        self.metadata = access.metadata
        self.extensions: frozenset[str] = frozenset()
        self.streams = True
        self.lost = asyncio.Event()
        self._channel = channel
        self._counts = counts
        self._silence_s = silence_s
        self._rtts_ns: deque[int] = deque(maxlen=8)
        self._inputs: dict[str, str] = {}
        self._heard_s = 0.0
        self._call: Any = None
        self._pending: dict[str, Sending] = {}
        self._unary: dict[Sending, None] = {}
        self._abandoned_until_s = 0.0
        self._ended: dict[str, bool] = {}  # id -> whether it was answered; in order of ending
        self._outbox: deque[tuple[str, Any]] = deque()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def rtt_ns(self) -> int:
        """The shortest of the last eight round trips; 0: not known."""
        return min(self._rtts_ns, default=0)

    async def start(self, *, stream: bool, timeout_s: float) -> None:
        """Greet the server and start the watch and the stream. Raises Unreachable."""
        grpc = require("grpc", extra="offload")
        try:
            about = await self.stub.ServerMetadata(
                pb.ServerMetadataRequest(), timeout=timeout_s, metadata=self.metadata
            )
            self.extensions = frozenset(about.extensions)
            await self._ping(timeout_s)
        except grpc.aio.AioRpcError as error:
            shut_out = error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
            raise Unreachable("not let in" if shut_out else "unavailable") from None
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._watch()))
        self.streams = stream
        if stream:
            self._call = self.stub.ModelStreamInfer(metadata=self.metadata)
            self._tasks += [loop.create_task(self._read()), loop.create_task(self._write())]

    async def input_name(self, model: str, timeout_s: float) -> str:
        """The name of a model's only input. Raises Failed."""
        if model not in self._inputs:
            about = await self._called(self.stub.ModelMetadata, pb.ModelMetadataRequest(name=model), timeout_s)
            if len(about.inputs) != 1:
                raise Failed("INVALID_ARGUMENT", "the model has several inputs, and one tensor is given")
            self._inputs[model] = about.inputs[0].name
        return self._inputs[model]

    async def close(self) -> None:
        """Give everything back; requests under way fail."""
        self._lose()
        for task in self._tasks:
            task.cancel()
        if self._call is not None:
            self._call.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    # --- requests ---

    async def unary(self, sending: Sending, timeout_s: float) -> Any:
        """Ask by a call of its own; cancelling takes it back. Raises Failed."""
        sending.sent = True
        self._unary[sending] = None
        try:
            answer = await self._called(self.stub.ModelInfer, sending.message, timeout_s)
        finally:
            del self._unary[sending]
        self._heard_s = asyncio.get_running_loop().time()
        return answer

    async def _called(self, method: Any, request: Any, timeout_s: float) -> Any:
        """The response of a unary call. Raises Failed."""
        grpc = require("grpc", extra="offload")
        try:
            return await method(request, timeout=timeout_s, metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE and error.details() != DRAINS:
                raise Failed("LOST", "connection lost") from None
            raise Failed(error.code().name, error.details() or "") from None
        except asyncio.CancelledError:
            if self.lost.is_set():  # closing a channel cancels its calls, which must not look as if our caller had
                raise Failed("LOST", "connection lost") from None
            raise

    async def ask(self, sending: Sending, timeout_s: float) -> Any:
        """Ask on the stream; cancelling, or the time being over, takes it back. Raises Failed."""
        if self.lost.is_set():
            raise Failed("LOST", "connection lost")
        key = sending.message.id
        self._pending[key] = sending
        self._outbox.append((key, sending.message))
        self._wake.set()
        timer = asyncio.get_running_loop().call_later(timeout_s, self._time_is_over, key)
        try:
            return await sending.answer
        finally:
            timer.cancel()
            if key in self._pending:  # cancelled
                self._take_back(key)

    def _time_is_over(self, key: str) -> None:
        sending = self._pending.get(key)
        if sending is not None:
            self._take_back(key)
            if not sending.answer.done():
                sending.answer.set_exception(Failed("DEADLINE_EXCEEDED", "deadline passed"))

    def _take_back(self, key: str) -> None:
        """Forget a request, and have the server forget it."""
        sending = self._pending.pop(key)
        if not sending.sent:
            return
        self._remember(key, answered=False)
        if sending.upload_s is None:
            now_s = asyncio.get_running_loop().time()
            self._abandoned_until_s = max(now_s, self._abandoned_until_s) + upload_s_at_most([sending])
        if "tercel_cancel" in self.extensions:
            message = pb.ModelInferRequest(id=key)
            message.parameters["tercel_cancel"].bool_param = True
            self._outbox.appendleft(("", message))
            self._wake.set()

    def _remember(self, key: str, *, answered: bool) -> None:
        self._ended[key] = answered
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]

    # --- the stream ---

    async def _write(self) -> None:
        """Send what is in the outbox, one message after another: a write must never be cancelled."""
        grpc = require("grpc", extra="offload")
        try:
            while True:
                while self._outbox:
                    key, message = self._outbox.popleft()
                    sending = self._pending.get(key)
                    if key and sending is None:
                        continue  # taken back before its turn came
                    if sending is not None:
                        sending.sent = True
                        sending.began_s = asyncio.get_running_loop().time()
                    await self._call.write(message)
                self._wake.clear()
                await self._wake.wait()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            self._lose()

    async def _read(self) -> None:
        """Hand each answer to who asked for it."""
        grpc = require("grpc", extra="offload")
        loop = asyncio.get_running_loop()
        try:
            while (reply := await self._call.read()) is not grpc.aio.EOF:
                self._heard_s = loop.time()
                self._answer(reply)
        except grpc.aio.AioRpcError as error:
            self.streams = error.code() != grpc.StatusCode.UNIMPLEMENTED
        finally:
            self._lose()

    def _answer(self, reply: Any) -> None:
        response = reply.infer_response
        if "tercel_received" in response.parameters:
            acknowledged = self._pending.get(response.id)
            if acknowledged is not None and acknowledged.upload_s is None:
                self._acknowledged(acknowledged)
            return
        sending = self._pending.pop(response.id, None)
        if sending is None:
            answered = self._ended.get(response.id)
            if answered is None:
                self._counts.unknown += 1
            elif answered:
                self._counts.duplicate += 1
            else:
                self._counts.stale += 1
            return
        self._remember(response.id, answered=True)
        if sending.answer.done():
            return
        if "tercel_ack" in sending.message.parameters and sending.upload_s is None and not reply.error_message:
            self._acknowledged(sending)  # an answer so quick says it, too
        if reply.error_message:
            status = response.parameters["tercel_status"].string_param if response.parameters else ""
            sending.answer.set_exception(Failed(status or "UNKNOWN", reply.error_message))
        else:
            sending.answer.set_result(response)

    def _acknowledged(self, sending: Sending) -> None:
        sending.upload_s = self._heard_s - sending.began_s
        if sending.received is not None:
            sending.received()

    # --- the watch ---

    def _patience_s(self) -> float:
        """How long a ping may take longer, as it may stand behind uploads, those taken back included."""
        under_way = [sending for sending in self._pending.values() if sending.sent and sending.upload_s is None]
        left_s = self._abandoned_until_s - asyncio.get_running_loop().time()
        return upload_s_at_most([*under_way, *self._unary]) + max(0.0, left_s)

    async def _ping(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await self.stub.ServerLive(pb.ServerLiveRequest(), timeout=timeout_s, metadata=self.metadata)
        self._heard_s = loop.time()
        self._rtts_ns.append(int((self._heard_s - began_s) * 1e9))

    async def _watch(self) -> None:
        """Ping; end the connection when that fails and nothing else was heard meanwhile."""
        grpc = require("grpc", extra="offload")
        loop = asyncio.get_running_loop()
        while not self.lost.is_set():
            await asyncio.sleep(PING_S)
            began_s = loop.time()
            try:
                await self._ping(self._silence_s + self._patience_s())
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED or self._heard_s < began_s:
                    self._lose()

    def _lose(self) -> None:
        """The connection is over: whoever waits on the stream hears of it now."""
        if self.lost.is_set():
            return
        self.lost.set()
        pending, self._pending = self._pending, {}
        for sending in pending.values():
            if not sending.answer.done():
                sending.answer.set_exception(Failed("LOST", "connection lost"))


DRAINS = "the server drains"


async def open_connection(
    address: str,
    access: RemoteAccess,
    counts: RemoteCounts,
    *,
    stream: bool,
    timeout_s: float,
    silence_s: float,
    max_message_bytes: int,
) -> Connection:
    """Connect and greet, within about twice timeout_s. Raises Unreachable."""
    grpc = require("grpc", extra="offload")
    aio = require("grpc.aio", extra="offload")
    options = channel_options(max_message_bytes)
    if access.tls:
        credentials = grpc.ssl_channel_credentials(access.server_ca, access.key, access.certificate)
        channel = aio.secure_channel(address, credentials, options=options)
    else:
        channel = aio.insecure_channel(address, options=options)
    connection = Connection(channel, access, counts, silence_s)
    try:
        await asyncio.wait_for(channel.channel_ready(), timeout_s)
        await connection.start(stream=stream, timeout_s=timeout_s)
    except asyncio.TimeoutError:
        await connection.close()
        raise Unreachable("unavailable") from None
    except BaseException:
        await connection.close()
        raise
    counts.connections += 1
    return connection


def as_tensors(payload: Any, name: str) -> Mapping[str, Any]:
    """A payload as tensors by name; one without a name gets this one."""
    return payload if isinstance(payload, Mapping) else {name: payload}
