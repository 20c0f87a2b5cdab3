"""Links between a board and the cloud: constant, ramped, Gilbert-Elliott with outages, recorded.

A link is a pure function of the time since the run's start, so the simulator asks it under a virtual clock and
`offload.link_proxy` in wall time, and both see the same. What it carries is counted in whole bit/s x ns
(`offload.traces.UNITS_PER_BYTE`): capacities of neighbouring intervals add up exactly, and an upload ends at the first
nanosecond at which its bytes fit.

Settings of `load_link`, as a YAML mapping or, on the command line, as MODEL:key=value,... or just a trace's path:

    {model: constant, rate_mbps: 50, rtt_ms: 30, loss: 0}
    {model: ramp, rate_mbps: 50, rtt_ms: 30, extra_rtt_ms: 400, period_s: 300, ramp_s: 60, hold_s: 60}
    {model: gilbert_elliott, rate_mbps: 20, bad_mbps: 0, good_s: 30, bad_s: 3, rtt_ms: 50, bad_rtt_ms: 50,
     duration_s: 3600}
    {trace: PATH, scale: 1, rtt_ms: 50, direction: down}
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from offload.traces import MAX_DURATION_NS, UNITS_PER_BYTE, Trace, goodput_bps, lossy_rtt_ns, read_trace, steps_trace
from tercel.core.errors import UserError, nearest_hint

MAX_OUTAGE_NS = 600 * 10**9
DEFAULT_RTT_MS = 50.0
"""Of traces that record none: what LTE has when it is quiet."""


class Link(Protocol):
    """What a simulator or a proxy needs of a link. Times are ns since the run's start."""

    def rtt_ns(self, now_ns: int) -> int:
        """Round trip of an empty message that begins now."""
        ...

    def sent_ns(self, now_ns: int, size_bytes: int) -> int | None:
        """When the last byte of an upload that begins now on an idle uplink has left it, propagation excluded; None if
        not within MAX_OUTAGE_NS.
        """
        ...

    def capacity_bytes(self, from_ns: int, to_ns: int) -> float:
        """What the uplink can carry in between."""
        ...


@dataclass(frozen=True)
class ConstantLink:
    """A link that never changes. A rate of 0 is a link that is down."""

    rate_bps: int
    round_trip_ns: int

    def __post_init__(self) -> None:
        _check_not_negative(self.rate_bps, self.round_trip_ns)

    def rtt_ns(self, now_ns: int) -> int:  # noqa: ARG002, D102
        return self.round_trip_ns

    def sent_ns(self, now_ns: int, size_bytes: int) -> int | None:  # noqa: D102
        return _sent_at_rate_ns(self.rate_bps, now_ns, size_bytes)

    def capacity_bytes(self, from_ns: int, to_ns: int) -> float:  # noqa: D102
        return self.rate_bps * (to_ns - from_ns) / UNITS_PER_BYTE


@dataclass(frozen=True)
class RampLink:
    """A constant rate and a round trip that rises and falls as a trapezium: DEMS-A's network variability (arXiv
    2412.20860, section 8).

    A period starts quiet at round_trip_ns, rises by extra_ns over ramp_ns, stays for hold_ns and falls over ramp_ns.
    """

    rate_bps: int
    round_trip_ns: int
    extra_ns: int = 400_000_000
    period_ns: int = 300 * 10**9
    ramp_ns: int = 60 * 10**9
    hold_ns: int = 60 * 10**9
    offset_ns: int = 0

    def __post_init__(self) -> None:
        _check_not_negative(self.rate_bps, self.round_trip_ns, self.extra_ns, self.ramp_ns, self.hold_ns)
        if not 0 < 2 * self.ramp_ns + self.hold_ns <= self.period_ns:
            raise ValueError("two ramps and the hold must be longer than 0 and fit into the period")

    def rtt_ns(self, now_ns: int) -> int:  # noqa: D102
        left_ns = self.period_ns - (now_ns + self.offset_ns) % self.period_ns
        risen_ns = 2 * self.ramp_ns + self.hold_ns - left_ns
        if risen_ns < 0:
            return self.round_trip_ns
        if min(risen_ns, left_ns) >= self.ramp_ns:
            return self.round_trip_ns + self.extra_ns
        return self.round_trip_ns + self.extra_ns * min(risen_ns, left_ns) // self.ramp_ns

    def sent_ns(self, now_ns: int, size_bytes: int) -> int | None:  # noqa: D102
        return _sent_at_rate_ns(self.rate_bps, now_ns, size_bytes)

    def capacity_bytes(self, from_ns: int, to_ns: int) -> float:  # noqa: D102
        return self.rate_bps * (to_ns - from_ns) / UNITS_PER_BYTE


