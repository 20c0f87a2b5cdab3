"""The life of a ROS 2 managed node, for hosts that have no rclpy: states, transitions, and what may follow what.

Ids, labels and their order are those of lifecycle_msgs and of rcl_lifecycle's default state machine, so that
`ros2 lifecycle` cannot tell the difference. What a transition does is the host's business: it is given as one function
for each verb. One that raises UserError has failed (the state is as before); any other error is an error in ROS 2's
sense: the verb "error" cleans up, and the node is unconfigured again, or finalized if that fails, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tercel.core.errors import UserError


@dataclass(frozen=True)
class State:
    """A state of lifecycle_msgs/msg/State."""

    id: int
    label: str


@dataclass(frozen=True)
class Transition:
    """A transition of lifecycle_msgs/msg/TransitionDescription."""

    id: int
    label: str
    start: State
    goal: State


STATES = tuple(
    State(number, label)
    for number, label in (
        (0, "unknown"),
        (1, "unconfigured"),
        (2, "inactive"),
        (3, "active"),
        (4, "finalized"),
        (10, "configuring"),
        (11, "cleaningup"),
        (12, "shuttingdown"),
        (13, "activating"),
        (14, "deactivating"),
        (15, "errorprocessing"),
    )
)
_NAMED = {state.label: state for state in STATES}
UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = (
    _NAMED[name] for name in ("unconfigured", "inactive", "active", "finalized")
)

SUCCESS, FAILURE, ERROR = "transition_success", "transition_failure", "transition_error"
FIRST_PRIVATE_ID = 10
"""Transitions from this id on follow from what a verb did; nobody may ask for them."""


def _described() -> tuple[Transition, ...]:
    """Every transition, in the order in which rcl_lifecycle registers them."""
    rows = [
        (1, "configure", "unconfigured", "configuring"),
        *_endings(10, "configuring", "inactive", "unconfigured"),
        (2, "cleanup", "inactive", "cleaningup"),
        *_endings(20, "cleaningup", "unconfigured", "inactive"),
        (3, "activate", "inactive", "activating"),
        *_endings(30, "activating", "active", "inactive"),
        (4, "deactivate", "active", "deactivating"),
        *_endings(40, "deactivating", "inactive", "active"),
        (5, "shutdown", "unconfigured", "shuttingdown"),
        (6, "shutdown", "inactive", "shuttingdown"),
        (7, "shutdown", "active", "shuttingdown"),
        *_endings(50, "shuttingdown", "finalized", "finalized"),
        (60, SUCCESS, "errorprocessing", "unconfigured"),
        (61, FAILURE, "errorprocessing", "finalized"),
        (62, ERROR, "errorprocessing", "finalized"),
    ]
    return tuple(Transition(number, label, _NAMED[start], _NAMED[goal]) for number, label, start, goal in rows)


def _endings(first_id: int, during: str, done: str, failed: str) -> list[tuple[int, str, str, str]]:
    return [
        (first_id, SUCCESS, during, done),
        (first_id + 1, FAILURE, during, failed),
        (first_id + 2, ERROR, during, "errorprocessing"),
    ]


TRANSITIONS = _described()


class Lifecycle:
    """The state of one node. Any thread may ask; of two that want a change at once, one is refused.

    work: what to do for "configure", "cleanup", "activate", "deactivate", "shutdown" and "error"; a verb that is not
    there needs nothing done. on_transition: told of each transition once its goal is reached. say: told in one line
    why a transition failed.
    """

    def __init__(
        self,
        work: Mapping[str, Callable[[], None]],
        on_transition: Callable[[Transition], None] = lambda _transition: None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._work = work
        self._on_transition = on_transition
        self._say = say
        self._state = UNCONFIGURED
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        """The state of now; one such as "activating" while the work for it is done."""
        return self._state

    def available(self) -> tuple[Transition, ...]:
        """The transitions that begin in the state of now."""
        return tuple(transition for transition in TRANSITIONS if transition.start is self._state)

    def change(self, verb: str | int) -> bool:
        """Do what a transition's label or id wants; whether it was possible and succeeded."""
        with self._lock:
            begin = self._wanted(verb)
            if begin is None:
                self._say(f"no transition {verb!r} from state {self._state.label}: {self._offer()}")
                return False
            self._state = begin.goal
        self._on_transition(begin)
        ending = self._do(begin.label)
        self._end(ending)
        if ending == ERROR:
            self._end(self._do("error"))
        return ending == SUCCESS

    def _wanted(self, verb: str | int) -> Transition | None:
        for transition in self.available():
            if transition.id < FIRST_PRIVATE_ID and verb in (transition.label, transition.id):
                return transition
        return None

    def _offer(self) -> str:
        labels = [transition.label for transition in self.available() if transition.id < FIRST_PRIVATE_ID]
        return f"{', '.join(labels)} can be had" if labels else "none can be had now"

    def _do(self, verb: str) -> str:
        try:
            self._work.get(verb, _nothing)()
        except UserError as error:
            self._say(f"{verb} failed: {error}")
            return FAILURE
        except Exception as error:  # the node must live on, in a state that says so
            self._say(f"{verb} failed: {type(error).__name__}: {error}")
            return ERROR
        return SUCCESS

    def _end(self, label: str) -> None:
        (ending,) = (transition for transition in self.available() if transition.label == label)
        with self._lock:
            self._state = ending.goal
        self._on_transition(ending)


def _nothing() -> None:
    pass
