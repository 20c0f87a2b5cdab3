from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.core.errors import Rejected
from tercel.core.messages import Detections2D, Detections3D
from tracking.image_motion import ImageMotion
from tracking.image_tracker import Tracker2DConfig
from tracking.screening import Outcome
from tracking.tracker import Step, Tracker, TrackerConfig
from tracking.world_motion import CHI2_3DOF_999, Tracker3DConfig, WorldMotion

Array = np.ndarray[Any, Any]
MS = 1_000_000
CLASSES = ("person", "car")


def boxes(stamp_ms: float, corners: Any, scores: Any = None, labels: Any = None) -> Detections2D:
    corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4)
    return Detections2D(
        stamp_ns=round(stamp_ms * MS),
        frame_id="camera",
        boxes_xyxy_px=corners,
        scores=np.full(len(corners), 0.9) if scores is None else scores,
        labels=np.zeros(len(corners)) if labels is None else labels,
        class_names=CLASSES,
    )


def image_tracker(**config: Any) -> Tracker:
    made = Tracker2DConfig(**config)
    return made.assemble()


def look(tracker: Tracker, detections: Detections2D) -> Step:
    return tracker.step(ImageMotion.observe(detections))


def things(stamp_ms: float, places: Any, sizes: Any = (4.0, 2.0, 1.5), yaws: Any = 0.0) -> Detections3D:
    places = np.asarray(places, dtype=np.float64).reshape(-1, 3)
    count = len(places)
    return Detections3D(
        stamp_ns=round(stamp_ms * MS),
        frame_id="lidar",
        centers_m=places,
        sizes_m=np.broadcast_to(np.asarray(sizes, dtype=np.float64), (count, 3)),
        yaws_rad=np.broadcast_to(np.asarray(yaws, dtype=np.float64), count),
        scores=np.ones(count),
        labels=np.zeros(count),
        class_names=("obstacle",),
    )


def world_tracker(**config: Any) -> tuple[Tracker, WorldMotion]:
    made = Tracker3DConfig(**config)
    tracker = made.assemble()
    assert isinstance(tracker.motion, WorldMotion)
    return tracker, tracker.motion


A, B = [0, 0, 10, 20], [100, 0, 110, 20]


def test_a_track_is_confirmed_by_min_hits_detections_and_keeps_its_id() -> None:
    tracker = image_tracker(min_hits=3)
    shown = []
    for frame in range(5):
        step = look(tracker, boxes(40 * frame, [A]))
        assert step.track_ids.tolist() == [1]
        assert step.outcomes.tolist() == [[Outcome.NEW, Outcome.TENTATIVE, Outcome.MATCHED][min(frame, 2)]]
        shown.append(len(tracker.reported()))
    assert shown == [0, 0, 1, 1, 1]


def test_ids_count_up_and_are_not_used_again() -> None:
    tracker = image_tracker()
    assert look(tracker, boxes(0, [A, B])).track_ids.tolist() == [1, 2]
    step = look(tracker, boxes(5000, [A, B]))
    assert step.track_ids.tolist() == [3, 4]
    assert step.forgotten_ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("period_ms", "unseen", "survives"), [(40, 24, True), (40, 25, False), (250, 3, True), (250, 4, False)]
)
def test_age_is_counted_in_seconds_and_not_in_frames(period_ms: int, unseen: int, survives: bool) -> None:
    tracker = image_tracker(max_age_s=1.0, max_tentative_age_s=0.3)
    stamps = period_ms * np.arange(3 + unseen + 1)
    for index, stamp in enumerate(stamps[:-1]):
        look(tracker, boxes(stamp, [A] if index < 3 else []))
    assert look(tracker, boxes(stamps[-1], [A])).track_ids.tolist() == [1 if survives else 2]


def test_a_tentative_track_is_forgotten_sooner() -> None:
    tracker = image_tracker(max_age_s=1.0, max_tentative_age_s=0.1)
    look(tracker, boxes(0, [A]))
    assert look(tracker, boxes(101, [A])).forgotten_ids.tolist() == [1]


def test_a_gap_of_a_minute_joins_nothing() -> None:
    tracker = image_tracker()
    for frame in range(10):
        look(tracker, boxes(40 * frame, [A, B]))
    step = look(tracker, boxes(60_000, [A, B]))
    assert step.outcomes.tolist() == [Outcome.NEW] * 2
    assert step.forgotten_ids.tolist() == [1, 2]


