"""Loops and merging on a simulated street whose truth is known: there and back, apart, and what must not be merged."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from registration.global_ import GlobalRegistration
from registration.keyframes import KeyframeConfig, Recorded, Scan, record
from registration.local import Registration
from registration.loop_closure import Loop, LoopConfig, agree, consistent, find_loops
from registration.merge import MergeConfig, Merged, close_loops, merge
from registration.trajectory_files import read_trajectory
from tercel.cli_merge import add_merge
from tercel.core.errors import UserError
from tercel.core.geometry import (
    from_rotation_translation,
    inverse,
    rotation_about_z,
    se3_exp,
    so3_log,
    transform_points,
)
from tercel.core.messages import PointCloud
from tercel.hosts.recording import RecordingWriter
from tercel.report.merge_run import write_ply
from tests.unit.merge_scenes import drive, street_scan

Array = NDArray[Any]

DRIFT = np.array([0.01, 0.004, 0.002, 0.0001, 0.0002, 0.0006])
NEARBY = MergeConfig(loops=LoopConfig(distant_keyframes=1))
"""Registration without a guess takes a second a pair: one pair is enough where it is not what is tested."""
THERE = np.arange(0.0, 36.0, 2.5)
BACK = np.arange(52.0, 16.0, -2.5)


@pytest.fixture(scope="module")
def there_and_back() -> tuple[Recorded, Array, Recorded, Array, Merged]:
    """Two drives that meet in opposite lanes: 15 scans each, B begins 52 m away and faces A."""
    a, a_truth = drive(1, THERE, drift=DRIFT)
    b, b_truth = drive(1, BACK, lane=1, backwards=True, time_s=9.0, drift=DRIFT)
    return a, a_truth, b, b_truth, merge(a, b)


def error(found: Array, true: Array) -> tuple[float, float]:
    """m, degrees."""
    off = inverse(found) @ true
    return float(np.linalg.norm(off[:3, 3])), float(np.degrees(np.linalg.norm(so3_log(off[:3, :3]))))


def test_two_drives_that_meet_in_opposite_lanes_are_merged(
    there_and_back: tuple[Recorded, Array, Recorded, Array, Merged],
) -> None:
    _, a_truth, b, b_truth, merged = there_and_back
    assert merged.status == "merged"
    assert merged.confidence > 0.99
    true = inverse(a_truth[0]) @ b_truth[0]
    assert np.linalg.norm(true[:3, 3]) > 30.0
    assert merged.A_T_B is not None
    off_m, off_deg = error(merged.A_T_B, true)
    assert off_m < 0.5
    assert off_deg < 1.0
    assert merged.b_poses is not None
    assert merged.b_poses.shape == b.odom_T_sensor.shape
    np.testing.assert_allclose(merged.b_poses[0], merged.A_T_B, atol=1e-9)
    assert merged.covariance is not None
    assert np.linalg.eigvalsh(merged.covariance).min() > 0.0
    assert np.sqrt(np.trace(merged.covariance[:3, :3])) < 1.0


def test_merging_the_other_way_round_gives_the_inverse(
    there_and_back: tuple[Recorded, Array, Recorded, Array, Merged],
) -> None:
    a, _, b, _, merged = there_and_back
    assert merged.A_T_B is not None
    other = merge(b, a)
    assert other.A_T_B is not None
    off_m, off_deg = error(other.A_T_B, inverse(merged.A_T_B))
    assert off_m < 0.25
    assert off_deg < 0.5


def test_merging_twice_gives_the_same_bytes(there_and_back: tuple[Recorded, Array, Recorded, Array, Merged]) -> None:
    a, _, b, _, merged = there_and_back
    again = merge(a, b)
    assert again.b_poses is not None
    assert merged.b_poses is not None
    assert again.b_poses.tobytes() == merged.b_poses.tobytes()


@pytest.mark.parametrize(
    ("seed", "begin_m"), [(2, 0.0), (1, 400.0)], ids=["another street", "another part of the street"]
)
def test_what_does_not_overlap_is_not_merged(
    there_and_back: tuple[Recorded, Array, Recorded, Array, Merged], seed: int, begin_m: float
) -> None:
    a = there_and_back[0]
    b, _ = drive(seed, begin_m + THERE[:6], drift=DRIFT)
    apart = merge(a, b, NEARBY)
    assert apart.status == "no overlap"
    assert apart.reason
    assert "\n" not in apart.reason
    assert apart.A_T_B is apart.covariance is apart.a_poses is apart.b_poses is None
    assert apart.loops == []


def test_recordings_that_never_came_near_each_other_are_merged_without_a_guess(
    there_and_back: tuple[Recorded, Array, Recorded, Array, Merged], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in that knows the truth up to 45 m and gives up beyond: the real one takes a second a pair."""
    a, a_truth = there_and_back[:2]
    b, b_truth = drive(1, np.arange(70.0, 46.0, -4.0), lane=1, backwards=True, time_s=9.0, drift=DRIFT)
    rows = {id(k.points_m): (truth, k.row) for r, truth in ((a, a_truth), (b, b_truth)) for k in r.keyframes}

    def stand_in(target_m: Array, source_m: Array) -> GlobalRegistration:
        (target_truth, i), (source_truth, j) = rows[id(target_m)], rows[id(source_m)]
        true = inverse(target_truth[i]) @ source_truth[j]
        covariance = np.diag(np.repeat([0.05, 0.005], 3) ** 2)
        local = Registration(true, "converged", 9, 0.3, 0.1, np.linalg.inv(covariance), covariance, np.zeros((0, 6)))
        return GlobalRegistration(true, 0.8, bool(np.linalg.norm(true[:3, 3]) < 45.0), 0, 100, local)

    monkeypatch.setattr("registration.loop_closure.register_distant", stand_in)
    merged = merge(a, b)
    assert merged.status == "merged"
    assert len(merged.loops) == merged.verified == LoopConfig().distant_loops
    assert all(loop.score == 0.0 for loop in merged.loops)
    assert merged.A_T_B is not None
    off_m, off_deg = error(merged.A_T_B, inverse(a_truth[0]) @ b_truth[0])
    assert off_m < 0.5
    assert off_deg < 1.0


