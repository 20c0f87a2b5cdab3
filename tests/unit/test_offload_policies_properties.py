"""What every policy owes, on random kinds, streams and results: the driver checks it at each step."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.policies import make_policy
from offload.policies.policy import EXPIRED, FAILED, NO_PLACE, NOT_WORTH, PolicyContext, Start
from offload.tasks import Fate, Task, TaskKind
from tests.unit.policy_driver import MS_NS, Driver, Log, make_kind

NAMES = [
    "edf", "sjf", "hpf", "cloud_only", "edf_ec", "sjf_ec", "dem", "dems", "dems_a", "gems", "d3_kalmia", "dedas"
]  # fmt: skip


class Stream:
    """Kinds, tasks and what running each would take: drawn by hypothesis, all of it."""

    def __init__(self, draw: st.DrawFn) -> None:
        times, utilities = st.integers(1, 400), st.integers(-20, 50)
        place = st.tuples(times, utilities)
        kinds = []
        for number in range(draw(st.integers(1, 4))):
            edge, cloud = draw(st.none() | place), draw(st.none() | place)
            if edge is None and cloud is None:
                edge = (50, 10)
            spread = draw(st.sampled_from([0.0, 0.1, 0.5]))
            kinds.append(make_kind(f"k{number}", draw(st.integers(1, 1000)), edge, cloud, spread))
        self.kinds: tuple[TaskKind, ...] = tuple(kinds)
        self.lanes = draw(st.integers(1, 3))
        self.deviate = draw(st.sampled_from([None, 1.645, -1.0]))
        self.window_ns = draw(st.integers(1, 500)) * MS_NS
        self.lost_after_ns = draw(st.sampled_from([0, 7 * MS_NS]))
        gaps = draw(st.lists(st.sampled_from([0, 0, 1, 10, 100, 11_000]), min_size=1, max_size=30))
        self.arrivals = []
        at_ns = 0
        for gap_ms in gaps:
            at_ns += gap_ms * MS_NS + draw(st.integers(0, 999))
            factors = draw(st.tuples(*[st.sampled_from([0.3, 0.9, 1.0, 1.1, 4.0])] * 2))
            lost = draw(st.sampled_from([False, False, False, True]))
            weight = draw(st.sampled_from([1.0, 0.1]))
            self.arrivals.append((at_ns, draw(st.integers(0, len(kinds) - 1)), factors, lost, weight))

    def run(self, name: str, kinds_given: tuple[TaskKind, ...] | None = None) -> tuple[Log, Driver]:
        """A new policy with new tasks, so that nothing is shared with another run."""
        tasks = [
            Task(number, self.kinds[kind], at_ns, weight=weight)
            for number, (at_ns, kind, _, _, weight) in enumerate(self.arrivals)
        ]
        context = PolicyContext(kinds_given or self.kinds, self.lanes, self.deviate, self.window_ns)
        driver = Driver(
            make_policy(name, context),
            lanes=self.lanes,
            edge_ns=self._edge_ns,
            cloud_ns=self._cloud_ns,
            lost_after_ns=self.lost_after_ns,
        )
        return driver.run(tasks), driver

    def _edge_ns(self, task: Task) -> int:
        assert task.kind.edge is not None
        _, _, factors, _, _ = self.arrivals[task.id]
        return max(1, int(task.kind.edge.edge_ns * factors[0]))

    def _cloud_ns(self, task: Task) -> int | None:
        assert task.kind.cloud is not None
        _, _, factors, lost, _ = self.arrivals[task.id]
        return None if lost else max(1, int(task.kind.cloud.expected_ns * factors[1]))


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Any stream."""
    return Stream(draw)


@pytest.mark.parametrize("name", NAMES)
@given(stream=streams())
@settings(max_examples=80, deadline=None)
def test_every_task_ends_once_in_time_to_start_and_on_a_free_lane_and_nothing_is_left(
    name: str, stream: Stream
) -> None:
    log, driver = stream.run(name)
    starts = Counter(number for _, what, number in log if what in ("edge", "cloud"))
    lost = Counter(number for _, what, number in log if what == "lost")
    for number, outcome in driver.outcomes.items():
        ran = outcome.fate is not Fate.DROPPED
        assert starts[number] == lost[number] + ran
        assert lost[number] <= 1, "sent to the cloud again"
        assert ran or outcome.reason


@pytest.mark.parametrize("name", NAMES)
@given(stream=streams(), data=st.data())
@settings(max_examples=25, deadline=None)
def test_decisions_are_the_same_in_every_run_and_in_whatever_order_the_kinds_are_given(
    name: str, stream: Stream, data: st.DataObject
) -> None:
    log, _ = stream.run(name)
    assert stream.run(name)[0] == log
    assert stream.run(name, tuple(data.draw(st.permutations(stream.kinds))))[0] == log


@given(stream=streams())
@settings(max_examples=60, deadline=None)
def test_on_one_lane_that_keeps_its_times_no_policy_with_a_mean_is_ever_late_on_the_board(stream: Stream) -> None:
    stream.deviate, stream.lanes = None, 1
    stream.arrivals = [(at, kind, (1.0, 1.0), lost, weight) for at, kind, _, lost, weight in stream.arrivals]
    for name in NAMES:
        if name == "d3_kalmia":
            continue  # it gives more time than there is
        _, driver = stream.run(name)
        for outcome in driver.outcomes.values():
            if outcome.option is not None and outcome.option.place == "edge":
                assert outcome.fate is Fate.DONE_EDGE, name


@given(stream=streams())
@settings(max_examples=60, deadline=None)
def test_where_times_are_kept_whoever_dem_queues_and_does_not_displace_is_in_time(stream: Stream) -> None:
    stream.deviate, stream.lanes = None, 1
    stream.arrivals = [(at, kind, (1.0, 1.0), False, weight) for at, kind, _, _, weight in stream.arrivals]
    log, _ = stream.run("dem")
    assert not [event for event in log if event[1] in ("late", "expired in queue")]


@pytest.mark.parametrize("name", ["edf", "dem", "dems", "dems_a", "gems", "dedas"])
def test_an_event_costs_less_than_a_hundred_microseconds_with_thirty_queued(name: str) -> None:
    kinds = tuple(make_kind(f"k{n}", 3000 + 100 * n, (100 + n, 50), (1500 + n, 40 - 10 * n)) for n in range(6))
    policy = make_policy(name, PolicyContext(kinds, 1, None))
    costs_s = []
    running = None
    for number in range(600):  # one arrives in 10 ms, one leaves in 100
        task = Task(number, kinds[number % 6], number * 10 * MS_NS)
        began_s = time.perf_counter()
        decisions = list(policy.arrived(task.created_ns, task))
        costs_s.append(time.perf_counter() - began_s)
        if running is not None and number % 10 == 0:
            began_s = time.perf_counter()
            decisions += policy.lane_freed(task.created_ns, running, 100 * MS_NS)
            costs_s.append(time.perf_counter() - began_s)
        for decision in decisions:
            if isinstance(decision, Start) and decision.option.place == "edge":
                running = decision.task
    assert sorted(costs_s)[len(costs_s) // 2] < 100e-6


def test_the_random_streams_meet_every_fate_and_reason() -> None:
    seen: Counter[str] = Counter()

    @given(stream=streams())
    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    def look(stream: Stream) -> None:
        for name in ("edf", "dems"):
            seen.update(what for _, what, _ in stream.run(name)[0])

    look()
    assert set(seen) == {"edge", "cloud", "late", "lost", EXPIRED, NO_PLACE, NOT_WORTH, FAILED}
