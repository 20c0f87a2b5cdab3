"""The two odometries behind one pair of verbs: learn what comes beside the scans, and step with each scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol

from numpy.typing import NDArray

from registration.odometry import OdometryConfig, OdometryResult, ScanToMapOdometry
from tercel.core.component import config_from_mapping
from tercel.core.errors import Rejected
from tercel.core.frames import StaticFrames
from tercel.core.messages import Imu, Message, PointCloud, Transforms
from tercel.terminal import typed_settings

Array = NDArray[Any]

NOT_CONNECTED = "/tf_static does not connect"


class Follower(Protocol):
    """An odometry."""

    def learn(self, message: Message) -> None:
        """Take a message beside the scans. Raises Rejected for one that is no use."""
        ...

    def step(self, cloud: PointCloud) -> OdometryResult:
        """Take a scan. Raises Rejected for one that is no use."""
        ...

    def pose_covariance(self) -> Array | None:
        """Covariance (6, 6) of the last pose in the odometry frame, in the sensor's axes; None if it is not known."""
        ...

    def counters(self) -> Mapping[str, int]:
        """What it has counted beside the scans' own account."""
        ...


def make_follower(settings: Mapping[str, str], *, inertial: bool) -> Follower:
    """The odometry with its settings, as written. Raises UserError for an unknown one or a value that it refuses."""
    if inertial:
        return InertialFollower(settings)
    return LidarFollower(_config(OdometryConfig, settings))


class LidarFollower:
    """Scans alone."""

    def __init__(self, config: OdometryConfig) -> None:
        self._odometry = ScanToMapOdometry(config)

    def learn(self, message: Message) -> None:
        """Nothing beside the scans matters."""

    def step(self, cloud: PointCloud) -> OdometryResult:
        """See Follower."""
        return self._odometry.step(cloud.points_m, cloud.stamp_ns, cloud.time_offset_s)

    def pose_covariance(self) -> Array | None:
        """See Follower: the alignment's, and what the map has drifted."""
        return self._odometry.pose_covariance()

    def counters(self) -> Mapping[str, int]:
        """Nothing."""
        return {}


class InertialFollower:
    """Scans and IMU. The odometry begins with the first scan after a reading: only then both frames are known."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        from registration.imu_readings import ImuBuffer
        from registration.inertial_odometry import InertialOdometryConfig

        self._config: InertialOdometryConfig = _config(InertialOdometryConfig, settings)
        self._odometry: Any = None
        self._statics = StaticFrames()
        self._imu_frame: str | None = None
        self._readings = ImuBuffer(self._config)

    def learn(self, message: Message) -> None:
        """See Follower."""
        if isinstance(message, Transforms):
            self._statics.add(message)
        if not isinstance(message, Imu):
            return
        if message.frame_id != (self._imu_frame or message.frame_id):
            raise Rejected("IMU frame changed within the stream")
        take = self._readings.add if self._odometry is None else self._odometry.add_imu
        take(message.stamp_ns, message.angular_velocity_radps, message.linear_acceleration_mps2)
        self._imu_frame = message.frame_id

    def step(self, cloud: PointCloud) -> OdometryResult:
        """See Follower. A scan before the first IMU reading, or before it is known where the IMU is, is Rejected."""
        odometry = self._odometry or self._begun(cloud.frame_id)
        result: OdometryResult = odometry.step(cloud.points_m, cloud.stamp_ns, cloud.time_offset_s)
        if self._odometry is None:  # a scan that was rejected must not say where the LiDAR is
            self._odometry = odometry
        return result

    def pose_covariance(self) -> Array | None:
        """See Follower: the filter's, and what the map has drifted."""
        return None if self._odometry is None else self._odometry.pose_covariance()

    def counters(self) -> Mapping[str, int]:
        """What the filter found wrong."""
        return {} if self._odometry is None else dict(self._odometry.counters)

    def _begun(self, lidar_frame: str) -> Any:
        from registration.inertial_odometry import InertialOdometry

        if self._imu_frame is None:
            raise Rejected("no IMU reading yet")
        try:
            imu_T_lidar = self._statics.lookup(self._imu_frame, lidar_frame)
        except KeyError:
            raise Rejected(f"{NOT_CONNECTED} {self._imu_frame!r} with {lidar_frame!r}") from None
        return InertialOdometry(imu_T_lidar, self._config, self._readings)


def _config(kind: type, settings: Mapping[str, str]) -> Any:
    defaults = {f.name: f.default for f in fields(kind)}
    return config_from_mapping(kind, typed_settings(settings, defaults, "--set"), where="--set")
