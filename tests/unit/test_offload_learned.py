"""The learned offloading policy of the benchmarks: what it sees, decides and is rewarded for. Training needs torch and
is not run here."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from offload.fleets import read_fleets
from offload.policies import POLICIES
from offload.policies.policy import PolicyContext
from offload.scenario import Day
from offload.scores import score
from offload.simulator import FATES, Run, simulate
from offload.tasks import Fate
from tercel.core.errors import UserError
from tests.benchmarks.learned_offload import rewards, train
from tests.benchmarks.learned_offload.policy import (
    LEFT_OUT,
    LearnedPolicy,
    Network,
    Step,
    Steps,
    Watched,
    load_network,
    save_network,
)
from tests.benchmarks.learned_offload.view import (
    ACTIONS,
    BIN_NS,
    BINS,
    BOARD,
    CLOUD,
    FEATURES,
    OF_SERVER,
    WAIT,
    View,
)
from tests.unit.policy_driver import MS_NS, make_kind, make_task

DEMS = Path(__file__).resolve().parents[2] / "launch" / "fleets" / "dems.yaml"
WEIGHTS = Path(train.__file__).parent / "weights"
OUTAGES = "gilbert_elliott:rate_mbps=10,good_s=4,bad_s=2,duration_s=60"


def random_network(seed: int) -> Network:
    """Weights that make of each action something."""
    draws = np.random.default_rng(seed)
    widths = (FEATURES, 16, ACTIONS)
    layers = [
        (draws.normal(0, 0.5, (a, b)).astype(np.float32), draws.normal(0, 1, b).astype(np.float32))
        for a, b in pairwise(widths)
    ]  # fmt: skip
    return Network(np.zeros(FEATURES, np.float32), np.ones(FEATURES, np.float32), tuple(layers))


def minute(seed: int, link: str | None = OUTAGES) -> Day:
    """A training day of its own kind: a minute of some drones on some link."""
    day = train.training_day(train.read_training_fleets(), seed)
    return day if link is None else Day(**{**vars(day), "links": (read_fleets(DEMS, link)["2D-A"].day(seed).links[0],)})


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_whatever_the_weights_every_task_ends_once_and_only_what_can_run_is_run(seed: int) -> None:
    day, steps = minute(seed), Steps()
    make = partial(
        LearnedPolicy, network=random_network(seed), preference=0.3, generator=np.random.default_rng(seed), steps=steps
    )
    run = simulate(day, make)  # it raises for a task that never ends or ends twice, and where no lane is free
    assert len(run.fate) == len(day.created_ns)
    assert all(step.allowed[step.action] for step in steps.steps)
    assert np.isfinite([step.features for step in steps.steps]).all()
    started = run.started_ns >= 0
    deadline_ns = day.created_ns + np.array([kind.deadline_ns for kind in day.kinds])[day.kind]
    assert (run.started_ns[started] < deadline_ns[started]).all()


def test_decisions_follow_from_the_weights_alone() -> None:
    day = minute(3)
    one, other = (simulate(day, partial(LearnedPolicy, network=random_network(4), preference=0.5)) for _ in range(2))
    assert_array_equal(one.fate, other.fate)
    assert_array_equal(one.ended_ns, other.ended_ns)
    different = simulate(day, partial(LearnedPolicy, network=random_network(5), preference=0.5))
    assert (one.fate != different.fate).any()


def test_a_policy_that_may_not_drop_leaves_out_only_what_has_no_place() -> None:
    day = minute(6)
    dropped = {}
    for may_drop in (False, True):
        make = partial(LearnedPolicy, network=random_network(7), preference=0.5, may_drop=may_drop)
        dropped[may_drop] = score(day, simulate(day, make)).reasons.get(LEFT_OUT, 0)
    assert dropped[False] == 0  # on arrival the cloud or the board is always open to these kinds
    assert dropped[True] > 0


def test_the_boards_histogram_is_the_work_that_waits_by_the_time_left() -> None:
    kinds = tuple(make_kind(name, deadline, (took, 50), (300, 20)) for name, deadline, took in
                  (("a", 500, 100), ("b", 505, 70), ("c", 5000, 40)))  # fmt: skip
    view = View(PolicyContext(kinds), 0.25)
    tasks = [make_task(number, kinds[number % 3], 10 * number) for number in range(9)]
    for task in tasks:
        view.arrived(task)
    features = view.features(100 * MS_NS, tasks[0], may_wait=False)
    wanted = np.zeros(BINS)
    for task in tasks[1:]:
        left_ns = task.deadline_ns - 100 * MS_NS
        wanted[min(BINS - 1, left_ns // BIN_NS)] += task.kind.options[0].edge_ns * 1e-9
    assert features.shape == (FEATURES,)
    assert_allclose(features[7:OF_SERVER], wanted, rtol=1e-6)
    assert features[-1] == 0.25
    assert features[OF_SERVER : 2 * OF_SERVER][7:].sum() == 0  # nothing is away


def test_the_clouds_histogram_and_length_are_of_what_is_away() -> None:
    kind = make_kind("a", 800, (100, 50), (300, 20))
    view = View(PolicyContext((kind,)), 0.5)
    tasks = [make_task(number, kind, 0) for number in range(3)]
    for task in tasks:
        view.arrived(task)
    for task in tasks[1:]:
        view.started(0, task, kind.options[1])
    cloud = view.features(0, tasks[0], may_wait=False)[OF_SERVER : 2 * OF_SERVER]
    assert cloud[6] == pytest.approx(0.2)
    assert_allclose(cloud[7:], np.eye(BINS)[40] * 0.6, rtol=1e-6)


def test_what_is_allowed_follows_the_clock_and_the_lane() -> None:
    kind = make_kind("a", 500, (200, 50), (300, 20))
    view = View(PolicyContext((kind,)), 0.5)
    first, second = make_task(0, kind, 0), make_task(1, kind, 0)
    for task in (first, second):
        view.arrived(task)
    view.started(0, first, kind.options[0])
    assert view.allowed(0, second, may_wait=False)[[BOARD, CLOUD, WAIT]].tolist() == [True, True, False]
    assert view.allowed(150 * MS_NS, second, may_wait=True)[[BOARD, WAIT]].all()  # free at 200, done at 400
    assert not view.allowed(301 * MS_NS, second, may_wait=True)[[BOARD, WAIT]].any()
    view.started(0, second, kind.options[1])
    view.returned(100 * MS_NS, second)
    assert not view.allowed(100 * MS_NS, second, may_wait=False)[CLOUD]


def test_the_preference_moves_nothing_but_the_last_feature() -> None:
    kind = make_kind("a", 500, (200, 50), (300, 20))
    seen = []
    for preference in (0.0, 1.0):
        view = View(PolicyContext((kind,)), preference)
        task = make_task(0, kind, 0)
        view.arrived(task)
        seen.append(view.features(0, task, may_wait=False))
    assert np.flatnonzero(seen[0] != seen[1]).tolist() == [FEATURES - 1]


@pytest.mark.parametrize("teacher", ["edf_ec", "tercel", "dems_a"])
def test_a_teacher_does_the_same_while_it_is_watched(teacher: str) -> None:
    day, steps = minute(11), Steps()
    alone = simulate(day, POLICIES[teacher])
    watched = simulate(day, lambda context: Watched(context, POLICIES[teacher], steps))
    assert_array_equal(alone.fate, watched.fate)
    assert_array_equal(alone.ended_ns, watched.ended_ns)
    assert {step.task_id for step in steps.steps} <= set(range(len(day.created_ns)))
    assert len(steps.steps) > 0.5 * len(day.created_ns)


def test_a_step_of_a_task_that_went_to_the_cloud_in_the_end_is_corrected() -> None:
    day, steps = minute(12), Steps()
    run = simulate(day, lambda context: Watched(context, POLICIES["tercel"], steps))
    in_cloud = set(np.flatnonzero(run.fate == FATES.index(Fate.DONE_CLOUD)).tolist())
    corrected = steps.corrected(in_cloud)
    first: dict[int, Any] = {}
    for step in corrected:
        first.setdefault(step.task_id, step)
    sent = [step for step in first.values() if step.task_id in in_cloud and step.allowed[CLOUD]]
    assert sent
    assert all(step.action == CLOUD for step in sent)


# --- rewards ---------------------------------------------------------------------------------------------------------


def a_run(day: Day, fates: np.ndarray) -> Run:
    """A run of which only the fates matter."""
    count = len(fates)
    return Run(fates.astype(np.int8), np.full(count, -1, np.int8), np.full(count, -1), day.created_ns + MS_NS,
               np.zeros(count), ("",) * count, np.zeros(0, np.int64))  # fmt: skip


def test_a_task_in_time_gets_what_it_changed_in_its_window() -> None:
    day = minute(20)
    draws = np.random.default_rng(0)
    done = draws.uniform(size=len(day.created_ns)) < 0.9
    run = a_run(day, np.where(done, FATES.index(Fate.DONE_EDGE), FATES.index(Fate.DROPPED)))
    share = rewards.qoe_share(day, run)
    for row in draws.choice(len(done), 20, replace=False).tolist():
        window = day.created_ns // day.window_ns
        cell = (window == window[row]) & (day.kind == day.kind[row])
        kind = day.kinds[day.kind[row]]
        short = done[cell].sum() - kind.qoe_target * cell.sum()
        worth = [1 / (1 + np.exp(-(short - less) / rewards.WIDTH)) for less in (0, 1)]
        assert share[row] == pytest.approx(kind.qoe_bonus * (worth[0] - worth[1]) if done[row] else 0.0)


def test_energy_and_time_add_up_to_what_the_scores_say() -> None:
    day = minute(22)
    run = simulate(day, POLICIES["tercel"])
    assert rewards.energy_j(day, run).sum() == pytest.approx(score(day, run).energy_j)
    done = rewards.done_in_time(run)
    assert done.mean() == pytest.approx(score(day, run).completion)
    took_s = rewards.completion_s(day, run)
    deadline_s = np.array([kind.deadline_ns for kind in day.kinds])[day.kind] * 1e-9
    assert (took_s[done] <= deadline_s[done]).all()
    assert_allclose(took_s[~done], 2 * deadline_s[~done])


@pytest.mark.parametrize("reward", rewards.REWARDS)
def test_a_reward_is_a_blend_of_its_ends(reward: str) -> None:
    day = minute(23)
    run = simulate(day, POLICIES["edf_ec"])
    first, second, blend = (rewards.task_rewards(day, run, reward, w) for w in (1.0, 0.0, 0.3))
    assert_allclose(blend, 0.3 * first + 0.7 * second, atol=1e-12)
    assert (first != second).any()


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 4)), min_size=1, max_size=12), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_what_follows_from_a_decision_is_its_tasks_reward_and_later_ones_discounted(
    rows: list[tuple[int, int]], seed: int
) -> None:
    of_task = np.random.default_rng(seed).normal(size=5)
    now_ns = np.cumsum([row[0] for row in rows]).tolist()
    tasks = [row[1] for row in rows]
    steps = [Step(at, task, np.zeros(0), np.zeros(0), 0, 0.0) for at, task in zip(now_ns, tasks, strict=True)]
    wanted = []
    for index, task in enumerate(tasks):
        total = of_task[task]
        for other in set(tasks[index:]) - {task}:
            last = max(place for place, one in enumerate(tasks) if one == other)
            total += of_task[other] * np.exp(-(now_ns[last] - now_ns[index]) / rewards.HORIZON_NS)
        wanted.append(total)
    assert_allclose(rewards.returns(steps, of_task), wanted, atol=1e-9)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_the_hypervolume_is_the_number_of_cells_that_a_point_dominates(points: list[tuple[int, int]]) -> None:
    cells = sum(any(x <= i and y <= j for x, y in points) for i in range(10) for j in range(10))
    assert rewards.hypervolume(np.array(points, float), (10.0, 10.0)) == pytest.approx(cells)


@pytest.mark.parametrize("name", ["cloned", "utility", "time_energy"])
def test_the_weights_beside_the_code_do_better_than_chance_would(name: str) -> None:
    path = WEIGHTS / f"{name}.npz"
    assert path.stat().st_size < 60_000
    day = replace(read_fleets(DEMS)["3D-A"], link="constant:rate_mbps=20,rtt_ms=40").day(5)
    earned = [
        score(day, simulate(day, partial(LearnedPolicy, network=network, preference=1.0))).qos_utility
        for network in (load_network(path), random_network(3))
    ]  # fmt: skip
    assert earned[0] > 1.2 * earned[1]
    assert earned[0] > 0.95 * score(day, simulate(day, POLICIES["edf_ec"])).qos_utility


# --- files, and training without torch -------------------------------------------------------------------------------


def test_weights_come_back_as_they_were_saved(tmp_path: Path) -> None:
    network = random_network(2)
    save_network(tmp_path / "network.npz", network)
    again = load_network(tmp_path / "network.npz")
    x = np.random.default_rng(0).normal(size=(50, FEATURES)).astype(np.float32)
    assert_allclose(again.logits(x), network.logits(x), atol=0.05)  # saved in half precision
    save_network(tmp_path / "again.npz", again)
    assert_array_equal(load_network(tmp_path / "again.npz").logits(x), again.logits(x))


def test_what_are_no_weights_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "network.npz"
    with pytest.raises(UserError, match="train"):
        load_network(path)
    path.write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(UserError):
        load_network(path)
    np.savez(path, center=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="no weights"):
        load_network(path)
    np.savez(path, center=np.zeros(3), scale=np.zeros(3), weight0=np.zeros((3, 4)), bias0=np.zeros(4))
    with pytest.raises(UserError, match="no weights"):
        load_network(path)


def test_training_without_torch_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"tercel\[train\]"):
        train.train(tmp_path / "out", "utility", "none", 1.0, 0)


def test_days_of_training_are_drawn_from_their_seed_and_their_links_work() -> None:
    fleets = train.read_training_fleets()
    links = set()
    for seed in range(train.TRAINING_SEEDS, train.TRAINING_SEEDS + 40):
        day, again = (train.training_day(fleets, seed) for _ in range(2))
        assert_array_equal(day.created_ns, again.created_ns)
        link = day.links[0]
        assert link.sent_ns(0, 30_000) == again.links[0].sent_ns(0, 30_000)
        assert link.rtt_ns(0) > 0
        assert link.capacity_bytes(0, 60_000 * MS_NS) > 0
        links.add(type(link).__name__)
    assert links == {"ConstantLink", "RampLink", "GilbertElliottLink"}