def test_unseen_tracks_are_reported_for_coast_s_and_no_longer() -> None:
    tracker = image_tracker(coast_s=0.1)
    for frame in range(4):
        look(tracker, boxes(40 * frame, [[100 + 4 * frame, 0, 120 + 4 * frame, 40]]))
    shown = []
    for stamp in (160, 200, 220, 230):
        look(tracker, boxes(stamp, []))
        shown.append(len(tracker.reported()))
    assert shown == [1, 1, 1, 0]


def test_a_class_aware_track_takes_only_its_class() -> None:
    tracker = image_tracker(class_aware=True)
    look(tracker, boxes(0, [A], labels=[0]))
    assert look(tracker, boxes(40, [A], labels=[1])).track_ids.tolist() == [2]
    assert tracker.table.labels.tolist() == [0, 1]


def test_a_class_agnostic_track_bears_the_class_with_most_votes() -> None:
    tracker = image_tracker(class_aware=False)
    for frame, label in enumerate([0, 1, 1, 0, 1]):
        assert look(tracker, boxes(40 * frame, [A], labels=[label])).track_ids.tolist() == [1]
    assert tracker.table.labels.tolist() == [1]


def test_a_weak_detection_continues_a_track_but_starts_none() -> None:
    tracker = image_tracker(min_score=0.1, start_score=0.6)
    look(tracker, boxes(0, [A]))
    step = look(tracker, boxes(40, [A, B, B], scores=[0.3, 0.3, 0.05]))
    assert step.outcomes.tolist() == [Outcome.TENTATIVE, Outcome.TOO_WEAK_TO_START, Outcome.LOW_SCORE]
    assert step.track_ids.tolist() == [1, -1, -1]


def test_every_fault_of_a_detection_is_named() -> None:
    cases: list[tuple[list[float], float, int, Outcome]] = [
        ([0, 0, np.nan, 20], 0.9, 0, Outcome.NOT_FINITE),
        ([0, 0, 10, 20], np.nan, 0, Outcome.NOT_FINITE),
        ([0, 0, np.inf, 20], 0.9, 0, Outcome.NOT_FINITE),
        ([0, 0, 3e38, 20], 0.9, 0, Outcome.OUT_OF_RANGE),
        ([0, 0, 0, 20], 0.9, 0, Outcome.NO_SIZE),
        ([0, 20, 10, 0], 0.9, 0, Outcome.NO_SIZE),
        ([0, 0, 10, 20], 0.9, -1, Outcome.UNKNOWN_LABEL),
        ([0, 0, 10, 20], 0.9, 2, Outcome.UNKNOWN_LABEL),
        ([0, 0, 10, 20], -0.1, 0, Outcome.LOW_SCORE),
        ([0, 0, 10, 20], 0.7, 0, Outcome.DUPLICATE),
        ([0, 0, 10, 20], 0.8, 0, Outcome.NEW),
        ([0, 0, 10, 20], 0.8, 1, Outcome.NEW),
        ([0, 0, 10, 20], 0.8, 0, Outcome.DUPLICATE),
    ]
    corners, scores, labels, expected = zip(*cases, strict=True)
    step = look(image_tracker(), boxes(0, corners, np.array(scores), np.array(labels)))
    assert [Outcome(value).name for value in step.outcomes] == [outcome.name for outcome in expected]


def test_the_tally_of_all_steps_names_every_outcome_and_its_sum() -> None:
    tracker = image_tracker(min_score=0.1, start_score=0.6, min_hits=2)
    assert tracker.counters() == {"detections": 0}
    for frame in range(3):
        look(tracker, boxes(40 * frame, [A, B, B], scores=[0.9, 0.3, 0.05]))
    assert tracker.counters() == {
        "detections": 9, "matched": 2, "new": 1, "rejected: too weak to start": 3, "rejected: low score": 3,
    }  # fmt: skip


