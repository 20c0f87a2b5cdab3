"""The main job on real recordings: import, replay, compare with truth."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader

from tercel.core.messages import Odometry
from tercel.report.summary import without_wall_times
from tests.scenarios.conftest import replay, rows_of, tercel


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("model", ["yolox_nano_416", "nanodet_m_320", "nanodet_m_416"])
def test_the_camera_and_lidar_drive_replays_with_real_detectors(
    camera_lidar_drive: Path, shared_data: Path, tmp_path: Path, model: str
) -> None:
    summary = replay(camera_lidar_drive, tmp_path / "out", "--model", shared_data / "models" / f"{model}.onnx")
    assert summary["graph"] == "fusion"
    for name, row in summary["components"].items():
        assert row["dropped"] == row["rejected"] == 0, name
        assert all(port["processed"] in (1, 39) for port in row["inputs"].values()), name
    assert summary["components"]["tracker_3d"]["outputs"]["tracks"]["count"] == 39
    # The car ahead is in view from the first to the last frame: it must be one track for most of the drive.
    longest = summary["tracking_2d"]["longest_s"]
    assert longest > 0.6 * summary["recording"]["duration_s"]


def test_the_lidar_drive_is_followed_against_its_poses_and_labels(lidar_drive: Path, tmp_path: Path) -> None:
    summary = replay(lidar_drive, tmp_path / "out")
    odometry, tracking = summary["odometry"], summary["tracking_3d"]
    assert odometry["poses"] == 154
    assert odometry["path_m"] == pytest.approx(69.4, abs=0.5)
    assert odometry["ate_rmse_m"] < 0.86  # what kiss-icp 1.3.0 reaches here
    assert tracking["truth_boxes"] > 500
    assert tracking["recall"] > 0.5


def test_two_replays_are_byte_identical_in_any_folder_and_hash_seed(
    camera_lidar_drive: Path, shared_data: Path, tmp_path: Path
) -> None:
    digests, summaries = set(), []
    for run in ("a", "b"):
        folder = tmp_path / run
        folder.mkdir()
        model = shared_data / "models" / "yolox_nano_416.onnx"
        command = [
            "-m",
            "tercel.cli",
            "replay",
            camera_lidar_drive,
            "--model",
            model,
            "--out",
            folder / "out",
            "--no-report",
        ]
        environment = {**os.environ, "PYTHONHASHSEED": "1" if run == "a" else "2"}
        subprocess.run(
            [sys.executable, *map(str, command)], cwd=folder, env=environment, check=True, capture_output=True
        )
        digests.add(sha256(folder / "out" / "result.mcap"))
        summaries.append(without_wall_times(json.loads((folder / "out" / "summary.json").read_text())))
    assert len(digests) == 1
    assert summaries[0] == summaries[1]


def test_the_result_opens_with_mcaps_own_reader_and_with_rosbags(lidar_drive: Path, tmp_path: Path) -> None:
    replay(lidar_drive, tmp_path / "out")
    path = tmp_path / "out" / "result.mcap"
    with path.open("rb") as stream:
        topics = {channel.topic for _, channel, _ in make_reader(stream, validate_crcs=True).iter_messages()}
    assert {"/odometry", "/obstacles", "/tracks_3d", "/tf", "/tf_static"} == topics
    with AnyReader([path]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        for connection, _, raw in reader.messages():
            reader.deserialize(raw, connection.msgtype)
    assert counts["/odometry"] == counts["/tracks_3d"] == 154


def test_foreign_recordings_are_described(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, topic in [
        ("bags/nav2_turtlebot.mcap", "/amcl_pose"),
        ("bags/tf_example_rosbag2", "/tf_static"),
        ("bags/robot_localization_test1.bag", "/husky_velocity_controller/odom"),
    ]:
        assert tercel("info", shared_data / name, "--json", tmp_path / "info.json") == 0
        assert topic in capsys.readouterr().out
        assert topic in json.loads((tmp_path / "info.json").read_text())["topics"]


def test_an_rgbd_sequence_keeps_its_poses(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "rgbd_7scenes"
    path = tmp_path / "scene.mcap"
    assert tercel("import", "7scenes", source, "-o", path) == 0
    poses = [m for _, _, m in rows_of(path) if isinstance(m, Odometry)]
    assert len(poses) == 135
    first = np.loadtxt(source / "frame-000000.pose.txt")
    np.testing.assert_allclose(poses[0].frame_T_child, first, atol=2e-4)
