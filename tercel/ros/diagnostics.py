"""A live host's status as diagnostic_msgs/DiagnosticArray, for `/diagnostics`: one entry for each component, one for
the topics that it waits for, one for the transport."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tercel.ros.convert import STORE

DIAGNOSTICS_TYPE = "diagnostic_msgs/msg/DiagnosticArray"
OK, WARN, ERROR, STALE = range(4)
STALE_AFTER_S = 3.0

_T = STORE.types
Row = tuple[int, str, str, list[tuple[str, str]]]
"""Level, name, message, values."""


def diagnostic_array(status: Mapping[str, Any]) -> memoryview:
    """CDR bytes of a DiagnosticArray that says what `LiveHost.status()` says."""
    now_ns = int(status["now_ns"])
    stamp = _T["builtin_interfaces/msg/Time"](sec=now_ns // 10**9, nanosec=now_ns % 10**9)
    message = _T[DIAGNOSTICS_TYPE](
        header=_T["std_msgs/msg/Header"](stamp=stamp, frame_id=""),
        status=[_to_ros(row, status["node"]) for row in rows_of(status)],
    )
    return STORE.serialize_cdr(message, DIAGNOSTICS_TYPE)


def rows_of(status: Mapping[str, Any]) -> Iterable[Row]:
    """The entries, in plain Python."""
    node = status["node"]
    for name, component in status["components"].items():
        level, message = _judged(status, component)
        yield level, f"{node}: {name}", message, _values(component)
    yield _transport_row(status)
    if "offload" in status:
        yield OK, f"{node}: offload", "", [(key, str(value)) for key, value in _flat(status["offload"])]


def _judged(status: Mapping[str, Any], component: Mapping[str, Any]) -> tuple[int, str]:
    if component["failed"]:
        return ERROR, f"failed: {component['failed']}"
    if status["state"] == "stopped":
        return STALE, "stopped"
    return OK, "working"


def _values(component: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, str(value)) for key, value in _flat(component)]


def _transport_row(status: Mapping[str, Any]) -> Row:
    problems = {**status["problems"], **status["undecodable"]}
    level, message = (WARN, "; ".join(problems)) if problems else (OK, "no problems")
    return level, f"{status['node']}: transport", message, [(key, str(value)) for key, value in problems.items()]


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    """Nested numbers under names with dots."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _to_ros(row: Row, hardware: str) -> Any:
    level, name, message, values = row
    pair = _T["diagnostic_msgs/msg/KeyValue"]
    return _T["diagnostic_msgs/msg/DiagnosticStatus"](
        level=level, name=name, message=message, hardware_id=hardware, values=[pair(key=k, value=v) for k, v in values]
    )
