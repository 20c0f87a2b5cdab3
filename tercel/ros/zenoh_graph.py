"""Who is there: the ROS graph as rmw_zenoh's liveliness tokens tell it (design.md, "Graph Cache")."""

from __future__ import annotations

import threading
from collections.abc import Callable

import zenoh

from tercel.core.errors import Rejected
from tercel.ros import rmw_zenoh as wire

_MAX_ENTITIES = 16_384  # tokens come from strangers: what they may fill is bounded


class Graph:
    """The entities that are alive in one domain. `problem` is told of wrong types on topics that are watched."""

    def __init__(self, domain: int, our_session: str, problem: Callable[[str], None]) -> None:
        self._domain = domain
        self._our_session = our_session
        self._problem = problem
        self._lock = threading.Lock()
        self._entities: dict[str, wire.Entity] = {}
        self._watched: dict[str, tuple[str, str]] = {}  # topic: ROS type, hash

    def on_token(self, sample: zenoh.Sample) -> None:
        """A token has come or gone. May be called from any thread."""
        text = str(sample.key_expr)
        try:
            entity = wire.read_token(text)
        except Rejected as reason:
            self._problem(str(reason))
            return
        if entity.domain != self._domain:
            return
        is_gone = sample.kind == zenoh.SampleKind.DELETE
        end = entity.endpoint
        with self._lock:
            if is_gone:
                is_news = self._entities.pop(text, None) is not None
            else:
                is_news = text not in self._entities and len(self._entities) < _MAX_ENTITIES
                if is_news:
                    self._entities[text] = entity
            watched = self._watched.get(end.name) if end is not None and entity.kind == "MP" else None
        if end is None or watched is None or not is_news:
            return
        if not is_gone:
            self._check(entity.node_name, end, watched)
        elif entity.session != self._our_session and (wire.ros_type(end.dds_type), end.type_hash) == watched:
            self._problem(f"{end.name}: its publisher {entity.node_name} went away")

    def unwatch(self, topic: str) -> None:
        """The opposite of `watch`."""
        with self._lock:
            self._watched.pop(topic, None)

    def watch(self, topic: str, ros_type: str, type_hash: str) -> None:
        """From now on, name those who publish something else under this topic, and those who leave it."""
        with self._lock:
            self._watched[topic] = (ros_type, type_hash)
        for node_name, end in self._publishers():
            if end.name == topic:
                self._check(node_name, end, (ros_type, type_hash))

    def _check(self, node_name: str, end: wire.Endpoint, wanted: tuple[str, str]) -> None:
        ros_type, type_hash = wanted
        theirs = wire.ros_type(end.dds_type)
        if theirs != ros_type:
            self._problem(f"{end.name}: somebody publishes {theirs}, {ros_type} is wanted")
        elif end.type_hash != type_hash and wire.NO_HASH in (end.type_hash, type_hash):
            self._problem(f"{end.name}: {node_name} speaks another distribution's wire (Humble has no type hashes)")
        elif end.type_hash != type_hash:
            self._problem(f"{end.name}: somebody publishes another version of {theirs}")

    def _publishers(self) -> list[tuple[str, wire.Endpoint]]:
        with self._lock:
            entities = list(self._entities.values())
        return [(e.node_name, e.endpoint) for e in entities if e.kind == "MP" and e.endpoint is not None]

    def topics(self) -> dict[str, str]:
        """Published topics and their ROS types, sorted by name."""
        return {end.name: wire.ros_type(end.dds_type) for _, end in sorted(self._publishers(), key=lambda p: p[1].name)}

    def nodes(self) -> list[str]:
        """Full names of the nodes, sorted."""
        with self._lock:
            return sorted({e.node_name for e in self._entities.values() if e.kind == "NN"})