def test_a_stamp_from_the_past_is_rejected_and_changes_nothing() -> None:
    tracker, untouched = image_tracker(), image_tracker()
    for frame in range(3):
        look(tracker, boxes(40 * frame, [A, B]))
        look(untouched, boxes(40 * frame, [A, B]))
    for stamp in (80, 40):
        with pytest.raises(Rejected, match="stamp not after"):
            look(tracker, boxes(stamp, [B]))
    assert look(tracker, boxes(120, [B, A])).track_ids.tolist() == [2, 1]
    look(untouched, boxes(120, [B, A]))
    assert isinstance(tracker.motion, ImageMotion)
    assert isinstance(untouched.motion, ImageMotion)
    np.testing.assert_array_equal(tracker.motion.state, untouched.motion.state)


def test_crossing_boxes_keep_their_ids() -> None:
    tracker = image_tracker()
    for frame in range(40):
        x = 5.0 * frame
        step = look(tracker, boxes(40 * frame, [[x, 0, x + 30, 60], [200 - x, 8, 230 - x, 68]]))
        assert step.track_ids.tolist() == [1, 2]


def random_boxes(rng: np.random.Generator, stamp_ns: int) -> Detections2D:
    """A few moving boxes among clutter, broken in every way that a float32 can be."""
    count = int(rng.integers(0, 8))
    corner = rng.uniform(0, 200, (count, 2)) * rng.choice([1.0, 1.0, 1e4, 1e7])
    corners = np.hstack([corner, corner + rng.uniform(-5, 60, (count, 2)) * rng.choice([1.0, 1.0, 1e-6, 1e5])])
    corners[rng.uniform(size=(count, 4)) < 0.03] = rng.choice([np.nan, np.inf, -np.inf, 0.0, 3e38])
    scores, labels = rng.uniform(-0.1, 1, count), rng.integers(-1, 3, count)
    scores[rng.uniform(size=count) < 0.05] = np.nan
    again = rng.integers(0, max(count, 1), count // 2)
    return Detections2D(
        stamp_ns=stamp_ns, frame_id="camera", boxes_xyxy_px=np.vstack([corners, corners[again]]),
        scores=np.concatenate([scores, scores[again]]), labels=np.concatenate([labels, labels[again]]),
        class_names=CLASSES,
    )  # fmt: skip


def check_account(tracker: Tracker, step: Step, count: int, ids_before: list[int]) -> None:
    """Each detection has one outcome, each track at most one detection, and the ids say the same as the outcomes."""
    assert step.outcomes.shape == step.track_ids.shape == (count,)
    rejected = np.array([Outcome(value).rejected for value in step.outcomes], dtype=bool)
    matched = step.track_ids[~rejected & (step.outcomes != Outcome.NEW)].tolist()
    started = step.track_ids[step.outcomes == Outcome.NEW].tolist()
    assert (step.track_ids[rejected] == -1).all()
    assert (step.track_ids[~rejected] > 0).all()
    surviving = [track for track in ids_before if track not in step.forgotten_ids.tolist()]
    assert len(set(matched)) == len(matched)
    assert set(matched) <= set(surviving)
    assert set(step.forgotten_ids.tolist()) <= set(ids_before)
    newest = max(ids_before, default=0)
    assert started == sorted(set(started))
    assert all(track > newest for track in started)
    assert tracker.table.ids.tolist() == surviving + started
    table = tracker.table
    assert len(table.ids) == len(table.scores) == table.votes.shape[1] == len(table.labels)
    assert (table.votes.sum(axis=0) == table.hits).all()


@given(
    seed=st.integers(0, 2**31),
    class_aware=st.booleans(),
    min_iou=st.sampled_from([0.0, 0.3]),
    longest_s=st.sampled_from([0.2, 60.0, 4000.0]),
)
@settings(max_examples=60, deadline=None)
def test_every_box_of_a_random_stream_is_accounted_for_once(
    seed: int, class_aware: bool, min_iou: float, longest_s: float
) -> None:
    rng = np.random.default_rng(seed)
    tracker = image_tracker(class_aware=class_aware, min_iou=min_iou, max_age_s=3600.0, start_score=0.3)
    stamp_ns = 0
    for _ in range(25):
        stamp_ns += int(rng.uniform(1e-3, 0.2 if rng.uniform() < 0.9 else longest_s) * 1e9)
        detections = random_boxes(rng, stamp_ns)
        ids_before = tracker.table.ids.tolist()
        step = look(tracker, detections)
        check_account(tracker, step, len(detections.scores), ids_before)
        assert isinstance(tracker.motion, ImageMotion)
        state = tracker.motion.state
        assert state.shape[2] == len(tracker.table.ids)
        assert np.isfinite(state).all()
        assert (state[2] > 0).all()
        assert (state[4] >= 0).all()
        assert (state[0, 2:] > 0).all()


@given(seed=st.integers(0, 2**31), longest_s=st.sampled_from([0.2, 60.0, 4000.0]))
@settings(max_examples=60, deadline=None)
def test_every_cluster_of_a_random_stream_is_accounted_for_once(seed: int, longest_s: float) -> None:
    rng = np.random.default_rng(seed)
    tracker, motion = world_tracker(max_age_s=3600.0, gate_m=30.0)
    stamp_ns = 0
    for _ in range(25):
        stamp_ns += int(rng.uniform(1e-3, 0.2 if rng.uniform() < 0.9 else longest_s) * 1e9)
        count = int(rng.integers(0, 8))
        numbers = rng.normal(0, 10, (count, 7)) * rng.choice([1.0, 1.0, 1e-9, 1e5])
        numbers[:, 3:6] = np.abs(numbers[:, 3:6])
        numbers[rng.uniform(size=(count, 7)) < 0.03] = rng.choice([np.nan, np.inf, -1.0, 0.0, 1e300])
        numbers = numbers[rng.integers(0, max(count, 1), count)]
        detections = Detections3D(
            stamp_ns=stamp_ns, frame_id="lidar", centers_m=numbers[:, :3], sizes_m=numbers[:, 3:6],
            yaws_rad=numbers[:, 6], scores=np.ones(count), labels=np.zeros(count), class_names=("obstacle",),
        )  # fmt: skip
        ids_before = tracker.table.ids.tolist()
        step = tracker.step(WorldMotion.observe(detections, np.eye(4)))
        check_account(tracker, step, count, ids_before)
        assert len(motion.state) == len(motion.yaws_rad) == len(motion.sizes_m) == len(tracker.table.ids)
        assert np.isfinite(motion.state.mean).all()
        assert np.isfinite(motion.sizes_m).all()
        assert (np.abs(motion.yaws_rad) <= np.pi).all()
        assert (np.einsum("iin->in", motion.state.covariance) > 0).all()


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_tracks_do_not_depend_on_the_order_of_the_detections(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plain, shuffled = image_tracker(), image_tracker()
    places = rng.uniform(0, 500, (6, 2))
    names: dict[int, int] = {}
    for frame in range(8):
        corners = np.hstack([places, places + 40.0]) + rng.normal(0, 2, (6, 4))
        order = rng.permutation(6)
        first = look(plain, boxes(40 * frame, corners))
        second = look(shuffled, boxes(40 * frame, corners[order]))
        for a, b in zip(first.track_ids[order].tolist(), second.track_ids.tolist(), strict=True):
            assert names.setdefault(a, b) == b


def test_world_tracks_find_position_and_velocity_of_moving_boxes() -> None:
    tracker, motion = world_tracker()
    rng = np.random.default_rng(0)
    start, velocity = np.array([[0.0, 0.0, 0.5], [10.0, 5.0, 0.5]]), np.array([[8.0, 0.0, 0.0], [-3.0, -4.0, 0.0]])
    for frame in range(40):
        places = start + 0.1 * frame * velocity
        step = tracker.step(WorldMotion.observe(things(100 * frame, places + rng.normal(0, 0.05, (2, 3))), np.eye(4)))
        assert step.track_ids.tolist() == [1, 2]
    np.testing.assert_allclose(motion.state.positions.T, places, atol=0.15)
    np.testing.assert_allclose(motion.state.velocities.T, velocity, atol=0.5)


def test_a_box_read_with_length_and_width_swapped_is_the_same_box() -> None:
    tracker, motion = world_tracker()
    for frame in range(12):
        quarter = frame % 4
        sizes = (4.0, 2.0, 1.5) if quarter % 2 == 0 else (2.0, 4.0, 1.5)
        detections = things(100 * frame, [5.0, 0.0, 0.0], sizes, 3.0 + quarter * np.pi / 2)
        tracker.step(WorldMotion.observe(detections, np.eye(4)))
    np.testing.assert_allclose(motion.sizes_m, [[4.0, 2.0, 1.5]], atol=1e-9)
    np.testing.assert_allclose(motion.yaws_rad, [3.0], atol=1e-9)


def test_one_broken_cluster_hardly_changes_size_or_place() -> None:
    tracker, motion = world_tracker()
    for frame in range(20):
        tracker.step(WorldMotion.observe(things(100 * frame, [5.0, 0.0, 0.0]), np.eye(4)))
    broken = things(2000, [3.8, 0.0, 0.0], (0.4, 2.0, 1.5))
    assert tracker.step(WorldMotion.observe(broken, np.eye(4))).track_ids.tolist() == [1]
    assert motion.sizes_m[0, 0] > 3.5
    tracker.step(WorldMotion.observe(things(2100, [5.0, 0.0, 0.0]), np.eye(4)))
    assert abs(motion.state.positions[0, 0] - 5.0) < 0.4


def test_a_cluster_beyond_the_gate_starts_its_own_track() -> None:
    tracker, _ = world_tracker(gate_m=2.0)
    tracker.step(WorldMotion.observe(things(0, [0.0, 0.0, 0.0]), np.eye(4)))
    step = tracker.step(WorldMotion.observe(things(100, [[2.1, 0.0, 0.0], [0.3, 0.0, 0.0]]), np.eye(4)))
    assert step.track_ids.tolist() == [2, 1]


def test_an_unlikely_height_is_refused_although_it_is_near_in_birds_eye() -> None:
    tracker, _ = world_tracker()
    for frame in range(10):
        tracker.step(WorldMotion.observe(things(100 * frame, [0.0, 0.0, 0.0]), np.eye(4)))
    assert tracker.step(WorldMotion.observe(things(1000, [0.0, 0.0, 6.0]), np.eye(4))).track_ids.tolist() == [2]


def test_the_chi_square_limit_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    np.testing.assert_allclose(stats.chi2.ppf(0.999, 3), CHI2_3DOF_999, atol=1e-3)


def test_boxes_are_carried_into_the_world() -> None:
    yaw, tilt = 0.7, 0.05
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    pitch = np.array([[np.cos(tilt), 0, np.sin(tilt)], [0, 1, 0], [-np.sin(tilt), 0, np.cos(tilt)]])
    world_T_sensor = np.eye(4)
    world_T_sensor[:3, :3], world_T_sensor[:3, 3] = turn @ pitch, [10.0, 20.0, 1.0]
    seen = WorldMotion.observe(things(0, [3.0, 1.0, 0.0], yaws=0.4), world_T_sensor)
    np.testing.assert_allclose(seen.measurements[:3, 0], turn @ pitch @ [3.0, 1.0, 0.0] + [10.0, 20.0, 1.0])
    np.testing.assert_allclose(seen.measurements[6, 0], 1.1, atol=1e-3)


@pytest.mark.parametrize(
    ("config", "values", "range_said"),
    [
        (TrackerConfig, {"min_hits": 0}, "1 or more"),
        (TrackerConfig, {"max_age_s": 0.0}, "above 0 and at most 3600"),
        (TrackerConfig, {"max_tentative_age_s": float("nan")}, "above 0 and at most 3600"),
        (TrackerConfig, {"coast_s": 2.0}, "0 to max_age_s"),
        (TrackerConfig, {"min_score": 0.5, "start_score": 0.4}, "at least min_score"),
        (Tracker2DConfig, {"min_iou": 1.0}, "0 to below 1"),
        (Tracker2DConfig, {"measurement_noise_scales": 0.0}, "above 0 and at most 100"),
        (Tracker3DConfig, {"gate_m": -1.0}, "above 0 and at most 1000"),
        (Tracker3DConfig, {"center_noise_sizes": 2.0}, "0 to 1"),
        (Tracker3DConfig, {"initial_speed_mps": 0.0}, "above 0 and at most 300"),
        (Tracker3DConfig, {"smoothing": 0.0}, "above 0 and at most 1"),
        (Tracker3DConfig, {"min_hits": 0}, "1 or more"),
    ],
)
def test_a_config_out_of_range_is_refused_with_the_range(config: Any, values: dict[str, Any], range_said: str) -> None:
    with pytest.raises(ValueError, match=range_said):
        config(**values)
