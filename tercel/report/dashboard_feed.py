"""Where the dashboard's messages come from: every topic that is published on a transport, or a recording that plays.

All topics are read best effort, whatever they are offered as: a reader that lags then loses messages, and never slows
down who sends them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tercel.core.errors import UserError
from tercel.hosts.recording import Recording
from tercel.report.dashboard_state import DashboardState
from tercel.report.dashboard_topics import MAX_TOPICS
from tercel.report.played import Played
from tercel.ros.transport import SENSOR, Data, QoS, Transport

_LOOK_S = 0.5
_LATCHED = QoS(reliable=True, depth=100, transient_local=True)
_UNINTERESTING = ("/rosout", "/parameter_events")


class Feed:
    """Subscribes to what is published, as it appears. wall_ns: the clock that stamps are of. A context manager."""

    def __init__(
        self,
        transport: Transport,
        state: DashboardState,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        say: Callable[[str], None] = print,
    ) -> None:
        self._transport, self._state, self._wall_ns, self._say = transport, state, wall_ns, say
        self._subscribed: dict[str, tuple[str, Callable[[], None]]] = {}
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._watch, name="dashboard-feed", daemon=True)

    def _watch(self) -> None:
        try:
            while not self._ended.wait(_LOOK_S):
                self.look()
        except Exception as error:
            self._failure = error

    def check(self) -> None:
        """Raises what has ended the watching, if something has."""
        if self._failure is not None:
            raise self._failure

    def look(self) -> None:
        """See what is published now, and read what is new."""
        offered = {n: t for n, t in sorted(self._transport.topics().items()) if is_shown(n)}
        for topic, ros_type in offered.items():
            known = self._subscribed.get(topic)
            if known is not None and known[0] == ros_type:
                continue
            if known is not None:
                known[1]()
            elif len(self._subscribed) >= MAX_TOPICS:
                continue
            self._subscribed[topic] = (ros_type, self._subscribe(topic, ros_type))
        self._state.offered(offered, self._transport.nodes())
        self._state.problems(dict(self._transport.problems))

    def _subscribe(self, topic: str, ros_type: str) -> Callable[[], None]:
        def receive(data: Data) -> None:
            self._state.receive(topic, ros_type, data, time.monotonic_ns(), self._wall_ns())

        try:
            return self._transport.subscribe(topic, ros_type, reading_qos(topic), receive)
        except (UserError, KeyError, ValueError):  # its definition is not known here
            self._say(f"{topic} is not read: {ros_type} is not known here")
            return lambda: None

    def __enter__(self) -> Feed:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=5.0)


class RecordingFeed:
    """Plays a recording over and over, at its own speed, on a transport inside this process. A context manager."""

    def __init__(self, recording: Recording, state: DashboardState, *, rate: float, say: Callable[[str], None]) -> None:
        self._state = state
        self._played = Played(recording, "tercel_dashboard", rate=rate, say=say)
        self._feed = Feed(self._played.transport, state, wall_ns=self._played.player.now_ns, say=say)

    def check(self) -> None:
        """Raises what has ended the playing, if something has."""
        self._feed.check()
        self._played.check()

    def __enter__(self) -> RecordingFeed:
        self._feed.__enter__()
        self._played.begin(rounds=None, progress=self._state.progress)
        return self

    def __exit__(self, *_: Any) -> None:
        self._feed.__exit__()
        self._played.__exit__()


def reading_qos(topic: str) -> QoS:
    """How a viewer reads a topic."""
    return _LATCHED if "tf_static" in topic else SENSOR


def is_shown(topic: str) -> bool:
    """Hidden topics (a part that begins with an underscore) and ROS's own chatter are left out."""
    return not any(part.startswith("_") for part in topic.split("/")) and topic not in _UNINTERESTING
