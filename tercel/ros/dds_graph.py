"""Who is there, over DDS: nodes as ros_discovery_info tells them (rmw_dds_common), topics as DDS discovers them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cyclonedds._clayer import ddspy_take, ddspy_write
from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsParticipant,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.core import InstanceState, ReadCondition, SampleState, ViewState
from cyclonedds.domain import DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

from tercel.ros import dds_types as wire
from tercel.ros.dds_config import delete
from tercel.ros.transport import Identity, QoS

ANY = SampleState.Any | ViewState.Any | InstanceState.Any
_TAKEN = 64
_MAX_KNOWN = 16_384  # what strangers may fill is bounded
_INFO_HASH = "RIHS01_91a0593bacdcc50ea9bdcf849a938b128412cc1ea821245c663bcd26f83c295e"


def _info_qos(depth: int) -> Qos:
    """Latched, as rmw_dds_common wants it. A reader's depth holds for all participants together: there is no key."""
    return Qos(
        Policy.Reliability.Reliable(100_000_000), Policy.Durability.TransientLocal, Policy.History.KeepLast(depth),
        Policy.DurabilityService(0, Policy.History.KeepLast(1), -1, -1, -1),
        Policy.DataRepresentation(use_cdrv0_representation=True), Policy.WriterDataLifecycle(autodispose=False),
        Policy.Userdata(f"typehash={_INFO_HASH};".encode()),
    )  # fmt: skip


GUID_BYTES = 16


@dataclass(frozen=True)
class End:
    """One publisher's or subscription's end of a DDS topic, ours or another's."""

    topic: str  # as DDS names it: rt/chatter
    ros_type: str
    is_reliable: bool
    is_latched: bool
    participant: bytes
    is_writer: bool


