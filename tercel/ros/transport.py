"""What a live host asks of a transport: CDR bytes out, CDR bytes in, and services, all under ROS names.

    with open_transport("zenoh", Identity(node="tercel_lidar")) as transport:
        odometry = transport.advertise("/odometry", "nav_msgs/msg/Odometry", RELIABLE)
        transport.subscribe("/lidar/points", "sensor_msgs/msg/PointCloud2", SENSOR, on_cloud)
        odometry.publish(data)

Data is one serialised message with CDR's four-byte header, as rosbags writes it and recordings hold it. A transport
knows nothing of the suite's messages, and a host nothing of zenoh, DDS or rclpy.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from tercel.core.errors import UserError

Data = bytes | bytearray | memoryview
Kind = Literal["zenoh", "dds", "ros2", "local"]
KINDS: tuple[Kind, ...] = ("zenoh", "dds", "ros2", "local")

DISTRIBUTIONS = ("humble", "jazzy", "kilted", "rolling")
MAX_DOMAIN = 232
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMESPACE = re.compile(rf"(/{_NAME.pattern})+/?")


@dataclass(frozen=True)
class QoS:
    """The quality of service of one end of a topic, as ROS 2 names it. History is keep last `depth`.

    reliable: lost data is sent again, and a slow reader may be waited for; else the newest data wins.
    transient_local: who comes late gets the last `depth` messages (latched topics such as /tf_static).
    """

    reliable: bool
    depth: int
    transient_local: bool = False


SENSOR = QoS(reliable=False, depth=5)
RELIABLE = QoS(reliable=True, depth=10)
COMMAND = QoS(reliable=True, depth=1000)  # ports that keep all
LATCHED = QoS(reliable=True, depth=1, transient_local=True)


@dataclass(frozen=True)
class Identity:
    """Who we are on the wire: a ROS node. distribution: whose wire is spoken, where distributions differ."""

    node: str
    namespace: str = "/"
    domain: int = field(default_factory=lambda: _domain_of_environment())
    distribution: str = "jazzy"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.node):
            raise UserError(f"node name {self.node!r}: letters, digits and underscores are wanted, no digit first")
        if self.namespace != "/" and not _NAMESPACE.fullmatch(self.namespace):
            raise UserError(f"namespace {self.namespace!r}: '/' or '/robot1' is wanted")
        if not 0 <= self.domain <= MAX_DOMAIN:
            raise UserError(f"domain {self.domain}: 0 to {MAX_DOMAIN} is wanted")
        if self.distribution not in DISTRIBUTIONS:
            raise UserError(f"distribution {self.distribution!r}: one of {', '.join(DISTRIBUTIONS)} is wanted")


def _domain_of_environment() -> int:
    """ROS_DOMAIN_ID, which every ROS user sets once for all programs of a machine."""
    text = os.environ.get("ROS_DOMAIN_ID", "0")
    if not text.isdecimal():
        raise UserError(f"ROS_DOMAIN_ID is {text!r}: a number from 0 to {MAX_DOMAIN} is wanted")
    return int(text)


class Publisher(Protocol):
    """The sending end of one topic."""

    def publish(self, data: Data) -> None:
        """Send one message. A sensor topic never waits for a slow reader. May be called from any thread."""
        ...


class Transport(Protocol):
    """One node on the wire. Callbacks come on the transport's own threads, and must return at once.

    problems counts what the transport had to refuse (garbage, a wrong type under our name, lost messages), by a short
    reason that names the topic; `say` of the opener is told each reason once.
    """

    problems: Counter[str]

    def advertise(self, topic: str, ros_type: str, qos: QoS) -> Publisher:
        """Declare a publisher. ros_type: as "sensor_msgs/msg/Image"."""
        ...

    def subscribe(self, topic: str, ros_type: str, qos: QoS, on_data: Callable[[Data], None]) -> Callable[[], None]:
        """Call on_data with each message, whose buffer is the receiver's to keep. Returns what ends it."""
        ...

    def serve(self, service: str, srv_type: str, answer: Callable[[Data], Data]) -> None:
        """Answer requests (CDR of NAME_Request) with CDR of NAME_Response. srv_type: as "std_srvs/srv/Trigger"."""
        ...

    def call(self, service: str, srv_type: str, request: Data, *, timeout_s: float) -> Data:
        """Ask a service. Raises TimeoutError if nobody answers in time."""
        ...

    def topics(self) -> dict[str, str]:
        """The topics that somebody publishes now, with their ROS types, ours included."""
        ...

    def nodes(self) -> list[str]:
        """The full names of the nodes that are there now, ours included, sorted."""
        ...

    def close(self) -> None:
        """Leave: declarations are withdrawn, callbacks have ended when this returns."""
        ...

    def __enter__(self) -> Transport: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_transport(
    kind: Kind, identity: Identity, *, config: Path | None = None, say: Callable[[str], None] = lambda _line: None
) -> Transport:
    """Join the wire as a node. config: the transport's own configuration file (zenoh JSON5, Cyclone XML).

    say is told in one line what users should know, each thing once. Raises UserError where the transport is not
    installed or its configuration is wrong.
    """
    if kind == "zenoh":
        from tercel.ros.zenoh import ZenohTransport

        return ZenohTransport(identity, config=config, say=say)
    if kind == "dds":
        from tercel.ros.dds import DdsTransport

        return DdsTransport(identity, config=config, say=say)
    if kind == "ros2":
        from tercel.ros.node import RclpyTransport

        return RclpyTransport.open(identity, config=config, say=say)
    from tercel.ros.local import LocalTransport

    return LocalTransport(identity, say=say)
