"""Graphs: components wired by topics, read from YAML and checked before anything runs.

    # launch/graphs/lidar.yaml
    components:
      odometry:
        component: registration.lidar_odometry.LidarOdometry
        inputs: {cloud: /lidar/points}
        outputs: {odometry: /odometry}
        config: {map_voxel_m: 0.3}       # optional: the component's own defaults otherwise
    models:                              # optional: names that components ask for
      detector: tercel-nano              # a shipped or pulled model, or a file beside this one; null: the user gives it

A topic that no component writes comes from the recording. Every mistake is a UserError that names the file, the place
in it and the mend.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import tercel
from perception.model_catalog import model_file
from tercel.core.component import Component, config_from_mapping
from tercel.core.errors import UserError, nearest_hint
from tercel.core.messages import Imu, Message
from tercel.hosts.recording import Recording, is_compatible

MAX_GRAPH_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Node:
    """One component of a graph: its class, its config, and the topic of each port."""

    name: str
    component: type[Component]
    config: Any
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class Graph:
    """A checked graph. models maps a model's name to its file, None where the user has to give it."""

    name: str
    nodes: tuple[Node, ...]
    models: dict[str, Path | None]

    def written(self) -> dict[str, type[Message]]:
        """The topics that components write, with their types."""
        return {
            topic: node.component.outputs[port].message_type
            for node in self.nodes
            for port, topic in node.outputs.items()
        }

    def needed(self) -> dict[str, type[Message]]:
        """The topics that must come from the recording, with the type each one is read as."""
        written = self.written()
        return {
            topic: node.component.inputs[port].message_type
            for node in self.nodes
            for port, topic in node.inputs.items()
            if topic not in written
        }

    def model_files(self, given: Mapping[str, Path]) -> dict[str, Path]:
        """The file of each model that the graph names, the user's choice first. Raises UserError if one is missing."""
        for name in given:
            if name not in self.models:
                raise UserError(f"graph {self.name} asks for no model {name!r}; {nearest_hint(name, self.models)}")
        files = {name: given.get(name, path) for name, path in self.models.items()}
        for name, path in files.items():
            if path is None:
                raise UserError(f"graph {self.name} needs a model for {name!r}: --model {name}=FILE.onnx")
            if not path.is_file():
                raise UserError(f"no model at {path}: --model {name}=FILE.onnx names another")
        return {name: path for name, path in files.items() if path is not None}


def load_graph(path: Path) -> Graph:
    """Read and check a graph file. Raises UserError."""
    if not path.is_file():
        known = [p.stem for p in graph_files()]
        raise UserError(f"no graph at {path}; {nearest_hint(path.stem, known)}")
    if path.stat().st_size > MAX_GRAPH_BYTES:
        raise UserError(f"{path} is larger than {MAX_GRAPH_BYTES} bytes: that is no graph file")
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deep for a graph") from None
    where = str(path)
    content = _mapping(content, where, {"components", "models"})
    components = _mapping(content.get("components"), f"{where}: components")
    if not components:
        raise UserError(f"{where}: components is empty: name at least one")
    for name in components:
        if not _NAME.fullmatch(name):  # nodes and parameters are called so
            raise UserError(
                f"{where}: component name {name!r}: letters, digits and underscores are wanted, no digit first"
            )
    nodes = tuple(_load_node(name, entry, f"{where}: {name}") for name, entry in components.items())
    models = _mapping(content.get("models") or {}, f"{where}: models")
    files = {name: None if file is None else _model_file(path.parent, str(file)) for name, file in models.items()}
    graph = Graph(path.stem, nodes, files)
    _check_types(graph, where)
    return graph


def _model_file(folder: Path, word: str) -> Path:
    """The file of a shipped or pulled model's name, or the one at this path from the graph's folder."""
    path = folder / word
    return path.resolve() if path.suffix == ".onnx" or path.exists() else model_file(word)


