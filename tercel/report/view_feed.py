"""What is published on a transport, as channels of Foxglove's server (foxglove-sdk): CDR as it is, and drawings.

A topic's reader on the wire begins when somebody looks at it and ends when nobody does any more. Best effort, as the
dashboard reads: a reader that lags loses messages, and never slows down who sends them. Nor does a viewer: the server
keeps the newest `BACKLOG` messages for each. Viewers can do nothing but look: the server is told of no capability to
publish, to set parameters or to call services.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rosbags.typesys import TypesysError

from tercel.core.errors import Rejected, UserError, require
from tercel.report.dashboard_feed import is_shown, reading_qos
from tercel.report.dashboard_topics import MAX_NAME, MAX_TOPICS
from tercel.report.heard_clock import CLOCK_TYPE, HeardClock
from tercel.report.view_door import BACKLOG
from tercel.report.view_drawing import DRAWINGS, Drawing
from tercel.ros.convert import STORE
from tercel.ros.transport import Data, Transport

_LOOK_S = 0.5
_GONE_S = 5.0
_GOODBYE_S = 0.5
_WAITING = 64
_AT_ONCE, _BREATH_S = 8, 0.05


@dataclass(eq=False)
class _Shown:
    """One topic, and its channels: of the messages as they are, and of what is drawn of them, if anything is."""

    name: str
    ros_type: str
    raw: Any
    drawing: Drawing | None
    drawn: Any
    end: Callable[[], None] | None = None
    offered_at_s: float = 0.0

    def __post_init__(self) -> None:
        self.raw_id: int = self.raw.id()
        self.drawn_id: int = -1 if self.drawn is None else self.drawn.id()

    def close(self) -> None:
        """Offer it to viewers no longer."""
        for channel in (self.raw, self.drawn):
            if channel is not None:
                channel.close()


class ViewFeed:
    """See the module. wall_ns: the time of a message that comes now. A context manager.

    `server` is the address of Foxglove's server, `watched` is set once somebody has looked at something.
    """

    def __init__(
        self,
        transport: Transport,
        name: str,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        say: Callable[[str], None] = print,
    ) -> None:
        self._foxglove = require("foxglove", extra="view")
        self._transport, self._wall_ns, self._say = transport, wall_ns, say
        self._lock = threading.Lock()  # never held while the server or the transport is called: they call back
        self._topics: dict[str, _Shown] = {}
        self._looking: Counter[int] = Counter()  # viewers by channel: who is quick, before we have noted its topic
        self._newly_looked_at: set[int] = set()
        self._unknown: dict[str, str] = {}
        self._clock = HeardClock()
        self._waiting: deque[tuple[_Shown, Data, int]] = deque()
        self._to_draw = threading.Condition(self._lock)
        self._wake = threading.Event()
        self._is_ended = False
        self._failure: Exception | None = None
        self.watched = threading.Event()
        self.handed_over = 0
        self.received: Counter[str] = Counter()
        self.not_drawn: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.left_out = 0
        self._foxglove.set_log_level("CRITICAL")  # it tells each viewer that leaves without a word as an error
        self._context = self._foxglove.Context()
        # No page in a browser can guess it, and the door (view_door) is the one way in that people are told.
        host = f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(256)}.{secrets.randbelow(254) + 1}"
        self._server = self._foxglove.start_server(
            name=name, host=host, port=0, context=self._context, server_listener=self,
            capabilities=[require("foxglove.websocket", extra="view").Capability.Time], message_backlog_size=BACKLOG,
        )  # fmt: skip
        self.server: tuple[str, int] = (host, self._server.port)
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"view-{work.__name__}", daemon=True)
            for work in (self._watch, self._draw)
        ]

    # --- the server's calls, from its threads ---

    def on_subscribe(self, _client: Any, channel: Any) -> None:
        """Somebody looks at a channel."""
        self._viewers(channel.id, +1)
        self.watched.set()

    def on_unsubscribe(self, _client: Any, channel: Any) -> None:
        """Somebody does no longer."""
        self._viewers(channel.id, -1)

    def _viewers(self, channel_id: int, change: int) -> None:
        with self._lock:
            self._looking[channel_id] += change
            if change > 0:
                self._newly_looked_at.add(channel_id)
            elif not self._looking[channel_id]:
                del self._looking[channel_id]
        self._wake.set()

    # --- the wire's ---

    def _receive(self, shown: _Shown, data: Data) -> None:
        now_ns = time.monotonic_ns()
        if shown.ros_type == CLOCK_TYPE:
            self._clock.hear(data, now_ns)
        log_time_ns = self._clock.ns(now_ns, self._wall_ns())
        with self._lock:
            if self._is_ended:
                return
            self.received[shown.name] += 1
            is_cdr = len(data) >= 4 and data[0] == 0
            viewers = self._looking[shown.raw_id] if is_cdr else 0
            self.handed_over += viewers
            if is_cdr and self._looking[shown.drawn_id]:
                if len(self._waiting) >= _WAITING:
                    self._waiting.popleft()
                    self.not_drawn["newer ones came"] += 1
                self._waiting.append((shown, data, log_time_ns))
                self._to_draw.notify()
        if not is_cdr:
            self._problem(f"{shown.name}: what came is no CDR")
        if viewers:
            shown.raw.log(bytes(data), log_time=log_time_ns)

    def transport_problems(self) -> dict[str, int]:
        """What the transport had to refuse, by reason."""
        return dict(self._transport.problems)

    # --- our threads ---

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._failure = error

    def check(self) -> None:
        """Raises what has ended the watching or the drawing, if something has."""
        if self._failure is not None:
            raise self._failure

    def _watch(self) -> None:
        next_look_s = 0.0
        while not self._is_ended:
            if time.monotonic() >= next_look_s:
                self.look()
                next_look_s = time.monotonic() + _LOOK_S
            self._read_what_is_wanted()
            self._wake.wait(max(0.0, next_look_s - time.monotonic()))
            self._wake.clear()

    def look(self) -> None:
        """See what is published now: new topics become channels, those that are gone for a while end."""
        now_s = time.monotonic()
        offered = {n: t for n, t in sorted(self._transport.topics().items()) if is_shown(n)}
        for name, shown in list(self._topics.items()):
            if offered.get(name) == shown.ros_type:
                shown.offered_at_s = now_s
            elif name in offered or now_s - shown.offered_at_s > _GONE_S:
                self._close(shown)
        new = {name: ros_type for name, ros_type in offered.items() if name not in self._topics}
        unknown, left_out = {}, 0
        for number, (name, ros_type) in enumerate(new.items(), 1):
            if number % _AT_ONCE == 0:
                time.sleep(_BREATH_S)  # the server cuts off a viewer for whom BACKLOG advertisements wait
            if len(self._topics) >= MAX_TOPICS or len(name) > MAX_NAME or len(ros_type) > MAX_NAME:
                left_out += 1
            elif not self._open(name, ros_type, now_s):
                unknown[name] = ros_type
        for name, ros_type in unknown.items() - self._unknown.items():
            self._problem(f"{name} is not shown: {ros_type} is not known here")
        self._unknown = unknown
        self.left_out = max(self.left_out, left_out)

    def _open(self, name: str, ros_type: str, now_s: float) -> bool:
        """Offer a topic to viewers; False if its type is not known here."""
        try:
            definition = STORE.generate_msgdef(ros_type, ros_version=2)[0]
        except (TypesysError, KeyError, ValueError):
            return False
        schema = self._foxglove.Schema(name=ros_type, encoding="ros2msg", data=definition.encode())
        raw = self._foxglove.Channel(name, message_encoding="cdr", schema=schema, context=self._context)
        drawing = DRAWINGS.get(ros_type)
        drawn = None if drawing is None else self._drawn_channel(name, drawing)
        shown = _Shown(name, ros_type, raw, drawing, drawn, offered_at_s=now_s)
        with self._lock:
            self._topics[name] = shown
        return True

    def _drawn_channel(self, name: str, drawing: Drawing) -> Any:
        schema = None
        if drawing.schema:
            messages = require("foxglove.messages", extra="view")
            schema = getattr(messages, drawing.schema.removeprefix("foxglove.")).get_schema()
        return self._foxglove.Channel(
            name + drawing.suffix, message_encoding=drawing.encoding, schema=schema, context=self._context
        )

    def _close(self, shown: _Shown) -> None:
        with self._lock:
            self._topics.pop(shown.name, None)
        if shown.end is not None:
            shown.end()
        shown.close()

    def _read_what_is_wanted(self) -> None:
        """Begin and end readers. Who comes late to a latched topic is sent again what the wire keeps of it."""
        with self._lock:
            looking, fresh = set(self._looking), self._newly_looked_at
            self._newly_looked_at = set()
        for shown in list(self._topics.values()):
            channels = {shown.raw_id, shown.drawn_id}
            is_wanted = bool(channels & looking or (looking and shown.ros_type == CLOCK_TYPE))
            is_again = bool(channels & fresh) and reading_qos(shown.name).transient_local
            if shown.end is not None and (is_again or not is_wanted):
                shown.end()
                shown.end = None
            if shown.end is None and is_wanted:
                shown.end = self._subscribe(shown)

    def _subscribe(self, shown: _Shown) -> Callable[[], None]:
        def receive(data: Data) -> None:
            self._receive(shown, data)

        try:
            return self._transport.subscribe(shown.name, shown.ros_type, reading_qos(shown.name), receive)
        except (UserError, KeyError, ValueError) as error:
            self._problem(f"{shown.name} is not read: {error}")
            return lambda: None

    def _draw(self) -> None:
        while True:
            with self._to_draw:
                self._to_draw.wait_for(lambda: self._waiting or self._is_ended)
                if self._is_ended:
                    return
                shown, data, log_time_ns = self._waiting.popleft()
            if shown.drawing is None:
                continue
            try:
                picture = shown.drawing.draw(data)
            except Rejected as rejected:
                self.not_drawn["not readable"] += 1
                self._problem(f"{shown.name} is not drawn: {rejected}")
                continue
            with self._lock:
                viewers = self._looking[shown.drawn_id]
                self.handed_over += viewers
            if viewers:
                shown.drawn.log(picture, log_time=log_time_ns)

    def _problem(self, words: str) -> None:
        """Count it, and say it the first time."""
        with self._lock:
            if words not in self.problems and len(self.problems) >= MAX_TOPICS:
                words = "more problems than are told"
            self.problems[words] += 1
            is_new = self.problems[words] == 1
        if is_new:
            self._say(words)

    def __enter__(self) -> ViewFeed:
        self.look()
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """End all readers, and say goodbye to the viewers that still listen. May be called again."""
        with self._lock:
            if not self._is_ended:
                self.not_drawn.update({"at the end": len(self._waiting)} if self._waiting else {})
            self._is_ended = True
            self._to_draw.notify_all()
        self._wake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5.0)
        for shown in list(self._topics.values()):
            if shown.end is not None:
                shown.end()
                shown.end = None
        # It waits for its viewers, of whom one may take nothing any more: until the door closes, then.
        goodbye = threading.Thread(target=self._server.stop, name="view-goodbye", daemon=True)
        goodbye.start()
        goodbye.join(timeout=_GOODBYE_S)
        for shown in self._topics.values():
            shown.close()

    def __exit__(self, *_: object) -> None:
        self.stop()
