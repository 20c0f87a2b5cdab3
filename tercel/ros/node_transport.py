"""rclpy as a transport: bytes in by raw subscriptions, bytes out by raw publishers, services as CDR.

Written against rclpy of Humble (3.3) and Jazzy (7.1). Callbacks come on threads of rclpy's executor;
subscriptions have a callback group of their own, so that a service that takes long holds up no data.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from tercel.core.errors import UserError
from tercel.ros.transport import Data, Identity, QoS

_TYPE = re.compile(r"([A-Za-z][A-Za-z0-9_]*)/(msg|srv)/([A-Za-z][A-Za-z0-9_]*)")
_CLOSE_WITHIN_S = 5.0
_MAX_PROBLEMS = 500


def require_rclpy() -> ModuleType:
    """rclpy, which comes with ROS 2 only. Raises UserError."""
    try:
        return importlib.import_module("rclpy")
    except ImportError as error:
        if error.name not in (None, "rclpy"):
            raise
        raise UserError(
            "rclpy is not there: source a ROS 2 that has this Python (source /opt/ros/jazzy/setup.bash), "
            "or say --transport zenoh, which needs no ROS 2"
        ) from None


def ros_class(ros_type: str) -> Any:
    """The class that ROS 2 generated for "sensor_msgs/msg/Image" or "std_srvs/srv/Trigger". Raises UserError."""
    match = _TYPE.fullmatch(ros_type)
    if match is None:
        raise UserError(f"{ros_type!r} is no ROS 2 type: package/msg/Name is wanted")
    package, kind, name = match.groups()
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), name)
    except (ModuleNotFoundError, AttributeError):
        distribution = os.environ.get("ROS_DISTRO", "jazzy")
        apt = f"ros-{distribution}-{package.replace('_', '-')}"
        raise UserError(f"ROS 2 has no {ros_type} here: sudo apt-get install {apt}") from None


def to_rclpy_qos(qos: QoS) -> Any:
    """The same in rclpy's words."""
    from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=qos.depth,
        reliability=ReliabilityPolicy.RELIABLE if qos.reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.transient_local else DurabilityPolicy.VOLATILE,
    )


