"""Hosts, players and listeners on a local transport, for tests of the live host."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tercel.core.messages import Message
from tercel.hosts.graph import load_graph
from tercel.hosts.live import LiveHost
from tercel.ros import convert
from tercel.ros.local import LocalTransport
from tercel.ros.transport import RELIABLE, Identity
from tests.unit.test_hosts_graph import write

ONE = """\
components:
  smoother:
    component: tests.unit.toy_components.Smoother
    inputs: {imu: /imu}
    outputs: {pose: /pose}
"""


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
            self._publishers[topic] = self.transport.advertise(topic, ros_type, RELIABLE)
        self._publishers[topic].publish(data)

    def hear(self, topic: str, ros_type: str) -> list[bytes]:
        heard: list[bytes] = []
        self.transport.subscribe(topic, ros_type, RELIABLE, lambda data: heard.append(bytes(data)))
        return heard


@contextlib.contextmanager
def hosting(tmp_path: Path, text: str = ONE, **options: Any) -> Iterator[tuple[LiveHost, Peer, list[str]]]:
    """A host that runs a graph, a peer beside it, and what the host says."""
    domain, said = any_domain(), []
    peer = Peer(domain)
    with LocalTransport(Identity(node="host", domain=domain), say=said.append) as transport, peer.transport:
        host = LiveHost(load_graph(write(tmp_path, text)), transport, say=said.append, **options)
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
