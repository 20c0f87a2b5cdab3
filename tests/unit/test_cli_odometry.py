"""tercel odometry: a pose or a reason for every scan, with and without an IMU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from registration.trajectory_files import read_trajectory
from tercel.core.geometry import inverse
from tercel.core.messages import Odometry
from tercel.hosts.recording import RecordingWriter, open_recording
from tercel.report.odometry_charts import HEALTHS, magnification, spans
from tercel.report.odometry_scores import Measure, score
from tests.unit.cli_registration import HOSTILE, START_NS, Page, assert_mistake, cloud, run, write_room, write_street
from tests.unit.test_registration_odometry import PERIOD_NS, room_walk

Array = NDArray[Any]

ROOM = ("--set", "map_voxel_m=0.25", "--set", "scan_voxel_m=0.375", "--set", "match_m=0.25", "--set", "keyframe_m=0.5")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_room(tmp_path_factory.mktemp("room") / "room.mcap")


@pytest.fixture(scope="module")
def followed(room: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of it."""
    out = tmp_path_factory.mktemp("followed")
    written = ("-o", out / "traj.txt", "--json", out / "numbers.json", "--report", out)
    assert run("odometry", room, *ROOM, *written) == 0
    return out


def test_every_scan_of_a_recording_has_a_pose_or_a_reason(followed: Path) -> None:
    summary = json.loads((followed / "numbers.json").read_text())
    assert summary["scans"] == 24
    assert summary["posed"] == 21
    assert summary["rejected"] == {"frame changed within the stream": 1, "too few usable points": 2}
    assert sum(summary["health"].values()) == 21
    found = read_trajectory(followed / "traj.txt")
    assert found.stamps_ns is not None
    assert found.stamps_ns.tolist() == [START_NS + k * PERIOD_NS for k in range(24) if k not in (10, 15, 20)]


def test_the_trajectory_is_the_sensors_way_and_held_against_the_recordings_truth(followed: Path) -> None:
    summary = json.loads((followed / "numbers.json").read_text())
    _, truth = room_walk(24)
    kept = [k for k in range(24) if k not in (10, 15, 20)]
    poses = read_trajectory(followed / "traj.txt").poses
    assert np.abs(poses[:, :3, 3] - (inverse(truth[0]) @ truth[kept])[:, :3, 3]).max() < 0.1
    assert summary["truth"]["poses"] == 21
    expected = score(truth[kept], poses, Measure(aligned=True))
    assert summary["truth"]["ate_rmse_m"] == pytest.approx(expected.absolute.rmse, abs=1e-6)
    assert summary["path_m"] == pytest.approx(np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).sum(), abs=1e-6)


def test_the_page_shows_way_heights_errors_and_health_and_loads_nothing(followed: Path) -> None:
    page = Page(followed / "odometry.html")
    assert not page.loads
    assert page.tags.count("svg") == 6
    assert page.tags.count("section") == 4
    html = (followed / "odometry.html").read_text()
    assert "rejected: 1 scan from 1.00 s" in html
    assert "truth, aligned" in html


