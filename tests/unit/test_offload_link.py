from __future__ import annotations

import math
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from offload.link import (
    MAX_OUTAGE_NS,
    ConstantLink,
    GilbertElliottLink,
    Link,
    RampLink,
    TraceLink,
    link_from_text,
    load_link,
)
from offload.traces import UNITS_PER_BYTE, steps_trace
from tercel.core.errors import UserError

S = 10**9
MS = 10**6
RATES_BPS = st.sampled_from([0, 1, 7, 9_600, 1_000_000, 12_345_678, 1_000_000_000])


@st.composite
def trace_links(draw: st.DrawFn) -> TraceLink:
    pieces = draw(st.lists(st.tuples(st.integers(1, 5 * S), RATES_BPS), min_size=1, max_size=12))
    times_ns = [0]
    for length_ns, _ in pieces:
        times_ns.append(times_ns[-1] + length_ns)
    return TraceLink(steps_trace(times_ns, [rate for _, rate in pieces]), offset_ns=draw(st.integers(0, 20 * S)))


gilbert_elliott_links = st.builds(
    GilbertElliottLink,
    good_bps=RATES_BPS,
    bad_bps=RATES_BPS,
    mean_good_ns=st.integers(S // 10, 3 * S),
    mean_bad_ns=st.integers(S // 10, 3 * S),
    good_rtt_ns=st.just(10 * MS),
    bad_rtt_ns=st.just(90 * MS),
    seed=st.integers(0, 99),
    duration_ns=st.integers(1, 30 * S),
    offset_ns=st.integers(0, 10 * S),
)
LINKS: st.SearchStrategy[Any] = st.one_of(
    st.builds(ConstantLink, RATES_BPS, st.just(30 * MS)),
    st.builds(RampLink, RATES_BPS, st.just(30 * MS), offset_ns=st.integers(0, 900 * S)),
    trace_links(),
    gilbert_elliott_links,
)
INSTANTS_NS = st.integers(0, 100 * S)
SIZES_BYTES = st.integers(0, 200_000)


def or_never(when_ns: int | None) -> float:
    return math.inf if when_ns is None else when_ns


def link_ns(link: Link, now_ns: int, size_bytes: int) -> int:
    sent_ns = link.sent_ns(now_ns, size_bytes)
    assert sent_ns is not None
    return sent_ns


def walked_ns(link: TraceLink, now_ns: int, size_bytes: int) -> int | None:
    """The oracle: piece by piece through the trace, in exact fractions of a bit."""
    trace, left_bits = link.trace, Fraction(8 * size_bytes)
    inside_ns = (now_ns + link.offset_ns) % trace.period_ns
    i = max(k for k, start_ns in enumerate(trace.times_ns[:-1]) if start_ns <= inside_ns)
    at_ns, into_ns = now_ns, inside_ns - trace.times_ns[i]
    while at_ns <= now_ns + MAX_OUTAGE_NS and max(trace.rates_bps) > 0:
        length_ns = trace.times_ns[i + 1] - trace.times_ns[i] - into_ns
        carried_bits = Fraction(trace.rates_bps[i] * length_ns, S)
        if carried_bits >= left_bits:
            when_ns = at_ns + math.ceil(left_bits * S / trace.rates_bps[i])
            return when_ns if when_ns - now_ns <= MAX_OUTAGE_NS else None
        left_bits -= carried_bits
        at_ns, into_ns, i = at_ns + length_ns, 0, (i + 1) % len(trace.rates_bps)
    return None


# --- what holds for every link -------------------------------------------------------------------------------------


@given(LINKS, INSTANTS_NS, st.integers(0, 5 * S), SIZES_BYTES, SIZES_BYTES)
@settings(deadline=None)
def test_an_upload_that_begins_later_or_is_larger_never_ends_earlier(
    link: Link, now_ns: int, delay_ns: int, size_bytes: int, more_bytes: int
) -> None:
    sent_ns = link.sent_ns(now_ns, size_bytes)
    assert now_ns <= or_never(sent_ns) <= or_never(link.sent_ns(now_ns, size_bytes + more_bytes))
    later_ns = link.sent_ns(now_ns + delay_ns, size_bytes)
    if later_ns is not None and sent_ns is not None:
        assert sent_ns <= later_ns


@given(LINKS, INSTANTS_NS, INSTANTS_NS, INSTANTS_NS)
@settings(deadline=None)
def test_capacities_of_neighbouring_intervals_add_up(link: Link, a_ns: int, b_ns: int, c_ns: int) -> None:
    first_ns, middle_ns, last_ns = sorted((a_ns, b_ns, c_ns))
    parts = link.capacity_bytes(first_ns, middle_ns) + link.capacity_bytes(middle_ns, last_ns)
    assert link.capacity_bytes(first_ns, last_ns) == pytest.approx(parts, rel=1e-12, abs=1e-12)
    assert link.capacity_bytes(first_ns, middle_ns) >= 0


@given(LINKS, INSTANTS_NS, st.integers(1, 200_000))
@settings(deadline=None)
def test_an_upload_ends_at_the_first_nanosecond_at_which_it_fits(link: Link, now_ns: int, size_bytes: int) -> None:
    sent_ns = link.sent_ns(now_ns, size_bytes)
    if sent_ns is None:
        assert link.capacity_bytes(now_ns, now_ns + MAX_OUTAGE_NS) < size_bytes
    else:
        assert link.capacity_bytes(now_ns, sent_ns) >= size_bytes
        assert link.capacity_bytes(now_ns, sent_ns - 1) < size_bytes


@given(LINKS, INSTANTS_NS, SIZES_BYTES, SIZES_BYTES)
@settings(deadline=None)
def test_two_uploads_end_to_end_take_no_longer_than_one_of_both_but_for_rounding(
    link: Link, now_ns: int, first_bytes: int, second_bytes: int
) -> None:
    middle_ns = link.sent_ns(now_ns, first_bytes)
    whole_ns = link.sent_ns(now_ns, first_bytes + second_bytes)
    if middle_ns is None or whole_ns is None:
        return
    assert link.sent_ns(middle_ns, second_bytes) is not None
    # the first ends within its last nanosecond, of which the second loses the rest: less than a byte at 1 Gbit/s
    assert link.sent_ns(middle_ns, max(0, second_bytes - 1)) <= whole_ns  # type: ignore[operator]


@given(trace_links(), INSTANTS_NS, st.integers(1, 200_000))
@settings(deadline=None, max_examples=200)
def test_a_trace_agrees_with_a_walk_through_its_pieces(link: TraceLink, now_ns: int, size_bytes: int) -> None:
    rounds = size_bytes * UNITS_PER_BYTE / max(1, link.trace.units[-1])
    assume(min(rounds, MAX_OUTAGE_NS / link.trace.period_ns) < 500)  # or the walk would take for ever
    assert link.sent_ns(now_ns, size_bytes) == walked_ns(link, now_ns, size_bytes)


@given(LINKS, INSTANTS_NS)
@settings(deadline=None)
def test_nothing_takes_no_time_and_less_than_nothing_is_a_mistake(link: Link, now_ns: int) -> None:
    assert link.sent_ns(now_ns, 0) == now_ns
    with pytest.raises(ValueError, match="at least 0"):
        link.sent_ns(now_ns, -1)


@given(trace_links(), INSTANTS_NS, SIZES_BYTES)
@settings(deadline=None)
def test_an_offset_is_a_shift_of_time(link: TraceLink, now_ns: int, size_bytes: int) -> None:
    unshifted = TraceLink(link.trace)
    sent_ns = unshifted.sent_ns(now_ns + link.offset_ns, size_bytes)
    assert link.sent_ns(now_ns, size_bytes) == (None if sent_ns is None else sent_ns - link.offset_ns)


# --- each model ----------------------------------------------------------------------------------------------------


def test_100_kb_take_16_ms_at_50_mbps() -> None:
    link = load_link({"model": "constant", "rate_mbps": 50, "rtt_ms": 30})
    assert link.sent_ns(5 * S, 100_000) == 5 * S + 16 * MS
    assert link.rtt_ns(0) == 30 * MS
    assert link.capacity_bytes(0, S) == 6_250_000


def test_loss_lowers_goodput_as_mathis_says_and_repeats_round_trips() -> None:
    link = load_link({"model": "constant", "rate_mbps": 50, "rtt_ms": 100, "loss": 0.01})
    mathis_bps = 1460 * 8 / 0.1 * math.sqrt(3 / 2) / math.sqrt(0.01)  # 1.43 Mbit/s
    assert link.capacity_bytes(0, S) == pytest.approx(mathis_bps / 8, rel=1e-6)
    assert link.rtt_ns(0) == pytest.approx(100 * MS / 0.99, abs=1)
    slow = load_link({"model": "constant", "rate_mbps": 1, "rtt_ms": 10, "loss": 0.01})
    assert slow.capacity_bytes(0, S) == pytest.approx(0.99e6 / 8)
    assert load_link({"model": "constant", "rate_mbps": 1, "loss": 1}).sent_ns(0, 1) is None


def test_a_ramp_is_a_trapezium() -> None:
    link = load_link({"model": "ramp", "rate_mbps": 10, "rtt_ms": 30})
    seen_ms = {second: link.rtt_ns(second * S) / MS for second in (0, 119, 120, 150, 180, 210, 240, 270, 300, 450)}
    assert seen_ms == {
        0: 30, 119: 30, 120: 30, 150: 230, 180: 430, 210: 430, 240: 430, 270: 230, 300: 30, 450: 230
    }  # fmt: skip
    mean_ms = sum(link.rtt_ns(second * S) for second in range(300)) / 300 / MS
    assert mean_ms == pytest.approx(30 + 400 * (60 + 60) / 300)
    assert load_link({"model": "ramp", "rate_mbps": 10}, offset_ns=150 * S).rtt_ns(0) == 250 * MS


def test_a_ramp_of_no_length_is_a_step() -> None:
    link = load_link({"model": "ramp", "rate_mbps": 1, "rtt_ms": 5, "period_s": 10, "ramp_s": 0, "hold_s": 4})
    assert [link.rtt_ns(second * S) // MS for second in range(10)] == [5] * 6 + [405] * 4


def test_gilbert_elliott_stays_in_a_state_for_exponential_times() -> None:
    spec = {"model": "gilbert_elliott", "rate_mbps": 8, "good_s": 3, "bad_s": 1, "duration_s": 20_000}
    link = load_link(spec, seed=4)
    assert isinstance(link, GilbertElliottLink)
    trace = link.link.trace
    stays_s = [(later - time_ns) / S for time_ns, later in zip(trace.times_ns, trace.times_ns[1:], strict=False)]
    assert set(trace.rates_bps[::2]) == {8_000_000}
    assert set(trace.rates_bps[1::2]) == {0}
    assert kstest(stays_s[:-1:2], "expon", args=(0, 3)).pvalue > 0.01
    assert kstest(stays_s[1:-1:2], "expon", args=(0, 1)).pvalue > 0.01
    assert link.capacity_bytes(0, 20_000 * S) == pytest.approx(20_000 * 1e6 * 0.75, rel=0.03)


def test_gilbert_elliott_is_the_same_for_the_same_seed_alone() -> None:
    spec = {"model": "gilbert_elliott", "rate_mbps": 8, "good_s": 3, "bad_s": 1}
    links = [load_link(spec, seed) for seed in (1, 1, 2)]
    seen = [[link.sent_ns(k * S, 50_000) for k in range(500)] for link in links]
    assert seen[0] == seen[1] != seen[2]


def test_each_state_has_its_own_rate_and_round_trip() -> None:
    spec = {"model": "gilbert_elliott", "rate_mbps": 8, "bad_mbps": 1, "rtt_ms": 20, "bad_rtt_ms": 200}
    link = load_link(spec | {"good_s": 1, "bad_s": 1})
    seen = {(link.rtt_ns(k * MS) // MS, link.capacity_bytes(k * MS, k * MS + 8000)) for k in range(0, 100_000, 97)}
    assert seen == {(20, 8), (200, 1)}


def test_what_cannot_leave_within_ten_minutes_never_leaves() -> None:
    link = TraceLink(steps_trace([0, S, 1000 * S], [8_000_000, 0]))
    assert link.sent_ns(0, 1_000_000) == S
    assert link.sent_ns(0, 1_000_001) is None
    assert link.sent_ns(399 * S, 1) is None
    assert link.sent_ns(401 * S, 1) == 1000 * S + 1000
    assert ConstantLink(0, 0).sent_ns(0, 1) is None
    assert ConstantLink(8, 0).sent_ns(0, 600) == 600 * S
    assert ConstantLink(8, 0).sent_ns(0, 601) is None


def test_a_call_takes_microseconds_on_a_long_trace() -> None:
    times_ns = list(range(0, 400_001 * MS, MS))
    link: Link = TraceLink(steps_trace(times_ns, [k % 7 * 1_000_000 for k in range(400_000)]))
    took_s = []
    for _ in range(20):
        began_s = time.perf_counter()
        for k in range(500):
            link.sent_ns(k * 817 * MS, 40_000)
        took_s.append(time.perf_counter() - began_s)
    assert min(took_s) / 500 < 50e-6  # 4 on an idle machine; a walk would take thousands


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "wants a model"),
        ({"model": "constnat"}, "did you mean 'constant'"),
        ({"model": "constant"}, "wants rate_mbps"),
        ({"model": "constant", "rate_mpbs": 5}, "did you mean 'rate_mbps'"),
        ({"model": "constant", "rate_mbps": "fast"}, "number of 0 to"),
        ({"model": "constant", "rate_mbps": True}, "number of 0 to"),
        ({"model": "constant", "rate_mbps": math.nan}, "number of 0 to"),
        ({"model": "constant", "rate_mbps": -1}, "number of 0 to"),
        ({"model": "constant", "rate_mbps": [1]}, "number of 0 to"),
        ({"model": "constant", "rate_mbps": 1, "loss": 1.5}, "loss"),
        ({"model": "constant", "rate_mbps": 1, 5: 5}, "no setting 5"),
        ({"model": "ramp", "rate_mbps": 1, "period_s": 10}, "2 ramp_s"),
        ({"model": "gilbert_elliott", "rate_mbps": 1, "good_s": 0}, "good_s"),
        ({"model": "gilbert_elliott", "rate_mbps": 1, "good_s": 0.001, "bad_s": 0.001}, "shorten duration_s"),
        ({"model": "constant", "trace": "x"}, "not both"),
        ({"trace": "/nowhere/x"}, "no such trace"),
        ({"trace": "x", "direction": "left"}, "down or up"),
        ({"trace": "x", "scale": 0}, "scale"),
        ([1, 2], "mapping"),
    ],
)
def test_a_wrong_setting_is_one_line_with_the_mend(spec: Any, words: str) -> None:
    with pytest.raises(UserError) as raised:
        load_link(spec)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_link_can_be_written_on_the_command_line() -> None:
    assert link_from_text("constant:rate_mbps=5,rtt_ms=40") == ConstantLink(5_000_000, 40 * MS)
    assert isinstance(link_from_text("ramp:rate_mbps=5"), RampLink)
    elliott = link_from_text("gilbert_elliott:rate_mbps=5,bad_s=2", seed=3, offset_ns=7)
    assert isinstance(elliott, GilbertElliottLink)
    assert (elliott.seed, elliott.offset_ns, elliott.mean_bad_ns) == (3, 7, 2 * S)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("constant", "wants rate_mbps"),
        ("constant:rate_mbps=1,rate_mbps=2", "each key once"),
        ("constant:rate_mbps=1,5", "key=value"),
        ("nowhere.gz", "no such trace"),
        ("nowhere.gz,scale=two", "scale"),
    ],
)
def test_a_wrong_link_on_the_command_line_is_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        link_from_text(text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConstantLink(-1, 0),
        lambda: RampLink(1, 0, ramp_ns=200 * S),
        lambda: GilbertElliottLink(1, 0, 0, 1, 0, 0, 0),
        lambda: GilbertElliottLink(1, 0, 1, 1, 0, 0, 0),
    ],
)
def test_a_link_that_makes_no_sense_is_a_programmers_mistake(make: Callable[[], Link]) -> None:
    with pytest.raises(ValueError, match=r"must|sojourns"):
        make()
