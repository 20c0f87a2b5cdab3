"""Recordings through the rclpy node: the same results as replay gives, and what it says of itself meanwhile."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import rclpy.time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from mcap.reader import make_reader
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, PointCloud2
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray

from tercel.core.messages import Tracks3D
from tercel.hosts.recording import open_recording
from tercel.ros.convert import decode
from tests.ros.peers import Peer, eventually
from tests.scenarios.conftest import replay, tercel

NODE = "/tercel"
LIDAR = ("-p", "graph:=lidar")


def recorded(path: Path, topic: str) -> list[bytes]:
    """The bytes of one topic's messages."""
    recording = open_recording(path)
    return [bytes(row.raw) for row in recording.messages([topic])]


def expect_same(heard: list[bytes], wanted: list[bytes]) -> None:
    """Byte for byte, but for the up to three bytes by which DDS fills messages up at their end."""
    assert len(heard) == len(wanted)
    for got, want in zip(heard, wanted, strict=True):
        assert got[: len(want)] == want
        assert len(got) - len(want) < 4


def status(peer: Peer, node: str = NODE) -> dict[str, Any]:
    answer = peer.trigger(f"{node}/status")
    assert answer.success
    found: dict[str, Any] = json.loads(answer.message)
    return found


def play(path: Path, *options: str) -> None:
    assert tercel("play", path, "--transport", "ros2", "--delay", 2, *options) == 0


def expect_lossless(peer: Peer) -> None:
    for name, row in status(peer)["components"].items():
        assert row["processed"] == row["received"] > 0, (name, row)


# --- results -------------------------------------------------------------------------------------------------------


def test_a_drive_with_camera_and_lidar_gives_the_tracks_that_replay_gives(
    peer: Peer, robot: Any, camera_lidar_drive: Path, shared_data: Path, tmp_path: Path
) -> None:
    model = shared_data / "models" / "yolox_nano_416.onnx"
    replay(camera_lidar_drive, tmp_path / "replay", "--graph", "camera_lidar", "--model", model)
    topics = {"/tracks_2d": Detection2DArray, "/tracks_3d": Detection3DArray}
    wanted = {topic: recorded(tmp_path / "replay" / "result.mcap", topic) for topic in topics}
    assert min(len(rows) for rows in wanted.values()) > 20
    robot("-p", "graph:=camera_lidar", "-p", f"models.detector:={model}", "-p", "use_sim_time:=true")
    heard = {topic: peer.listen(topic, kind, raw=True) for topic, kind in topics.items()}
    peer.wait_until_active(NODE)
    play(camera_lidar_drive, "--rate", "0.5", "--clock")
    eventually(lambda: all(len(heard[topic]) >= len(wanted[topic]) for topic in topics), "as many tracks")
    expect_lossless(peer)
    for topic in topics:
        expect_same(heard[topic], wanted[topic])