def test_a_second_run_writes_the_same_digits_and_kittis_format_has_a_row_for_every_scan(
    room: Path, followed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("odometry", room, *ROOM, "--format", "kitti", "-o", tmp_path / "kitti.txt") == 0
    rows, poses = read_trajectory(tmp_path / "kitti.txt").poses, read_trajectory(followed / "traj.txt").poses
    assert len(rows) == 24
    np.testing.assert_allclose(rows[10], rows[9], atol=1e-12)
    np.testing.assert_array_equal(np.delete(rows, [10, 15, 20], axis=0)[:, :3, 3], poses[:, :3, 3])
    np.testing.assert_allclose(np.delete(rows, [10, 15, 20], axis=0), poses, atol=1e-8)
    assert "3 rejected ones repeat the pose before them" in capsys.readouterr().out


def test_a_folder_of_kitti_scans_is_followed_and_its_damaged_file_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, sweeps = tmp_path / HOSTILE.removesuffix(".mcap").replace("/", "_"), room_walk(24)[0]
    folder.mkdir()
    for number, (points_m, _) in enumerate(sweeps[:6]):
        table = np.concatenate([points_m, np.zeros((len(points_m), 1), np.float32)], axis=1)
        (folder / f"{number:06d}.bin").write_bytes(table.tobytes() if number != 3 else b"cut")
    out = tmp_path / "out"
    assert run("odometry", folder, *ROOM, "-o", out / "t.txt", "--report", out, "--json", out / "n.json") == 0
    summary = json.loads((out / "n.json").read_text())
    assert (summary["scans"], summary["posed"], summary["rejected"]) == (6, 5, {"file is damaged": 1})
    stamps_ns = read_trajectory(out / "t.txt").stamps_ns
    assert stamps_ns is not None
    assert np.diff(stamps_ns).tolist() == [PERIOD_NS, PERIOD_NS, 2 * PERIOD_NS, PERIOD_NS]
    page = Page(out / "odometry.html")
    assert page.tags.count("script") == 1  # the page's own
    assert "path m" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing.mcap",), "no recording at nothing.mcap"),
        (("empty",), "no *.ply, *.pcd, *.bin in empty, and it is no rosbag2 folder"),
        (("room.mcap", "--inertial"), "has no IMU (sensor_msgs/msg/Imu); leave --inertial out"),
        (("room.mcap", "--topic", "/lidar/pints"), "no clouds on /lidar/pints; did you mean '/lidar/points'?"),
        (("room.mcap", "--set", "map_voxel=1"), "no such setting; did you mean 'map_voxel_m'?"),
        (("room.mcap", "--set", "map_voxel_m=-1"), "map_voxel_m must be above 0"),
        (("room.mcap", "--set", "keyframes=few"), "int is wanted"),
        (("room.mcap", "-o", "room.mcap"), "would be written over an input"),
        (("clouds", "--rate-hz", "0"), "rate_hz is 0"),
        (("clouds", "--inertial"), "is a folder of clouds: leave --inertial out"),
        (("blind.mcap",), "has no LiDAR scans (sensor_msgs/msg/PointCloud2); it has nav_msgs/msg/Odometry"),
    ],
)
def test_a_mistake_with_recordings_is_one_line_with_the_mend(
    room: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("room.mcap").write_bytes(room.read_bytes())
    Path("empty").mkdir()
    Path("clouds").mkdir()
    Path("clouds/0.bin").write_bytes(np.zeros((100, 4), np.float32).tobytes())
    with RecordingWriter(Path("blind.mcap"), compression="none") as writer:
        pose = Odometry(stamp_ns=START_NS, frame_id="a", child_frame_id="b", frame_T_child=np.eye(4))
        writer.write("/odometry", START_NS, pose)
    assert_mistake(capsys, message, "odometry", *arguments)
    assert Path("room.mcap").read_bytes() == room.read_bytes()


def test_a_recording_without_one_usable_scan_fails_with_its_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nan.mcap"
    with RecordingWriter(path, compression="none") as writer:
        for number in range(3):
            nothing = cloud(np.full((100, 3), np.nan, np.float32), number)
            writer.write("/lidar/points", nothing.stamp_ns, nothing)
    out = tmp_path / "out"
    assert run("odometry", path, "-o", out / "t.txt", "--report", out, "--json", tmp_path / "n.json") == 1
    assert "3 too few usable points" in capsys.readouterr().out
    assert json.loads((tmp_path / "n.json").read_text())["posed"] == 0
    assert not out.exists()


def test_only_a_scan_with_a_pose_says_which_sensor_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "boot.mcap"
    sweeps, _ = room_walk(3)
    with RecordingWriter(path, compression="none") as writer:
        for number, (points_m, _) in enumerate(sweeps):
            message = cloud(points_m, number) if number else cloud(points_m[:5], number, frame="boot")
            writer.write("/lidar/points", message.stamp_ns, message)
    assert run("odometry", path, *ROOM, "--json", tmp_path / "n.json") == 0
    found = json.loads((tmp_path / "n.json").read_text())
    assert (found["posed"], found["rejected"]) == (2, {"too few usable points": 1})


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street(tmp_path_factory.mktemp("street") / "street.mcap")


def test_the_imu_is_followed_too_and_must_be_placed(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "n.json"
    assert run("odometry", street, "--inertial", "--set", "gyro_density=0.001", "--json", written) == 0
    found = json.loads(written.read_text())
    assert (found["scans"], found["posed"], found["rejected"]) == (16, 16, {})
    assert found["truth"]["ate_rmse_m"] < 0.1
    assert run("odometry", street, "--inertial", "--set", "gyro_densty=0.001") == 2
    assert "did you mean 'gyro_density'?" in capsys.readouterr().err
    lost, late = tmp_path / "lost.mcap", tmp_path / "late.mcap"
    recording = open_recording(street)
    later_ns = recording.start_ns + 1_000_000_000
    with RecordingWriter(lost, compression="none") as writer, RecordingWriter(late, compression="none") as other:
        for recorded in recording.messages(["/imu/data", "/lidar/points", "/tf_static"]):
            message = recording.decode(recorded)
            if recorded.topic != "/tf_static":
                writer.write(recorded.topic, recorded.log_time_ns, message)
            if recorded.topic != "/imu/data" or recorded.log_time_ns > later_ns:
                other.write(recorded.topic, recorded.log_time_ns, message)
    assert run("odometry", late, "--inertial", "--json", written) == 0
    found = json.loads(written.read_text())
    assert found["rejected"].keys() == {"no IMU reading yet"}
    assert found["posed"] + found["rejected"]["no IMU reading yet"] == 16
    assert run("odometry", lost, "--inertial") == 2
    assert "/tf_static does not connect 'imu' with 'lidar'; record it" in capsys.readouterr().err


def test_late_transforms_and_a_stamp_from_the_future_cost_a_few_scans_and_are_counted(
    street: Path, tmp_path: Path
) -> None:
    damaged, written, out = tmp_path / "damaged.mcap", tmp_path / "n.json", tmp_path / "traj.txt"
    recording = open_recording(street)
    later_ns = recording.start_ns + 600_000_000
    with RecordingWriter(damaged, compression="none") as writer:
        clouds, statics = 0, []
        for recorded in recording.messages(["/imu/data", "/lidar/points", "/tf_static"]):
            message = recording.decode(recorded)
            if recorded.topic == "/tf_static":
                statics.append(message)
                continue
            if statics and recorded.log_time_ns > later_ns:
                writer.write("/tf_static", recorded.log_time_ns, statics.pop())
            if recorded.topic == "/lidar/points":
                clouds += 1
                ahead_ns = (clouds == 8) * 3_600_000_000_000
                message = replace(message, stamp_ns=message.stamp_ns + ahead_ns)
            writer.write(recorded.topic, recorded.log_time_ns, message)
    for options in ([], ["--inertial"]):
        assert run("odometry", damaged, *options, "-o", out, "--json", written) == 0
        found = json.loads(written.read_text())
        assert found["rejected"].pop("/tf_static does not connect 'imu' with 'lidar'", 0) == (2 if options else 0)
        assert found["rejected"] == {"stamp does not rise with the others": 1, "stamp not after the one before": 2}
        stamps = np.loadtxt(out)[:, 0]
        assert len(stamps) == found["posed"]
        assert (np.diff(stamps) > 0).all()


def test_health_spans_cover_the_time_without_gap_or_overlap() -> None:
    healths = ["tracking"] * 3 + ["lost"] * 2 + ["rejected"] + ["tracking"]
    found = spans(np.arange(7.0), healths, 7.5)
    assert found["tracking"] == [(0.0, 3.0, 3), (6.0, 7.5, 1)]
    assert found["lost"] == [(3.0, 5.0, 2)]
    every = sorted(span for health in HEALTHS for span in found[health])
    assert [begin for begin, _, _ in every[1:]] == [end for _, end, _ in every[:-1]]
    assert sum(count for _, _, count in every) == 7


@pytest.mark.parametrize(
    ("radius_m", "expected"), [(0.001, 1000.0), (0.0015, 500.0), (0.02, 50.0), (0.6, 1.0), (5.0, 1.0), (0.0, 1.0)]
)
def test_ellipses_are_magnified_by_round_numbers_and_never_shrunk(radius_m: float, expected: float) -> None:
    assert magnification(radius_m, 1.0) == expected
