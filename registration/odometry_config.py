"""What LiDAR odometry can be told: lengths, shares and bounds, each checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from registration.local_map import MapConfig
from registration.sweep import MAX_CELLS


@dataclass(frozen=True)
class OdometryConfig(MapConfig):
    """What MapConfig has, and the following. Lengths suit a 16 to 64 beam scanner outdoors; halve match_m in rooms.

    min_range_m, max_range_m: nearer and farther points are dropped (the robot itself; noise).
    scan_voxel_m: edge of the grid that thins the scan that is aligned; coarser than the map's.
    reach_m, match_m: how far a point looks for its partner in the map, in the first and in the second pass.
    min_points: a thinned scan with fewer is rejected.
    min_overlap: share of the scan's points that must find a partner, or else the prediction stands.
    good_overlap: with a smaller share the health is degraded.
    max_predicted: after so many scans in a row without a match the sensor is lost.
    recoveries: how many scans a lost sensor looks for the map with, by global registration; then the map is begun anew
    where the prediction puts it.
    max_prediction_s: the last velocity is trusted for no longer than this.
    max_acceleration_mps2: a pose further off the prediction than this explains, and half a metre, is not believed once.
    deskew: undo the sensor's motion within a sweep, if the points carry times.
    """

    min_range_m: float = 0.5
    max_range_m: float = 100.0
    scan_voxel_m: float = 0.75
    reach_m: float = 2.0
    match_m: float = 0.5
    min_points: int = 50
    min_overlap: float = 0.3
    good_overlap: float = 0.4
    max_predicted: int = 5
    recoveries: int = 2
    max_prediction_s: float = 1.0
    max_acceleration_mps2: float = 50.0
    deskew: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scan_voxel_m", "reach_m", "match_m", "max_prediction_s", "max_acceleration_mps2"):
            if not 0.0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0.0 <= self.min_range_m < self.max_range_m < np.inf:
            raise ValueError(f"min_range_m must be 0 or more and below max_range_m, not {self.min_range_m}")
        if self.max_range_m > MAX_CELLS * min(self.map_voxel_m, self.scan_voxel_m):
            raise ValueError(
                f"voxels must be at least {self.max_range_m / MAX_CELLS} m for ranges to {self.max_range_m} m"
            )
        for name in ("min_overlap", "good_overlap"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be above 0 and at most 1, not {getattr(self, name)}")
        for name, least in (("min_points", 10), ("max_predicted", 0), ("recoveries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, not {getattr(self, name)}")
