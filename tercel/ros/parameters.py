"""ROS parameters of a graph, derived from its components' configs: what there is, what it may be, and new values.

A parameter is called `<component>.<field>`, or `<field>` where the graph has one component. Type and default come from
the config, the description from what its class says of the field, the range from its own checks: a config is asked
which numbers it takes, so no limit stands in two places. Everything here is a pure function of a graph.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import lru_cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tercel.core.component import config_from_mapping
from tercel.core.errors import UserError, nearest_hint
from tercel.hosts.graph import Graph, Node
from tercel.ros.config_texts import field_texts

MOST = 2**31 - 1
"""No number of a graph file may be larger; see `config_from_mapping`."""

MOST_HINT_CHARS = 200


class Kind(IntEnum):
    """A parameter's type, as rcl_interfaces/msg/ParameterType numbers it."""

    NOT_SET = 0
    BOOL = 1
    INTEGER = 2
    DOUBLE = 3
    STRING = 4
    BYTE_ARRAY = 5
    BOOL_ARRAY = 6
    INTEGER_ARRAY = 7
    DOUBLE_ARRAY = 8
    STRING_ARRAY = 9


_KINDS = {bool: Kind.BOOL, int: Kind.INTEGER, float: Kind.DOUBLE, str: Kind.STRING}
_ARRAYS = {
    Kind.BOOL: Kind.BOOL_ARRAY,
    Kind.INTEGER: Kind.INTEGER_ARRAY,
    Kind.DOUBLE: Kind.DOUBLE_ARRAY,
    Kind.STRING: Kind.STRING_ARRAY,
}


@dataclass(frozen=True)
class Parameter:
    """One parameter. value: bool, int, float, str or a tuple of them; None is "not set", where is_optional.

    bounds: the least and the greatest value (where the config wants more than the least, the least that it does not
    take); None if the config does not bound it by itself. choices: the words that may stand here; empty: any.
    is_live: it may change while the component runs. is_read_only: it is set at the start only.
    """

    name: str
    kind: Kind
    value: Any
    description: str = ""
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    is_optional: bool = False
    is_live: bool = False
    is_read_only: bool = False


@dataclass(frozen=True)
class _Shape:
    kind: Kind
    is_optional: bool
    choices: tuple[str, ...]


# --- what there is -----------------------------------------------------------------------------------------------


def names(graph: Graph) -> dict[str, tuple[Node, str]]:
    """The node and the config's field behind each parameter's name, in the graph's order."""
    is_alone = len(graph.nodes) == 1
    return {
        field if is_alone else f"{node.name}.{field}": (node, field)
        for node in graph.nodes
        for field in _shapes(node.component.Config)
    }


def values(graph: Graph) -> dict[str, tuple[Kind, Any]]:
    """Type and present value of each parameter."""
    result = {}
    for name, (node, field) in names(graph).items():
        kind = _shapes(node.component.Config)[field].kind
        result[name] = kind, _as_kind(kind, getattr(node.config, field))
    return result


def declare(graph: Graph, wanted: Collection[str] | None = None) -> list[Parameter]:
    """The parameters of a graph with all that can be told of them; of these names only, if some are given."""
    result = []
    for name, (node, field) in names(graph).items():
        if wanted is not None and name not in wanted:
            continue
        shape = _shapes(node.component.Config)[field]
        is_number = shape.kind in (Kind.INTEGER, Kind.DOUBLE)
        result.append(
            Parameter(
                name,
                shape.kind,
                _as_kind(shape.kind, getattr(node.config, field)),
                field_texts(node.component.Config).get(field, ""),
                _bounds(node.config, field) if is_number else None,
                shape.choices,
                shape.is_optional,
                field in node.component.live_settings,
            )
        )
    return result


@lru_cache(maxsize=256)
def _shapes(config_type: type) -> dict[str, _Shape]:
    """The fields that ROS has a type for."""
    hints = get_type_hints(config_type)
    found = {field.name: _shape(hints[field.name]) for field in fields(config_type)}
    return {name: shape for name, shape in found.items() if shape is not None}


def _shape(hint: Any) -> _Shape | None:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _KINDS:
        return _Shape(_KINDS[hint], False, ())
    if origin is Literal and all(isinstance(choice, str) for choice in arguments):
        return _Shape(Kind.STRING, False, arguments)
    if origin in (Union, UnionType) and len(arguments) == 2 and type(None) in arguments:
        inner = _shape(next(argument for argument in arguments if argument is not type(None)))
        return inner and replace(inner, is_optional=True)
    if origin is tuple and arguments:
        items = {_KINDS.get(argument) for argument in arguments if argument is not ...}
        if len(items) == 1 and (item := items.pop()) is not None:
            return _Shape(_ARRAYS[item], False, ())
    return None


def _as_kind(kind: Kind, value: Any) -> Any:
    """A value as its kind has it: a whole number where a float is meant is one."""
    if kind is Kind.DOUBLE and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Kind.DOUBLE_ARRAY and isinstance(value, (tuple, list)):
        return tuple(_as_kind(Kind.DOUBLE, item) for item in value)
    return tuple(value) if isinstance(value, list) else value


