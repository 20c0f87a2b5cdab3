"""The offset of another robot's clock: simulated links with jitter, loss, drift, steps and bursts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.errors import Rejected
from tracking.clock_offset import BACKWARDS, STEPPED, ClockOffset, ClockOffsetConfig, motion_lag

SECOND = 10**9
EPOCH = 1_700_000_000 * SECOND
HOUR = 3600 * SECOND


def on_their_clock(ours_ns: int, offset_s: float, drift_ppm: float = 0.0) -> int:
    return ours_ns + round(offset_s * 1e9) + round((ours_ns - EPOCH) * drift_ppm * 1e-6)


def messages(seed: int, seconds: float, *, low_s: float = 0.05, high_s: float = 0.4, loss: float = 0.2) -> Any:
    """(sent, received) on our clock, ten a second, in order of arrival."""
    rng = np.random.default_rng(seed)
    sent = EPOCH + np.arange(int(seconds * 10)) * 100_000_000
    sent = sent[rng.random(len(sent)) > loss]
    received = sent + np.round(rng.uniform(low_s, high_s, len(sent)) * 1e9).astype(np.int64)
    order = np.argsort(received, kind="stable")
    return [(int(s), int(r)) for s, r in zip(sent[order], received[order], strict=True)]


def error_s(clock: ClockOffset, now_ns: int, offset_s: float, drift_ppm: float = 0.0) -> float:
    return (clock.offset_ns - (on_their_clock(now_ns, offset_s, drift_ppm) - now_ns)) * 1e-9


@pytest.mark.parametrize("drift_ppm", [-100.0, 0.0, 100.0])
def test_one_way_stamps_leave_the_least_delay_as_error(drift_ppm: float) -> None:
    clock = ClockOffset()
    for sent, received in messages(0, 120.0):
        clock.hear(on_their_clock(sent, 0.3, drift_ppm), received)
    assert -0.075 < error_s(clock, received, 0.3, drift_ppm) < -0.045
    assert clock.relocks == 0
    assert clock.sigma_s >= 0.05


def test_exchanged_stamps_bound_from_both_sides() -> None:
    clock, rng = ClockOffset(), np.random.default_rng(1)
    for sent, received in messages(1, 30.0):
        asked = sent - round(rng.uniform(0.06, 0.41) * 1e9)
        there = asked + round(rng.uniform(0.05, 0.4) * 1e9)
        exchange = [asked, on_their_clock(max(there, asked), 0.3), on_their_clock(max(sent, there), 0.3), received]
        if there < sent:
            clock.hear(on_their_clock(sent, 0.3), received, exchange)
    assert abs(error_s(clock, received, 0.3)) < 0.01
    assert clock.sigma_s < 0.05


@given(st.floats(-1e5, 1e5), st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), min_size=1, max_size=20))
def test_the_truth_lies_between_the_bounds_of_exchanges(offset_s: float, delays_s: list[tuple[float, float]]) -> None:
    clock, now = ClockOffset(), EPOCH
    for there_s, back_s in delays_s:
        now += SECOND
        there, back = now + round(there_s * 1e9), now + round(there_s * 1e9) + round(back_s * 1e9)
        exchange = [now, on_their_clock(there, offset_s), on_their_clock(there, offset_s), back]
        clock.hear(exchange[2], back, exchange)
    width_s = min(d[0] for d in delays_s) + min(d[1] for d in delays_s)
    assert abs(error_s(clock, back, offset_s)) <= width_s / 2.0 + 1e-8


def test_lags_of_common_tracks_find_the_least_delay() -> None:
    clock, rng = ClockOffset(), np.random.default_rng(2)
    for sent, received in messages(2, 60.0):
        clock.hear(on_their_clock(sent, 0.3), received)
        clock.refine(-error_s(clock, received, 0.3) + rng.normal(0.0, 0.03), 0.03)
    assert abs(error_s(clock, received, 0.3)) < 0.01


def test_wild_lags_do_little() -> None:
    clock, rng = ClockOffset(), np.random.default_rng(3)
    for sent, received in messages(3, 60.0):
        clock.hear(on_their_clock(sent, 0.3), received)
        wild = rng.random() < 0.1
        clock.refine(50.0 if wild else -error_s(clock, received, 0.3) + rng.normal(0.0, 0.03), 0.03)
    assert abs(error_s(clock, received, 0.3)) < 0.05


@pytest.mark.parametrize("step_ns", [HOUR, -HOUR, 2 * SECOND])
def test_a_step_of_the_clock_is_refused_at_first_and_then_learnt(step_ns: int) -> None:
    clock, refused = ClockOffset(), 0
    rows = messages(4, 40.0)
    for sent, received in rows:
        theirs = on_their_clock(sent, 0.3) + (step_ns if sent > EPOCH + 20 * SECOND else 0)
        try:
            clock.hear(theirs, received)
        except Rejected as reason:
            assert str(reason) == STEPPED
            refused += 1
    assert clock.relocks == 1
    assert 4 <= refused <= 20
    assert -0.075 < error_s(clock, received, 0.3 + step_ns * 1e-9) < -0.045


@pytest.mark.parametrize(("rate_hz", "settings"), [(500, {}), (10, {"relock_s": 30.0}), (10, {"relock_after": 200})])
def test_a_step_is_learnt_at_any_rate_and_patience(rate_hz: int, settings: dict[str, Any]) -> None:
    clock, refused = ClockOffset(ClockOffsetConfig(**settings)), 0
    for index in range(60 * rate_hz):
        if clock.relocks:
            break
        ours = EPOCH + index * SECOND // rate_hz
        try:
            clock.hear(on_their_clock(ours, 0.0) + (HOUR if index >= rate_hz else 0), ours + 50_000_000)
        except Rejected:
            refused += 1
    assert clock.relocks == 1
    assert 0 < refused < 40 * rate_hz


def test_our_own_clocks_step_is_survived_too() -> None:
    clock, refused = ClockOffset(), 0
    for sent, received in messages(5, 40.0):
        ours = received + (HOUR if received > EPOCH + 20 * SECOND else 0)
        try:
            clock.hear(on_their_clock(sent, 0.3), ours)
        except Rejected:
            refused += 1
    assert clock.relocks == 1
    assert refused <= 20
    assert -0.075 < error_s(clock, ours, 0.3 - 3600.0) < -0.045


def test_single_wild_stamps_move_nothing() -> None:
    clock, rng = ClockOffset(), np.random.default_rng(6)
    for k, (sent, received) in enumerate(messages(6, 40.0)):
        wild = round(rng.uniform(-1, 1) * 1e12) if k % 7 == 6 else 0
        try:
            clock.hear(on_their_clock(sent, 0.3) + wild, received)
        except Rejected:
            assert wild
    assert clock.relocks == 0
    assert -0.075 < error_s(clock, received, 0.3) < -0.045


def test_a_burst_of_held_up_messages_is_no_step() -> None:
    """The link stalls for four seconds, then forty messages arrive within 100 ms."""
    clock = ClockOffset()
    for k in range(400):
        sent = EPOCH + k * 100_000_000
        stalled = 200 <= k < 240
        received = EPOCH + 240 * 100_000_000 + k * 100_000 if stalled else sent + 80_000_000
        try:
            clock.hear(on_their_clock(sent, 0.3), received)
        except Rejected:
            assert stalled
    assert clock.relocks == 0
    assert error_s(clock, received, 0.3) == pytest.approx(-0.08, abs=0.01)


def test_stamps_that_run_backwards_are_refused() -> None:
    clock = ClockOffset()
    for exchange in ([100, 0, 0, 0], [0, 100, 50, 200], [0, 0, 300, 200]):
        with pytest.raises(Rejected, match=BACKWARDS):
            clock.hear(0, 0, exchange)
    assert not clock.locked
    with pytest.raises(ValueError, match="nothing was heard"):
        clock.to_ours(0)


@pytest.mark.parametrize("setting", [{"window_s": 0.0}, {"jump_s": np.nan}, {"relock_after": 1}, {"relock_s": -1.0}])
def test_impossible_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ClockOffsetConfig(**setting)


def scene(seed: int, lag_s: float, count: int = 30) -> tuple[Any, Any, Any]:
    """Gaps, velocities and covariances of things that two robots see, one of them lag_s behind."""
    rng = np.random.default_rng(seed)
    velocities = np.vstack([rng.uniform(-15, 15, (2, count)), np.zeros(count)])
    gaps = velocities * lag_s + rng.normal(0.0, 0.3, (3, count))
    return gaps, velocities, np.repeat(0.09 * np.eye(3)[:, :, None], count, axis=2)


def test_the_lag_is_found_within_what_it_claims() -> None:
    errors = []
    for seed in range(200):
        found = motion_lag(*scene(seed, 0.12))
        assert found is not None
        errors.append((found[0] - 0.12) / found[1])
    assert 0.7 < np.std(errors) < 1.4
    assert abs(np.mean(errors)) < 0.2


def test_wrong_pairs_do_not_carry_the_lag_away() -> None:
    gaps, velocities, covariances = scene(0, 0.12)
    gaps[:, :6] += 8.0
    found = motion_lag(gaps, velocities, covariances)
    assert found is not None
    assert found[0] == pytest.approx(0.12, abs=0.03)


def test_things_at_rest_say_nothing_about_time() -> None:
    gaps, velocities, covariances = scene(0, 0.1)
    assert motion_lag(gaps, velocities * 0.01, covariances) is None
    assert motion_lag(gaps[:, :0], velocities[:, :0], covariances[:, :, :0]) is None
