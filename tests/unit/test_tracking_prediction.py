from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad_vec
from scipy.linalg import expm

from tercel.core.component import config_from_mapping
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Predictions, Tracks2D, Tracks3D
from tracking.prediction import (
    MODES,
    Histories,
    ModeConfig,
    Sightings,
    combine,
    decaying_velocity,
    dynamics,
    transition,
)
from tracking.predictor import Predictor2D, Predictor2DConfig, Predictor3D, Predictor3DConfig

HORIZONS_S = (1.0, 2.0, 5.0)


def seen(stamp_s: float, positions: Any, ids: Any = None, **changed: Any) -> Sightings:
    positions = np.asarray(positions, dtype=np.float64)
    ones = np.ones(len(positions))
    fields: dict[str, Any] = {
        "ids": np.arange(len(positions)) if ids is None else np.asarray(ids), "psd": 0.02 * ones,
        "psd_ahead": 0.02 * ones, "variances": 0.01 * ones, "speed_variances": 25.0 * ones, "seen": ones > 0.0,
    }  # fmt: skip
    return Sightings(stamp_ns=round(stamp_s * 1e9), positions=positions, **{**fields, **changed})


def world_tracks(stamp_s: float, centers: Any, **changed: Any) -> Tracks3D:
    centers = np.asarray(centers, dtype=np.float64).reshape(-1, 3)
    count = len(centers)
    fields: dict[str, Any] = {
        "frame_id": "odom", "class_names": ("car", "pedestrian"), "labels": np.zeros(count), "ids": np.arange(count),
        "velocities_mps": np.zeros((count, 3)),
    }  # fmt: skip
    return Tracks3D(
        stamp_ns=round(stamp_s * 1e9), centers_m=centers, sizes_m=np.ones((count, 3)), yaws_rad=np.zeros(count),
        scores=np.ones(count), ages_s=np.ones(count), **{**fields, **changed},
    )  # fmt: skip


def predicted(component: Predictor2D | Predictor3D, tracks: Any) -> Predictions:
    answer = component.step(tracks)["predictions"]
    assert isinstance(answer, Predictions)
    return answer


def mean_of(answer: Predictions) -> np.ndarray:
    return combine(answer.positions, answer.covariances, answer.mode_probabilities)[0]


@pytest.mark.parametrize("dt_s", [1e-4, 0.003, 0.1, 2.0])
def test_a_decaying_velocity_is_what_the_integral_says(dt_s: float) -> None:
    A, noise = np.array([[0.0, 1.0], [0.0, -1.0 / 0.35]]), np.diag([0.0, 3.0])
    F, Q = decaying_velocity(dt_s, 0.35, np.array([3.0]))
    np.testing.assert_allclose(F[::2, ::2], expm(A * dt_s), rtol=1e-12, atol=1e-15)
    integral, _ = quad_vec(lambda s: expm(A * s) @ noise @ expm(A * s).T, 0.0, dt_s, epsrel=1e-11)
    np.testing.assert_allclose(Q[::2, ::2, 0], integral, rtol=2e-6, atol=1e-30)


