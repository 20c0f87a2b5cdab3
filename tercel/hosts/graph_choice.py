"""Which graph a user means: a file, one of the suite's own, or a single component as a graph of its own."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path

from tercel.core.component import Component
from tercel.core.errors import UserError, nearest_hint
from tercel.hosts.graph import Graph, Node, graph_files, load_graph
from tercel.ros.executables import COMPONENTS


def find_graph(text: str) -> Graph:
    """The graph of a file, the name of one that comes with the suite, a component's name (as `ros2 run tercel` has it)
    or its module.Class. Raises UserError.
    """
    named = {path.stem: path for path in graph_files()}
    if text in named:
        return load_graph(named[text])
    if text in COMPONENTS:
        return component_graph(COMPONENTS[text], text)
    path = Path(text)
    if path.suffix in (".yaml", ".yml") or "/" in text or path.is_file():
        return load_graph(path)
    if "." in text:
        return component_graph(text)
    raise UserError(f"no graph, component or file is called {text!r}; {nearest_hint(text, [*named, *COMPONENTS])}")


def component_graph(path: str, name: str = "") -> Graph:
    """A graph of one component, module.Class, whose topics are its ports' names: /image, /detections.

    A component whose config names a model wants a file for it. Raises UserError.
    """
    module_name, _, class_name = path.rpartition(".")
    try:
        component = getattr(importlib.import_module(module_name), class_name, None)
    except (ImportError, ValueError) as error:
        raise UserError(f"component {path}: {error}") from None
    if not (isinstance(component, type) and issubclass(component, Component) and hasattr(component, "Config")):
        raise UserError(f"{module_name} has no component {class_name!r}; module.Class is wanted")
    config = component.Config()
    node = Node(
        name or _snake_case(class_name),
        component,
        config,
        {port: f"/{port}" for port in component.inputs},
        {port: f"/{port}" for port in component.outputs if port not in component.inputs},
    )
    model = config.model if any(field.name == "model" for field in fields(config)) else None
    return Graph(node.name, (node,), {model: None} if model else {})


def _snake_case(name: str) -> str:
    """LidarOdometry is lidar_odometry."""
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