@dataclass(frozen=True)
class TraceLink:
    """A recorded link that repeats, entered at offset_ns. round_trip_ns replaces what the trace says; None: the
    trace's, or DEFAULT_RTT_MS.
    """

    trace: Trace
    round_trip_ns: int | None = None
    offset_ns: int = 0

    def rtt_ns(self, now_ns: int) -> int:  # noqa: D102
        if self.round_trip_ns is not None:
            return self.round_trip_ns
        recorded_ns = self.trace.rtt_ns(now_ns + self.offset_ns)
        return round(DEFAULT_RTT_MS * 1e6) if recorded_ns is None else recorded_ns

    def sent_ns(self, now_ns: int, size_bytes: int) -> int | None:  # noqa: D102
        if size_bytes <= 0:
            return _nothing_sent_ns(now_ns, size_bytes)
        begun = self.trace.units_until(now_ns + self.offset_ns)
        reached_ns = self.trace.reaches_ns(begun + size_bytes * UNITS_PER_BYTE)
        if reached_ns is None:
            return None
        sent_ns = reached_ns - self.offset_ns
        return sent_ns if sent_ns - now_ns <= MAX_OUTAGE_NS else None

    def capacity_bytes(self, from_ns: int, to_ns: int) -> float:  # noqa: D102
        until, before = (self.trace.units_until(when_ns + self.offset_ns) for when_ns in (to_ns, from_ns))
        return (until - before) / UNITS_PER_BYTE


@dataclass(frozen=True)
class GilbertElliottLink:
    """Two states with exponential sojourn times, a good one and one with a low rate or an outage (Gilbert 1960, Elliott
    1963; here in continuous time and with rates for error probabilities).

    Starts good. The states of duration_ns are drawn once from the seed, and repeat.
    """

    good_bps: int
    bad_bps: int
    mean_good_ns: int
    mean_bad_ns: int
    good_rtt_ns: int
    bad_rtt_ns: int
    seed: int
    duration_ns: int = 3600 * 10**9
    offset_ns: int = 0

    def __post_init__(self) -> None:
        _check_not_negative(self.good_bps, self.bad_bps, self.good_rtt_ns, self.bad_rtt_ns)
        if min(self.mean_good_ns, self.mean_bad_ns, self.duration_ns) <= 0:
            raise ValueError("sojourn times and the duration must be above 0")
        if self.duration_ns > MAX_SOJOURNS * (self.mean_good_ns + self.mean_bad_ns):
            raise ValueError(f"more than {MAX_SOJOURNS} sojourns; shorten the duration")

    @cached_property
    def link(self) -> TraceLink:
        """The states that were drawn."""
        generator = random.Random(self.seed)  # noqa: S311
        times_ns, rates_bps, rtts_ns, is_good = [0], [], [], True
        while times_ns[-1] < self.duration_ns:
            mean_ns = self.mean_good_ns if is_good else self.mean_bad_ns
            stay_ns = max(1, round(generator.expovariate(1.0) * mean_ns))
            times_ns.append(min(self.duration_ns, times_ns[-1] + stay_ns))
            rates_bps.append(self.good_bps if is_good else self.bad_bps)
            rtts_ns.append(self.good_rtt_ns if is_good else self.bad_rtt_ns)
            is_good = not is_good
        return TraceLink(steps_trace(times_ns, rates_bps, rtts_ns), offset_ns=self.offset_ns)

    def rtt_ns(self, now_ns: int) -> int:  # noqa: D102
        return self.link.rtt_ns(now_ns)

    def sent_ns(self, now_ns: int, size_bytes: int) -> int | None:  # noqa: D102
        return self.link.sent_ns(now_ns, size_bytes)

    def capacity_bytes(self, from_ns: int, to_ns: int) -> float:  # noqa: D102
        return self.link.capacity_bytes(from_ns, to_ns)


