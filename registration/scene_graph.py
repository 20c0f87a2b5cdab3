"""Scene graphs: what a robot sees, in few enough words to tell another robot.

A node is a structure (a pole or trunk, a wall, a corner, a crown) or an object (what a detector found), with a place, a
size and a few numbers of its shape. Edges are not kept: the distance, the difference in height and the angle between
any two nodes follow from their places, and do not change with where the robot stands.

Nodes are given in the level frame: its origin is the sensor, its z points up, its x looks where the sensor's does.
Two robots that both know which way is up need four numbers, x y z and yaw, to bring their graphs together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# The order is that of the wire: append, never reorder.
KINDS = ("pole", "wall", "corner", "crown", "thing", "object", "vehicle", "person")
POLE, WALL, CORNER, CROWN, THING, OBJECT, VEHICLE, PERSON = range(len(KINDS))
# How much a node of each kind says about the place: what may drive away says little, what walks hardly anything.
KIND_WEIGHTS = np.array([1.0, 1.0, 1.0, 0.6, 0.4, 0.4, 0.3, 0.05])


@dataclass(frozen=True, eq=False)
class SceneGraph:
    """N nodes as one scan shows them, in the level frame.

    stamp_ns: of the scan. frame_id: the sensor's frame. up (3,) float64: the unit vector that points up, in the
    sensor's frame. sensor_height_m: of the sensor above the ground below it.
    kinds (N,) uint8: indices into KINDS. centers_m (N, 3) float64. sizes_m (N, 3) float64: length, width, height;
    yaws_rad (N,) float64, NaN where unknown: where a wall's face looks to, and else where the length points to, which
    end is not known. weights (N,) float64 in 0..1: how much the node can be relied on to be seen again.
    """

    stamp_ns: int
    frame_id: str
    up: Array
    sensor_height_m: float
    kinds: Array
    centers_m: Array
    sizes_m: Array
    yaws_rad: Array
    weights: Array

    def __len__(self) -> int:
        return len(self.kinds)

    def take(self, index: Array) -> SceneGraph:
        """The nodes that an index or a mask names."""
        return SceneGraph(
            self.stamp_ns,
            self.frame_id,
            self.up,
            self.sensor_height_m,
            *(getattr(self, name)[index] for name in ("kinds", "centers_m", "sizes_m", "yaws_rad", "weights")),
        )
