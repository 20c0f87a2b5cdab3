"""The local transport: topics and services between hosts and players of one process, with nothing on any wire.

All local transports of one domain meet on one bus, as nodes on a network do. Messages are handed over as they are, in
the publisher's thread and without a copy, as read-only views: a publisher must not change a buffer that it has sent.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from types import TracebackType
from weakref import WeakValueDictionary

from tercel.ros.transport import Data, Identity, QoS

OnData = Callable[[Data], None]
Answer = Callable[[Data], Data]


class LocalTransport:
    """One node on its domain's bus; see `tercel.ros.transport.Transport`."""

    def __init__(self, identity: Identity, *, say: Callable[[str], None] = lambda _line: None) -> None:
        self.identity = identity
        self.problems: Counter[str] = Counter()
        self._say = say
        self._name = f"{identity.namespace.rstrip('/')}/{identity.node}"
        self._server = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{identity.node}-services")
        self._bus = _bus_of(identity.domain)
        with self._bus.lock:
            self._bus.nodes[self] = self._name

    def advertise(self, topic: str, ros_type: str, qos: QoS) -> _LocalPublisher:
        """See Transport."""
        publisher = _LocalPublisher(self._bus, self, topic, ros_type, qos)
        with self._bus.lock:
            self._bus.publishers.append(publisher)
            others = [s for s in self._bus.subscriptions if s.topic == topic and s.ros_type != ros_type]
        for subscription in others:
            subscription.owner.count_wrong_type(topic, ros_type, subscription.ros_type)
        return publisher

    def subscribe(self, topic: str, ros_type: str, qos: QoS, on_data: OnData) -> Callable[[], None]:
        """See Transport."""
        subscription = _Subscription(self, topic, ros_type, on_data)
        with self._bus.lock:
            self._bus.subscriptions.append(subscription)
            publishers = [p for p in self._bus.publishers if p.topic == topic]
            kept = [
                data for p in publishers if p.ros_type == ros_type and qos.transient_local for data in list(p.latched)
            ]
        for wrong in {p.ros_type for p in publishers} - {ros_type}:
            self.count_wrong_type(topic, wrong, ros_type)
        for data in kept:
            subscription.deliver(data)

        def end() -> None:
            with self._bus.lock:
                if subscription in self._bus.subscriptions:
                    self._bus.subscriptions.remove(subscription)
            subscription.end()

        return end

    def serve(self, service: str, srv_type: str, answer: Answer) -> None:
        """See Transport."""
        with self._bus.lock:
            self._bus.services[service] = (srv_type, self, answer)

    def call(self, service: str, srv_type: str, request: Data, *, timeout_s: float) -> Data:
        """See Transport. The answer is made in a thread of the node that serves."""
        with self._bus.lock:
            known = self._bus.services.get(service)
        if known is None or known[0] != srv_type:
            raise TimeoutError(f"nobody answers {service} ({srv_type})")
        _, owner, answer = known
        try:
            return owner._server.submit(answer, request).result(timeout_s)
        except (FutureTimeoutError, RuntimeError):  # RuntimeError: its node has left
            raise TimeoutError(f"{service} did not answer within {timeout_s:g} s") from None

    def topics(self) -> dict[str, str]:
        """See Transport."""
        with self._bus.lock:
            return {p.topic: p.ros_type for p in self._bus.publishers}

    def nodes(self) -> list[str]:
        """See Transport."""
        with self._bus.lock:
            return sorted(self._bus.nodes.values())

    def close(self) -> None:
        """See Transport. May be called again."""
        bus = self._bus
        with bus.lock:
            bus.nodes.pop(self, None)
            mine = [s for s in bus.subscriptions if s.owner is self]
            bus.subscriptions = [s for s in bus.subscriptions if s.owner is not self]
            bus.publishers = [p for p in bus.publishers if p.owner is not self]
            bus.services = {name: entry for name, entry in bus.services.items() if entry[1] is not self}
        for subscription in mine:
            subscription.end()
        self._server.shutdown(wait=True)

    def count_wrong_type(self, topic: str, published: str, wanted: str) -> None:
        """Somebody publishes a topic that we read under another type: ROS never connects these two."""
        reason = f"{topic} is published as {published}, not {wanted}"
        self.problems[reason] += 1
        if self.problems[reason] == 1:
            self._say(reason)

    def __enter__(self) -> LocalTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _LocalPublisher:
    """The sending end of one topic."""

    def __init__(self, bus: _Bus, owner: LocalTransport, topic: str, ros_type: str, qos: QoS) -> None:
        self.owner = owner
        self.topic = topic
        self.ros_type = ros_type
        self.latched: deque[Data] = deque(maxlen=qos.depth if qos.transient_local else 0)
        self._bus = bus

    def publish(self, data: Data) -> None:
        """Hand one message to whoever reads the topic now."""
        view = memoryview(data).toreadonly()
        with self._bus.lock:
            if self not in self._bus.publishers:
                return  # its node has left
            self.latched.append(view)
            readers = [s for s in self._bus.subscriptions if s.topic == self.topic and s.ros_type == self.ros_type]
        for reader in readers:
            reader.deliver(view)


class _Subscription:
    """The receiving end of one topic, which can be ended while others call it."""

    def __init__(self, owner: LocalTransport, topic: str, ros_type: str, on_data: OnData) -> None:
        self.owner = owner
        self.topic = topic
        self.ros_type = ros_type
        self._on_data = on_data
        self._changed = threading.Condition()
        self._callers: Counter[int] = Counter()
        self._ended = False

    def deliver(self, data: Data) -> None:
        caller = threading.get_ident()
        with self._changed:
            if self._ended:
                return
            self._callers[caller] += 1
        try:
            self._on_data(data)
        finally:
            with self._changed:
                self._callers[caller] -= 1
                if not self._callers[caller]:
                    del self._callers[caller]
                self._changed.notify_all()

    def end(self) -> None:
        """No call begins any more, and those of other threads have returned."""
        caller = threading.get_ident()
        with self._changed:
            self._ended = True
            self._changed.wait_for(lambda: not self._callers.keys() - {caller})


@dataclass(eq=False)
class _Bus:
    """What all local nodes of a domain see of each other."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    nodes: dict[LocalTransport, str] = field(default_factory=dict)
    publishers: list[_LocalPublisher] = field(default_factory=list)
    subscriptions: list[_Subscription] = field(default_factory=list)
    services: dict[str, tuple[str, LocalTransport, Answer]] = field(default_factory=dict)


# Nodes of one process meet here, as they would on a wire; a bus lives as long as a transport holds it.
_BUSES: WeakValueDictionary[int, _Bus] = WeakValueDictionary()
_BUSES_LOCK = threading.Lock()


def _bus_of(domain: int) -> _Bus:
    with _BUSES_LOCK:
        bus = _BUSES.get(domain)
        if bus is None:
            bus = _BUSES[domain] = _Bus()
        return bus
