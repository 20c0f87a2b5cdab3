"""`tercel odometry`, `register` and `evaluate odometry`: files in, numbers out, and a line for every mistake."""

from __future__ import annotations

import json
import re
import shlex
import struct
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from registration.distant.evaluation import Outcome
from registration.trajectory import associate
from registration.trajectory_files import read_trajectory, write_kitti, write_tum
from tercel.cli import _parser, main
from tercel.core.errors import UserError
from tercel.core.geometry import from_rotation_translation, inverse, rotation_about_z, so3_log, transform_points
from tercel.core.messages import Odometry, PointCloud
from tercel.hosts.recording import RecordingWriter, open_recording
from tercel.report.evaluate_registration import Judged, RegistrationOptions, RegistrationRun
from tercel.report.odometry_charts import HEALTHS, magnification, spans
from tercel.report.odometry_scores import Measure, score
from tercel.report.register_run import direction_words, read_points
from tercel.report.registration_pairs import read_pairs
from tests.unit.test_registration_odometry import PERIOD_NS, room_walk

Array = NDArray[Any]

GOLDEN = Path(__file__).parents[1] / "golden" / "trajectory_errors.json"
PAIRS = {
    "KITTI_00_ORB": "KITTI_00_gt",
    "KITTI_00_SPTAM": "KITTI_00_gt",
    "freiburg1_xyz-rgbdslam": "freiburg1_xyz-groundtruth",
    "ntu_viral_eee_01_fastlivo2": "ntu_viral_eee_01_gt",
    "ntu_viral_nya_01_fastlivo2": "ntu_viral_nya_01_gt",
}
START_NS = 1_000_000_000_000_000_000
HOSTILE = "<script>alert(1)</script>\"&'.mcap"
ROOM = ("--set", "map_voxel_m=0.25", "--set", "scan_voxel_m=0.375", "--set", "match_m=0.25", "--set", "keyframe_m=0.5")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


