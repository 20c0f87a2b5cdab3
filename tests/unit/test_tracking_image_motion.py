from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracking import axis_kalman
from tracking.association import Pairs, paired_iou
from tracking.associators import centered_iou, direction_agreement
from tracking.box_models import HeightBox, ScaleRatioBox, SizeBox
from tracking.image_motion import ImageMotion, corners
from tracking.screening import Observations

filters = pytest.importorskip("filterpy.kalman", reason="filterpy>=2.0 is not installed")

Array = np.ndarray[Any, Any]
PERIOD_S = 0.1
MODELS = [ScaleRatioBox(PERIOD_S), HeightBox(PERIOD_S), SizeBox()]
EVERY_MODEL = pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)


def seen(boxes: Any, scores: Any = None) -> Observations:
    """Boxes cx, cy, w, h (4, M) as a tracker gives them to a motion; the motion asks for no stamp."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(4, -1)
    count = boxes.shape[1]
    scores = np.full(count, 0.9) if scores is None else np.asarray(scores)
    return Observations(0, boxes, scores, np.zeros(count, dtype=np.int32), 1)


def random_boxes(rng: np.random.Generator, count: int) -> Array:
    return np.vstack([rng.uniform(100, 1000, (2, count)), rng.uniform(40, 200, (2, count))])


# --- box models ----------------------------------------------------------------------------------------------------


@EVERY_MODEL
@given(seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_a_box_comes_back_from_the_coordinates_that_are_filtered(model: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.vstack([rng.uniform(-1e4, 1e4, (2, 20)), 10.0 ** rng.uniform(-0.5, 4, (2, 20))])
    kept = boxes.copy()
    np.testing.assert_allclose(model.boxes(model.measure(boxes)), boxes, rtol=1e-12)
    np.testing.assert_array_equal(boxes, kept)


@EVERY_MODEL
@given(seed=st.integers(0, 2**31), each_its_own=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_box_that_would_vanish_keeps_its_size_and_stops_shrinking(model: Any, seed: int, each_its_own: bool) -> None:
    """As in SORT's program, and its published numbers need it: the box does not collapse, its rate is set to 0."""
    rng = np.random.default_rng(seed)
    z = model.measure(random_boxes(rng, 20))
    state = axis_kalman.start(z, model.position_variances(z), model.velocity_variances(z))
    moves = np.broadcast_to(model.velocity_variances(z) > 1e-3, (4, 20))  # an aspect ratio does not
    state[1] = moves * rng.normal(0, 1, (4, 20)) * rng.choice([1.0, 1e2, 1e5], (4, 20))
    dt_s: Any = rng.uniform(0.01, 1.0, 20) if each_its_own else 0.1
    later = axis_kalman.predict(state, dt_s, 0.0)
    gone = moves & (later[0] <= 0.0)
    gone[:2] = False
    model.stop_shrinking(later, dt_s)
    np.testing.assert_allclose(later[0][gone], state[0][gone], rtol=1e-9)
    assert (later[1][gone] == 0.0).all()
    stopped = later[1] != state[1]
    np.testing.assert_allclose(later[0][~stopped], (state[0] + state[1] * dt_s)[~stopped], rtol=1e-12)
    boxes = model.boxes(later[0])
    assert np.isfinite(boxes).all()
    assert (boxes[2:] > 0.0).all()


@EVERY_MODEL
def test_time_adds_noise_in_proportion_to_itself(model: Any) -> None:
    """What two parts of a step add to the variances of the rates is what the whole adds."""
    coordinates = model.measure(random_boxes(np.random.default_rng(0), 5))
    first, second, both = (
        np.broadcast_to(model.process_noise(coordinates, dt), (3, 4, 5)) for dt in (0.02, 0.05, 0.07)
    )
    np.testing.assert_allclose(first[2] + second[2], both[2], rtol=1e-12)
    assert (both >= 0.0).all()


