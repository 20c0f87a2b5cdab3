"""A host's parameters over any transport: what `ros2 param` asks, and the events that it hears.

The services are those of every ROS 2 node (rcl_interfaces/srv), with rclpy's answers: one unknown name in a request
makes an empty answer. Settings of a component that can change at work do so between two calls; the others want the
node to be inactive, and are refused with the way there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tercel.core.errors import UserError, nearest_hint
from tercel.hosts.graph import Graph
from tercel.ros.answering import serve
from tercel.ros.parameters import Kind, Parameter, apply, declare, names, unknown, values
from tercel.ros.service_types import make
from tercel.ros.store import STORE
from tercel.ros.transport import COMMAND, Transport

if TYPE_CHECKING:
    from tercel.hosts.live import LiveHost

EVENT_TYPE = "rcl_interfaces/msg/ParameterEvent"
_FIELDS = {
    Kind.BOOL: "bool_value",
    Kind.INTEGER: "integer_value",
    Kind.DOUBLE: "double_value",
    Kind.STRING: "string_value",
    Kind.BYTE_ARRAY: "byte_array_value",
    Kind.BOOL_ARRAY: "bool_array_value",
    Kind.INTEGER_ARRAY: "integer_array_value",
    Kind.DOUBLE_ARRAY: "double_array_value",
    Kind.STRING_ARRAY: "string_array_value",
}


@dataclass(frozen=True)
class HostSetting:
    """A parameter of the host itself. set: None, it cannot be set; raises UserError for a value that it refuses."""

    parameter: Parameter
    get: Callable[[], Any]
    set: Callable[[Any], None] | None = None


def use_sim_time(value: bool) -> HostSetting:
    """The parameter that every ROS 2 node has; here it is chosen at the start."""
    text = "Whether time is what /clock says; chosen when the node is started (--sim-time)."
    return HostSetting(Parameter("use_sim_time", Kind.BOOL, value, text, is_read_only=True), lambda: value)


def offload_policy(models: Any) -> HostSetting:
    """The policy by which networks run on the board or elsewhere. models: `tercel.hosts.networks.LoopModels`.

    What runs when it changes ends as it would have, and is accounted for: see `offload.manager.Manager.change_policy`.
    """
    from offload.policies import POLICIES

    def set_policy(name: str) -> None:
        try:
            models.call(lambda offloaded: offloaded.set_policy(name))
        except TimeoutError:
            raise UserError("offload.policy: the offload manager does not answer") from None

    def get_policy() -> str:
        return str(models.call(lambda offloaded: offloaded.policy))

    text = "Which policy decides where and when networks run."
    told = Parameter("offload.policy", Kind.STRING, get_policy(), text, choices=tuple(POLICIES), is_live=True)
    return HostSetting(told, get_policy, set_policy)


class HostParameters:
    """The parameters of one host: its components' settings and its own, read and set by name. From any thread.

    Raises UserError if a component's parameter is called as one of the host's.
    """

    def __init__(self, host: LiveHost, own: Sequence[HostSetting] = ()) -> None:
        self._host = host
        self._own = {setting.parameter.name: setting for setting in own}
        self._lock = threading.Lock()
        for name in values(host.graph):
            if name in self._own:
                raise UserError(f"graph {host.graph.name}: {name} is a parameter of the host: rename the component")

    def _graph(self) -> Graph:
        """The graph with the configs of now."""
        host = self._host
        return replace(
            host.graph, nodes=tuple(replace(node, config=host.config(node.name)) for node in host.graph.nodes)
        )

    def values(self) -> dict[str, tuple[Kind, Any]]:
        """Type and value of every parameter."""
        own = {name: (setting.parameter.kind, setting.get()) for name, setting in self._own.items()}
        return own | values(self._graph())

    def declare(self, wanted: Sequence[str] | None = None) -> list[Parameter]:
        """All that can be told of the parameters, or of those of these names."""
        own = [setting.parameter for name, setting in self._own.items() if wanted is None or name in wanted]
        return own + declare(self._graph(), wanted)

    def set(self, changes: Mapping[str, Any]) -> dict[str, tuple[Kind, Any]]:
        """Set all of these or, raising UserError, none. Returns those whose value is another now."""
        with self._lock:
            before = self.values()
            for name in changes:
                if name not in before:
                    raise unknown(name, before)
            own = {name: value for name, value in changes.items() if name in self._own}
            for name, value in own.items():
                self._check_own(name, value)
            old = self._graph()
            new = apply(old, {name: value for name, value in changes.items() if name not in own})
            self._check_live(old, new)
            for name, value in own.items():
                setting = self._own[name].set
                if setting is not None and value != before[name][1]:
                    setting(value)
            for node in new.nodes:
                if node.config != self._host.config(node.name):
                    self._host.reconfigure(node.name, node.config)
            after = self.values()
            return {name: after[name] for name in changes if after[name] != before[name]}

    def _check_own(self, name: str, value: Any) -> None:
        setting = self._own[name]
        told = setting.parameter
        if setting.set is None and value != setting.get():
            raise UserError(f"{name} cannot be set: {told.description}")
        if type(value) is not type(told.value):
            raise UserError(f"{name}: {type(told.value).__name__} is wanted, not {value!r}")
        if told.choices and value not in told.choices:
            raise UserError(f"{name}: there is no {value!r}; {nearest_hint(str(value), told.choices)}")

    def _check_live(self, old: Graph, new: Graph) -> None:
        """What cannot change at work needs the host to be at rest."""
        if not self._host.is_running:
            return
        after = names(new)
        for name, (node, field) in names(old).items():
            is_same = getattr(node.config, field) == getattr(after[name][0].config, field)
            if not is_same and field not in node.component.live_settings:
                raise UserError(
                    f"{name} cannot change while the node is active: deactivate it (ros2 lifecycle set NODE "
                    "deactivate), set it, and activate it again"
                )


# --- on the wire -------------------------------------------------------------------------------------------------


def offer_parameters(
    host: LiveHost,
    transport: Transport,
    node: str,
    own: Sequence[HostSetting] = (),
    *,
    say: Callable[[str], None] = lambda _line: None,
) -> HostParameters:
    """Offer a host's parameters as a node's. node: its full name. own: parameters that are the host's."""
    parameters = HostParameters(host, own)
    events = transport.advertise("/parameter_events", EVENT_TYPE, COMMAND)

    def tell(**news: dict[str, tuple[Kind, Any]]) -> None:
        sec, nanosec = divmod(host.now_ns(), 10**9)
        stamp = make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
        rows = {key: [_parameter(name, *value) for name, value in rows.items()] for key, rows in news.items()}
        event = make(EVENT_TYPE, stamp=stamp, node=node, **rows)
        events.publish(STORE.serialize_cdr(event, EVENT_TYPE))

    def set_all(rows: Sequence[Any]) -> Any:
        try:
            changed = parameters.set({row.name: from_value(row.value) for row in rows})
        except UserError as error:
            return make(_RESULT, successful=False, reason=str(error))
        if changed:
            tell(changed_parameters=changed)
        return make(_RESULT, successful=True)

    services: dict[str, tuple[str, Callable[[Any], Mapping[str, Any]]]] = {
        "list_parameters": (
            "ListParameters",
            lambda asked: {"result": _listed(list(parameters.values()), asked.prefixes, asked.depth)},
        ),
        "get_parameters": (
            "GetParameters",
            lambda asked: {"values": [to_value(*value) for value in _of(parameters.values(), asked.names)]},
        ),
        "get_parameter_types": (
            "GetParameterTypes",
            lambda asked: {"types": [_type(*value) for value in _of(parameters.values(), asked.names)]},
        ),
        "describe_parameters": (
            "DescribeParameters",
            lambda asked: {"descriptors": _described(parameters.declare(asked.names), asked.names)},
        ),
        "set_parameters": (
            "SetParameters",
            lambda asked: {"results": [set_all([row]) for row in asked.parameters]},
        ),
        "set_parameters_atomically": (
            "SetParametersAtomically",
            lambda asked: {"result": set_all(asked.parameters)},
        ),
    }
    for name, (kind, work) in services.items():
        serve(transport, f"{node}/{name}", f"rcl_interfaces/srv/{kind}", work, say)
    tell(new_parameters=parameters.values())
    return parameters


