"""What a replay found, held against the truth where the recording has it.

Poses: absolute and relative errors as evo defines them. Tracks: CLEAR MOT by centre distance in the sensor's frame, so
that the error of the odometry and the error of the tracker are not mixed. The suite's LiDAR detector knows no classes
and finds walls and poles too, so that boxes without truth are no errors and only recall, switches and centre errors
are stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registration.trajectory import absolute_error, relative_error
from tercel.core import geometry
from tercel.core.errors import Rejected
from tercel.core.frames import StaticFrames
from tercel.core.messages import Odometry, Tracks2D, Tracks3D, Transforms
from tercel.hosts.recording import Recording
from tercel.report.frames import Frames, Trajectory
from tracking.evaluation.clear import Clear, clear
from tracking.evaluation.overlaps import TrackSet, iou_one_by_one, nearness, overlaps

Array = NDArray[Any]

GATE_M = 2.0
REACH_M = 50.0
MIN_IOU = 0.5
SLACK_NS = 50_000_000
RPE_DELTA_M = 10.0


def evaluate(recording: Recording, result: Recording) -> dict[str, Any]:
    """Sections odometry, tracking_3d and tracking_2d of the summary, each where there is something to say."""
    truths = _read(recording, [name for name in recording.topics if name.startswith(("/truth/", "/tf_static"))])
    odometry = [name for name, topic in result.topics.items() if topic.message_type is Odometry]
    found = _read(result, odometry + [name for name in result.topics if "tracks" in name])
    static = StaticFrames([m for m in truths.get("/tf_static", []) if isinstance(m, Transforms)])
    estimate, truth = _trajectory(found), _trajectory(truths)
    sections: dict[str, Any] = {}
    if estimate is not None:
        sections["odometry"] = _odometry(estimate, truth, static)
    frames = Frames(static, [t for t in (estimate, truth) if t is not None], slack_ns=SLACK_NS)
    for key, kind in (("tracking_3d", Tracks3D), ("tracking_2d", Tracks2D)):
        for name in [name for name in found if result.topics[name].message_type is kind][:1]:
            sections[key] = _tracking(found[name], truths.get(f"/truth/{name.strip('/')}", []), frames)
    return sections


class _Objects(NamedTuple):
    """Of tracks only what is compared, so that ten minutes of them fit: boxes (N, 4) in 2D, centres (N, 3) in 3D."""

    stamp_ns: int
    frame_id: str
    ids: Array
    scores: Array
    places: Array


def _read(recording: Recording, topics: list[str]) -> dict[str, list[Any]]:
    """The messages of these topics in one pass, without sensor data; those that do not decode were counted before."""
    kinds = (Odometry, Transforms, Tracks2D, Tracks3D)
    wanted = [name for name in topics if recording.topics[name].message_type in kinds]
    messages: dict[str, list[Any]] = {}
    for recorded in recording.messages(wanted):
        try:
            message: Any = recording.decode(recorded)
        except Rejected:
            continue
        if isinstance(message, (Tracks2D, Tracks3D)):
            places = message.boxes_xyxy_px if isinstance(message, Tracks2D) else message.centers_m
            message = _Objects(message.stamp_ns, message.frame_id, message.ids, message.scores, places)
        messages.setdefault(recorded.topic, []).append(message)
    return messages


def _trajectory(found: Mapping[str, list[Any]]) -> Trajectory | None:
    for name, messages in sorted(found.items()):
        poses = [m for m in messages if isinstance(m, Odometry)]
        if poses:
            try:
                return Trajectory.of(name, poses)
            except ValueError:
                continue
    return None


def _odometry(estimate: Trajectory, truth: Trajectory | None, static: StaticFrames) -> dict[str, Any]:
    """Number of poses and, with truth, path length, ATE (aligned) and RPE over RPE_DELTA_M of path."""
    section: dict[str, Any] = {"poses": len(estimate.stamps_ns)}
    if truth is None:
        return section
    try:
        truthchild_T_child = static.lookup(truth.child_frame_id, estimate.child_frame_id)
    except KeyError:
        section["truth"] = f"no static transform from {estimate.child_frame_id} to {truth.child_frame_id}"
        return section
    pairs = []
    for stamp_ns, pose in zip(estimate.stamps_ns.tolist(), estimate.frame_T_child, strict=True):
        try:
            pairs.append((pose, truth.at(stamp_ns, slack_ns=SLACK_NS) @ truthchild_T_child))
        except KeyError:
            continue
    section["truth_poses"] = len(pairs)
    if len(pairs) < 3:
        return section
    estimated, true = (np.stack(poses) for poses in zip(*pairs, strict=True))
    try:
        return section | _pose_errors(estimated, true)
    except ValueError as error:  # truth that is not finite, or a drive too short
        return section | {"truth": f"not compared: {error}"}


def _pose_errors(estimated: Array, true: Array) -> dict[str, Any]:
    """Path length, ATE and RPE of poses (N, 4, 4). Raises ValueError if they hold what cannot be compared."""
    absolute = absolute_error(true, estimated)
    path_m = float(np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=1).sum())
    errors = {"path_m": round(path_m, 3), "ate_rmse_m": round(absolute.rmse, 4), "ate_max_m": round(absolute.max, 4)}
    try:
        relative = relative_error(true, estimated, RPE_DELTA_M, "m")
    except ValueError:  # no two poses are that far apart
        return errors
    degrees = round(relative.rotation_deg.mean / RPE_DELTA_M, 5)
    return errors | {"rpe_percent": round(relative.translation_percent, 4), "rpe_deg_per_m": degrees}


def _tracking(tracks: list[_Objects], truth: list[_Objects], frames: Frames) -> dict[str, Any]:
    """Counts of the tracks and, with truth, how well they cover it.

    All truth from the first tracks on counts, also at stamps where no tracks came out: what was dropped on the way is
    a miss.
    """
    section = _track_counts(tracks)
    first_ns = min(m.stamp_ns for m in tracks)
    # A recording that was looped has each stamp several times: its first pass is compared.
    tracks = list({m.stamp_ns: m for m in reversed(tracks)}.values())
    truth = list({m.stamp_ns: m for m in reversed(truth) if m.stamp_ns >= first_ns}.values())
    if not truth:
        return section
    section |= {
        "truth_frames": len(truth),
        "frames_tracked": len({m.stamp_ns for m in truth} & {m.stamp_ns for m in tracks}),
    }
    try:
        return section | _cover(tracks, truth, frames)
    except ValueError as error:  # truth of others may hold anything
        return section | {"truth": f"not compared: {error}"}


def _cover(tracks: list[_Objects], truth: list[_Objects], frames: Frames) -> dict[str, Any]:
    """Recall, switches and mean error. Raises ValueError if an id occurs twice at one stamp."""
    stamps = sorted(m.stamp_ns for m in truth)
    if tracks[0].places.shape[1] == 4:
        score = clear(overlaps(_boxes(truth), _boxes(tracks), iou_one_by_one, stamps), threshold=MIN_IOU)
        return _scores(score, "mean_iou", score.motp)
    sensor = next((t.child_frame_id for t in frames.trajectories), "")
    truth_set, track_set = (_centers(messages, sensor, frames) for messages in (truth, tracks))
    score = clear(overlaps(truth_set, track_set, nearness(GATE_M), stamps))
    return {"within_m": REACH_M} | _scores(score, "centre_error_m", (1.0 - score.motp) * 2.0 * GATE_M)


def _scores(score: Clear, name: str, mean: float) -> dict[str, Any]:
    """Recall, and the mean over the matches under its name; None where there is nothing to measure."""
    return {
        "truth_boxes": score.truths,
        "recall": round(score.recall, 4) if score.truths else None,
        name: round(mean, 4) if score.matches else None,
        "id_switches": score.id_switches,
    }


def _track_counts(tracks: list[_Objects]) -> dict[str, Any]:
    """How many identities there were, for how long, and how many at once."""
    first_ns: dict[int, int] = {}
    last_ns: dict[int, int] = {}
    for message in tracks:
        for track_id in message.ids[message.ids >= 0].tolist():
            first_ns.setdefault(track_id, message.stamp_ns)
            last_ns[track_id] = message.stamp_ns
    lengths_s = [(last_ns[i] - first_ns[i]) / 1e9 for i in first_ns]
    at_once = [len(message.ids) for message in tracks]
    return {
        "tracks": len(lengths_s),
        "mean_length_s": round(float(np.mean(lengths_s)), 3) if lengths_s else 0.0,
        "longest_s": round(max(lengths_s, default=0.0), 3),
        "at_once_max": max(at_once, default=0),
    }


def _boxes(messages: list[_Objects]) -> TrackSet:
    return _track_set([(m.stamp_ns, m.ids, m.places.astype(np.float64)) for m in messages], 4)


def _centers(messages: list[_Objects], sensor: str, frames: Frames) -> TrackSet:
    """Centres in the sensor's frame, those within reach; frames that cannot be placed there are left out."""
    rows = []
    for m in messages:
        try:
            sensor_T_frame = frames.lookup(sensor, m.frame_id, m.stamp_ns)
        except KeyError:
            continue
        centers_m = geometry.transform_points(sensor_T_frame, m.places)
        # Truth that the sensor did not see has score 0, see devices/sensors/simulated/world.py.
        seen = (np.linalg.norm(centers_m, axis=1) < REACH_M) & (m.scores > 0)
        rows.append((m.stamp_ns, m.ids[seen], centers_m[seen]))
    return _track_set(rows, 3)


def _track_set(rows: list[tuple[int, Array, Array]], dimensions: int) -> TrackSet:
    rows = [(stamp_ns, ids[ids >= 0], places[ids >= 0]) for stamp_ns, ids, places in rows]
    stamps = [np.full(len(ids), stamp_ns, dtype=np.int64) for stamp_ns, ids, _ in rows]
    return TrackSet(
        np.concatenate([np.zeros(0, np.int64), *stamps]),
        np.concatenate([np.zeros(0, np.int64), *(ids for _, ids, _ in rows)]),
        np.concatenate([np.zeros((0, dimensions)), *(places for _, _, places in rows)]),
    )
