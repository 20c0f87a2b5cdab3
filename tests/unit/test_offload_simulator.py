from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.executors import TaskTooLate
from offload.link import ConstantLink, Link, TraceLink
from offload.policies import POLICIES
from offload.policies.policy import Decision, PolicyContext, Start
from offload.policies.tercel import Tercel
from offload.scenario import SECOND_NS, ColdStarts, Day, Fleet, Slowdown, draw_day
from offload.simulator import FATES, Run, SimulatedEdge, SimulatedRemote, simulate
from offload.tasks import Fate, Option, Task, TaskKind
from offload.traces import steps_trace
from tercel.core.clock import VirtualClock, run_virtual

ROOT = Path(__file__).resolve().parents[2]
MS_NS = 1_000_000

EDGE = Option("edge", 10.0, 1.0, 100 * MS_NS, 100 * MS_NS)
CLOUD = Option("cloud", 9.0, 3.0, 300 * MS_NS, server_ns=200 * MS_NS)
SPLIT = Option("split", 9.5, 2.0, 200 * MS_NS, edge_ns=40 * MS_NS, server_ns=100 * MS_NS, upload_bytes=5000)
KIND = TaskKind("kind", 600 * MS_NS, (EDGE, CLOUD, SPLIT), qoe_bonus=50.0)
LINK = ConstantLink(8_000_000, 40 * MS_NS)  # a byte in a microsecond


def day_of(created_ms: Sequence[int], kinds: tuple[TaskKind, ...] = (KIND,), link: Link = LINK, **more: Any) -> Day:
    """Tasks of the first kind at these times, 20 kB each, on one box, with the stated times unless said."""
    count = len(created_ms)
    zeros, ones = np.zeros(count, np.int64), np.ones(count)
    drawn = {"kind": zeros, "edge_factor": ones, "server_factor": ones} | more
    created_ns = np.array(created_ms, np.int64) * MS_NS
    return Day(
        kinds=kinds, created_ns=created_ns, source=zeros, box=zeros, size_bytes=np.full(count, 20_000), links=(link,),
        duration_ns=10 * SECOND_NS, **drawn,
    )  # fmt: skip


class Always:
    """Starts every task at once in one way."""

    def __init__(self, option: Option) -> None:
        self.wake_ns: int | None = None
        self.uploaded_ms: list[int] = []
        self._option = option

    def arrived(self, now_ns: int, task: Task) -> Sequence[Decision]:
        return [Start(task, self._option)]

    def returned(self, now_ns: int, task: Task, option: Option, reason: str) -> Sequence[Decision]:
        raise AssertionError("the simulated cloud loses nothing")

    def uploaded(self, now_ns: int, task: Task) -> Sequence[Decision]:
        self.uploaded_ms.append(now_ns // MS_NS)
        return ()

    def _nothing(self, *_: Any) -> Sequence[Decision]:
        return ()

    lane_freed = ended = woken = _nothing


def ends_ms(run: Run) -> list[float]:
    """When each task ended."""
    return [float(ended_ns) / MS_NS for ended_ns in run.ended_ns]


# --- the simulated places, by hand


def test_uploads_go_one_after_another_and_then_the_server_takes_its_time() -> None:
    policy = Always(CLOUD)
    run = simulate(day_of([0, 0, 5]), lambda _: policy)
    assert ends_ms(run) == [20 + 40 + 200, 40 + 40 + 200, 60 + 40 + 200]
    assert policy.uploaded_ms == [60, 80, 100]
    assert set(run.fate) == {FATES.index(Fate.DONE_CLOUD)}
    assert run.utility.tolist() == [6.0] * 3


def test_a_split_run_sends_its_features_after_its_head() -> None:
    run = simulate(day_of([0]), lambda _: Always(SPLIT))
    assert ends_ms(run) == [40 + 5 + 40 + 100]
    assert run.utility.tolist() == [7.5]


def test_an_upload_that_its_deadline_cuts_off_holds_the_link_until_then_and_the_next_is_never_sent() -> None:
    dead = TraceLink(steps_trace([0, 10_000 * MS_NS, 20_000 * MS_NS], [0, 8_000_000]), 40 * MS_NS)
    run = simulate(day_of([0, 0, 1], link=dead), lambda _: Always(CLOUD))
    assert ends_ms(run) == [600, 600, 601]
    assert [FATES[fate] for fate in run.fate] == [Fate.LATE, Fate.DROPPED, Fate.LATE]
    assert run.utility.tolist() == [-3.0, 0.0, -3.0]
    assert run.reasons[1] == "never left the board"


def test_drawn_times_and_slowdowns_stretch_what_the_option_states() -> None:
    day = day_of([0, 1000], edge_factor=np.array([1.5, 1.5]), slowdowns=(Slowdown(500 * MS_NS, 2 * SECOND_NS, 2.0),))
    assert ends_ms(simulate(day, lambda _: Always(EDGE))) == [150, 1300]
    slow = day_of([0], server_factor=np.array([3.0]))
    late = simulate(slow, lambda _: Always(CLOUD))
    assert (ends_ms(late), FATES[late.fate[0]], late.utility[0]) == ([600], Fate.LATE, -3.0)


def test_a_cold_instance_takes_longer_a_warm_one_does_not_and_one_that_idles_for_long_is_gone() -> None:
    day = day_of([0, 1000, 1010, 9000], cold=ColdStarts(100 * MS_NS, 5 * SECOND_NS))
    assert ends_ms(simulate(day, lambda _: Always(CLOUD))) == [360, 1260, 1380, 9360]


def test_a_policy_that_takes_more_lanes_than_there_are_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no lane is free"):
        simulate(day_of([0, 0]), lambda _: Always(EDGE))
    assert ends_ms(simulate(day_of([0, 0], lanes=2), lambda _: Always(EDGE))) == [100, 100]


def test_a_policy_that_forgets_a_task_is_an_error_and_no_hang() -> None:
    forgetful = Always(EDGE)
    forgetful.arrived = lambda now_ns, task: ()  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="deadlocked"):
        simulate(day_of([0]), lambda _: forgetful)


