"""Fusion as components: LiDAR boxes, camera boxes and other robots' tracks in, one set of world tracks out.

Every report takes its place by its stamp, however late it comes (`tracking.out_of_sequence`), within history_s. A
report whose pose is not known yet waits for odometry. Tracks go out with every LiDAR report that is newer than all
before it: as they are at its moment, with all that is known by then. What comes late shows in the next message, so that
an output's stamps always rise. While the LiDAR is silent the camera sets the pace. 'Now' is the newest stamp of our own
odometry. Where other robots are heard, their clocks are estimated in order of arrival; all else depends on stamps only.

A report that a handler refuses at once is counted by the host. What became of the detections of all others stands in
`counters`, each exactly once; what comes late may still change the outcomes of the last history_s.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tercel.core.component import Component, Input, Models, Output, Outputs, on
from tercel.core.errors import Rejected
from tercel.core.frames import StaticFrames
from tercel.core.messages import (
    CameraInfo,
    Detections2D,
    Detections3D,
    Odometry,
    RemoteTracks,
    Tracks3D,
    Transforms,
)
from tracking.clock_offset import ClockOffset, ClockOffsetConfig
from tracking.fusion_camera import CameraBoxes
from tracking.fusion_robots import RobotTracks
from tracking.fusion_world import Boxes, FusionConfig, Report, WorldTracks, step, translate_labels
from tracking.out_of_sequence import History
from tracking.poses import PoseHistory
from tracking.screening import Observations, Outcome
from tracking.tracker import Step
from tracking.world_motion import WorldMotion

Array = NDArray[Any]

NO_TRANSFORM = "no transform from the odometry's frame to the sensor's"
FROM_THE_FUTURE = "from the future"
IN_VAIN = "waited for a pose in vain"
_MAX_CAMERAS = 16
_NEAR_NS = 100_000_000  # a sweep farther in time from a report is not compared with it


class WorldFusion(Component):
    """Camera and LiDAR boxes to tracks in the odometry's fixed frame: the confirmed ones, with covariances.

    The sensors' frames must be connected to the odometry's child frame by /tf_static, or be it. A camera's boxes are
    of the pixels that camera_info describes, and wait for it. `last_step` is the account of the latest detections to
    be placed.
    """

    Config: ClassVar[type] = FusionConfig
    detections = Input(Detections3D, late="accept", depth=16)
    camera = Input(Detections2D, late="accept", depth=16)
    camera_info = Input(CameraInfo)
    odometry = Input(Odometry, depth=100)
    transforms = Input(Transforms, queue="all", late="accept")
    tracks = Output(Tracks3D)

    def __init__(self, config: Any = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        span_ns = round(self.config.history_s * 1e9)
        self._history: History[WorldTracks, Report, Step] = History(
            WorldTracks(self.config), step, span_ns=span_ns, max_entries=self.config.history_reports
        )
        self._poses = PoseHistory(span_ns + 1_000_000_000, round(self.config.max_pose_gap_s * 1e9))
        self._frames = StaticFrames()
        self._cameras: dict[str, CameraInfo] = {}
        self._waiting: list[Detections2D | Detections3D] = []
        self._refused: Counter[str] = Counter()
        self._settled: Counter[int] = Counter()
        self._published_ns: int | None = None
        self.last_step: Step | None = None

    def counters(self) -> dict[str, int]:
        """What became of all detections so far, in words; "detections" is the sum of the others."""
        outcomes = self._settled.copy()
        for account in self._history.accounts:
            outcomes.update(account.outcomes.tolist())
        counted = {outcome.words: outcomes[outcome] for outcome in Outcome if outcomes[outcome]}
        counted.update({f"report refused: {reason}": count for reason, count in sorted(self._refused.items())})
        if self._waiting:
            counted["report waiting"] = sum(len(message.scores) for message in self._waiting)
        return {"detections": sum(counted.values()), **counted}

    @property
    def repeated_steps(self) -> int:
        """Steps that were made again for the sake of late reports."""
        return self._history.repeated

    def tracks_at(self, stamp_ns: int) -> Tracks3D:
        """The tracks at a moment of the last history_s, or later, with all that is known by now.

        Raises ValueError for an earlier moment.
        """
        tracks = self._history.state_at(stamp_ns)
        if tracks.stamp_ns is not None and tracks.stamp_ns > stamp_ns:
            raise ValueError(f"{stamp_ns} is older than the history")
        if tracks.stamp_ns != stamp_ns:
            tracks = tracks.copy()
            tracks.advance(stamp_ns)
        shown, table, motion = tracks.shown(), tracks.table, tracks.motion
        return Tracks3D(
            stamp_ns=stamp_ns,
            frame_id=self._poses.frame_id,
            class_names=self.config.classes,
            centers_m=motion.state.mean[:3, shown].T,
            sizes_m=motion.sizes_m[shown],
            yaws_rad=motion.yaws_rad[shown],
            velocities_mps=motion.state.mean[3:, shown].T,
            covariances=np.moveaxis(motion.state.covariance[:, :, shown], -1, 0),
            scores=table.scores[shown],
            labels=tracks.labels[shown],
            ids=table.ids[shown],
            ages_s=(stamp_ns - table.first_ns[shown]) * 1e-9,
            unseen_s=(stamp_ns - table.last_ns[shown]) * 1e-9,
        )

    @on(transforms)
    def learn_frames(self, transforms: Transforms) -> Outputs:
        """Where the sensors are on the robot."""
        self._frames.add(transforms)
        return {}

    @on(camera_info)
    def learn_camera(self, camera_info: CameraInfo) -> Outputs:
        """The first may bring tracks, of what waited for it. Raises Rejected for more cameras than a robot has."""
        first = camera_info.frame_id not in self._cameras
        if first and len(self._cameras) >= _MAX_CAMERAS:
            raise Rejected("too many cameras")
        self._cameras[camera_info.frame_id] = camera_info
        return self._place_waiting() if first else {}

    @on(odometry)
    def move(self, odometry: Odometry) -> Outputs:
        """Take in a pose, and what waited for it. Raises Rejected for a pose that is none."""
        self._poses.add(odometry)
        return self._place_waiting()

    @on(detections)
    def see_boxes(self, detections: Detections3D) -> Outputs:
        """Raises Rejected for a report that is too late, a duplicate, or without pose or transform."""
        return self._take(detections)

    @on(camera)
    def see_image(self, camera: Detections2D) -> Outputs:
        """Raises Rejected as `see_boxes`, and where the calibration cannot be used."""
        return self._take(camera)

    def _take(self, message: Detections2D | Detections3D) -> Outputs:
        """Place a report, or let it wait until its pose and calibration are known."""
        if self._is_ready(message):
            return self._place(message)
        self._waiting.append(message)
        if len(self._waiting) > self.config.waiting_reports:
            self._refuse(self._waiting.pop(0), IN_VAIN)
        return {}

    def _is_ready(self, message: Detections2D | Detections3D) -> bool:
        newest_ns = self._poses.newest_ns
        calibrated = isinstance(message, Detections3D) or message.frame_id in self._cameras
        return calibrated and newest_ns is not None and message.stamp_ns <= newest_ns

    def _place_waiting(self) -> Outputs:
        """Place what is ready of what waits; the last tracks that come of it."""
        outputs: Outputs = {}
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            if not self._is_ready(message):
                self._waiting.append(message)
                continue
            try:
                outputs = self._place(message) or outputs
            except Rejected as reason:
                self._refuse(message, str(reason))
        return outputs

    def _refuse(self, message: Detections2D | Detections3D, reason: str) -> None:
        self._refused[reason] += len(message.scores)

    def _place(self, message: Detections2D | Detections3D) -> Outputs:
        world_T_sensor = self._poses.at(message.stamp_ns) @ self._child_T(message.frame_id)
        self._insert(self._report(message, world_T_sensor))
        if not self._is_due(message):
            return {}
        self._published_ns = message.stamp_ns
        return {"tracks": self.tracks_at(message.stamp_ns)}

    def _is_due(self, message: Detections2D | Detections3D) -> bool:
        """Whether tracks go out with this report: with a new sweep always, with an image if no sweep came for long."""
        if isinstance(message, Detections3D):
            return self._published_ns is None or message.stamp_ns > self._published_ns
        if self._published_ns is None:
            self._published_ns = message.stamp_ns - 1  # from now on the LiDAR is waited for
        return bool(message.stamp_ns - self._published_ns > round(self.config.lidar_silence_s * 1e9))

    def _report(self, message: Detections2D | Detections3D, world_T_sensor: Array) -> Report:
        if isinstance(message, Detections2D):
            return CameraBoxes.of(message, self._cameras[message.frame_id], world_T_sensor, self.config)
        observed = WorldMotion.observe(message, world_T_sensor)
        classes = self.config.classes
        labels = translate_labels(message.labels, message.class_names, classes)
        seen = Observations(message.stamp_ns, observed.measurements, observed.scores, labels, len(classes))
        return Boxes(message.frame_id, seen, self.config)

    def _insert(self, report: Report) -> None:
        self.last_step = self._history.insert(report)
        for account in self._history.take_settled():
            self._settled.update(account.outcomes.tolist())

    def _child_T(self, sensor_frame: str) -> Array:
        """child_T_sensor, of the odometry's child frame. Raises Rejected where it is not known."""
        try:
            return self._frames.lookup(self._poses.child_frame_id, sensor_frame)
        except KeyError:
            raise Rejected(NO_TRANSFORM) from None