def test_heights_deviations_are_the_published_fractions_per_frame() -> None:
    model, coordinates = HeightBox(PERIOD_S), np.array([[0.0], [0.0], [0.5], [80.0]])
    place, rate = 80.0 / 20.0, 80.0 / 160.0
    measurement = model.measurement_variances(coordinates, np.ones(1))[:, 0]
    np.testing.assert_allclose(measurement, np.square([place, place, 0.1, place]))
    first = model.position_variances(coordinates)[:, 0]
    np.testing.assert_allclose(first, np.square([2 * place, 2 * place, 0.01, 2 * place]))
    first_rate = model.velocity_variances(coordinates)[:, 0] * PERIOD_S**2
    np.testing.assert_allclose(first_rate, np.square([10 * rate, 10 * rate, 1e-5, 10 * rate]))
    added = model.process_noise(coordinates, PERIOD_S)[:, :, 0]
    np.testing.assert_allclose(added[0], np.square([place, place, 0.01, place]))
    np.testing.assert_allclose(added[2] * PERIOD_S**2, np.square([rate, rate, 1e-5, rate]))


def test_a_weaker_detection_counts_for_less_where_the_score_has_a_power() -> None:
    model, boxes = SizeBox(score_power=1.0), np.array([[0.0, 0.0], [0.0, 0.0], [10.0, 10.0], [20.0, 20.0]])
    sure, unsure = model.measurement_variances(boxes, np.array([1.0, 0.5])).T.reshape(2, -1)
    np.testing.assert_allclose(unsure, 4.0 * sure)
    plain = SizeBox().measurement_variances(boxes, np.array([1.0, 0.5])).T.reshape(2, -1)
    np.testing.assert_array_equal(plain[0], plain[1])


# --- SORT's filter, and OC-SORT's re-update ------------------------------------------------------------------------


def measured(box: Array) -> Array:
    """Centre, area and aspect ratio of a box cx, cy, w, h: (4, 1)."""
    return np.array([[box[0]], [box[1]], [box[2] * box[3]], [box[2] / box[3]]])


class OneTrack:
    """SORT's filter of one box on filterpy: centre, area, aspect ratio, and the rates of the first three per frame."""

    def __init__(self, box: Array) -> None:
        self.filter = filters.KalmanFilter(dim_x=7, dim_z=4)
        self.filter.x[:4] = measured(box)
        self.filter.P = np.diag([10.0, 10.0, 10.0, 10.0, 1e4, 1e4, 1e4])
        self.filter.R = np.diag([1.0, 1.0, 10.0, 10.0])
        self.filter.H = np.eye(4, 7)

    def predict(self, frames: float) -> None:
        if self.filter.x[2, 0] + frames * self.filter.x[6, 0] <= 0.01:  # an area of 0.1 px by 0.1 px
            self.filter.x[6, 0] = 0.0
        noise = np.diag([1.0, 1.0, 1.0, 1.0, 1e-2, 1e-2, 1e-4])
        self.filter.predict(F=np.eye(7) + frames * np.eye(7, k=4), Q=frames * noise)

    def lead(self, z_last: Array, z: Array, frames: float) -> None:
        """From the last measurement along a straight line up to before the new one, in 60 steps at most."""
        steps = min(round(frames), 60)
        for index in range(1, steps + 1):
            self.predict(frames / steps)
            if index < steps:
                self.filter.update(z_last + (z - z_last) * index / steps)


