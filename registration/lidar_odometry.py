"""The component around registration.odometry: clouds in, odometry out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from registration.odometry import OdometryConfig, OdometryResult, ScanToMapOdometry
from registration.sweep import deskew
from tercel.core.component import Component, Input, Models, Output, Outputs, on
from tercel.core.errors import Rejected
from tercel.core.messages import Array, Odometry, PointCloud


@dataclass(frozen=True)
class LidarOdometryConfig(OdometryConfig):
    """What OdometryConfig has, and odom_frame: the frame that the poses are given in."""

    odom_frame: str = "odom"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.odom_frame:
            raise ValueError("odom_frame must not be empty")


class LidarOdometry(Component):
    """The pose of the cloud's frame in the odometry frame, at the cloud's stamp.

    The covariance is of the pose in the odometry frame: it grows with the way (ScanToMapOdometry.pose_covariance).
    Velocities are None until two scans have been matched, and after the map had to be found or begun anew. deskewed is
    the cloud as one instant, its stamp, would have seen it: what else looks at clouds on a moving robot wants that one.
    Counted are the poses by their health (OdometryResult.health).
    """

    Config = LidarOdometryConfig
    cloud = Input(PointCloud)
    odometry = Output(Odometry)
    deskewed = Output(PointCloud)

    def __init__(self, config: LidarOdometryConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._odometry = ScanToMapOdometry(self.config)
        self._frame_id: str | None = None
        self._counted = {"tracking": 0, "degraded": 0, "lost": 0}

    @on(cloud)
    def step(self, cloud: PointCloud) -> Outputs:
        """One cloud's pose. Raises Rejected for too few usable points, a stamp from the past, or another frame."""
        if cloud.frame_id != (self._frame_id or cloud.frame_id):
            raise Rejected("frame changed within the stream")
        result = self._odometry.step(cloud.points_m, cloud.stamp_ns, cloud.time_offset_s)
        self._counted[result.health] += 1
        odometry = Odometry(
            stamp_ns=cloud.stamp_ns,
            frame_id=self.config.odom_frame,
            child_frame_id=cloud.frame_id,
            frame_T_child=result.odom_T_sensor,
            covariance=self._odometry.pose_covariance(),
            linear_velocity_mps=None if result.twist is None else result.twist[:3],
            angular_velocity_radps=None if result.twist is None else result.twist[3:],
        )
        self._frame_id = cloud.frame_id
        return {"odometry": odometry, "deskewed": self._deskewed(cloud, result)}

    def counters(self) -> Mapping[str, int]:
        """How many poses there were, and of these how many tracking, degraded and lost."""
        return {"poses": sum(self._counted.values()), **self._counted}

    def map_points_m(self) -> Array | None:
        """The map that scans are matched with now, in the odometry frame: the last keyframes, thinned."""
        cloud = self._odometry.map.cloud
        return None if cloud is None else np.array(cloud.points()[:, :3])

    def _deskewed(self, cloud: PointCloud, result: OdometryResult) -> PointCloud:
        """The cloud without the sensor's own motion, as far as that is known; the same points in the same order."""
        if cloud.time_offset_s is None or result.twist is None or not self.config.deskew:
            return cloud
        points_m = deskew(cloud.points_m, cloud.time_offset_s, result.twist)
        return replace(cloud, points_m=points_m, time_offset_s=None)