def test_loops_of_which_no_two_agree_are_one_at_most(
    there_and_back: tuple[Recorded, Array, Recorded, Array, Merged],
) -> None:
    a, _, b, _, merged = there_and_back
    far = [np.array([20.0 * k, 0.0, 0.0, 0.0, 0.0, 0.0]) for k in range(4)]
    apart = [
        replace(loop, known_T_asked=loop.known_T_asked @ se3_exp(off), confidence=0.6 + 0.1 * k)
        for k, (loop, off) in enumerate(zip(merged.loops, far, strict=False))
    ]
    assert consistent(apart, a, b) == [apart[-1]]
    assert consistent([], a, b) == []


def test_a_recording_without_a_usable_scan_is_not_merged(
    there_and_back: tuple[Recorded, Array, Recorded, Array, Merged],
) -> None:
    nothing = record([Scan(1, np.full((5, 3), np.nan, np.float32)), Scan(2, np.zeros((0, 3), np.float32))])
    assert nothing.rejected.total() == 2
    assert nothing.odom_T_sensor.shape == (0, 4, 4)
    for pair in ((there_and_back[0], nothing), (nothing, there_and_back[0])):
        assert "no scan that can be used" in merge(*pair).reason


def test_coming_back_takes_the_drift_away() -> None:
    places = np.concatenate([np.arange(0.0, 20.0, 2.5), np.arange(17.5, -1.0, -2.5)])
    drifted, truth = drive(1, places, drift=4.0 * DRIFT)
    closed = close_loops(drifted, LoopConfig(min_way_m=8.0))
    assert len(closed.loops) >= 3
    true = inverse(truth[0]) @ truth
    before = np.linalg.norm(drifted.odom_T_sensor[-1, :3, 3] - true[-1, :3, 3])
    after = np.linalg.norm(closed.poses[-1, :3, 3] - true[-1, :3, 3])
    assert after < 0.5 * before


def test_a_drive_that_never_comes_back_keeps_its_odometry(
    there_and_back: tuple[Recorded, Array, Recorded, Array, Merged],
) -> None:
    a = there_and_back[0]
    closed = close_loops(a)
    assert closed.loops == []
    np.testing.assert_array_equal(closed.poses, a.odom_T_sensor)


