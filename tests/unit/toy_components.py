"""Small components for tests of graphs and hosts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercel.core.component import Component, Input, Output, on
from tercel.core.errors import Rejected
from tercel.core.messages import Imu, Message, Odometry, PointCloud


@dataclass(frozen=True)
class ToyConfig:
    refuse_every: int = 0
    scale: float = 1.0


class Smoother(Component):
    """Sums rates; refuses every n-th message if told to."""

    Config = ToyConfig
    imu = Input(Imu)
    pose = Output(Odometry)

    def __init__(self, config: ToyConfig | None = None, models: object = None) -> None:
        super().__init__(config, None)
        self._count = 0
        self._total = np.zeros(3)

    def counters(self) -> dict[str, int]:
        return {"calls": self._count}

    @on(imu)
    def step(self, imu: Imu) -> dict[str, Message]:
        self._count += 1
        if self.config.refuse_every and self._count % self.config.refuse_every == 0:
            raise Rejected("every so often")
        self._total = self._total + imu.angular_velocity_radps * self.config.scale
        pose = np.eye(4)
        pose[:3, 3] = self._total
        odometry = Odometry(stamp_ns=imu.stamp_ns, frame_id="odom", child_frame_id=imu.frame_id, frame_T_child=pose)
        return {"pose": odometry}


class Joiner(Component):
    """Pairs a cloud with a pose, asynchronously."""

    Config = ToyConfig
    cloud = Input(PointCloud)
    pose = Input(Odometry)
    moved = Output(PointCloud)

    @on(cloud, pose, tolerance_ms=6)
    async def step(self, cloud: PointCloud, pose: Odometry) -> dict[str, Message]:
        points = cloud.points_m + pose.frame_T_child[:3, 3].astype(np.float32)
        return {"moved": PointCloud(stamp_ns=cloud.stamp_ns, frame_id="odom", points_m=points)}


class Failing(Component):
    """A component with a programmer's mistake."""

    Config = ToyConfig
    imu = Input(Imu)
    pose = Output(Odometry)

    @on(imu)
    def step(self, imu: Imu) -> dict[str, Message]:
        return {"pose": imu}
