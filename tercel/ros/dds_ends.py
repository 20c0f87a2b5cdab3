"""The ends of topics and services over DDS: what one publisher, one subscription and one client do.

The QoS of a ROS topic as DDS has it is here too. dds.py makes the ends.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from cyclonedds._clayer import ddspy_take, ddspy_write
from cyclonedds.core import ReadCondition
from cyclonedds.qos import Policy, Qos

from tercel.ros import dds_types as wire
from tercel.ros.dds_graph import ANY
from tercel.ros.transport import COMMAND, Data, Identity, QoS
from tercel.ros.type_hash import type_hash

_TAKEN = 16  # messages at a time
COMMAND_PATIENCE_S, _PATIENCE_S = 5.0, 0.1  # with a reader that is too slow
_POLL_S = 0.002
_TIMEOUT, _BAD_DATA = -10, -3  # DDS return codes
_ALLOWED_HEADERS = (b"\x00\x00", b"\x00\x01")


class DdsPublisher:
    """The sending end of one topic."""

    def __init__(self, topic: str, writer: Any, qos: QoS, problem: Callable[[str], None]) -> None:
        self._topic = topic
        self._writer = writer
        self._patience_s = 0.0 if not qos.reliable else COMMAND_PATIENCE_S if keeps_all(qos) else _PATIENCE_S
        self._problem = problem

    def publish(self, data: Data) -> None:
        """Send one message. What cannot be sent is counted as a problem."""
        # A writer whose own queue is full refuses before it sends, and trying again is right. But a reader of this
        # process (ours or another transport's) on a topic that keeps all refuses, when its 1000 are waiting, after
        # the others were served: each new try then reaches them again, every 2 ms, until it has room or the time is
        # over. Cyclone reports both alike. Nothing is lost, others may get doubles; our hosts' callbacks queue and
        # return at once, so that such a reader is full only where a callback blocks in spite of transport.py.
        code = write(self._writer, data, self._patience_s)
        if code == _TIMEOUT:
            self._problem(f"{self._topic}: not sent, a reader is too slow")
        elif code == _BAD_DATA:
            self._problem(f"{self._topic}: not sent, the data are not of the topic's type, or the session is closed")
        elif code < 0:
            self._problem(f"{self._topic}: not sent")


class Subscription:
    """The receiving end of one topic or service."""

    def __init__(
        self, name: str, reader: Any, on_data: Callable[[bytes, Any], None], problem: Callable[..., None]
    ) -> None:
        self.reader = reader
        self.condition = ReadCondition(reader, ANY)
        self._name = name
        self._on_data = on_data
        self._problem = problem
        self._lock = threading.RLock()
        self._is_ended = False

    def take(self) -> None:
        """Hand over what has come."""
        with self._lock:
            if self._is_ended:
                return
            self._count_lost()
            while not self._is_ended and (found := ddspy_take(self.reader._ref, ANY, _TAKEN)):
                if isinstance(found, int):
                    return
                for data, info in found:
                    if not info.valid_data or self._is_ended:
                        continue
                    if len(data) < wire.HEADER_BYTES or data[:2] not in _ALLOWED_HEADERS:
                        self._problem(f"{self._name}: not CDR")
                        continue
                    self._on_data(wire.from_wire(data), info)

    def _count_lost(self) -> None:
        lost = self.reader.get_sample_lost_status().total_count_change
        if lost > 0:
            self._problem(f"{self._name}: messages lost on the way", lost)

    def end(self) -> None:
        """Callbacks have ended when this returns."""
        with self._lock:
            self._is_ended = True


class Client:
    """The asking end of a service: a request bears our number and its own (rmw_cyclonedds' cdds_request_header)."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self.reader: Any = None
        self.guid = random.SystemRandom().getrandbits(63)
        self.answers: dict[int, bytes] = {}
        self._waiting: dict[int, threading.Event] = {}
        self._numbers = itertools.count(1)

    def is_matched(self) -> bool:
        """Whether a server would hear us, and we it."""
        return bool(self.writer.get_matched_subscriptions() and self.reader.get_matched_publications())

    def expect(self) -> tuple[int, threading.Event]:
        """A new request's number, and what is set when its answer is there."""
        number, event = next(self._numbers), threading.Event()
        self._waiting[number] = event
        return number, event

    def forget(self, number: int) -> None:
        """It is answered, or too late."""
        self._waiting.pop(number, None)
        self.answers.pop(number, None)

    def on_answer(self, data: bytes, _info: Any) -> None:
        """One answer, of ours or of another client."""
        order: Any = "little" if data[1] else "big"
        guid, number = int.from_bytes(data[4:12], order), int.from_bytes(data[12:20], order)
        event = self._waiting.get(number)
        if guid == self.guid and event is not None:  # all clients hear all answers
            self.answers[number] = data[:4] + data[20:]
            event.set()


def keeps_all(qos: QoS) -> bool:
    """Whether a topic must lose nothing: its queues then fill up and slow the sender, where others lose the oldest."""
    return qos.reliable and qos.depth >= COMMAND.depth and not qos.transient_local


def dds_qos(ros_type: str, qos: QoS, identity: Identity, user_data: str = "") -> Qos:
    """As rmw_cyclonedds' create_readwrite_qos maps it, with the type's hash in the user data (not in Humble).

    Departures, which nobody else sees: no waiting in Cyclone (`write` says why), and keeps_all.
    """
    hashed = "" if identity.distribution == "humble" else f"typehash={type_hash(ros_type)};"
    policies: list[Any] = [
        Policy.Reliability.Reliable(0) if qos.reliable else Policy.Reliability.BestEffort,
        Policy.History.KeepAll if keeps_all(qos) else Policy.History.KeepLast(qos.depth),
        Policy.DataRepresentation(use_cdrv0_representation=True),
        Policy.WriterDataLifecycle(autodispose=False),
        Policy.Userdata((user_data + hashed).encode()),
        Policy.Durability.TransientLocal if qos.transient_local else Policy.Durability.Volatile,
    ]
    if keeps_all(qos):
        policies.append(Policy.ResourceLimits(max_samples=qos.depth))
    if qos.transient_local:
        policies.append(Policy.DurabilityService(0, Policy.History.KeepLast(qos.depth), -1, -1, -1))
    return Qos(*policies)


def write(writer: Any, data: Data, patience_s: float) -> int:
    """Send, again and again where a slow reader leaves no room: DDS's return code, negative where it was in vain.

    The wheel holds Python's lock while Cyclone waits for a slow reader, so Cyclone does not (dds_qos): we wait here.
    """
    sample = wire.to_wire(data)
    ends_s = time.monotonic() + patience_s
    while (code := int(ddspy_write(writer._ref, sample))) == _TIMEOUT and time.monotonic() < ends_s:
        time.sleep(_POLL_S)
    return code


def wait_until(what: Callable[[], object], timeout_s: float) -> bool:
    """Whether it becomes true in time."""
    ends_s = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > ends_s:
            return False
        time.sleep(_POLL_S)
    return True


def random_id() -> str:
    """As rmw_cyclonedds writes the id that the two ends of a service or client share."""
    return ".".join(f"{byte:x}" for byte in os.urandom(16))