@given(st.floats(0.01, 2.0), st.floats(0.01, 2.0))
def test_two_steps_of_every_mode_make_one(first_s: float, second_s: float) -> None:
    modes, psd = ModeConfig(), np.array([0.3])
    together = dynamics(first_s + second_s, psd, modes)
    pairs = zip(dynamics(first_s, psd, modes), dynamics(second_s, psd, modes), together, strict=True)
    for (F1, Q1), (F2, Q2), (F, Q) in pairs:
        np.testing.assert_allclose(F2 @ F1, F, atol=1e-9)
        np.testing.assert_allclose(F2 @ Q1[:, :, 0] @ F2.T + Q2[:, :, 0], Q[:, :, 0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(transition(first_s, modes) @ transition(second_s, modes), transition(
        first_s + second_s, modes), atol=1e-12)  # fmt: skip


def test_transitions_are_probabilities_and_end_in_the_long_run_shares() -> None:
    modes = ModeConfig()
    for dt_s in (0.0, 0.1, 1.0, 1e6):
        np.testing.assert_allclose(transition(dt_s, modes).sum(axis=1), 1.0)
    np.testing.assert_allclose(transition(1e6, modes)[0], np.array(modes.shares) / sum(modes.shares))
    np.testing.assert_allclose(transition(0.0, modes), np.eye(len(MODES)))


def test_what_goes_straight_on_is_predicted_straight_on() -> None:
    histories, velocity = Histories(ModeConfig()), np.array([3.0, -2.0, 0.2])
    for step in range(40):
        histories.step(seen(step * 0.1, [velocity * step * 0.1]))
    told = histories.predict(np.array([0]), HORIZONS_S)
    mean, covariance = combine(told.positions, told.covariances, told.probabilities)
    wanted = velocity * (3.9 + np.array(HORIZONS_S))[:, None]
    np.testing.assert_allclose(mean[0], wanted, atol=0.3)
    assert MODES[told.probabilities[0].argmax()] == "steady"
    assert (np.diff(np.trace(covariance[0], axis1=1, axis2=2)) > 0.0).all()


def test_what_stands_is_found_to_stand_and_predicted_tightly() -> None:
    rng, histories = np.random.default_rng(0), Histories(ModeConfig())
    for step in range(60):
        histories.step(seen(step * 0.1, rng.normal(0.0, 0.05, (1, 2))))
    told = histories.predict(np.array([0]), (5.0,))
    assert MODES[told.probabilities[0].argmax()] == "stopping"
    most_probable = told.covariances[0, told.probabilities[0].argmax(), 0]
    assert np.sqrt(most_probable[0, 0]) < 0.5


def test_of_the_turning_hypotheses_one_follows_the_bend() -> None:
    rate = ModeConfig().turn_rate_rps
    histories = Histories(ModeConfig())
    for step in range(60):
        angle = rate * step * 0.1
        histories.step(seen(step * 0.1, [[25.0 * np.sin(angle), 25.0 * (1.0 - np.cos(angle))]]))
    told = histories.predict(np.array([0]), (3.0,))
    angle = rate * 8.9
    truth = np.array([25.0 * np.sin(angle), 25.0 * (1.0 - np.cos(angle))])
    errors = np.linalg.norm(told.positions[0, :, 0, :2] - truth, axis=1)
    assert MODES[errors.argmin()] == "turning to y"
    assert errors.min() < 0.5
    assert told.probabilities[0, 3] > 10.0 * told.probabilities[0, 4]


def test_irregular_steps_predict_as_regular_ones_do() -> None:
    rng = np.random.default_rng(1)
    stamps = np.sort(np.concatenate([[0.0, 4.0], rng.uniform(0.0, 4.0, 25)]))
    histories = Histories(ModeConfig())
    for stamp_s in stamps:
        histories.step(seen(stamp_s, [[2.0 * stamp_s, 1.0]]))
    told = histories.predict(np.array([0]), (2.0,))
    mean, _ = combine(told.positions, told.covariances, told.probabilities)
    np.testing.assert_allclose(mean[0, 0, :2], [12.0, 1.0], atol=0.3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_covariances_are_positive_and_probabilities_sum_to_one_whatever_is_seen(seed: int) -> None:
    rng, histories, stamp_s = np.random.default_rng(seed), Histories(ModeConfig()), 0.0
    for _ in range(12):
        stamp_s += float(rng.choice([0.001, 0.1, 0.7, 30.0]))
        ids = rng.permutation(8)[: rng.integers(0, 8)]
        positions = rng.normal(0.0, 10.0 ** rng.uniform(-3, 4), (len(ids), 2))
        now = seen(stamp_s, positions, ids, seen=rng.random(len(ids)) < 0.7)
        histories.step(now)
        told = histories.predict(ids, HORIZONS_S)
        assert np.isfinite(told.positions).all()
        assert (np.linalg.eigvalsh(told.covariances) > 0.0).all()
        np.testing.assert_allclose(told.probabilities.sum(axis=1), 1.0)


def test_many_tracks_at_once_are_as_each_alone_and_the_order_of_ids_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    paths = rng.normal(0.0, 1.0, (6, 20, 2)).cumsum(axis=1)
    ids = np.array([40, 3, 17, 99, 5, 1])
    together, shuffled = Histories(ModeConfig()), Histories(ModeConfig())
    alone = [Histories(ModeConfig()) for _ in ids]
    for step in range(20):
        order = rng.permutation(6)
        together.step(seen(step * 0.1, paths[:, step], ids))
        shuffled.step(seen(step * 0.1, paths[order, step], ids[order]))
        for one, path, number in zip(alone, paths, ids, strict=True):
            one.step(seen(step * 0.1, path[None, step], [number]))
    told = together.predict(ids, HORIZONS_S)
    np.testing.assert_array_equal(told.positions, shuffled.predict(ids, HORIZONS_S).positions)
    for row, (one, number) in enumerate(zip(alone, ids, strict=True)):
        single = one.predict(np.array([number]), HORIZONS_S)
        np.testing.assert_allclose(told.positions[row], single.positions[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(told.covariances[row], single.covariances[0], rtol=1e-9)


def test_combining_hypotheses_is_what_sampling_them_gives() -> None:
    rng = np.random.default_rng(3)
    positions, weights = rng.normal(0.0, 3.0, (1, 3, 1, 2)), np.array([[0.2, 0.5, 0.3]])
    covariances = np.broadcast_to(np.diag([1.0, 2.0]), (1, 3, 1, 2, 2))
    mode = rng.choice(3, 200_000, p=weights[0])
    drawn = positions[0, mode, 0] + rng.normal(size=(200_000, 2)) * np.sqrt([1.0, 2.0])
    mean, covariance = combine(positions, covariances, weights)
    np.testing.assert_allclose(mean[0, 0], drawn.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(covariance[0, 0], np.cov(drawn.T), atol=0.08)


def test_a_track_that_is_not_seen_grows_less_certain_and_is_forgotten_when_not_reported() -> None:
    histories = Histories(ModeConfig(), memory_s=1.0)
    for step in range(10):
        histories.step(seen(step * 0.1, np.zeros((2, 2))))
    before = histories.predict(np.array([0]), (1.0,)).covariances[0, 1, 0, 0, 0]
    histories.step(seen(1.5, np.zeros((1, 2)), [0], seen=np.zeros(1, dtype=bool)))
    assert histories.predict(np.array([0]), (1.0,)).covariances[0, 1, 0, 0, 0] > before
    histories.step(seen(2.2, np.zeros((1, 2)), [0]))
    assert len(histories) == 1
    with pytest.raises(KeyError):
        histories.predict(np.array([1]), (1.0,))


def test_time_that_goes_back_and_double_ids_are_rejected_and_change_nothing() -> None:
    histories = Histories(ModeConfig())
    histories.step(seen(1.0, np.zeros((1, 2))))
    before = histories.predict(np.array([0]), HORIZONS_S)
    for bad, reason in ((seen(1.0, np.ones((1, 2))), "stamp"), (seen(2.0, np.ones((2, 2)), [7, 7]), "twice")):
        with pytest.raises(Rejected, match=reason):
            histories.step(bad)
    np.testing.assert_array_equal(before.positions, histories.predict(np.array([0]), HORIZONS_S).positions)


@pytest.mark.parametrize("gap_s", [60.0, 3600.0])
def test_a_gap_of_a_minute_or_a_clock_step_of_an_hour_begins_all_tracks_anew(gap_s: float) -> None:
    component = Predictor3D()
    for step in range(10):
        predicted(component, world_tracks(step * 0.1, [[step * 1.0, 0.0, 0.0]]))
    answer = predicted(component, world_tracks(1.0 + gap_s, [[500.0, 0.0, 0.0]]))
    np.testing.assert_allclose(mean_of(answer)[0, :, 0], 500.0, atol=1e-6)


def test_the_component_predicts_every_usable_track_in_the_messages_order() -> None:
    component = Predictor3D()
    for step in range(30):
        centers = [[step * 1.0, 0.0, 1.0], [0.0, -step * 0.1, 0.5], [np.nan, 0.0, 0.0], [0.0, 9.0, 0.0]]
        answer = predicted(
            component, world_tracks(step * 0.1, centers, ids=np.array([7, 2, 3, -1]), labels=np.array([0, 1, 0, 0]))
        )
    assert answer.ids.tolist() == [7, 2]
    assert answer.positions.shape == (2, len(MODES), 5, 3)
    np.testing.assert_allclose(mean_of(answer)[0, :, 0], 29.0 + 10.0 * answer.horizons_s, rtol=0.05)
    np.testing.assert_allclose(mean_of(answer)[:, 0, 2], [1.0, 0.5], atol=1e-6)


def test_what_the_tracker_knows_of_a_new_track_is_used() -> None:
    covariance = np.diag([0.1, 0.1, 0.1, 0.2, 0.2, 0.2])[None]
    velocity = np.array([[10.0, 0.0, 0.0]])
    answer = predicted(
        Predictor3D(), world_tracks(0.0, np.zeros((1, 3)), velocities_mps=velocity, covariances=covariance)
    )
    steady = answer.positions[0, MODES.index("steady")]
    np.testing.assert_allclose(steady[:, 0], 10.0 * answer.horizons_s)


@pytest.mark.parametrize("fault", [np.nan, np.inf, -1.0])
def test_a_covariance_that_is_none_is_not_used(fault: float) -> None:
    covariance = np.full((1, 6, 6), fault)
    answer = predicted(Predictor3D(), world_tracks(0.0, np.zeros((1, 3)), covariances=covariance))
    assert (np.linalg.eigvalsh(answer.covariances) > 0.0).all()


def test_in_an_image_predictions_grow_with_the_box() -> None:
    answers = []
    for scale in (1.0, 4.0):
        component = Predictor2D()
        for step in range(20):
            corners = np.array([[100.0 + step, 50.0, 120.0 + step, 90.0]]) * scale
            tracks = Tracks2D(
                stamp_ns=step * 100_000_000, frame_id="camera", boxes_xyxy_px=corners, scores=[1.0], labels=[0],
                class_names=("person",), ids=[1], velocities_px_per_s=[[np.nan, np.nan]], ages_s=[1.0],
            )  # fmt: skip
            answer = predicted(component, tracks)
        answers.append(answer)
    assert answers[0].positions.shape[-1] == 2
    np.testing.assert_allclose(answers[1].positions, 4.0 * answers[0].positions, rtol=1e-6)
    np.testing.assert_allclose(answers[1].covariances, 16.0 * answers[0].covariances, rtol=1e-5, atol=1e-9)


def test_an_empty_message_and_one_in_another_frame() -> None:
    component = Predictor3D()
    answer = predicted(component, world_tracks(0.0, np.zeros((0, 3))))
    assert answer.positions.shape == (0, len(MODES), 5, 3)
    with pytest.raises(Rejected, match="frame"):
        component.step(world_tracks(1.0, np.zeros((1, 3)), frame_id="map"))


@pytest.mark.parametrize(
    ("values", "named"),
    [({"horizons_s": []}, "horizons_s"), ({"horizons_s": [2.0, 1.0]}, "horizons_s"), ({"horizons_s": [0.0]}, "horizon"),
     ({"class_names": ["car"]}, "class_names"), ({"measurement_noise": 0.0}, "measurement_noise"),
     ({"horizon_s": [1.0]}, "horizons_s")],
)  # fmt: skip
def test_bad_settings_are_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        config_from_mapping(Predictor3DConfig, values, where="graph.yaml: predictor: config")


def test_classes_are_known_whatever_their_case_and_others_get_the_default() -> None:
    config = Predictor2DConfig(acceleration_noise=0.7)
    noise = config.noise(("PERSON", "unicorn"))
    assert noise[0, 0] == config.class_noise[config.class_names.index("person")]
    assert noise[0, 1] == 0.7
    assert config.noise(()).shape == (2, 0)


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5, 0.0, 0.0, 0.0), (0.3, 0.3, 0.3, 0.3, 0.3)])
def test_shares_of_modes_are_checked(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares"):
        replace(ModeConfig(), shares=shares)


def test_the_spread_is_that_of_the_prediction_for_a_short_time() -> None:
    rng, histories = np.random.default_rng(4), Histories(ModeConfig())
    for step in range(20):
        histories.step(seen(step * 0.1, rng.normal(0.0, 0.1, (3, 2)) + step))
    ids = np.arange(3)
    covariances, psd = histories.spread(ids)
    told = histories.predict(ids, (1e-6,))
    _, combined = combine(told.positions, told.covariances, told.probabilities)
    np.testing.assert_allclose(covariances[:, :2, :2] + 0.01 * np.eye(2), combined[:, 0, :2, :2], rtol=1e-4)
    assert (psd > 0.0).all()
