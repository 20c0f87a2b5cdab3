"""The pip-only transport: zenoh as rmw_zenoh speaks it, so that ROS 2 machines see us as one of their nodes.

What is written on the wire is in rmw_zenoh.py, how sessions find each other in zenoh_config.py, who is there in
zenoh_graph.py, the ends of topics and services in zenoh_ends.py; here is the session that declares them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import zenoh
from zenoh import ext, handlers

from tercel.core.errors import UserError
from tercel.ros import rmw_zenoh as wire
from tercel.ros.transport import COMMAND, Data, Identity, QoS
from tercel.ros.zenoh_config import load_config
from tercel.ros.zenoh_ends import Client, Publisher, Service, Subscription, bytes_of, owned, undeclare
from tercel.ros.zenoh_graph import Graph

_MISS_DETECTION = ext.MissDetectionConfig(heartbeat=None, sporadic_heartbeat=0.5)  # as rmw_publisher_data.cpp
_RECOVERY = ext.RecoveryConfig(periodic_queries=None, heartbeat=True)  # as rmw_subscription_data.cpp
_QUERY: dict[str, Any] = {  # as rmw_client_data.cpp
    "target": zenoh.QueryTarget.ALL_COMPLETE,
    "consolidation": zenoh.ConsolidationMode.NONE,
}
_POLL_S = 0.005
_MAX_PROBLEMS = 500


class ZenohTransport:
    """A zenoh session as one ROS node; transport.Transport says what the methods do."""

    def __init__(
        self, identity: Identity, *, config: Path | None = None, say: Callable[[str], None] = lambda _line: None
    ) -> None:
        """Open a session. config: a zenoh JSON5 file; zenoh_config.py says what holds without one."""
        self.identity = identity
        self.problems: Counter[str] = Counter()
        self._say = say
        # Never held while zenoh is called: its threads hold locks of their own when they call us.
        self._lock = threading.Lock()
        self._next_id = 1  # the node itself is 0
        self._is_open = True
        self._declared: list[Any] = []  # what has undeclare(), in the order of declaring
        self._subscriptions: list[Subscription] = []
        self._clients: dict[tuple[str, str], Client] = {}
        try:
            self._session: Any = zenoh.open(load_config(config))
        except zenoh.ZError as error:
            raise UserError(f"zenoh does not start: {error}") from None
        self._zid = str(self._session.zid())
        self._graph = Graph(identity.domain, self._zid, self._problem)
        on_token = handlers.Callback(self._graph.on_token, indirect=False)
        self._declared.append(
            self._session.liveliness().declare_subscriber(f"{wire.PREFIX}/{identity.domain}/**", on_token, history=True)
        )
        self._declare_token(self._token("NN", 0))

    # --- topics ---

    def advertise(self, topic: str, ros_type: str, qos: QoS) -> Publisher:
        """Declare a publisher; of one that is transient local, zenoh keeps the last `depth` messages."""
        key, token = self._endpoint("MP", topic, ros_type, qos)
        # rmw_zenoh waits for readers where ROS keeps all, and nowhere else: a slow reader must not stop a sensor.
        waits = qos.reliable and qos.depth >= COMMAND.depth
        options: dict[str, Any] = {
            "congestion_control": zenoh.CongestionControl.BLOCK if waits else zenoh.CongestionControl.DROP,
            "reliability": zenoh.Reliability.RELIABLE if qos.reliable else zenoh.Reliability.BEST_EFFORT,
        }
        publisher: Any
        if qos.transient_local:
            publisher = ext.declare_advanced_publisher(
                self._session, key, cache=ext.CacheConfig(max_samples=qos.depth), publisher_detection=True,
                sample_miss_detection=_MISS_DETECTION if qos.reliable else None, **options,
            )  # fmt: skip
        else:
            publisher = self._session.declare_publisher(key, **options)
        sender = Publisher(topic, publisher, wire.gid(token), self._problem)
        with self._lock:
            self._declared.append(sender)
        self._declare_token(token)
        return sender

    def subscribe(self, topic: str, ros_type: str, qos: QoS, on_data: Callable[[Data], None]) -> Callable[[], None]:
        """Call on_data, on zenoh's receiving thread, with each message of this very type."""
        key, token = self._endpoint("MS", topic, ros_type, qos)
        subscription = Subscription(topic, on_data, self._problem)
        handler = handlers.Callback(subscription.on_sample, indirect=False)
        if qos.transient_local:
            declared: Any = ext.declare_advanced_subscriber(
                self._session, key, handler, subscriber_detection=True,
                history=ext.HistoryConfig(detect_late_publishers=True, max_samples=qos.depth),
                recovery=_RECOVERY if qos.reliable else None,
            )  # fmt: skip
        else:
            declared = self._session.declare_subscriber(key, handler)
        subscription.declared = [self._session.liveliness().declare_token(token), declared]
        with self._lock:
            self._subscriptions.append(subscription)
        self._graph.watch(topic, ros_type, wire.hash_of(ros_type, self.identity.distribution))

        def end() -> None:
            subscription.end()
            with self._lock:
                if subscription in self._subscriptions:
                    self._subscriptions.remove(subscription)
                    self._graph.unwatch(topic)

        return end

    # --- services ---

    def serve(self, service: str, srv_type: str, answer: Callable[[Data], Data]) -> None:
        """Answer the service as a queryable. What `answer` raises goes back to the caller, and is counted."""
        key, token = self._endpoint("SS", service, srv_type, wire.SERVICE_QOS)
        server = Service(service, key, answer, self._problem)
        server.declared = self._session.declare_queryable(key, server.on_query, complete=True)
        with self._lock:
            self._declared.append(server)
        self._declare_token(token)

    def call(self, service: str, srv_type: str, request: Data, *, timeout_s: float) -> Data:
        """Ask once, as soon as a server is there."""
        deadline_s = time.monotonic() + timeout_s
        client = self._client(service, srv_type)
        # A query that leaves before the server's declaration has come is answered by nobody, at once.
        while not client.querier.matching_status.matching:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{service}: nobody offers it")
            time.sleep(_POLL_S)
        sent = client.next_attachment()
        replies = self._session.get(
            client.querier.key_expr, payload=owned(request), attachment=sent,
            timeout=max(deadline_s - time.monotonic(), _POLL_S), **_QUERY,
        )  # fmt: skip
        failure = ""
        for reply in replies:
            if reply.ok is None:
                failure = reply.err.payload.to_string()
            elif bytes_of(reply.ok.attachment)[: wire.SEQUENCE_BYTES] == sent[: wire.SEQUENCE_BYTES]:
                return bytes_of(reply.ok.payload)
            else:
                self._problem(f"{service}: an answer to another question")
        raise TimeoutError(f"{service}: no answer within {timeout_s:g} s" + (f": {failure}" if failure else ""))

    def _client(self, service: str, srv_type: str) -> Client:
        with self._lock:
            known = self._clients.get((service, srv_type))
        if known is not None:
            return known
        key, token = self._endpoint("SC", service, srv_type, wire.SERVICE_QOS)
        # The querier asks nothing; it is there because it knows whether somebody would answer.
        client = Client(self._session.declare_querier(key, **_QUERY), wire.gid(token))
        with self._lock:
            self._declared.append(client.querier)
            self._clients[service, srv_type] = client  # two threads may come here at once: two clients are no harm
        self._declare_token(token)
        return client

    # --- graph ---

    def topics(self) -> dict[str, str]:
        """The topics that somebody publishes now, with their ROS types, ours included."""
        return self._graph.topics()

    def nodes(self) -> list[str]:
        """The full names of the nodes that are there now, ours included, sorted."""
        return self._graph.nodes()

    def close(self) -> None:
        """Withdraw all declarations and end the session. Closing twice is the same as once."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            subscriptions, declared = self._subscriptions, self._declared
            self._subscriptions, self._declared = [], []
        for subscription in subscriptions:
            subscription.end()
        for thing in reversed(declared):
            undeclare(thing)
        self._session.close()

    def __enter__(self) -> ZenohTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside ---

    def _problem(self, reason: str, times: int = 1) -> None:
        with self._lock:
            if reason not in self.problems and len(self.problems) >= _MAX_PROBLEMS:
                reason = "further problems"  # strangers' names are in some reasons: they must not fill the memory
            is_new = reason not in self.problems
            self.problems[reason] += times
        if is_new:
            self._say(reason)

    def _endpoint(self, kind: str, name: str, ros_type: str, qos: QoS) -> tuple[str, str]:
        """The data key and the token of a new endpoint."""
        distribution = self.identity.distribution
        try:
            key = wire.data_key(self.identity.domain, name, ros_type, distribution)
            endpoint = wire.Endpoint(name, wire.dds_type(ros_type), wire.hash_of(ros_type, distribution), qos)
        except KeyError:
            raise UserError(f"{name}: the type {ros_type} is unknown here") from None
        with self._lock:
            entity_id, self._next_id = self._next_id, self._next_id + 1
        return key, self._token(kind, entity_id, endpoint)

    def _token(self, kind: str, entity_id: int, endpoint: wire.Endpoint | None = None) -> str:
        us = self.identity
        return wire.token(
            wire.Entity(us.domain, self._zid, "0", str(entity_id), kind, us.namespace, us.node, endpoint=endpoint)
        )

    def _declare_token(self, token: str) -> None:
        declared = self._session.liveliness().declare_token(token)
        with self._lock:
            self._declared.append(declared)