def test_loops_that_contradict_the_others_are_left_out(
    there_and_back: tuple[Recorded, Array, Recorded, Array, Merged],
) -> None:
    a, _, b, _, merged = there_and_back
    right = find_loops(a, b)
    assert len(right) >= 4
    wrong = []
    for k, loop in enumerate(right[:3]):
        pose = loop.known_T_asked @ se3_exp(np.array([3.0 * k + 2.0, -2.0, 0.0, 0.0, 0.0, 0.3 * k]))
        wrong.append(Loop(loop.known, loop.asked, pose, loop.covariance, loop.score, loop.agreement, 0.999))
    kept = consistent([*wrong, *right], a, b)
    assert all(any(each is loop for loop in right) for each in kept)
    assert len(kept) >= len(merged.loops)


# --- free space ------------------------------------------------------------------------------------------------------


def wall(distance_m: float, half_width_m: float = 4.0) -> Array:
    """A grid on ground level to 3 m, as seen from the origin 1 m above the ground, and some ground."""
    y, z = np.meshgrid(np.arange(-half_width_m, half_width_m, 0.1), np.arange(-1.0, 2.0, 0.1))
    x = np.full(y.size, distance_m)
    ground = np.stack([np.linspace(2.0, 4.0, 400), np.zeros(400), np.full(400, -1.0)], axis=1)
    return np.concatenate([np.stack([x, y.ravel(), z.ravel()], axis=1), ground])


def test_a_wall_that_the_other_looked_through_contradicts_it() -> None:
    same = agree(wall(10.0), wall(10.0), np.eye(4))
    assert same.contradicted == 0
    assert same.share == 1.0
    nearer = agree(wall(10.0), wall(6.0, 2.0), np.eye(4))
    assert nearer.confirmed < nearer.contradicted
    assert nearer.share < 0.1


def test_what_lies_behind_is_nobodys_contradiction() -> None:
    narrow, wide = wall(6.0, 2.0), wall(10.0, 3.0)
    hidden = agree(narrow, wide, np.eye(4))
    # seen from the narrow wall's scan the wide one is hidden: it has no say about it; the other way round it has
    standing = int((narrow[:, 2] > -0.5).sum())
    assert hidden.contradicted <= standing


def test_scans_without_points_have_no_opinion() -> None:
    assert agree(np.zeros((0, 3)), wall(5.0), np.eye(4)).share == 0.0
    assert agree(wall(5.0), np.zeros((0, 3)), np.eye(4)).share == 0.0


# --- keyframes -------------------------------------------------------------------------------------------------------


def test_keyframes_come_every_so_many_metres_and_carry_all_poses() -> None:
    scans = [Scan(k * 100_000_000, street_scan(1, 0.8 * k, -1, False)[0]) for k in range(12)]
    scans.insert(5, Scan(450_000_000, np.zeros((3, 3), np.float32)))
    recorded = record(scans)
    assert len(recorded.stamps_ns) == 12
    assert recorded.rejected.total() == 1
    rows = [keyframe.row for keyframe in recorded.keyframes]
    assert rows[0] == 0
    moved_m = np.linalg.norm(np.diff(recorded.keyframe_poses[:, :3, 3], axis=0), axis=1)
    assert ((moved_m > 2.0) & (moved_m < 3.0)).all()
    np.testing.assert_allclose(recorded.carried(recorded.keyframe_poses), recorded.odom_T_sensor, atol=1e-12)
    shift = from_rotation_translation(rotation_about_z(0.3), np.array([1.0, 2.0, 0.0]))
    carried = recorded.carried(shift @ recorded.keyframe_poses)
    np.testing.assert_allclose(carried, shift @ recorded.odom_T_sensor, atol=1e-12)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="min_loops"):
        MergeConfig(min_loops=1)
    with pytest.raises(ValueError, match="min_confidence"):
        MergeConfig(min_confidence=1.0)
    with pytest.raises(ValueError, match="keyframe_m"):
        KeyframeConfig(keyframe_m=0.0)


# --- the command -----------------------------------------------------------------------------------------------------


