"""Hosts and their peers on a local transport, for tests of the live host."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tercel.core.messages import Message
from tercel.hosts.graph import load_graph
from tercel.hosts.live import LiveHost
from tercel.ros import convert
from tercel.ros.local import LocalTransport
from tercel.ros.transport import LATCHED, RELIABLE, Identity
from tests.unit.test_hosts_graph import write


def one(component: str, inputs: str = "{imu: /imu}", outputs: str = "{pose: /pose}", config: str = "{}") -> str:
    """A graph of one component."""
    return (
        f"components:\n  node:\n    component: tests.unit.{component}\n    inputs: {inputs}\n"
        f"    outputs: {outputs}\n    config: {config}\n"
    )


def any_domain() -> int:
    """A domain of one's own."""
    return random.SystemRandom().randrange(233)


class Peer:
    """Another node: sends messages and hears topics."""

    def __init__(self, domain: int) -> None:
        self.transport = LocalTransport(Identity(node="peer", domain=domain))
        self._publishers: dict[str, Any] = {}

    def publish(self, topic: str, message: Message) -> None:
        ros_type, data = convert.encode(message)
        self.send(topic, ros_type, data)

    def send(self, topic: str, ros_type: str, data: Any) -> None:
        if topic not in self._publishers:
            qos = LATCHED if topic == "/tf_static" else RELIABLE
            self._publishers[topic] = self.transport.advertise(topic, ros_type, qos)
        self._publishers[topic].publish(data)

    def hear(self, topic: str, ros_type: str) -> list[bytes]:
        heard: list[bytes] = []
        self.transport.subscribe(topic, ros_type, RELIABLE, lambda data: heard.append(bytes(data)))
        return heard

    def hear_messages(self, topic: str, ros_type: str) -> list[Any]:
        heard: list[Any] = []
        self.transport.subscribe(
            topic, ros_type, RELIABLE, lambda data: heard.append(convert.decode(ros_type, bytes(data)))
        )
        return heard


@contextlib.contextmanager
def hosting(tmp_path: Path, text: str, *, start: bool = True, **options: Any) -> Iterator[tuple[LiveHost, Peer, Any]]:
    """A host that runs a graph, a peer beside it, and the lines that the host says."""
    domain, said = any_domain(), list[str]()
    peer = Peer(domain)
    with LocalTransport(Identity(node="host", domain=domain), say=said.append) as transport, peer.transport:
        host = LiveHost(load_graph(write(tmp_path, text)), transport, say=said.append, **options)
        if start:
            host.start()
        try:
            yield host, peer, said
        finally:
            host.stop()


def until(is_so: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """Wait for something to become so."""
    ends_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < ends_s, "it did not happen in time"
        time.sleep(0.005)


def assert_accounted(components: Mapping[str, Any]) -> None:
    """received = processed + dropped + rejected + waiting: every component and, with nothing waiting, every port."""
    for row in components.values():
        assert row["received"] == row["processed"] + row["dropped"] + row["rejected"] + row["waiting"], row
        if not row["waiting"]:
            for port in row["inputs"].values():
                lost = sum(port["dropped"].values()) + sum(port["rejected"].values())
                assert port["received"] == port["processed"] + lost, port
