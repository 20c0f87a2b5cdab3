"""Camera and LiDAR in one set of world tracks: what they know together, late, out of order, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.core.component import config_from_mapping
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Detections2D, Detections3D, Message, Odometry, Tracks3D
from tests.unit.fusion_scenes import CAMERA_INFO, CLASSES, EPOCH_NS, PERIOD_NS, TRANSFORMS, Street, at, street
from tracking.fusion import IN_VAIN, NO_TRANSFORM, FusionConfig, WorldFusion
from tracking.fusion_world import Boxes, WorldTracks, class_indices, step, translate_labels
from tracking.out_of_sequence import DUPLICATE, TOO_LATE
from tracking.poses import NO_POSE, PoseHistory
from tracking.screening import Outcome

Array = Any

NOTHING: Array = []


def fusion(**config: Any) -> WorldFusion:
    component = WorldFusion(FusionConfig(**config))
    component.learn_frames(TRANSFORMS)
    component.learn_camera(CAMERA_INFO)
    return component


def feed(component: WorldFusion, message: Message) -> Tracks3D | None:
    """Hand a message to its handler; the tracks that come of it."""
    handlers: dict[type, Callable[[Any], Any]] = {
        Odometry: component.move, Detections3D: component.see_boxes, Detections2D: component.see_image,
    }  # fmt: skip
    tracks = handlers[type(message)](message).get("tracks")
    assert tracks is None or isinstance(tracks, Tracks3D)
    return tracks


def drive(component: WorldFusion, scene: Street, frames: range, *, camera: bool = True, **seen: Any) -> Tracks3D:
    """Odometry, LiDAR and camera of these frames; the last tracks."""
    tracks = None
    for frame in frames:
        feed(component, scene.odometry(frame))
        tracks = feed(component, scene.lidar(frame, **seen)) or tracks
        if camera:
            feed(component, scene.camera(frame))
    assert tracks is not None
    return tracks


def errors_m(tracks: Tracks3D, scene: Street, frame: float) -> Array:
    """Distance from each thing to the track nearest to it."""
    return np.linalg.norm(scene.places(frame)[:, None, :2] - tracks.centers_m[None, :, :2], axis=2).min(axis=1)


# --- together ------------------------------------------------------------------------------------------------------


def test_ports_are_visible_without_running_and_take_late_messages() -> None:
    assert {name: port.late for name, port in WorldFusion.inputs.items()} == {
        "detections": "accept", "camera": "accept", "camera_info": "reject", "odometry": "reject",
        "transforms": "accept",
    }  # fmt: skip
    assert list(WorldFusion.outputs) == ["tracks"]


def test_things_that_both_sensors_see_are_one_track_each_in_the_fixed_frame() -> None:
    scene, component = street(6), fusion()
    tracks = drive(component, scene, range(20))
    assert (tracks.frame_id, tracks.stamp_ns, tracks.class_names) == ("odom", scene.stamp(19), FusionConfig().classes)
    assert sorted(tracks.ids.tolist()) == [1, 2, 3, 4, 5, 6]
    assert errors_m(tracks, scene, 19).max() < 0.3
    nearest = np.linalg.norm(scene.places(19)[:, None] - tracks.centers_m[None], axis=2).argmin(axis=1)
    np.testing.assert_allclose(tracks.velocities_mps[nearest], scene.velocities_mps, atol=0.8)
    assert [tracks.class_names[label] for label in tracks.labels[nearest]] == [CLASSES[i] for i in scene.labels]
    np.testing.assert_allclose(tracks.ages_s, 1.9, rtol=1e-6)
    np.testing.assert_allclose(tracks.unseen_s, 0.0)
    assert tracks.covariances is not None
    assert np.linalg.eigvalsh(tracks.covariances).min() > 0.0


def test_the_camera_makes_places_more_certain_across_its_rays_and_truly_so() -> None:
    scene = street(5, noise_m=0.3)
    squared: dict[bool, list[float]] = {False: [], True: []}
    spread: dict[bool, float] = {}
    for camera in (False, True):
        component = fusion(center_noise_m=0.3, center_noise_sizes=0.0, camera_noise_px=1.5, camera_noise_sizes=0.0)
        for frame in range(40):
            feed(component, scene.odometry(frame))
            if camera:
                feed(component, scene.camera(frame))
            feed(component, scene.lidar(frame))
            if frame >= 20:
                world = component._history.state.motion.state
                gaps = np.abs(scene.places(frame)[:, 1][:, None] - world.mean[1][None])
                squared[camera].extend((gaps.min(axis=1) ** 2).tolist())
        spread[camera] = float(np.sqrt(component._history.state.motion.state.covariance[1, 1]).mean())
    assert spread[True] < 0.75 * spread[False]
    assert np.mean(squared[True]) < 0.75 * np.mean(squared[False])


def test_label_free_clusters_take_the_class_that_the_camera_gives_them() -> None:
    scene = street(4)
    for camera, expected in ((False, {"object"}), (True, {"car", "person"})):
        tracks = drive(fusion(), scene, range(10), camera=camera, class_names=("obstacle",))
        assert len(tracks.ids) == 4
        assert {tracks.class_names[label] for label in tracks.labels} == expected


def test_different_classes_at_one_place_are_different_things() -> None:
    both = Street(np.array([[15.0, 0, 0.8], [15.0, 0.3, 0.8]]), np.zeros((2, 3)), np.array([0, 1]))
    assert len(drive(fusion(), both, range(8), camera=False).ids) == 2


def test_camera_and_lidar_together_confirm_sooner() -> None:
    scene = street(3, turn_radps=0.0)
    for camera, frames in ((False, 3), (True, 2)):
        counts = []
        component = fusion()
        for frame in range(4):
            feed(component, scene.odometry(frame))
            if camera:
                feed(component, scene.camera(frame))
            feed(component, scene.lidar(frame))
            counts.append(len(component.tracks_at(scene.stamp(frame)).ids))
        assert counts == [0] * (frames - 1) + [3] * (5 - frames)


def test_a_lidar_box_that_is_weak_alone_counts_once_the_camera_agrees() -> None:
    scene = street(3, turn_radps=0.0)
    for camera, count in ((False, 0), (True, 3)):
        assert len(drive(fusion(alone_score=0.95), scene, range(8), camera=camera).ids) == count


def test_the_camera_keeps_in_sight_what_the_lidar_has_lost() -> None:
    scene = street(4, speed_mps=0.0)
    for camera, kept in ((False, 0), (True, 4)):
        component = fusion()
        drive(component, scene, range(15), camera=camera)
        for frame in range(15, 28):
            feed(component, scene.odometry(frame))
            feed(component, scene.lidar(frame, seen=NOTHING))
            if camera:
                feed(component, scene.camera(frame))
        tracks = component.tracks_at(scene.stamp(27))
        assert len(tracks.ids) == kept
        if kept:
            assert tracks.ids.tolist() == [1, 2, 3, 4]
            assert errors_m(tracks, scene, 27).max() < 2.5


def test_a_track_whose_place_nobody_measures_any_more_is_forgotten() -> None:
    scene, component = street(3), fusion(max_age_s=60.0, coast_s=60.0)
    drive(component, scene, range(10))
    for frame in range(10, 80):
        feed(component, scene.odometry(frame))
        tracks = feed(component, scene.lidar(frame, seen=NOTHING))
    assert tracks is not None
    assert len(tracks.ids) == 0
    assert len(component._history.state) == 0


def test_the_camera_starts_tracks_by_the_height_of_their_class_if_asked() -> None:
    scene = street(5, speed_mps=0.0, turn_radps=0.0)
    for start_score, expected in ((np.inf, 0), (0.5, 5)):
        component = fusion(camera_start_score=start_score, max_sigma_m=25.0, coast_s=0.5)
        for frame in range(10):
            feed(component, scene.odometry(frame))
            feed(component, scene.camera(frame))
        tracks = component.tracks_at(scene.stamp(9))
        assert len(tracks.ids) == expected
    assert (errors_m(tracks, scene, 9) < 0.25 * scene.places(9)[:, 0]).all()
    assert tracks.covariances is not None
    depth, across = np.sqrt(tracks.covariances[:, 0, 0]), np.sqrt(tracks.covariances[:, 1, 1])
    assert (depth > across).all()


# --- late ----------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_order_of_arrival_within_the_bound_ends_as_in_order_ids_and_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = street(6, seed=seed % 7)
    frames = range(12)
    messages: list[Message] = []
    for frame in frames:
        messages.append(scene.lidar(frame, seen=rng.permutation(6)[: rng.integers(3, 7)]))
        messages.append(scene.camera(frame + rng.choice([0.0, 0.3, 0.5])))
    delays = rng.uniform(0.0, 0.9, len(messages)) * 1e9
    arrival = np.argsort([message.stamp_ns + delay for message, delay in zip(messages, delays, strict=True)])
    results = []
    for order in (np.argsort([message.stamp_ns for message in messages], kind="stable"), arrival):
        component = fusion()
        for frame in range(14):
            feed(component, scene.odometry(frame))
        for index in order:
            feed(component, messages[index])
        final = component.tracks_at(scene.stamp(13))
        results.append((final, component.counters(), component.repeated_steps))
    (first, outcomes, repeated), (second, other_outcomes, _) = results
    for name in ("ids", "labels", "scores", "centers_m", "velocities_mps", "sizes_m", "yaws_rad", "covariances"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    assert outcomes == other_outcomes
    assert repeated == 0
    assert len(first.ids) > 0


def test_outputs_stamps_always_rise_however_messages_arrive() -> None:
    scene, component = street(4), fusion()
    stamps = []
    for frame in range(20):
        feed(component, scene.odometry(frame))
        for message in (scene.lidar(frame), scene.camera(max(frame - 3, 0))):
            try:
                tracks = feed(component, message)
            except Rejected as reason:
                assert str(reason) == DUPLICATE
                continue
            if tracks is not None:
                stamps.append(tracks.stamp_ns)
    assert stamps == [scene.stamp(frame) for frame in range(20)]


def test_the_camera_sets_the_pace_while_the_lidar_is_silent() -> None:
    scene, component = street(4), fusion(lidar_silence_s=0.3, max_age_s=2.0)
    stamps = []
    for frame in range(20):
        feed(component, scene.odometry(frame))
        tracks = [feed(component, scene.camera(frame))]
        if not 5 <= frame < 12:
            tracks.append(feed(component, scene.lidar(frame)))
        stamps += [(message.stamp_ns - EPOCH_NS) // PERIOD_NS for message in tracks if message is not None]
    assert stamps == [0, 1, 2, 3, 4, 8, *range(12, 20)]


def test_a_report_that_is_later_than_the_bound_is_refused_and_changes_nothing() -> None:
    scene, component = street(4), fusion(history_s=0.5)
    drive(component, scene, range(20))
    before, counters = component.tracks_at(scene.stamp(19)), component.counters()
    with pytest.raises(Rejected, match=TOO_LATE):
        feed(component, scene.camera(13.5))
    with pytest.raises(Rejected, match=DUPLICATE):
        feed(component, scene.camera(18))
    after = component.tracks_at(scene.stamp(19))
    np.testing.assert_array_equal(before.covariances, after.covariances)
    assert component.counters() == counters
    feed(component, scene.camera(14.5))


def test_the_tracks_can_be_asked_for_at_any_moment_that_is_not_too_old() -> None:
    scene, component = street(4), fusion(history_s=0.5)
    drive(component, scene, range(20))
    for frame in (15, 17.5, 19, 21):
        tracks = component.tracks_at(scene.stamp(frame))
        assert tracks.stamp_ns == scene.stamp(frame)
        assert errors_m(tracks, scene, frame).max() < 0.5
    with pytest.raises(ValueError, match="older"):
        component.tracks_at(scene.stamp(10))


def test_a_report_waits_for_the_pose_of_its_moment() -> None:
    scene, component = street(4), fusion()
    drive(component, scene, range(10))
    assert feed(component, scene.lidar(10)) is None
    assert feed(component, scene.camera(10.4)) is None
    tracks = feed(component, scene.odometry(10))
    assert tracks is not None
    assert tracks.stamp_ns == scene.stamp(10)
    assert component.last_step is not None
    assert component.last_step.stamp_ns == scene.stamp(10)
    assert feed(component, scene.odometry(11)) is None
    assert component.last_step.stamp_ns == scene.stamp(10.4)
    assert errors_m(component.tracks_at(scene.stamp(10.4)), scene, 10.4).max() < 0.3


def test_what_waits_in_vain_is_counted() -> None:
    scene, component = street(4), fusion(waiting_reports=3)
    feed(component, scene.odometry(0))
    for frame in range(1, 6):
        assert feed(component, scene.lidar(frame)) is None
    waiting = {"report waiting": 3 * 4}
    assert component.counters() == {"detections": 20, f"report refused: {IN_VAIN}": 2 * 4, **waiting}
    feed(component, scene.odometry(20))  # too far from the last pose to say where the robot was in between
    refused = {f"report refused: {IN_VAIN}": 2 * 4, f"report refused: {NO_POSE}": 3 * 4}
    assert component.counters() == {"detections": 20, **refused}


# --- the contract --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_detection_has_exactly_one_outcome_whatever_comes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene, component, given_detections, refused = street(5, seed=seed % 5), fusion(history_s=0.4), 0, 0
    for frame in range(15):
        feed(component, scene.odometry(frame))
        for message in (scene.lidar(frame), scene.camera(frame)):
            if rng.random() < 0.3:
                message = at(message, scene.stamp(max(0, frame - int(rng.integers(0, 8)))))
            if rng.random() < 0.5:
                message = _spoilt(message, rng)
            given_detections += len(message.scores)
            try:
                feed(component, message)
            except Rejected:
                refused += len(message.scores)
    assert component.counters()["detections"] == given_detections - refused
    state = component._history.state.motion.state
    assert np.isfinite(state.mean).all()
    assert np.isfinite(state.covariance).all()


def _spoilt(message: Any, rng: np.random.Generator) -> Any:
    """A message with some NaN, infinite, huge, empty, negative, repeated and unlabelled boxes."""
    count = len(message.scores)
    field = "boxes_xyxy_px" if isinstance(message, Detections2D) else "centers_m"
    values, scores, labels = getattr(message, field).copy(), message.scores.copy(), message.labels.copy()
    for wrong in (np.nan, np.inf, 1e30, -5.0, 0.0):
        if count and rng.random() < 0.5:
            values[rng.integers(count)] = wrong
            scores[rng.integers(count)] = wrong
            labels[rng.integers(count)] = int(rng.integers(-3, 9))
    if count > 1:
        values[0], scores[0], labels[0] = values[1], scores[1], labels[1]
    return replace(message, **{field: values, "scores": scores, "labels": labels})


def test_outcomes_name_what_was_wrong() -> None:
    scene, component = street(3, turn_radps=0.0), fusion()
    drive(component, scene, range(5))
    feed(component, scene.odometry(5))
    good = scene.camera(5, seen=[0])
    boxes = np.vstack([good.boxes_xyxy_px, np.full((1, 4), np.nan), [[5, 5, 5, 50]], [[-90, 5, -60, 50]],
                       [[500, 20, 700, 390]], [[100, 100, 140, 140]], good.boxes_xyxy_px])  # fmt: skip
    label = int(good.labels[0])
    message = replace(
        good, boxes_xyxy_px=boxes, scores=np.array([0.8, 0.8, 0.8, 0.8, 0.1, 0.8, 0.8]),
        labels=np.array([label, 0, 0, 0, 0, 2, label]), class_names=(*CLASSES, "teapot"),
    )  # fmt: skip
    feed(component, message)
    assert component.last_step is not None
    assert [Outcome(outcome).name for outcome in component.last_step.outcomes] == [
        "MATCHED", "NOT_FINITE", "NO_SIZE", "OUT_OF_RANGE", "LOW_SCORE", "UNKNOWN_LABEL", "DUPLICATE",
    ]  # fmt: skip


def test_a_step_leaves_the_tracks_that_it_is_given_as_they_are() -> None:
    scene, component = street(5), fusion()
    drive(component, scene, range(5))
    tracks = component._history.state
    arrays = [*vars(tracks.table).values(), *vars(tracks.motion).values(), tracks.own_ns, tracks.motion.state.mean,
              tracks.motion.state.covariance]  # fmt: skip
    before = [array.copy() for array in arrays if isinstance(array, np.ndarray)]
    report = component._report(at(scene.lidar(5), scene.stamp(5)), scene.world_T_lidar(5))
    later, account = step(tracks, report)
    assert isinstance(report, Boxes)
    assert account.stamp_ns == later.stamp_ns == scene.stamp(5)
    for array, copied in zip([array for array in arrays if isinstance(array, np.ndarray)], before, strict=True):
        np.testing.assert_array_equal(array, copied)
    assert tracks.stamp_ns == scene.stamp(4)


def test_no_tracks_and_no_detections_are_normal() -> None:
    scene, component = street(0), fusion()
    tracks = drive(component, scene, range(3))
    assert len(tracks.ids) == 0
    assert len(WorldTracks(FusionConfig()).shown()) == 0


# --- what is refused -----------------------------------------------------------------------------------------------


def test_an_unknown_frame_is_refused_and_never_taken_for_known() -> None:
    scene, component = street(2), WorldFusion()
    feed(component, scene.odometry(0))
    component.learn_camera(CAMERA_INFO)
    with pytest.raises(Rejected, match=NO_TRANSFORM):
        feed(component, scene.camera(0))
    assert feed(component, scene.lidar(0)) is not None  # in the odometry's own frame, which needs no transform


def test_boxes_wait_for_the_calibration_of_their_camera() -> None:
    scene, component = street(2), WorldFusion()
    component.learn_frames(TRANSFORMS)
    feed(component, scene.odometry(0))
    feed(component, scene.lidar(0))
    feed(component, scene.camera(0))
    assert component.counters() == {"detections": 4, "new": 2, "report waiting": 2}
    component.learn_camera(CAMERA_INFO)
    assert component.counters() == {"detections": 4, "new": 2, "tentative": 2}


def test_one_camera_too_many_is_refused() -> None:
    component = fusion()
    for number in range(15):
        component.learn_camera(replace(CAMERA_INFO, frame_id=f"camera{number}"))
    with pytest.raises(Rejected, match="too many cameras"):
        component.learn_camera(replace(CAMERA_INFO, frame_id="one_more"))
    component.learn_camera(CAMERA_INFO)


@pytest.mark.parametrize("pose", [np.full((4, 4), np.nan), np.diag([2.0, 2, 2, 1]), np.diag([1.0, 1, -1, 1])])
def test_an_odometry_that_is_no_rigid_transform_is_refused(pose: Array) -> None:
    scene, component = street(2), fusion()
    with pytest.raises(Rejected, match="rigid"):
        feed(component, replace(scene.odometry(0), frame_T_child=pose))


def test_odometry_that_goes_back_or_changes_its_frames_is_refused() -> None:
    scene, component = street(2), fusion()
    feed(component, scene.odometry(5))
    for message in (scene.odometry(5), scene.odometry(4)):
        with pytest.raises(Rejected, match="not after"):
            feed(component, message)
    with pytest.raises(Rejected, match="frames"):
        feed(component, replace(scene.odometry(6), child_frame_id="base"))


def test_a_pose_is_known_between_poses_and_nowhere_else() -> None:
    scene, poses = street(0), PoseHistory(10**9, PERIOD_NS * 2)
    for refused in (EPOCH_NS, 0):
        with pytest.raises(Rejected, match=NO_POSE):
            poses.at(refused)
    for frame in (0, 1, 5):
        poses.add(scene.odometry(frame))
    between = poses.at(scene.stamp(0.5))
    np.testing.assert_allclose(between, scene.world_T_lidar(0.5), atol=1e-3)
    for frame in (-1, 3, 6):
        with pytest.raises(Rejected, match=NO_POSE):
            poses.at(scene.stamp(frame))


def test_a_gap_of_a_minute_begins_anew() -> None:
    scene, component = street(4, speed_mps=0.0, turn_radps=0.0), fusion()
    drive(component, scene, range(10))
    still = replace_places(scene)
    feed(component, still.odometry(610))
    feed(component, still.lidar(610))
    assert component.last_step is not None
    assert component.last_step.forgotten_ids.tolist() == [1, 2, 3, 4]
    tracks = drive(component, still, range(611, 620))
    assert tracks.ids.tolist() == [5, 6, 7, 8]


def replace_places(scene: Street) -> Street:
    return replace(scene, velocities_mps=np.zeros_like(scene.velocities_mps))


def test_a_report_an_hour_ahead_waits_in_vain_and_does_no_harm() -> None:
    scene, component = street(4), fusion()
    drive(component, scene, range(10))
    assert feed(component, at(scene.lidar(10), scene.stamp(10) + 3600 * 10**9)) is None
    tracks = drive(component, scene, range(10, 15))
    assert tracks.ids.tolist() == [1, 2, 3, 4]


def test_time_that_goes_back_an_hour_is_refused() -> None:
    scene, component = street(4), fusion()
    drive(component, scene, range(10))
    for frame in range(10, 15):
        with pytest.raises(Rejected):
            feed(component, at(scene.odometry(frame), scene.stamp(frame) - 3600 * 10**9))
        with pytest.raises(Rejected):
            feed(component, at(scene.lidar(frame), scene.stamp(frame) - 3600 * 10**9))
    assert drive(component, scene, range(10, 15)).ids.tolist() == [1, 2, 3, 4]


def test_five_thousand_boxes_in_one_frame_take_bounded_time() -> None:
    rng = np.random.default_rng(0)
    scene, component = street(4), fusion()
    drive(component, scene, range(5))
    count = 5000
    crowd = Street(
        np.column_stack([rng.uniform(5, 200, count), rng.uniform(-100, 100, count), np.full(count, 0.8)]),
        np.zeros((count, 3)), rng.integers(0, 2, count),
    )  # fmt: skip
    started = time.process_time()
    for frame in (5, 6):
        feed(component, crowd.odometry(frame))
        feed(component, crowd.lidar(frame))
        feed(component, crowd.camera(frame))
    assert time.process_time() - started < 10.0
    assert component.counters()["detections"] > 12_000


# --- settings ------------------------------------------------------------------------------------------------------


def test_names_of_classes_are_put_together() -> None:
    classes = ("object", "person", "car")
    assert class_indices(("Pedestrian", "VAN", "obstacle", "teapot"), classes).tolist() == [1, 2, 0, -1, -1]
    assert translate_labels(np.array([0, 3, -1, 9]), ("car", "dog", "Person", "obstacle"), classes).tolist() == [
        2, 0, -1, -1,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "setting",
    [
        {"min_streak": 2}, {"warm_up_steps": 1}, {"classes": ()}, {"classes": ("car", "car")},
        {"classes": ("car", "object")}, {"max_sigma_m": 0.0}, {"history_s": np.nan}, {"camera_min_iou": 1.0},
        {"history_reports": 0}, {"waiting_reports": 100_000},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|mean nothing"):
        FusionConfig(**setting)


def test_settings_come_from_a_graph_file() -> None:
    config = config_from_mapping(FusionConfig, {"classes": ["object", "car"], "history_s": 0.5}, where="g")
    assert (config.classes, config.history_s) == (("object", "car"), 0.5)
    with pytest.raises(UserError, match="did you mean 'history_s'"):
        config_from_mapping(FusionConfig, {"history": 1.0}, where="g")
