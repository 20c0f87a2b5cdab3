"""Messages of tracks, turned round: for each id, when and where it was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core import geometry
from tercel.core.messages import Tracks2D, Tracks3D
from tercel.report.frames import Frames

Array = NDArray[Any]

_SPEED_WINDOW_NS = 1_000_000_000
_MOVED_M = 3.0
_MOVED_NS = 2_000_000_000
_CRAWL_MPS = 0.7


@dataclass(frozen=True)
class TrackPath:
    """One track. stamps_ns (N,) ascending; centers (N, 3) m in a frame that stands still, or (N, 2) px."""

    identity: int
    class_name: str
    stamps_ns: Array
    centers: Array

    @property
    def first_ns(self) -> int:
        """When it was first seen."""
        return int(self.stamps_ns[0])

    @property
    def last_ns(self) -> int:
        """When it was last seen."""
        return int(self.stamps_ns[-1])

    @property
    def moves(self) -> bool:
        """Whether it went somewhere: for two seconds, three metres away, more or less straight, and not at a crawl."""
        if self.last_ns - self.first_ns < _MOVED_NS:
            return False
        coarse = self.centers[np.linspace(0, len(self.centers) - 1, 8).round().astype(int)]
        away_m = float(np.linalg.norm(coarse[-1] - coarse[0]))
        way_m = float(np.linalg.norm(np.diff(coarse, axis=0), axis=1).sum())
        needed_m = max(_MOVED_M, 0.6 * way_m, _CRAWL_MPS * (self.last_ns - self.first_ns) * 1e-9)
        return away_m > needed_m

    def speed_at(self, stamp_ns: int) -> float | None:
        """How fast it moves, from its places within half a second before and after; None if that is too short."""
        near = np.abs(self.stamps_ns - stamp_ns) <= _SPEED_WINDOW_NS // 2
        stamps, places = self.stamps_ns[near], self.centers[near]
        if len(stamps) < 2 or stamps[-1] - stamps[0] < _SPEED_WINDOW_NS // 3:
            return None
        return float(np.linalg.norm(places[-1] - places[0]) / ((stamps[-1] - stamps[0]) * 1e-9))


def paths_2d(messages: Sequence[Tracks2D]) -> list[TrackPath]:
    """The paths of box centres in the image, by id."""
    return _group(messages, [(m.boxes_xyxy_px[:, :2] + m.boxes_xyxy_px[:, 2:]) / 2 for m in messages])


def paths_3d(messages: Sequence[Tracks3D], frames: Frames, fixed_frame: str) -> list[TrackPath]:
    """The paths in fixed_frame, by id; messages that cannot be carried there are left out."""
    carried, centers = [], []
    for message in messages:
        try:
            fixed_T_frame = frames.lookup(fixed_frame, message.frame_id, message.stamp_ns)
        except KeyError:
            continue
        carried.append(message)
        centers.append(geometry.transform_points(fixed_T_frame, message.centers_m))
    return _group(carried, centers)


def _group(messages: Sequence[Tracks2D] | Sequence[Tracks3D], centers: Sequence[Array]) -> list[TrackPath]:
    if not messages:
        return []
    ids = np.concatenate([m.ids for m in messages])
    stamps = np.concatenate([np.full(len(m.ids), m.stamp_ns, dtype=np.int64) for m in messages])
    names = np.concatenate([np.array([*m.class_names, ""], dtype=object)[m.labels] for m in messages])
    places = np.concatenate(centers)
    usable = (ids >= 0) & np.isfinite(places).all(axis=1)
    order = np.flatnonzero(usable)[np.argsort(ids[usable], kind="stable")]
    starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
    return [
        TrackPath(int(ids[rows[0]]), str(names[rows[-1]]), stamps[rows], places[rows])
        for rows in np.split(order, starts[1:])
        if len(rows)
    ]