def to_value(kind: Kind, value: Any) -> Any:
    """A rcl_interfaces/msg/ParameterValue; None is "not set"."""
    if value is None:
        return make(_VALUE)
    return make(_VALUE, type=int(kind), **{_FIELDS[kind]: list(value) if isinstance(value, tuple) else value})


def from_value(value: Any) -> Any:
    """The Python value of a rcl_interfaces/msg/ParameterValue. Raises UserError for a type that ROS does not have."""
    if value.type == Kind.NOT_SET:
        return None
    if value.type not in list(Kind):
        raise UserError(f"parameter type {value.type} is none of ROS's")
    found = getattr(value, _FIELDS[Kind(value.type)])
    if value.type < Kind.BYTE_ARRAY:
        return found
    return tuple(found.tolist() if hasattr(found, "tolist") else found)


_VALUE = "rcl_interfaces/msg/ParameterValue"
_RESULT = "rcl_interfaces/msg/SetParametersResult"


def _type(kind: Kind, value: Any) -> int:
    return int(Kind.NOT_SET if value is None else kind)


def _parameter(name: str, kind: Kind, value: Any) -> Any:
    return make("rcl_interfaces/msg/Parameter", name=name, value=to_value(kind, value))


def _of(known: Mapping[str, tuple[Kind, Any]], asked: Sequence[str]) -> list[tuple[Kind, Any]]:
    """Those that are asked for; none at all, if one of them is unknown."""
    return [known[name] for name in asked] if all(name in known for name in asked) else []


