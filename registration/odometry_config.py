"""What LiDAR odometry can be told: lengths, shares and bounds, each checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from registration.local_map import MapConfig
from registration.sweep import MAX_CELLS


@dataclass(frozen=True)
class ScanConfig(MapConfig):
    """What MapConfig has, and how scans are made ready and judged, with an IMU or without. Lengths suit a 16 to 64 beam
    scanner outdoors; halve scan_voxel_m and match_m in rooms.

    min_range_m, max_range_m: nearer and farther points are dropped (the robot itself; noise).
    scan_voxel_m: edge of the grid that thins the scan that is aligned; coarser than the map's.
    reach_m, match_m: how far a point looks for its partner in the map, from a poor prediction and from a good one.
    min_points: a thinned scan with fewer is of no use.
    min_overlap: share of the scan's points that must find a partner, or else the prediction stands.
    good_overlap: with a smaller share the health is degraded.
    max_predicted: after so many scans in a row without a match the sensor is lost.
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
    deskew: bool = True

    def __post_init__(self) -> None:
        MapConfig.__post_init__(self)
        self._require_positive("scan_voxel_m", "reach_m", "match_m")
        if not 0.0 <= self.min_range_m < self.max_range_m < np.inf:
            raise ValueError(f"min_range_m must be 0 or more and below max_range_m, not {self.min_range_m}")
        if self.max_range_m > MAX_CELLS * min(self.map_voxel_m, self.scan_voxel_m):
            raise ValueError(f"voxels must be {self.max_range_m / MAX_CELLS} m or more, or max_range_m smaller")
        for name in ("min_overlap", "good_overlap"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be above 0 and at most 1, not {getattr(self, name)}")
        self._require_at_least(min_points=10, max_predicted=0)

    def _require_positive(self, *names: str) -> None:
        for name in names:
            if not 0.0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")

    def _require_at_least(self, **least: float) -> None:
        for name, value in least.items():
            if not value <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be {value} or more, not {getattr(self, name)}")


@dataclass(frozen=True)
class OdometryConfig(ScanConfig):
    """What ScanConfig has, and the following.

    recoveries: how many scans a lost sensor looks for the map with, by global registration; then the map is begun anew
    where the prediction puts it.
    max_prediction_s: the last velocity is trusted for no longer than this.
    max_acceleration_mps2: a pose further off the prediction than this explains, and half a metre, is not believed once.
    """

    recoveries: int = 2
    max_prediction_s: float = 1.0
    max_acceleration_mps2: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("max_prediction_s", "max_acceleration_mps2")
        self._require_at_least(recoveries=0)