def write(path: Path, seed: int, places_m: Array, lane: int = -1, *, backwards: bool = False) -> Path:
    """A recording of a street, five scans a second."""
    with RecordingWriter(path, compression="none") as writer:
        for k, at_m in enumerate(places_m.tolist()):
            scan, _ = street_scan(seed, at_m, lane, backwards, 9.0 if backwards else 5.0)
            stamp_ns = 1_700_000_000_000_000_000 + k * 200_000_000
            writer.write("/points", stamp_ns, PointCloud(stamp_ns=stamp_ns, frame_id="lidar", points_m=scan))
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that overlap, and one that does not."""
    folder = tmp_path_factory.mktemp("merge")
    places = np.arange(0.0, 24.0, 1.25)
    return {
        "a": write(folder / "a <b>.mcap", 1, places),
        "b": write(folder / "b.mcap", 1, 30.0 - places, 1, backwards=True),
        "other": write(folder / "other.mcap", 2, places[:8]),
    }


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser(prog="tercel")
    add_merge(parser.add_subparsers(dest="verb"))
    args = parser.parse_args(["merge", *(str(argument) for argument in arguments)])
    return int(args.run(args))


def test_the_command_writes_one_frame(
    recordings: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(recordings["a"], recordings["b"], "-o", out, "--json", tmp_path / "numbers.json") == 0
    told = capsys.readouterr()
    assert "merged" in told.out
    numbers = json.loads((out / "merged.json").read_text())
    assert numbers == json.loads((tmp_path / "numbers.json").read_text())
    true = inverse(street_scan(1, 0.0, -1, False)[1]) @ street_scan(1, 30.0, 1, True, 9.0)[1]
    off_m, off_deg = error(np.array(numbers["A_T_B"]), true)
    assert off_m < 0.5
    assert off_deg < 1.0
    assert np.array(numbers["covariance"]).shape == (6, 6)
    assert len(numbers["loops"]) >= 3
    found = read_trajectory(out / "b.txt")
    assert len(found.poses) == numbers["recordings"]["b"]["posed"]
    np.testing.assert_allclose(found.poses[0], numbers["A_T_B"], atol=1e-6)
    header, _, data = (out / "merged.ply").read_bytes().partition(b"end_header\n")
    count = int(header.split(b"element vertex ")[1].split()[0])
    assert len(data) == 15 * count
    page = (out / "report.html").read_text()
    assert "a &lt;b&gt;.mcap" in page
    assert "<b>.mcap" not in page
    assert page.count("data:image/png") == 2
    assert 'class="loop"' in page


def test_the_command_says_in_one_line_that_recordings_do_not_overlap(
    recordings: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registration.merge.find_distant_loops", lambda *_: [])  # a second a pair
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.txt").write_text("stale")
    assert run(recordings["a"], recordings["other"], "-o", out) == 1
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert "not merged" in told.err
    numbers = json.loads((out / "merged.json").read_text())
    assert numbers["status"] == "no overlap"
    assert numbers["A_T_B"] is None
    assert sorted(path.name for path in out.iterdir()) == ["merged.json", "report.html"]
    assert "not merged" in (out / "report.html").read_text()


def test_mistakes_are_one_line_and_leave_nothing(recordings: dict[str, Path], tmp_path: Path) -> None:
    a, b = recordings["a"], recordings["b"]
    (tmp_path / "file").write_text("")
    for arguments, words in (
        ((a, a, "-o", tmp_path / "x"), "same recording"),
        ((a, tmp_path / "none.mcap", "-o", tmp_path / "x"), "no recording"),
        ((a, b, "-o", tmp_path / "file"), "a folder is wanted"),
        ((a, b, "-o", tmp_path / "x", "--min-loops", 1), "--min-loops"),
        ((a, b, "-o", tmp_path / "x", "--voxel-m", "nan"), "--voxel-m"),
        ((a, b, "-o", tmp_path / "x", "--topic", "/pints"), "/points"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            run(*arguments)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_a_ply_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    clouds = [np.arange(6, dtype=np.float32).reshape(2, 3), np.full((1, 3), 7.0, np.float32)]
    write_ply(tmp_path / "cloud.ply", clouds)
    _, _, data = (tmp_path / "cloud.ply").read_bytes().partition(b"end_header\n")
    rows = np.frombuffer(data, dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    np.testing.assert_array_equal(rows["xyz"], np.concatenate(clouds))
    assert rows["rgb"].tolist() == [[74, 144, 226]] * 2 + [[240, 138, 44]]
    moved = transform_points(np.eye(4), clouds[0])
    np.testing.assert_array_equal(moved, clouds[0])
