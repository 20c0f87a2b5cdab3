"""The clairvoyant bound against brute force, against the preemptive greedy, by hand, and on recorded links."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.bound import best_prices, priced_bound, qoe_bound, upper_bound
from offload.bound_schedule import Run, clairvoyant_schedule
from offload.bound_ways import Prices, find_ways
from offload.fleets import read_fleets
from offload.link import ConstantLink, Link, RampLink, TraceLink, link_from_text
from offload.policies.edf_ec import EdfEc
from offload.policies.policy import Drop, Start
from offload.scenario import ColdStarts, Day, Slowdown
from offload.simulator import simulate
from offload.tasks import Option, Task, TaskKind
from offload.traces import steps_trace
from tercel.core.errors import UserError

pytest.importorskip("scipy", reason="scipy is not installed")

MS = 1_000_000
FLEETS = Path(__file__).parents[2] / "launch/fleets/dems.yaml"
QUIET = ConstantLink(50_000_000, 30 * MS)


def edge(took_ms: int, gain: float, cost: float = 0.0) -> Option:
    return Option("edge", gain + cost, cost, took_ms * MS, edge_ns=took_ms * MS)


def cloud(server_ms: int, gain: float, cost: float = 0.0, size: int = 0) -> Option:
    return Option("cloud", gain + cost, cost, (server_ms + 50) * MS, server_ns=server_ms * MS, upload_bytes=size)


def split(head_ms: int, server_ms: int, gain: float, size: int) -> Option:
    total_ms = head_ms + server_ms + 50
    return Option("split", gain, 0.0, total_ms * MS, edge_ns=head_ms * MS, server_ns=server_ms * MS, upload_bytes=size)


def day_of(tasks: Sequence[tuple[int, TaskKind]], link: Link = QUIET, size_bytes: int = 20_000, **more: Any) -> Day:
    """A day of one box: (created in ms, kind) of each task."""
    tasks = sorted(tasks, key=lambda entry: entry[0])
    kinds = tuple(dict.fromkeys(kind for _, kind in tasks))
    count = len(tasks)
    given: dict[str, Any] = {
        "kinds": kinds,
        "created_ns": np.array([created * MS for created, _ in tasks], np.int64),
        "kind": np.array([kinds.index(kind) for _, kind in tasks], np.int64),
        "source": np.zeros(count, np.int64),
        "box": np.zeros(count, np.int64),
        "size_bytes": np.full(count, size_bytes, np.int64),
        "edge_factor": np.ones(count),
        "server_factor": np.ones(count),
        "links": (link,),
        "duration_ns": 1000 * MS,
    }
    return Day(**(given | more))


def bound_of(day: Day, grid_ms: float = 10) -> float:
    return upper_bound(day, grid_ms=grid_ms, schedule=False).utility


# --- brute force ---------------------------------------------------------------------------------------------------


def best_by_trying_everything(day: Day) -> float:
    """The most that any order of runs and uploads earns, by the simulator's rules."""
    tasks = day.tasks(0)
    best = 0.0
    for chosen in itertools.product(*([None, *task.kind.options] for task in tasks)):
        pairs = [(task, option) for task, option in zip(tasks, chosen, strict=True) if option is not None]
        total = sum(task.utility(option) for task, option in pairs)
        if total > best and _can_be_done(day, pairs):
            best = total
    return best


def _can_be_done(day: Day, pairs: list[tuple[Task, Option]]) -> bool:
    on_lane = [pair for pair in pairs if pair[1].place != "cloud"]
    on_link = [pair for pair in pairs if pair[1].place != "edge"]
    slow_until = [slow.to_ns for slow in day.slowdowns]
    for lane_order in itertools.permutations(on_lane):
        for waits in itertools.product([0, *slow_until], repeat=len(on_lane)):
            ended = _lane_ends_ns(day, lane_order, waits)
            if ended is None:
                continue
            if any(_uploads_in_time(day, link_order, ended) for link_order in itertools.permutations(on_link)):
                return True
    return False


