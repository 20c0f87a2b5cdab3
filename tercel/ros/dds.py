"""The DDS transport, an extra: Cyclone DDS as rmw_cyclonedds uses it, so that ROS 2 machines see us as a node.

There is no wheel of Cyclone DDS for aarch64: on such a board build the C library (eclipse-cyclonedds/cyclonedds, its
release of the same number) with cmake, set CYCLONEDDS_HOME to where it is installed, and `pip install cyclonedds`.

Structures are in dds_types.py, the ends in dds_ends.py, the configuration in dds_config.py, who is there in
dds_graph.py. One thread of each transport reads for all its subscriptions; each service answers on one of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from tercel.core.errors import UserError, require

try:
    require("cyclonedds", extra="dds")
except UserError as error:
    aarch64 = (
        " (no wheel for aarch64: docs of tercel.ros.dds say how to build it)" if os.uname().machine == "aarch64" else ""
    )
    raise UserError(f"{error}{aarch64}") from None

from cyclonedds.core import DDSException, GuardCondition, WaitSet
from cyclonedds.domain import DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

from tercel.ros import dds_types as wire
from tercel.ros.dds_config import delete, join_domain, leave_domain, read_config
from tercel.ros.dds_ends import (
    COMMAND_PATIENCE_S,
    Client,
    DdsPublisher,
    Subscription,
    dds_qos,
    random_id,
    wait_until,
    write,
)
from tercel.ros.dds_graph import Graph
from tercel.ros.transport import COMMAND, Data, Identity, QoS

_WAIT_NS = 1_000_000_000
_MATCH_S = 0.5
_MAX_PROBLEMS = 500
_SERVICE_HEADER_BYTES = 16
_SERVICE = COMMAND  # rmw_cyclonedds keeps the last 10, and of a burst of more loses the first without a word


class DdsTransport:
    """A DDS participant as one ROS node; transport.Transport says what the methods do."""

    def __init__(
        self, identity: Identity, *, config: Path | None = None, say: Callable[[str], None] = lambda _line: None
    ) -> None:
        """Join a domain. config: a Cyclone DDS XML file; without it CYCLONEDDS_URI holds, or this machine alone."""
        self.identity = identity
        self.problems: Counter[str] = Counter()
        self._say = say
        self._lock = threading.Lock()
        self._is_open = True
        self._readers: dict[int, Subscription] = {}
        self._entities: list[Any] = []
        self._clients: dict[tuple[str, str], Client] = {}
        self._servers: list[ThreadPoolExecutor] = []
        join_domain(identity.domain, read_config(config))
        try:
            self._participant = DomainParticipant(identity.domain, Qos(Policy.Userdata(b"enclave=/;")))
        except DDSException as error:
            leave_domain(identity.domain)
            raise UserError(f"Cyclone DDS does not start: {error}") from None
        self._graph = Graph(self._participant, identity, self._problem)
        self._waitset = WaitSet(self._participant)
        self._wake = GuardCondition(self._participant)
        for condition in (self._wake, *self._graph.conditions):
            self._waitset.attach(condition)
        self._thread = threading.Thread(target=self._read, name=f"{identity.node}-dds", daemon=True)
        self._thread.start()

    # --- topics ---

    def advertise(self, topic: str, ros_type: str, qos: QoS) -> DdsPublisher:
        """Declare a publisher."""
        writer = self._writer(f"rt{topic}", ros_type, qos)
        self._graph.watch(f"rt{topic}", True, ros_type, qos)
        return DdsPublisher(topic, writer, qos, self._problem)

    def subscribe(self, topic: str, ros_type: str, qos: QoS, on_data: Callable[[Data], None]) -> Callable[[], None]:
        """Call on_data, on the transport's reading thread, with each message."""
        subscription = self._reader(f"rt{topic}", topic, ros_type, qos, lambda data, _info: on_data(data))
        self._graph.watch(f"rt{topic}", False, ros_type, qos)

        def end() -> None:
            with self._lock:
                if self._readers.pop(subscription.reader._ref, None) is None:
                    return
            self._graph.unwatch(f"rt{topic}", False, ros_type, qos)
            self._graph.remove_ours(subscription.reader.guid.bytes, False)
            subscription.end()
            self._waitset.detach(subscription.condition)
            delete(subscription.condition)
            delete(subscription.reader)

        return end

    # --- services ---

    def serve(self, service: str, srv_type: str, answer: Callable[[Data], Data]) -> None:
        """Answer requests. DDS has no word for a handler that fails: it is counted, and the caller's time runs out."""
        user_data = f"serviceid={random_id()};"
        writer = self._writer(f"rr{service}Reply", f"{srv_type}_Response", _SERVICE, user_data)
        server = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{self.identity.node}{service}")

        def reply(data: bytes) -> None:
            header, request = data[4:20], data[:4] + data[20:]
            try:
                response = bytes(answer(request))
            except Exception as error:  # whatever a handler raises, the next request must still be answered
                self._problem(f"{service}: its handler failed: {type(error).__name__}")
                return
            wait_until(lambda: writer.get_matched_subscriptions(), _MATCH_S)
            if write(writer, response[:4] + header + response[4:], COMMAND_PATIENCE_S) < 0:
                self._problem(f"{service}: an answer could not be sent")

        def on_request(data: bytes, _info: Any) -> None:
            if len(data) < wire.HEADER_BYTES + _SERVICE_HEADER_BYTES:
                self._problem(f"{service}: a request without its header")
                return
            server.submit(reply, data)

        self._reader(f"rq{service}Request", service, f"{srv_type}_Request", _SERVICE, on_request, user_data)
        with self._lock:
            self._servers.append(server)

    def call(self, service: str, srv_type: str, request: Data, *, timeout_s: float) -> Data:
        """Ask once, as soon as a server is there and knows us."""
        ends_s = time.monotonic() + timeout_s
        client = self._client(service, srv_type)
        if not wait_until(lambda: client.is_matched(), timeout_s):
            raise TimeoutError(f"{service}: nobody offers it")
        number, waiting = client.expect()
        try:
            header = client.guid.to_bytes(8, "little") + number.to_bytes(8, "little")
            data = bytes(request)
            if write(client.writer, data[:4] + header + data[4:], max(0.0, ends_s - time.monotonic())) < 0:
                raise TimeoutError(f"{service}: the request could not be sent")
            if not waiting.wait(max(0.0, ends_s - time.monotonic())):
                raise TimeoutError(f"{service}: no answer within {timeout_s:g} s")
            return client.answers[number]
        finally:
            client.forget(number)

    def _client(self, service: str, srv_type: str) -> Client:
        with self._lock:
            known = self._clients.get((service, srv_type))
        if known is not None:
            return known
        user_data = f"clientid={random_id()};"
        writer = self._writer(f"rq{service}Request", f"{srv_type}_Request", _SERVICE, user_data)
        client = Client(writer)
        client.reader = self._reader(
            f"rr{service}Reply", service, f"{srv_type}_Response", _SERVICE, client.on_answer, user_data
        ).reader
        with self._lock:
            return self._clients.setdefault((service, srv_type), client)

    # --- graph ---

    def topics(self) -> dict[str, str]:
        """The topics that somebody publishes now, with their ROS types, ours included."""
        return self._graph.topics()

    def nodes(self) -> list[str]:
        """The full names of the nodes that are there now, ours included, sorted."""
        return self._graph.nodes()

    def close(self) -> None:
        """Leave the domain. Closing twice is the same as once."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            readers, self._readers = list(self._readers.values()), {}
        for subscription in readers:
            subscription.end()
        self._wake.set(True)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        for server in self._servers:
            server.shutdown(wait=True, cancel_futures=True)
        delete(self._waitset)
        for subscription in readers:
            delete(subscription.condition)
            delete(subscription.reader)
        for entity in self._entities:
            delete(entity)
        self._graph.close()
        delete(self._wake)
        delete(self._participant)
        leave_domain(self.identity.domain)

    def __enter__(self) -> DdsTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside ---

    def _writer(self, dds_topic: str, ros_type: str, qos: QoS, user_data: str = "") -> Any:
        topic, options = self._topic(dds_topic, ros_type), dds_qos(ros_type, qos, self.identity, user_data)
        writer: Any = DataWriter(self._participant, topic, options)
        with self._lock:
            self._entities.append(writer)
        self._graph.add_ours(writer.guid.bytes, True)
        return writer

    def _reader(
        self, dds_topic: str, name: str, ros_type: str, qos: QoS, on_data: Callable[[bytes, Any], None],
        user_data: str = "",
    ) -> Subscription:  # fmt: skip
        topic, options = self._topic(dds_topic, ros_type), dds_qos(ros_type, qos, self.identity, user_data)
        reader: Any = DataReader(self._participant, topic, options)
        subscription = Subscription(name, reader, on_data, self._problem)
        with self._lock:
            self._readers[reader._ref] = subscription
        self._waitset.attach(subscription.condition)
        self._graph.add_ours(reader.guid.bytes, False)
        return subscription

    def _topic(self, dds_topic: str, ros_type: str) -> Any:
        try:
            return Topic(self._participant, dds_topic, wire.structure(ros_type))
        except KeyError:
            raise UserError(f"{dds_topic[2:]}: the type {ros_type} is unknown here") from None

    def _read(self) -> None:
        while self._is_open:
            self._waitset.wait(_WAIT_NS)
            if not self._is_open:
                return
            self._graph.take()
            with self._lock:
                readers = list(self._readers.values())
            for subscription in readers:
                subscription.take()

    def _problem(self, reason: str, times: int = 1) -> None:
        with self._lock:
            if reason not in self.problems and len(self.problems) >= _MAX_PROBLEMS:
                reason = "further problems"  # strangers' names are in some reasons: they must not fill the memory
            is_new = reason not in self.problems
            self.problems[reason] += times
        if is_new:
            self._say(reason)