def test_ros2_bag_plays_our_recordings_into_the_node(peer: Peer, robot: Any, world: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("ros2bag") is None:
        pytest.skip("ros2 bag is not installed")
    replay(world, tmp_path / "replay", "--graph", "lidar")
    wanted = recorded(tmp_path / "replay" / "result.mcap", "/tracks_3d")
    robot(*LIDAR, "-p", "use_sim_time:=true", "-r", "/lidar/points:=/lidar/points")
    heard = peer.listen("/tracks_3d", Detection3DArray, raw=True)
    peer.wait_until_active(NODE)
    bag = ["ros2", "bag", "play", str(world), "--rate", "0.5", "--clock", "--delay", "1"]
    subprocess.run(bag, check=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    eventually(lambda: len(heard) >= len(wanted), "as many tracks")
    expect_same(heard, wanted)
    expect_lossless(peer)


def test_components_in_nodes_of_their_own_give_the_same_tracks(
    peer: Peer, robot: Any, world: Path, tmp_path: Path
) -> None:
    replay(world, tmp_path / "replay", "--graph", "lidar")
    wanted = recorded(tmp_path / "replay" / "result.mcap", "/tracks_3d")
    for name in ("odometry", "obstacles", "tracker_3d"):
        robot(*LIDAR, "-p", f"component:={name}", "-r", f"__node:={name}")
    heard = peer.listen("/tracks_3d", Detection3DArray, raw=True)
    for name in ("odometry", "obstacles", "tracker_3d"):
        peer.wait_until_active(f"/{name}")
    peer.wait_for_publisher("/lidar/deskewed")
    play(world, "--rate", "0.5")
    eventually(lambda: len(heard) >= len(wanted), "as many tracks")
    assert len(heard) == len(wanted)
    for got, want in zip(heard, wanted, strict=True):
        ours, theirs = (cast(Tracks3D, decode("vision_msgs/msg/Detection3DArray", data)) for data in (got, want))
        assert (ours.stamp_ns, ours.ids.tolist()) == (theirs.stamp_ns, theirs.ids.tolist())
        # A rotation is a quaternion on the wire, and comes back with other last bits.
        np.testing.assert_allclose(ours.centers_m, theirs.centers_m, atol=1e-6)


# --- names, frames, time -------------------------------------------------------------------------------------------


def test_a_namespace_and_a_remapping_hold_for_topics_but_not_for_what_robots_share(peer: Peer, robot: Any) -> None:
    robot(*LIDAR, "-r", "__ns:=/robot1", "-r", "lidar/points:=/velodyne_points", "-r", "__node:=eyes")
    peer.wait_until_active("/robot1/eyes")
    topics = dict(peer.node.get_topic_names_and_types())
    assert {"/velodyne_points", "/robot1/odometry", "/robot1/tracks_3d", "/diagnostics"} <= set(topics)
    assert not {"/lidar/points", "/robot1/lidar/points", "/robot1/diagnostics", "/robot1/tf"} & set(topics)
    assert peer.trigger("/robot1/eyes/status").success


def test_poses_are_transforms_that_tf2_finds(peer: Peer, robot: Any, world: Path) -> None:
    tf2_ros = pytest.importorskip("tf2_ros")
    buffer = tf2_ros.Buffer()
    tf2_ros.TransformListener(buffer, peer.node)
    poses = peer.listen("/odometry", Odometry)
    robot(*LIDAR)
    peer.wait_until_active(NODE)
    play(world)
    eventually(lambda: len(poses) > 5, "poses")
    last = poses[-1]
    when = rclpy.time.Time.from_msg(last.header.stamp)
    arguments = (last.header.frame_id, last.child_frame_id, when)
    eventually(lambda: buffer.can_transform(*arguments), "the transform")
    found = buffer.lookup_transform(*arguments).transform.translation
    place = last.pose.pose.position
    assert (found.x, found.y, found.z) == (place.x, place.y, place.z)


def test_a_transform_that_is_missing_is_told_and_one_that_comes_is_used(
    peer: Peer, robot: Any, camera_lidar_drive: Path, shared_data: Path
) -> None:
    """Fusion needs /tf_static, which comes latched, from another process that has sent it before."""
    model = shared_data / "models" / "fastestdet_352.onnx"
    tracks = peer.listen("/tracks_3d", Detection3DArray)
    arguments = ("-p", "graph:=fusion", "-p", f"models.detector:={model}")
    process = robot(*arguments)
    peer.wait_until_active(NODE)
    sensors = ("--topics", "/camera/image", "/camera/camera_info", "/lidar/points", "--rate", "2")
    play(camera_lidar_drive, *sensors)
    fusion = status(peer)["components"]["tracker_3d"]
    assert "transform" in json.dumps(fusion["inputs"]["camera"]["rejected"])
    assert "Traceback" not in process.said()
    assert process.interrupt() == 0
    tracks.clear()
    latched = QoSProfile(depth=1, durability=rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL)
    static = peer.advertise("/tf_static", TFMessage, qos=latched)
    (data,) = recorded(camera_lidar_drive, "/tf_static")
    static.publish(data)
    robot(*arguments)
    peer.wait_until_active(NODE)
    eventually(lambda: status(peer)["components"]["tracker_3d"]["inputs"]["transforms"]["processed"], "/tf_static")
    play(camera_lidar_drive, *sensors)
    eventually(lambda: any(message.detections for message in tracks), "tracks of both sensors")


def test_time_is_that_of_the_clock_topic_and_may_go_back(peer: Peer, robot: Any, world: Path) -> None:
    heard = peer.listen("/diagnostics", DiagnosticArray)
    process = robot(*LIDAR, "-p", "use_sim_time:=true")
    peer.wait_until_active(NODE)
    clock = peer.advertise("/clock", Clock, qos=10)
    eventually(lambda: clock.get_subscription_count() == 2, "rclpy and the host read /clock")

    def tells(second: int) -> bool:
        """Say the time once more: who has just found the other may miss what comes at once."""
        now = Clock()
        now.clock.sec = second
        clock.publish(now)
        return bool(heard) and heard[-1].header.stamp.sec == second

    eventually(lambda: tells(1000), "diagnostics of second 1000")
    eventually(lambda: tells(900), "diagnostics of second 900")
    assert "/clock went back" in status(peer)["problems"]
    assert process.said().count("/clock went back") == 1
    assert all(sum(row["restarts"].values()) for row in status(peer)["components"].values())


# --- diagnostics and services --------------------------------------------------------------------------------------


def test_diagnostics_tell_rates_latency_and_losses_of_each_component(peer: Peer, robot: Any, world: Path) -> None:
    heard = peer.listen("/diagnostics", DiagnosticArray)
    robot(*LIDAR, "-p", "use_sim_time:=true")
    peer.wait_until_active(NODE)
    play(world, "--clock")

    def good() -> Any:
        for message in heard:
            rows = {row.name: row for row in message.status}
            row = rows["tercel: odometry"]
            if row.level == DiagnosticStatus.OK and float({v.key: v.value for v in row.values}["rate_hz"]) > 5.0:
                return rows
        return None

    rows = eventually(good, "an odometry at work")
    assert {"tercel: odometry", "tercel: obstacles", "tercel: tracker_3d", "tercel: transport"} <= set(rows)
    values = {value.key: value.value for value in rows["tercel: odometry"].values}
    assert {"received", "processed", "dropped", "rejected", "latency_ms.p50", "took_ms.p50"} <= set(values)


def test_services_record_save_a_map_and_begin_anew(peer: Peer, robot: Any, world: Path, tmp_path: Path) -> None:
    robot(*LIDAR, "-p", f"record_dir:={tmp_path / 'here'}")
    peer.wait_until_active(NODE)
    assert not peer.trigger(f"{NODE}/save_map").success
    started = peer.trigger(f"{NODE}/start_recording")
    assert started.success, started.message
    assert not peer.trigger(f"{NODE}/start_recording").success
    play(world)
    stopped = peer.trigger(f"{NODE}/stop_recording")
    assert stopped.success, stopped.message
    with Path(stopped.message).open("rb") as stream:
        counts = {c.topic: n for c, n in _counted(make_reader(stream))}
    assert Path(stopped.message).parent == tmp_path / "here"
    assert counts["/lidar/points"] == len(recorded(world, "/lidar/points"))
    assert counts["/tracks_3d"] > 0
    saved = peer.trigger(f"{NODE}/save_map")
    assert saved.success, saved.message
    assert Path(saved.message).read_bytes().startswith(b"ply")
    assert peer.trigger(f"{NODE}/reset_odometry").success
    eventually(lambda: sum(status(peer)["components"]["odometry"]["restarts"].values()) == 1, "a new odometry")


def _counted(reader: Any) -> Any:
    summary = reader.get_summary()
    return [(c, summary.statistics.channel_message_counts[number]) for number, c in summary.channels.items()]


# --- bad input -----------------------------------------------------------------------------------------------------


def test_bad_clouds_are_counted_by_reason_and_survived(peer: Peer, robot: Any, world: Path) -> None:
    process = robot(*LIDAR)
    peer.wait_until_active(NODE)
    publisher = peer.advertise("/lidar/points", PointCloud2, qos=50)
    peer.wait_for_subscriber(publisher)
    good = recorded(world, "/lidar/points")
    publisher.publish(good[0][:200])  # truncated
    publisher.publish(b"\x00\x01\x00\x00" + b"\xff" * 400)  # garbage
    empty = PointCloud2()
    empty.header.frame_id = "lidar"
    publisher.publish(empty)
    for data in good[1:4]:
        publisher.publish(data)
    eventually(lambda: status(peer)["components"]["odometry"]["processed"] >= 3, "the good ones")
    odometry = status(peer)["components"]["odometry"]
    assert odometry["received"] == odometry["processed"] + odometry["rejected"] + odometry["dropped"]
    assert odometry["rejected"] >= 1
    assert process.process.poll() is None
    assert "Traceback" not in process.said()


def test_a_topic_of_another_type_is_told_by_name_once(peer: Peer, robot: Any) -> None:
    publisher = peer.advertise("/lidar/points", Image)
    process = robot(*LIDAR)
    peer.wait_until_active(NODE)
    eventually(lambda: "/lidar/points is published as sensor_msgs/msg/Image" in process.said(), "the wrong type")
    publisher.publish(Image())
    assert peer.state(NODE) == "active"
    assert process.said().count("/lidar/points is published as") == 1


def test_two_publishers_on_one_topic_are_survived(peer: Peer, robot: Any, world: Path) -> None:
    process = robot(*LIDAR)
    peer.wait_until_active(NODE)
    first, second = (peer.advertise("/lidar/points", PointCloud2, qos=50) for _ in range(2))
    for publisher in (first, second):
        peer.wait_for_subscriber(publisher)
    for data in recorded(world, "/lidar/points")[:5]:
        first.publish(data)
        second.publish(data)
        time.sleep(0.05)  # more at once than a sensor's queue holds are lost before the node sees them
    rejected: Callable[[], Any] = lambda: status(peer)["components"]["odometry"]["rejected"] >= 4  # noqa: E731
    eventually(rejected, "duplicates are rejected")
    eventually(lambda: "duplicate stamp" in process.said(), "the reason")
    assert status(peer)["components"]["odometry"]["processed"] == 5


def test_a_publisher_that_is_killed_in_mid_stream_leaves_the_node_as_it_was(
    peer: Peer, robot: Any, world: Path
) -> None:
    robot(*LIDAR)
    peer.wait_until_active(NODE)
    command = [sys.executable, "-m", "tercel.cli", "play", str(world), "--transport", "ros2", "--loop"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as player:
        try:
            eventually(lambda: status(peer)["components"]["odometry"]["processed"] > 3, "clouds")
        finally:
            player.kill()
    assert peer.state(NODE) == "active"
    play(world)
    assert status(peer)["components"]["odometry"]["processed"] > 3


# --- cost ----------------------------------------------------------------------------------------------------------


def test_images_reach_a_component_undamaged_at_thirty_a_second(peer: Peer, robot: Any, shared_data: Path) -> None:
    """VGA images, as sensors send them: none is lost on the way, none is encoded anew."""
    model = shared_data / "models" / "fastestdet_352.onnx"
    robot("-p", f"models.detector:={model}", executable="camera_detector")
    peer.wait_until_active("/camera_detector")
    heard = peer.listen("/detections", Detection2DArray)
    publisher = peer.advertise("/image", Image)
    peer.wait_for_subscriber(publisher)
    peer.wait_for_publisher("/detections")
    pixels = np.random.default_rng(1).integers(0, 255, (480, 640, 3), np.uint8)
    image = Image(height=480, width=640, encoding="bgr8", step=1920, data=pixels.tobytes())
    pause = threading.Event()
    for number in range(30):
        image.header.stamp.sec, image.header.stamp.nanosec = 100 + number // 30, number % 30 * 33_000_000
        publisher.publish(image)
        pause.wait(1 / 30)
    row = eventually(
        lambda: (r := status(peer, "/camera_detector")["components"]["camera_detector"])["received"] >= 29 and r,
        "images",
    )
    assert row["rejected"] == 0
    eventually(lambda: len(heard) == row["processed"] > 0, "an answer to each image that was processed")