def _lane_ends_ns(day: Day, order: Sequence[tuple[Task, Option]], waits: Sequence[int]) -> dict[int, int] | None:
    """Runs on the lane that is free first, each as early as can be but no earlier than its wait: a slow board may be
    worth waiting for.
    """
    free, ended = [0] * day.lanes, {}
    for (task, option), wait in zip(order, waits, strict=True):
        start = max(free[0], task.created_ns, wait)
        end = start + round(option.edge_ns * day.edge_factor[task.id] * day.slowdown(start))
        if end > task.deadline_ns:
            return None
        free = sorted([*free[1:], end])
        ended[task.id] = end
    return ended


def _uploads_in_time(day: Day, order: Sequence[tuple[Task, Option]], ended: dict[int, int]) -> bool:
    free = 0
    for task, option in order:
        sent = day.links[0].sent_ns(max(free, ended.get(task.id, task.created_ns)), task.upload_bytes(option))
        if sent is None or sent >= task.deadline_ns:
            return False
        server = round(option.server_ns * day.server_factor[task.id])
        if sent + day.links[0].rtt_ns(sent) + server > task.deadline_ns:
            return False
        free = sent
    return True


KINDS = (
    TaskKind("short", 120 * MS, (edge(50, 3.0, 1.0), cloud(30, 2.0, 1.0))),
    TaskKind("long", 200 * MS, (edge(110, 10.0), cloud(60, 4.0), split(20, 40, 7.0, 6_000))),
    TaskKind("board", 150 * MS, (edge(70, 5.0), edge(30, 2.5))),
    TaskKind("far", 140 * MS, (cloud(20, 6.0),)),
)
SLOW = TraceLink(steps_trace([0, 100 * MS, 160 * MS, 400 * MS], [2_000_000, 0, 8_000_000], [20 * MS, 60 * MS, 10 * MS]))
LINKS: list[Link] = [QUIET, SLOW, ConstantLink(1_500_000, 10 * MS), ConstantLink(0, 0)]


@st.composite
def tiny_days(draw: st.DrawFn) -> Day:
    tasks = draw(st.lists(st.tuples(st.integers(0, 160), st.sampled_from(KINDS)), min_size=1, max_size=4))
    slow = (Slowdown(60 * MS, 150 * MS, 1.5),) if draw(st.booleans()) else ()
    factor = np.random.default_rng(draw(st.integers(0, 9)))
    return day_of(
        tasks,
        draw(st.sampled_from(LINKS)),
        size_bytes=draw(st.integers(1_000, 15_000)),
        lanes=draw(st.integers(1, 2)),
        slowdowns=slow,
        edge_factor=factor.uniform(0.7, 1.2, len(tasks)),
        server_factor=factor.uniform(0.7, 1.2, len(tasks)),
    )


@given(day=tiny_days())
@settings(max_examples=60, deadline=None)
def test_the_best_of_all_schedules_lies_between_what_is_achieved_and_the_bound(day: Day) -> None:
    bound = upper_bound(day, grid_ms=10)
    best = best_by_trying_everything(day)
    assert bound.achieved - 1e-9 <= best <= bound.utility + 1e-9