@dataclass(frozen=True, kw_only=True)
class CooperativeConfig(FusionConfig):
    """How reports of other robots are taken, besides."""

    future_s: float = 0.2  # a report may be so far ahead of our newest sensor's stamp
    max_robots: int = 32  # reports of more than so many are not taken
    clock_window_s: float = 20.0  # in which the quickest message of a robot is looked for
    clock_jump_s: float = 1.0  # delays differ by less; more is a step of the robot's clock
    refine_clock: bool = True  # a robot's clock is refined by the motion of things that both see

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.future_s <= 60.0:
            raise ValueError(f"future_s must be from 0 to 60, not {self.future_s}")
        if not 1 <= self.max_robots <= 1000:
            raise ValueError(f"max_robots must be from 1 to 1000, not {self.max_robots}")
        self.clock()

    def clock(self) -> ClockOffsetConfig:
        """How the robots' clocks are estimated."""
        return ClockOffsetConfig(window_s=self.clock_window_s, jump_s=self.clock_jump_s)


class CooperativeFusion(WorldFusion):
    """World fusion that also hears other robots. `clocks` has the estimate of each robot's clock, by name."""

    Config: ClassVar[type] = CooperativeConfig
    remote = Input(RemoteTracks, queue="all", late="accept")

    def __init__(self, config: CooperativeConfig | None = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self.clocks: dict[str, ClockOffset] = {}

    @on(remote)
    def hear(self, remote: RemoteTracks) -> Outputs:
        """Raises Rejected for a report without covariances or in an unknown frame, too late, from the future, of one
        robot too many, or while its clock cannot be trusted."""
        now_ns = self._history_now()
        clock = self._listen(remote)
        stamp_ns = clock.to_ours(remote.tracks.stamp_ns)
        if stamp_ns > now_ns + round(self.config.future_s * 1e9):
            raise Rejected(FROM_THE_FUTURE)
        if remote.frame_id != remote.tracks.frame_id:
            raise Rejected("the robot contradicts itself about its frame")
        try:
            world_T_frame = self._frames.lookup(self._poses.frame_id, remote.frame_id)
        except KeyError:
            raise Rejected("the robot's frame is unknown") from None
        report = RobotTracks.of(remote.robot, remote.tracks, stamp_ns, world_T_frame, clock.sigma_s, self.config)
        self._insert(report)
        if self.config.refine_clock:
            self._refine(clock, report)
        return {}

    def _refine(self, clock: ClockOffset, report: RobotTracks) -> None:
        """Compare the report with the sweep of ours that is nearest in time."""
        stamp_ns = report.seen.stamp_ns
        sweeps = [placed for placed in self._history.measurements if isinstance(placed, Boxes)]
        nearest = min(sweeps, key=lambda sweep: abs(sweep.seen.stamp_ns - stamp_ns), default=None)
        if nearest is None or abs(nearest.seen.stamp_ns - stamp_ns) > _NEAR_NS:
            return
        lag = report.lag(nearest)
        if lag is not None:
            clock.refine(*lag)

    def _history_now(self) -> int:
        newest_ns = self._poses.newest_ns
        if newest_ns is None:
            raise Rejected("nothing of our own to tell the time by")
        return newest_ns

    def _listen(self, remote: RemoteTracks) -> ClockOffset:
        """The robot's clock, with this message's stamps taken in."""
        sent_ns = remote.tracks.stamp_ns if remote.sent_ns is None else remote.sent_ns
        if remote.tracks.stamp_ns > sent_ns:
            raise Rejected(FROM_THE_FUTURE)
        clock = self.clocks.get(remote.robot)
        if clock is None:
            if len(self.clocks) >= self.config.max_robots:
                raise Rejected("too many robots")
            clock = self.clocks[remote.robot] = ClockOffset(self.config.clock())
        exchange = None if remote.exchange_ns is None else remote.exchange_ns.tolist()
        clock.hear(sent_ns, remote.stamp_ns, exchange)
        return clock