def test_a_run_that_is_cancelled_gives_its_lane_back() -> None:
    clock = VirtualClock()
    edge = SimulatedEdge(clock, day_of([0, 0]))
    tasks = day_of([0, 0]).tasks()

    async def main() -> int:
        first = clock.create_task(edge.run(tasks[0], EDGE, None))
        await clock.sleep_until_ns(10 * MS_NS)
        first.cancel()
        await clock.sleep_until_ns(20 * MS_NS)
        await edge.run(tasks[1], EDGE, "input")
        return clock.now_ns

    assert run_virtual(main(), clock) == 120 * MS_NS


def test_a_remote_run_never_outlives_its_deadline() -> None:
    clock = VirtualClock()
    day = day_of([0], server_factor=np.array([50.0]))
    remote = SimulatedRemote(clock, day, 0)

    async def main() -> int:
        with pytest.raises(TaskTooLate):
            await remote.run(day.tasks()[0], CLOUD, None)
        return clock.now_ns

    assert run_virtual(main(), clock) == 600 * MS_NS


# --- any day, any policy


PLACES = st.tuples(st.integers(1, 500), st.integers(0, 30), st.integers(0, 12))


@st.composite
def days(draw: st.DrawFn) -> Day:
    """A few drones on a few boxes for some seconds, kinds of any make, links of any sort."""
    kinds = []
    for number in range(draw(st.integers(1, 3))):
        options = []
        for place in draw(st.lists(st.sampled_from(["edge", "cloud", "split"]), min_size=1, max_size=4)):
            ms, benefit, cost = draw(PLACES)
            head_ns = {"edge": ms * MS_NS, "cloud": 0, "split": ms * MS_NS // 3}[place]
            server_ns = 0 if place == "edge" else ms * MS_NS // 3
            options.append(
                Option(place, benefit, cost, ms * MS_NS, head_ns, server_ns, edge_spread=0.2, remote_spread=0.3)  # type: ignore[arg-type]
            )
        bonus = draw(st.sampled_from([0.0, 100.0]))
        kinds.append(TaskKind(f"k{number}", draw(st.integers(1, 1200)) * MS_NS, tuple(options), qoe_bonus=bonus))
    fleet = Fleet(
        tuple(kinds), draw(st.integers(1, 4)), draw(st.integers(1, 4)),
        duration_ns=draw(st.integers(1, 5)) * SECOND_NS, period_ns=draw(st.sampled_from([200, 500, 1000])) * MS_NS,
        jitter_ns=draw(st.sampled_from([0, 50 * MS_NS])), lanes=draw(st.integers(1, 2)), window_ns=2 * SECOND_NS,
        slowdowns=draw(st.sampled_from([(), (Slowdown(SECOND_NS, 2 * SECOND_NS, 5.0),)])),
        cold=draw(st.sampled_from([None, ColdStarts(200 * MS_NS, SECOND_NS)])),
    )  # fmt: skip
    holed = TraceLink(steps_trace([0, SECOND_NS, 2 * SECOND_NS], [4_000_000, 0]), 50 * MS_NS)
    links: list[Link] = [LINK, ConstantLink(200_000, 100 * MS_NS), ConstantLink(0, MS_NS), holed]
    link = draw(st.sampled_from(links))
    return draw_day(fleet, [link] * fleet.boxes, draw(st.integers(0, 99)))


def check(day: Day, run: Run) -> None:
    """What any run of any policy owes."""
    done = {"edge": Fate.DONE_EDGE, "cloud": Fate.DONE_CLOUD, "split": Fate.DONE_SPLIT}
    tasks = day.tasks()
    assert len(tasks) == len(run.fate) == len(run.reasons)
    for row, task in enumerate(tasks):
        fate, chosen = FATES[run.fate[row]], int(run.option[row])
        option = task.kind.options[chosen] if chosen >= 0 else None
        assert bool(run.reasons[row]) == (fate in (Fate.LATE, Fate.DROPPED))
        if fate is Fate.DROPPED:
            assert run.utility[row] == 0.0
            continue
        assert option is not None
        assert task.created_ns <= run.started_ns[row] < task.deadline_ns
        if fate is Fate.LATE:
            assert run.utility[row] == -option.cost
            assert run.ended_ns[row] >= task.deadline_ns
        else:
            assert fate is done[option.place]
            assert run.utility[row] == option.benefit - option.cost
            assert run.ended_ns[row] <= task.deadline_ns


def same(one: Run, other: Run) -> bool:
    """Whether two runs are identical."""
    names = ("fate", "option", "started_ns", "ended_ns", "utility")
    return one.reasons == other.reasons and all((getattr(one, n) == getattr(other, n)).all() for n in names)


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(day=days())
@settings(max_examples=25, deadline=None)
def test_on_any_day_each_task_has_one_fate_utilities_add_up_and_nothing_starts_too_late(name: str, day: Day) -> None:
    run = simulate(day, POLICIES[name])
    check(day, run)
    assert same(run, simulate(day, POLICIES[name]))


@given(day=days(), data=st.data())
@settings(max_examples=25, deadline=None)
def test_our_policy_does_not_care_in_which_order_kinds_are_declared(day: Day, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(day.kinds))))
    shuffled = replace(day, kinds=tuple(day.kinds[n] for n in order), kind=np.argsort(order)[day.kind])
    assert same(simulate(day, Tercel), simulate(shuffled, Tercel))


