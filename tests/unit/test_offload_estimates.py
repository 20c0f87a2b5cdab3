from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from offload.estimates import (
    DOUBT,
    BoardEstimate,
    Calibration,
    LinkEstimate,
    RemoteEstimate,
    ServerEstimate,
    longer_deviate,
    normal_cdf,
)
from offload.tasks import Option, Task, TaskKind

MS_NS = 1_000_000
SECOND_NS = 1_000_000_000

EDGE = Option("edge", 10.0, 1.0, 100 * MS_NS, 100 * MS_NS)
CLOUD = Option("cloud", 10.0, 2.0, 400 * MS_NS, server_ns=300 * MS_NS, remote_spread=0.05)
SPLIT = Option("split", 10.0, 2.0, 400 * MS_NS, edge_ns=50 * MS_NS, server_ns=200 * MS_NS)
KIND = TaskKind("kind", SECOND_NS, (EDGE, CLOUD, SPLIT))
RTT_NS = 40 * MS_NS


def task_of(number: int, size_bytes: int = 30_000, at_ns: int = 0) -> Task:
    """A task of the one kind."""
    return Task(number, KIND, at_ns, size_bytes=size_bytes)


@given(st.floats(-8, 8))
def test_the_normal_distribution_is_scipys(deviate: float) -> None:
    assert normal_cdf(deviate) == pytest.approx(stats.norm.cdf(deviate), abs=1e-12)
    mean = stats.norm.pdf(deviate) / stats.norm.sf(deviate)
    assert longer_deviate(deviate) == pytest.approx(mean, rel=0.01, abs=1e-9)
    assert longer_deviate(deviate) > deviate


# --- the board


def test_the_boards_time_is_an_upper_quantile_of_its_last_runs() -> None:
    board = BoardEstimate()
    assert board.edge_ns(0, EDGE) == 100 * MS_NS
    for number, factor in enumerate([1.0, 1.1, 1.2, 1.3, 5.0, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]):
        board.observe(number * MS_NS, EDGE, round(factor * EDGE.edge_ns))
    assert board.edge_ns(12 * MS_NS, EDGE) == 200 * MS_NS, "the greatest of twelve is an outlier"
    assert board.edge_ns(12 * MS_NS, SPLIT) == 100 * MS_NS, "all options share what is known"


def test_a_board_that_seemed_too_slow_is_believed_in_again_after_a_silence_and_learnt_anew() -> None:
    board = BoardEstimate()
    board.observe(0, EDGE, 10 * EDGE.edge_ns)
    factors = [board.factor(second * SECOND_NS) for second in (0, 1, 4, 7, 20)]
    assert factors[:2] == [10.0, 10.0]
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert factors[2] == pytest.approx(1 + 9 / np.e)
    assert factors[4] < 1.05
    board.observe(20 * SECOND_NS, EDGE, EDGE.edge_ns)
    assert board.factor(20 * SECOND_NS) == 1.0


# --- the link


def upload(link: LinkEstimate, number: int, now_ns: int, rate_bps: float, size_bytes: int = 30_000) -> int:
    """One upload on a link of that rate, confirmed; when the word comes."""
    task = task_of(number, size_bytes)
    link.send(now_ns, task, CLOUD)
    told_ns = now_ns + round(size_bytes * 8e9 / rate_bps) + RTT_NS
    link.uploaded(told_ns, task)
    link.answered(told_ns + 100 * MS_NS, task, 100 * MS_NS, RTT_NS)
    return told_ns + 100 * MS_NS


@pytest.mark.parametrize("rate_bps", [1e6, 5e6, 20e6, 100e6])
def test_the_rate_of_a_link_is_known_within_ten_percent_after_a_second_of_uploads(rate_bps: float) -> None:
    link = LinkEstimate(rtt_ns=RTT_NS)
    now_ns = 0
    for number in range(max(5, round(1.5 * rate_bps / 240_000))):
        now_ns = upload(link, number, now_ns, rate_bps)
    assert link.rate(now_ns) * 8e9 == pytest.approx(rate_bps, rel=0.1)
    assert link.backlog_bytes == 0


def test_uploads_in_a_row_tell_the_same_as_one_at_a_time() -> None:
    link = LinkEstimate(rtt_ns=RTT_NS)
    for number in range(40):
        link.send(0, task_of(number), CLOUD)
    assert link.backlog_bytes == 40 * 30_000
    for number in range(40):
        link.uploaded((number + 1) * 48 * MS_NS + RTT_NS, task_of(number))  # 5 Mbit/s
    assert link.rate(40 * 48 * MS_NS + RTT_NS) * 8e9 == pytest.approx(5e6, rel=0.1)
    assert link.backlog_bytes == 0


