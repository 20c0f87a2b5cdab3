from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offload.link import ConstantLink
from offload.scenario import SECOND_NS, Day, Fleet, Slowdown, draw_day
from offload.tasks import Option, TaskKind

MS_NS = 1_000_000
LINK = ConstantLink(20_000_000, 40 * MS_NS)


def kind(name: str, edge_spread: float = 0.1, remote_spread: float = 0.2) -> TaskKind:
    """A kind with both places."""
    edge = Option("edge", 10.0, 1.0, 100 * MS_NS, 100 * MS_NS, edge_spread=edge_spread)
    return TaskKind(name, SECOND_NS, (edge, Option("cloud", 9.0, 2.0, 300 * MS_NS, remote_spread=remote_spread)))


FLEET = Fleet((kind("a"), kind("b", 0.0), kind("c")), drones=5, drones_per_box=2, duration_ns=100 * SECOND_NS)


def drawn(seed: int = 0, **changes: Any) -> Day:
    """A day of the fleet with some changes."""
    fleet = replace(FLEET, **changes)
    return draw_day(fleet, [LINK] * fleet.boxes, seed)


def test_each_drone_sends_one_task_of_each_kind_in_each_period_at_its_own_phase() -> None:
    day = drawn()
    assert len(day.created_ns) == 100 * 5 * 3
    assert (np.diff(day.created_ns) >= 0).all()
    phases = set()
    for drone in range(5):
        mine = day.source == drone
        for number in range(3):
            times = day.created_ns[mine & (day.kind == number)]
            assert (np.diff(times) == SECOND_NS).all()
            assert len(times) == 100
        phases.add(int(day.created_ns[mine][0]))
        assert set(day.box[mine]) == {drone // 2}
    assert len(phases) == 5, "drones are not in step"


def test_the_kinds_of_a_segment_come_in_a_drawn_order_and_have_its_one_size() -> None:
    day = drawn()
    orders = set()
    for start in np.flatnonzero(day.source == 0)[::3]:
        rows = np.flatnonzero((day.source == 0) & (day.created_ns == day.created_ns[start]))
        orders.add(tuple(day.kind[rows]))
        assert len(set(day.size_bytes[rows])) == 1
    assert len(orders) == 6
    assert day.size_bytes.min() >= 14_000
    assert day.size_bytes.max() <= 44_000
    assert len(np.unique(day.size_bytes)) > 400


def test_times_vary_as_the_options_say_about_the_mean_that_they_state() -> None:
    day = drawn(duration_ns=2000 * SECOND_NS)
    for number, (edge, remote) in enumerate([(0.1, 0.2), (0.0, 0.2), (0.1, 0.2)]):
        mine = day.kind == number
        assert day.edge_factor[mine].mean() == pytest.approx(1.0, abs=0.01)
        assert day.edge_factor[mine].std() == pytest.approx(edge, abs=0.01)
        assert day.server_factor[mine].std() == pytest.approx(remote, abs=0.01)
    assert (day.server_factor > 0).all()


def test_a_seed_draws_the_same_day_and_another_one_another() -> None:
    day, same, other = drawn(3), drawn(3), drawn(4)
    for name in ("created_ns", "kind", "size_bytes", "edge_factor", "server_factor"):
        assert (getattr(day, name) == getattr(same, name)).all()
        assert (getattr(day, name) != getattr(other, name)).any()


def test_what_is_drawn_for_one_thing_does_not_move_another() -> None:
    day, trembling = drawn(), drawn(jitter_ns=30 * MS_NS)
    late_ns = np.sort(trembling.created_ns) - np.sort(day.created_ns)
    assert (late_ns >= -30 * MS_NS).all()
    assert (day.created_ns != trembling.created_ns).any()
    assert sorted(day.size_bytes) == sorted(trembling.size_bytes)
    larger = drawn(size_bytes=(1, 2))
    assert (day.created_ns == larger.created_ns).all()
    assert (day.edge_factor == larger.edge_factor).all()


def test_a_box_gets_the_tasks_of_its_drones_and_rows_are_their_ids() -> None:
    day = drawn()
    boxes = [day.tasks(box) for box in range(3)]
    assert sorted(task.id for box in boxes for task in box) == list(range(len(day.created_ns)))
    assert [len(box) for box in boxes] == [600, 600, 300]
    for task in boxes[2]:
        assert task.source == 4
        assert task.created_ns == day.created_ns[task.id]
        assert task.kind is day.kinds[day.kind[task.id]]
        assert task.deadline_ns == task.created_ns + SECOND_NS
    assert [task.id for task in day.tasks()] == list(range(len(day.created_ns)))


def test_slowdowns_multiply_where_they_meet_and_end_when_they_say() -> None:
    day = replace(drawn(), slowdowns=(Slowdown(10, 20, 2.0), Slowdown(15, 30, 3.0)))
    assert [day.slowdown(at) for at in (9, 10, 14, 15, 19, 20, 29, 30)] == [1, 2, 2, 6, 6, 3, 3, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"drones": 0}, {"drones_per_box": 0}, {"lanes": 0}, {"kinds": ()}, {"period_ns": 0}, {"jitter_ns": -1},
        {"duration_ns": SECOND_NS - 1}, {"size_bytes": (2, 1)}, {"size_bytes": (-1, 1)}, {"window_ns": 0},
    ],
)  # fmt: skip
def test_a_fleet_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|is \(least"):
        replace(FLEET, **changes)


@pytest.mark.parametrize("links", [0, 2, 4])
def test_there_is_one_link_for_each_box(links: int) -> None:
    with pytest.raises(ValueError, match="3 boxes"):
        draw_day(FLEET, [LINK] * links, 0)
