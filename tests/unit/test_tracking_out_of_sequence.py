"""Arrival in any order within the bound ends where arrival in order ends; what is beyond the bound is refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.errors import Rejected
from tracking.out_of_sequence import DUPLICATE, TOO_LATE, History, Key

SPAN_NS = 50


@dataclass(frozen=True)
class Event:
    stamp_ns: int
    source: str = "a"

    @property
    def key(self) -> Key:
        return self.stamp_ns, 0, self.source


# A state that remembers the order of every step: nothing that depends on order could hide in it.
State = tuple[tuple[int, str], ...]


def note(state: State, event: Event) -> tuple[State, str]:
    return (*state, (event.stamp_ns, event.source)), f"{event.source}{event.stamp_ns} after {len(state)}"


def history(max_entries: int = 1000) -> History[State, Event, str]:
    return History((), note, span_ns=SPAN_NS, max_entries=max_entries)


@st.composite
def delayed(draw: st.DrawFn) -> list[Event]:
    """Events in order of arrival, none of them more than the span behind the newest that came before it."""
    keys = draw(st.sets(st.tuples(st.integers(0, 300), st.sampled_from("abc")), min_size=1, max_size=40))
    events = [Event(stamp, source) for stamp, source in sorted(keys)]
    delays = draw(st.lists(st.integers(0, SPAN_NS), min_size=len(events), max_size=len(events)))
    order = sorted(range(len(events)), key=lambda i: (events[i].stamp_ns + delays[i], i))
    return [events[i] for i in order]


@given(delayed())
def test_any_order_of_arrival_within_the_bound_ends_as_in_order(events: list[Event]) -> None:
    late, in_order = history(), history()
    for event in events:
        late.insert(event)
    for event in sorted(events, key=lambda event: event.key):
        in_order.insert(event)
    assert late.state == in_order.state == tuple(sorted((e.stamp_ns, e.source) for e in events))
    assert late.take_settled() + late.accounts == in_order.take_settled() + in_order.accounts
    assert late.newest_ns == in_order.newest_ns


@given(st.lists(st.integers(0, 300), max_size=60))
def test_every_event_is_accounted_for_once_or_refused(stamps: list[int]) -> None:
    events, refused = history(max_entries=5), 0
    settled: list[str] = []
    for stamp in stamps:
        try:
            events.insert(Event(stamp))
        except Rejected as reason:
            assert str(reason) in (DUPLICATE, TOO_LATE)
            refused += 1
        settled += events.take_settled()
        assert len(events) <= 5
    assert len(settled) + len(events.accounts) + refused == len(stamps)


def test_in_order_arrival_repeats_no_step_and_a_late_one_only_those_after_it() -> None:
    events = history()
    for stamp in (0, 10, 20, 30):
        events.insert(Event(stamp))
    assert events.repeated == 0
    assert events.insert(Event(15)) == "a15 after 2"
    assert events.repeated == 2
    assert events.state_at(15) == ((0, "a"), (10, "a"), (15, "a"))
    assert events.state_at(29) == ((0, "a"), (10, "a"), (15, "a"), (20, "a"))
    assert events.state_at(-1) == ()


def test_beyond_the_bound_is_refused_and_changes_nothing() -> None:
    events = history()
    for stamp in (0, 100, 120):
        events.insert(Event(stamp))
    before = events.state
    with pytest.raises(Rejected, match=TOO_LATE):
        events.insert(Event(69))
    events.insert(Event(70))
    assert before == ((0, "a"), (100, "a"), (120, "a"))
    assert events.state == ((0, "a"), (70, "a"), (100, "a"), (120, "a"))


def test_what_fell_off_a_full_history_bounds_it_too() -> None:
    events = history(max_entries=2)
    for stamp in (0, 10, 20):
        events.insert(Event(stamp))
    with pytest.raises(Rejected, match=DUPLICATE):
        events.insert(Event(0))
    events.insert(Event(5))
    with pytest.raises(Rejected, match=TOO_LATE):
        events.insert(Event(4))
    assert [stamp for stamp, _ in events.state] == [0, 5, 10, 20]


def test_the_same_stamp_of_the_same_source_is_a_duplicate_and_of_another_is_not() -> None:
    events = history()
    events.insert(Event(0, "b"))
    with pytest.raises(Rejected, match=DUPLICATE):
        events.insert(Event(0, "b"))
    events.insert(Event(0, "a"))
    assert events.state == ((0, "a"), (0, "b"))


def test_a_step_that_fails_leaves_the_history_as_it_was() -> None:
    def fail_on_seven(state: State, event: Event) -> tuple[State, str]:
        if event.stamp_ns == 7 and len(state) > 1:
            raise RuntimeError("seven")
        return note(state, event)

    events: History[State, Event, str] = History((), fail_on_seven, span_ns=SPAN_NS, max_entries=10)
    events.insert(Event(5))
    events.insert(Event(7))
    with pytest.raises(RuntimeError):
        events.insert(Event(6))
    assert events.state == ((5, "a"), (7, "a"))
    assert events.newest_ns == 7


def test_a_gap_of_a_minute_leaves_one_state_behind() -> None:
    events = history()
    events.insert(Event(0))
    events.insert(Event(60_000_000_000))
    assert len(events) == 1
    assert [stamp for stamp, _ in events.state] == [0, 60_000_000_000]


@pytest.mark.parametrize(("span_ns", "max_entries"), [(-1, 1), (0, 0)])
def test_a_bound_that_bounds_nothing_is_a_mistake(span_ns: int, max_entries: int) -> None:
    with pytest.raises(ValueError, match="span_ns"):
        History((), note, span_ns=span_ns, max_entries=max_entries)
