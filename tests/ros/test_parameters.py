"""The node's parameters as `ros2 param` sees and sets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rcl_interfaces.msg import ParameterType
from rclpy.parameter import Parameter

from tercel.hosts.graph_choice import find_graph
from tercel.ros.node import parameter_text
from tercel.ros.parameters import declare
from tests.ros.peers import Peer

LIDAR = ("-p", "graph:=lidar")
NODE = "/tercel"


def test_every_setting_is_a_parameter_with_its_default_description_and_range(peer: Peer, robot: Any) -> None:
    robot(*LIDAR)
    parameters = declare(find_graph("lidar"))
    peer.wait_until_active(NODE)
    names = [parameter.name for parameter in parameters]
    found = peer.get(NODE, *names)
    told = peer.describe(NODE, *names)
    for parameter, value, about in zip(parameters, found, told, strict=True):
        assert value == (parameter.value if parameter.value != () else [])
        assert about.type == int(parameter.kind)
        assert about.description == parameter.description != ""
        ranges = [*about.floating_point_range, *about.integer_range]
        if parameter.bounds is not None and parameter.bounds[0] <= parameter.value <= parameter.bounds[1]:
            assert (ranges[0].from_value, ranges[0].to_value) == parameter.bounds
        assert ("while the node is active" in about.additional_constraints) != parameter.is_live


def test_what_is_chosen_at_the_start_is_read_only(peer: Peer, robot: Any) -> None:
    robot(*LIDAR)
    peer.wait_until_active(NODE)
    told = peer.describe(NODE, "graph", "component", "autostart", "record_dir", "offload.file")
    assert [about.read_only for about in told] == [True] * 5
    (result,) = peer.set(NODE, graph="camera")
    assert not result.successful
    assert "read-only" in result.reason
    assert peer.get(NODE, "graph") == ["lidar"]


def test_a_live_setting_changes_at_once_and_another_only_at_rest(peer: Peer, robot: Any) -> None:
    robot(*LIDAR)
    peer.wait_until_active(NODE)
    (live,) = peer.set(NODE, obstacles__min_top_m=0.6)
    assert live.successful, live.reason
    assert peer.get(NODE, "obstacles.min_top_m") == [0.6]
    (fixed,) = peer.set(NODE, odometry__map_voxel_m=0.8)
    assert not fixed.successful
    assert "deactivate" in fixed.reason
    assert peer.get(NODE, "odometry.map_voxel_m") == [0.5]
    assert peer.change(NODE, "deactivate")
    (fixed,) = peer.set(NODE, odometry__map_voxel_m=0.8)
    assert fixed.successful, fixed.reason
    assert peer.change(NODE, "cleanup")
    (unconfigured,) = peer.set(NODE, odometry__scan_voxel_m=0.9)
    assert unconfigured.successful, unconfigured.reason
    assert peer.change(NODE, "configure")
    assert peer.change(NODE, "activate")
    assert peer.get(NODE, "odometry.map_voxel_m", "odometry.scan_voxel_m") == [0.8, 0.9]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("obstacles__min_top_m", "high", "Wrong parameter type"),
        ("obstacles__min_top_m", 1, "Wrong parameter type"),
        ("obstacles__min_top_m", -0.5, "out of range"),
        ("obstacles__min_top_m", float("nan"), ""),
        ("obstacles__min_range_m", 90.0, "min_range_m"),  # not below max_range_m
        ("obstacles__max_boxes", 0, "out of range"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_the_reason(
    name: str, value: Any, reason: str, refusing: tuple[Peer, Any]
) -> None:
    peer, process = refusing
    (result,) = peer.set(NODE, **{name: value})
    assert not result.successful
    assert reason in result.reason
    assert result.reason
    assert peer.state(NODE) == "active"
    assert "Traceback" not in process.said()


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One node for all values that it refuses."""
    import os

    from tests.ros.peers import Robot

    domain = 1 + os.getpid() % 100
    before = os.environ.get("ROS_DOMAIN_ID")
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    try:
        process = Robot("graph_host", LIDAR, tmp_path_factory.mktemp("refusing"))
    finally:
        os.environ.pop("ROS_DOMAIN_ID") if before is None else os.environ.update(ROS_DOMAIN_ID=before)
    try:
        with Peer(domain) as peer:
            peer.wait_until_active(NODE)
            yield peer, process
    finally:
        process.kill()