def test_results_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    fleet = tmp_path / "small.yaml"
    text = (ROOT / "launch/fleets/variants.yaml").read_text(encoding="utf-8")
    fleet.write_text(text.replace("{drones: 2, kinds:", "{duration_s: 15, drones: 2, kinds:"), encoding="utf-8")
    program = (
        "import json, sys; from pathlib import Path; from offload.fleets import read_fleets;"
        "from offload.policies import POLICIES; from offload.simulator import simulate;"
        "day = read_fleets(Path(sys.argv[1]))['2D'].day(1); runs = {n: simulate(day, p) for n, p in POLICIES.items()};"
        "print(json.dumps({n: [r.fate.tolist(), r.option.tolist(), r.ended_ns.tolist()] for n, r in runs.items()}))"
    )
    printed = []
    for seed in ("1", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", program, str(fleet)]
        printed.append(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert printed[0] == printed[1]
    assert len(json.loads(printed[0])["tercel"][0]) == 120


def test_boxes_do_not_meet_and_progress_counts_them() -> None:
    fleet = Fleet((KIND,), 4, 1, duration_ns=10 * SECOND_NS)
    day = draw_day(fleet, [LINK] * 4, 0)
    seen: list[float] = []
    run = simulate(day, Tercel, progress=seen.append)
    assert seen == [0.25, 0.5, 0.75, 1.0]
    mine = np.flatnonzero(day.box == 2)
    alone = replace(day, links=(LINK, LINK, LINK, LINK), box=np.where(day.box == 2, 2, 0))
    assert (simulate(alone, Tercel).ended_ns[mine] == run.ended_ns[mine]).all()


@pytest.mark.parametrize("name", ["tercel", "dems_a"])
def test_what_a_policy_remembers_does_not_grow_over_an_hour(name: str) -> None:
    """Two tasks a second; what is held is measured in the middle and at the end, the run's own table left out."""
    fleet = Fleet((KIND, replace(KIND, name="other")), 1, 1, duration_ns=3600 * SECOND_NS)
    day = draw_day(fleet, [LINK], 0)
    made: list[Any] = []

    def make(context: PolicyContext) -> Any:
        made.append(POLICIES[name](context))
        return made[0]

    held: list[int] = []

    def measured(make_one: Callable[[PolicyContext], Any], part: Day) -> None:
        simulate(part, make_one)
        held.append(size_of(made.pop()))

    half = day.created_ns < 1800 * SECOND_NS
    names = ("created_ns", "kind", "source", "box", "size_bytes", "edge_factor", "server_factor")
    measured(make, replace(day, **{field: getattr(day, field)[half] for field in names}))
    measured(make, day)
    assert held[1] <= 1.2 * held[0] + 2000


def size_of(thing: Any, seen: set[int] | None = None) -> int:
    """Bytes of a policy and all that hangs on it, kinds and the like included once."""
    seen = set() if seen is None else seen
    if id(thing) in seen or callable(thing):
        return 0
    seen.add(id(thing))
    total = sys.getsizeof(thing)
    if isinstance(thing, dict):
        return total + sum(size_of(key, seen) + size_of(value, seen) for key, value in thing.items())
    if hasattr(thing, "__iter__") and not isinstance(thing, str | bytes):
        total += sum(size_of(one, seen) for one in thing)
    slots = [getattr(thing, slot) for slot in getattr(type(thing), "__slots__", ()) if hasattr(thing, slot)]
    return total + size_of(getattr(thing, "__dict__", {}), seen) + sum(size_of(one, seen) for one in slots)
