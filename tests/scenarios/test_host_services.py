"""A robot's process led from another one by ROS services alone, over every wire."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader

from offload.models import always_one
from perception.runtime import load_network
from tercel.core.component import Component, Input, Output, on
from tercel.core.messages import Imu, Message, NextLook
from tercel.hosts.graph import Graph, Node, graph_files, load_graph
from tercel.hosts.live import LiveHost
from tercel.hosts.networks import offloaded
from tercel.hosts.recording import open_recording
from tercel.ros.convert import encode
from tercel.ros.host_services import offer_node
from tercel.ros.local import LocalTransport
from tercel.ros.parameter_files import graph_with_file, parameter_file
from tercel.ros.parameter_services import offload_policy
from tercel.ros.parameters import values
from tercel.ros.service_types import make, make_request, read_response
from tercel.ros.store import STORE
from tercel.ros.transport import COMMAND, SENSOR, Identity, Transport, open_transport
from tests.scenarios.offload_live import write_models, write_setup

REPOSITORY = Path(__file__).resolve().parents[2]
NODE = "/robot1/tercel"
DISCOVERY_S = 0.5
"""In which the two ends of a topic have found each other; what a sensor sends before is lost, as with any ROS 2."""
CLOUD = "sensor_msgs/msg/PointCloud2"
LIDAR_GRAPH = next(path for path in graph_files() if path.stem == "lidar")

ZENOH_JSON = """{{mode: "peer", listen: {{endpoints: {listen}}}, connect: {{endpoints: {connect}}},
 scouting: {{multicast: {{enabled: false}}, gossip: {{enabled: false}}}}, timestamping: {{enabled: true}}}}"""
CYCLONE_XML = """<CycloneDDS><Domain Id="any">
<General><Interfaces><NetworkInterface name="lo" multicast="false"/></Interfaces>
<AllowMulticast>false</AllowMulticast></General>
<Discovery><ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>60</MaxAutoParticipantIndex>
<Peers><Peer address="127.0.0.1"/></Peers></Discovery>
</Domain></CycloneDDS>"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def random_domain() -> int:
    return 1 + int.from_bytes(os.urandom(1), "little") % 100


def configs(kind: str, folder: Path) -> tuple[Path | None, Path | None]:
    """The robot's and the user's configuration: they meet on loopback, and nobody else."""
    if kind == "ros2":
        return None, None
    suffix = "json5" if kind == "zenoh" else "xml"
    robot, user = folder / f"robot.{suffix}", folder / f"user.{suffix}"
    if kind == "zenoh":
        endpoint = json.dumps([f"tcp/127.0.0.1:{free_port()}"])
        robot.write_text(ZENOH_JSON.format(listen=endpoint, connect="[]"))
        user.write_text(ZENOH_JSON.format(listen="[]", connect=endpoint))
    else:
        robot.write_text(CYCLONE_XML)
        user.write_text(CYCLONE_XML)
    return robot, user


class User:
    """Somebody with the ROS command line, on a wire of their own with the robot's process."""

    def __init__(self, transport: Transport, robot: Any, folder: Path, domain: int) -> None:
        self.transport = transport
        self.domain = domain
        self.robot = robot
        self.folder = folder

    def ask(self, name: str, srv_type: str, *, timeout_s: float = 20.0, **request: Any) -> Any:
        asked = make_request(srv_type, **request)
        return read_response(srv_type, self.transport.call(f"{NODE}/{name}", srv_type, asked, timeout_s=timeout_s))

    def trigger(self, name: str) -> str:
        answer = self.ask(name, "std_srvs/srv/Trigger")
        assert answer.success, answer.message
        return str(answer.message)

    def change(self, label: str) -> bool:
        transition = make("lifecycle_msgs/msg/Transition", label=label)
        return bool(self.ask("change_state", "lifecycle_msgs/srv/ChangeState", transition=transition).success)

    def state(self) -> str:
        return str(self.ask("get_state", "lifecycle_msgs/srv/GetState").current_state.label)

    def set(self, name: str, **value: Any) -> tuple[bool, str]:
        message = make("rcl_interfaces/msg/ParameterValue", **value)
        parameters = [make("rcl_interfaces/msg/Parameter", name=name, value=message)]
        (result,) = self.ask("set_parameters", "rcl_interfaces/srv/SetParameters", parameters=parameters).results
        return bool(result.successful), str(result.reason)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.trigger("status"))
        return status

    def until_processed(self, component: str, count: int) -> dict[str, Any]:
        """The status once a component has processed so many messages."""
        ends_s = time.monotonic() + 30.0
        while True:
            status = self.status()
            row = status["components"][component]
            if row["processed"] + row["rejected"] + row["dropped"] >= count:
                return status
            assert time.monotonic() < ends_s, row
            time.sleep(0.05)


