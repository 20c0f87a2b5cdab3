from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.component import config_from_mapping
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Image, NextLook, PointCloud, Tracks2D, Tracks3D
from tracking import kalman
from tracking.kalman import KalmanState
from tracking.motion_models import constant_velocity
from tracking.sampling import error_growth, first_crossing, time_to_budget_s, time_to_confusion_s
from tracking.sampling_policy import (
    CloudGate,
    GateConfig,
    ImageGate,
    SamplingPolicy2D,
    SamplingPolicy2DConfig,
    SamplingPolicy3D,
    SamplingPolicy3DConfig,
)

SECOND_NS = 1_000_000_000
LIMIT_S = 100.0


def covariances(rng: np.random.Generator, count: int, dimensions: int) -> np.ndarray:
    factors = rng.normal(size=(count, 2 * dimensions, 2 * dimensions))
    return factors @ np.swapaxes(factors, 1, 2)


def world_tracks(stamp_s: float, centers: Any, velocities: Any = None, **changed: Any) -> Tracks3D:
    centers = np.asarray(centers, dtype=np.float64).reshape(-1, 3)
    count = len(centers)
    fields: dict[str, Any] = {
        "frame_id": "odom", "class_names": ("car", "pedestrian"), "labels": np.zeros(count), "ids": np.arange(count),
        "velocities_mps": np.zeros((count, 3)) if velocities is None else velocities,
    }  # fmt: skip
    return Tracks3D(
        stamp_ns=round(stamp_s * 1e9), centers_m=centers, sizes_m=np.ones((count, 3)), yaws_rad=np.zeros(count),
        scores=np.ones(count), ages_s=np.ones(count), **{**fields, **changed},
    )  # fmt: skip


def image_tracks(stamp_s: float, corners: Any) -> Tracks2D:
    corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4)
    count = len(corners)
    return Tracks2D(
        stamp_ns=round(stamp_s * 1e9), frame_id="camera", boxes_xyxy_px=corners, scores=np.ones(count),
        labels=np.zeros(count), class_names=("person",), ids=np.arange(count),
        velocities_px_per_s=np.zeros((count, 2)), ages_s=np.ones(count),
    )  # fmt: skip


def look(component: SamplingPolicy2D | SamplingPolicy3D, tracks: Any) -> NextLook:
    answer = component.step(tracks)["next_look"]
    assert isinstance(answer, NextLook)
    return answer


def image(stamp_s: float) -> Image:
    return Image(
        stamp_ns=round(stamp_s * 1e9), frame_id="camera", pixels=np.zeros((2, 2), dtype=np.uint8), encoding="mono8"
    )


def word(stamp_s: float, due_s: float) -> NextLook:
    return NextLook(stamp_ns=round(stamp_s * 1e9), frame_id="camera", due_ns=round(due_s * 1e9), reason="error budget")


@pytest.mark.parametrize("magnitude", [0, 2, 3])
def test_the_first_crossing_is_the_smallest_positive_root(magnitude: float) -> None:
    rng = np.random.default_rng(magnitude)
    cubics = rng.normal(size=(4, 500)) * 10.0 ** rng.uniform(-magnitude, magnitude, (4, 500))
    cubics[0] = -np.abs(cubics[0])
    cubics[3, ::5], cubics[2, ::7], cubics[1, ::11] = 0.0, 0.0, 0.0
    found = first_crossing(cubics, LIMIT_S)
    for column, crossing in zip(cubics.T, found, strict=True):
        roots = np.roots(np.trim_zeros(column[::-1], "f"))
        real = roots[np.abs(roots.imag) < 1e-9 * (1.0 + np.abs(roots))].real
        real = real[(real > 0.0) & (real <= LIMIT_S)]
        if len(real):
            assert crossing == pytest.approx(real.min(), rel=1e-6, abs=1e-5)
        else:
            assert crossing == np.inf


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4))
def test_nothing_is_crossed_before_the_first_crossing(coefficients: list[float]) -> None:
    cubic = np.array(coefficients)[:, None]
    crossing = first_crossing(cubic, LIMIT_S)[0]
    before = np.linspace(0.0, min(crossing, LIMIT_S), 200, endpoint=False)
    values = np.polyval(cubic[::-1, 0], before)
    size = np.abs(coefficients) @ (max(min(crossing, LIMIT_S), 1.0) ** np.arange(4))
    assert (values < 1e-5 * size + 1e-12).all() or crossing == 0.0