MAX_SOJOURNS = 500_000


def _check_not_negative(*values: int) -> None:
    if min(values) < 0:
        raise ValueError(f"rates and times must be at least 0, not {min(values)}")


def _nothing_sent_ns(now_ns: int, size_bytes: int) -> int:
    if size_bytes < 0:
        raise ValueError(f"size_bytes {size_bytes} must be at least 0")
    return now_ns


def _sent_at_rate_ns(rate_bps: int, now_ns: int, size_bytes: int) -> int | None:
    if size_bytes <= 0:
        return _nothing_sent_ns(now_ns, size_bytes)
    if rate_bps == 0:
        return None
    needed_ns = -(-size_bytes * UNITS_PER_BYTE // rate_bps)
    return now_ns + needed_ns if needed_ns <= MAX_OUTAGE_NS else None


# --- from settings -------------------------------------------------------------------------------------------------


def load_link(spec: Mapping[str, Any], seed: int = 0, offset_ns: int = 0) -> Link:
    """A link from its settings, see the head of this module. offset_ns: start that far inside of what varies.

    Raises UserError that names what is wrong.
    """
    if not isinstance(spec, Mapping):
        raise UserError(f"a link is a mapping such as {{model: constant, rate_mbps: 50}}, not {str(spec)[:60]!r}")
    settings = dict(spec)
    if "trace" in settings:
        if "model" in settings:
            raise UserError("a link has either a model or a trace, not both")
        return _trace_link(_Settings("trace", settings, _TRACE_DEFAULTS), offset_ns)
    if "model" not in settings:
        raise UserError(f"a link wants a model ({', '.join(_MODELS)}) or a trace: PATH")
    model = str(settings.pop("model"))
    if model not in _MODELS:
        raise UserError(f"link model {model!r} is unknown; {nearest_hint(model, _MODELS)}")
    build, defaults = _MODELS[model]
    return build(_Settings(model, settings, defaults), seed, offset_ns)


def link_from_text(text: str, seed: int = 0, offset_ns: int = 0) -> Link:
    """A link from the command line: a trace's path, or MODEL:key=value,key=value. Raises UserError."""
    model, colon, rest = text.partition(":")
    if not colon or rest.startswith(":") or "=" not in rest:
        if text in _MODELS:
            return load_link({"model": text}, seed, offset_ns)
        path, _, pairs = text.partition(",")
        return load_link({"trace": path} | _pairs(text, pairs), seed, offset_ns)
    return load_link({"model": model} | _pairs(text, rest), seed, offset_ns)


def _pairs(text: str, pairs: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for pair in filter(None, pairs.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or key in settings or key in ("model", "trace"):
            raise UserError(f"{text}: {pair!r} should be key=value, each key once")
        settings[key] = value
    return settings


class _Settings:
    """Settings that have defaults, as numbers within limits. A default of None: the setting is required."""

    def __init__(self, model: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._model = model
        for key in given:
            if key not in defaults:
                raise UserError(f"link {model}: no setting {key!r}; {nearest_hint(str(key), defaults)}")
        self._values = dict(defaults) | dict(given)

    def text(self, key: str) -> str:
        return str(self._values[key])

    def number(self, key: str, low: float, high: float) -> float:
        value = self._values[key]
        if value is None:
            raise UserError(f"link {self._model} wants {key}")
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not low <= number <= high:
            raise UserError(f"link {self._model}: {key} {str(value)[:40]} must be a number of {low:g} to {high:g}")
        return number

    def is_given(self, key: str) -> bool:
        return self._values[key] is not None

    def rate_bps(self, key: str) -> int:
        return round(self.number(key, 0, 1e6) * 1e6)

    def ms_ns(self, key: str) -> int:
        return round(self.number(key, 0, 60_000) * 1e6)

    def s_ns(self, key: str, low_s: float = 0.0) -> int:
        return round(self.number(key, low_s, MAX_DURATION_NS / 1e9) * 1e9)


def _constant_link(settings: _Settings, seed: int, offset_ns: int) -> Link:  # noqa: ARG001
    rtt_ns, loss = settings.ms_ns("rtt_ms"), settings.number("loss", 0, 1)
    rate_bps = goodput_bps(settings.rate_bps("rate_mbps"), rtt_ns, loss)
    return ConstantLink(rate_bps, lossy_rtt_ns(rtt_ns, loss))


def _ramp_link(settings: _Settings, seed: int, offset_ns: int) -> Link:  # noqa: ARG001
    period_ns, ramp_ns, hold_ns = (settings.s_ns(key) for key in ("period_s", "ramp_s", "hold_s"))
    if not 0 < 2 * ramp_ns + hold_ns <= period_ns:
        raise UserError("link ramp: period_s must be at least 2 ramp_s + hold_s, and that above 0")
    return RampLink(
        rate_bps=settings.rate_bps("rate_mbps"),
        round_trip_ns=settings.ms_ns("rtt_ms"),
        extra_ns=settings.ms_ns("extra_rtt_ms"),
        period_ns=period_ns,
        ramp_ns=ramp_ns,
        hold_ns=hold_ns,
        offset_ns=offset_ns,
    )


def _gilbert_elliott_link(settings: _Settings, seed: int, offset_ns: int) -> Link:
    rtt_ns = settings.ms_ns("rtt_ms")
    good_ns, bad_ns = settings.s_ns("good_s", 1e-3), settings.s_ns("bad_s", 1e-3)
    duration_ns = settings.s_ns("duration_s", 1e-3)
    if duration_ns > MAX_SOJOURNS * (good_ns + bad_ns):
        raise UserError(f"link gilbert_elliott: more than {MAX_SOJOURNS} sojourns; shorten duration_s")
    return GilbertElliottLink(
        good_bps=settings.rate_bps("rate_mbps"),
        bad_bps=settings.rate_bps("bad_mbps"),
        mean_good_ns=good_ns,
        mean_bad_ns=bad_ns,
        good_rtt_ns=rtt_ns,
        bad_rtt_ns=settings.ms_ns("bad_rtt_ms") if settings.is_given("bad_rtt_ms") else rtt_ns,
        seed=seed,
        duration_ns=duration_ns,
        offset_ns=offset_ns,
    )


def _trace_link(settings: _Settings, offset_ns: int) -> Link:
    rtt_ns = settings.ms_ns("rtt_ms") if settings.is_given("rtt_ms") else None
    direction: Any = settings.text("direction") if settings.is_given("direction") else None
    if direction not in (None, "down", "up"):
        raise UserError(f"link trace: direction {direction!r} must be down or up")
    trace = read_trace(
        settings.text("trace"),
        scale=settings.number("scale", 1e-6, 1e4),
        direction=direction,
        default_rtt_ns=round(DEFAULT_RTT_MS * 1e6) if rtt_ns is None else rtt_ns,
    )
    return TraceLink(trace, rtt_ns, offset_ns)


_RAMP_S = {"period_s": 300, "ramp_s": 60, "hold_s": 60}
_MODELS: dict[str, tuple[Callable[[_Settings, int, int], Link], dict[str, Any]]] = {
    "constant": (_constant_link, {"rate_mbps": None, "rtt_ms": DEFAULT_RTT_MS, "loss": 0}),
    "ramp": (_ramp_link, {"rate_mbps": None, "rtt_ms": DEFAULT_RTT_MS, "extra_rtt_ms": 400} | _RAMP_S),
    "gilbert_elliott": (
        _gilbert_elliott_link,
        {"rate_mbps": None, "bad_mbps": 0, "good_s": 30, "bad_s": 3, "rtt_ms": DEFAULT_RTT_MS, "bad_rtt_ms": None}
        | {"duration_s": 3600},
    ),
}
_TRACE_DEFAULTS: dict[str, Any] = {"trace": None, "scale": 1, "rtt_ms": None, "direction": None}
