"""The layout for Foxglove names only what there is: panels, topics of the graphs, fields and components."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offload.tasks import Fate
from tercel.hosts.graph import load_graph
from tercel.report.view_drawing import DRAWINGS
from tercel.ros import convert

ROOT = Path(__file__).parents[2]
LAYOUT: dict[str, Any] = json.loads((ROOT / "launch/view/tercel.foxglove.json").read_text(encoding="utf-8"))
PANELS = {"3D", "Image", "Plot", "DiagnosticSummary"}
GRAPHS = [load_graph(path) for path in sorted((ROOT / "launch/graphs").glob("*.yaml"))]


def tree_panels(node: Any) -> Iterator[str]:
    """The panels that a split holds."""
    if isinstance(node, str):
        yield node
        return
    assert set(node) <= {"direction", "first", "second", "splitPercentage"}
    assert node["direction"] in ("row", "column")
    yield from tree_panels(node["first"])
    yield from tree_panels(node["second"])


def ros_types() -> dict[str, str]:
    """The topics of all graphs as a live host has them on the wire, and what every host publishes."""
    found = {"/diagnostics": "diagnostic_msgs/msg/DiagnosticArray"}
    for graph in GRAPHS:
        for node in graph.nodes:
            ports = {**node.component.inputs, **node.component.outputs}
            for port, topic in {**node.inputs, **node.outputs}.items():
                if "/_" not in topic:
                    found[topic] = convert.ros_type_of(ports[port].message_type)
    return found


def shown() -> dict[str, str]:
    """What `tercel view` offers of them: the topics, and their drawings."""
    found = ros_types()
    drawn = {topic + DRAWINGS[kind].suffix: DRAWINGS[kind].schema for topic, kind in found.items() if kind in DRAWINGS}
    return {**found, **drawn}


def plots() -> list[str]:
    return [
        path["value"]
        for name, panel in LAYOUT["configById"].items()
        if name.startswith("Plot!")
        for path in panel["paths"]
    ]


def test_every_panel_is_in_the_layout_once_and_of_a_known_kind() -> None:
    used = list(tree_panels(LAYOUT["layout"]))
    assert sorted(used) == sorted(LAYOUT["configById"])
    assert {name.split("!")[0] for name in used} == PANELS


def test_every_topic_exists_and_is_what_its_panel_draws() -> None:
    offered = shown()
    space = LAYOUT["configById"]["3D!tercel"]["topics"]
    assert {offered[topic] for topic in space} == {"sensor_msgs/msg/PointCloud2", "foxglove.SceneUpdate"}
    image = LAYOUT["configById"]["Image!tercel"]["imageMode"]
    assert offered[image["imageTopic"]] == "sensor_msgs/msg/Image"
    assert {offered[topic] for topic in image["annotations"]} == {"foxglove.ImageAnnotations"}
    assert LAYOUT["configById"]["DiagnosticSummary!tercel"]["topicToRender"] in offered


def test_each_graph_has_something_to_look_at() -> None:
    space, image = LAYOUT["configById"]["3D!tercel"]["topics"], LAYOUT["configById"]["Image!tercel"]["imageMode"]
    looked_at = {topic.removesuffix("/_scene").removesuffix("/_boxes") for topic in [*space, *image["annotations"]]}
    for graph in GRAPHS:
        assert looked_at & {*graph.written()}, graph.name


@pytest.mark.parametrize("path", plots())
def test_every_plot_points_at_a_number_that_exists(path: str) -> None:
    topic, *parts = path.split(".")
    if topic == "/odometry":
        ros_type = ros_types()[topic]
        for part in parts:
            fields = dict(convert.STORE.fielddefs[ros_type][1])
            ros_type = fields[part][1]
        assert ros_type[0] == "float64"  # type: ignore[comparison-overlap]
        return
    assert topic == "/diagnostics" + DRAWINGS["diagnostic_msgs/msg/DiagnosticArray"].suffix
    node, component, *value = parts
    assert node == "tercel", "the name of `tercel run`'s node"
    if component == "offload":
        assert value[0] == "fates"
        assert value[1].replace("_", "-") in {fate.value for fate in Fate}
    else:
        assert component in {row.name for graph in GRAPHS for row in graph.nodes}
        assert value in (["rate_hz"], ["latency_ms", "p50"])
