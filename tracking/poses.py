"""The poses of one frame over the last while, and between two of them."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tercel.core.frames import interpolate_pose
from tercel.core.geometry import orthonormalise
from tercel.core.messages import Odometry

Array = NDArray[Any]

NO_POSE = "no pose at this time"


class PoseHistory:
    """frame_T_child at the stamps of odometry, for the last span_ns; on the screw motion between two of them."""

    def __init__(self, span_ns: int, max_gap_ns: int) -> None:
        self._span_ns, self._max_gap_ns = span_ns, max_gap_ns
        self._stamps: list[int] = []
        self._poses: list[Array] = []
        self.frame_id, self.child_frame_id = "", ""

    @property
    def newest_ns(self) -> int | None:
        """The stamp of the newest pose, None before the first."""
        return self._stamps[-1] if self._stamps else None

    def add(self, odometry: Odometry) -> None:
        """Take in a pose. Raises Rejected if it is none, not after the newest, or between other frames."""
        if self._stamps and odometry.stamp_ns <= self._stamps[-1]:
            raise Rejected("stamp not after the previous one")
        if self._stamps and (odometry.frame_id, odometry.child_frame_id) != (self.frame_id, self.child_frame_id):
            raise Rejected("frames of the odometry changed within the stream")
        try:
            pose = orthonormalise(odometry.frame_T_child)
        except ValueError:
            raise Rejected("odometry is not a rigid transform") from None
        self.frame_id, self.child_frame_id = odometry.frame_id, odometry.child_frame_id
        self._stamps.append(odometry.stamp_ns)
        self._poses.append(pose)
        old = bisect_left(self._stamps, odometry.stamp_ns - self._span_ns)
        old = max(0, min(old, len(self._stamps) - 2))
        del self._stamps[:old], self._poses[:old]

    def at(self, stamp_ns: int) -> Array:
        """frame_T_child (4, 4). Raises Rejected before the first and after the last pose, and in a gap."""
        after = bisect_left(self._stamps, stamp_ns)
        if after < len(self._stamps) and self._stamps[after] == stamp_ns:
            return self._poses[after]
        if after in (0, len(self._stamps)):
            raise Rejected(NO_POSE)
        begin_ns, end_ns = self._stamps[after - 1], self._stamps[after]
        if end_ns - begin_ns > self._max_gap_ns:
            raise Rejected(NO_POSE)
        share = (stamp_ns - begin_ns) / (end_ns - begin_ns)
        pose: Array = interpolate_pose(self._poses[after - 1], self._poses[after], share)
        return np.asarray(pose)