def test_settings_that_only_fit_together_are_set_together_or_not_at_all(peer: Peer, robot: Any) -> None:
    from rcl_interfaces.srv import SetParametersAtomically

    robot(*LIDAR)
    peer.wait_until_active(NODE)

    def set_both(low: float, high: float) -> Any:
        rows = [
            Parameter("obstacles.min_range_m", value=low).to_parameter_msg(),
            Parameter("obstacles.max_range_m", value=high).to_parameter_msg(),
        ]
        request = SetParametersAtomically.Request(parameters=rows)
        return peer.call(f"{NODE}/set_parameters_atomically", SetParametersAtomically, request).result

    assert not set_both(30.0, 20.0).successful
    assert peer.get(NODE, "obstacles.min_range_m", "obstacles.max_range_m") == [2.0, 80.0]
    assert set_both(90.0, 120.0).successful
    assert peer.get(NODE, "obstacles.min_range_m", "obstacles.max_range_m") == [90.0, 120.0]


def test_an_optional_setting_is_not_set_until_it_is(peer: Peer, robot: Any) -> None:
    robot("-p", "graph:=camera", "-p", "autostart:=false")
    assert peer.get(NODE, "detector.deadline_ms", "detector.classes") == [None, []]
    deadline, classes = peer.set(NODE, detector__deadline_ms=80.0, detector__classes=["car", "person"])
    assert deadline.successful and classes.successful, (deadline.reason, classes.reason)  # noqa: PT018
    assert peer.get(NODE, "detector.deadline_ms", "detector.classes") == [80.0, ["car", "person"]]
    (wrong,) = peer.set(NODE, detector__deadline_ms="soon")
    assert not wrong.successful
    assert peer.describe(NODE, "models.detector")[0].type == ParameterType.PARAMETER_STRING


def test_a_parameter_file_of_ours_is_read_by_ros(peer: Peer, robot: Any, tmp_path: Path) -> None:
    """Written by `graph_host --params`, then edited, for a node in a namespace."""
    text = parameter_text(find_graph("lidar"))
    file = tmp_path / "lidar.yaml"
    file.write_text(text.replace("map_voxel_m: 0.5", "map_voxel_m: 0.65"))
    robot(*LIDAR, "-r", "__ns:=/robot1", "--params-file", str(file))
    peer.wait_until_active("/robot1/tercel")
    assert peer.get("/robot1/tercel", "odometry.map_voxel_m", "tracker_3d.confirm_score") == [0.65, float("inf")]


def test_parameters_given_at_the_start_are_checked_as_those_of_a_graph_file(robot: Any) -> None:
    for given, words in (
        ("odometry.map_voxel_m:=-1.0", "odometry.map_voxel_m"),
        ("odometry.neighbours:=many", "odometry.neighbours"),
        ("obstacles.min_range_m:=90.0", "min_range_m"),
        ("graph:=lidaar", "did you mean 'lidar'"),
        ("not a parameter", "not a parameter"),
    ):
        process = robot(*LIDAR, "-p", given)
        assert process.process.wait(20.0) == 2, process.said()
        said = process.said()
        assert words in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--params-file", "nowhere.yaml"), "nowhere.yaml"),
        (("-r", "__node:=no-name"), "no-name"),
        (("-r", "__ns:=robot one"), "robot one"),
        (("--no-such-argument",), "--no-such-argument"),
    ],
)
def test_a_wrong_ros_argument_is_told_in_a_line(arguments: tuple[str, ...], words: str, robot: Any) -> None:
    process = robot(*LIDAR, *arguments)
    assert process.process.wait(20.0) == 2, process.said()
    assert words in process.said()
    assert "Traceback" not in process.said()


def test_a_slip_of_the_pen_in_a_parameters_name_is_told(peer: Peer, robot: Any) -> None:
    process = robot(*LIDAR, "-p", "odometry.map_voxel:=0.7")
    peer.wait_until_active(NODE)
    assert "no parameter 'odometry.map_voxel'; did you mean 'odometry.map_voxel_m'?" in process.said()


def test_the_offload_policy_is_a_parameter_while_networks_are_offloaded(
    peer: Peer, robot: Any, shared_data: Path, tmp_path: Path
) -> None:
    from tests.scenarios.offload_live import SETUP

    file = tmp_path / "board.yaml"
    file.write_text(SETUP.format(policy="tercel", server="").replace("  near:", "  detector:"))
    model = shared_data / "models" / "fastestdet_352.onnx"
    robot("-p", "graph:=camera", "-p", f"models.detector:={model}", "-p", f"offload.file:={file}")
    peer.wait_until_active(NODE)
    assert peer.get(NODE, "offload.policy") == ["tercel"]
    (changed,) = peer.set(NODE, offload__policy="edf")
    assert changed.successful, changed.reason
    assert peer.get(NODE, "offload.policy") == ["edf"]
    (unknown,) = peer.set(NODE, offload__policy="edff")
    assert not unknown.successful
    assert "did you mean 'edf'" in unknown.reason
    assert '"policy": "edf"' in peer.trigger(f"{NODE}/status").message
    assert peer.change(NODE, "deactivate")
    assert peer.change(NODE, "cleanup")
    assert peer.change(NODE, "configure")
    assert peer.get(NODE, "offload.policy") == ["tercel"]