@given(day=tiny_days(), seed=st.integers(0, 2**31), scale=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_any_prices_at_all_give_a_bound(day: Day, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    ways = find_ways(day, 0)
    edges_ns = np.arange(0, ways.end_ns + 17 * MS, 17 * MS, dtype=np.float64)
    cells = len(edges_ns) - 1
    prices = Prices(
        edges_ns,
        rng.exponential(scale * 10 / 100e6, cells),
        ways.carried(edges_ns),
        rng.exponential(scale * 5 / 10e3, cells),
    )
    assert priced_bound(ways, prices) >= best_by_trying_everything(day) - 1e-9


def test_negative_prices_are_a_programmers_mistake() -> None:
    ways = find_ways(day_of([(0, KINDS[0])]), 0)
    prices = best_prices(ways, 10 * MS)
    prices.lane[0] = -1.0
    with pytest.raises(ValueError, match="negative"):
        priced_bound(ways, prices)


# --- by hand -------------------------------------------------------------------------------------------------------


def test_of_two_runs_that_exclude_each_other_the_better_one_counts() -> None:
    short, long = TaskKind("a", 100 * MS, (edge(60, 4.0),)), TaskKind("b", 100 * MS, (edge(60, 7.0),))
    assert bound_of(day_of([(0, short), (0, long)])) == pytest.approx(7.0)
    assert bound_of(day_of([(0, short), (0, long)], lanes=2)) == pytest.approx(11.0)
    assert bound_of(day_of([(0, short), (60, long)])) == pytest.approx(11.0)


def test_a_run_that_could_only_be_done_in_two_pieces_earns_nothing() -> None:
    # 40 ms in the middle are taken by a task that is worth more; 50 ms before and after are too short for 80.
    middle = TaskKind("middle", 40 * MS, (edge(40, 100.0),))
    whole = TaskKind("whole", 140 * MS, (edge(80, 10.0),))
    assert bound_of(day_of([(50, middle), (0, whole)])) == pytest.approx(100.0)


def test_the_better_place_that_is_in_time_counts() -> None:
    kind = TaskKind("a", 100 * MS, (edge(60, 9.0), cloud(60, 5.0)))
    assert bound_of(day_of([(0, kind), (0, kind)])) == pytest.approx(14.0)
    assert bound_of(day_of([(0, kind), (0, kind)], ConstantLink(50_000_000, 41 * MS))) == pytest.approx(9.0)
    assert bound_of(day_of([(0, kind), (0, kind)], ConstantLink(0, 0))) == pytest.approx(9.0)


def test_uploads_go_one_at_a_time() -> None:
    kind = TaskKind("a", 100 * MS, (cloud(50, 5.0),))
    # 10,000 bytes at 4 Mbit/s are 20 ms; 30 ms of the deadline are left for the uplink.
    day = day_of([(0, kind), (0, kind)], ConstantLink(4_000_000, 20 * MS), size_bytes=10_000)
    assert bound_of(day) == pytest.approx(5.0)
    assert bound_of(replace(day, links=(ConstantLink(6_000_000, 20 * MS),))) == pytest.approx(10.0)


def test_a_split_run_needs_both_the_lane_and_the_link() -> None:
    kind = TaskKind("a", 100 * MS, (split(40, 20, 5.0, 10_000),))
    assert bound_of(day_of([(0, kind)], ConstantLink(4_000_000, 20 * MS))) == pytest.approx(5.0)
    assert bound_of(day_of([(0, kind)], ConstantLink(3_900_000, 20 * MS))) == 0.0
    assert bound_of(day_of([(0, kind)], ConstantLink(4_000_000, 21 * MS))) == 0.0
    both = day_of([(0, kind), (0, kind)], ConstantLink(400_000_000, 10 * MS))
    assert bound_of(both) == pytest.approx(5.0)
    assert bound_of(replace(both, lanes=2)) == pytest.approx(10.0)


def test_a_run_that_starts_while_the_board_is_slow_takes_longer() -> None:
    kind = TaskKind("a", 100 * MS, (edge(60, 5.0),))
    day = day_of([(0, kind)])
    assert bound_of(replace(day, slowdowns=(Slowdown(0, 41 * MS, 2.0),))) == 0.0
    assert bound_of(replace(day, slowdowns=(Slowdown(0, 40 * MS, 2.0),))) == pytest.approx(5.0)
    assert bound_of(replace(day, slowdowns=(Slowdown(0, 41 * MS, 1.5),))) == pytest.approx(5.0)


def test_a_round_trip_that_will_fall_lets_an_upload_wait_for_it() -> None:
    kind = TaskKind("a", 300 * MS, (cloud(100, 5.0),))
    trace = steps_trace([0, 100 * MS, 400 * MS], [10**9, 10**9], [290 * MS, 50 * MS])
    assert bound_of(day_of([(0, kind)], TraceLink(trace))) == pytest.approx(5.0)
    late = steps_trace([0, 152 * MS, 400 * MS], [10**9, 10**9], [290 * MS, 50 * MS])
    assert bound_of(day_of([(0, kind)], TraceLink(late))) == 0.0
    # A fall between two of the samples of the round trip counts from the sample before it.
    kind = replace(kind, deadline_ns=299_600_000)
    between = steps_trace([0, 149_300_000, 400 * MS], [10**9, 10**9], [290 * MS, 50 * MS])
    assert bound_of(day_of([(0, kind)], TraceLink(between), size_bytes=1)) == pytest.approx(5.0)


def test_options_that_lose_money_are_never_taken() -> None:
    kind = TaskKind("a", 100 * MS, (edge(60, -1.0, 5.0), cloud(10, -3.0, 5.0)))
    bound = upper_bound(day_of([(0, kind)]))
    assert (bound.utility, bound.achieved, bound.left, bound.gap) == (0.0, 0.0, 1, 0.0)


def test_a_day_without_tasks_is_worth_nothing() -> None:
    day = replace(day_of([(0, KINDS[0])]), box=np.ones(1, np.int64), links=(QUIET, QUIET))
    assert upper_bound(day, box=0).utility == qoe_bound(day, box=0) == 0.0
    assert upper_bound(day).utility == upper_bound(day, box=1).utility == pytest.approx(3.0)


def test_boxes_add_up_and_progress_ends_at_one() -> None:
    fractions: list[float] = []
    day = day_of([(0, KINDS[1]), (0, KINDS[1]), (30, KINDS[2])], box=np.array([0, 1, 1]), links=(QUIET, SLOW))
    both = upper_bound(day, progress=fractions.append)
    parts = [upper_bound(day, box=box) for box in (0, 1)]
    assert both.utility == pytest.approx(sum(part.utility for part in parts))
    assert both.achieved == pytest.approx(sum(part.achieved for part in parts))
    assert both.edge + both.cloud + both.split + both.left == 3
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("grid_ms", [0.5, 1001, float("nan")])
def test_a_grid_out_of_range_is_the_users_mistake(grid_ms: float) -> None:
    with pytest.raises(UserError, match="grid_ms"):
        upper_bound(day_of([(0, KINDS[0])]), grid_ms=grid_ms)


# --- the preemptive relaxation -------------------------------------------------------------------------------------


def preemptive_greedy(jobs: Sequence[tuple[int, int, int, float]], unit_ms: int) -> float:
    """The most that runs on one lane earn if they may be interrupted and paid in parts: (created, deadline, took in
    ms, gain). The units that can be in time together are a transversal matroid, so the densest first is optimal.
    """
    owner: dict[int, int] = {}
    windows = [(created // unit_ms, deadline // unit_ms) for created, deadline, _, _ in jobs]

    def takes(job: int, seen: set[int]) -> bool:
        for slot in range(*windows[job]):
            if slot not in seen:
                seen.add(slot)
                if slot not in owner or takes(owner[slot], seen):
                    owner[slot] = job
                    return True
        return False

    total = 0.0
    for job in sorted(range(len(jobs)), key=lambda j: -jobs[j][3] / jobs[j][2]):
        units = 0
        while units < jobs[job][2] // unit_ms and takes(job, set()):
            units += 1
        total += jobs[job][3] * units * unit_ms / jobs[job][2]
    return total


JOBS = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 8), st.integers(1, 6), st.integers(1, 20)), max_size=8)


@given(drawn=JOBS)
@settings(max_examples=60, deadline=None)
def test_on_a_common_grid_the_bound_is_no_looser_than_the_preemptive_one(
    drawn: list[tuple[int, int, int, int]],
) -> None:
    jobs = [(10 * a, 10 * (a + took + slack), 10 * took, float(gain)) for a, slack, took, gain in drawn]
    kinds = [TaskKind(str(i), (d - a) * MS, (edge(took, gain),)) for i, (a, d, took, gain) in enumerate(jobs)]
    day = day_of([(job[0], kind) for job, kind in zip(jobs, kinds, strict=True)], ConstantLink(0, 0))
    assert bound_of(day, 10) <= preemptive_greedy(jobs, 10) + 1e-6


@given(drawn=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 8), st.integers(1, 20)), max_size=10))
@settings(max_examples=60, deadline=None)
def test_runs_of_one_cell_each_are_bounded_exactly_as_by_the_preemptive_greedy(
    drawn: list[tuple[int, int, int]],
) -> None:
    jobs = [(10 * a, 10 * (a + 1 + slack), 10, float(gain)) for a, slack, gain in drawn]
    kinds = [TaskKind(str(i), (d - a) * MS, (edge(10, gain),)) for i, (a, d, _, gain) in enumerate(jobs)]
    day = day_of([(job[0], kind) for job, kind in zip(jobs, kinds, strict=True)], ConstantLink(0, 0))
    best = preemptive_greedy(jobs, 10)
    bound = upper_bound(day, grid_ms=10)
    assert bound.utility == pytest.approx(best, abs=1e-6)
    assert 0.8 * best <= bound.achieved <= best + 1e-6  # a search, so not always the best


