"""What a graph's topics are on a wire: their names, their ROS types and their quality of service."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tercel.core.component import Input
from tercel.core.errors import UserError, nearest_hint
from tercel.core.messages import CompressedImage, Image, Message, PointCloud, Transforms
from tercel.hosts.graph import Graph
from tercel.hosts.recording import is_compatible
from tercel.ros import convert
from tercel.ros.transport import COMMAND, LATCHED, RELIABLE, SENSOR, QoS

GLOBAL = ("/tf", "/tf_static", "/clock", "/diagnostics")
"""Topics that all robots of a domain share: a namespace is not put before these."""
_TOPIC = re.compile(r"(?:/[A-Za-z0-9_]+)+")  # ROS 2 wants no digit first, but ROS 1 and its bags have it


def check_remap(graph: Graph, remap: Mapping[str, str]) -> None:
    """Raises UserError if a remapping names no topic of the graph, or gives it a name that is none."""
    known = {*graph.needed(), *graph.written()}
    for name, other in remap.items():
        if name not in known:
            raise UserError(
                f"--remap {name}:={other}: graph {graph.name} has no such topic; {nearest_hint(name, known)}"
            )
        if not other.startswith("/"):
            raise UserError(f"--remap {name}:={other}: a topic begins with '/'")


def wire_name(topic: str, remap: Mapping[str, str], namespace: str) -> str:
    """The name of a graph's topic on the wire: remapped, then put under the namespace. Raises UserError if that is no
    name: a wire has other meanings for most of what is not a letter.
    """
    name = remap.get(topic, topic)
    if not name.startswith("/"):
        name = f"/{name}"
    if name not in GLOBAL:
        name = namespace.rstrip("/") + name
    if _TOPIC.fullmatch(name) is None:
        raise UserError(
            f"{name!r} is no topic: words of letters, digits and '_', each after a '/', are wanted (--remap)"
        )
    return name


def input_qos(topic: str, spec: Input) -> QoS:
    """How an input port subscribes."""
    if topic == "/tf_static" and spec.message_type is Transforms:
        return LATCHED
    return SENSOR if spec.queue == "latest" else COMMAND


def is_sensor(topic: str, spec: Input) -> bool:
    """Whether an input goes on coming as long as its sensor lives; commands and latched topics may be silent."""
    return not input_qos(topic, spec).reliable


def output_qos(ros_type: str) -> QoS:
    """How an output is published: what is large and soon stale may be lost, the rest not."""
    return SENSOR if convert.message_type_of(ros_type) in (Image, CompressedImage, PointCloud) else RELIABLE


def ros_type_for(topic: str, wanted: type[Message], published: Mapping[str, str]) -> str:
    """The ROS type to subscribe to: as somebody publishes the topic, if we can read that as `wanted`; else our own.

    Raises UserError for a message type that cannot be read from ROS.
    """
    have = published.get(topic)
    if have is not None and is_compatible(convert.message_type_of(have), wanted):
        return have
    try:
        ros_type = convert.ros_type_of(wanted)
    except KeyError:
        ros_type = ""
    if not is_compatible(convert.message_type_of(ros_type), wanted):
        raise UserError(
            f"{topic}: {wanted.__name__} cannot be read from ROS: a component of the same graph has to write it"
        )
    return ros_type