class Graph:
    """The participants, nodes and ends of our domain; `problem` is told of those that cannot meet ours."""

    def __init__(self, participant: DomainParticipant, identity: Identity, problem: Callable[[str], None]) -> None:
        self._problem = problem
        self._identity = identity
        self._lock = threading.Lock()
        self._us = participant.guid.bytes
        self._store = wire.INFO_STORES[identity.distribution == "humble"]
        self._gid_bytes = 24 if identity.distribution == "humble" else GUID_BYTES
        self._participants: set[bytes] = {self._us}
        self._nodes: dict[bytes, list[str]] = {}
        self._ends: dict[bytes, End] = {}
        self._watched: dict[tuple[str, bool], list[tuple[str, QoS]]] = {}  # (DDS topic, we write): of each end
        self._ours: dict[bool, list[bytes]] = {False: [], True: []}
        topic = Topic(participant, "ros_discovery_info", wire.info_structure(identity.distribution == "humble"))
        self._writer = DataWriter(participant, topic, _info_qos(1))
        self._info_reader = DataReader(participant, topic, _info_qos(1000))
        self._readers = {
            BuiltinDataReader(participant, BuiltinTopicDcpsParticipant): self._on_participant,
            BuiltinDataReader(participant, BuiltinTopicDcpsPublication): self._on_writer,
            BuiltinDataReader(participant, BuiltinTopicDcpsSubscription): self._on_reader,
        }
        self.conditions = [ReadCondition(r, ANY) for r in (self._info_reader, *self._readers)]
        self.tell()

    def take(self) -> None:
        """Take in what is new."""
        for reader, handle in self._readers.items():
            while found := reader.take(_TAKEN):
                for sample in found:
                    handle(sample, sample.sample_info.instance_state == InstanceState.Alive)
        while found := ddspy_take(self._info_reader._ref, ANY, _TAKEN):
            for data, info in found:
                if info.valid_data:
                    self._on_info(data)

    def add_ours(self, guid: bytes, is_writer: bool) -> None:
        """An end of ours is there: tell others that it is our node's."""
        with self._lock:
            self._ours[is_writer].append(guid)
        self.tell()

    def remove_ours(self, guid: bytes, is_writer: bool) -> None:
        """The opposite."""
        with self._lock:
            self._ours[is_writer].remove(guid)
        self.tell()

    def tell(self) -> None:
        """Write ros_discovery_info."""
        make = self._store.types
        gid, node = make["rmw_dds_common/msg/Gid"], make["rmw_dds_common/msg/NodeEntitiesInfo"]
        with self._lock:
            readers, writers = ([gid(self._gid(g)) for g in self._ours[w]] for w in (False, True))
            info = make[wire.INFO](
                gid(self._gid(self._us)), [node(self._identity.namespace, self._identity.node, readers, writers)]
            )
            ddspy_write(self._writer._ref, wire.to_wire(self._store.serialize_cdr(info, wire.INFO)))

    def _gid(self, guid: bytes) -> Any:
        return np.frombuffer(guid.ljust(self._gid_bytes, b"\0"), np.uint8)

    def watch(self, topic: str, is_writer: bool, ros_type: str, qos: QoS) -> None:
        """From now on, name those on the other end of this topic who cannot meet ours."""
        with self._lock:
            self._watched.setdefault((topic, is_writer), []).append((ros_type, qos))
            others = [e for e in self._ends.values() if e.topic == topic and e.is_writer != is_writer]
        for end in others:
            self._compare(end, ros_type, qos)

    def unwatch(self, topic: str, is_writer: bool, ros_type: str, qos: QoS) -> None:
        """The opposite, of one end."""
        with self._lock:
            self._watched[topic, is_writer].remove((ros_type, qos))

    def topics(self) -> dict[str, str]:
        """Published topics and their ROS types, sorted by name."""
        with self._lock:
            ends = [e for e in self._ends.values() if e.is_writer and e.topic.startswith("rt/")]
        return dict(sorted((end.topic[2:], end.ros_type) for end in ends))

    def nodes(self) -> list[str]:
        """Full names of the nodes, sorted."""
        ours = f"{self._identity.namespace.rstrip('/')}/{self._identity.node}"
        with self._lock:
            there = {name for gid, names in self._nodes.items() if gid in self._participants for name in names}
        return sorted(there | {ours})

    def close(self) -> None:
        """Take the entities away."""
        for entity in (*self.conditions, *self._readers, self._info_reader, self._writer):
            delete(entity)

    # --- inside ---

    def _on_participant(self, sample: Any, is_there: bool) -> None:
        with self._lock:
            if is_there and len(self._participants) < _MAX_KNOWN:
                self._participants.add(sample.key.bytes)
            elif not is_there:
                self._participants.discard(sample.key.bytes)
                self._nodes.pop(sample.key.bytes, None)

    def _on_info(self, data: bytes) -> None:
        try:
            info = self._store.deserialize_cdr(wire.from_wire(data), wire.INFO)
            gid = bytes(info.gid.data)[:GUID_BYTES]
            names = [f"{n.node_namespace.rstrip('/')}/{n.node_name}" for n in info.node_entities_info_seq]
        except Exception:  # the decoder is generated code: a damaged message can raise anything
            self._problem(f"ros_discovery_info: not as {self._identity.distribution} writes it")
            return
        with self._lock:
            if len(self._nodes) < _MAX_KNOWN or gid in self._nodes:
                self._nodes[gid] = names

    def _on_writer(self, sample: Any, is_there: bool) -> None:
        self._on_end(sample, is_there, is_writer=True)

    def _on_reader(self, sample: Any, is_there: bool) -> None:
        self._on_end(sample, is_there, is_writer=False)

    def _on_end(self, sample: Any, is_there: bool, is_writer: bool) -> None:
        key = sample.key.bytes
        if not is_there:
            with self._lock:
                gone = self._ends.pop(key, None)
                types = [ros_type for ros_type, _ in self._watched.get((gone.topic, False), ())] if gone else []
            is_ours = gone is not None and gone.participant == self._us
            if gone and is_writer and not is_ours and gone.ros_type in types:
                self._problem(f"{gone.topic[2:]}: a publisher went away")
            return
        qos = sample.qos
        end = End(
            sample.topic_name, wire.ros_name(sample.type_name),
            qos[Policy.Reliability] not in (None, Policy.Reliability.BestEffort),
            qos[Policy.Durability] not in (None, Policy.Durability.Volatile),
            sample.participant_key.bytes, is_writer,
        )  # fmt: skip
        with self._lock:
            is_new = key not in self._ends and len(self._ends) < _MAX_KNOWN
            if is_new:
                self._ends[key] = end
        if is_new:
            self._check(end)

    def _check(self, end: End) -> None:
        """Compare a new end with each of ours on the other side of its topic."""
        with self._lock:
            ours = set(self._watched.get((end.topic, not end.is_writer), ()))
        for ros_type, qos in sorted(ours, key=str):
            self._compare(end, ros_type, qos)

    def _compare(self, end: End, ros_type: str, qos: QoS) -> None:
        """Tell why this end and ours of the same topic do not meet."""
        name = end.topic[2:] if end.topic.startswith("rt/") else end.topic
        verb = "publishes" if end.is_writer else "wants"
        if end.ros_type != ros_type:
            what = "is wanted" if end.is_writer else "is published"
            self._problem(f"{name}: somebody {verb} {end.ros_type}, {ros_type} {what}")
            return
        reliable = (end.is_reliable, qos.reliable)
        latched = (end.is_latched, qos.transient_local)
        offers, wants = (0, 1) if end.is_writer else (1, 0)
        if reliable[wants] and not reliable[offers]:
            self._problem(f"{name}: subscription wants reliable, publisher offers best effort")
        if latched[wants] and not latched[offers]:
            self._problem(f"{name}: subscription wants transient local, publisher offers volatile")