def _mapping(value: Any, where: str, known: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: a mapping is wanted, not {type(value).__name__}")
    for key in value:
        if not isinstance(key, str) or (known is not None and key not in known):
            raise UserError(f"{where}: unknown key {key!r}; {nearest_hint(str(key), known or ())}")
    return dict(value)


def _load_node(name: str, entry: Any, where: str) -> Node:
    entry = _mapping(entry, where, {"component", "inputs", "outputs", "config"})
    component = _load_component(entry.get("component"), where)
    inputs = _load_ports(entry.get("inputs") or {}, component.inputs, f"{where}: inputs")
    outputs = _load_ports(entry.get("outputs") or {}, component.outputs, f"{where}: outputs")
    for port in component.inputs:
        if port not in inputs:
            raise UserError(f"{where}: input {port!r} has no topic: add inputs: {{{port}: /some/topic}}")
    config = _mapping(entry.get("config") or {}, f"{where}: config")
    return Node(
        name, component, config_from_mapping(component.Config, config, where=f"{where}: config"), inputs, outputs
    )


def _load_component(path: Any, where: str) -> type[Component]:
    if not isinstance(path, str) or "." not in path:
        raise UserError(f"{where}: component: module.Class is wanted, not {path!r}")
    module_name, class_name = path.rsplit(".", 1)
    try:
        module = importlib.import_module(module_name)
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(f"{where}: component {path}: {error} (is it on PYTHONPATH?)") from None
    component = getattr(module, class_name, None)
    if not (isinstance(component, type) and issubclass(component, Component) and hasattr(component, "Config")):
        names = [
            n
            for n, v in vars(module).items()
            if isinstance(v, type) and issubclass(v, Component) and v is not Component
        ]
        raise UserError(f"{where}: {module_name} has no component {class_name!r}; {nearest_hint(class_name, names)}")
    return component


def _load_ports(entry: Any, ports: Mapping[str, Any], where: str) -> dict[str, str]:
    topics = _mapping(entry, where, set(ports))
    for port, topic in topics.items():
        if not isinstance(topic, str) or not topic.startswith("/"):
            raise UserError(f"{where}: {port}: a topic begins with '/', not {topic!r}")
    return topics


def _check_types(graph: Graph, where: str) -> None:
    """One writer for each topic, and readers of its type."""
    writers: dict[str, str] = {}
    for node in graph.nodes:
        for port, topic in node.outputs.items():
            if topic in ("/tf", "/tf_static"):
                raise UserError(f"{where}: {node.name}.{port}: {topic} is written by the host: choose another topic")
            if topic in writers:
                raise UserError(
                    f"{where}: {topic} is written by {writers[topic]} and by {node.name}.{port}: rename one"
                )
            if topic in node.inputs.values():
                raise UserError(f"{where}: {node.name} reads and writes {topic}: choose another topic for {port!r}")
            writers[topic] = f"{node.name}.{port}"
    written = graph.written()
    for node in graph.nodes:
        for port, topic in node.inputs.items():
            wanted = node.component.inputs[port].message_type
            have = written.get(topic)
            if have is not None and not issubclass(have, wanted):
                raise UserError(
                    f"{where}: {node.name}.{port} reads {wanted.__name__} but {topic} carries {have.__name__} "
                    f"(from {writers[topic]})"
                )


def graph_files() -> list[Path]:
    """The graphs that come with the suite: launch/graphs of a checkout, share/tercel/launch/graphs when installed."""
    for folder in Path(tercel.__file__).resolve().parents:
        for candidate in (folder / "launch" / "graphs", folder / "share" / "tercel" / "launch" / "graphs"):
            if candidate.is_dir():
                return sorted(candidate.glob("*.yaml"))
    return []


def bind(graph: Graph, recording: Recording, remap: Mapping[str, str]) -> dict[str, str]:
    """Which recorded topic feeds each topic that the graph needs: graph's name -> recording's name.

    The remapped name first, then the same name, then the only topic of the type (truth and depth apart). Raises
    UserError where none fits or several do.
    """
    needed = graph.needed()
    for name in remap:
        if name not in needed:
            raise UserError(f"--remap {name}: graph {graph.name} reads no such topic; {nearest_hint(name, needed)}")
    bound: dict[str, str] = {}
    for topic, wanted in needed.items():
        source = remap.get(topic, topic)
        have = recording.topics.get(source)
        if have is not None and is_compatible(have.message_type, wanted):
            bound[topic] = source
            continue
        if topic in remap:
            raise UserError(f"--remap {topic}:={source}: the recording has no such {wanted.__name__} topic")
        candidates = [
            t.name
            for t in recording.topics.values()
            if is_compatible(t.message_type, wanted) and not t.name.startswith("/truth/") and "depth" not in t.name
        ]
        if len(candidates) != 1:
            found = f"several: {', '.join(candidates)}; say --remap {topic}:=NAME" if candidates else "none"
            raise UserError(f"graph {graph.name} needs a {wanted.__name__} for {topic}; the recording has {found}")
        bound[topic] = candidates[0]
    return bound


def pick_graph(recording: Recording, remap: Mapping[str, str]) -> Graph:
    """The suite's graph that uses most of the recording's topics. Raises UserError if none can be used."""
    for name, source in remap.items():
        if source not in recording.topics:
            hint = nearest_hint(source, recording.topics)
            raise UserError(f"--remap {name}:={source}: the recording has no such topic; {hint}")
    best: Graph | None = None
    for path in graph_files():
        graph = load_graph(path)
        if Imu in graph.needed().values():
            continue  # that the topics are there does not say that the IMU's place on the robot is
        try:
            bind(graph, recording, {k: v for k, v in remap.items() if k in graph.needed()})
        except UserError:
            continue
        if best is None or (len(graph.needed()), len(graph.nodes)) > (len(best.needed()), len(best.nodes)):
            best = graph
    if best is not None:
        return best
    types = sorted({t.ros_type for t in recording.topics.values()}) or ["no ROS 2 topics"]
    raise UserError(f"no graph of the suite can use {recording.path.name}: it has {', '.join(types)}")
