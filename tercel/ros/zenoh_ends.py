"""The ends of topics and services on zenoh: what goes out is numbered, what comes in is checked and counted.

A subscription's callback runs on zenoh's receiving thread: a reader that lags holds up its own socket and fills
nothing here. The sender's queue is then full, and what it drops shows as gaps in the sequence numbers that each
message carries: the reader counts them, by publisher. A service's answers run on a thread of that service.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import zenoh

from tercel.core.errors import Rejected
from tercel.ros import rmw_zenoh as wire
from tercel.ros.transport import Data

_POLL_S = 0.005
_PATIENCE = 400  # times that
_MAX_PUBLISHERS = 256  # whose sequence numbers one subscription remembers
_MAX_GAP = 1_000_000  # sequence numbers that jump further are not a loss, but a publisher that counts otherwise
_CDR_HEADERS = (b"\x00\x00", b"\x00\x01")  # plain CDR, big and little-endian


class CountProblem(Protocol):
    """Where what had to be refused is counted, and said once."""

    def __call__(self, reason: str, times: int = 1) -> None:
        """Count a reason."""
        ...


class Publisher:
    """The sending end of one topic; it numbers its messages."""

    def __init__(self, topic: str, publisher: Any, gid: bytes, problem: CountProblem) -> None:
        self._topic = topic
        self._publisher = publisher
        self._gid = gid
        self._problem = problem
        self._sequence = 0
        self._lock = threading.Lock()

    def publish(self, data: Data) -> None:
        """Send one message. After the transport's close it is counted as a problem instead."""
        with self._lock:  # the sequence on the wire must rise
            self._sequence += 1
            try:
                self._publisher.put(owned(data), attachment=wire.attachment(self._sequence, time.time_ns(), self._gid))
            except zenoh.ZError:
                self._problem(f"{self._topic}: not sent, the session is closed")

    def undeclare(self) -> None:
        """Withdraw it, once nobody is publishing."""
        with self._lock:
            self._publisher.undeclare()


class Subscription:
    """The receiving end: refuses what is not a message, and finds by the sequence numbers what was lost."""

    def __init__(self, topic: str, on_data: Callable[[Data], None], problem: CountProblem) -> None:
        self.declared: list[Any] = []
        self._topic = topic
        self._on_data = on_data
        self._problem = problem
        self._last: dict[bytes, int] = {}  # by the publisher's gid
        self._lock = threading.RLock()
        self._is_ended = False

    def on_sample(self, sample: zenoh.Sample) -> None:
        """Check one message and hand it on."""
        with self._lock:
            if self._is_ended:
                return
            try:
                sent = wire.read_attachment(bytes_of(sample.attachment))
                data = checked(bytes_of(sample.payload))
            except Rejected as reason:
                self._problem(f"{self._topic}: {reason}")
                return
            lost = self._count_lost(sent)
            if lost:
                self._problem(f"{self._topic}: messages lost on the way", lost)
            self._on_data(data)

    def _count_lost(self, sent: wire.Attachment) -> int:
        """Messages of this publisher between its last one and this one."""
        last = self._last.pop(sent.gid, None)
        if last is None and len(self._last) >= _MAX_PUBLISHERS:
            self._last.pop(next(iter(self._last)))
        gap = 0 if last is None else sent.sequence - last - 1
        is_late = last is not None and -_MAX_GAP < gap < 0
        self._last[sent.gid] = last if last is not None and is_late else sent.sequence
        return gap if 0 < gap < _MAX_GAP else 0

    def end(self) -> None:
        """Callbacks have ended when this returns."""
        with self._lock:
            if self._is_ended:
                return
            self._is_ended = True
        for thing in self.declared:
            undeclare(thing)


class Service:
    """The answering end of one service. One request at a time, on a thread of zenoh's for this service."""

    def __init__(self, service: str, key: str, answer: Callable[[Data], Data], problem: CountProblem) -> None:
        self.declared: Any = None
        self._service = service
        self._key = key
        self._answer = answer
        self._problem = problem
        self._lock = threading.RLock()
        self._is_ended = False

    def on_query(self, query: zenoh.Query) -> None:
        """Answer one request, or say why not."""
        with self._lock, query:
            if self._is_ended:
                return
            try:
                asked = wire.read_attachment(bytes_of(query.attachment))
                request = checked(bytes_of(query.payload))
            except Rejected as reason:
                self._problem(f"{self._service}: {reason}")
                query.reply_err(str(reason).encode())
                return
            try:
                response = owned(self._answer(request))
            except Exception as error:  # whatever a handler raises, the next request must still be answered
                self._problem(f"{self._service}: its handler failed: {type(error).__name__}")
                query.reply_err(f"{type(error).__name__}: {error}".encode())
                return
            query.reply(self._key, response, attachment=wire.attachment(asked.sequence, time.time_ns(), asked.gid))

    def undeclare(self) -> None:
        """Answers have ended, and been sent, when this returns."""
        with self._lock:
            self._is_ended = True
        self.declared.undeclare()


class Client:
    """The asking end of one service; it numbers its requests."""

    def __init__(self, querier: Any, gid: bytes) -> None:
        self.querier = querier
        self._gid = gid
        self._sequence = 0
        self._lock = threading.Lock()

    def next_attachment(self) -> bytes:
        """What goes with the next request."""
        with self._lock:
            self._sequence += 1
            return wire.attachment(self._sequence, time.time_ns(), self._gid)


def undeclare(thing: Any) -> None:
    """Withdraw a declaration. zenoh refuses while a thread of ours is inside a call of it."""
    for _ in range(_PATIENCE):
        try:
            thing.undeclare()
        except RuntimeError:
            time.sleep(_POLL_S)
        else:
            return


def owned(data: Data) -> bytes | bytearray:
    """The bytes as zenoh takes them. A view of a whole buffer, as rosbags returns, costs no copy."""
    if isinstance(data, memoryview):
        whole = data.obj
        if isinstance(whole, (bytes, bytearray)) and len(whole) == data.nbytes and data.contiguous:
            return whole
        return data.tobytes()
    return data


def bytes_of(data: Any) -> bytes:
    """The bytes of a zenoh payload or attachment; of none, none."""
    return b"" if data is None else bytes(data.to_bytes())


def checked(data: bytes) -> bytes:
    """Raises Rejected unless data begins as plain CDR."""
    if len(data) < 4 or data[:2] not in _CDR_HEADERS:
        raise Rejected("not CDR")
    return data
