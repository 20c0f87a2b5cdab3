"""Components for tests of the live host: slow, failing, awaiting, and adjustable ones."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import numpy as np

from tercel.core.component import Component, Input, Output, on
from tercel.core.errors import Rejected
from tercel.core.messages import Detections2D, Image, Imu, Message, NextLook, Odometry

GATE = threading.Event()
"""What a Gated component waits for."""
ENTERED = threading.Event()
"""Set once a Gated or a Hanging component waits."""


def pose_of(imu: Imu, x_m: float) -> Odometry:
    pose = np.eye(4)
    pose[0, 3] = x_m
    return Odometry(stamp_ns=imu.stamp_ns, frame_id="odom", child_frame_id=imu.frame_id, frame_T_child=pose)


@dataclass(frozen=True)
class GainConfig:
    gain: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite(self.gain):
            raise ValueError(f"gain {self.gain} must be finite")


class Gain(Component):
    """Multiplies; its gain may change at work."""

    Config = GainConfig
    live_settings = frozenset({"gain"})
    imu = Input(Imu)
    pose = Output(Odometry)

    @on(imu)
    def step(self, imu: Imu) -> dict[str, Message]:
        value = float(imu.angular_velocity_radps[0])
        return {"pose": pose_of(imu, value * self.config.gain + self.config.offset)}


class Gated(Gain):
    """Does not return before the gate opens."""

    imu = Input(Imu)

    @on(imu)
    def step(self, imu: Imu) -> dict[str, Message]:
        ENTERED.set()
        assert GATE.wait(10)
        return {"pose": pose_of(imu, 0.0)}


class Every(Gain):
    """Keeps every message."""

    imu = Input(Imu, queue="all")

    @on(imu)
    def step(self, imu: Imu) -> dict[str, Message]:
        assert GATE.wait(10)
        return {"pose": pose_of(imu, 0.0)}


class Breaking(Gain):
    """A programmer's mistake at a negative rate; refuses a rate of zero."""

    @on(Gain.imu)
    def step(self, imu: Imu) -> dict[str, Message]:
        if imu.angular_velocity_radps[0] == 0:
            raise Rejected("no rate")
        if imu.angular_velocity_radps[0] < 0:
            raise RuntimeError("rates are positive")
        return {"pose": pose_of(imu, 1.0)}


class Asking(Component):
    """Awaits a network."""

    Config = GainConfig
    imu = Input(Imu)
    pose = Output(Odometry)

    @on(imu)
    async def step(self, imu: Imu) -> dict[str, Message]:
        assert self.models is not None
        outputs = await self.models.infer("doubler", imu.angular_velocity_radps)
        return {"pose": pose_of(imu, float(outputs[0][0]))}


class Hanging(Component):
    """Awaits what never comes."""

    Config = GainConfig
    imu = Input(Imu)
    pose = Output(Odometry)

    @on(imu)
    async def step(self, imu: Imu) -> dict[str, Message]:
        ENTERED.set()
        await asyncio.Event().wait()
        return {}


class Looker(Component):
    """Sees an image, and says when to look next."""

    Config = GainConfig
    image = Input(Image)
    seen = Output(Detections2D)
    next_look = Output(NextLook)

    @on(image)
    def step(self, image: Image) -> dict[str, Message]:
        boxes = np.array([[0, 0, *image.pixels.shape[1::-1]]], np.float32)
        stamp = {"stamp_ns": image.stamp_ns, "frame_id": image.frame_id}
        seen = Detections2D(boxes_xyxy_px=boxes, scores=[1.0], labels=[0], class_names=("whole",), **stamp)  # type: ignore[arg-type]
        return {"seen": seen, "next_look": NextLook(due_ns=image.stamp_ns + 1, reason="test", **stamp)}  # type: ignore[arg-type]
