"""The state machine of managed nodes, against the published one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.errors import UserError
from tercel.ros.lifecycle import ACTIVE, FINALIZED, INACTIVE, STATES, TRANSITIONS, UNCONFIGURED, Lifecycle, Transition

# lifecycle_msgs/msg/Transition.msg and State.msg, and rcl_lifecycle/src/default_state_machine.c, of ros2/rcl (Jazzy):
# id, label, start, goal in order of registration.
PUBLISHED = """
1 configure 1 10, 10 transition_success 10 2, 11 transition_failure 10 1, 12 transition_error 10 15,
2 cleanup 2 11, 20 transition_success 11 1, 21 transition_failure 11 2, 22 transition_error 11 15,
3 activate 2 13, 30 transition_success 13 3, 31 transition_failure 13 2, 32 transition_error 13 15,
4 deactivate 3 14, 40 transition_success 14 2, 41 transition_failure 14 3, 42 transition_error 14 15,
5 shutdown 1 12, 6 shutdown 2 12, 7 shutdown 3 12,
50 transition_success 12 4, 51 transition_failure 12 4, 52 transition_error 12 15,
60 transition_success 15 1, 61 transition_failure 15 4, 62 transition_error 15 4
"""
PUBLISHED_STATES = {
    0: "unknown",
    1: "unconfigured",
    2: "inactive",
    3: "active",
    4: "finalized",
    10: "configuring",
    11: "cleaningup",
    12: "shuttingdown",
    13: "activating",
    14: "deactivating",
    15: "errorprocessing",
}


def raising(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_states_and_transitions_are_those_of_ros_in_its_order() -> None:
    assert {state.id: state.label for state in STATES} == PUBLISHED_STATES
    assert [state.id for state in STATES] == list(PUBLISHED_STATES)
    rows = [f"{t.id} {t.label} {t.start.id} {t.goal.id}" for t in TRANSITIONS]
    assert rows == [row.strip() for row in PUBLISHED.split(",")]


def test_a_node_lives_through_all_its_states() -> None:
    done: list[str] = []
    seen: list[Transition] = []
    verbs = ("configure", "activate", "deactivate", "cleanup", "shutdown")
    life = Lifecycle({verb: lambda verb=verb: done.append(verb) for verb in verbs}, seen.append)  # type: ignore[misc]
    assert life.state is UNCONFIGURED
    assert life.change("configure")
    assert life.state is INACTIVE
    assert life.change(3)  # activate
    assert life.state is ACTIVE
    assert life.change("deactivate")
    assert life.change("cleanup")
    assert life.state is UNCONFIGURED
    assert life.change("shutdown")
    assert life.state is FINALIZED
    assert done == ["configure", "activate", "deactivate", "cleanup", "shutdown"]
    assert [t.id for t in seen] == [1, 10, 3, 30, 4, 40, 2, 20, 5, 50]
    assert life.available() == ()


def test_shutdown_by_its_label_works_from_each_primary_state() -> None:
    for verbs, number in (((), 5), (("configure",), 6), (("configure", "activate"), 7)):
        life = Lifecycle({})
        assert [life.change(verb) for verb in verbs] == [True] * len(verbs)
        assert [t.id for t in life.available() if t.label == "shutdown"] == [number]
        assert not any(life.change(other) for other in {5, 6, 7} - {number})
        assert life.change(number)
        assert life.state is FINALIZED


@pytest.mark.parametrize("verb", ["activate", "cleanup", "deactivate", "transition_success", "", "fly", 3, 10, 0, 255])
def test_what_cannot_follow_is_refused_with_what_can(verb: str | int) -> None:
    said: list[str] = []
    life = Lifecycle({}, say=said.append)
    assert not life.change(verb)
    assert life.state is UNCONFIGURED
    (line,) = said
    assert "configure, shutdown can be had" in line


def test_a_failure_leaves_the_state_and_says_why() -> None:
    said: list[str] = []
    seen: list[int] = []
    life = Lifecycle({"activate": raising(UserError("no model"))}, lambda t: seen.append(t.id), said.append)
    life.change("configure")
    assert not life.change("activate")
    assert life.state is INACTIVE
    assert said == ["activate failed: no model"]
    assert seen == [1, 10, 3, 31]


def test_an_error_is_cleaned_up_and_the_node_can_begin_anew() -> None:
    cleaned: list[int] = []
    said: list[str] = []
    work = {"activate": raising(RuntimeError("broke")), "error": lambda: cleaned.append(1)}
    life = Lifecycle(work, say=said.append)
    life.change("configure")
    assert not life.change("activate")
    assert life.state is UNCONFIGURED
    assert cleaned == [1]
    assert said == ["activate failed: RuntimeError: broke"]
    assert life.change("configure")


def test_an_error_that_cannot_be_cleaned_up_ends_the_node() -> None:
    life = Lifecycle({"configure": raising(RuntimeError("a")), "error": raising(RuntimeError("b"))})
    assert not life.change("configure")
    assert life.state is FINALIZED


def test_a_shutdown_that_fails_ends_the_node_all_the_same() -> None:
    life = Lifecycle({"shutdown": raising(UserError("no"))})
    assert not life.change("shutdown")
    assert life.state is FINALIZED


def test_of_two_who_want_a_change_at_once_one_gets_it_and_the_state_between_is_told() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        assert go_on.wait(5.0)

    life = Lifecycle({"configure": slow})
    results: list[bool] = []
    first = threading.Thread(target=lambda: results.append(life.change("configure")))
    first.start()
    try:
        assert entered.wait(5.0)
        assert life.state.label == "configuring"
        assert not life.change("configure")
        assert not life.change("transition_success")
    finally:
        go_on.set()
        first.join(5.0)
    assert results == [True]
    assert life.state is INACTIVE


@given(st.lists(st.tuples(st.sampled_from(range(-1, 10)), st.sampled_from(["", "fails", "errs"])), max_size=30))
def test_whatever_is_asked_the_node_rests_in_a_primary_state(wishes: list[tuple[int, str]]) -> None:
    outcome = [""]

    def work() -> None:
        if outcome[0] == "fails":
            raise UserError("no")
        if outcome[0] == "errs":
            raise RuntimeError("no")

    seen: list[Transition] = []
    life = Lifecycle(dict.fromkeys(("configure", "activate", "deactivate", "cleanup", "shutdown"), work), seen.append)
    for number, wish in wishes:
        outcome[0] = wish
        before = life.state
        was_possible = number in [t.id for t in life.available()]
        assert life.change(number) == (was_possible and not wish)
        assert was_possible or life.state is before
        assert life.state in (UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED)
    assert all(a.goal is b.start for a, b in pairwise(seen))
    assert set(seen) <= set(TRANSITIONS)
