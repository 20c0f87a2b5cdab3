"""Stamps that must rise, of a sensor whose clock may leap."""

from __future__ import annotations

from tercel.core.errors import Rejected

__all__ = ["StampOrder"]

# So many in a row behind the newest, rising among themselves, are no stragglers: the newest one was wrong, or the clock
# was set back.
TURNED_AFTER = 3


class StampOrder:
    """The newest stamp of a stream, and how long after it another one is."""

    def __init__(self) -> None:
        self.newest_ns: int | None = None
        self._late_ns: list[int] = []

    def step_ns(self, stamp_ns: int) -> int | None:
        """How long after the newest stamp this one is; None for the first, and where the clock must have leapt.

        Raises Rejected for a straggler: a stamp not after the newest one, and not the third such that rises.
        """
        if self.newest_ns is None:
            return None
        if stamp_ns > self.newest_ns:
            self._late_ns.clear()
            return stamp_ns - self.newest_ns
        if self._late_ns and stamp_ns <= self._late_ns[-1]:
            self._late_ns.clear()
        self._late_ns.append(stamp_ns)
        if len(self._late_ns) < TURNED_AFTER:
            raise Rejected("stamp not after the one before")
        return None

    def since_leap_ns(self) -> int:
        """Where the clock has leapt: how long ago the newest message came, if all came evenly."""
        late_ns = self._late_ns
        return (late_ns[-1] - late_ns[0]) * len(late_ns) // max(len(late_ns) - 1, 1)

    def accept(self, stamp_ns: int) -> None:
        """This message was taken in: its stamp is the newest from now on."""
        self.newest_ns = stamp_ns
        self._late_ns.clear()
