"""Everything that the dashboard shows, from serialised messages in to snapshots out; it knows no transport and no page.

`receive` is called by the transport's threads and only counts and keeps; `tick`, ten times a second, looks at what has
come; pictures are made when somebody asks for them. Memory is bounded: of images and sweeps the newest, of topics,
components and alarms so many.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Any

from tercel.core.errors import Rejected
from tercel.core.messages import CompressedImage, Image, Odometry, PointCloud, Tracks2D, Tracks3D, Transforms
from tercel.report.dashboard_alarms import Alarm, Alarms
from tercel.report.dashboard_camera import Cameras
from tercel.report.dashboard_diagnostics import DIAGNOSTICS_TYPE, Diagnosis
from tercel.report.dashboard_map import Map
from tercel.report.dashboard_topics import TopicTable
from tercel.report.heard_clock import CLOCK_TYPE, HeardClock
from tercel.ros import convert
from tercel.ros.transport import Data

# How many messages of a topic wait for the next tick, by our type or ROS's: the newest, or all that will come.
_DEPTHS: dict[Any, int] = {
    DIAGNOSTICS_TYPE: 64, Transforms: 64, Image: 4, CompressedImage: 4, Tracks2D: 4, Tracks3D: 1, PointCloud: 1,
    Odometry: 1,
}  # fmt: skip
_MAX_WAITING_TOPICS = 64
_MAP_EVERY_NS = 200_000_000


class DashboardState:
    """See the module. source: in words, where all this comes from."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()  # of what `receive` touches
        self._drawing = threading.Lock()  # of the rest; never taken while _lock is held
        self._topics = TopicTable()
        self._waiting: dict[str, tuple[str, deque[tuple[Data, int]]]] = {}
        self._unreadable: Counter[str] = Counter()
        self._clock = HeardClock()
        self._refused: dict[str, int] = {}
        self._progress: dict[str, Any] = {}
        self._nodes: list[str] = []
        self._cameras, self._map = Cameras(), Map()
        self._diagnosis, self._alarms = Diagnosis(), Alarms()
        self._map_version, self._map_at_ns, self._map_received = 0, 0, 0

    # --- in ---

    def receive(self, topic: str, ros_type: str, data: Data, now_ns: int, wall_ns: int) -> None:
        """One message. now_ns never goes back; wall_ns is the clock of the stamps. From any thread; returns at once."""
        with self._lock:
            clock_ns = self._clock_ns(ros_type, data, now_ns, wall_ns)
            if self._topics.arrive(topic, ros_type, data, now_ns, clock_ns) is None:
                return
            depth = _DEPTHS.get(_kind(ros_type), 0)
            if ros_type == DIAGNOSTICS_TYPE and not topic.endswith("/diagnostics"):
                depth = 0  # an aggregator's, which says the same again under other names
            if depth and (topic in self._waiting or len(self._waiting) < _MAX_WAITING_TOPICS):
                self._waiting.setdefault(topic, (ros_type, deque(maxlen=depth)))[1].append((data, now_ns))

    def _clock_ns(self, ros_type: str, data: Data, now_ns: int, wall_ns: int) -> int:
        """What stamps are compared with: what /clock says, where somebody plays or simulates, else wall_ns."""
        if ros_type == CLOCK_TYPE:
            self._clock.hear(data, now_ns)
        return self._clock.ns(now_ns, wall_ns)

    def offered(self, topics: dict[str, str], nodes: list[str]) -> None:
        """What is published now, by whom."""
        with self._lock:
            self._topics.offered(topics)
            self._nodes = nodes[:200]

    def problems(self, counted: dict[str, int]) -> None:
        """What the transport had to refuse so far, by reason."""
        with self._lock:
            self._refused = counted

    def progress(self, at_s: float, of_s: float) -> None:
        """Of a recording: how far it has been played."""
        with self._lock:
            self._progress = {"at_s": round(at_s, 1), "of_s": round(of_s, 1)}

    # --- ten times a second ---

    def tick(self, now_ns: int) -> dict[str, Any]:
        """Read what came; what there is to fetch: a version of each camera's picture, and of the map."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        with self._drawing:
            for topic, (ros_type, rows) in waiting.items():
                for data, at_ns in rows:
                    self._read(topic, ros_type, data, at_ns)
            self._judge(now_ns)
            if self._map.received != self._map_received and now_ns - self._map_at_ns >= _MAP_EVERY_NS:
                self._map_version, self._map_at_ns = self._map_version + 1, now_ns
                self._map_received = self._map.received
            return {"cameras": self._cameras.versions(now_ns), "map": self._map_version, "clouds": self._map.clouds()}

    def _read(self, topic: str, ros_type: str, data: Data, at_ns: int) -> None:
        kind = _kind(ros_type)
        if kind == DIAGNOSTICS_TYPE:
            self._diagnosis.receive(data, at_ns)
        elif kind in (Image, CompressedImage):
            self._cameras.receive_image(topic, ros_type, data, at_ns)
        elif kind is Tracks2D:
            self._cameras.receive_boxes(topic, data, at_ns)
        elif kind is PointCloud:
            self._map.receive_cloud(topic, ros_type, data, at_ns)
        elif kind is Tracks3D:
            self._map.receive_boxes(topic, ros_type, data, at_ns)
        else:
            self._place(topic, ros_type, data, at_ns)

    def _place(self, topic: str, ros_type: str, data: Data, at_ns: int) -> None:
        try:
            message = convert.decode(ros_type, data)
        except Rejected as rejected:
            self._unreadable[f"{topic}: {rejected}"] += 1
            return
        if isinstance(message, Odometry):
            self._map.receive_pose(topic, message, at_ns)
        elif isinstance(message, Transforms):
            self._map.receive_transforms(message, at_ns, is_static="static" in topic)

    def _judge(self, now_ns: int) -> None:
        """What is wrong now."""
        self._diagnosis.forget(now_ns)
        found = {alarm.subject: alarm for alarm in self._diagnosis.alarms(now_ns)}
        with self._lock:
            self._topics.forget(now_ns)
            for topic in self._topics.topics.values():
                if topic.is_stopped(now_ns):
                    text = "has stopped" if topic.is_offered else "has stopped; its publisher is gone"
                    found[topic.name] = Alarm(topic.name, "stale", text, since_ns=topic.last_ns)
        self._alarms.update(found, now_ns)

    # --- out ---

    def tables(self, now_ns: int) -> dict[str, Any]:
        """Everything but the pictures. JSON."""
        with self._drawing:
            with self._lock:
                topics, left_out = self._topics.rows(now_ns), self._topics.left_out
                progress, nodes, refused = self._progress, self._nodes, self._refused
            return {
                "source": self._source,
                "progress": progress,
                "nodes": nodes,
                "topics": topics,
                "left_out": left_out,
                "components": self._diagnosis.rows(now_ns),
                "offload": self._diagnosis.offload.row(now_ns),
                "alarms": self._alarms.rows(now_ns),
                "past_alarms": self._alarms.past_rows(now_ns),
                "problems": dict((self._unreadable + Counter(refused)).most_common(20)),
            }

    def camera(self, topic: str, now_ns: int) -> bytes | None:
        """See Cameras.picture."""
        with self._drawing:
            return self._cameras.picture(topic, now_ns)

    def map(self, cloud: str | None, now_ns: int) -> bytes:
        """See Map.picture."""
        with self._drawing:
            return self._map.picture(cloud, self._map_version, now_ns)


def _kind(ros_type: str) -> Any:
    """What the dashboard makes of a type: one of _DEPTHS' keys, or anything else for nothing."""
    return DIAGNOSTICS_TYPE if ros_type == DIAGNOSTICS_TYPE else convert.message_type_of(ros_type)
