"""The component around registration.inertial_odometry: readings and clouds in, odometry out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from registration.imu_readings import ImuBuffer
from registration.inertial_odometry import InertialOdometry, InertialOdometryConfig
from registration.odometry import OdometryResult
from tercel.core.component import Component, Input, Models, Output, Outputs, on
from tercel.core.errors import Rejected
from tercel.core.frames import StaticFrames
from tercel.core.messages import Array, Imu, Odometry, PointCloud, Transforms


@dataclass(frozen=True)
class LidarInertialOdometryConfig(InertialOdometryConfig):
    """What InertialOdometryConfig has, and odom_frame: the frame that the poses are given in."""

    odom_frame: str = "odom"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.odom_frame:
            raise ValueError("odom_frame must not be empty")


class LidarInertialOdometry(Component):
    """The pose of the cloud's frame in the odometry frame, at the cloud's stamp, from a LiDAR and an IMU.

    Where the IMU sits comes from the transforms; clouds are rejected until they connect the two. A cloud is worked on
    with the readings that came before it: one more than max_gap_s behind it and the cloud's end is guessed. Readings
    that come later still count for what follows. The covariance is of the pose in the odometry frame: it grows with the
    way (InertialOdometry.pose_covariance). deskewed is the cloud as one instant, its stamp, would have seen it. Counted
    are the scans in bad health (degraded, lost), those at which the map was begun anew, and the IMU's faults.
    """

    Config = LidarInertialOdometryConfig
    imu = Input(Imu, queue="all")
    cloud = Input(PointCloud)
    transforms = Input(Transforms, queue="all", late="accept")
    odometry = Output(Odometry)
    deskewed = Output(PointCloud)

    def __init__(self, config: LidarInertialOdometryConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._frames = StaticFrames()
        self._readings = ImuBuffer(self.config)
        self._odometry: InertialOdometry | None = None
        self._frame_id: str | None = None
        self._imu_frame_id: str | None = None
        self._counted: Counter[str] = Counter()

    @on(transforms)
    def learn_frames(self, transforms: Transforms) -> Outputs:
        """Where the sensors are on the robot."""
        self._frames.add(transforms)
        return {}

    @on(imu)
    def read(self, imu: Imu) -> Outputs:
        """Keep a reading. Raises Rejected if it is not finite, all zeros, from the past, or of another IMU."""
        if imu.frame_id != (self._imu_frame_id or imu.frame_id):
            raise Rejected("IMU frame changed within the stream")
        take = self._readings.add if self._odometry is None else self._odometry.add_imu
        take(imu.stamp_ns, imu.angular_velocity_radps, imu.linear_acceleration_mps2)
        self._imu_frame_id = imu.frame_id
        return {}

    @on(cloud)
    def step(self, cloud: PointCloud) -> Outputs:
        """One cloud's pose. Raises Rejected for a stamp from the past, another frame, and, before there is a map, for
        too few usable points, no IMU, or no transform to it."""
        if cloud.frame_id != (self._frame_id or cloud.frame_id):
            raise Rejected("frame changed within the stream")
        odometry = self._odometry or self._begun(cloud.frame_id)
        result = odometry.step(cloud.points_m, cloud.stamp_ns, cloud.time_offset_s)
        if self._odometry is None:  # a cloud that was rejected must not say where the LiDAR is
            self._odometry, self._frame_id = odometry, cloud.frame_id
        self._count(result)
        message = Odometry(
            stamp_ns=cloud.stamp_ns,
            frame_id=self.config.odom_frame,
            child_frame_id=cloud.frame_id,
            frame_T_child=result.odom_T_sensor,
            covariance=odometry.pose_covariance(),
            linear_velocity_mps=None if result.twist is None else result.twist[:3],
            angular_velocity_radps=None if result.twist is None else result.twist[3:],
        )
        return {"odometry": message, "deskewed": self._deskewed(odometry, cloud)}

    def counters(self) -> Mapping[str, int]:
        """How many scans were degraded, lost and restarted, and what was wrong with the IMU."""
        faults = {} if self._odometry is None else self._odometry.counters
        return {**self._counted, **{name: count for name, count in faults.items() if count}}

    def map_points_m(self) -> Array | None:
        """The map that scans are matched with now, in the odometry frame: the last keyframes, thinned."""
        cloud = None if self._odometry is None else self._odometry.map.cloud
        return None if cloud is None else np.array(cloud.points()[:, :3])

    def _begun(self, frame_id: str) -> InertialOdometry:
        if self._imu_frame_id is None:
            raise Rejected("no IMU reading yet")
        try:
            imu_T_lidar = self._frames.lookup(self._imu_frame_id, frame_id)
        except KeyError:
            raise Rejected("no transform from the LiDAR to the IMU") from None
        return InertialOdometry(imu_T_lidar, self.config, self._readings)

    def _count(self, result: OdometryResult) -> None:
        if result.health != "tracking":
            self._counted[result.health] += 1
        if result.status == "restarted":
            self._counted[result.status] += 1

    def _deskewed(self, odometry: InertialOdometry, cloud: PointCloud) -> PointCloud:
        """The cloud without the sensor's own motion, as far as that is known; the same points in the same order."""
        if cloud.time_offset_s is None or not self.config.deskew:
            return cloud
        points_m = odometry.undistorted(cloud.points_m, cloud.time_offset_s)
        return replace(cloud, points_m=points_m, time_offset_s=None)