def test_an_outage_shows_within_half_a_second_and_after_a_silence_the_usual_is_believed_again() -> None:
    link = LinkEstimate(rtt_ns=RTT_NS)
    now_ns = 0
    for number in range(400):
        now_ns = upload(link, number, now_ns, 20e6)
    usual = link.rate(now_ns)
    lost = task_of(1000)
    link.send(now_ns, lost, CLOUD)
    assert link.rate(now_ns + RTT_NS) == pytest.approx(usual, rel=0.01)
    assert link.rate(now_ns + 600 * MS_NS) < 0.5 * usual
    link.gone(now_ns + SECOND_NS, lost)
    assert link.backlog_bytes == 0
    assert link.rate(now_ns + SECOND_NS) < 0.2 * usual
    assert 0.5 * usual < link.rate(now_ns + 5 * SECOND_NS) < 0.8 * usual
    assert link.rate(now_ns + 30 * SECOND_NS) == pytest.approx(usual, rel=0.05)


def test_an_outage_of_an_hour_does_not_make_nothing_the_usual() -> None:
    link = LinkEstimate(rtt_ns=RTT_NS)
    now_ns = 0
    for number in range(100):
        now_ns = upload(link, number, now_ns, 20e6)
    usual = link.rate(now_ns)
    for number in range(3600):
        link.send(now_ns, task_of(1000 + number), CLOUD)
        now_ns += SECOND_NS
        link.gone(now_ns, task_of(1000 + number))
    link.forget(now_ns + 4 * SECOND_NS)
    assert link.rate(now_ns + 4 * SECOND_NS) > 0.4 * usual
    now_ns = upload(link, 9999, now_ns + 4 * SECOND_NS, 20e6)
    assert link.rate(now_ns) > 0.6 * usual


def test_words_about_tasks_that_are_not_under_way_change_nothing() -> None:
    link = LinkEstimate()
    before = link.rate(SECOND_NS)
    link.uploaded(0, task_of(1))
    assert link.gone(0, task_of(1)) == -1
    link.send(0, task_of(2), CLOUD)
    link.uploaded(50 * MS_NS, task_of(2))
    link.uploaded(90 * MS_NS, task_of(2))
    assert link.gone(SECOND_NS, task_of(2)) > 0, "the far side had all of it"
    assert link.backlog_bytes == 0
    assert before > 0


LINK_EVENTS = st.lists(
    st.tuples(st.sampled_from(["send", "uploaded", "answered", "gone"]), st.integers(0, 5), st.integers(0, 10**10)),
    max_size=40,
)


@given(events=LINK_EVENTS)
def test_whatever_is_heard_of_a_link_its_rate_is_above_nothing_and_its_backlog_what_is_under_way(
    events: list[tuple[str, int, int]],
) -> None:
    link = LinkEstimate()
    open_ids: set[int] = set()
    now_ns = 0
    for event, number, gap_ns in events:
        now_ns += gap_ns
        task = task_of(number, 1 + 1000 * number)
        if event == "send" and number not in link._flights:
            link.send(now_ns, task, CLOUD)
            open_ids.add(number)
        elif event == "uploaded":
            link.uploaded(now_ns, task)
            open_ids.discard(number)
        elif event == "answered":
            link.answered(now_ns, task, 100 * MS_NS, 0)
            open_ids.discard(number)
        elif event == "gone":
            link.gone(now_ns, task)
            open_ids.discard(number)
        assert link.backlog_bytes == sum(1 + 1000 * one for one in open_ids)
        assert 0 < link.rate(now_ns) < float("inf")
        assert 0 <= link.variance <= 4


# --- the server


def test_the_servers_factor_follows_and_reverts_in_silence() -> None:
    server = ServerEstimate()
    mean, variance = server.factor(0, task_of(0), CLOUD)
    assert (mean, round(variance, 6)) == (1.0, 0.0025)
    for number in range(30):
        server.observe(number * 100 * MS_NS, task_of(number), CLOUD, 900 * MS_NS)
    mean, _ = server.factor(3 * SECOND_NS, task_of(0), CLOUD)
    assert mean == pytest.approx(3.0, rel=0.02)
    assert server.factor(3 * SECOND_NS, task_of(0), SPLIT)[0] == 1.0, "another network on the server"
    later, _ = server.factor(6 * SECOND_NS, task_of(0), CLOUD)
    assert 1.5 < later < 2.0
    assert server.factor(60 * SECOND_NS, task_of(0), CLOUD)[0] == pytest.approx(1.0, abs=0.01)


def test_an_answer_without_the_servers_time_says_nothing_of_the_server() -> None:
    server = ServerEstimate()
    server.observe(0, task_of(0), CLOUD, 0)
    assert server.factor(0, task_of(0), CLOUD)[0] == 1.0


# --- chances


