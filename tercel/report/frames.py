"""Where frames lie at each moment: the fixed transforms of `tercel.core.frames`, and poses that change with time.

Names and products read as everywhere: `target_T_source` (4, 4) float64 maps points of source into target. A transform
that is not known raises KeyError; nothing is identity by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core import geometry
from tercel.core.frames import StaticFrames, interpolate_pose
from tercel.core.messages import Odometry

Array = NDArray[Any]


@dataclass(frozen=True)
class Trajectory:
    """The poses of one frame in another. stamps_ns (N,) int64, ascending; frame_T_child (N, 4, 4)."""

    topic: str
    frame_id: str
    child_frame_id: str
    stamps_ns: Array
    frame_T_child: Array

    @classmethod
    def of(cls, topic: str, poses: Sequence[Odometry]) -> Trajectory:
        """The poses in order of stamp, one for each, without those that hold a NaN. Raises ValueError if none is left.

        The frames are those of the first pose; poses between other frames are left out as well.
        """
        finite = [pose for pose in poses if np.isfinite(pose.frame_T_child).all()]
        if not finite:
            raise ValueError(f"{topic} has no usable pose")
        frame_id, child = finite[0].frame_id, finite[0].child_frame_id
        kept = [pose for pose in finite if (pose.frame_id, pose.child_frame_id) == (frame_id, child)]
        stamps, index = np.unique(np.array([pose.stamp_ns for pose in kept], dtype=np.int64), return_index=True)
        return cls(topic, frame_id, child, stamps, np.stack([pose.frame_T_child for pose in kept])[index])

    @property
    def positions_m(self) -> Array:
        """(N, 3): where the child is."""
        positions: Array = self.frame_T_child[:, :3, 3]
        return positions

    @property
    def distances_m(self) -> Array:
        """(N,): the length of the path from the first pose to each."""
        steps = np.linalg.norm(np.diff(self.positions_m, axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])

    def at(self, stamp_ns: int, *, slack_ns: int) -> Array:
        """The pose (4, 4) at a stamp: on the screw motion between the two poses around it.

        Up to slack_ns before the first or after the last pose, that pose. Raises KeyError beyond, and in a gap between
        two poses that is wider than twice slack_ns.
        """
        after = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if after < len(self.stamps_ns) and self.stamps_ns[after] == stamp_ns:
            return np.asarray(self.frame_T_child[after])
        if after in (0, len(self.stamps_ns)):
            end = min(after, len(self.stamps_ns) - 1)
            if abs(int(self.stamps_ns[end]) - stamp_ns) > slack_ns:
                raise KeyError(f"{self.topic} has no pose at this time")
            return np.asarray(self.frame_T_child[end])
        begin_ns, end_ns = int(self.stamps_ns[after - 1]), int(self.stamps_ns[after])
        if end_ns - begin_ns > 2 * slack_ns:
            raise KeyError(f"{self.topic} has a gap at this time")
        first, second = self.frame_T_child[after - 1], self.frame_T_child[after]
        share = (stamp_ns - begin_ns) / (end_ns - begin_ns)
        return interpolate_pose(first, second, share)


@dataclass(frozen=True)
class Frames:
    """Static frames, and trajectories that connect them at each moment."""

    static: StaticFrames
    trajectories: Sequence[Trajectory]
    slack_ns: int = 500_000_000

    def lookup(self, target: str, source: str, stamp_ns: int) -> Array:
        """target_T_source (4, 4) at a stamp, over at most one trajectory. Raises KeyError if there is none."""
        try:
            return self.static.lookup(target, source)
        except KeyError:
            pass
        for trajectory in self.trajectories:
            frame, child = trajectory.frame_id, trajectory.child_frame_id
            try:
                frame_T_child = trajectory.at(stamp_ns, slack_ns=self.slack_ns)
            except KeyError:
                continue
            for upper, lower, pose in ((frame, child, frame_T_child), (child, frame, geometry.inverse(frame_T_child))):
                try:
                    return self.static.lookup(target, upper) @ pose @ self.static.lookup(lower, source)
                except KeyError:
                    continue
        raise KeyError(f"nothing connects {source!r} to {target!r} at this time")


def alignment(estimate: Trajectory, truth: Trajectory, static: StaticFrames, *, slack_ns: int) -> tuple[Array, Array]:
    """(estimate_T_truth, truthchild_T_child): the estimate's and the truth's frames are laid over each other at the
    estimate's first pose that has a true one.

    Raises KeyError if there is no such pose, or no static transform connects the two trajectories' children.
    """
    truthchild_T_child = static.lookup(truth.child_frame_id, estimate.child_frame_id)
    for stamp_ns, frame_T_child in zip(estimate.stamps_ns.tolist(), estimate.frame_T_child, strict=True):
        try:
            true = truth.at(stamp_ns, slack_ns=slack_ns)
        except KeyError:
            continue
        return frame_T_child @ geometry.inverse(true @ truthchild_T_child), truthchild_T_child
    raise KeyError(f"{truth.topic} has no pose at a time of {estimate.topic}")
