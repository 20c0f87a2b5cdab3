"""Frames that are fixed to each other, as /tf_static names them, and what lies between two poses.

Names and products read as everywhere: `target_T_source` (4, 4) float64 maps points of source into target. A transform
that is not known raises KeyError; nothing is identity by default.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core import geometry
from tercel.core.messages import Transforms

Array = NDArray[Any]


class StaticFrames:
    """Frames that do not move relative to each other. Of two transforms of the same pair the later one holds."""

    def __init__(self, transforms: Iterable[Transforms] = ()) -> None:
        self._neighbours: dict[str, dict[str, Array]] = {}  # [frame][neighbour] is neighbour_T_frame
        for message in transforms:
            self.add(message)

    def add(self, message: Transforms) -> None:
        """Learn what one message tells."""
        for parent, child, parent_T_child in zip(
            message.parents, message.children, message.parent_T_child, strict=True
        ):
            if not np.isfinite(parent_T_child).all():
                continue  # unknown is what it is
            self._neighbours.setdefault(_plain(child), {})[_plain(parent)] = parent_T_child
            self._neighbours.setdefault(_plain(parent), {})[_plain(child)] = geometry.inverse(parent_T_child)

    def lookup(self, target: str, source: str) -> Array:
        """target_T_source (4, 4), along the shortest chain. Raises KeyError if nothing connects the two."""
        target, source = _plain(target), _plain(source)
        reached: dict[str, Array] = {source: np.eye(4)}
        waiting = deque([source])
        while waiting:
            frame = waiting.popleft()
            if frame == target:
                return reached[frame]
            for neighbour, neighbour_T_frame in self._neighbours.get(frame, {}).items():
                if neighbour not in reached:
                    reached[neighbour] = neighbour_T_frame @ reached[frame]
                    waiting.append(neighbour)
        raise KeyError(f"no static transform connects {source!r} to {target!r}")


def _plain(frame: str) -> str:
    """ROS 1 writes a leading slash, ROS 2 does not."""
    return frame.lstrip("/")


def interpolate_pose(first: Array, second: Array, share: float) -> Array:
    """The pose (4, 4) at a share of the way, on the screw motion from the first pose (share 0) to the second (1)."""
    result: Array = first @ geometry.se3_exp(share * geometry.se3_log(geometry.inverse(first) @ second))
    return result