def test_what_is_over_the_budget_or_not_finite_is_due_now() -> None:
    cubics = np.array([[1.0, 0.0, np.nan, -1.0], [0.0, -1.0, 1.0, np.inf], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert (first_crossing(cubics) == 0.0).all()


def test_what_never_grows_is_never_due() -> None:
    assert first_crossing(np.array([[-1.0], [0.0], [0.0], [0.0]]))[0] == np.inf
    assert first_crossing(np.array([[-1.0], [-3.0], [-1.0], [0.0]]))[0] == np.inf


@pytest.mark.parametrize("dimensions", [2, 3])
def test_error_growth_is_the_trace_of_the_kalman_filters_prediction(dimensions: int) -> None:
    rng = np.random.default_rng(dimensions)
    spread = covariances(rng, 20, dimensions)
    psd = rng.uniform(0.1, 5.0, 20)
    state = KalmanState(np.zeros((2 * dimensions, 20)), np.moveaxis(spread, 0, -1))
    for t in (0.0, 0.3, 2.0):
        F, Q = constant_velocity(t, np.broadcast_to(psd, (dimensions, 20)), dimensions)
        later = kalman.predict(state, F, Q).covariance
        trace = sum(later[axis, axis] for axis in range(dimensions))
        grown = error_growth(spread, psd) * (t ** np.arange(4))[:, None]
        np.testing.assert_allclose(grown.sum(axis=0), trace, rtol=1e-12)


def test_the_error_is_the_budget_when_the_time_is_up() -> None:
    rng = np.random.default_rng(4)
    spread = covariances(rng, 50, 2) * 0.01
    times = time_to_budget_s(spread, 1.0, 3.0)
    assert ((times > 0.0) & (times < 10.0)).all()
    grown = error_growth(spread, 1.0) * times ** np.arange(4)[:, None]
    np.testing.assert_allclose(np.sqrt(grown.sum(axis=0)), 3.0, rtol=1e-6)


def test_more_noise_is_due_sooner_and_a_larger_budget_later() -> None:
    rng = np.random.default_rng(5)
    spread = covariances(rng, 50, 2) * 0.01
    usual = time_to_budget_s(spread, 1.0, 3.0)
    assert (time_to_budget_s(spread, 4.0, 3.0) < usual).all()
    assert (time_to_budget_s(spread * 2.0, 1.0, 3.0) < usual).all()
    assert (time_to_budget_s(spread, 1.0, 4.0) > usual).all()


@pytest.mark.parametrize("budget", [0.0, -1.0, np.nan])
def test_a_budget_that_is_not_positive_is_a_mistake(budget: float) -> None:
    with pytest.raises(ValueError, match="budget"):
        time_to_budget_s(np.eye(4)[None], 1.0, budget)


def test_two_tracks_that_meet_are_confused_before_they_do() -> None:
    positions, velocities = np.array([[0.0, 0.0], [10.0, 0.0]]), np.array([[1.0, 0.0], [-1.0, 0.0]])
    spread = np.broadcast_to(np.diag([0.01, 0.01, 0.0, 0.0]), (2, 4, 4))
    times = time_to_confusion_s(positions, velocities, spread, 1e-9)
    assert times[0] == pytest.approx(times[1])
    # Their distance is 10 - 2 t, and half of it is the relative error, sqrt(2 * 0.02): brute force.
    assert times[0] == pytest.approx((10.0 - 2.0 * np.sqrt(0.04)) / 2.0, abs=1e-3)


def test_confusion_looks_at_every_pair_of_a_few_tracks() -> None:
    rng = np.random.default_rng(6)
    positions, velocities = rng.uniform(0, 20, (5, 2)), rng.normal(0, 2, (5, 2))
    spread = covariances(rng, 5, 2) * 0.01
    growth = error_growth(spread, 0.5)
    t = np.linspace(0.0, 60.0, 60_001)
    powers = t[None] ** np.arange(4)[:, None]
    for one in range(5):
        first = np.inf
        for other in set(range(5)) - {one}:
            gap = positions[other] - positions[one] + t[:, None] * (velocities[other] - velocities[one])
            error = (growth[:, one] + growth[:, other]) @ powers
            risky = np.flatnonzero(4.0 * error >= (gap**2).sum(axis=1) / 4.0)
            first = min(first, t[risky[0]] if len(risky) else np.inf)
        found = time_to_confusion_s(positions, velocities, spread, 0.5, sigmas=2.0)[one]
        assert found == pytest.approx(first, abs=2e-3)


@pytest.mark.parametrize("count", [0, 1])
def test_a_track_alone_is_never_confused(count: int) -> None:
    none = np.zeros((count, 2))
    assert (time_to_confusion_s(none, none, np.zeros((count, 4, 4)), 1.0) == np.inf).all()


def test_a_parked_car_may_wait_longer_than_a_car_that_changes_its_way() -> None:
    dues = []
    for turns in (False, True):
        component = SamplingPolicy3D(SamplingPolicy3DConfig(smoothing=1.0, max_interval_s=10.0))
        rng = np.random.default_rng(7)
        for step in range(40):
            place = np.array([10.0 * np.sin(step * 0.2), 10.0 * np.cos(step * 0.2)]) if turns else np.zeros(2)
            center = np.append(place + rng.normal(0.0, 0.1, 2), 0.0)
            answer = look(component, world_tracks(step * 0.1, center))
        dues.append((answer.due_ns - answer.stamp_ns) * 1e-9)
    assert dues[0] > 2.0 * dues[1]


def test_the_critical_track_is_the_one_that_is_least_certain() -> None:
    component = SamplingPolicy3D(SamplingPolicy3DConfig(max_interval_s=10.0))
    for step in range(30):
        erratic = [50.0, 8.0 * np.sin(step), 0.0]
        answer = look(component, world_tracks(step * 0.1, [[0.0, 0.0, 0.0], erratic], ids=np.array([4, 9])))
    assert (answer.reason, answer.critical_id) == ("error budget", 9)


def test_where_nothing_is_tracked_the_idle_interval_counts() -> None:
    answer = look(SamplingPolicy3D(), world_tracks(1.0, np.zeros((0, 3))))
    assert (answer.reason, answer.critical_id) == ("nothing is tracked", -1)
    assert answer.due_ns - answer.stamp_ns == pytest.approx(0.3 * SECOND_NS)


def test_no_interval_is_longer_than_the_longest() -> None:
    component = SamplingPolicy3D(SamplingPolicy3DConfig(error_budget=500.0, max_interval_s=0.7, smoothing=1.0))
    for step in range(3):
        answer = look(component, world_tracks(step * 0.1, [[0.0, 0.0, 0.0]]))
    assert answer.reason == "longest interval"
    assert answer.due_ns - answer.stamp_ns == 700_000_000


def test_in_an_image_the_budget_grows_with_the_box() -> None:
    waits = []
    for scale in (1.0, 3.0):
        component = SamplingPolicy2D()
        for step in range(20):
            answer = look(component, image_tracks(step * 0.1, np.array([10.0, 10.0, 30.0, 60.0]) * scale))
        waits.append(answer.due_ns - answer.stamp_ns)
    assert waits[0] == pytest.approx(waits[1], rel=1e-6)


def test_confusion_can_make_a_look_due() -> None:
    apart, close = [], []
    for gap, waits in ((30.0, apart), (1.0, close)):
        component = SamplingPolicy3D(
            SamplingPolicy3DConfig(confusion_sigmas=2.0, error_budget=5.0, max_interval_s=10.0, smoothing=1.0)
        )
        for step in range(20):
            answer = look(component, world_tracks(step * 0.1, [[0.0, 0.0, 0.0], [0.0, gap, 0.0]]))
        waits.append((answer.reason, answer.due_ns - answer.stamp_ns))
    assert apart[0][0] != "confusion"
    assert close[0][0] == "confusion"
    assert close[0][1] < apart[0][1]


def test_a_policy_rejects_what_it_cannot_use_and_goes_on() -> None:
    component = SamplingPolicy3D()
    look(component, world_tracks(1.0, [[0.0, 0.0, 0.0]]))
    for tracks, reason in (
        (world_tracks(0.5, [[0.0, 0.0, 0.0]]), "stamp not after"),
        (world_tracks(2.0, [[0.0, 0.0, 0.0]], frame_id="map"), "frame changed"),
        (world_tracks(2.0, np.zeros((2, 3)), ids=np.array([1, 1])), "twice"),
    ):
        with pytest.raises(Rejected, match=reason):
            component.step(tracks)
    odd = world_tracks(2.0, [[np.nan, 0.0, 0.0], [0.0, 0.0, 0.0]], ids=np.array([-1, 5]))
    assert look(component, odd).critical_id in (5, -1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("error_budget", 0.0), ("smoothing", 0.0), ("smoothing", 1.5), ("max_interval_s", -1.0), ("memory_s", np.nan),
     ("confusion_sigmas", -1.0), ("idle_interval_s", np.inf)],
)  # fmt: skip
def test_bad_settings_are_named(key: str, value: float) -> None:
    with pytest.raises(UserError, match=key):
        config_from_mapping(SamplingPolicy2DConfig, {key: value}, where="graph.yaml: sampling: config")


def test_policies_know_their_classes() -> None:
    assert SamplingPolicy3DConfig().noise(("Car",))[0, 0] != SamplingPolicy3DConfig().acceleration_noise
    assert SamplingPolicy2DConfig().noise(("Person",))[0, 0] != SamplingPolicy2DConfig().acceleration_noise


def test_a_gate_lets_through_what_is_due_and_counts_the_rest_by_reason() -> None:
    gate, passed, reasons = ImageGate(), [], []
    for frame in range(11):
        stamp_s = frame * 0.1
        try:
            gate.pass_image(image(stamp_s))
        except Rejected as rejected:
            reasons.append(str(rejected))
            continue
        passed.append(frame)
        gate.listen(word(stamp_s, stamp_s + 0.3))
    assert passed == [0, 3, 6, 9]
    assert reasons == ["no look is due yet"] * 7


def test_a_gate_takes_the_last_frame_that_is_not_too_late() -> None:
    gate = ImageGate()
    gate.pass_image(image(0.0))
    gate.listen(word(0.0, 0.25))
    with pytest.raises(Rejected):
        gate.pass_image(image(0.1))
    gate.pass_image(image(0.2))  # 0.3 would be too late


def test_a_gate_waits_for_the_answer_to_the_last_look_but_not_for_ever() -> None:
    gate = ImageGate(GateConfig(max_wait_s=0.5))
    gate.pass_image(image(0.0))
    gate.listen(word(-0.2, -0.1))  # of an older look
    for frame in range(1, 5):
        with pytest.raises(Rejected, match="not evaluated"):
            gate.pass_image(image(frame * 0.1))
    gate.pass_image(image(0.5))


def test_an_older_word_does_not_replace_a_newer_one() -> None:
    gate = ImageGate()
    gate.pass_image(image(1.0))
    gate.listen(word(1.0, 1.5))
    gate.listen(word(0.9, 0.95))
    with pytest.raises(Rejected, match="no look is due"):
        gate.pass_image(image(1.1))


def test_a_gate_for_sweeps_does_the_same() -> None:
    gate = CloudGate()
    first = PointCloud(stamp_ns=0, frame_id="lidar", points_m=np.zeros((1, 3)))
    assert gate.pass_cloud(first)["due"] is first
    gate.listen(NextLook(stamp_ns=0, frame_id="odom", due_ns=SECOND_NS // 2, reason="error budget"))
    with pytest.raises(Rejected):
        gate.pass_cloud(PointCloud(stamp_ns=SECOND_NS // 10, frame_id="lidar", points_m=np.zeros((1, 3))))