def assert_equal_states(motion: ImageMotion, theirs: list[OneTrack]) -> None:
    """Ours per second, theirs per frame."""
    for track, one in enumerate(theirs):
        x, P = one.filter.x[:, 0], one.filter.P
        ours = motion.state[:, :, track]
        np.testing.assert_allclose(ours[0], x[:4], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours[1, :3] * PERIOD_S, x[4:], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(ours[2], np.diag(P)[:4], rtol=1e-7)
        np.testing.assert_allclose(ours[3, :3] * PERIOD_S, np.diag(P, 4), rtol=1e-7)
        np.testing.assert_allclose(ours[4, :3] * PERIOD_S**2, np.diag(P)[4:], rtol=1e-7)


@given(seed=st.integers(0, 2**31), irregular=st.booleans())
@settings(max_examples=15, deadline=None)
def test_sorts_filters_equal_filterpys_track_by_track(seed: int, irregular: bool) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, 4)
    velocity = rng.normal(0, 5, (2, 4))
    motion, theirs = ImageMotion(ScaleRatioBox(PERIOD_S)), [OneTrack(box) for box in boxes.T]
    motion.start(seen(boxes))
    for _ in range(15):
        frames = rng.uniform(0.3, 3.0) if irregular else 1.0
        motion.predict(frames * PERIOD_S)
        for track in theirs:
            track.predict(frames)
        boxes[:2] += frames * velocity
        tracks = np.flatnonzero(rng.random(4) < 0.7)
        noisy = boxes[:, tracks] + rng.normal(0, 1, (4, len(tracks)))
        motion.update(tracks, seen(noisy))
        for track, box in zip(tracks, noisy.T, strict=True):
            theirs[track].filter.update(measured(box))
    assert_equal_states(motion, theirs)


@given(seed=st.integers(0, 2**31), irregular=st.booleans(), seen_share=st.sampled_from([0.1, 0.3, 0.6]))
@settings(max_examples=20, deadline=None)
def test_reupdate_equals_leading_each_lost_track_alone(seed: int, irregular: bool, seen_share: float) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, 4)
    velocity = rng.normal(0, 3, (2, 4))
    motion = ImageMotion(ScaleRatioBox(PERIOD_S), reupdate_period_s=PERIOD_S)
    motion.start(seen(boxes))
    theirs = [OneTrack(box) for box in boxes.T]
    last = [(deepcopy(track), measured(box)) for track, box in zip(theirs, boxes.T, strict=True)]
    unseen = np.zeros(4)
    for _ in range(25):
        frames = rng.uniform(0.3, 3.0) if irregular else 1.0
        motion.predict(frames * PERIOD_S)
        unseen += frames
        for track in theirs:
            track.predict(frames)
        boxes[:2] += frames * velocity
        tracks = rng.permutation(np.flatnonzero(rng.random(4) < seen_share))
        noisy = boxes[:, tracks] + rng.normal(0, 1, (4, len(tracks)))
        motion.update(tracks, seen(noisy))
        for index, box in zip(tracks, noisy.T, strict=True):
            z = measured(box)
            if round(unseen[index]) >= 2:
                theirs[index] = deepcopy(last[index][0])
                theirs[index].lead(last[index][1], z, unseen[index])
            theirs[index].filter.update(z)
            last[index], unseen[index] = (deepcopy(theirs[index]), z), 0.0
    assert_equal_states(motion, theirs)


@pytest.mark.parametrize(("missed", "tolerance"), [(5, 30.0), (30, 2.0), (400, 2.0)])
def test_a_track_that_is_found_again_has_moved_straight_to_where_it_is(missed: int, tolerance: float) -> None:
    """It went right when it was lost, and was found below: soon its velocity is the way over the time."""
    led, drifted = ImageMotion(MODELS[0], reupdate_period_s=PERIOD_S), ImageMotion(MODELS[0])
    to_the_right, down = np.eye(4)[:, :1], np.eye(4)[:, 1:2]
    box = np.array([[500.0], [500.0], [60.0], [120.0]])
    for motion in (led, drifted):
        motion.start(seen(box))
        for frame in range(1, 21):
            motion.predict(PERIOD_S)
            motion.update(np.array([0]), seen(box + to_the_right * 4.0 * frame))
        for _ in range(missed + 1):
            motion.predict(PERIOD_S)
        motion.update(np.array([0]), seen(box + to_the_right * 80.0 + down * 2.0 * (missed + 1)))
    velocity = np.array([0.0, 2.0 / PERIOD_S])
    np.testing.assert_allclose(led.center_rates(np.array([0]))[0][0], velocity, atol=tolerance)
    assert np.abs(led.state[1, :2, 0] - velocity).max() < np.abs(drifted.state[1, :2, 0] - velocity).max()


