"""A tracker run over the detections of one sequence, frame by frame, and what it made of each of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import UserError, nearest_hint
from tercel.core.geometry import inverse
from tercel.report.tracking_camera import Sight, Stepper, make_stepper
from tercel.report.tracking_input import Loaded, Source
from tercel.report.tracking_space import kitti_boxes, measurements
from tercel.terminal import typed_settings
from tracking.ab3dmot import Ab3dmotConfig, BoxMotion
from tracking.box_tracker import POINTRCNN_KITTI, BoxTrackerConfig
from tracking.files import KITTI_CLASSES, BoxSequence, detections_2d, from_tracks_2d
from tracking.presets import TRACKERS_2D
from tracking.screening import Observations
from tracking.tracker import Step, Tracker

Array = NDArray[Any]

TRACKERS_3D: dict[str, type] = {"tercel3d": BoxTrackerConfig, "ab3dmot": Ab3dmotConfig}
NO_POSE = 30
"""Beside `Outcome`: a detection in space of a frame whose pose is not known."""
LONGEST_GAP_S = 60.0
"""So long a gap without detections is stepped through frame by frame, or for as long as a track may go unseen; no
track outlives it, so that the frames after it change nothing until the next detection."""

STILL = Sight()
_LAST_STAMP_NS = 1 << 62


@dataclass(frozen=True, eq=False)
class Tracked:
    """A sequence after tracking. frames (F,) int64: those in which the tracker was called, ascending.

    Of the N detections: outcomes (N,) int8 of `Outcome` or NO_POSE; track_ids (N,) int64, -1 where rejected. tracks: T
    reported boxes with ids, and unseen_s (T,) float64, the time since each was last seen. In space also middles, sizes
    and yaws in the world (7, T), see `tracking_space`, and the pose world_T_level of each frame that has one. unmoved:
    frames in which the camera's motion should have been taken out and was not known.
    """

    loaded: Loaded
    frames: Array
    outcomes: Array
    track_ids: Array
    tracks: BoxSequence
    unseen_s: Array
    seconds: float
    boxes_world: Array | None = None
    poses: Mapping[int, Array] | None = None
    unmoved: int = 0


def in_space(tracker: str) -> bool:
    """Whether a tracker of this name wants boxes in space. Raises UserError for an unknown name."""
    known = [*TRACKERS_2D, *TRACKERS_3D]
    if tracker not in known:
        raise UserError(f"unknown tracker {tracker!r}; {nearest_hint(tracker, known)}")
    return tracker in TRACKERS_3D


def settings_of(tracker: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """The settings with the types that the tracker's own have. Raises UserError for an unknown name or another type."""
    config = TRACKERS_3D[tracker] if in_space(tracker) else TRACKERS_2D[tracker][1]
    return typed_settings(texts, {field.name: field.default for field in fields(config)}, "--set")


def check_settings(tracker: str, settings: Mapping[str, Any], source: Source) -> None:
    """Raises UserError for settings that the tracker refuses, at this sequence's rate."""
    if in_space(tracker):
        names = dict(enumerate(name.lower() for name in KITTI_CLASSES))
        _assemble(tracker, settings, source, names)
    else:
        _stepper(tracker, settings, source, STILL)


def stepped_frames(loaded: Loaded, settings: Mapping[str, Any]) -> Array:
    """The frames in which the tracker is called, (F,) int64: all, but for what lies deep in a gap of detections.

    settings: such as the tracker takes, see `check_settings`. Raises UserError if a frame is so late that its stamp
    cannot be told.
    """
    rate_hz, frames = loaded.source.rate_hz, loaded.frames
    if frames.stop / rate_hz * 1e9 >= _LAST_STAMP_NS:
        raise UserError(f"{loaded.source.name}: frame {frames.stop - 1} at {rate_hz:g} Hz is centuries away")
    longest_s = max(LONGEST_GAP_S, float(settings.get("max_age_s", 0.0)), float(settings.get("coast_s", 0.0)))
    longest = math.ceil(max(longest_s * rate_hz, 2.0 * settings.get("max_age_frames", 0))) + 1
    starts = np.concatenate([[frames.start - 1], np.unique(loaded.boxes.frames)]).astype(np.int64)
    ends = np.append(starts[1:], frames.stop - 1)  # each gap ends with the next detections, the last one with the end
    after = np.minimum(ends - starts, longest)
    steps = np.repeat(starts - np.cumsum(after) + after, after) + np.arange(1, after.sum() + 1)
    return np.unique(np.concatenate([steps, starts[1:]])) if len(steps) else starts[1:]


