"""Plays a recording onto a transport, as `ros2 bag play` does: the bytes as they were recorded, at their log times.

Nothing is decoded (a ROS 1 bag is converted). Latched topics stay latched. A message that could not be sent at its time
is sent at once, and how late that was is reported.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tercel.core.errors import Rejected, UserError, nearest_hint
from tercel.hosts.live_account import Recent
from tercel.hosts.live_topics import output_qos, wire_name
from tercel.hosts.recording import Recorded, Recording, Topic
from tercel.ros.transport import LATCHED, Publisher, QoS, Transport

MAX_LATCHED = 100
CLOCK_HZ = 100
_CLOCK_TYPE = "rosgraph_msgs/msg/Clock"
_CLOCK_QOS = QoS(reliable=True, depth=1)


@dataclass
class PlayAccount:
    """What was played: messages sent by topic, those that were not by reason, and how late the newest of them were."""

    sent: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    late_ms: Recent = field(default_factory=Recent)
    rounds: int = 0
    wall_s: float = 0.0


class Player:
    """Plays some topics of a recording. Publishers are declared when it is made, so that others find them in time.

    topics: the recording's names; all if empty. remap and namespace as a live host has them. rate: 2 is twice as fast.
    clock: also publish /clock, CLOCK_HZ times a second of wall time. Raises UserError for topics that are not there.
    """

    def __init__(
        self,
        recording: Recording,
        transport: Transport,
        *,
        topics: Collection[str] = (),
        remap: Mapping[str, str] = {},
        namespace: str = "/",
        rate: float = 1.0,
        clock: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        for name in [*topics, *remap]:
            if name not in recording.topics:
                raise UserError(f"{recording.path.name} has no topic {name}; {nearest_hint(name, recording.topics)}")
        if not 0.01 <= rate <= 1000.0:
            raise UserError(f"rate {rate:g}: 0.01 to 1000 is wanted")
        self.recording = recording
        self.account = PlayAccount()
        self._rate = rate
        self._now_ns = recording.start_ns
        self._began_s: float | None = None
        self._publishers: dict[str, Publisher] = {}
        for topic in recording.topics.values():
            if (topics and topic.name not in topics) or not topic.count or (clock and topic.name == "/clock"):
                continue
            try:
                name = wire_name(topic.name, remap, namespace)
                self._publishers[topic.name] = transport.advertise(name, topic.ros_type, _qos(topic))
            except (UserError, KeyError, ValueError) as error:
                say(f"{topic.name} is left out: {topic.ros_type}: {error}")
        self._clock = transport.advertise("/clock", _CLOCK_TYPE, _CLOCK_QOS) if clock else None
        if not self._publishers:
            raise UserError(f"{recording.path.name} has no messages to play")

    def now_ns(self) -> int:
        """The recording's time now: its start before the first message, its end after the last."""
        began_s = self._began_s  # read once: the player's own thread may end it at any moment
        if began_s is None:
            return self._now_ns
        played_ns = round((time.monotonic() - began_s) * 1e9 * self._rate)
        return min(self.recording.start_ns + played_ns, self.recording.end_ns)

    def play(
        self, stop: threading.Event, *, rounds: int | None = 1, progress: Callable[[float], None] = lambda _share: None
    ) -> PlayAccount:
        """Play, until the end or until stop is set. rounds: how often; None: for ever."""
        began_s = time.monotonic()
        while not stop.is_set() and (rounds is None or self.account.rounds < rounds):
            self._play_once(stop, progress)
            self.account.rounds += not stop.is_set()
        self.account.wall_s = time.monotonic() - began_s
        return self.account

    def _play_once(self, stop: threading.Event, progress: Callable[[float], None]) -> None:
        start_ns, span_ns = self.recording.start_ns, max(1, self.recording.end_ns - self.recording.start_ns)
        self._began_s = began_s = time.monotonic()
        for log_time_ns, recorded in self._events():
            due_s = began_s + (log_time_ns - start_ns) / 1e9 / self._rate
            if stop.wait(min(max(0.0, due_s - time.monotonic()), threading.TIMEOUT_MAX)):  # a log time may be absurd
                break
            if recorded is None:
                self._send_clock(log_time_ns)
            else:
                self._send(recorded, due_s)
                progress((log_time_ns - start_ns) / span_ns)
        self._now_ns, self._began_s = self.now_ns(), None

    def _events(self) -> Iterator[tuple[int, Recorded | None]]:
        """Messages and, in between, ticks of the clock (None), by time."""
        step_ns = round(1e9 / CLOCK_HZ * self._rate)
        tick_ns = self.recording.start_ns
        for recorded in self.recording.messages(self._publishers.keys()):
            while self._clock is not None and tick_ns <= recorded.log_time_ns:
                yield tick_ns, None
                tick_ns += step_ns
            yield recorded.log_time_ns, recorded

    def _send(self, recorded: Recorded, due_s: float) -> None:
        try:
            data = self.recording.cdr(recorded)
        except Rejected as rejection:
            self.account.rejected[f"{recorded.topic}: {rejection}"] += 1
            return
        self._publishers[recorded.topic].publish(data)
        now_s = time.monotonic()
        self.account.late_ms.add(now_s, (now_s - due_s) * 1e3)
        self.account.sent[recorded.topic] += 1

    def _send_clock(self, now_ns: int) -> None:
        if self._clock is not None:
            self._clock.publish(struct.pack("<BBBBiI", 0, 1, 0, 0, now_ns // 10**9, now_ns % 10**9))

    def summary(self) -> dict[str, Any]:
        """The account for JSON."""
        account = self.account
        return {
            "recording": self.recording.path.name,
            "rounds": account.rounds,
            "wall_s": round(account.wall_s, 3),
            "sent": dict(sorted(account.sent.items())),
            "rejected": dict(sorted(account.rejected.items())),
            "problems": list(self.recording.problems),
            "late_ms": account.late_ms.quantiles(),
        }


def _qos(topic: Topic) -> QoS:
    if topic.name == "/tf_static":
        return QoS(reliable=True, depth=min(max(topic.count, LATCHED.depth), MAX_LATCHED), transient_local=True)
    return output_qos(topic.ros_type)
