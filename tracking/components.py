"""The trackers as components: messages in, messages out; the work is in tracker and its parts."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from numpy.typing import NDArray

from tercel.core.component import Component, Input, Models, Output, Outputs, on
from tercel.core.errors import Rejected
from tercel.core.geometry import orthonormalise
from tercel.core.messages import Detections2D, Detections3D, Odometry, Tracks2D, Tracks3D
from tracking.ab3dmot import Ab3dmotConfig
from tracking.box_tracker import BoxTrackerConfig
from tracking.bytetrack import ByteTrackConfig
from tracking.image_motion import ImageMotion
from tracking.image_tracker import Tracker2DConfig
from tracking.ocsort import OcSortConfig
from tracking.sort import SortConfig
from tracking.tracker import Step, Tracker
from tracking.world_motion import Tracker3DConfig, WorldMotion

Array = NDArray[Any]

_PAIRING_MS = 50.0


class Tracker2D(Component):
    """Boxes in an image to tracks in that image: the confirmed ones, with the stamp and frame of the detections.

    `last_step` is the account of the latest detections. The subclasses track by other rules.
    """

    Config: ClassVar[type[Any]] = Tracker2DConfig
    detections = Input(Detections2D)
    tracks = Output(Tracks2D)

    def __init__(self, config: Any = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._tracker: Tracker = self.config.assemble()
        self._motion = cast(ImageMotion, self._tracker.motion)
        self._stream: tuple[Any, ...] | None = None
        self.last_step: Step | None = None

    def counters(self) -> dict[str, int]:
        """What became of all detections so far, in words."""
        return self._tracker.counters()

    @on(detections)
    def step(self, detections: Detections2D) -> Outputs:
        """Raises Rejected for a stamp that is not after the last one, and for another frame or other class names."""
        return self.track(detections)

    def track(self, detections: Detections2D, affine: Array | None = None) -> Outputs:
        """One step; affine (2, 3) maps pixels of the last detections' image to these, where the camera moved."""
        self._stream = _same_stream(self._stream, (detections.frame_id, detections.class_names))
        if affine is not None and self._tracker.accepts(detections.stamp_ns):
            self._motion.warp(affine)
        self.last_step = self._tracker.step(ImageMotion.observe(detections))
        shown = self._tracker.reported()
        velocities, covariances = self._motion.center_rates(shown)
        return {
            "tracks": Tracks2D(
                boxes_xyxy_px=self._motion.shown_xyxy_px(shown),
                velocities_px_per_s=velocities,
                covariances=covariances,
                **_book(self._tracker, detections, shown),
            )
        }


class Sort(Tracker2D):
    """SORT, as published; see `tracking.sort`."""

    Config: ClassVar[type[Any]] = SortConfig


class ByteTrack(Tracker2D):
    """ByteTrack; see `tracking.bytetrack`."""

    Config: ClassVar[type[Any]] = ByteTrackConfig


class OcSort(Tracker2D):
    """OC-SORT; see `tracking.ocsort`."""

    Config: ClassVar[type[Any]] = OcSortConfig


class Tracker3D(Component):
    """Boxes in a sensor's frame, with that sensor's pose, to tracks in the pose's fixed frame: the confirmed ones.

    `last_step` is the account of the latest detections. The subclasses track by other rules.
    """

    Config: ClassVar[type[Any]] = Tracker3DConfig
    detections = Input(Detections3D)
    odometry = Input(Odometry, depth=100)  # small, and waits for detections that take longer
    tracks = Output(Tracks3D)

    def __init__(self, config: Any = None, models: Models | None = None) -> None:
        super().__init__(config, models)
        self._tracker: Tracker = self.config.assemble()
        self._motion = cast(WorldMotion, self._tracker.motion)
        self._stream: tuple[Any, ...] | None = None
        self.last_step: Step | None = None

    def counters(self) -> dict[str, int]:
        """What became of all detections so far, in words."""
        return self._tracker.counters()

    @on(detections, odometry, tolerance_ms=_PAIRING_MS)
    def step(self, detections: Detections3D, odometry: Odometry) -> Outputs:
        """Raises Rejected for an unusable pose, a stamp that is not after the last one, other frames or classes."""
        if detections.frame_id != odometry.child_frame_id:
            raise Rejected("detections and odometry are of different sensor frames")
        try:
            world_T_sensor = orthonormalise(odometry.frame_T_child)
        except ValueError:
            raise Rejected("odometry is not a rigid transform") from None
        names = (odometry.frame_id, detections.frame_id, detections.class_names)
        self._stream = _same_stream(self._stream, names)
        self.last_step = self._tracker.step(WorldMotion.observe(detections, world_T_sensor))
        shown = self._tracker.reported()
        book = {**_book(self._tracker, detections, shown), "frame_id": odometry.frame_id}
        places: dict[str, Any] = self._motion.shown(shown)
        return {"tracks": Tracks3D(**places, **book)}


class BoxTracker3D(Tracker3D):
    """Our own tracker of a detector's boxes; see `tracking.box_tracker`."""

    Config = BoxTrackerConfig


class Ab3dmot(Tracker3D):
    """AB3DMOT, as published but in the world; see `tracking.ab3dmot`."""

    Config = Ab3dmotConfig


def _book(tracker: Tracker, detections: Detections2D | Detections3D, shown: Array) -> dict[str, Any]:
    """What all track messages say of the tracks at these indices."""
    table, stamp_ns = tracker.table, detections.stamp_ns
    return {
        "stamp_ns": stamp_ns,
        "frame_id": detections.frame_id,
        "class_names": detections.class_names,
        "scores": table.scores[shown],
        "labels": table.labels[shown],
        "ids": table.ids[shown],
        "ages_s": (stamp_ns - table.first_ns[shown]) * 1e-9,
        "unseen_s": (stamp_ns - table.last_ns[shown]) * 1e-9,
    }


def _same_stream(first: tuple[Any, ...] | None, now: tuple[Any, ...]) -> tuple[Any, ...]:
    """The frames and classes that the stream began with. Raises Rejected where they have changed."""
    if first is not None and now != first:
        raise Rejected("frame or classes changed within the stream")
    return now
