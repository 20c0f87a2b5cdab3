"""Scores against plain counting, and what tasks held against what the simulator did."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.fleets import read_fleets
from offload.link import ConstantLink, Link, load_link
from offload.policies import make_policy
from offload.policies.policy import Decision, Drop, PolicyContext, Start
from offload.scenario import SECOND_NS, Day, Fleet, Slowdown, draw_day
from offload.scores import Power, held_by, qoe_bonuses, score
from offload.simulator import FATES, Run, simulate
from offload.tasks import Fate, Option, Outcome, Task, TaskKind

FLEETS = Path(__file__).parents[2] / "launch" / "fleets"
MS_NS = 1_000_000
EDGE = Option("edge", 10.0, 1.0, 100 * MS_NS, edge_ns=100 * MS_NS, edge_spread=0.1)
CLOUD = Option("cloud", 10.0, 3.0, 300 * MS_NS, server_ns=200 * MS_NS, remote_spread=0.1)
SPLIT = Option("split", 9.0, 2.0, 250 * MS_NS, edge_ns=40 * MS_NS, server_ns=120 * MS_NS, upload_bytes=50_000)
KINDS = (
    TaskKind("both", 600 * MS_NS, (EDGE, CLOUD, SPLIT), qoe_bonus=50.0, qoe_target=0.5),
    TaskKind("cloud", 500 * MS_NS, (CLOUD,), qoe_bonus=0.0),
)


def drawn(links: Sequence[Link], *, lanes: int = 1, slowdowns: tuple[Slowdown, ...] = (), seconds: int = 6) -> Day:
    fleet = Fleet(
        KINDS, 3 * len(links), 3, seconds * SECOND_NS, lanes=lanes, slowdowns=slowdowns, window_ns=2 * SECOND_NS
    )
    return draw_day(fleet, links, seed=5)


def fated(day: Day, fates: Sequence[int], utilities: Sequence[float]) -> Run:
    """A run in which nothing was started, with fates as given."""
    never = np.full(len(fates), -1)
    reasons = tuple("why" if fate >= 3 else "" for fate in fates)
    return Run(np.array(fates), never, never, day.created_ns, np.array(utilities, float), reasons, never[:0])


class SplitFirst:
    """Heads whenever a lane is free, everything else that waits too long is dropped."""

    wake_ns: int | None = None

    def __init__(self, context: PolicyContext) -> None:
        self._free = context.lanes
        self._waiting: deque[Task] = deque()

    def _go_on(self, now_ns: int) -> list[Decision]:
        decisions: list[Decision] = []
        while self._waiting and (self._free or self._waiting[0].deadline_ns <= now_ns):
            task = self._waiting.popleft()
            if task.deadline_ns <= now_ns:
                decisions.append(Drop(task, "expired"))
                continue
            self._free -= 1
            decisions.append(Start(task, SPLIT))
        return decisions

    def arrived(self, now_ns: int, task: Task) -> Sequence[Decision]:
        if task.kind.edge is None:
            return [Start(task, CLOUD)]
        self._waiting.append(task)
        return self._go_on(now_ns)

    def returned(self, now_ns: int, task: Task, option: Option, reason: str) -> Sequence[Decision]:
        return [Drop(task, reason)]

    def lane_freed(self, now_ns: int, task: Task, took_ns: int) -> Sequence[Decision]:
        self._free += 1
        return self._go_on(now_ns)

    def uploaded(self, now_ns: int, task: Task) -> Sequence[Decision]:
        return []

    def ended(self, now_ns: int, outcome: Outcome) -> Sequence[Decision]:
        return []

    def woken(self, now_ns: int) -> Sequence[Decision]:
        return []


# --- counting --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_scores_are_what_plain_counting_gives(data: st.DataObject) -> None:
    day = drawn([ConstantLink(10**7, 30 * MS_NS)] * 2)
    count = len(day.created_ns)
    fates = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    utilities = data.draw(st.lists(st.integers(-5, 9), min_size=count, max_size=count))
    scores = score(day, fated(day, fates, utilities))

    in_time = [fate < 3 for fate in fates]
    assert scores.tasks == count
    assert scores.completion == pytest.approx(sum(in_time) / count)
    assert scores.qos_utility == sum(utilities)
    assert scores.fates == {fate.value: fates.count(index) for index, fate in enumerate(FATES)}
    assert scores.reasons == ({"why": sum(fate >= 3 for fate in fates)} if any(fate >= 3 for fate in fates) else {})
    cells: dict[tuple[int, int, int], list[bool]] = {}
    for row in range(count):
        cell = (int(day.kind[row]), int(day.box[row]), int(day.created_ns[row]) // (2 * SECOND_NS))
        cells.setdefault(cell, []).append(in_time[row])
    bonus = sum(50.0 for (kind, _, _), done in cells.items() if kind == 0 and sum(done) >= 0.5 * len(done))
    assert scores.qoe_utility == bonus
    assert scores.total_utility == sum(utilities) + bonus
    assert scores.energy_j == 0.0


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_what_is_said_of_the_kinds_adds_up_to_what_is_said_of_all(data: st.DataObject) -> None:
    day = drawn([ConstantLink(10**7, 30 * MS_NS)])
    count = len(day.created_ns)
    fates = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    scores = score(day, fated(day, fates, [1.0] * count))
    kinds = scores.kinds.values()
    assert sum(kind["tasks"] for kind in kinds) == count
    assert sum(kind["qos_utility"] for kind in kinds) == scores.qos_utility
    assert sum(kind["qoe_utility"] for kind in kinds) == scores.qoe_utility
    assert sum(kind["late"] for kind in kinds) == scores.fates["late"]
    assert sum(kind["dropped"] for kind in kinds) == scores.fates["dropped"]
    assert sum(kind["tasks"] * kind["completion"] for kind in kinds) == pytest.approx(count * scores.completion)


def test_a_window_that_reaches_its_target_exactly_earns_its_bonus() -> None:
    """Fourteen of twenty-five at a target of 0.56: as floats 0.56 x 25 is a little more than 14."""
    assert 0.56 * 25 > 14
    kind = TaskKind("k", 500 * MS_NS, (CLOUD,), qoe_bonus=7.0, qoe_target=0.56)
    day = draw_day(Fleet((kind,), 1, 1, 50 * SECOND_NS, window_ns=25 * SECOND_NS), [ConstantLink(10**7, 1)], seed=0)
    done = np.arange(50) % 25 < 14
    assert qoe_bonuses(day, done).tolist() == [14.0]
    done[4] = False
    assert qoe_bonuses(day, done).tolist() == [7.0]


# --- energy and what was held ----------------------------------------------------------------------------------------


def test_energy_is_the_lanes_time_and_the_radios_by_their_power() -> None:
    """One task on the board for 100 ms, twice as slow; one upload of 25,000 bytes at 1 Mbit/s: 0.2 s."""
    kinds = (
        TaskKind("e", 600 * MS_NS, (Option("edge", 10.0, 1.0, 100 * MS_NS, edge_ns=100 * MS_NS),)),
        TaskKind("c", 600 * MS_NS, (CLOUD,)),
    )
    fleet = Fleet(kinds, 1, 1, SECOND_NS, size_bytes=(25_000, 25_000), slowdowns=(Slowdown(0, SECOND_NS, 2.0),))
    day = draw_day(fleet, [ConstantLink(10**6, 0)], seed=0)
    run = Run(
        fate=np.array([0 if kind == 0 else 1 for kind in day.kind]),
        option=np.array([0, 0]),
        started_ns=np.array([0, 0]),
        ended_ns=np.array([1, 1]),
        utility=np.array([9.0, 7.0]),
        reasons=("", ""),
        asked=np.flatnonzero(day.kind == 1),
    )
    assert score(day, run, Power(lane_w=10.0, radio_w=3.0)).energy_j == pytest.approx(0.2 * 10.0 + 0.2 * 3.0)
    assert score(day, run, Power(lane_w=0.0, radio_w=1.0)).energy_j == pytest.approx(0.2)


@pytest.mark.parametrize("policy", ["cloud_only", "edf_ec", "dems", "tercel", "split first"])
@pytest.mark.parametrize("world", ["quiet", "outages", "slow", "two lanes"])
def test_what_tasks_held_is_what_the_simulator_did(policy: str, world: str) -> None:
    """Of a task done in time the end follows from what it held last; the simulator is the oracle."""
    links: list[Link] = [ConstantLink(8_000_000, 30 * MS_NS)] * 2
    if world == "outages":
        spec = {"model": "gilbert_elliott", "rate_mbps": 4, "bad_mbps": 0, "good_s": 2, "bad_s": 0.5, "rtt_ms": 40}
        links = [load_link(spec, seed=seed) for seed in (1, 2)]
    slowdowns = (Slowdown(2 * SECOND_NS, 4 * SECOND_NS, 1.7),) if world == "slow" else ()
    day = drawn(links, lanes=2 if world == "two lanes" else 1, slowdowns=slowdowns)
    make = SplitFirst if policy == "split first" else (lambda context: make_policy(policy, context))
    run = simulate(day, make)
    held = held_by(day, run)

    checked = 0
    for row in np.flatnonzero(run.fate < 3).tolist():
        option = day.kinds[day.kind[row]].options[run.option[row]]
        if option.place == "edge":
            assert held.lane_to_ns[row] == run.ended_ns[row]
            continue
        sent_ns = int(held.uplink_to_ns[row])
        server_ns = round(option.server_ns * day.server_factor[row])
        assert sent_ns + day.links[day.box[row]].rtt_ns(sent_ns) + server_ns == run.ended_ns[row]
        checked += 1
    assert checked or policy not in ("cloud_only", "split first")


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    policy=st.sampled_from(["sjf", "cloud_only", "sjf_ec", "dem", "gems", "split first"]),
    lanes=st.integers(1, 3),
    bad_s=st.floats(0.05, 3.0),
)
def test_lanes_and_uplinks_are_never_held_twice_nor_uplinks_after_a_deadline(
    seed: int, policy: str, lanes: int, bad_s: float
) -> None:
    spec = {"model": "gilbert_elliott", "rate_mbps": 3, "bad_mbps": 0, "good_s": 1, "bad_s": bad_s, "rtt_ms": 40}
    fleet = Fleet(KINDS, 4, 2, 5 * SECOND_NS, lanes=lanes)
    day = draw_day(fleet, [load_link(spec, seed=seed + box) for box in range(2)], seed)
    make = SplitFirst if policy == "split first" else (lambda context: make_policy(policy, context))
    held = held_by(day, simulate(day, make))
    deadline_ns = day.created_ns + np.array([kind.deadline_ns for kind in day.kinds])[day.kind]
    used = held.uplink_ns > 0
    assert (held.uplink_from_ns[used] >= day.created_ns[used]).all()
    assert (held.uplink_to_ns[used] <= deadline_ns[used]).all()
    for box in range(2):
        for begin, end, most in (
            (held.lane_from_ns, held.lane_to_ns, lanes),
            (held.uplink_from_ns, held.uplink_to_ns, 1),
        ):
            rows = np.flatnonzero((day.box == box) & (end > begin))
            events = sorted([(int(end[row]), -1) for row in rows] + [(int(begin[row]), 1) for row in rows])
            assert max(np.cumsum([step for _, step in events]), default=0) <= most


def test_an_upload_that_stands_in_an_outage_costs_energy_until_its_deadline_only() -> None:
    day = drawn([ConstantLink(0, 30 * MS_NS)])
    run = simulate(day, lambda context: make_policy("cloud_only", context))
    assert (run.fate != FATES.index(Fate.DONE_CLOUD)).all()
    held = held_by(day, run)
    assert held.uplink_ns.sum() <= day.duration_ns + 600 * MS_NS
    assert held.uplink_ns.max() <= 600 * MS_NS
    assert score(day, run, Power(lane_w=0.0, radio_w=1.0)).energy_j == pytest.approx(held.uplink_ns.sum() / 1e9)


def test_a_day_is_scored_alike_twice_and_its_summary_is_plain_numbers() -> None:
    day = read_fleets(FLEETS / "dems.yaml")["2D-A"].day(0)
    runs = [simulate(day, lambda context: make_policy("gems", context)) for _ in range(2)]
    first, second = (score(day, run).summary() for run in runs)
    assert first == second
    assert {type(value) for kind in first["kinds"].values() for value in kind.values()} <= {int, float}
    assert sum(first["fates"].values()) == first["tasks"] == 3600
