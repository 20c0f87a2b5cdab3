"""What time stamps are compared with: what /clock says, where somebody plays or simulates, else another clock."""

from __future__ import annotations

import struct

from tercel.ros.transport import Data

CLOCK_TYPE = "rosgraph_msgs/msg/Clock"
_HOLDS_NS = 1_000_000_000


class HeardClock:
    """The newest time of /clock; it holds for a second. now_ns is a clock that never goes back."""

    def __init__(self) -> None:
        self._heard: tuple[int, int] | None = None

    def hear(self, data: Data, now_ns: int) -> None:
        """One serialised rosgraph_msgs/Clock; what is none is left out."""
        if len(data) == 12:
            sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
            self._heard = (now_ns, sec * 10**9 + nanosec)

    def ns(self, now_ns: int, otherwise_ns: int) -> int:
        """The time that it says; otherwise_ns where it is silent."""
        if self._heard is None or now_ns - self._heard[0] > _HOLDS_NS:
            return otherwise_ns
        return self._heard[1]