@contextlib.contextmanager
def meeting(kind: str, folder: Path) -> Iterator[User]:
    """The robot's process, and a user who has found its services."""
    robot_config, user_config = configs(kind, folder)
    domain = random_domain()
    program = [sys.executable, str(REPOSITORY / "tests" / "scenarios" / "host_node.py")]
    arguments = [kind, str(domain), str(robot_config or ""), str(folder / "recordings"), str(LIDAR_GRAPH)]
    python_path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": python_path, "OPENBLAS_NUM_THREADS": "1"}
    with (folder / "robot.log").open("wb") as log:
        robot = subprocess.Popen([*program, *arguments], stderr=log, cwd=folder, env=environment)
    try:
        with open_transport(kind, Identity("user", "/", domain), config=user_config) as transport:  # type: ignore[arg-type]
            user = User(transport, robot, folder, domain)
            ends_s = time.monotonic() + 30.0
            while True:
                assert robot.poll() is None, (folder / "robot.log").read_text()
                try:
                    user.ask("get_state", "lifecycle_msgs/srv/GetState", timeout_s=1.0)
                    break
                except TimeoutError:
                    assert time.monotonic() < ends_s, "the node was not found"
            yield user
    finally:
        robot.kill()
        robot.wait()


@pytest.fixture(params=["zenoh", "dds", "ros2"])
def user(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[User]:
    require(request.param)
    with meeting(request.param, tmp_path) as made:
        yield made


def require(kind: str) -> None:
    module = {"zenoh": "zenoh", "dds": "cyclonedds", "ros2": "rclpy"}[kind]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    if kind == "dds":
        pytest.importorskip("tercel.ros.dds", reason="no DDS transport here")


@pytest.fixture(scope="module")
def clouds(world: Path) -> list[bytes]:
    """The sweeps of a simulated street, as CDR bytes."""
    recording = open_recording(world)
    return [bytes(recorded.raw) for recorded in recording.messages(["/lidar/points"])]


def assert_are(recorded: list[bytes], sent: list[bytes]) -> None:
    """Byte for byte, but for the padding to four bytes that a DDS adds at the end."""
    assert len(recorded) == len(sent)
    for have, wanted in zip(recorded, sent, strict=True):
        assert have[: len(wanted)] == wanted
        assert len(have) - len(wanted) < 4


def test_a_robot_is_led_recorded_mapped_and_shut_down_from_another_process(user: User, clouds: list[bytes]) -> None:
    transitions: list[int] = []
    event = "lifecycle_msgs/msg/TransitionEvent"
    user.transport.subscribe(
        f"{NODE}/transition_event",
        event,
        COMMAND,
        lambda data: transitions.append(STORE.deserialize_cdr(data, event).transition.id),
    )
    publisher = user.transport.advertise("/robot1/lidar/points", CLOUD, SENSOR)
    assert user.state() == "unconfigured"
    assert user.change("configure")
    assert not user.change("deactivate")
    assert user.change("activate")
    assert user.state() == "active"

    # Parameters: what is live, what is not, what is wrong.
    listed = user.ask("list_parameters", "rcl_interfaces/srv/ListParameters").result
    assert "use_sim_time" in listed.names
    assert {"odometry", "obstacles", "tracker_3d"} == set(listed.prefixes)
    successful, reason = user.set("tracker_3d.min_hits", type=2, integer_value=2)
    assert not successful
    assert "while the node is active" in reason
    successful, reason = user.set("odometry.map_voxel_m", type=3, double_value=float("nan"))
    assert not successful
    assert "NaN" in reason
    assert user.change("deactivate")
    assert user.set("tracker_3d.min_hits", type=2, integer_value=2) == (True, "")
    assert user.change("activate")

    # A drive, recorded.
    path = Path(user.trigger("start_recording"))
    assert path.parent == user.folder / "recordings"
    time.sleep(DISCOVERY_S)
    sent = 0
    for data in clouds[:20]:
        publisher.publish(data)
        sent += 1
        user.until_processed("odometry", sent)
    status = user.status()
    assert status["state"] == "running"
    assert status["components"]["odometry"]["processed"] == sent

    map_path = Path(user.trigger("save_map"))
    header, _, body = map_path.read_bytes().partition(b"end_header\n")
    points_m = np.frombuffer(body, "<f4").reshape(-1, 3)
    assert f"element vertex {len(points_m)}\n".encode() in header
    assert len(points_m) > 100
    assert np.isfinite(points_m).all()

    # The odometry begins anew: its first pose is where it is.
    poses: list[Any] = []
    odometry = "nav_msgs/msg/Odometry"
    user.transport.subscribe(
        "/robot1/odometry", odometry, COMMAND, lambda data: poses.append(STORE.deserialize_cdr(data, odometry))
    )
    time.sleep(DISCOVERY_S)
    assert user.trigger("reset_odometry") == "begun anew: odometry"
    publisher.publish(clouds[20])
    user.until_processed("odometry", sent + 1)
    ends_s = time.monotonic() + 10.0
    while not poses and time.monotonic() < ends_s:
        time.sleep(0.02)
    position = poses[-1].pose.pose.position
    assert (position.x, position.y, position.z) == (0.0, 0.0, 0.0)

    # The recording is whole, and what was sent is in it byte for byte.
    assert user.trigger("stop_recording") == str(path)
    with path.open("rb") as stream:
        rows = [(c.topic, m.data) for _, c, m in make_reader(stream).iter_messages()]
    counts = Counter(topic for topic, _ in rows)
    assert counts["/robot1/lidar/points"] == counts["/robot1/odometry"] == counts["/tf"] == sent + 1
    assert_are([data for topic, data in rows if topic == "/robot1/lidar/points"], clouds[: sent + 1])
    assert open_recording(path).problems == []

    assert user.change("shutdown")
    assert user.robot.wait(20.0) == 0
    assert transitions == [1, 10, 3, 30, 4, 40, 3, 30, 7, 50]


def test_a_node_is_deactivated_while_data_pours_in_and_comes_back(user: User, clouds: list[bytes]) -> None:
    publisher = user.transport.advertise("/robot1/lidar/points", CLOUD, SENSOR)
    assert user.change("configure")
    for _ in range(3):
        assert user.change("activate")
        ends_s = time.monotonic() + 0.5
        while time.monotonic() < ends_s:
            publisher.publish(clouds[0])
            time.sleep(0.002)
        assert user.change("deactivate")
        status = user.status()
        assert status["state"] == "stopped"
        for row in status["components"].values():
            assert row["received"] == row["processed"] + row["dropped"] + row["rejected"]
            assert row["waiting"] == 0
    assert user.change("shutdown")
    assert user.robot.wait(20.0) == 0


def test_a_robot_killed_while_it_records_leaves_a_file_that_opens(user: User, clouds: list[bytes]) -> None:
    publisher = user.transport.advertise("/robot1/lidar/points", CLOUD, SENSOR)
    assert user.change("configure")
    assert user.change("activate")
    time.sleep(DISCOVERY_S)
    path = Path(user.trigger("start_recording"))
    for number, data in enumerate(clouds[:10]):
        publisher.publish(data)
        user.until_processed("odometry", number + 1)
    time.sleep(2.2)  # all of it has been handed to the operating system by now
    user.robot.kill()
    user.robot.wait(10.0)
    recording = open_recording(path)
    assert recording.problems  # it says that the end is missing
    assert_are([bytes(r.raw) for r in recording.messages(["/robot1/lidar/points"])], clouds[:10])
    assert recording.topics["/robot1/odometry"].count == 10
    assert recording.topics["/diagnostics"].count >= 2


@pytest.mark.parametrize("kind", ["ros2", "dds"])
def test_the_ros_2_command_line_leads_a_robot(kind: str, tmp_path: Path) -> None:
    require(kind)
    if shutil.which("ros2") is None:
        pytest.skip("no ros2 command here")
    with meeting(kind, tmp_path) as user:

        def ros2(*arguments: str) -> str:
            environment = {**os.environ, "ROS_DOMAIN_ID": str(user.domain)}
            if kind == "dds":
                environment["CYCLONEDDS_URI"] = (tmp_path / "user.xml").as_uri()
            done = subprocess.run(
                ["ros2", *arguments], env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path
            )
            return done.stdout + done.stderr

        no_daemon = ("--no-daemon", "--spin-time", "1")
        assert NODE in ros2("node", "list", *no_daemon).split()
        assert NODE in ros2("lifecycle", "nodes", *no_daemon).split()
        assert ros2("lifecycle", "get", *no_daemon, NODE).strip() == "unconfigured [1]"
        assert "configure [1]" in ros2("lifecycle", "set", *no_daemon, NODE, "activate")  # no: first that
        for verb in ("configure", "activate"):
            assert "Transitioning successful" in ros2("lifecycle", "set", *no_daemon, NODE, verb)
        assert user.state() == "active"

        name = "odometry.min_overlap"
        assert name in ros2("param", "list", *no_daemon, NODE).split()
        assert "Double value is: 0.3" in ros2("param", "get", *no_daemon, NODE, name)
        described = ros2("param", "describe", *no_daemon, NODE, name)
        for words in ("Type: double", "Min value: 0.0", "Max value: 1.0", "share of the scan's points"):
            assert words in described
        assert "cannot change while the node is active" in ros2("param", "set", *no_daemon, NODE, name, "0.4")
        assert "did you mean 'odometry.min_overlap'" in ros2(
            "param", "set", *no_daemon, NODE, "odometry.min_overlp", "0.4"
        )
        ros2("lifecycle", "set", *no_daemon, NODE, "deactivate")
        assert "min_overlap" in ros2("param", "set", *no_daemon, NODE, name, "7.0")  # the reason
        assert "Set parameter successful" in ros2("param", "set", *no_daemon, NODE, name, "0.4")
        assert "Double value is: 0.4" in ros2("param", "get", *no_daemon, NODE, name)
        (tmp_path / "dumped.yaml").write_text(ros2("param", "dump", *no_daemon, NODE))
        graph, own = graph_with_file(load_graph(LIDAR_GRAPH), tmp_path / "dumped.yaml", NODE)
        assert values(graph)[name][1] == 0.4
        assert own == {"use_sim_time": False}

        answer = ros2("service", "call", f"{NODE}/start_recording", "std_srvs/srv/Trigger")
        assert "success=True" in answer
        assert str(tmp_path / "recordings") in answer
        assert "Transitioning successful" in ros2("lifecycle", "set", *no_daemon, NODE, "shutdown")
        assert user.robot.wait(20.0) == 0


@pytest.mark.parametrize("path", graph_files(), ids=lambda path: path.stem)
def test_rcl_reads_our_parameter_files_with_the_same_types(path: Path, tmp_path: Path) -> None:
    require("ros2")
    import rclpy
    from rclpy.node import Node as RclpyNode

    graph = load_graph(path)
    file = tmp_path / "parameters.yaml"
    file.write_text(parameter_file(graph, "/robot1/tercel"))
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "--params-file", str(file)], context=context, domain_id=random_domain())
    try:
        options = {"automatically_declare_parameters_from_overrides": True, "start_parameter_services": False}
        node = RclpyNode("tercel", namespace="/robot1", context=context, **options)
        read = {
            name: (parameter.type_.value, tuple(value) if isinstance(value := parameter.value, list) else value)
            for name, parameter in node.get_parameters_by_prefix("").items()
        }
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
    wanted = {name: (int(kind), value) for name, (kind, value) in values(graph).items() if value not in (None, ())}
    assert wanted.items() <= read.items()