@pytest.mark.parametrize(("bias", "spread"), [(0.0, 1.0), (1.0, 1.0), (-0.7, 0.5), (0.5, 3.0)])
def test_chances_become_calibrated_on_predictions_that_are_biased_and_too_sure(bias: float, spread: float) -> None:
    """Reliability: among the runs that were given some chance, about that share was in time."""
    generator = np.random.default_rng(3)
    calibration = Calibration()
    said, held = [], []
    for number in range(4000):
        slack = generator.uniform(-3, 4)  # what is left until the deadline, in predicted deviations
        actual = bias + spread * generator.standard_normal()
        if number >= 100:
            said.append(calibration.chance(slack))
            held.append(actual <= slack)
        calibration.observe(actual)
    said_of, held_of = np.array(said), np.array(held)
    for low in np.arange(0.0, 1.0, 0.2):
        among = (said_of >= low) & (said_of < low + 0.2)
        assert abs(said_of[among].mean() - held_of[among].mean()) < 0.1


def test_runs_that_are_cut_off_at_their_deadline_do_not_make_chances_look_better() -> None:
    """Only the chance itself decides what is sent: what is said of those must hold."""
    generator = np.random.default_rng(4)
    calibration = Calibration()
    said, held = [], []
    for _ in range(4000):
        slack = generator.uniform(-1, 4)
        chance = calibration.chance(slack)
        if chance < 0.3:
            continue
        actual = 1.0 + generator.standard_normal()
        said.append(chance)
        held.append(actual <= slack)
        calibration.observe(min(actual, slack), cut_off=actual > slack)
    assert len(said) > 1000
    assert abs(np.mean(said[100:]) - np.mean(held[100:])) < 0.1


@given(st.lists(st.tuples(st.floats(-50, 50), st.booleans()), max_size=80), st.lists(st.floats(-9, 9), min_size=2))
def test_a_chance_is_a_probability_and_grows_with_time_left(seen: list[tuple[float, bool]], at: list[float]) -> None:
    calibration = Calibration(window=20)
    for deviate, cut_off in seen:
        calibration.observe(deviate, cut_off=cut_off)
    chances = [calibration.chance(deviate) for deviate in sorted(at)]
    assert chances == sorted(chances)
    assert chances[0] >= 0
    assert chances[-1] <= 1
    assert len(calibration._sorted) == len(calibration._last) <= 20


# --- the far side


def test_after_many_failures_in_a_row_the_far_side_is_in_doubt_until_it_answers() -> None:
    remote = RemoteEstimate()
    for number in range(DOUBT):
        assert not remote.in_doubt
        remote.send(number * SECOND_NS, task_of(number), CLOUD)
        assert remote.under_way == 1
        if number % 2:
            remote.cut_off((number + 1) * SECOND_NS, task_of(number))
        else:
            remote.lost((number + 1) * SECOND_NS, task_of(number))
    assert remote.in_doubt
    remote.send(20 * SECOND_NS, task_of(99), CLOUD)
    remote.answered(21 * SECOND_NS, task_of(99), 300 * MS_NS, RTT_NS)
    assert not remote.in_doubt
    assert remote.under_way == 0


def test_inputs_that_are_rejected_do_not_bring_the_far_side_into_doubt() -> None:
    remote = RemoteEstimate()
    for number in range(3 * DOUBT):
        remote.send(number * SECOND_NS, task_of(number), CLOUD)
        remote.given_up(number * SECOND_NS + MS_NS, task_of(number))
    remote.given_up(SECOND_NS, task_of(1000))
    assert not remote.in_doubt
    assert (remote.under_way, remote.link.backlog_bytes) == (0, 0)


def test_a_server_that_had_the_task_and_did_not_answer_in_time_took_at_least_so_long() -> None:
    remote = RemoteEstimate()
    remote.send(0, task_of(0), CLOUD)
    remote.link.uploaded(100 * MS_NS, task_of(0))
    before = remote.forecast(0, task_of(1), CLOUD, 1.0).server_ns
    remote.cut_off(SECOND_NS, task_of(0))
    assert remote.forecast(SECOND_NS, task_of(1), CLOUD, 1.0).server_ns > 1.3 * before
    assert remote.link.backlog_bytes == 0


def test_a_forecast_is_the_backlog_the_upload_the_round_trip_and_the_server() -> None:
    remote = RemoteEstimate()
    remote.send(0, task_of(0, 10_000), CLOUD)
    forecast = remote.forecast(0, task_of(1, 20_000), CLOUD, 0.001)
    assert forecast.network_ns == pytest.approx(30_000_000 + remote.link.rtt_ns)
    assert forecast.server_ns == CLOUD.server_ns
    chances = [remote.chance(forecast, left_ms * MS_NS) for left_ms in range(0, 1000, 50)]
    assert chances == sorted(chances)
    assert remote.chance(forecast, 500 * MS_NS, wait_ns=200 * MS_NS) < remote.chance(forecast, 500 * MS_NS)