def _listed(known: Sequence[str], prefixes: Sequence[str], depth: int) -> Any:
    """As rclpy's Node.list_parameters: depth 0 is any; names below a prefix count their depth from it."""

    def is_near(name: str) -> bool:
        return depth == 0 or name.count(".") < depth

    def is_wanted(name: str) -> bool:
        if not prefixes:
            return is_near(name)
        return any(
            name == prefix or (name.startswith(f"{prefix}.") and is_near(name[len(prefix) + 1 :]))
            for prefix in prefixes
        )

    found = [name for name in known if is_wanted(name)]
    above = dict.fromkeys(name.rpartition(".")[0] for name in found if "." in name)
    return make("rcl_interfaces/msg/ListParametersResult", names=found, prefixes=list(above))


def _described(parameters: Sequence[Parameter], asked: Sequence[str]) -> list[Any]:
    by_name = {parameter.name: parameter for parameter in parameters}
    return [descriptor(by_name[name]) for name in asked] if all(name in by_name for name in asked) else []


def descriptor(parameter: Parameter) -> Any:
    """A rcl_interfaces/msg/ParameterDescriptor."""
    constraints = []
    if parameter.choices:
        constraints.append(f"One of {', '.join(parameter.choices)}.")
    if not parameter.is_live and not parameter.is_read_only:
        constraints.append("Cannot change while the node is active.")
    ranges = {}
    if parameter.bounds is not None:
        low, high = parameter.bounds
        if parameter.kind is Kind.INTEGER:
            row = make("rcl_interfaces/msg/IntegerRange", from_value=int(low), to_value=int(high), step=1)
            ranges["integer_range"] = [row]
        else:
            row = make("rcl_interfaces/msg/FloatingPointRange", from_value=float(low), to_value=float(high))
            ranges["floating_point_range"] = [row]
    return make(
        "rcl_interfaces/msg/ParameterDescriptor",
        name=parameter.name,
        type=int(parameter.kind),
        description=parameter.description,
        additional_constraints=" ".join(constraints),
        read_only=parameter.is_read_only,
        dynamic_typing=parameter.is_optional,
        **ranges,
    )