def track(
    tracker: str,
    settings: Mapping[str, Any],
    loaded: Loaded,
    sight: Sight = STILL,
    progress: Callable[[int], None] = lambda _frames: None,
) -> Tracked:
    """Track one sequence with a new tracker. progress is told how many frames are done, now and then.

    Raises UserError for settings that the tracker refuses.
    """
    check_settings(tracker, settings, loaded.source)
    frames = stepped_frames(loaded, settings)
    if in_space(tracker):
        return _track_in_space(tracker, settings, loaded, frames, sight.poses, progress)
    return _track_in_image(tracker, settings, loaded, frames, sight, progress)


def _track_in_image(
    tracker: str,
    settings: Mapping[str, Any],
    loaded: Loaded,
    frames: Array,
    sight: Sight,
    progress: Callable[[int], None],
) -> Tracked:
    stepper = _stepper(tracker, settings, loaded.source, sight)
    messages, outcomes, ids, seconds = [], [], [], 0.0
    stream = detections_2d(loaded.boxes, frames.tolist(), loaded.source.rate_hz)
    for done, (frame, message) in enumerate(zip(frames.tolist(), stream, strict=True)):
        began_s = time.perf_counter()
        messages.append(stepper.step(frame, message)["tracks"])
        seconds += time.perf_counter() - began_s
        step: Any = stepper.component.last_step
        outcomes.append(step.outcomes)
        ids.append(step.track_ids)
        if done % 64 == 0:
            progress(done)
    found: Any = messages
    return Tracked(
        loaded=loaded,
        frames=frames,
        outcomes=_joined(outcomes, np.int8),
        track_ids=_joined(ids, np.int64),
        tracks=_named(from_tracks_2d(frames.tolist(), found), loaded.boxes),
        unseen_s=_joined([message.unseen_s for message in found], np.float64),
        seconds=seconds,
        unmoved=stepper.unmoved,
    )


def _stepper(tracker: str, settings: Mapping[str, Any], source: Source, sight: Sight) -> Stepper:
    """A new tracker of boxes in the image. Raises UserError for settings that it refuses."""
    try:
        return make_stepper(tracker, source.rate_hz, settings, sight)
    except (ValueError, OverflowError) as error:
        raise UserError(f"--set: {error}") from None


def _track_in_space(
    tracker: str,
    settings: Mapping[str, Any],
    loaded: Loaded,
    frames: Array,
    poses: Mapping[int, Array] | None,
    progress: Callable[[int], None],
) -> Tracked:
    boxes = loaded.boxes
    names = {label: boxes.class_names[label].lower() for label in sorted(set(boxes.labels.tolist()))}
    trackers = _assemble(tracker, settings, loaded.source, names)
    parts = [_Part(made, loaded, label, i, len(trackers)) for i, (label, made) in enumerate(trackers.items())]
    at_rest = np.eye(4)
    outcomes = np.full(len(boxes), NO_POSE, dtype=np.int8)
    ids = np.full(len(boxes), -1, dtype=np.int64)
    shown: list[_Shown] = []
    seconds = 0.0
    for done, (frame, rows) in enumerate(zip(frames.tolist(), boxes.rows_of(frames.tolist()), strict=True)):
        pose = at_rest if poses is None else poses.get(frame)
        if pose is None:
            continue
        for part in parts:
            of_part = rows if part.label is None else rows[boxes.labels[rows] == part.label]
            took_s, step, shown_now = part.step(frame, of_part, pose)
            seconds += took_s
            outcomes[of_part], ids[of_part] = step.outcomes, part.unique(step.track_ids)
            shown.append(shown_now)
        if done % 64 == 0:
            progress(done)
    return Tracked(
        loaded=loaded,
        frames=frames,
        outcomes=outcomes,
        track_ids=ids,
        tracks=_sequence(shown, boxes),
        unseen_s=_joined([part.unseen_s for part in shown], np.float64),
        seconds=seconds,
        boxes_world=np.concatenate([np.zeros((7, 0)), *(part.boxes_world for part in shown)], axis=1),
        poses=dict.fromkeys(frames.tolist(), at_rest) if poses is None else poses,
    )