# --- memory and direction ------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_the_memory_is_the_last_places_where_each_track_was_seen(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    motion = ImageMotion(SizeBox(), memory_steps=steps)
    places: list[list[Array]] = []  # of each track, newest first
    for _ in range(12):
        motion.predict(PERIOD_S)
        tracks = np.flatnonzero(rng.random(len(places)) < 0.6)
        boxes = random_boxes(rng, len(tracks))
        motion.update(tracks, seen(boxes))
        for track, box in zip(tracks, boxes.T, strict=True):
            places[track].insert(0, box)
        kept = np.flatnonzero(rng.random(len(places)) < 0.9)
        motion.keep(kept)
        new = random_boxes(rng, int(rng.integers(0, 3)))
        motion.start(seen(new))
        places = [places[track] for track in kept] + [[box] for box in new.T]
        assert motion.memory.shape == (steps + 1, 2, len(places))
        for track, known in enumerate(places):
            padded = [*known, *[known[-1]] * steps][: steps + 1]
            np.testing.assert_array_equal(motion.memory[:, :, track], [box[:2] for box in padded])
            np.testing.assert_array_equal(motion.seen_boxes[:, track], known[0])


@given(seed=st.integers(0, 2**31), steps=st.integers(2, 6))
@settings(max_examples=50, deadline=None)
def test_agreement_of_direction_equals_the_angle_between_two_ways(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    memory = rng.integers(-2, 3, (steps, 2, 6)).astype(np.float64)  # a small grid: ways of no length, of one direction
    boxes = np.vstack([rng.integers(-2, 3, (2, 5)), np.full((2, 5), 10.0)]).astype(np.float64)
    rows, columns = (index.ravel() for index in np.indices((6, 5)))
    found = direction_agreement(memory, boxes, Pairs(rows, columns, np.zeros(30), (6, 5)))
    for row, column, agreement in zip(rows, columns, found, strict=True):
        begin = memory[-1, :, row]
        (dx, dy), (ex, ey) = memory[0, :, row] - begin, boxes[:2, column] - begin
        if (dx, dy) == (0.0, 0.0) or (ex, ey) == (0.0, 0.0):
            assert agreement == 0.0
            continue
        angle = abs(math.remainder(math.atan2(dy, dx) - math.atan2(ey, ex), 2 * math.pi))
        np.testing.assert_allclose(agreement, 0.5 - angle / math.pi, atol=1e-7)


@given(seed=st.integers(0, 2**31), reach=st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=30, deadline=None)
def test_iou_from_centres_and_sizes_is_that_from_corners(seed: int, reach: float) -> None:
    rng = np.random.default_rng(seed)
    a = random_boxes(rng, 30)
    b = np.where(rng.random(30) < 0.5, random_boxes(rng, 30), a + rng.normal(0, 20, (4, 30)))
    b[2:] = np.abs(b[2:]) + 1.0
    np.testing.assert_allclose(centered_iou(a, b, reach), paired_iou(corners(a, reach), corners(b, reach)), atol=1e-12)


# --- a camera that moves -------------------------------------------------------------------------------------------


def similarity(angle: float, scale: float, shift: Any) -> Array:
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]], [0.0, 0.0, 1.0]])


def in_image(affine: Array, boxes: Array) -> Array:
    """Boxes whose centres are mapped, and whose sizes grow by the scale."""
    scale = math.sqrt(np.linalg.det(affine[:2, :2]))
    return np.vstack([affine[:2, :2] @ boxes[:2] + affine[:2, 2:], scale * boxes[2:]])


