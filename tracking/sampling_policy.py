"""When to look next, as components: tracks in, `NextLook` out; and gates that let through only the frames that are due.

    image -> ImageGate -> detector -> tracker -> SamplingPolicy2D
               ^                                      | NextLook
               +--------------------------------------+

The policy asks when the error of each track reaches its budget (`tracking.sampling`), with the covariance and process
noise of the track's own IMM filter (`tracking.prediction`): a parked car may wait, a turning one may not. Intervals are
smoothed in logarithms, because evenly spaced looks serve newcomers best, and no formula knows when one will come; what
the formula finds is the rate that a scene needs. A look is due no later than max_interval_s, and idle_interval_s where
nothing is tracked.

A gate never waits for ever: without word from the policy it lets a frame through after max_wait_s. What it holds back
it rejects under a reason, so that the host counts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tercel.core.component import Component, Input, Models, Output, Outputs, on
from tercel.core.errors import Rejected
from tercel.core.messages import Image, Message, NextLook, PointCloud, Tracks2D, Tracks3D
from tracking.motion_settings import ImageMotionSettings, MotionSettings, WorldMotionSettings, check_positive, sightings
from tracking.prediction import Histories, ModeConfig
from tracking.sampling import time_to_budget_s, time_to_confusion_s

AnyMessage = TypeVar("AnyMessage", bound=Message)

_SOONEST_S = 0.02  # what a budget that is already spent counts as when intervals are smoothed


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(MotionSettings):
    """How long tracks may go unseen."""

    error_budget: float = 0.8  # root mean square error of a position; m, or scales of the box in an image
    confusion_sigmas: float = 0.0  # above 0: look before two tracks may be taken for each other; see tracking.sampling
    smoothing: float = 0.3  # weight of the newest interval; 1 does not smooth
    max_interval_s: float = 1.0  # no look is put off for longer
    idle_interval_s: float = 0.3  # where nothing is tracked

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("error_budget", "max_interval_s", "idle_interval_s"):
            check_positive(name, getattr(self, name))
        if not 0.0 <= self.confusion_sigmas <= 100.0:
            raise ValueError(f"confusion_sigmas must be from 0 to 100, not {self.confusion_sigmas}")
        if not 0.0 < self.smoothing <= 1.0:
            raise ValueError(f"smoothing must be above 0 and at most 1, not {self.smoothing}")


@dataclass(frozen=True, kw_only=True)
class SamplingPolicy3DConfig(WorldMotionSettings, SamplingConfig):
    """For tracks in the world: the budget is in m."""


@dataclass(frozen=True, kw_only=True)
class SamplingPolicy2DConfig(ImageMotionSettings, SamplingConfig):
    """For tracks in an image: the budget is in scales sqrt(width height) of each box."""

    error_budget: float = 0.2


class SamplingPolicy3D(Component):
    """Tracks in the world to the time of the next look."""

    Config = SamplingPolicy3DConfig
    tracks = Input(Tracks3D)
    next_look = Output(NextLook)

    def __init__(self, config: SamplingPolicy3DConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._policy = _Policy(self.config)

    @on(tracks)
    def step(self, tracks: Tracks3D) -> Outputs:
        """Raises Rejected for a stamp that is not after the last one, an id that occurs twice, another frame."""
        return {"next_look": self._policy.step(tracks)}


class SamplingPolicy2D(Component):
    """Tracks in an image to the time of the next look."""

    Config = SamplingPolicy2DConfig
    tracks = Input(Tracks2D)
    next_look = Output(NextLook)

    def __init__(self, config: SamplingPolicy2DConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._policy = _Policy(self.config)

    @on(tracks)
    def step(self, tracks: Tracks2D) -> Outputs:
        """Raises Rejected for a stamp that is not after the last one, an id that occurs twice, another frame."""
        return {"next_look": self._policy.step(tracks)}


class _Policy:
    """What both policies do."""

    def __init__(self, config: SamplingPolicy2DConfig | SamplingPolicy3DConfig) -> None:
        self._config = config
        self._histories = Histories(ModeConfig(), memory_s=config.memory_s)
        self._frame_id: str | None = None
        self._log_interval = float(np.log(config.idle_interval_s))

    def step(self, tracks: Tracks2D | Tracks3D) -> NextLook:
        if self._frame_id is not None and tracks.frame_id != self._frame_id:
            raise Rejected("frame changed within the stream")
        now, scales = sightings(tracks, self._config)
        self._histories.step(now)
        self._frame_id = tracks.frame_id
        wanted_s, reason, critical_id = self._interval(now.ids, now.positions, now.velocities, scales)
        step = np.log(max(wanted_s, _SOONEST_S)) - self._log_interval
        self._log_interval += self._config.smoothing * float(step)
        due_s = min(float(np.exp(self._log_interval)), self._config.max_interval_s)
        return NextLook(
            stamp_ns=tracks.stamp_ns,
            frame_id=tracks.frame_id,
            due_ns=tracks.stamp_ns + round(due_s * 1e9),
            reason=reason,
            critical_id=critical_id,
        )

    def _interval(
        self, ids: np.ndarray, positions: np.ndarray, velocities: np.ndarray | None, scales: np.ndarray
    ) -> tuple[float, str, int]:
        """Seconds until a look is wanted, before smoothing; why; and for which track."""
        config = self._config
        if not len(ids):
            return min(config.idle_interval_s, config.max_interval_s), "nothing is tracked", -1
        covariances, psd = self._histories.spread(ids)
        times_s = time_to_budget_s(covariances, psd, config.error_budget * scales)
        reason = "error budget"
        first = int(times_s.argmin())
        wanted_s = float(times_s[first])
        if config.confusion_sigmas > 0.0 and velocities is not None:
            rates = np.where(np.isfinite(velocities), velocities, 0.0)[:, :2]
            risks_s = time_to_confusion_s(positions[:, :2], rates, covariances, psd, config.confusion_sigmas)
            if risks_s.min() < wanted_s:
                first, wanted_s, reason = int(risks_s.argmin()), float(risks_s.min()), "confusion"
        if wanted_s >= config.max_interval_s:
            return config.max_interval_s, "longest interval", -1
        return wanted_s, reason, int(ids[first])


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """When a gate stops waiting for the policy."""

    max_wait_s: float = 1.0  # of the sensor's time, without a message being let through

    def __post_init__(self) -> None:
        check_positive("max_wait_s", self.max_wait_s)


class ImageGate(Component):
    """Images in, those that are due out."""

    Config = GateConfig
    image = Input(Image)
    next_look = Input(NextLook, queue="all")
    due = Output(Image)

    def __init__(self, config: GateConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._gate = _Gate(self.config)

    @on(image)
    def pass_image(self, image: Image) -> Outputs:
        """Raises Rejected for a frame that is not due."""
        return {"due": self._gate.passed(image)}

    @on(next_look)
    def listen(self, next_look: NextLook) -> Outputs:
        """Take the policy's word."""
        return self._gate.listen(next_look)


