"""What a host offers as a ROS 2 node, asked with real CDR bytes over the local transport."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel.core.component import Component, Input, Output, on
from tercel.core.errors import UserError
from tercel.core.messages import Array, Imu, Message, Odometry
from tercel.hosts.graph import Graph, Node
from tercel.hosts.live import LiveHost
from tercel.hosts.recording import open_recording
from tercel.ros.convert import encode
from tercel.ros.host_services import NodeServices, offer_node, save_ply
from tercel.ros.local import LocalTransport
from tercel.ros.parameter_services import HostSetting, offer_parameters, use_sim_time
from tercel.ros.parameters import Kind, Parameter
from tercel.ros.service_types import make, make_request, read_response
from tercel.ros.store import STORE
from tercel.ros.transport import COMMAND, RELIABLE, Identity

NODE = "/robot1/tercel"
NOW_NS = 1_767_225_599_000_000_000  # 2025-12-31 23:59:59 UTC


@dataclass(frozen=True)
class WalkerConfig:
    """How to walk. stride_m: the length of a step. legs: how many."""

    stride_m: float = 1.0
    legs: int = 4
    gaits: tuple[str, ...] = ("walk",)
    phases: tuple[float, ...] = ()
    deadline_ms: float | None = None
    is_tired: bool = False
    frame: str = "odom"

    def __post_init__(self) -> None:
        if not 0.0 < self.stride_m <= 5.0:
            raise ValueError(f"stride_m must be above 0 and at most 5, not {self.stride_m}")
        if not 2 <= self.legs <= 100:
            raise ValueError(f"legs must be in 2..100, not {self.legs}")


class Walker(Component):
    """One step along x for each message, and a map of its steps."""

    Config = WalkerConfig
    config: WalkerConfig
    live_settings = frozenset({"stride_m", "deadline_ms"})
    imu = Input(Imu)
    odometry = Output(Odometry)

    def __init__(self, config: WalkerConfig | None = None, models: object = None) -> None:
        super().__init__(config, None)
        if self.config.is_tired:
            raise UserError("too tired to walk")
        self._steps: list[float] = []

    @on(imu)
    def step(self, imu: Imu) -> dict[str, Message]:
        self._steps.append(self.config.stride_m + (self._steps[-1] if self._steps else 0.0))
        pose = np.eye(4)
        pose[0, 3] = self._steps[-1]
        out = Odometry(stamp_ns=imu.stamp_ns, frame_id="odom", child_frame_id="base", frame_T_child=pose)
        return {"odometry": out}

    def map_points_m(self) -> Array | None:
        if not self._steps:
            return None
        points_m = np.zeros((len(self._steps), 3))
        points_m[:, 0] = self._steps
        return points_m


class Listener(Component):
    """Hears and says nothing, and has no odometry."""

    Config = WalkerConfig
    imu = Input(Imu)

    @on(imu)
    def step(self, imu: Imu) -> dict[str, Message]:
        return {}


class Rig:
    """A host with its services on the local bus, and a ROS user beside it."""

    def __init__(self, folder: Path, *, components: tuple[type[Component], ...] = (Walker,), own: Any = ()) -> None:
        self.transport = LocalTransport(Identity("tercel", "/robot1", 77))
        self.user = LocalTransport(Identity("user", "/", 77))
        names = ("walker", "other", "third")
        nodes = tuple(
            Node(name, c, c.Config(), {"imu": "/imu"}, {port: f"/{name}/{port}" for port in c.outputs})
            for name, c in zip(names, components, strict=False)
        )
        self.said: list[str] = []
        self.events: dict[str, list[Any]] = {"/parameter_events": [], f"{NODE}/transition_event": []}
        for topic, kind in (
            ("/parameter_events", "rcl_interfaces/msg/ParameterEvent"),
            (f"{NODE}/transition_event", "lifecycle_msgs/msg/TransitionEvent"),
        ):
            self.user.subscribe(topic, kind, COMMAND, self._hear(topic, kind))
        self.host = LiveHost(
            Graph("walk", nodes, {}), self.transport, now_ns=lambda: NOW_NS, say=self.said.append, name="tercel"
        )
        self.shut_down = threading.Event()
        self.folder = folder
        self.node: NodeServices = offer_node(
            self.host,
            self.transport,
            NODE,
            record_dir=folder,
            own=own,
            on_shutdown=self.shut_down.set,
            say=self.said.append,
        )
        self._imu = self.user.advertise("/imu", "sensor_msgs/msg/Imu", RELIABLE)
        self._number = 0

    def _hear(self, topic: str, kind: str) -> Callable[[Any], None]:
        return lambda data: self.events[topic].append(STORE.deserialize_cdr(data, kind))

    def ask(self, name: str, srv_type: str, **request: Any) -> Any:
        data = self.user.call(f"{NODE}/{name}", srv_type, make_request(srv_type, **request), timeout_s=10.0)
        return read_response(srv_type, data)

    def trigger(self, name: str) -> tuple[bool, str]:
        answer = self.ask(name, "std_srvs/srv/Trigger")
        return answer.success, answer.message

    def change(self, label: str = "", number: int = 0) -> bool:
        transition = make("lifecycle_msgs/msg/Transition", id=number, label=label)
        return bool(self.ask("change_state", "lifecycle_msgs/srv/ChangeState", transition=transition).success)

    def state(self) -> tuple[int, str]:
        state = self.ask("get_state", "lifecycle_msgs/srv/GetState").current_state
        return state.id, state.label

    def get(self, *names: str) -> list[Any]:
        return list(self.ask("get_parameters", "rcl_interfaces/srv/GetParameters", names=list(names)).values)

    def set(self, **values: Any) -> list[tuple[bool, str]]:
        """Set parameters, one by one; values are (type, field, value)."""
        rows = [row(name.replace("__", "."), *value) for name, value in values.items()]
        results = self.ask("set_parameters", "rcl_interfaces/srv/SetParameters", parameters=rows).results
        return [(result.successful, result.reason) for result in results]

    def feed(self, count: int) -> None:
        for _ in range(count):
            self._number += 1
            zeros = np.zeros(3)
            imu = Imu(
                stamp_ns=self._number, frame_id="imu", angular_velocity_radps=zeros, linear_acceleration_mps2=zeros
            )
            self._imu.publish(encode(imu)[1])
            assert self.host.wait_idle(10.0)

    def close(self) -> None:
        self.host.stop()
        self.node.close()
        self.transport.close()
        self.user.close()


def row(name: str, kind: int, field: str = "", value: Any = None) -> Any:
    fields = {field: value} if field else {}
    return make(
        "rcl_interfaces/msg/Parameter", name=name, value=make("rcl_interfaces/msg/ParameterValue", type=kind, **fields)
    )


def double(value: float) -> tuple[int, str, float]:
    return 3, "double_value", value


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "recordings")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def active(rig: Rig) -> Rig:
    rig.node.begin()
    return rig


# --- lifecycle -------------------------------------------------------------------------------------------------------


def test_a_node_is_led_through_its_life_by_service_and_works_only_while_active(rig: Rig) -> None:
    assert rig.state() == (1, "unconfigured")
    assert not rig.change("activate")
    assert rig.change("configure")
    rig.feed(2)
    assert not rig.host.is_running
    assert rig.change(number=3)
    assert rig.state() == (3, "active")
    assert rig.host.is_running
    rig.feed(3)
    assert rig.host.status()["components"]["walker"]["processed"] == 3
    assert rig.change("deactivate")
    assert not rig.host.is_running
    assert rig.change("cleanup")
    assert rig.change("configure")
    assert rig.change("activate")
    assert not rig.shut_down.is_set()
    assert rig.change("shutdown")
    assert rig.state() == (4, "finalized")
    assert not rig.host.is_running
    assert rig.shut_down.is_set()
    events = rig.events[f"{NODE}/transition_event"]
    ids = [event.transition.id for event in events]
    assert ids == [1, 10, 3, 30, 4, 40, 2, 20, 1, 10, 3, 30, 7, 50]
    assert (events[0].start_state.label, events[0].goal_state.id, events[0].timestamp) == ("unconfigured", 10, NOW_NS)


def test_states_and_transitions_are_listed_as_ros_lists_them(active: Rig) -> None:
    states = active.ask("get_available_states", "lifecycle_msgs/srv/GetAvailableStates").available_states
    assert [state.id for state in states] == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15]
    kind = "lifecycle_msgs/srv/GetAvailableTransitions"
    now = active.ask("get_available_transitions", kind).available_transitions
    assert [(t.transition.id, t.transition.label, t.goal_state.label) for t in now] == [
        (4, "deactivate", "deactivating"),
        (7, "shutdown", "shuttingdown"),
    ]
    graph = active.ask("get_transition_graph", kind).available_transitions
    assert len(graph) == 25


def test_a_component_that_cannot_begin_leaves_the_node_inactive_and_says_why(rig: Rig) -> None:
    assert rig.set(is_tired=(1, "bool_value", True)) == [(True, "")]
    assert rig.change("configure")
    assert not rig.change("activate")
    assert rig.state() == (2, "inactive")
    assert "activate failed: too tired to walk" in rig.said
    with pytest.raises(UserError, match="inactive"):
        rig.node.begin()
    assert rig.set(is_tired=(1, "bool_value", False)) == [(True, "")]
    assert rig.change("activate")


# --- parameters ------------------------------------------------------------------------------------------------------

LIST = "rcl_interfaces/srv/ListParameters"


def test_parameters_are_listed_and_read(active: Rig) -> None:
    names = ["stride_m", "legs", "gaits", "phases", "deadline_ms", "is_tired", "frame"]
    result = active.ask("list_parameters", LIST).result
    assert (result.names, result.prefixes) == (names, [])
    values = active.get(*names)
    assert [value.type for value in values] == [3, 2, 9, 8, 0, 1, 4]
    assert (values[0].double_value, values[1].integer_value, values[2].string_array_value) == (1.0, 4, ["walk"])
    types = active.ask("get_parameter_types", "rcl_interfaces/srv/GetParameterTypes", names=names).types
    assert types.tolist() == [3, 2, 9, 8, 0, 1, 4]


def test_one_unknown_name_makes_an_empty_answer_as_with_rclpy(active: Rig) -> None:
    names = ["legs", "wings"]
    assert active.get(*names) == []
    assert len(active.ask("get_parameter_types", "rcl_interfaces/srv/GetParameterTypes", names=names).types) == 0
    assert active.ask("describe_parameters", "rcl_interfaces/srv/DescribeParameters", names=names).descriptors == []


def test_parameters_describe_themselves(active: Rig) -> None:
    names = ["stride_m", "legs", "deadline_ms", "frame"]
    stride, legs, deadline, frame = active.ask(
        "describe_parameters", "rcl_interfaces/srv/DescribeParameters", names=names
    ).descriptors
    assert (stride.name, stride.type, stride.description) == ("stride_m", 3, "the length of a step.")
    (interval,) = stride.floating_point_range
    assert (interval.from_value, interval.to_value) == (0.0, 5.0)
    (interval,) = legs.integer_range
    assert (interval.from_value, interval.to_value) == (2, 100)
    assert stride.additional_constraints == ""
    assert "while the node is active" in legs.additional_constraints
    assert (deadline.dynamic_typing, frame.dynamic_typing, frame.read_only) == (True, False, False)


@pytest.mark.parametrize(
    ("prefixes", "depth", "names", "above"),
    [
        ([], 0, ["sim", "a.x", "a.b.y", "ab.z"], ["a", "a.b", "ab"]),
        ([], 1, ["sim"], []),
        ([], 2, ["sim", "a.x", "ab.z"], ["a", "ab"]),
        (["a"], 0, ["a.x", "a.b.y"], ["a", "a.b"]),
        (["a"], 1, ["a.x"], ["a"]),
        (["a.b", "sim"], 1, ["sim", "a.b.y"], ["a.b"]),
        (["b"], 0, [], []),
    ],
)
def test_lists_are_cut_by_prefix_and_depth_as_rclpy_does(
    prefixes: list[str], depth: int, names: list[str], above: list[str]
) -> None:
    from tercel.ros.parameter_services import _listed

    result = _listed(["sim", "a.x", "a.b.y", "ab.z"], prefixes, depth)
    assert (result.names, result.prefixes) == (names, above)


def test_a_live_setting_changes_between_two_calls_and_the_event_says_so(active: Rig) -> None:
    active.feed(2)
    assert active.set(stride_m=double(0.5)) == [(True, "")]
    active.feed(2)
    walker = active.host.component("walker")
    assert isinstance(walker, Walker)
    assert walker._steps == [1.0, 2.0, 2.5, 3.0]
    first, event = active.events["/parameter_events"]
    assert [parameter.name for parameter in first.new_parameters][:2] == ["stride_m", "legs"]
    (changed,) = event.changed_parameters
    assert (changed.name, changed.value.type, changed.value.double_value) == ("stride_m", 3, 0.5)
    assert (event.node, event.stamp.sec) == (NODE, NOW_NS // 10**9)
    assert active.set(stride_m=double(0.5)) == [(True, "")]  # no change, no event
    assert len(active.events["/parameter_events"]) == 2


def test_another_setting_waits_for_the_node_to_be_inactive_and_says_so(active: Rig) -> None:
    ((successful, reason),) = active.set(legs=(2, "integer_value", 6))
    assert not successful
    assert "legs cannot change while the node is active: deactivate it" in reason
    assert active.set(legs=(2, "integer_value", 4)) == [(True, "")]  # it is 4
    assert active.change("deactivate")
    assert active.set(legs=(2, "integer_value", 6)) == [(True, "")]
    assert active.change("activate")
    assert active.host.component("walker").config.legs == 6


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("stride_m", (4, "string_value", "long"), "float is wanted"),
        ("stride_m", (1, "bool_value", True), "float is wanted"),
        ("stride_m", double(math.nan), "NaN"),
        ("stride_m", double(math.inf), "inf"),
        ("stride_m", double(7.0), "at most 5"),
        ("stride_m", double(-1.0), "above 0"),
        ("stride_m", (0,), "float is wanted"),
        ("stride_m", (77,), "none of ROS's"),
        ("stride_m", (8, "double_array_value", [1.0]), "float is wanted"),
        ("stride_m", (5, "byte_array_value", [1]), "float is wanted"),
        ("stride", double(1.0), "did you mean 'stride_m'"),
        ("", double(1.0), "no parameter"),
        ("walker__stride_m", double(1.0), "no parameter"),
    ],
)
def test_a_wrong_value_is_refused_with_the_reason_and_changes_nothing(
    active: Rig, name: str, value: tuple[Any, ...], reason: str
) -> None:
    ((successful, said),) = active.set(**{name: value})
    assert not successful
    assert reason in said
    assert "\n" not in said
    assert active.host.config("walker") == WalkerConfig()
    assert len(active.events["/parameter_events"]) == 1


def test_whole_numbers_arrays_and_nothing_are_taken_where_they_fit(active: Rig) -> None:
    active.change("deactivate")
    results = active.set(
        stride_m=(2, "integer_value", 2),
        gaits=(9, "string_array_value", []),
        phases=(7, "integer_array_value", [1, 2]),
        deadline_ms=double(5.0),
    )
    assert results == [(True, "")] * 4
    stride, gaits, phases, deadline = active.get("stride_m", "gaits", "phases", "deadline_ms")
    assert (stride.type, stride.double_value) == (3, 2.0)
    assert (gaits.type, gaits.string_array_value) == (9, [])
    assert (phases.type, phases.double_array_value.tolist()) == (8, [1.0, 2.0])
    assert deadline.double_value == 5.0
    assert active.set(deadline_ms=(0,)) == [(True, "")]
    assert active.get("deadline_ms")[0].type == 0


def test_a_set_that_is_atomic_is_all_or_nothing(active: Rig) -> None:
    kind = "rcl_interfaces/srv/SetParametersAtomically"
    good, bad = row("stride_m", *double(2.0)), row("legs", 2, "integer_value", 1)
    result = active.ask("set_parameters_atomically", kind, parameters=[good, bad]).result
    assert not result.successful
    assert "legs must be in 2..100" in result.reason
    assert active.host.config("walker") == WalkerConfig()
    result = active.ask("set_parameters_atomically", kind, parameters=[good, row("deadline_ms", *double(9.0))]).result
    assert result.successful
    assert active.host.config("walker") == WalkerConfig(stride_m=2.0, deadline_ms=9.0)
    assert {p.name for p in active.events["/parameter_events"][-1].changed_parameters} == {"stride_m", "deadline_ms"}


def test_in_a_graph_of_several_a_change_concerns_its_component_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path, components=(Walker, Listener))
    try:
        assert rig.set(other__legs=(2, "integer_value", 8), walker__stride_m=double(3.0)) == [(True, "")] * 2
        assert rig.host.config("other").legs == 8
        assert rig.host.config("walker") == WalkerConfig(stride_m=3.0)
        assert rig.ask("list_parameters", LIST, prefixes=["other"], depth=1).result.prefixes == ["other"]
    finally:
        rig.close()


def test_the_hosts_own_parameters_stand_beside_the_components(tmp_path: Path) -> None:
    policy = ["edf"]
    setting = HostSetting(
        Parameter("offload.policy", Kind.STRING, "edf", choices=("edf", "dems_a")),
        lambda: policy[0],
        lambda name: policy.__setitem__(0, name),
    )
    rig = Rig(tmp_path, own=(use_sim_time(False), setting))
    try:
        assert rig.ask("list_parameters", LIST).result.names[:2] == ["use_sim_time", "offload.policy"]
        assert rig.set(offload__policy=(4, "string_value", "dems_a")) == [(True, "")]
        assert rig.get("offload.policy")[0].string_value == "dems_a"
        for value in ((4, "string_value", "demsa"), (2, "integer_value", 1), (0,)):
            ((successful, reason),) = rig.set(offload__policy=value)
            assert not successful
            assert "offload.policy" in reason
        assert rig.set(use_sim_time=(1, "bool_value", False)) == [(True, "")]
        ((successful, reason),) = rig.set(use_sim_time=(1, "bool_value", True))
        assert not successful
        assert "use_sim_time cannot be set" in reason
        (told,) = rig.ask(
            "describe_parameters", "rcl_interfaces/srv/DescribeParameters", names=["use_sim_time"]
        ).descriptors
        assert told.read_only
    finally:
        rig.close()


def test_a_component_whose_parameter_is_called_as_the_hosts_is_refused(rig: Rig) -> None:
    own = HostSetting(Parameter("legs", Kind.INTEGER, 1), lambda: 1)
    with pytest.raises(UserError, match="legs is a parameter of the host"):
        offer_parameters(rig.host, rig.transport, "/x", (own,))


# --- services --------------------------------------------------------------------------------------------------------


def test_what_the_host_sees_is_recorded_on_request(active: Rig) -> None:
    assert active.trigger("stop_recording") == (False, "no recording is running")
    success, path = active.trigger("start_recording")
    assert success, path
    assert Path(path) == active.folder / "tercel_20251231_235959.mcap"
    success, reason = active.trigger("start_recording")
    assert not success
    assert "already" in reason
    active.feed(5)
    assert active.trigger("stop_recording") == (True, path)
    recording = open_recording(Path(path))
    counts = {name: topic.count for name, topic in recording.topics.items()}
    assert counts["/imu"] == counts["/walker/odometry"] == 5
    assert counts["/tf"] == 5
    assert any("recorded" in line for line in active.said)


def test_a_recording_that_cannot_be_is_a_failure_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    rig = Rig(tmp_path / "file" / "recordings")
    try:
        rig.node.begin()
        success, reason = rig.trigger("start_recording")
        assert not success
        assert "Not a directory" in reason
        rig.feed(1)
        success, reason = rig.trigger("save_map")
        assert not success
        assert "Not a directory" in reason
        assert rig.state() == (3, "active")
    finally:
        rig.close()


def test_a_recording_goes_on_while_the_node_is_inactive_and_is_whole_at_the_end(active: Rig) -> None:
    _, path = active.trigger("start_recording")
    active.feed(1)
    active.change("deactivate")
    active.feed(1)
    active.change("activate")
    active.feed(1)
    active.close()
    recording = open_recording(Path(path))
    assert recording.problems == []
    assert recording.topics["/imu"].count == 2


def test_the_map_is_saved_as_ply(active: Rig) -> None:
    success, reason = active.trigger("save_map")
    assert not success
    assert "no component of graph walk has a map yet" in reason
    active.feed(3)
    success, path = active.trigger("save_map")
    assert success
    header, _, body = Path(path).read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert "element vertex 3" in lines
    assert [line for line in lines if line.startswith("property")] == [f"property float {axis}" for axis in "xyz"]
    assert np.frombuffer(body, "<f4").reshape(-1, 3).tolist() == [[1, 0, 0], [2, 0, 0], [3, 0, 0]]
    assert Path(path).parent == active.folder


def test_before_the_first_start_there_is_no_map(rig: Rig) -> None:
    success, reason = rig.trigger("save_map")
    assert not success
    assert reason


def test_points_that_are_no_places_are_left_out_of_a_map(tmp_path: Path) -> None:
    points_m = np.array([[1.0, 2.0, 3.0], [np.nan, 0.0, 0.0], [0.0, np.inf, 0.0]])
    path = save_ply(tmp_path, NOW_NS, points_m)
    assert b"element vertex 1\n" in path.read_bytes()


def test_odometry_begins_anew_on_request(active: Rig) -> None:
    active.feed(3)
    assert active.trigger("reset_odometry") == (True, "begun anew: walker")
    active.feed(1)
    walker = active.host.component("walker")
    assert isinstance(walker, Walker)
    assert walker._steps == [1.0]
    assert sum(active.host.status()["components"]["walker"]["restarts"].values()) == 1
    active.change("deactivate")
    success, reason = active.trigger("reset_odometry")
    assert not success
    assert "not active" in reason


def test_a_graph_without_odometry_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path, components=(Listener,))
    try:
        rig.node.begin()
        assert rig.trigger("reset_odometry") == (False, "graph walk has no odometry")
    finally:
        rig.close()


def test_the_status_is_the_hosts_as_json(active: Rig) -> None:
    active.feed(4)
    success, text = active.trigger("status")
    assert success
    status = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert status["state"] == "running"
    assert status["components"]["walker"]["processed"] == 4
    active.change("deactivate")
    assert json.loads(active.trigger("status")[1])["state"] == "stopped"


@pytest.mark.parametrize(
    ("name", "srv_type"),
    [
        ("set_parameters", "rcl_interfaces/srv/SetParameters"),
        ("get_parameters", "rcl_interfaces/srv/GetParameters"),
        ("list_parameters", LIST),
        ("change_state", "lifecycle_msgs/srv/ChangeState"),
        ("describe_parameters", "rcl_interfaces/srv/DescribeParameters"),
    ],
)
@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\0\1\0\0", b"\xff" * 64, b"\0\1\0\0" + b"\xff" * 16, bytes(range(7, 250, 5))]
)
def test_garbage_is_answered_empty_and_the_node_lives_on(active: Rig, name: str, srv_type: str, data: bytes) -> None:
    answer = active.user.call(f"{NODE}/{name}", srv_type, data, timeout_s=10.0)
    response = read_response(srv_type, answer)
    assert not getattr(response, "success", False)
    assert active.state() == (3, "active")
    assert active.host.config("walker") == WalkerConfig()


def test_many_who_ask_at_once_are_all_answered_and_settings_stay_sound(active: Rig) -> None:
    failures: list[str] = []

    def pester(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            try:
                value = float(rng.choice([0.5, 1.0, -1.0, 9.0, math.nan]))
                ((successful, _),) = active.set(stride_m=double(value))
                assert successful == (0.0 < value <= 5.0)
                assert active.get("stride_m")[0].double_value in (0.5, 1.0)
                active.trigger("status")
            except Exception as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=pester, args=(seed,)) for seed in range(4)]
    began_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert time.monotonic() - began_s < 30.0
    assert active.host.config("walker") == replace(WalkerConfig(), stride_m=active.host.config("walker").stride_m)
