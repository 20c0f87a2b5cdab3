"""What every host does with a component's outputs: check their types, and say which of them others see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tercel.core.messages import Message, Odometry, Transforms
from tercel.hosts.graph import Node


def checked(node: Node, outputs: Mapping[str, Message]) -> Iterator[tuple[str, Message]]:
    """The outputs of one call, port by port. Raises TypeError for one that is not of its port's type."""
    for port, message in outputs.items():
        expected = node.component.outputs[port].message_type
        if not isinstance(message, expected):
            raise TypeError(f"{node.name}.{port} is a {type(message).__name__}, not a {expected.__name__}")
        yield port, message


def is_hidden(topic: str) -> bool:
    """Whether a topic is an inner one, with a name that begins with an underscore, as ROS 2 has it."""
    return "/_" in topic


def visible(topic: str, message: Message) -> Iterator[tuple[str, Message]]:
    """What recordings and wires carry of an output: a pose as a transform too, so that viewers place tracks and clouds
    in one frame; nothing of a hidden topic, as `ros2 bag record` leaves them out.
    """
    if is_hidden(topic):
        return
    yield topic, message
    if isinstance(message, Odometry):
        pose = message.frame_T_child[None]
        parents, children = (message.frame_id,), (message.child_frame_id,)
        yield (
            "/tf",
            Transforms(stamp_ns=message.stamp_ns, frame_id="", parents=parents, children=children, parent_T_child=pose),
        )