@given(seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_tracking_while_the_camera_moves_equals_tracking_in_its_last_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, velocity = random_boxes(rng, 5), rng.normal(0, 3, (2, 5))
    shifts = [similarity(rng.normal(0, 0.05), math.exp(rng.normal(0, 0.05)), rng.normal(0, 20, 2)) for _ in range(10)]
    camera_T_start = np.eye(3)
    last_T_start = np.linalg.multi_dot(shifts[::-1])
    moving, still = (ImageMotion(SizeBox(), memory_steps=3, shown_gains=(0.7, 0.3)) for _ in range(2))
    moving.start(seen(boxes))
    still.start(seen(in_image(last_T_start, boxes)))
    for shift in shifts:
        camera_T_start = shift @ camera_T_start
        moving.warp(shift[:2])
        boxes[:2] += velocity
        for motion, image_T_start in ((moving, camera_T_start), (still, last_T_start)):
            motion.predict(PERIOD_S)
            motion.update(np.arange(0, 5, 2), seen(in_image(image_T_start, boxes[:, ::2])))
    np.testing.assert_allclose(moving.state, still.state, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(moving.memory, still.memory, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(moving.seen_boxes, still.seen_boxes, rtol=1e-9, atol=1e-7)
    everyone = np.arange(5)
    np.testing.assert_allclose(moving.shown_xyxy_px(everyone), still.shown_xyxy_px(everyone), rtol=1e-7, atol=1e-6)


def test_any_affine_moves_centres_as_it_moves_points() -> None:
    rng = np.random.default_rng(3)
    motion, boxes = ImageMotion(SizeBox()), random_boxes(rng, 6)
    motion.start(seen(boxes))
    affine = np.array([[1.1, 0.2, 5.0], [-0.1, 0.9, -7.0]])
    motion.warp(affine)
    np.testing.assert_allclose(motion.boxes[:2].T, boxes[:2].T @ affine[:, :2].T + affine[:, 2], rtol=1e-12)
    np.testing.assert_allclose(motion.boxes[2:], boxes[2:] * math.sqrt(1.1 * 0.9 + 0.2 * 0.1), rtol=1e-12)


# --- what is reported ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gains", [(0.0, 0.0), (1.0, 1.0), (0.7, 0.3)])
@EVERY_MODEL
def test_the_reported_box_lies_between_the_filters_and_the_detections(model: Any, gains: tuple[float, float]) -> None:
    rng = np.random.default_rng(4)
    plain, shown = ImageMotion(model), ImageMotion(model, shown_gains=gains)
    boxes, everyone = random_boxes(rng, 5), np.arange(5)
    for motion in (plain, shown):
        motion.start(seen(boxes))
    np.testing.assert_allclose(shown.shown_xyxy_px(everyone), corners(boxes), rtol=1e-12)
    for _ in range(4):
        boxes = boxes + rng.normal(0, 3, (4, 5))
        tracks = rng.permutation(5)[:3]
        for motion in (plain, shown):
            motion.predict(PERIOD_S)
            motion.update(tracks, seen(boxes[:, tracks]))
        weights = np.zeros((4, 5))
        weights[:, tracks] = np.repeat(gains, 2)[:, None]
        expected = (1.0 - weights) * plain.boxes + weights * boxes
        np.testing.assert_allclose(shown.shown_xyxy_px(everyone), corners(expected), rtol=1e-12)
        np.testing.assert_array_equal(shown.state, plain.state)
    shown.keep(np.array([1, 4]))
    np.testing.assert_allclose(shown.shown_xyxy_px(np.array([1, 0])), corners(expected[:, [4, 1]]), rtol=1e-12)


def test_velocity_and_covariance_of_a_centre_are_the_filters() -> None:
    motion = ImageMotion(SizeBox())
    motion.start(seen(random_boxes(np.random.default_rng(5), 4)))
    motion.predict(0.2)
    motion.update(np.arange(4), seen(random_boxes(np.random.default_rng(6), 4)))
    velocities, covariances = motion.center_rates(np.array([3, 1]))
    np.testing.assert_array_equal(velocities, motion.state[1, :2][:, [3, 1]].T)
    for track, covariance in zip((3, 1), covariances, strict=True):
        variance, between, rate = motion.state[2:, :2, track]
        expected = np.block([[np.diag(variance), np.diag(between)], [np.diag(between), np.diag(rate)]])
        np.testing.assert_array_equal(covariance, expected)
        assert (np.linalg.eigvalsh(covariance) > 0.0).all()