# --- more of anything ----------------------------------------------------------------------------------------------


def later(day: Day) -> Day:
    return replace(day, kinds=tuple(replace(kind, deadline_ns=kind.deadline_ns + 30 * MS) for kind in day.kinds))


def wider(day: Day) -> Day:
    return replace(day, links=(_faster(day.links[0]),))


def _faster(link: Link) -> Link:
    if isinstance(link, TraceLink):
        trace = link.trace
        rates = [rate + rate // 2 for rate in trace.rates_bps]
        return TraceLink(steps_trace(trace.times_ns, rates, trace.rtts_ns))
    assert isinstance(link, ConstantLink)
    return ConstantLink(link.rate_bps + link.rate_bps // 2, link.round_trip_ns)


def broader(day: Day) -> Day:
    return replace(day, lanes=day.lanes + 1)


def quicker(day: Day) -> Day:
    return replace(day, server_factor=day.server_factor * 0.8)


@pytest.mark.parametrize("better", [later, wider, broader, quicker], ids=lambda better: better.__name__)
@given(day=tiny_days())
@settings(max_examples=25, deadline=None)
def test_better_conditions_never_lower_the_bound(better: Callable[[Day], Day], day: Day) -> None:
    assert bound_of(better(day)) >= bound_of(day) - 1e-6


# --- real workloads and links --------------------------------------------------------------------------------------


def dems_day(name: str, seconds: int, seed: int = 1, link: Link | None = None) -> Day:
    workload = read_fleets(FLEETS)[name]
    day = replace(workload, fleet=replace(workload.fleet, duration_ns=seconds * 1000 * MS)).day(seed)
    return day if link is None else replace(day, links=(link,))


class Script:
    """A policy that follows runs that were laid down before."""

    def __init__(self, day: Day, runs: Sequence[Run]) -> None:
        self._plan = {run.row: run for run in runs}
        self._day = day
        self._due: list[tuple[int, Task, Option]] = []
        self.wake_ns: int | None = None

    def arrived(self, now_ns: int, task: Task) -> list[Any]:
        run = self._plan.get(task.id)
        if run is None:
            return [Drop(task, "not in the script")]
        self._due.append((run.lane_ns if run.lane_ns >= 0 else run.upload_ns, task, task.kind.options[run.option]))
        return self.woken(now_ns)

    def woken(self, now_ns: int) -> list[Any]:
        ready = [due for due in self._due if due[0] <= now_ns]
        self._due = [due for due in self._due if due[0] > now_ns]
        self.wake_ns = min((due[0] for due in self._due), default=None)
        return [Start(task, option) for _, task, option in sorted(ready, key=lambda due: due[0])]

    def nothing(self, *_: Any) -> list[Any]:
        return []

    returned = lane_freed = uploaded = ended = nothing


def replayed(day: Day, runs: Sequence[Run]) -> float:
    return float(simulate(day, lambda _context: Script(day, runs)).utility.sum())


def test_a_quiet_minute_is_known_to_half_a_percent_and_its_schedule_can_be_flown() -> None:
    for name in ("2D-P", "3D-A"):
        day = dems_day(name, 60)
        ways = find_ways(day, 0)
        prices = best_prices(ways, 50 * MS)
        runs = clairvoyant_schedule(day, 0, ways, prices)
        bound = upper_bound(day)
        assert bound.utility == pytest.approx(priced_bound(ways, prices))
        assert bound.achieved == pytest.approx(replayed(day, runs))
        assert 0 <= bound.gap < 0.005


@pytest.mark.parametrize(("trace", "gap"), [("ATT-LTE-driving.up.gz", 0.1), ("Verizon-LTE-short.up.gz", 0.04)])
def test_on_a_recorded_uplink_the_schedule_can_be_flown_and_no_more_than_the_quiet_bound_is_earned(
    shared_data: Path, trace: str, gap: float
) -> None:
    day = dems_day("4D-A", 30, link=link_from_text(str(shared_data / "net_traces/lte_mahimahi" / trace)))
    ways = find_ways(day, 0)
    runs = clairvoyant_schedule(day, 0, ways, best_prices(ways, 50 * MS))
    bound = upper_bound(day)
    assert bound.achieved == pytest.approx(replayed(day, runs))
    assert 0 <= bound.gap < gap
    assert bound.utility < bound_of(replace(day, links=(QUIET,)), 50)
    assert simulate(day, EdfEc).utility.sum() < bound.utility


def test_slow_boards_two_lanes_and_cold_starts_can_be_flown_too() -> None:
    day = replace(
        dems_day(
            "3D-A", 20, link=RampLink(50_000_000, 30 * MS, period_ns=20_000 * MS, ramp_ns=5000 * MS, hold_ns=2000 * MS)
        ),
        lanes=2,
        slowdowns=(Slowdown(4000 * MS, 9000 * MS, 1.7), Slowdown(8000 * MS, 10_000 * MS, 1.2)),
        cold=ColdStarts(600 * MS, 5000 * MS),
    )
    ways = find_ways(day, 0)
    runs = clairvoyant_schedule(day, 0, ways, best_prices(ways, 50 * MS))
    earned = replayed(day, runs)
    assert earned == pytest.approx(sum(run.utility for run in runs))
    assert 0.8 * bound_of(day, 50) < earned <= bound_of(day, 50)


def test_solving_in_pieces_costs_next_to_nothing() -> None:
    ways = find_ways(dems_day("4D-A", 40), 0)
    whole = priced_bound(ways, best_prices(ways, 100 * MS, piece_ns=10**12))
    pieces = priced_bound(ways, best_prices(ways, 100 * MS, piece_ns=4000 * MS))
    assert whole - 1e-6 <= pieces <= 1.001 * whole


def test_a_finer_grid_is_never_looser_where_it_divides_the_coarse_one() -> None:
    ways = find_ways(dems_day("2D-A", 8), 0)
    bounds = [priced_bound(ways, best_prices(ways, grid_ms * MS, piece_ns=10**12)) for grid_ms in (100, 50, 25)]
    assert bounds[0] >= bounds[1] >= bounds[2] > 0


def test_the_same_day_gives_the_same_bound_twice() -> None:
    day = dems_day("2D-A", 10)
    assert upper_bound(day) == upper_bound(day)


# --- QoE -----------------------------------------------------------------------------------------------------------


def test_each_window_with_tasks_can_earn_its_kinds_bonus_once() -> None:
    bonus = replace(KINDS[0], qoe_bonus=100.0)
    day = day_of([(0, bonus), (10, bonus), (990, bonus), (3000, bonus)], window_ns=1000 * MS)
    assert qoe_bound(day) == 200.0
    assert qoe_bound(replace(day, window_ns=10_000 * MS)) == 100.0
    assert qoe_bound(replace(day, box=np.array([0, 1, 0, 1]), links=(QUIET, QUIET))) == 300.0


def test_a_window_whose_tasks_cannot_be_in_time_earns_no_bonus() -> None:
    hopeless = TaskKind("a", 100 * MS, (cloud(60, -2.0, 5.0),), qoe_bonus=100.0, qoe_target=0.5)
    day = day_of([(0, hopeless), (10, hopeless), (20, hopeless), (30, hopeless)])
    factors = np.array([1.0, 1.0, 2.0, 2.0])
    assert qoe_bound(replace(day, server_factor=factors)) == 100.0
    assert qoe_bound(replace(day, server_factor=factors * [1, 2, 1, 1])) == 0.0
    assert qoe_bound(replace(day_of([(0, hopeless)] * 3), server_factor=factors[1:])) == 0.0
    assert qoe_bound(replace(day, links=(ConstantLink(0, 0),))) == 0.0
