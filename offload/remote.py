"""The remote executor: tasks run by an inference server (Tercel's, Triton, KServe ...) at the other end of a link.

One connection carries all requests, over one bidirectional stream (the default) or as unary calls. It is opened anew by
itself when it is lost, at least once a second, so that a link that returns is in use again within two. Meanwhile tasks
are lost at once and not kept waiting: the board may still make them. Nobody waits beyond a task's deadline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any, Protocol

from offload.executors import Ran, TaskLost, TaskTooLate, nothing_heard
from offload.remote_access import RemoteAccess
from offload.remote_stream import (
    Connection,
    Failed,
    RemoteCounts,
    Sending,
    Unreachable,
    as_tensors,
    open_connection,
)
from offload.tasks import Option, Task
from offload.wire import messages as pb
from offload.wire.addresses import is_loopback, split_address
from offload.wire.tensors import CODECS, Codec, get_tensors, put_tensors
from tercel.core.errors import Rejected, UserError

CONNECT_S = 1.0
"""An attempt to connect may take so long; then a new one is made, for a lost SYN is repeated later and later."""
BACKOFF_S = (0.05, 0.5)
"""Between two attempts: at first, and at most."""
LINK_WINDOW = 16
"""Results from which the time that the link takes is estimated."""

_REFUSED = {
    "RESOURCE_EXHAUSTED": "refused by the server",
    "DEADLINE_EXCEEDED": "expired at the server",
    "UNAVAILABLE": "the server drains",
}
_LOST = {
    "LOST": "connection lost",
    "TOO_LARGE": "larger than the message limit",
    "NOT_FOUND": "the server has no such model",
    "INVALID_ARGUMENT": "the server does not take these tensors",
    "INTERNAL": "the model failed at the server",
    "UNAUTHENTICATED": "not let in",
    "PERMISSION_DENIED": "not let in",
}


class NowNs(Protocol):
    """A clock that can be read; `offload.executors.Clock` is one."""

    @property
    def now_ns(self) -> int:
        """Now."""
        ...


class LinkTimes:
    """What a request of some size will spend on the link, from what the last ones did: rtt + bytes * time a byte."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque(maxlen=LINK_WINDOW)

    def add(self, upload_bytes: int, upload_ns: int) -> None:
        """A request's size, and its time on the link beyond the round trip."""
        self._seen.append((upload_bytes, upload_ns))

    def expected_ns(self, upload_bytes: int, rtt_ns: int) -> int:
        """Of a request of this size, there and back."""
        total_bytes = sum(size for size, _ in self._seen)
        total_ns = sum(took_ns for _, took_ns in self._seen)
        return rtt_ns + (upload_bytes * total_ns // total_bytes if total_bytes else 0)


class RemoteExecutor:
    """Runs tasks on a server. The model is the option's name, or the kind's.

    address: HOST:PORT. clock: the manager's, which deadlines are of and which must run at the pace of time. stream: one
    stream for all requests, else unary calls. codec: of input tensors, where the server knows it. silence_s: a ping
    without answer for so long, while nothing else comes in, is a lost connection; where uploads are under way it gets
    their time at a megabit a second on top. counts: what became of the requests. on_upload: called with a task when the
    server has said that it has all of it; set it to be told, on the stream, by servers that can. Raises UserError for a
    token in clear.
    """

    def __init__(
        self,
        address: str,
        clock: NowNs,
        *,
        access: RemoteAccess | None = None,
        stream: bool = True,
        codec: Codec = "none",
        max_message_bytes: int = 64 << 20,
        silence_s: float = 1.5,
    ) -> None:
        if codec not in CODECS:
            raise ValueError(f"codec {codec!r} is none of {CODECS}")
        self.counts = RemoteCounts()
        self.on_upload: Callable[[Task], None] = nothing_heard
        self._address = address
        self._clock = clock
        self._access = access or RemoteAccess()
        _check_token(address, self._access)
        self._stream = stream
        self._codec: Codec = codec
        self._max_message_bytes = max_message_bytes
        self._silence_s = silence_s
        self._ids = count()
        self._link_times = LinkTimes()
        self._connection: Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._why = "unavailable"

    async def __aenter__(self) -> RemoteExecutor:
        self._start()
        await self._tried.wait()
        if self._keeper is not None and self._keeper.done():
            await self._keeper  # raises what ended it
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection is not None

    async def run(self, task: Task, option: Option, payload: Any) -> Ran:
        """Run a task; payload: the input tensor, or a mapping of tensors by name. outputs: tensors by name.

        upload_ns is the time on the link beyond a round trip of nothing: until the server said that it had all, or,
        where it was not asked to, with the way back; 0 where it does not even say what it took itself. Raises TaskLost,
        TaskTooLate. Cancelling takes the request back.
        """
        began_ns = self._clock.now_ns
        sending: Sending | None = None
        try:
            connection = await self._connected(task.deadline_ns - began_ns)
            sending, upload_bytes = await self._prepared(connection, task, option, payload)
            self._put_timeout(sending.message, task.deadline_ns - self._clock.now_ns, upload_bytes, connection.rtt_ns)
            began_ns = self._clock.now_ns
            response = await self._answer(connection, sending, task.deadline_ns - began_ns)
            ran = self._ran(response, sending, self._clock.now_ns - began_ns, upload_bytes, connection.rtt_ns)
        except Failed as failure:
            raise self._given_up(failure, task, sent=sending is not None and sending.sent) from None
        except asyncio.CancelledError:
            if sending is not None and sending.sent:
                self.counts.sent += 1
                self.counts.cancelled += 1
            else:
                self.counts.unsent += 1
            raise
        self.counts.sent += 1
        self.counts.received += 1
        return ran

    async def close(self) -> None:
        """End the connection; requests under way are lost."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None

    # --- one request ---

    async def _prepared(self, connection: Connection, task: Task, option: Option, payload: Any) -> tuple[Sending, int]:
        """The request's message, and the bytes of its tensors. Raises Failed, ValueError for what cannot be sent."""
        model = option.name or task.kind.name
        name = ""
        if not isinstance(payload, Mapping):
            name = await connection.input_name(model, max(0.0, (task.deadline_ns - self._clock.now_ns) / 1e9))
        message = pb.ModelInferRequest(model_name=model, id=str(next(self._ids)))
        codec: Codec = self._codec if "tercel_codec" in connection.extensions else "none"
        upload_bytes = put_tensors(message.inputs, message.raw_input_contents, as_tensors(payload, name), codec)
        if upload_bytes + 4096 > self._max_message_bytes:
            raise Failed("TOO_LARGE", "larger than the message limit")
        if self.on_upload is not nothing_heard and connection.streams and "tercel_ack" in connection.extensions:
            message.parameters["tercel_ack"].bool_param = True
        return Sending(message, partial(self.on_upload, task)), upload_bytes

    def _put_timeout(self, message: Any, remaining_ns: int, upload_bytes: int, rtt_ns: int) -> None:
        """Tell the server what time it has: what is left without the link's part. Of that no more than half is taken
        off, for it is a guess, and one that has grown wrong must not keep every request from being tried."""
        link_ns = min(self._link_times.expected_ns(upload_bytes, rtt_ns), remaining_ns // 2)
        message.parameters["timeout"].int64_param = max(1, (remaining_ns - link_ns) // 1000)

    async def _answer(self, connection: Connection, sending: Sending, remaining_ns: int) -> Any:
        if remaining_ns <= 0:
            raise Failed("DEADLINE_EXCEEDED", "deadline passed")
        ask = connection.ask if connection.streams else connection.unary
        return await ask(sending, remaining_ns / 1e9)

    def _ran(self, response: Any, sending: Sending, took_ns: int, upload_bytes: int, rtt_ns: int) -> Ran:
        """The result, and what of its time was the link's. Raises Failed."""
        try:
            outputs = get_tensors(response.outputs, response.raw_output_contents)
        except Rejected as error:
            raise Failed("UNKNOWN", str(error)) from None
        said = response.parameters
        server_ns = upload_ns = 0
        if "tercel_compute_ns" in said:
            server_ns = max(0, said["tercel_queue_ns"].int64_param) + max(0, said["tercel_compute_ns"].int64_param)
            server_ns = min(server_ns, took_ns)
            link_ns = took_ns - server_ns if sending.upload_s is None else int(sending.upload_s * 1e9)
            upload_ns = max(0, link_ns - rtt_ns)
            self._link_times.add(upload_bytes, upload_ns)
        return Ran(outputs, upload_ns=upload_ns, upload_bytes=upload_bytes, rtt_ns=rtt_ns, server_ns=server_ns)

    def _given_up(self, failure: Failed, task: Task, *, sent: bool) -> TaskLost | TaskTooLate:
        """Count a request without result, and say what that means for the task."""
        counts = self.counts
        too_late = failure.status == "DEADLINE_EXCEEDED" and self._clock.now_ns >= task.deadline_ns - 1_000_000
        if not sent:
            counts.unsent += 1
        else:
            counts.sent += 1
            if too_late:
                counts.expired += 1
            elif failure.status in _REFUSED:
                counts.refused += 1
            else:
                counts.lost += 1
        if too_late:
            return TaskTooLate(sent=sent)
        return TaskLost(_REFUSED.get(failure.status) or _LOST.get(failure.status) or "no answer of use")

    # --- the connection ---

    def _start(self) -> None:
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep_connected())
            self._keeper.add_done_callback(lambda _: self._tried.set())  # or who waits for it would wait for ever

    async def _connected(self, remaining_ns: int) -> Connection:
        """The connection. Only before the first attempt has ended is it waited for. Raises TaskLost, TaskTooLate."""
        self._start()
        if remaining_ns <= 0:
            self.counts.unsent += 1
            raise TaskTooLate(sent=False)
        if not self._tried.is_set():
            try:
                await asyncio.wait_for(self._tried.wait(), remaining_ns / 1e9)
            except asyncio.TimeoutError:
                self.counts.unsent += 1
                raise TaskTooLate(sent=False) from None
        if self._connection is None or self._connection.lost.is_set():
            self.counts.unsent += 1
            raise TaskLost(self._why)
        return self._connection

    async def _keep_connected(self) -> None:
        """Open a connection, wait until it is lost, open the next; for ever."""
        backoff_s, most_s = BACKOFF_S
        while True:
            try:
                connection = await open_connection(
                    self._address,
                    self._access,
                    self.counts,
                    stream=self._stream,
                    timeout_s=CONNECT_S,
                    silence_s=self._silence_s,
                    max_message_bytes=self._max_message_bytes,
                )
            except Unreachable as error:
                self._why = error.reason
                self._tried.set()
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, most_s)
                continue
            began_s = asyncio.get_running_loop().time()
            self._connection = connection
            self._tried.set()
            try:
                await connection.lost.wait()
            finally:
                self._connection = None
                self._stream = connection.streams
                await connection.close()
            self._why = "unavailable"
            if asyncio.get_running_loop().time() - began_s > 1.0:
                backoff_s = BACKOFF_S[0]
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, most_s)


def _check_token(address: str, access: RemoteAccess) -> None:
    if access.token and not access.tls and not is_loopback(split_address(address, "address")[0]):
        raise UserError(f"{address}: a token would travel in clear; turn TLS on")
