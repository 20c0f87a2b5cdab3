"""A host as a managed node over any transport: what `ros2 lifecycle` asks, and the events that it hears.

Configuring loads nothing that is not loaded yet: a graph and its networks are checked before there is a node.
Activating starts the host, deactivating stops it. Names, types and ids are those of rcl_lifecycle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tercel.ros.answering import serve
from tercel.ros.lifecycle import FINALIZED, STATES, TRANSITIONS, Lifecycle, State, Transition
from tercel.ros.service_types import make
from tercel.ros.store import STORE
from tercel.ros.transport import RELIABLE, Transport

if TYPE_CHECKING:
    from tercel.hosts.live import LiveHost

EVENT_TYPE = "lifecycle_msgs/msg/TransitionEvent"


def offer_lifecycle(
    host: LiveHost,
    transport: Transport,
    node: str,
    *,
    on_shutdown: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda _line: None,
) -> Lifecycle:
    """Offer a host's life as a managed node's. node: its full name. on_shutdown: called when somebody has shut the
    node down, from the transport's thread: it should make the process end, and must return at once."""
    events = transport.advertise(f"{node}/transition_event", EVENT_TYPE, RELIABLE)

    def stop() -> None:
        host.stop()

    def tell(transition: Transition) -> None:
        event = make(
            EVENT_TYPE,
            timestamp=host.now_ns(),
            transition=_transition(transition),
            start_state=_state(transition.start),
            goal_state=_state(transition.goal),
        )
        events.publish(STORE.serialize_cdr(event, EVENT_TYPE))

    lifecycle = Lifecycle(
        {"activate": host.start, "deactivate": stop, "cleanup": stop, "shutdown": stop, "error": stop}, tell, say
    )

    def change_state(asked: Any) -> dict[str, Any]:
        success = lifecycle.change(asked.transition.label or asked.transition.id)
        if success and lifecycle.state is FINALIZED:
            on_shutdown()
        return {"success": success}

    services: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
        "change_state": ("ChangeState", change_state),
        "get_state": ("GetState", lambda _asked: {"current_state": _state(lifecycle.state)}),
        "get_available_states": (
            "GetAvailableStates",
            lambda _asked: {"available_states": [_state(state) for state in STATES]},
        ),
        "get_available_transitions": (
            "GetAvailableTransitions",
            lambda _asked: {"available_transitions": _described(lifecycle.available())},
        ),
        "get_transition_graph": (
            "GetAvailableTransitions",
            lambda _asked: {"available_transitions": _described(TRANSITIONS)},
        ),
    }
    for name, (kind, work) in services.items():
        serve(transport, f"{node}/{name}", f"lifecycle_msgs/srv/{kind}", work, say)
    return lifecycle


def _state(state: State) -> Any:
    return make("lifecycle_msgs/msg/State", id=state.id, label=state.label)


def _transition(transition: Transition) -> Any:
    return make("lifecycle_msgs/msg/Transition", id=transition.id, label=transition.label)


def _described(transitions: Iterable[Transition]) -> list[Any]:
    return [
        make(
            "lifecycle_msgs/msg/TransitionDescription",
            transition=_transition(transition),
            start_state=_state(transition.start),
            goal_state=_state(transition.goal),
        )
        for transition in transitions
    ]
