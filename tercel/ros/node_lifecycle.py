"""A live host as a managed rclpy node. Only where rclpy is installed can this be imported; see `tercel.ros.node`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RclpyParameter
from rclpy.serialization import deserialize_message

from tercel.core.errors import UserError, nearest_hint
from tercel.core.messages import Message
from tercel.hosts.graph import Graph
from tercel.hosts.live import LiveHost
from tercel.hosts.networks import open_models
from tercel.ros.host_services import offer_services
from tercel.ros.node import OWN_PARAMETERS, WHICH_GRAPH, graph_of
from tercel.ros.node_transport import RclpyTransport
from tercel.ros.parameter_services import HostParameters, HostSetting, descriptor, offload_policy
from tercel.ros.parameters import Parameter, apply, declare, names
from tercel.ros.store import STORE

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_RCLPYS_OWN = ("use_sim_time", "start_type_description_service")


class GraphNode(LifecycleNode):  # type: ignore[misc]
    """A graph at work in one node. graph: None, if the parameter `graph` says which.

    Raises UserError for parameters that cannot be used.
    """

    def __init__(self, name: str, graph: Graph | None) -> None:
        super().__init__(name)
        self._host: LiveHost | None = None
        self._settings: HostParameters | None = None
        self._until_cleanup = contextlib.ExitStack()
        self._declare_own(graph)
        chosen = graph_of(self._text("graph"), self._text("component")) if graph is None else graph
        self._graph = self._declare_graph(chosen)
        self._warn_of_unknown()
        self.add_on_set_parameters_callback(self._on_set)

    # --- from start to end -----------------------------------------------------------------------------------------

    @property
    def autostart(self) -> bool:
        """Whether to begin without being told to."""
        return bool(self.get_parameter("autostart").value)

    def begin(self) -> bool:
        """Configure and activate; whether both succeeded."""
        return bool(self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS)

    def finish(self) -> bool:
        """Stop and let go of everything; may be called again. Whether no component has failed."""
        sound = self._host is None or self._stop(self._host)
        self._host, self._settings = None, None
        self._until_cleanup.close()
        return sound

    def _stop(self, host: LiveHost) -> bool:
        """Stop, and say what became of all messages; whether no component has failed."""
        if host.is_running:
            for name, row in host.stop().components.items():
                counts = ", ".join(f"{row[key]} {key}" for key in ("received", "processed", "dropped", "rejected"))
                self.get_logger().info(f"{name}: {counts}")
        return not any(row["failed"] for row in host.status()["components"].values())

    def _made(self) -> LiveHost:
        if self._host is None:
            raise UserError("the node is not configured")
        return self._host

    def warn(self, line: str) -> None:
        """Tell the user, by the node's logger."""
        self.get_logger().warning(line)

    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Load the networks, and make the host."""
        return self._tried("configure", self._configure)

    def on_activate(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to work."""
        return self._tried("activate", lambda: self._made().start())

    def on_deactivate(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Stop working; the account says what became of what was waiting."""
        return self._tried("deactivate", lambda: self._stop(self._made()))

    def on_cleanup(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of networks, publishers and services."""
        return self._tried("cleanup", self.finish)

    def on_shutdown(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, and let go of everything."""
        return self._tried("shutdown", self.finish)

    def on_error(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """As cleanup: the node can be configured again."""
        return self._tried("error", self.finish)

    def _tried(self, verb: str, work: Any) -> TransitionCallbackReturn:
        """What rclpy wants to hear. It would swallow what is raised."""
        try:
            work()
        except UserError as error:
            self.get_logger().error(f"{verb} failed: {error}")
            return FAILURE
        except Exception as error:
            self.get_logger().error(f"{verb} failed: {type(error).__name__}: {error}")
            return TransitionCallbackReturn.ERROR
        return SUCCESS

    def _configure(self) -> None:
        with contextlib.ExitStack() as stack:
            models, own, hear = self._models(stack)
            transport = stack.enter_context(RclpyTransport(self, say=self.warn))
            host = LiveHost(
                self._graph,
                transport,
                models=models,
                namespace=self.get_namespace(),
                use_sim_time=bool(self.get_parameter("use_sim_time").value),
                say=self.warn,
                name=self.get_name(),
                on_output=hear,
            )
            recordings = offer_services(
                host,
                transport,
                self.get_fully_qualified_name(),
                record_dir=Path(self._text("record_dir")),
                say=self.warn,
            )
            stack.callback(recordings.close)
            for setting in own:
                self._declare(setting.parameter)
                stack.callback(self.undeclare_parameter, setting.parameter.name)
            self._settings = HostParameters(host, own)
            self._host = host
            self._until_cleanup = stack.pop_all()

    def _models(self, stack: contextlib.ExitStack) -> tuple[Any, list[HostSetting], Callable[[str, Message], None]]:
        """The graph's networks, their parameters, and an ear for the tracker's wish when to look next."""
        given = {name: file for name in self._graph.models if (file := self._text(f"models.{name}"))}
        file = self._text("offload.file")
        models, hear = open_models(self._graph, given, 2, Path(file) if file else None, stack, self.warn)
        return models, [offload_policy(models)] if file else [], hear

    # --- parameters ------------------------------------------------------------------------------------------------

    def _text(self, name: str) -> str:
        return str(self.get_parameter(name).value)

    def _declare_own(self, graph: Graph | None) -> None:
        for name, (value, description) in (OWN_PARAMETERS | ({} if graph else WHICH_GRAPH)).items():
            self.declare_parameter(name, value, ParameterDescriptor(description=description, read_only=True))

    def _declare_graph(self, graph: Graph) -> Graph:
        """Declare the parameters of a graph; the graph with those values that the user has given."""
        for name, path in graph.models.items():
            about = ParameterDescriptor(description="the network's ONNX file", read_only=True)
            self.declare_parameter(f"models.{name}", "" if path is None else str(path), about)
        given = {}
        for parameter in declare(graph):
            declared = self._declare(parameter)
            if declared.type_ != RclpyParameter.Type.NOT_SET and _plain(declared.value) != parameter.value:
                given[parameter.name] = _plain(declared.value)
        return apply(graph, given)

    def _declare(self, parameter: Parameter) -> Any:
        about = _descriptor(parameter)
        if parameter.value != ():
            value = list(parameter.value) if isinstance(parameter.value, tuple) else parameter.value
            return self.declare_parameter(parameter.name, value, about)
        kind = RclpyParameter.Type(int(parameter.kind))  # rclpy reads no type off an empty list
        declared = self.declare_parameter(parameter.name, kind, about)
        if declared.type_ == RclpyParameter.Type.NOT_SET:
            self.set_parameters([RclpyParameter(parameter.name, kind, [])])
            return self.get_parameter(parameter.name)
        return declared

    def _warn_of_unknown(self) -> None:
        """A parameter that nobody declares is a slip of somebody's pen; rclpy says nothing of it."""
        known = list(self._parameters)
        for name in self._parameter_overrides:
            if name not in known and name not in _RCLPYS_OWN and not name.startswith(("qos_overrides.", "models.")):
                self.warn(f"no parameter {name!r}; {nearest_hint(name, known)}")

    def _on_set(self, parameters: Sequence[Any]) -> SetParametersResult:
        """rclpy asks before it sets; types and ranges it has compared already."""
        is_ours = {**self._settings.values()} if self._settings else names(self._graph)
        changes = {p.name: _plain(p.value) for p in parameters if p.name in is_ours}
        try:
            if self._settings is not None:
                self._settings.set(changes)
            own = {name: value for name, value in changes.items() if name in names(self._graph)}
            self._graph = apply(self._graph, own)
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def _plain(value: Any) -> Any:
    """A parameter's value as the suite has it: arrays are tuples."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else tuple(value)


def _descriptor(parameter: Parameter) -> Any:
    """The same as other hosts answer, in rclpy's class. A default beyond all bounds, infinity say, must stay."""
    if parameter.bounds is not None and not (
        parameter.value is not None and parameter.bounds[0] <= parameter.value <= parameter.bounds[1]
    ):
        parameter = replace(parameter, bounds=None)
    data = STORE.serialize_cdr(descriptor(parameter), "rcl_interfaces/msg/ParameterDescriptor")
    return deserialize_message(bytes(data), ParameterDescriptor)