class RclpyTransport:
    """The topics and services of an rclpy node that somebody spins; see `tercel.ros.transport.Transport`.

    rclpy resolves names: the remappings of `--ros-args` hold.
    """

    def __init__(self, node: Any, *, say: Callable[[str], None] = lambda _line: None) -> None:
        from rclpy.callback_groups import MutuallyExclusiveCallbackGroup

        self.problems: Counter[str] = Counter()
        self._node = node
        self._say = say
        self._data_group = MutuallyExclusiveCallbackGroup()
        self._publishers: dict[str, Any] = {}
        self._subscriptions: list[Any] = []
        self._read: set[str] = set()
        self._services: list[Any] = []
        self._clients: dict[str, Any] = {}
        self._leave: Callable[[], None] = lambda: None

    @classmethod
    def open(
        cls, identity: Identity, *, config: Path | None = None, say: Callable[[str], None] = lambda _line: None
    ) -> RclpyTransport:
        """A node of our own, in a context of our own, spun by a thread of our own. Raises UserError."""
        if config is not None:
            raise UserError(f"--config {config}: ROS 2 is configured by its RMW: see RMW_IMPLEMENTATION")
        rclpy = require_rclpy()
        from rclpy.node import Node

        context = rclpy.Context()
        rclpy.init(args=[], context=context, domain_id=identity.domain)
        node = Node(
            identity.node,
            namespace=identity.namespace,
            context=context,
            start_parameter_services=False,  # `tercel.ros.host_services` offers them on every transport
        )
        transport = cls(node, say=say)
        spinning = Spinning(node, say)

        def leave() -> None:
            spinning.end()
            node.destroy_node()
            rclpy.shutdown(context=context)

        transport._leave = leave
        return transport

    def advertise(self, topic: str, ros_type: str, qos: QoS) -> _Publisher:
        """See Transport. Raises UserError if ROS 2 does not know the type."""
        old = self._publishers.pop(topic, None)
        if old is not None:
            self._node.destroy_publisher(old)
        publisher = self._node.create_publisher(ros_class(ros_type), topic, to_rclpy_qos(qos))
        self._publishers[topic] = publisher
        return _Publisher(publisher)

    def subscribe(self, topic: str, ros_type: str, qos: QoS, on_data: Callable[[Data], None]) -> Callable[[], None]:
        """See Transport. Raises UserError if ROS 2 does not know the type."""
        subscription = _Subscription(topic, on_data)
        handle = self._subscribe(subscription, ros_class(ros_type), to_rclpy_qos(qos))
        self._subscriptions.append(handle)
        self._read.add(topic)

        def end() -> None:
            subscription.end()
            if handle in self._subscriptions:
                self._subscriptions.remove(handle)
                self._node.destroy_subscription(handle)

        return end

    def _subscribe(self, subscription: _Subscription, kind: Any, qos: Any) -> Any:
        """With a count of what the middleware lost, where it can tell."""
        events, unsupported = _events()

        def on_lost(event: Any) -> None:
            self._count(f"{subscription.topic}: lost on the way", event.total_count_change)

        def on_incompatible(_event: Any) -> None:
            self._count(f"{subscription.topic}: a publisher's QoS does not fit; nothing is received from it", 1)

        arguments = {"callback_group": self._data_group, "raw": True}
        create = self._node.create_subscription
        try:
            callbacks = events(message_lost=on_lost, incompatible_qos=on_incompatible)
            return create(kind, subscription.topic, subscription.deliver, qos, event_callbacks=callbacks, **arguments)
        except unsupported:
            return create(kind, subscription.topic, subscription.deliver, qos, **arguments)

    def serve(self, service: str, srv_type: str, answer: Callable[[Data], Data]) -> None:
        """See Transport. Raises UserError if ROS 2 does not know the type."""
        from rclpy.serialization import deserialize_message, serialize_message

        kind = ros_class(srv_type)

        def on_request(request: Any, _response: Any) -> Any:
            return deserialize_message(bytes(answer(serialize_message(request))), kind.Response)

        self._services.append(self._node.create_service(kind, service, on_request))

    def call(self, service: str, srv_type: str, request: Data, *, timeout_s: float) -> Data:
        """See Transport. Not from a callback of this transport."""
        from rclpy.serialization import deserialize_message, serialize_message

        kind = ros_class(srv_type)
        if service not in self._clients:
            self._clients[service] = self._node.create_client(kind, service, callback_group=self._data_group)
        client = self._clients[service]
        if not client.wait_for_service(timeout_s):
            raise TimeoutError(f"nobody answers {service} ({srv_type})")
        answered = threading.Event()
        future = client.call_async(deserialize_message(bytes(request), kind.Request))
        future.add_done_callback(lambda _future: answered.set())
        if not answered.wait(timeout_s):
            future.cancel()
            raise TimeoutError(f"{service} did not answer within {timeout_s:g} s")
        return bytes(serialize_message(future.result()))

    def topics(self) -> dict[str, str]:
        """See Transport."""
        there = {}
        for topic, _ in self._node.get_topic_names_and_types():  # its types are also those of who only listens
            types = sorted(info.topic_type for info in self._node.get_publishers_info_by_topic(topic))
            if types:
                there[topic] = types[0]
        for topic in sorted(self._read):  # a remapped one also by the name that the graph gives it
            name = self._node.resolve_topic_name(topic)
            if name in there:
                there[topic] = there[name]
        return there

    def nodes(self) -> list[str]:
        """See Transport."""
        there = self._node.get_node_names_and_namespaces()
        return sorted(f"{namespace.rstrip('/')}/{name}" for name, namespace in there)

    def close(self) -> None:
        """See Transport. The node itself stays, unless `open` made it."""
        node = self._node
        for subscription in self._subscriptions:
            node.destroy_subscription(subscription)
        for publisher in self._publishers.values():
            node.destroy_publisher(publisher)
        for service in self._services:
            node.destroy_service(service)
        for client in self._clients.values():
            node.destroy_client(client)
        self._subscriptions, self._services, self._publishers, self._clients = [], [], {}, {}
        self._leave()
        self._leave = lambda: None

    def _count(self, reason: str, count: int) -> None:
        if reason not in self.problems and len(self.problems) >= _MAX_PROBLEMS:
            reason = "further problems"
        is_new = reason not in self.problems
        self.problems[reason] += count
        if is_new:
            self._say(reason)

    def __enter__(self) -> RclpyTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Publisher:
    """The sending end of one topic."""

    def __init__(self, publisher: Any) -> None:
        self._publisher = publisher

    def publish(self, data: Data) -> None:
        """See tercel.ros.transport.Publisher. What comes after the node has left is lost."""
        from rclpy.exceptions import InvalidHandle  # the name is the same in all distributions

        with contextlib.suppress(InvalidHandle):
            self._publisher.publish(bytes(data))


class _Subscription:
    """The receiving end of one topic: after `end`, nothing is delivered, and a delivery under way has returned."""

    def __init__(self, topic: str, on_data: Callable[[Data], None]) -> None:
        self.topic = topic
        self._on_data = on_data
        self._lock = threading.RLock()
        self._ended = False

    def deliver(self, data: bytes) -> None:
        with self._lock:
            if not self._ended:
                self._on_data(data)

    def end(self) -> None:
        with self._lock:
            self._ended = True


def _events() -> tuple[Any, Any]:
    """Class of a subscription's events, and the error that tells that the middleware does not have one of them.

    The module is rclpy.qos_event in Humble, rclpy.event_handler since.
    """
    try:
        events = importlib.import_module("rclpy.event_handler")
    except ModuleNotFoundError:
        events = importlib.import_module("rclpy.qos_event")
    return events.SubscriptionEventCallbacks, events.UnsupportedEventTypeError


class Spinning:
    """Threads that run a node's callbacks until `end`. A callback that raises is told of once, and the rest go on.

    rclpy itself ends at the first one: a lifecycle transition that is not allowed raises in its service's callback.
    """

    def __init__(self, node: Any, say: Callable[[str], None]) -> None:
        from rclpy.executors import MultiThreadedExecutor

        self._say = say
        self._told: set[str] = set()
        self._executor = MultiThreadedExecutor(num_threads=2, context=node.context)  # data, and services beside it
        self._executor.add_node(node)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="tercel-rclpy", daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._ends.is_set():
            try:
                self._executor.spin_once(timeout_sec=0.5)
            except Exception as error:
                line = f"a callback failed: {type(error).__name__}: {error}"
                if line not in self._told and not self._ends.is_set():
                    self._told.add(line)
                    self._say(line)

    def end(self) -> None:
        """No callback runs any more when this returns, or five seconds have passed."""
        self._ends.set()
        self._executor.wake()
        self._thread.join(_CLOSE_WITHIN_S)
        self._executor.shutdown(_CLOSE_WITHIN_S)