class CloudGate(Component):
    """LiDAR sweeps in, those that are due out."""

    Config = GateConfig
    cloud = Input(PointCloud)
    next_look = Input(NextLook, queue="all")
    due = Output(PointCloud)

    def __init__(self, config: GateConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._gate = _Gate(self.config)

    @on(cloud)
    def pass_cloud(self, cloud: PointCloud) -> Outputs:
        """Raises Rejected for a sweep that is not due."""
        return {"due": self._gate.passed(cloud)}

    @on(next_look)
    def listen(self, next_look: NextLook) -> Outputs:
        """Take the policy's word."""
        return self._gate.listen(next_look)


class _Gate:
    """What the gates do. A frame passes if the next one, by the last two's distance, would come too late.

    After a frame has passed, none does until the policy has answered for it (its detector is busy), or max_wait_s.
    """

    def __init__(self, config: GateConfig) -> None:
        self._max_wait_ns = round(config.max_wait_s * 1e9)
        self._last_ns: int | None = None
        self._passed_ns: int | None = None
        self._word: NextLook | None = None

    def listen(self, word: NextLook) -> Outputs:
        if self._word is None or word.stamp_ns > self._word.stamp_ns:
            self._word = word
        return {}

    def passed(self, frame: AnyMessage) -> AnyMessage:
        stamp_ns = frame.stamp_ns
        period_ns = 0 if self._last_ns is None else stamp_ns - self._last_ns
        self._last_ns = stamp_ns
        if self._passed_ns is not None and stamp_ns - self._passed_ns < self._max_wait_ns:
            if self._word is None or self._word.stamp_ns < self._passed_ns:
                raise Rejected("the last look is not evaluated yet")
            if stamp_ns + period_ns <= self._word.due_ns:
                raise Rejected("no look is due yet")
        self._passed_ns = stamp_ns
        return frame
