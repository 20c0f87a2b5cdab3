"""Where the dashboard's messages come from: every topic that is published on a transport, or a recording that plays.

All topics are read best effort, whatever they are offered as: a reader that lags then loses messages, and never slows
down who sends them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from tercel.core.errors import UserError
from tercel.hosts.play import Player
from tercel.hosts.recording import Recording
from tercel.report.dashboard_state import DashboardState
from tercel.report.dashboard_topics import MAX_TOPICS
from tercel.ros.local import LocalTransport
from tercel.ros.transport import MAX_DOMAIN, SENSOR, Data, Identity, QoS, Transport

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
        offered = {n: t for n, t in sorted(self._transport.topics().items()) if _is_shown(n)}
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
            return self._transport.subscribe(topic, ros_type, _LATCHED if "tf_static" in topic else SENSOR, receive)
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
        self._recording, self._state = recording, state
        domain = os.getpid() % (MAX_DOMAIN + 1)
        self._sender = LocalTransport(Identity(node="recording", domain=domain), say=say)
        self._reader = LocalTransport(Identity(node="tercel_dashboard", domain=domain), say=say)
        self._player = Player(recording, self._sender, rate=rate, say=say)
        self._feed = Feed(self._reader, state, wall_ns=self._player.now_ns, say=say)
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._play, name="dashboard-player", daemon=True)

    def _play(self) -> None:
        span_s = (self._recording.end_ns - self._recording.start_ns) / 1e9
        try:
            self._player.play(
                self._ended, rounds=None, progress=lambda share: self._state.progress(share * span_s, span_s)
            )
        except Exception as error:
            self._failure = error

    def check(self) -> None:
        """Raises what has ended the playing, if something has."""
        self._feed.check()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> RecordingFeed:
        self._feed.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join(timeout=5.0)
        self._feed.__exit__()
        self._sender.close()
        self._reader.close()


def _is_shown(topic: str) -> bool:
    """Hidden topics (a part that begins with an underscore) and ROS's own chatter are left out."""
    return not any(part.startswith("_") for part in topic.split("/")) and topic not in _UNINTERESTING
