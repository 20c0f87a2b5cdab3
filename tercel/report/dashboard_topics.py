"""What the dashboard knows of each topic: how often it comes, how large, how late, and whether it has stopped.

Pure bookkeeping with a bounded memory. Two clocks come from outside: now_ns never goes back and is for ages and rates;
wall_ns is the clock that stamps are of (a board's clock may leap by years when it first hears of the time).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from tercel.ros.transport import Data

MAX_TOPICS = 200
MAX_NAME = 256
MAX_LATENCY_S = 3600.0  # beyond it stamps are of another clock, and their distance says nothing
_BUCKET_NS = 500_000_000
_BUCKETS = 10  # the last five seconds
_SETTLED = 5  # so many messages show what interval is usual
_LEAST_GAP_NS = 2_000_000_000
_FORGOTTEN_AFTER_NS = 600_000_000_000

# Types that begin with a std_msgs/Header.
_WITH_HEADER = (
    "sensor_msgs/msg/",
    "vision_msgs/msg/",
    "nav_msgs/msg/Odometry",
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
)


def peek_stamp_ns(ros_type: str, data: Data) -> int | None:
    """The stamp of a serialised message that begins with a std_msgs/Header, read in place; None if it has none."""
    if not ros_type.startswith(_WITH_HEADER) or len(data) < 12:
        return None
    sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(sec) * 10**9 + int(nanosec) if sec >= 0 and nanosec < 10**9 else None


@dataclass
class Topic:
    """One topic. count and size since it was first heard; interval_ns is a moving mean."""

    name: str
    ros_type: str
    count: int = 0
    last_ns: int = 0
    stamp_ns: int | None = None
    latency_s: float | None = None
    interval_ns: float = 0.0
    is_offered: bool = True
    _first: int | None = None
    _buckets: list[tuple[int, int, int]] = field(default_factory=list)  # (half second, messages, bytes)

    def arrive(self, data: Data, now_ns: int, wall_ns: int) -> None:
        """One more message."""
        if self.count:
            gap_ns = max(now_ns - self.last_ns, 0)
            weight = max(0.1, 1 / self.count)
            # A pause is no interval: the mean would take the length of the last outage for the usual one.
            usual = self.count < _SETTLED or gap_ns < self.silence_ns
            self.interval_ns += weight * (gap_ns - self.interval_ns) if usual else 0.0
        self.count += 1
        self.last_ns = now_ns
        self.stamp_ns = peek_stamp_ns(self.ros_type, data)
        if self.stamp_ns is not None:
            latency_s = (wall_ns - self.stamp_ns) / 1e9
            self.latency_s = latency_s if abs(latency_s) < MAX_LATENCY_S else None
        bucket = now_ns // _BUCKET_NS
        self._first = bucket if self._first is None else self._first
        if self._buckets and self._buckets[-1][0] == bucket:
            _, messages, size = self._buckets[-1]
            self._buckets[-1] = (bucket, messages + 1, size + len(data))
        else:
            self._buckets.append((bucket, 1, len(data)))
            del self._buckets[: -_BUCKETS - 1]

    @property
    def silence_ns(self) -> float:
        """A silence longer than this is no pause between two messages."""
        return max(float(_LEAST_GAP_NS), 5 * self.interval_ns)

    def is_stopped(self, now_ns: int) -> bool:
        """Whether it came regularly and does no longer. Latched and rare topics never have."""
        return self.count >= _SETTLED and now_ns - self.last_ns > self.silence_ns

    def rates(self, now_ns: int) -> tuple[float, float]:
        """Messages and bytes per second over the last ten whole half seconds; that of the first message is none."""
        bucket = now_ns // _BUCKET_NS
        begin = max(bucket - _BUCKETS, bucket if self._first is None else self._first + 1)
        if bucket <= begin:
            return 0.0, 0.0
        rows = [row for row in self._buckets if begin <= row[0] < bucket]
        span_s = (bucket - begin) * _BUCKET_NS / 1e9
        return sum(row[1] for row in rows) / span_s, sum(row[2] for row in rows) / span_s

    def row(self, now_ns: int) -> dict[str, Any]:
        """For the page: JSON, ages and latency in seconds."""
        rate_hz, rate_bps = self.rates(now_ns)
        return {
            "name": self.name,
            "type": self.ros_type,
            "count": self.count,
            "rate_hz": round(rate_hz, 2),
            "rate_bytes": round(rate_bps),
            "age_s": round((now_ns - self.last_ns) / 1e9, 1) if self.count else None,
            "latency_ms": round(self.latency_s * 1e3, 1) if self.latency_s is not None else None,
            "stopped": self.is_stopped(now_ns),
            "offered": self.is_offered,
        }


class TopicTable:
    """The topics by name, MAX_TOPICS at most. `left_out`: how many more are published."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.left_out = 0

    def find(self, name: str, ros_type: str) -> Topic | None:
        """The topic; a new one where it was not known or has another type now. None where there are too many."""
        topic = self.topics.get(name)
        if topic is not None and topic.ros_type == ros_type:
            return topic
        if (topic is None and len(self.topics) >= MAX_TOPICS) or len(name) > MAX_NAME or len(ros_type) > MAX_NAME:
            return None
        self.topics[name] = Topic(name, ros_type)
        return self.topics[name]

    def arrive(self, name: str, ros_type: str, data: Data, now_ns: int, wall_ns: int) -> Topic | None:
        """Count a message; None where its topic is beyond the limit."""
        topic = self.find(name, ros_type)
        if topic is not None:
            topic.arrive(data, now_ns, wall_ns)
        return topic

    def offered(self, topics: dict[str, str]) -> None:
        """Which topics somebody publishes now, with their types."""
        self.left_out = sum(self.find(name, ros_type) is None for name, ros_type in topics.items())
        for topic in self.topics.values():
            topic.is_offered = topics.get(topic.name) == topic.ros_type

    def forget(self, now_ns: int) -> None:
        """Topics that nobody publishes, and that have been silent for ten minutes, are gone for good."""
        for name, topic in list(self.topics.items()):
            if not topic.is_offered and now_ns - topic.last_ns > _FORGOTTEN_AFTER_NS:
                del self.topics[name]

    def rows(self, now_ns: int) -> list[dict[str, Any]]:
        """All topics by name."""
        return [self.topics[name].row(now_ns) for name in sorted(self.topics)]
