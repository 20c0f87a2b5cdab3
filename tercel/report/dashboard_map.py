"""The dashboard's map: the way of the robot, the newest sweep from above, boxes in space, all in one frame that stands.

The frame is that of the odometry; without one, the sweep's own. What no transform connects to it is named, not drawn at
a guess. Memory is bounded: a path of MAX_PATH points that becomes coarser as it grows, poses of the last seconds only.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core import geometry
from tercel.core.errors import Rejected
from tercel.core.frames import StaticFrames
from tercel.core.messages import Message, Odometry, PointCloud, Tracks3D, Transforms
from tercel.report.birds_eye import level_T_sensor
from tercel.report.camera_view import hue_of, name_of
from tercel.report.dashboard_blob import blob
from tercel.report.frames import Frames, Trajectory
from tercel.ros import convert
from tercel.ros.transport import Data

Array = NDArray[Any]

MAX_PATH = 800
MAX_WAYS = 16
MAX_SOURCES = 16
MAX_FRAMES = 500
MAX_BOXES = 300
MAX_POINTS = 9_000
UNIT_M = 0.02  # points are sent as int16 of this unit, relative to the origin
_MAX_READ_POINTS = 40_000
_CELL_M = 0.12
_POSES = 200
_STEP_M = 0.05
_FRESH_NS = 3_000_000_000


@dataclass
class _Newest:
    """The newest message of a topic, decoded when it is wanted."""

    ros_type: str
    data: Data
    at_ns: int
    message: Message | None = None
    is_read: bool = False

    def read(self) -> Message | None:
        """Our message, or None where it does not decode."""
        if not self.is_read:
            self.is_read = True
            try:
                self.message = convert.decode(self.ros_type, self.data)
            except Rejected:
                self.message = None
            self.data = b""
        return self.message


@dataclass
class Way:
    """Where one frame was in another: poses of the last seconds, and the path since the beginning, thinned."""

    name: str
    recent: deque[Odometry] = field(default_factory=lambda: deque(maxlen=_POSES))
    path_m: list[tuple[float, float, float]] = field(default_factory=list)
    step_m: float = _STEP_M
    at_ns: int = 0

    def add(self, pose: Odometry, now_ns: int) -> None:
        """One more pose. Where the stamp goes back by more than a second, or the frames change, all begins anew."""
        if not np.isfinite(pose.frame_T_child).all():
            return
        if self.recent:
            last = self.recent[-1]
            same = (last.frame_id, last.child_frame_id) == (pose.frame_id, pose.child_frame_id)
            if not same or pose.stamp_ns < last.stamp_ns - 10**9:
                self.recent.clear()
                self.path_m, self.step_m = [], _STEP_M
        self.recent.append(pose)
        self.at_ns = now_ns
        place = tuple(float(v) for v in pose.frame_T_child[:3, 3])
        if not self.path_m or math.dist(place, self.path_m[-1]) >= self.step_m:
            self.path_m.append((place[0], place[1], place[2]))
            while len(self.path_m) > MAX_PATH:
                self.step_m *= 2
                self.path_m = _at_least_apart(self.path_m, self.step_m)


def _at_least_apart(path_m: list[tuple[float, float, float]], step_m: float) -> list[tuple[float, float, float]]:
    """The first point, and of the others each that is so far from the one kept before it."""
    kept = path_m[:1]
    for place in path_m[1:]:
        if math.dist(place, kept[-1]) >= step_m:
            kept.append(place)
    return kept


class Map:
    """Everything that has a place. The caller sees to it that one thread uses it at a time."""

    def __init__(self) -> None:
        self._ways: dict[str, Way] = {}  # of odometry topics
        self._moving: dict[str, Way] = {}  # of /tf
        self._fixed: dict[tuple[str, str], Array] = {}
        self._clouds: dict[str, _Newest] = {}
        self._boxes: dict[str, _Newest] = {}
        self._heights_m: tuple[float, float] | None = None
        self._drawn: dict[str, tuple[int, bytes]] = {}
        self.received = 0

    # --- what comes in ---

    def receive_cloud(self, topic: str, ros_type: str, data: Data, now_ns: int) -> None:
        """One serialised PointCloud2: the newest one is kept."""
        self._keep(self._clouds, topic, ros_type, data, now_ns)

    def receive_boxes(self, topic: str, ros_type: str, data: Data, now_ns: int) -> None:
        """One serialised Detection3DArray: the newest one is kept."""
        self._keep(self._boxes, topic, ros_type, data, now_ns)

    def _keep(self, kept: dict[str, _Newest], topic: str, ros_type: str, data: Data, now_ns: int) -> None:
        if topic in kept or len(kept) < MAX_SOURCES:
            self.received += 1
            kept[topic] = _Newest(ros_type, data, now_ns)

    def receive_pose(self, topic: str, pose: Odometry, now_ns: int) -> None:
        """One pose of an odometry topic."""
        if topic in self._ways or len(self._ways) < MAX_WAYS:
            self._ways.setdefault(topic, Way(topic)).add(pose, now_ns)
            self.received += 1

    def receive_transforms(self, transforms: Transforms, now_ns: int, *, is_static: bool) -> None:
        """One message of /tf_static or /tf."""
        rows = zip(transforms.parents, transforms.children, transforms.parent_T_child, strict=True)
        for parent, child, parent_T_child in rows:
            if is_static:
                if (parent, child) in self._fixed or len(self._fixed) < MAX_FRAMES:
                    self._fixed[parent, child] = parent_T_child
                continue
            name = f"/tf: {parent} to {child}"
            if name in self._moving or len(self._moving) < MAX_WAYS:
                pose = Odometry(
                    stamp_ns=transforms.stamp_ns, frame_id=parent, child_frame_id=child, frame_T_child=parent_T_child
                )
                self._moving.setdefault(name, Way(name)).add(pose, now_ns)

    def clouds(self) -> list[str]:
        """The topics of sweeps."""
        return sorted(self._clouds)

    # --- what is drawn ---

    def picture(self, cloud: str | None, version: int, now_ns: int) -> bytes:
        """JSON, the path (N, 2) float32 in m, points (M, 2) int16 in UNIT_M from the origin, their shades (M,) uint8.

        cloud: the topic of the sweep; None, or one that is not known: the suite chooses. version: drawn once for each.
        JSON: frame, pose [x, y, heading] or None, path (N), points (M), origin, unit_m, boxes [8 numbers of corners,
        hue, words], notes.
        """
        topic = cloud if cloud in self._clouds else self._best(self._clouds, now_ns)
        drawn = self._drawn.get(topic or "")
        if drawn is None or drawn[0] != version:
            drawn = self._drawn[topic or ""] = (version, self._draw(topic, now_ns))
        return drawn[1]

    def _draw(self, topic: str | None, now_ns: int) -> bytes:
        notes: list[str] = []
        way = self._way(now_ns)
        sweep = self._clouds[topic].read() if topic else None
        boxes_topic = self._best_boxes(now_ns)
        boxes = self._boxes[boxes_topic].read() if boxes_topic else None
        frame = next((m.frame_id for m in (way.recent[-1] if way else None, sweep, boxes) if m is not None), None)
        if frame is None:
            return blob({"frame": None, "pose": None, "path": 0, "points": 0, "boxes": [], "notes": []})
        place = self._placer(frame, way, notes)
        pose, path = _pose_and_path(way, level_T_sensor(frame))
        origin = [round(v, 2) for v in pose[:2]] if pose else [0.0, 0.0]
        points = shades = np.zeros((0, 2), np.int16)
        if topic and sweep is None:
            notes.append(f"{topic} is not drawn: its newest message does not decode")
        if isinstance(sweep, PointCloud):
            points, shades = self._points(sweep, place(sweep, topic or ""), origin)
        head = {
            "frame": frame,
            "pose": pose,
            "pose_age_s": round((now_ns - way.at_ns) / 1e9, 1) if way else None,
            "way": way.name if way else None,
            "path": len(path),
            "points": len(points),
            "origin": origin,
            "unit_m": UNIT_M,
            "sweep": topic,
            "sweep_age_s": round((now_ns - self._clouds[topic].at_ns) / 1e9, 1) if topic else None,
            "boxes_topic": boxes_topic,
            "boxes": _rows(boxes, place(boxes, boxes_topic or "")) if isinstance(boxes, Tracks3D) else [],
            "notes": notes,
        }
        return blob(head, path.astype("<f4").tobytes(), points.astype("<i2").tobytes(), shades.tobytes())

    def _placer(self, frame: str, way: Way | None, notes: list[str]) -> Callable[[Message, str], Array | None]:
        """A function that gives map_T_frame of a message, or None and a note where nothing connects the two."""
        static = StaticFrames()
        for (parent, child), matrix in self._fixed.items():
            static.add(Transforms(stamp_ns=0, frame_id="", parents=(parent,), children=(child,),
                                  parent_T_child=matrix[None]))  # fmt: skip
        ways = [w for w in (way, *self._moving.values()) if w is not None and w.recent]
        frames = Frames(static, [Trajectory.of(w.name, list(w.recent)) for w in ways])

        def place(message: Message, topic: str) -> Array | None:
            try:
                return level_T_sensor(frame) @ frames.lookup(frame, message.frame_id, message.stamp_ns)
            except KeyError:
                notes.append(f"{topic} is not drawn: no transform from {message.frame_id or 'its frame'} to {frame}")
                return None

        return place

    def _way(self, now_ns: int) -> Way | None:
        """The odometry that is shown: what moves now, the estimate rather than the truth, one that says of which frame
        it is rather than a bare pose; else what /tf tells.
        """
        ways = [way for way in self._ways.values() if way.recent] or [w for w in self._moving.values() if w.recent]

        def rank(way: Way) -> tuple[bool, bool, bool, str]:
            is_bare = not way.recent[-1].child_frame_id
            return now_ns - way.at_ns > _FRESH_NS, way.name.startswith("/truth/"), is_bare, way.name

        return min(ways, key=rank, default=None)

    def _best(self, kept: dict[str, _Newest], now_ns: int) -> str | None:
        return min(kept, key=lambda n: (now_ns - kept[n].at_ns > _FRESH_NS, n.startswith("/truth/"), n), default=None)

    def _best_boxes(self, now_ns: int) -> str | None:
        """The topic of boxes that is shown: with ids rather than without."""

        def rank(name: str) -> tuple[Any, ...]:
            message = self._boxes[name].read()
            has_ids = isinstance(message, Tracks3D) and bool((message.ids >= 0).any())
            return (name.startswith("/truth/"), not has_ids, "track" not in name, name)

        return min((n for n, kept in self._boxes.items() if now_ns - kept.at_ns < _FRESH_NS), key=rank, default=None)

    def _points(self, sweep: PointCloud, map_T_sweep: Array | None, origin: list[float]) -> tuple[Array, Array]:
        """(M, 2) int16 and (M,) uint8: the highest point of each cell, and how high it is."""
        nothing = np.zeros((0, 2), np.int16), np.zeros(0, np.uint8)
        every = max(1, math.ceil(len(sweep.points_m) / _MAX_READ_POINTS))
        points = sweep.points_m[::every].astype(np.float64)
        points = points[np.isfinite(points).all(axis=1)]
        if map_T_sweep is None or not len(points):
            return nothing
        points = geometry.transform_points(map_T_sweep, points)
        flat = np.round((points[:, :2] - origin) / UNIT_M)
        inside = (np.abs(flat) < 32_000).all(axis=1)
        points, flat = points[inside], flat[inside].astype(np.int64)
        if not len(points):
            return nothing
        order = np.argsort(-points[:, 2], kind="stable")
        cells = flat[order] // round(_CELL_M / UNIT_M)
        kept = order[np.unique(cells[:, 0] * 100_003 + cells[:, 1], return_index=True)[1]]
        kept = kept[:: max(1, math.ceil(len(kept) / MAX_POINTS))]
        low, high = self._smooth_heights(points[:, 2])
        shades = np.clip((points[kept, 2] - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        return flat[kept].astype(np.int16), shades

    def _smooth_heights(self, heights_m: Array) -> tuple[float, float]:
        """The heights of the lowest and highest colour, which follow slowly so that the picture does not flicker."""
        low, high = (float(v) for v in np.quantile(heights_m, [0.03, 0.97]))
        if self._heights_m is not None:
            low, high = (0.8 * old + 0.2 * new for old, new in zip(self._heights_m, (low, high), strict=True))
        self._heights_m = low, max(high, low + 0.5)
        return self._heights_m


def _pose_and_path(way: Way | None, level_T_map: Array) -> tuple[list[float] | None, Array]:
    """Place and heading of the newest pose, and the path (N, 2) up to it."""
    if way is None or not way.recent:
        return None, np.zeros((0, 2))
    newest = way.recent[-1]
    level_T_child = level_T_map @ newest.frame_T_child @ np.linalg.inv(level_T_sensor(newest.child_frame_id))
    pose = [*level_T_child[:2, 3].tolist(), float(geometry.yaw_from_rotation(level_T_child[:3, :3]))]
    places = np.array([*way.path_m, newest.frame_T_child[:3, 3].tolist()])
    return [round(v, 3) for v in pose], geometry.transform_points(level_T_map, places)[:, :2]


def _rows(tracks: Tracks3D, map_T_frame: Array | None) -> list[list[Any]]:
    """Boxes as the page draws them: the four corners on the ground, hue in degrees, words."""
    if map_T_frame is None:
        return []
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is left out below
        corners = geometry.box_corners(tracks.centers_m, tracks.sizes_m, tracks.yaws_rad)[:, :4]
        corners = corners @ map_T_frame[:3, :3].T + map_T_frame[:3, 3]
    flat = corners[:, :, :2].reshape(-1, 8)
    rows = np.flatnonzero(np.isfinite(flat).all(axis=1) & (np.abs(flat) < 1e6).all(axis=1))[:MAX_BOXES].tolist()
    return [
        [
            *(round(v, 2) for v in flat[row].tolist()),
            int(hue_of(tracks, row)),
            str(int(tracks.ids[row])) if tracks.ids[row] >= 0 else name_of(tracks, row)[:20],
        ]
        for row in rows
    ]
