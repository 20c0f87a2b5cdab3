"""Stamps that must rise, of a sensor whose clock may leap."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from tercel.core.errors import Rejected

__all__ = ["StampOrder", "longest_rising"]

# So many in a row behind the newest, rising among themselves, are no stragglers: the newest one was wrong, or the clock
# was set back.
TURNED_AFTER = 3


class StampOrder:
    """The newest stamp of a stream, and how long after it another one is. name: what complaints call a stamp."""

    def __init__(self, name: str = "stamp") -> None:
        self.name = name
        self.newest_ns: int | None = None
        self._late = 0  # how many late stamps in a row have risen, the first of them, and the last
        self._late_from_ns = self._late_to_ns = 0

    def step_ns(self, stamp_ns: int) -> int | None:
        """How long after the newest stamp this one is; None for the first, and where the clock must have leapt.

        Raises Rejected for a straggler: a stamp not after the newest one, and not the third such that rises.
        """
        if self.newest_ns is None:
            return None
        if stamp_ns > self.newest_ns:
            self._late = 0
            return stamp_ns - self.newest_ns
        if self._late == 0 or stamp_ns < self._late_to_ns:
            self._late, self._late_from_ns = 1, stamp_ns
        elif stamp_ns > self._late_to_ns:
            self._late += 1
        else:  # a duplicate says nothing
            raise Rejected(f"{self.name} not after the one before")
        self._late_to_ns = stamp_ns
        if self._late < TURNED_AFTER:
            raise Rejected(f"{self.name} not after the one before")
        return None

    def since_leap_ns(self) -> int:
        """Where the clock has leapt: how long ago the newest message came, if all came evenly."""
        return (self._late_to_ns - self._late_from_ns) * self._late // max(self._late - 1, 1)

    def accept(self, stamp_ns: int) -> None:
        """This message was taken in: its stamp is the newest from now on."""
        self.newest_ns = stamp_ns
        self._late = 0


def longest_rising(stamps_ns: Sequence[int]) -> list[int]:
    """Rows of the longest part of the stamps that rises from each to the next (patience sorting)."""
    tails: list[int] = []  # the lowest stamp that a rising part of each length can end with, and below, its row
    rows: list[int] = []
    before: list[int] = []
    for row, stamp_ns in enumerate(stamps_ns):
        length = bisect_left(tails, stamp_ns)
        tails[length : length + 1], rows[length : length + 1] = [stamp_ns], [row]
        before.append(rows[length - 1] if length else -1)
    part: list[int] = []
    row = rows[-1] if rows else -1
    while row >= 0:
        part.append(row)
        row = before[row]
    return part[::-1]