# --- the offload policy ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LookerConfig:
    """Nothing to choose."""


class Looker(Component):
    """Asks its network about every message."""

    Config = LookerConfig
    imu = Input(Imu, queue="all")
    next_look = Output(NextLook)

    @on(imu)
    async def step(self, imu: Imu) -> dict[str, Message]:
        assert self.models is not None
        await self.models.infer("near", np.full((1, 10000), imu.stamp_ns, np.float32))
        return {}


def test_the_offload_policy_is_changed_in_flight_and_every_task_is_accounted_for(tmp_path: Path) -> None:
    write_models(tmp_path / "models")
    write_setup(tmp_path)
    networks = {"near": load_network(tmp_path / "models" / "near.onnx")}
    node = Node("looker", Looker, LookerConfig(), {"imu": "/imu"}, {})
    graph = Graph("look", (node,), {"near": tmp_path / "models" / "near.onnx"})
    said: list[str] = []
    with (
        LocalTransport(Identity("tercel", "/robot1", 78)) as transport,
        LocalTransport(Identity("user", "/", 78)) as other,
        offloaded(tmp_path / "tercel.yaml", graph, networks, hint=always_one, say=said.append) as models,
    ):
        host = LiveHost(graph, transport, models=models, say=said.append)
        services = offer_node(
            host, transport, NODE, record_dir=tmp_path, own=(offload_policy(models),), say=said.append
        )
        user = User(other, None, tmp_path, 78)
        try:
            services.begin()
            publisher = other.advertise("/imu", "sensor_msgs/msg/Imu", COMMAND)
            zeros = np.zeros(3)
            for number in range(60):
                imu = Imu(
                    stamp_ns=1 + number, frame_id="", angular_velocity_radps=zeros, linear_acceleration_mps2=zeros
                )
                publisher.publish(encode(imu)[1])
                if number % 20 == 10:
                    name = ("edf", "dems_a", "tercel")[number // 20]
                    assert user.set("offload.policy", type=4, string_value=name) == (True, "")
                    assert user.status()["offload"]["policy"] == name
            successful, reason = user.set("offload.policy", type=4, string_value="dems_b")
            assert not successful
            assert "did you mean" in reason
            assert host.wait_idle(30.0)
            account = user.status()["offload"]
            row = user.status()["components"]["looker"]
        finally:
            host.stop()
            services.close()
    assert account["tasks"] == sum(account["fates"].values()) == 60
    assert row["received"] == 60 == row["processed"] + row["rejected"]
    assert account["fates"]["done-edge"] == row["processed"] > 0
