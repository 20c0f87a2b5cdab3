"""A live host's status as diagnostic_msgs/DiagnosticArray, for `/diagnostics`: one entry for each component, one for
the transport, one for the offload manager where there is one.

Values are those of `LiveHost.status()`, nested names joined by dots: "latency_ms.p50", "inputs.image.dropped.queue
full". Levels tell how it goes now, by the last ten seconds; counts are since the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tercel.ros.convert import STORE

DIAGNOSTICS_TYPE = "diagnostic_msgs/msg/DiagnosticArray"
OK, WARN, ERROR, STALE = range(4)
DROPPED_SHARE = 0.1
"""A component that drops more of what comes in is too slow for its input."""
MAX_AGE_MS = 60_000.0
"""Stamps that lie further from now are of another clock."""

_T = STORE.types
Status = Mapping[str, Any]
Row = tuple[int, str, str, list[tuple[str, str]]]
"""Level, name, message, values."""


def diagnostic_array(status: Status) -> memoryview:
    """CDR bytes of a DiagnosticArray that says what `LiveHost.status()` says."""
    now_ns = int(status["now_ns"])
    stamp = _T["builtin_interfaces/msg/Time"](sec=now_ns // 10**9, nanosec=now_ns % 10**9)
    message = _T[DIAGNOSTICS_TYPE](
        header=_T["std_msgs/msg/Header"](stamp=stamp, frame_id=""),
        status=[_to_ros(row, status["node"]) for row in rows_of(status)],
    )
    return STORE.serialize_cdr(message, DIAGNOSTICS_TYPE)


def rows_of(status: Status) -> Iterable[Row]:
    """The entries, in plain Python."""
    node = status["node"]
    for name, component in status["components"].items():
        level, message = _judged(status, name, component)
        yield level, f"{node}: {name}", message, _values(component)
    yield _transport_row(status)
    if "offload" in status:
        offload = status["offload"]
        message = f"{offload['completion']:.0%} of {offload['tasks']} in time" if offload.get("tasks") else "no tasks"
        yield OK, f"{node}: offload", message, _values(offload)


def _judged(status: Status, name: str, component: Status) -> tuple[int, str]:
    """A component's level, and the words for it."""
    if component["failed"]:
        return ERROR, f"failed: {component['failed']}"
    if status["state"] == "stopped":
        return STALE, "stopped"
    problems = [*_silence(status, component), *_losses(status["lately"]["components"][name]), *_clock(component)]
    if problems:
        return WARN, "; ".join(problems)
    return OK, f"{component['rate_hz']:.1f} Hz, {component['latency_ms']['p50']:.0f} ms"


def _silence(status: Status, component: Status) -> Iterable[str]:
    for row in component["inputs"].values():
        topic = status["topics"].get(row["topic"])
        if topic is not None and topic["is_stale"]:
            age_s = topic["age_s"]
            yield f"stale: no data from {row['topic']} " + ("yet" if age_s is None else f"for {age_s:.0f} s")


def _losses(lately: Status) -> Iterable[str]:
    received, dropped, rejected = lately["received"], lately["dropped"], lately["rejected"]
    if rejected:
        yield f"{rejected} of {received} messages rejected lately"
    if dropped > DROPPED_SHARE * received:
        yield f"{dropped} of {received} messages dropped lately"


def _clock(component: Status) -> Iterable[str]:
    p50_ms = component["latency_ms"]["p50"]
    if abs(p50_ms) > MAX_AGE_MS:
        side = "behind" if p50_ms > 0 else "ahead of"
        yield f"stamps are {abs(p50_ms) / 1e3:.0f} s {side} the clock: of a recording? then use simulated time"


def _transport_row(status: Status) -> Row:
    """What the host, its transport and its decoder count; a problem that has not come again lately is over."""
    now = status["lately"]["problems"]
    values = [(reason, str(count)) for reason, count in {**status["problems"], **status["undecodable"]}.items()]
    return (WARN if now else OK), f"{status['node']}: transport", "; ".join(now) or "no problems", values


def _values(numbers: Status) -> list[tuple[str, str]]:
    return [(key, "" if value is None else str(value)) for key, value in _flat(numbers)]


def _flat(numbers: Status, before: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in numbers.items():
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