class Page(HTMLParser):
    """The tags of a page, and what it would load from elsewhere."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith(("data:", "#")):
                self.loads.append(value)


# --- evaluate odometry -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads(GOLDEN.read_text())
    return numbers


def assert_evos(found: dict[str, Any], expected: dict[str, Any], measure: str) -> None:
    relative = expected[measure]
    assert found["poses"] == expected["poses"]
    assert found["ate_rmse_m"] == found["ate_m"]["rmse"]
    figures = (("ate_m", expected["ape"]), ("rpe_m", relative["translation_m"]), ("rpe_deg", relative["rotation_deg"]))
    for key, statistics in figures:
        for name, value in statistics.items():
            assert found[key][name] == pytest.approx(value, abs=1e-6), (measure, key, name)
    assert found["rpe_trans_percent"] == pytest.approx(relative["translation_percent"], abs=1e-6)
    assert found["rpe_rot_deg_per_m"] == pytest.approx(relative["rotation_deg_per_m"], abs=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_the_command_says_what_evo_says(
    shared_data: Path, tmp_path: Path, golden: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, written = shared_data / "trajectories", tmp_path / "errors.json"
    files = folder / f"{name}.txt.gz", folder / f"{PAIRS[name]}.txt.gz"
    assert run("evaluate", "odometry", *files, "--align", "--delta", 1, "--json", written) == 0
    found = json.loads(written.read_text())
    assert_evos(found, golden[f"{name}/rigid"], "1 m")
    out = capsys.readouterr().out
    assert f"{found['ate_rmse_m']:.4f} m RMSE" in out
    assert f"{found['rpe_trans_percent']:.3f} %" in out


@pytest.mark.parametrize("name", PAIRS)
def test_every_alignment_and_delta_equals_evos_to_a_micrometre(
    shared_data: Path, golden: dict[str, Any], name: str
) -> None:
    folder = shared_data / "trajectories"
    truth, estimate = (read_trajectory(folder / f"{each}.txt.gz") for each in (PAIRS[name], name))
    i = j = np.arange(len(truth.poses))
    if truth.stamps_ns is not None and estimate.stamps_ns is not None:
        i, j = associate(truth.stamps_ns, estimate.stamps_ns, 10_000_000)
    for alignment in ("none", "rigid", "scaled"):
        expected = golden[f"{name}/{alignment}"]
        measures = [measure for measure in expected if measure not in ("poses", "ape")]
        assert {"1 frames", "10 frames", "1 m"} <= set(measures)
        for measure in measures:
            delta, unit = measure.split()
            how = Measure(alignment != "none", alignment == "scaled", float(delta), unit)  # type: ignore[arg-type]
            assert_evos(score(truth.poses[i], estimate.poses[j], how).summary(), expected, measure)


# --- evaluate odometry: what else there is ---------------------------------------------------------------------------


def drive(count: int = 60, step_m: float = 0.5) -> Array:
    """A slow curve, rising."""
    s = np.arange(count) * step_m
    positions = np.stack([s, 0.02 * s**2, 0.05 * s], axis=1)
    return from_rotation_translation(rotation_about_z(0.04 * s), positions)


def stamps_of(count: int) -> Array:
    return START_NS + np.arange(count) * PERIOD_NS


def trajectories(folder: Path) -> tuple[Path, Path]:
    """An estimate that is 2 % too long, and the truth."""
    truth, estimate = drive(), drive()
    estimate[:, :3, 3] *= 1.02
    write_tum(folder / "truth.txt", stamps_of(60), truth)
    write_tum(folder / "estimate.txt", stamps_of(60) + 2_000_000, estimate)
    return folder / "estimate.txt", folder / "truth.txt"


def test_an_estimate_two_percent_too_long_is_said_to_be_so(tmp_path: Path) -> None:
    estimate, truth = trajectories(tmp_path)
    written, page = tmp_path / "e.json", tmp_path / "page" / "odometry.html"
    assert run("evaluate", "odometry", estimate, truth, "--json", written, "--report", page.parent) == 0
    found = json.loads(written.read_text())
    assert found["rpe_trans_percent"] == pytest.approx(2.0, abs=0.02)
    assert found["rpe_rot_deg_per_m"] == pytest.approx(0.0, abs=1e-6)
    ends = drive()[-1, :3, 3]
    assert found["end_error_m"] == pytest.approx(0.02 * np.linalg.norm(ends), rel=1e-6)
    assert found["height_rmse_m"] == pytest.approx(0.02 * np.sqrt(np.mean(drive()[:, 2, 3] ** 2)), rel=1e-6)
    html = Page(page)
    assert html.tags.count("svg") == 3
    assert not html.loads
    assert run("evaluate", "odometry", estimate, truth, "--align", "--scale", "--json", written) == 0
    assert json.loads(written.read_text())["ate_rmse_m"] < 1e-6


def test_a_way_too_short_for_the_delta_has_no_relative_error_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    estimate, truth = trajectories(tmp_path)
    written = tmp_path / "e.json"
    assert run("evaluate", "odometry", estimate, truth, "--delta", 1000, "--json", written) == 0
    found = json.loads(written.read_text())
    assert (found["rpe_trans_percent"], found["rpe_rot_deg_per_m"]) == (None, None)
    assert found["ate_rmse_m"] > 0
    assert "smaller --delta" in capsys.readouterr().out


def test_kitti_files_go_by_row_or_by_the_times_beside_them(tmp_path: Path) -> None:
    estimate, truth = trajectories(tmp_path)
    kitti, times, written = tmp_path / "kitti.txt", tmp_path / "times.txt", tmp_path / "e.json"
    write_kitti(kitti, drive())
    times.write_text("".join(f"{stamp / 1e9:.3f}\n" for stamp in stamps_of(60).tolist()))
    assert run("evaluate", "odometry", kitti, kitti, "--json", written) == 0
    assert json.loads(written.read_text())["ate_rmse_m"] == 0.0
    assert run("evaluate", "odometry", kitti, truth, "--times", times, "--json", written) == 0
    assert json.loads(written.read_text())["ate_rmse_m"] < 1e-8
    assert run("evaluate", "odometry", estimate, kitti, "--times", times) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("estimate.txt", "nothing.txt"), "No such file or directory: nothing.txt"),
        (
            ("estimate.txt", "kitti.txt"),
            "kitti.txt has no stamps and the other file has; give its stamps: --times FILE",
        ),
        (("kitti.txt", "short.txt"), "60 poses, short.txt 10: KITTI files are compared row by row"),
        (("estimate.txt", "truth.txt", "--times", "kitti.txt"), "both files have stamps"),
        (("estimate.txt", "later.txt"), "no two stamps are within 0.01 s: the files begin 999.998 s apart"),
        (("estimate.txt", "truth.txt", "--scale"), "--scale goes with --align; add it"),
        (("estimate.txt", "truth.txt", "--delta", "0"), "--delta 0 m: above 0 is wanted"),
        (("estimate.txt", "truth.txt", "--delta", "1.5", "--unit", "frames"), "a whole number"),
        (("estimate.txt", "truth.txt", "--tolerance", "nan"), "--tolerance nan s: 0 to 3600"),
        (("estimate.txt", "truth.txt", "--json", "truth.txt"), "would be written over an input"),
        (("estimate.txt", "truth.txt", "--report", "truth.txt"), "cannot be written"),
        (("still.txt", "truth.txt", "--align", "--scale"), "cannot be compared: a trajectory that stands still"),
    ],
)
def test_a_mistake_with_trajectories_is_one_line_with_the_mend(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    trajectories(tmp_path)
    write_kitti(Path("kitti.txt"), drive())
    write_kitti(Path("short.txt"), drive(10))
    write_tum(Path("later.txt"), stamps_of(60) + 10**12, drive())
    write_tum(Path("still.txt"), stamps_of(60), np.tile(np.eye(4), (60, 1, 1)))
    before = Path("truth.txt").read_bytes()
    assert run("evaluate", "odometry", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert Path("truth.txt").read_bytes() == before


# --- odometry --------------------------------------------------------------------------------------------------------


def cloud(points_m: Array, number: int, frame: str = "lidar") -> PointCloud:
    return PointCloud(stamp_ns=START_NS + number * PERIOD_NS, frame_id=frame, points_m=points_m)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A walk through a room, with truth; two of its scans are no use, one is of another frame."""
    sweeps, truth = room_walk(24)
    path = tmp_path_factory.mktemp("room") / "room.mcap"
    world_T_odom = from_rotation_translation(rotation_about_z(1.0), np.array([5.0, 6.0, 7.0]))
    with RecordingWriter(path, compression="none") as writer:
        for number, (points_m, _) in enumerate(sweeps):
            stamp_ns = START_NS + number * PERIOD_NS
            pose = Odometry(
                stamp_ns=stamp_ns, frame_id="world", child_frame_id="lidar", frame_T_child=world_T_odom @ truth[number]
            )
            writer.write("/truth/odometry", stamp_ns, pose)
            message = cloud(points_m, number)
            if number == 10:
                message = cloud(points_m[:5], number)
            elif number == 15:
                message = cloud(points_m, number, frame="elsewhere")
            elif number == 20:
                message = cloud(np.full((500, 3), np.nan, np.float32), number)
            writer.write("/lidar/points", stamp_ns, message)
    return path


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
    assert run("odometry", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
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


# --- register --------------------------------------------------------------------------------------------------------


def corner(tmp_path: Path) -> tuple[Path, Path, Array]:
    """A room seen from two places: files, and target_T_source."""
    (target, _), (source, _) = room_walk(24)[0][0], room_walk(24)[0][8]
    truth = room_walk(24)[1]
    np.save(tmp_path / "target.npy", target)
    source.tofile(tmp_path / "source.raw")
    table = np.concatenate([source, np.zeros((len(source), 1), np.float32)], axis=1)
    (tmp_path / "source.bin").write_bytes(table.astype("<f4").tobytes())
    return tmp_path / "target.npy", tmp_path / "source.bin", inverse(truth[0]) @ truth[8]


def assert_near(found: Array, truth: Array, *, metres: float, degrees: float) -> None:
    error = inverse(truth) @ found
    assert np.linalg.norm(error[:3, 3]) < metres
    assert np.degrees(np.linalg.norm(so3_log(error[:3, :3]))) < degrees


def test_two_clouds_nearby_are_aligned_from_a_guess(tmp_path: Path) -> None:
    target, source, truth = corner(tmp_path)
    rough = truth.copy()
    rough[:3, 3] += [0.3, -0.2, 0.1]
    np.savetxt(tmp_path / "guess.txt", rough)
    written = tmp_path / "r.json"
    assert run("register", target, source, "--guess", tmp_path / "guess.txt", "--json", written) == 0
    found = json.loads(written.read_text())
    assert (found["converged"], found["status"], found["method"]) == (True, "converged", "local")
    assert_near(np.array(found["target_T_source"]), truth, metres=0.1, degrees=1.0)
    covariance = np.array(found["covariance"])
    assert covariance.shape == (6, 6)
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    again = tmp_path / "again.json"
    assert run("register", target, source, "--guess", written, "--json", again) == 0
    assert_near(np.array(json.loads(again.read_text())["target_T_source"]), truth, metres=0.1, degrees=1.0)


def test_the_published_pair_is_found_without_a_guess(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, written = shared_data / "lidar_pairs" / "small_gicp", tmp_path / "pair.json"
    assert run("register", folder / "target.ply", folder / "source.ply", "--json", written) == 0
    found = json.loads(written.read_text())
    assert {"target_T_source", "converged", "confidence", "covariance"} <= set(found)
    assert (found["converged"], found["method"]) == (True, "global")
    assert 0.5 <= found["confidence"] <= 1.0
    truth = np.loadtxt(folder / "T_target_source.txt")
    assert_near(np.array(found["target_T_source"]), truth, metres=0.05, degrees=0.5)
    assert "target_T_source" in capsys.readouterr().out


def test_the_page_of_a_registration_shows_before_and_after_and_loads_nothing(tmp_path: Path) -> None:
    target, source, _ = corner(tmp_path)
    hostile = tmp_path / HOSTILE.replace("/", "_").replace(".mcap", ".bin")
    hostile.write_bytes(source.read_bytes())
    assert run("register", target, hostile, "--local", "--report", tmp_path / "page") == 0
    page = Page(tmp_path / "page" / "register.html")
    assert page.tags.count("img") == 4
    assert page.tags.count("script") == 0 or page.tags.count("script") == 1
    assert not page.loads
    assert "&lt;script&gt;" in (tmp_path / "page" / "register.html").read_text()


def test_one_wall_is_degenerate_and_the_open_directions_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(4)
    wall = np.stack([np.full(4000, 8.0), rng.uniform(-9, 9, 4000), rng.uniform(-9, 9, 4000)], axis=1)
    np.save(tmp_path / "wall.npy", wall)
    np.save(tmp_path / "again.npy", wall + rng.normal(size=wall.shape) * 0.01)
    written = tmp_path / "r.json"
    assert run("register", tmp_path / "wall.npy", tmp_path / "again.npy", "--local", "--json", written) == 0
    found = json.loads(written.read_text())
    assert found["status"] == "degenerate"
    assert len(found["degenerate_directions"]) == 3
    assert "not held" in capsys.readouterr().out


def test_coordinates_beyond_all_bounds_are_no_points(tmp_path: Path) -> None:
    points_m = np.array([[1.0, 2.0, 3.0], [1e300, 0.0, 0.0], [0.0, -3e38, 0.0], [4.0, 5.0, np.nan], [7.0, 8.0, 9.0]])
    np.save(tmp_path / "a.npy", points_m)
    np.testing.assert_array_equal(read_points(tmp_path / "a.npy")[0], points_m[[0, 4]].astype(np.float32))
    np.save(tmp_path / "b.npy", points_m[1:4])
    with pytest.raises(UserError, match="no finite point among 3"):
        read_points(tmp_path / "b.npy")


def test_a_map_in_utm_coordinates_is_met_where_it_is_and_a_scan_in_them_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, source, truth = corner(tmp_path)
    utm_m, written = np.array([461_000.0, 5_481_000.0, 110.0]), tmp_path / "r.json"
    np.save(tmp_path / "map.npy", np.load(target).astype(np.float64) + utm_m)
    guess = truth.copy()
    guess[:3, 3] += utm_m + 0.2
    np.savetxt(tmp_path / "guess.txt", guess)
    assert run("register", tmp_path / "map.npy", source, "--guess", tmp_path / "guess.txt", "--json", written) == 0
    found = np.array(json.loads(written.read_text())["target_T_source"])
    np.testing.assert_allclose(found[:3, 3] - utm_m, truth[:3, 3], atol=0.03)
    assert run("register", tmp_path / "map.npy", source) == 2
    assert "if it is a map, say --map" in capsys.readouterr().err
    np.save(tmp_path / "scan.npy", np.load(target).astype(np.float64) + utm_m)
    assert run("register", target, tmp_path / "scan.npy") == 2
    assert "5,500 km from its frame's origin; a scan in its sensor's frame" in capsys.readouterr().err


def test_clouds_that_share_nothing_fail_with_exit_code_1_and_valid_json(tmp_path: Path) -> None:
    target, _, _ = corner(tmp_path)
    np.save(tmp_path / "far.npy", np.load(target) + 500.0)
    written = tmp_path / "r.json"
    options = ("--local", "--json", written, "--report", tmp_path / "page")
    assert run("register", target, tmp_path / "far.npy", *options) == 1
    found = json.loads(written.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (found["converged"], found["covariance"]) == (False, None)
    assert (tmp_path / "page" / "register.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("target.npy", "nothing.ply"), "No such file or directory: nothing.ply"),
        (("target.npy", "source.raw"), "source.raw is none of *.ply, *.pcd, *.bin, *.npy"),
        (("target.npy", "cut.bin"), "cut.bin: 7 bytes are not a whole number of points"),
        (("target.npy", "cut.ply"), "cut.ply: not a PLY file"),
        (("target.npy", "cut.npy"), "cut.npy:"),
        (("target.npy", "objects.npy"), "objects.npy:"),
        (("target.npy", "flat.npy"), "flat.npy: it holds no numbers of shape (N, 3) or (N, 4)"),
        (("target.npy", "nan.npy"), "nan.npy holds no finite point among 10"),
        (("target.npy", "huge.npy"), "huge.npy:"),
        (("target.npy", "source.bin", "--global", "--guess", "guess.txt"), "--global needs no --guess"),
        (("target.npy", "source.bin", "--distant", "--map"), "--distant is for two scans"),
        (("target.npy", "source.bin", "--guess", "scaled.txt"), "scaled.txt: not a rigid transform"),
        (("target.npy", "source.bin", "--guess", "words.txt"), "words.txt: it holds no sixteen numbers"),
        (("target.npy", "source.bin", "--seed", "-1"), "--seed begins at 0"),
        (("target.npy", "source.bin", "--json", "source.bin"), "would be written over an input"),
    ],
)
def test_a_mistake_with_clouds_is_one_line_with_the_mend(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    corner(tmp_path)
    Path("cut.bin").write_bytes(b"1234567")
    Path("cut.ply").write_bytes(b"ply\n")
    Path("cut.npy").write_bytes(Path("target.npy").read_bytes()[:200])
    np.save("objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save("flat.npy", np.zeros(12))
    np.save("nan.npy", np.full((10, 3), np.nan))
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000, 3), }"
    Path("huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    np.savetxt("guess.txt", np.eye(4))
    np.savetxt("scaled.txt", 2.0 * np.eye(4))
    Path("words.txt").write_text("what a guess")
    assert run("register", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# --- evaluate registration -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty metres of a street with truth, 16 beams, sweeps bent by the drive."""
    path = tmp_path_factory.mktemp("street") / "street.mcap"
    settings = (
        "duration_s=4",
        "lidar_rate_hz=4",
        "lidar_columns=450",
        "camera_rate_hz=0",
        "imu_rate_hz=100",
        "gps_rate_hz=0",
    )
    options = [word for setting in settings for word in ("--set", setting)]
    assert run("world", "street", "--seed", 5, *options, "-o", path, "--compression", "none") == 0
    return path


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


def test_pairs_are_drawn_by_distance_and_their_truth_lays_one_scan_on_the_other(street: Path) -> None:
    pairs, scans = read_pairs(street, None, per_bin=2, seed=1)
    assert {index for pair in pairs for index in (pair.target, pair.source)} == set(scans)
    for pair in pairs:
        low, high = pair.bin_m
        target_T_source = pair.target_T_turned @ pair.turned_T_source
        assert low <= np.linalg.norm(target_T_source[:3, 3]) < high
        moved = transform_points(target_T_source, scans[pair.source].astype(np.float64))
        distances, _ = cKDTree(scans[pair.target]).query(moved)
        if high <= 10:
            assert np.quantile(distances, 0.25) < 0.15


def test_recall_and_errors_are_told_by_distance(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, page = tmp_path / "recall.json", tmp_path / "page" / "registration.html"
    options = ("--pairs", 1, "--seed", 2, "--json", written, "--report", page.parent)
    assert run("evaluate", "registration", street, *options) == 0
    found = json.loads(written.read_text())
    bins = found["by_distance"]["distant"]
    assert list(bins)[:2] == ["5-10 m", "10-20 m"]
    for name in ("5-10 m", "10-20 m"):
        assert (bins[name]["pairs"], bins[name]["recall"]) == (1, 1.0)
        assert bins[name]["rte_m"] < 0.5
    known = found["confidence"]["distant"]
    assert known["right"] + known["wrong"] == sum(row["pairs"] for row in bins.values())
    out = capsys.readouterr().out
    assert "40-50 m apart" in out
    html = Page(page)
    assert not html.loads
    assert html.tags.count("svg") == 2
    assert html.tags.count("circle") == known["right"] + known["wrong"]


def test_a_wrong_pose_is_counted_with_what_its_method_believed() -> None:
    near, far = (5.0, 10.0), (40.0, 50.0)
    judged = [
        Judged(Outcome(near, 0.5, 1.0, 0.9, 0.1), believed=True),
        Judged(Outcome(near, 2.5, 1.0, 0.6, 0.1), believed=True),
        Judged(Outcome(far, 0.5, 6.0, 0.1, 0.1), believed=False),
        Judged(Outcome(far, np.inf, np.inf, 0.0, 0.1), believed=False),
    ]
    found = RegistrationRun(RegistrationOptions([Path("a.mcap")]), {"distant": {"a.mcap": judged}}).summary()
    assert found["by_distance"]["distant"]["5-10 m"]["recall"] == 0.5
    assert found["by_distance"]["distant"]["40-50 m"]["recall"] == 0.0
    assert found["by_distance"]["distant"]["40-50 m"]["rre_deg"] is None
    known = found["confidence"]["distant"]
    assert (known["right"], known["right_believed"], known["wrong"], known["wrong_believed"]) == (1, 1, 3, 1)
    assert known["auc"] == 1.0
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("room.mcap", "--method", "distnt"), "unknown method 'distnt'; did you mean 'distant'?"),
        (("room.mcap", "--pairs", "0"), "--pairs 0: 1 to 200 is wanted"),
        (("room.mcap",), "room.mcap has no two scans with truth that are 5 to 50 m apart"),
        (("clouds",), "clouds has no /truth/odometry"),
        (("nothing.mcap",), "no recording at nothing.mcap"),
    ],
)
def test_a_mistake_with_an_evaluation_is_one_line_with_the_mend(
    room: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("room.mcap").symlink_to(room)
    Path("clouds").mkdir()
    Path("clouds/0.bin").write_bytes(np.zeros((200, 4), np.float32).tobytes())
    assert run("evaluate", "registration", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# --- the parts -------------------------------------------------------------------------------------------------------


def test_directions_are_named_by_what_makes_up_most_of_them() -> None:
    assert direction_words(np.array([0.0, -1.0, 0.01, 0, 0, 0])) == "y"
    assert direction_words(np.array([0.6, 0.8, 0, 0, 0, 0])) == "0.80 y +0.60 x"
    assert direction_words(np.array([-0.6, 0, 0, 0, 0, 0.8])) == "0.80 rotation about z -0.60 x"


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


def test_help_shows_examples_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (("odometry",), ("register",), ("evaluate", "odometry"), ("evaluate", "registration")):
        with pytest.raises(SystemExit) as ended:
            run(*verb, "--help")
        assert ended.value.code == 0
        examples = re.findall(rf"^  tercel ({' '.join(verb)} .*)$", capsys.readouterr().out, re.MULTILINE)
        assert len(examples) >= 2
        for example in examples:
            _parser().parse_args(shlex.split(example, comments=True))