# --- new values --------------------------------------------------------------------------------------------------


def apply(graph: Graph, changes: Mapping[str, Any]) -> Graph:
    """The graph with these parameters changed, all or none; None: not set. Raises UserError, in one line."""
    known = names(graph)
    by_node: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name not in known:
            raise unknown(name, known)
        node, field = known[name]
        kind = _shapes(node.component.Config)[field].kind
        prepared = _as_kind(kind, value)
        if any(isinstance(item, float) and math.isnan(item) for item in _items(prepared)):
            raise UserError(f"{name}: NaN is no setting")
        by_node.setdefault(node.name, {})[field] = prepared
    nodes = tuple(
        replace(node, config=_changed(node, by_node[node.name])) if node.name in by_node else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def unknown(name: str, known: Collection[str]) -> UserError:
    """The error of one who asks for a parameter that is not there. There may be a hundred: not all are told."""
    hint = nearest_hint(name, known)
    told = hint if len(hint) < MOST_HINT_CHARS else f"there are {len(known)}: ros2 param list"
    return UserError(f"no parameter {name!r}; {told}")


def _items(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _changed(node: Node, changes: dict[str, Any]) -> Any:
    """The node's config with changed fields. What is at its default is left to the config: it may be infinite, which
    nobody may set."""
    wanted = {field.name: getattr(node.config, field.name) for field in fields(node.config)} | changes
    default = {field.name: field.default for field in fields(node.config)}
    given = {name: value for name, value in wanted.items() if not _is_same(value, default[name])}
    return config_from_mapping(node.component.Config, given, where=node.name)


def _is_same(value: Any, other: Any) -> bool:
    """Equal, and of one type: True is not 1."""
    if isinstance(value, tuple) and isinstance(other, tuple):
        return len(value) == len(other) and all(map(_is_same, value, other))
    return type(value) is type(other) and bool(value == other)


# --- ranges ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _bounds(config: Any, field: str) -> tuple[float, float] | None:
    """The range that a config takes for a number, as long as its other fields do not decide it; None: any number."""
    value = getattr(config, field)
    kind = _shapes(config.__class__)[field].kind

    def takes(number: float) -> bool:
        return _is_taken(config, {field: number})

    inside = next((number for number in (value, 1.0, 0.0) if number is not None and abs(number) <= MOST), None)
    if inside is None or not takes(inside):
        return None
    inside = int(inside) if kind is Kind.INTEGER else float(inside)
    found = []
    for outside in (-MOST, MOST):
        edge = None if takes(outside) else _last_taken(takes, inside, outside, kind)
        found.append(None if edge is None or _is_moved_by_others(config, field, _beyond(edge, outside, kind)) else edge)
    if found == [None, None]:
        return None
    low, high = found
    return -MOST if low is None else low, MOST if high is None else high


def _is_taken(config: Any, changes: Mapping[str, Any]) -> bool:
    try:
        replace(config, **changes)
    except (TypeError, ValueError):
        return False
    return True


def _last_taken(takes: Callable[[float], bool], inside: float, outside: float, kind: Kind) -> float:
    """Where a config begins to refuse, between a number that it takes and one that it does not: exact, by bisection.

    Of a float that must be above or below a limit, the limit."""
    if kind is Kind.INTEGER:
        return _bisect(takes, int(inside), int(outside))
    edge = _from_rank(_bisect(lambda rank: takes(_from_rank(rank)), _to_rank(inside), _to_rank(outside)))
    return 0.0 if abs(edge) < 1e-300 else float(f"{edge:.12g}")


def _bisect(takes: Callable[[int], bool], inside: int, outside: int) -> int:
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        if takes(middle):
            inside = middle
        else:
            outside = middle
    return inside


def _to_rank(value: float) -> int:
    """The place of a float in the order of all floats, 0 in the middle."""
    bits: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits if bits >= 0 else -(bits & 0x7FFFFFFFFFFFFFFF)


def _from_rank(rank: int) -> float:
    (value,) = struct.unpack("<d", struct.pack("<q", abs(rank)))
    return float(math.copysign(value, rank))


def _beyond(edge: float, outside: float, kind: Kind) -> float:
    """A number a little outside."""
    step = 1 if kind is Kind.INTEGER else 1e-3 * max(1.0, abs(edge))
    return edge + step if outside > 0 else edge - step


def _is_moved_by_others(config: Any, field: str, beyond: float) -> bool:
    """Whether a number that is refused would do if another field were different, as in min_range_m < max_range_m."""
    for other, shape in _shapes(config.__class__).items():
        value = getattr(config, other)
        if other == field or shape.kind not in (Kind.INTEGER, Kind.DOUBLE) or value is None or math.isinf(value):
            continue
        for moved in (value / 2, value * 2, value - 0.5, value + 0.5):
            number = round(moved) if shape.kind is Kind.INTEGER else moved
            if _is_taken(config, {field: beyond, other: number}):
                return True
    return False
