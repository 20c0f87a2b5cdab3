"""The suite as rclpy nodes: what `ros2 run tercel NAME` and `ros2 launch tercel ...` start.

    ros2 run tercel graph_host --ros-args -p graph:=lidar -r lidar/points:=/velodyne_points
    ros2 run tercel lidar_odometry --ros-args -r cloud:=/velodyne_points -r __ns:=/robot1

`graph_host` runs a whole graph; every other name one component, whose ports are topics of the same name. Topics of a
graph are under the node's namespace, all but those that robots share (/tf, /tf_static, /clock, /diagnostics), so a
remapping may name them with or without a leading "/" where there is no namespace, and without where there is one.

Parameters are those of the components' configs (`ros2 param describe` explains them) and these, read at the start:
graph and component (for graph_host), models.<name> (ONNX files), offload.file, record_dir, autostart. The node is a
managed one: `ros2 lifecycle set` configures it (models are loaded), activates it (work begins), and so on; autostart,
the default, does both at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercel.core.errors import UserError, nearest_hint
from tercel.hosts.graph import Graph, Node
from tercel.hosts.graph_choice import find_graph
from tercel.ros.executables import COMPONENTS, GRAPH
from tercel.ros.node_transport import RclpyTransport, Spinning, require_rclpy
from tercel.ros.parameter_files import parameter_file

__all__ = ["OWN_PARAMETERS", "RclpyTransport", "graph_of", "main", "only", "parameter_text"]

OWN_PARAMETERS: dict[str, tuple[Any, str]] = {
    "autostart": (True, "configure and activate at the start"),
    "record_dir": ("recordings", "the folder in which recordings and maps are written"),
    "offload.file": ("", "where networks may run: a file as in launch/offload; empty: on this board"),
}
"""Default and description of what every node takes beside its graph's parameters and models.<name>."""
WHICH_GRAPH: dict[str, tuple[Any, str]] = {
    "graph": ("", "a graph of the suite, by its name, or a graph file"),
    "component": ("", "the one component of the graph that runs here; empty: all"),
}
"""The same for graph_host alone."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node that the executable is named after, until it is interrupted; the exit code."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # see tercel.cli
    command, *arguments = sys.argv if argv is None else argv
    name = Path(command).name
    try:
        return _run(name, arguments)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def _run(name: str, arguments: Sequence[str]) -> int:
    if name not in (GRAPH, *COMPONENTS):
        raise UserError(f"no executable {name!r}; {nearest_hint(name, (GRAPH, *COMPONENTS))}")
    own = arguments[: arguments.index("--ros-args")] if "--ros-args" in arguments else arguments
    parser = argparse.ArgumentParser(prog=name, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--params", nargs="?", const=name, metavar="GRAPH", help="print a parameter file (of graph_host: for GRAPH)"
    )
    asked = parser.parse_args(own)
    if asked.params is not None:
        print(parameter_text(find_graph(asked.params), whole=name == GRAPH), end="")
        return 0
    rclpy = require_rclpy()
    from rclpy.signals import SignalHandlerOptions

    ends = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ends.set())
    with ros_errors():
        rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    try:
        return _spin(name, ends)
    finally:
        rclpy.shutdown()


def _spin(name: str, ends: threading.Event) -> int:
    from tercel.ros.node_lifecycle import GraphNode

    with ros_errors():
        node = GraphNode("tercel", None) if name == GRAPH else GraphNode(name, find_graph(name))
    spinning = Spinning(node, node.warn)
    has_begun = False
    try:
        has_begun = not node.autostart or node.begin()
        while has_begun and not ends.wait(timeout=1.0):
            pass
    finally:
        spinning.end()
        is_sound = node.finish()
        node.destroy_node()
    return 0 if has_begun and is_sound else 1 if has_begun else 2


@contextlib.contextmanager
def ros_errors() -> Iterator[None]:
    """What rclpy raises is a user's mistake: a wrong ROS argument, name, parameter or parameter file."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.split(".")[0] != "rclpy":
            raise
        raise UserError(" ".join(str(error).split())) from None


def graph_of(name: str, component: str = "") -> Graph:
    """A graph by its name or file, or one component of it. Raises UserError."""
    graph = find_graph(name)
    return only(graph, component) if component else graph


def only(graph: Graph, component: str) -> Graph:
    """One component of a graph, for a node of its own. Inner topics, which have to be on the wire then, lose their
    underscore. Raises UserError for a name that the graph does not have.
    """
    nodes = {node.name: node for node in graph.nodes}
    if component not in nodes:
        raise UserError(f"graph {graph.name} has no component {component!r}; {nearest_hint(component, nodes)}")
    node = nodes[component]
    shown = replace(node, inputs=_shown(node.inputs), outputs=_shown(node.outputs))
    models = {name: file for name, file in graph.models.items() if name == _model(node)}
    return Graph(graph.name, (shown,), models)


def _shown(topics: dict[str, str]) -> dict[str, str]:
    return {port: topic.replace("/_", "/") for port, topic in topics.items()}


def _model(node: Node) -> Any:
    """The name of the model that a component runs, if it runs one."""
    return getattr(node.config, "model", None)


def parameter_text(graph: Graph, *, whole: bool = True) -> str:
    """A parameter file for the nodes that a graph may run as: for each component alone, and for the whole in one."""
    alone = [parameter_file(only(graph, node.name), f"/**/{node.name}") for node in graph.nodes]
    return "\n".join([parameter_file(graph, "/**/tercel"), *alone] if whole else alone)
