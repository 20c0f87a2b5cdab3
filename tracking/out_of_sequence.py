"""Measurements that arrive late take their place in time: a bounded history, filtered again from where they belong.

A late measurement is inserted where its key says, between the state before it and all that came after it, and the steps
from there on are made again, association and life cycle included. Closed forms that correct the present state instead
(Bar-Shalom, Update with out-of-sequence measurements in tracking: exact solution, 2002) are cheaper, but they hold one
association and one life cycle fixed: a box that comes 200 ms late would never keep a track from being forgotten, or
turn a wrong match into the right one. Made again, the result is that of in-order arrival, to the last bit, whatever the
order was; a test holds it. What it costs is bounded by the span of the history and the number of its entries.

The state is the caller's: any value that `step` never changes in place.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tercel.core.errors import Rejected

Key = tuple[int, int, str]

DUPLICATE = "duplicate stamp"
TOO_LATE = "older than the history reaches"


class Measurement(Protocol):
    """What can be placed in a history."""

    @property
    def key(self) -> Key:
        """Its place: stamp_ns, then the rank of its kind, then its source, so that no two share a place."""
        ...


State = TypeVar("State")
M = TypeVar("M", bound=Measurement)
Account = TypeVar("Account")


@dataclass(frozen=True, eq=False)
class Entry(Generic[State, M, Account]):
    """A measurement in its place, what the step with it said, and the state after it."""

    measurement: M
    account: Account
    state: State


class History(Generic[State, M, Account]):
    """States after each of the measurements of the last span_ns, at most max_entries of them.

    step(state, measurement) -> (state after it, account of it). `repeated` counts the steps that were made again.
    """

    def __init__(
        self,
        start: State,
        step: Callable[[State, M], tuple[State, Account]],
        *,
        span_ns: int,
        max_entries: int,
    ) -> None:
        if span_ns < 0 or max_entries < 1:
            raise ValueError(f"span_ns must be 0 or more and max_entries 1 or more, not {span_ns} and {max_entries}")
        self._step = step
        self._span_ns, self._max_entries = span_ns, max_entries
        self._base: State = start  # after all that is older than the first entry
        self._base_key: Key | None = None
        self._keys: list[Key] = []
        self._entries: list[Entry[State, M, Account]] = []
        self._settled: list[Account] = []
        self.repeated = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def newest_ns(self) -> int | None:
        """The stamp of the newest measurement, None before the first."""
        if self._keys:
            return self._keys[-1][0]
        return None if self._base_key is None else self._base_key[0]

    @property
    def state(self) -> State:
        """The state after all measurements."""
        return self._entries[-1].state if self._entries else self._base

    @property
    def accounts(self) -> list[Account]:
        """The accounts of the measurements in the history, in order; those of late arrivals' successors may change."""
        return [entry.account for entry in self._entries]

    @property
    def measurements(self) -> list[M]:
        """The measurements in the history, in order."""
        return [entry.measurement for entry in self._entries]

    def state_at(self, stamp_ns: int) -> State:
        """The state after all measurements up to and including this stamp, of those that the history still holds."""
        place = bisect_right(self._keys, stamp_ns, key=lambda key: key[0])
        return self._entries[place - 1].state if place else self._base

    def take_settled(self) -> list[Account]:
        """The accounts of the measurements that have left the history since this was last asked: they are final."""
        settled, self._settled = self._settled, []
        return settled

    def insert(self, measurement: M) -> Account:
        """Put a measurement in its place and make the steps after it again; returns the account of it.

        Raises Rejected, and changes nothing, if it is older than the history reaches or its place is taken.
        """
        key, newest_ns = measurement.key, self.newest_ns
        if self._base_key is not None and key == self._base_key:
            raise Rejected(DUPLICATE)
        if newest_ns is not None and key[0] < newest_ns - self._span_ns:
            raise Rejected(TOO_LATE)
        if self._base_key is not None and key < self._base_key:
            raise Rejected(TOO_LATE)
        place = bisect_left(self._keys, key)
        if place < len(self._keys) and self._keys[place] == key:
            raise Rejected(DUPLICATE)
        remade = self._remake(place, measurement)
        self.repeated += len(remade) - 1
        self._entries[place:] = remade
        self._keys.insert(place, key)
        self._prune()
        return remade[0].account

    def _remake(self, place: int, measurement: M) -> list[Entry[State, M, Account]]:
        """The entries from a place on, with the measurement as the first of them."""
        state = self._entries[place - 1].state if place else self._base
        remade = []
        for item in [measurement, *(entry.measurement for entry in self._entries[place:])]:
            state, account = self._step(state, item)
            remade.append(Entry(item, account, state))
        return remade

    def _prune(self) -> None:
        """Let go of what is older than the span, and of what is too much."""
        horizon_ns = self._keys[-1][0] - self._span_ns
        old = bisect_left(self._keys, horizon_ns, key=lambda key: key[0])
        old = max(old, len(self._keys) - self._max_entries)
        if old:
            self._base, self._base_key = self._entries[old - 1].state, self._keys[old - 1]
            self._settled += [entry.account for entry in self._entries[:old]]
            del self._entries[:old], self._keys[:old]
