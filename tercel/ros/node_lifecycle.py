"""A live host as a managed rclpy node. Only where rclpy is installed can this be imported; see `tercel.ros.node`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RclpyParameter

from tercel.core.errors import UserError, nearest_hint
from tercel.hosts.graph import Graph
from tercel.hosts.live import LiveHost
from tercel.hosts.networks import load_networks, offloaded
from tercel.ros.node import OWN_PARAMETERS, WHICH_GRAPH, graph_of
from tercel.ros.node_transport import RclpyTransport
from tercel.ros.parameters import Kind, Parameter, apply, declare, names

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
_RCLPYS_OWN = ("use_sim_time", "start_type_description_service")


class GraphNode(LifecycleNode):  # type: ignore[misc]
    """A graph at work in one node. graph: None, if the parameter `graph` says which.

    Raises UserError for parameters that cannot be used.
    """

    def __init__(self, name: str, graph: Graph | None) -> None:
        super().__init__(name)
        self._host: LiveHost | None = None
        self._until_cleanup = contextlib.ExitStack()
        try:
            self._declare_own(graph)
            chosen = graph_of(self._text("graph"), self._text("component")) if graph is None else graph
            self._graph = self._declare_graph(chosen)
            self._warn_of_unknown()
        except BaseException as error:
            self.destroy_node()
            if type(error).__module__.startswith("rclpy."):
                raise UserError(" ".join(str(error).split())) from None
            raise
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
        sound = True
        if self._host is not None:
            account = self._host.stop()
            sound = not any(row["failed"] for row in account.components.values())
            for line in account.lines() if hasattr(account, "lines") else ():
                self.get_logger().info(line)
        self._host = None
        self._until_cleanup.close()
        return sound

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
        return self._tried("deactivate", lambda: self._made().stop())

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
            from offload.models import always_one

            given = {name: file for name in self._graph.models if (file := self._text(f"models.{name}"))}
            models: Any = load_networks(self._graph, given, threads=2)
            if models and (offload := self._text("offload.file")):
                models = stack.enter_context(
                    offloaded(Path(offload), self._graph, models, hint=always_one, say=self.warn)
                )
            elif models:
                from perception.runtime import LocalModels

                models = LocalModels(models)
            transport = stack.enter_context(RclpyTransport(self, say=self.warn))
            self._host = LiveHost(
                self._graph,
                transport,
                models=models or None,
                namespace=self.get_namespace(),
                use_sim_time=bool(self.get_parameter("use_sim_time").value),
                say=self.warn,
                name=self.get_name(),
            )
            self._until_cleanup = stack.pop_all()

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
        kind = RclpyParameter.Type(int(parameter.kind))
        if parameter.value not in (None, ()):
            value = list(parameter.value) if isinstance(parameter.value, tuple) else parameter.value
            return self.declare_parameter(parameter.name, value, _descriptor(parameter))
        # No type can be read off an empty list, or nothing.
        declared = self.declare_parameter(parameter.name, kind, _descriptor(parameter))
        if declared.type_ == RclpyParameter.Type.NOT_SET and parameter.value == ():
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
        changes = {p.name: _plain(p.value) for p in parameters if p.name in names(self._graph)}
        try:
            self._change(changes)
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _change(self, changes: dict[str, Any]) -> None:
        """Another graph, and another config of each component concerned: all or none."""
        graph = apply(self._graph, changes)
        changed: list[Any] = []
        try:
            for old, new in zip(self._graph.nodes, graph.nodes, strict=True):
                if self._host is not None and new.config is not old.config:
                    self._made().reconfigure(new.name, new.config)
                    changed.append(old)
        except UserError:
            for old in changed:
                self._made().reconfigure(old.name, old.config)
            raise
        self._graph = graph


def _plain(value: Any) -> Any:
    """A parameter's value as the suite has it: arrays are tuples."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else tuple(value)


def _descriptor(parameter: Parameter) -> Any:
    descriptor = ParameterDescriptor(description=parameter.description, read_only=parameter.is_read_only)
    if parameter.choices:
        descriptor.additional_constraints = f"one of {', '.join(parameter.choices)}"
    elif not parameter.is_live:
        descriptor.additional_constraints = "cannot change while the node is active"
    if parameter.bounds is not None and parameter.value is not None:
        low, high = parameter.bounds
        if parameter.kind is Kind.INTEGER:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
        elif low <= parameter.value <= high:
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
    return descriptor
