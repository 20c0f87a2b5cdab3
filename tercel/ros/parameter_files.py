"""ROS 2 parameter files: written from a graph, and read back.

    /tercel:
      ros__parameters:
        odometry:
          # nearer and farther points are dropped (the robot itself; noise).
          min_range_m: 0.5

Written are numbers, words and lists as every ROS distribution reads them: what is not set, and lists that are empty,
which rcl does not take, are left out. Read are the node names and wildcards of rcl: "/robot/tercel", "tercel", "/*",
"/**", also nested.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tercel.core.errors import UserError
from tercel.hosts.graph import Graph
from tercel.ros.parameters import Parameter, apply, declare

MAX_FILE_BYTES = 1 << 20
HOST_PARAMETERS = ("use_sim_time", "offload.policy")
_KEY = "ros__parameters"


def parameter_file(graph: Graph, node: str = "/tercel") -> str:
    """The text of a parameter file with all parameters of a graph. node: the full name of the node, or a wildcard."""
    lines = [f"# Parameters of graph {graph.name}.", f"{node}:", f"  {_KEY}:"]
    opened: str | None = None
    written = [parameter for parameter in declare(graph) if parameter.value not in (None, ())]
    for parameter in written:
        component, _, field = parameter.name.rpartition(".")
        if component and component != opened:
            lines.append(f"    {component}:")
            opened = component
        indent = " " * (6 if component else 4)
        lines += [f"{indent}# {line}" for line in _comment(parameter, 116 - len(indent))]
        lines.append(f"{indent}{field}: {_text(parameter.value)}")
    if not written:
        lines[-1] += " {}"
    return "\n".join(lines) + "\n"


def read_parameter_file(path: Path, node: str = "/tercel") -> dict[str, Any]:
    """What a file says of a node's parameters, by full parameter name; later entries win. Raises UserError."""
    if not path.is_file():
        raise UserError(f"no parameter file at {path}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"{path} is larger than {MAX_FILE_BYTES} bytes: that is no parameter file")
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deep for parameters") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: node names with {_KEY} are wanted: see `{node}: {{{_KEY}: {{...}}}}`")
    changes: dict[str, Any] = {}
    found = False
    for pattern, entry in _nodes(content, "", str(path)):
        found = True
        if _is_for(pattern, node):
            changes |= dict(_flat(entry, "", str(path)))
    if not found:
        raise UserError(f"{path}: there is no {_KEY} in it: see `{node}: {{{_KEY}: {{...}}}}`")
    return changes


def graph_with_file(graph: Graph, path: Path, node: str = "/tercel") -> tuple[Graph, dict[str, Any]]:
    """A graph with what a parameter file says of its components, and what it says of the host's own parameters.

    Raises UserError for a file that cannot be used, an unknown parameter, and a value that a component refuses.
    """
    said = read_parameter_file(path, node)
    own = {name: said.pop(name) for name in HOST_PARAMETERS if name in said}
    try:
        return apply(graph, said), own
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _comment(parameter: Parameter, width: int) -> list[str]:
    words = [parameter.description]
    if parameter.choices:
        words.append(f"One of: {', '.join(parameter.choices)}.")
    return textwrap.wrap(" ".join(words).strip(), width)


def _text(value: Any) -> str:
    """A value such that YAML 1.1 and 1.2 read its type from it."""
    if isinstance(value, tuple):
        return f"[{', '.join(_text(item) for item in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, float) and math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    if isinstance(value, float):
        text = repr(value)
        # "1e-06" has no point, and YAML 1.1 wants one.
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    return repr(value)


def _nodes(content: Mapping[Any, Any], above: str, where: str) -> Iterator[tuple[str, Any]]:
    """The node name, as written, and the content of each `ros__parameters`."""
    for key, value in content.items():
        if key == _KEY:
            yield above, value
        elif isinstance(value, Mapping):
            yield from _nodes(value, f"{above}/{str(key).strip('/')}", where)
        else:
            raise UserError(f"{where}: {above}/{key}: {_KEY} is wanted here, not {value!r}")


def _is_for(pattern: str, node: str) -> bool:
    """Whether a node name of a file, which may hold wildcards, is that of a node."""
    parts = [
        ".*" if part == "**" else "[^/]+" if part == "*" else re.escape(part) for part in pattern.strip("/").split("/")
    ]
    return re.fullmatch("/".join(parts).replace(".*/", "(?:.*/)?"), node.strip("/")) is not None


def _flat(entry: Any, above: str, where: str) -> Iterator[tuple[str, Any]]:
    if entry is None:
        return
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: {_KEY}: names and values are wanted, not {entry!r}")
    for key, value in entry.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.", where)
        else:
            yield name, value