def _assemble(
    tracker: str, settings: Mapping[str, Any], source: Source, names: Mapping[int, str]
) -> dict[int | None, Tracker]:
    """One tracker for all classes, under None, or one for each label where classes have settings of their own.

    names: of the classes that there are, lower case. Raises UserError for settings that the tracker refuses.
    """
    try:
        if tracker == "tercel3d" and source.kind == "kitti3d":
            return {
                label: replace(POINTRCNN_KITTI.get(name, BoxTrackerConfig()), **settings).assemble()
                for label, name in names.items()
            }
        config = TRACKERS_3D[tracker]
        counts_frames = "frame_period_s" in {field.name for field in fields(config)}
        period = {"frame_period_s": 1.0 / source.rate_hz} if counts_frames else {}
        return {None: config(**{**period, **settings}).assemble()}
    except (ValueError, OverflowError) as error:
        raise UserError(f"--set: {error}") from None


class _Part:
    """A tracker of one class, or of all if label is None; the index-th of `count` of them."""

    def __init__(self, tracker: Tracker, loaded: Loaded, label: int | None, index: int, count: int) -> None:
        self.label = label
        self._tracker, self._loaded = tracker, loaded
        self._index, self._count = index, count
        self._last_rows: dict[int, int] = {}

    def unique(self, track_ids: Array) -> Array:
        """Ids (N,) that no other part has; -1 stays."""
        result: Array = np.where(track_ids < 0, -1, (track_ids - 1) * self._count + self._index + 1)
        return result

    def step(self, frame: int, rows: Array, pose: Array) -> tuple[float, Step, _Shown]:
        """Track the detections at these rows: seconds taken, their account, and what is reported."""
        boxes = self._loaded.boxes
        stamp_ns = round(frame * 1e9 / self._loaded.source.rate_hz)
        measured = measurements(boxes, rows, pose)
        seen = Observations(stamp_ns, measured, boxes.scores[rows], boxes.labels[rows], len(boxes.class_names), pose)
        began_s = time.perf_counter()
        step = self._tracker.step(seen)
        reported = self._tracker.reported()
        took_s = time.perf_counter() - began_s
        of_track = zip(step.track_ids.tolist(), rows.tolist(), strict=True)
        self._last_rows.update((i, row) for i, row in of_track if i >= 0)
        return took_s, step, self._show(reported, frame, pose, stamp_ns)

    def _show(self, reported: Array, frame: int, pose: Array, stamp_ns: int) -> _Shown:
        table, motion = self._tracker.table, cast(BoxMotion, self._tracker.motion)
        ids = table.ids[reported]
        boxes_world = motion.boxes[:, reported]
        boxes_3d, alphas_rad = kitti_boxes(boxes_world, inverse(pose))
        return _Shown(
            frame=frame,
            ids=self.unique(ids),
            labels=table.labels[reported],
            scores=table.scores[reported],
            unseen_s=(stamp_ns - table.last_ns[reported]) * 1e-9,
            last_rows=np.array([self._last_rows[i] for i in ids.tolist()], dtype=np.intp),
            boxes_world=boxes_world,
            boxes_3d=boxes_3d,
            alphas_rad=alphas_rad,
        )


@dataclass(frozen=True, eq=False)
class _Shown:
    """The T tracks reported in one frame; last_rows (T,): the detection that each was last seen as."""

    frame: int
    ids: Array
    labels: Array
    scores: Array
    unseen_s: Array
    last_rows: Array
    boxes_world: Array
    boxes_3d: Array
    alphas_rad: Array


def _sequence(shown: Sequence[_Shown], boxes: BoxSequence) -> BoxSequence:
    """What was reported, as KITTI has it. A track's box in the image is that of its last detection, as AB3DMOT's is."""
    last_rows = _joined([part.last_rows for part in shown], np.intp)
    return BoxSequence(
        frames=np.repeat([part.frame for part in shown], [len(part.ids) for part in shown]).astype(np.int64),
        ids=_joined([part.ids for part in shown], np.int64),
        boxes_xyxy_px=boxes.boxes_xyxy_px[last_rows],
        scores=_joined([part.scores for part in shown], np.float64),
        labels=_joined([part.labels for part in shown], np.int32),
        class_names=boxes.class_names,
        boxes_3d=np.concatenate([np.zeros((0, 7)), *(part.boxes_3d for part in shown)]),
        alphas_rad=_joined([part.alphas_rad for part in shown], np.float64),
    )


def _named(tracks: BoxSequence, boxes: BoxSequence) -> BoxSequence:
    """The tracks with the detections' classes, also where there are none."""
    return replace(tracks, class_names=boxes.class_names)


def _joined(parts: Sequence[Array] | Iterator[Array], dtype: Any) -> Array:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)
