"""A live host's ends on its transport: what it subscribes to and publishes, and whoever listens in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tercel.core.messages import Message
from tercel.hosts.arrival import Arrival
from tercel.hosts.live_account import Problems, Recent
from tercel.hosts.live_topics import ros_type_for
from tercel.ros import convert
from tercel.ros.transport import Data, Publisher, QoS, Transport

Tap = Callable[[str, str, Data, int], None]
Deliver = Callable[[Arrival], None]

STALE_AFTER_S = 3.0
"""A sensor that was silent for so long, and for five of its periods, has a problem."""


@dataclass
class Source:
    """A topic from outside, as it is subscribed now. is_sensor: it goes on coming, or something is wrong."""

    name: str
    wanted: type[Message]
    qos: QoS
    is_sensor: bool
    ros_type: str
    deliver: Deliver
    received: Recent = field(default_factory=Recent)
    silent_since_s: float = field(default_factory=time.monotonic)
    is_stale: bool = False
    end: Callable[[], None] = lambda: None

    def looks_stale(self, now_s: float) -> bool:
        """Whether it has been silent for too long."""
        age_s = self.received.age_s(now_s)
        silence_s = now_s - self.silent_since_s if age_s is None else age_s
        return self.is_sensor and silence_s > max(STALE_AFTER_S, 5 * self.received.period_s())

    def status(self, now_s: float) -> dict[str, Any]:
        """For JSON. age_s: since the newest message, None before the first."""
        age_s = self.received.age_s(now_s)
        return {
            "type": self.ros_type,
            "received": self.received.count,
            "rate_hz": self.received.rate_hz(now_s),
            "age_s": None if age_s is None else round(age_s, 3),
            "is_stale": self.looks_stale(now_s),
        }


class Wire:
    """All of a host's publishers and subscriptions. Outputs may be sent from any thread.

    problems: told of what goes wrong; undecodable: of bytes that are no message, by topic and reason.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        now_ns: Callable[[], int],
        problems: Problems,
        undecodable: Problems,
        say: Callable[[str], None],
    ) -> None:
        self._transport = transport
        self._say = say
        self._now_ns = now_ns
        self._problems = problems
        self._undecodable = undecodable
        self._publishers: dict[str, tuple[str, Publisher]] = {}
        self._lock = threading.Lock()
        self._taps: tuple[Tap, ...] = ()
        self.sources: list[Source] = []

    # --- in --------------------------------------------------------------------------------------------------------

    def subscribe(self, name: str, wanted: type[Message], qos: QoS, is_sensor: bool, deliver: Deliver) -> None:
        """Hear a topic, in the type that others publish it in. Raises UserError if ROS has no type for it."""
        ros_type = ros_type_for(name, wanted, self._transport.topics())
        source = Source(name, wanted, qos, is_sensor, ros_type, deliver)
        self.sources.append(source)
        source.end = self._transport.subscribe(name, ros_type, qos, self._receiver(source))

    def end_subscriptions(self) -> None:
        """Hear nothing any more; what was heard stays in `sources` until the next begin."""
        for source in self.sources:
            source.end()

    def _receiver(self, source: Source) -> Callable[[Data], None]:
        ros_type = source.ros_type

        def count_undecodable(reason: str) -> None:
            self._undecodable.count(f"{source.name}: {reason}")

        def receive(data: Data) -> None:
            source.received.add(time.monotonic())
            self._tell_taps(source.name, ros_type, data)
            source.deliver(Arrival(ros_type, data, count_undecodable))

        return receive

    def follow_types(self) -> list[str]:
        """Subscribe anew where a topic that was silent so far turns out to have another type that we can read.

        Returns what is to say of topics whose type we cannot read.
        """
        silent = [source for source in self.sources if not source.received.count]
        published: Mapping[str, str] = self._transport.topics() if silent else {}
        wrong = []
        for source in silent:
            have = published.get(source.name, source.ros_type)
            if have == source.ros_type:
                continue
            ros_type = ros_type_for(source.name, source.wanted, published)
            if ros_type != have:
                wrong.append(f"{source.name} is published as {have}, not {source.ros_type}")
                continue
            self._say(f"{source.name} is read as {ros_type}, as it is published")
            source.end()
            source.ros_type = ros_type
            source.end = self._transport.subscribe(source.name, ros_type, source.qos, self._receiver(source))
        return wrong

    # --- out -------------------------------------------------------------------------------------------------------

    def advertise(self, name: str, ros_type: str, qos: QoS) -> None:
        """Declare a publisher; it stays, from run to run, as that of an inactive ROS node does."""
        with self._lock:
            if name not in self._publishers:
                self._publishers[name] = (ros_type, self._transport.advertise(name, ros_type, qos))

    def send(self, name: str, message: Message) -> None:
        """Encode and publish, if the topic was advertised."""
        if name not in self._publishers:
            return
        try:
            ros_type, data = convert.encode(message)
        except Exception as error:  # what a component may say and ROS cannot: a stamp before 1970, say
            self._problems.count(f"{name}: {type(message).__name__} does not encode", hint=f" ({error})")
            return
        self.send_bytes(name, ros_type, data)

    def send_bytes(self, name: str, ros_type: str, data: Data) -> None:
        """Publish CDR bytes on a topic that was advertised."""
        self._tell_taps(name, ros_type, data)
        try:
            self._publishers[name][1].publish(data)
        except Exception as error:  # the wire is gone or chokes: the components go on
            self._problems.count(f"{name}: not sent", hint=f" ({type(error).__name__}: {error})")

    # --- taps ------------------------------------------------------------------------------------------------------

    def add_tap(self, tap: Tap) -> Callable[[], None]:
        """See LiveHost."""
        with self._lock:
            self._taps = (*self._taps, tap)

        def end() -> None:
            with self._lock:
                self._taps = tuple(other for other in self._taps if other is not tap)

        return end

    def _tell_taps(self, name: str, ros_type: str, data: Data) -> None:
        for tap in self._taps:
            try:
                tap(name, ros_type, data, self._now_ns())
            except Exception as error:
                self._problems.count("a tap failed", hint=f": {type(error).__name__}: {error}")
