"""`ros2 launch` and `ros2 run`, on a prefix laid out as colcon lays it out (tests/packaging/test_colcon.py)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sensor_msgs.msg import PointCloud2
from vision_msgs.msg import Detection2DArray, Detection3DArray

from tercel.ros.executables import COMPONENTS, GRAPH
from tests.ros.peers import WITHIN_S, Peer, eventually
from tests.scenarios.conftest import replay

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = """#!{python}
import sys
from {module} import main
sys.exit(main())
"""

if shutil.which("ros2") is None:
    pytest.skip("the ros2 command is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prefix")
    marker = folder / "share" / "ament_index" / "resource_index" / "packages" / "tercel"
    for parent in (marker.parent, folder / "share" / "tercel", folder / "lib" / "tercel"):
        parent.mkdir(parents=True)
    marker.touch()
    shutil.copy(REPOSITORY / "package.xml", folder / "share" / "tercel")
    shutil.copytree(REPOSITORY / "launch", folder / "share" / "tercel" / "launch")
    for name in ("tercel", GRAPH, *COMPONENTS):
        script = folder / "lib" / "tercel" / name
        module = "tercel.cli" if name == "tercel" else "tercel.ros.node"
        script.write_text(SCRIPT.format(python=sys.executable, module=module))
        script.chmod(0o755)
    return folder


@pytest.fixture
def ros2(prefix: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Starts `ros2 ...` with the package in its path; all that it started ends with it."""
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join([str(prefix), os.environ["AMENT_PREFIX_PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], str(REPOSITORY)]))
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> tuple[subprocess.Popen[bytes], Path]:
        log = tmp_path / f"ros2_{len(started)}.log"
        with log.open("wb") as stream:
            started.append(
                subprocess.Popen(
                    ["ros2", *words], stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=tmp_path,
                    start_new_session=True,
                )
            )  # fmt: skip
        return started[-1], log

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(WITHIN_S)


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C, as a terminal sends it to all of a group."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(WITHIN_S)


def nodes(peer: Peer) -> set[str]:
    found = peer.node.get_node_names_and_namespaces()
    return {f"{namespace.rstrip('/')}/{name}" for name, namespace in found}


def test_a_graph_is_launched_in_one_process_and_ends_cleanly(peer: Peer, ros2: Any) -> None:
    process, log = ros2("launch", "tercel", "tercel.launch.py", "graph:=lidar", "namespace:=robot1")
    peer.wait_until_active("/robot1/tercel")
    assert nodes(peer) == {"/peer", "/robot1/tercel"}
    assert peer.get("/robot1/tercel", "record_dir") == ["recordings"]
    assert stop(process) == 0
    said = log.read_text()
    assert "process has finished cleanly" in said
    assert "Traceback" not in said


def test_a_graph_is_launched_with_a_node_for_each_component(peer: Peer, ros2: Any, world: Path) -> None:
    process, log = ros2("launch", "tercel", "tercel.launch.py", "graph:=lidar", "composition:=nodes")
    wanted = {"/odometry", "/obstacles", "/tracker_3d"}
    for name in wanted:
        peer.wait_until_active(name)
    assert nodes(peer) == {"/peer", *wanted}
    eventually(lambda: "/lidar/deskewed" in dict(peer.node.get_topic_names_and_types()), "the inner topic")
    assert stop(process) == 0
    assert log.read_text().count("process has finished cleanly") == 3


def test_a_parameter_file_and_a_user_s_own_graph_are_taken(peer: Peer, ros2: Any, tmp_path: Path) -> None:
    graph = tmp_path / "mine.yaml"
    graph.write_text((REPOSITORY / "launch" / "graphs" / "lidar.yaml").read_text())
    parameters = tmp_path / "parameters.yaml"
    printer, log = ros2("run", "tercel", GRAPH, "--params", str(graph))
    assert printer.wait(WITHIN_S) == 0
    parameters.write_text(log.read_text().replace("map_voxel_m: 0.5", "map_voxel_m: 0.6"))
    ros2("launch", "tercel", "tercel.launch.py", f"graph:={graph}", f"params_file:={parameters}")
    peer.wait_until_active("/tercel")
    assert peer.get("/tercel", "odometry.map_voxel_m") == [0.6]


@pytest.mark.parametrize(
    ("file", "arguments", "topic", "kind"),
    [
        ("camera", ("image:=/front/image",), "/front/image", "sensor_msgs/msg/Image"),
        ("drone", ("image:=/front/image",), "/front/image", "sensor_msgs/msg/Image"),
        ("ground_robot", ("cloud:=/velodyne_points",), "/velodyne_points", "sensor_msgs/msg/PointCloud2"),
    ],
)
def test_a_robot_s_launch_file_starts_its_graph_on_its_topics(
    file: str, arguments: tuple[str, ...], topic: str, kind: str, peer: Peer, ros2: Any, shared_data: Path
) -> None:
    model = shared_data / "models" / "fastestdet_352.onnx"
    process, log = ros2("launch", "tercel", f"{file}.launch.py", f"model:={model}", *arguments)
    peer.wait_until_active("/drone1/tercel" if file == "drone" else "/tercel")
    assert dict(peer.node.get_topic_names_and_types())[topic] == [kind]
    assert stop(process) == 0
    assert "Traceback" not in log.read_text()


def test_a_recording_is_launched_into_a_graph_and_all_ends_with_it(
    peer: Peer, ros2: Any, world: Path, tmp_path: Path
) -> None:
    replay(world, tmp_path / "replay", "--graph", "lidar")
    heard = peer.listen("/tracks_3d", Detection3DArray)
    process, log = ros2("launch", "tercel", "replay.launch.py", f"recording:={world}", "rate:=0.5")
    assert process.wait(60.0) == 0
    said = log.read_text()
    assert "played street.mcap" in said
    assert said.count("process has finished cleanly") == 2
    assert "Traceback" not in said
    assert len(heard) == 30


def test_a_drone_s_graph_looks_and_tracks(peer: Peer, ros2: Any, camera_lidar_drive: Path, shared_data: Path) -> None:
    model = shared_data / "models" / "yolox_nano_416.onnx"
    drone = REPOSITORY / "launch" / "robots" / "drone.yaml"
    heard = peer.listen("/tracks_2d", Detection2DArray)
    process, log = ros2(
        "launch", "tercel", "replay.launch.py", f"recording:={camera_lidar_drive}", f"graph:={drone}",
        f"model:={model}", "rate:=2.0",
    )  # fmt: skip
    assert process.wait(90.0) == 0, log.read_text()
    assert heard
    assert any(message.detections for message in heard)


def test_a_graph_that_does_not_exist_is_told_in_a_line(ros2: Any) -> None:
    process, log = ros2("launch", "tercel", "tercel.launch.py", "graph:=lidaar")
    assert process.wait(WITHIN_S) == 1
    assert "lidaar.yaml" in log.read_text()


def test_every_executable_is_offered_and_a_component_runs(peer: Peer, ros2: Any) -> None:
    listing, log = ros2("pkg", "executables", "tercel")
    assert listing.wait(WITHIN_S) == 0
    assert {line.split()[1] for line in log.read_text().splitlines()} == {"tercel", GRAPH, *COMPONENTS}
    process, _ = ros2("run", "tercel", "lidar_odometry", "--ros-args", "-r", "cloud:=/velodyne_points")
    peer.wait_until_active("/lidar_odometry")
    assert "/velodyne_points" in dict(peer.node.get_topic_names_and_types())
    assert peer.advertise("/velodyne_points", PointCloud2)
    assert stop(process) == 0


def test_the_tercel_command_runs_from_ros2_and_its_own_graphs_over_rclpy(peer: Peer, ros2: Any, world: Path) -> None:
    process, log = ros2("run", "tercel", "tercel", "info", str(world))
    assert process.wait(WITHIN_S) == 0
    assert "/lidar/points" in log.read_text()
    process, log = ros2("run", "tercel", "tercel", "run", "lidar", "--transport", "ros2", "--namespace", "/robot1")
    eventually(lambda: "/robot1/tercel" in nodes(peer), "the node")
    eventually(lambda: "/robot1/tracks_3d" in dict(peer.node.get_topic_names_and_types()), "its topics")
    assert stop(process) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
