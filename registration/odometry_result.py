"""What an odometry says of one scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

Array = NDArray[Any]
Status = Literal["started", "registered", "predicted", "recovered", "restarted"]
Health = Literal["tracking", "degraded", "lost"]


@dataclass(frozen=True, eq=False)
class OdometryResult:
    """One scan's pose.

    status: "started" (the first scan makes the map), "registered", "predicted" (the alignment failed or overlapped too
    little: the pose is the prediction), "recovered" (after so many failures, global registration found the map again)
    or "restarted" (it did not, and the map was begun anew at the prediction).
    odom_T_sensor (4, 4). twist (6,): linear m/s, then angular rad/s, in the sensor's frame; None while unknown.
    overlap: share of the thinned scan that found partners. iterations: of all passes.
    covariance (6, 6), m^2 and rad^2, x y z rx ry rz in the sensor's frame: of the pose relative to the local map, see
    registration.local; ScanToMapOdometry.pose_covariance adds the map's drift. information: its inverse. Both are None
    where nothing was aligned ("started", "predicted", "restarted").
    health: "tracking"; "degraded" (predicted, little overlap, or degenerate_directions (K, 6) that the scan does not
    hold, along which the prediction stands); "lost" (so many scans failed that the pose is not to be used).
    keyframe: whether this scan joined the map.
    """

    status: Status
    odom_T_sensor: Array
    twist: Array | None
    overlap: float
    iterations: int
    information: Array | None
    covariance: Array | None
    health: Health
    degenerate_directions: Array
    keyframe: bool
