"""Trajectory files: what is written is read back, stamps to the nanosecond, and what is no pose is refused by line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from registration import trajectory_files
from registration.trajectory_files import read_trajectory, seconds_text, write_kitti, write_tum
from tercel.core.errors import UserError
from tercel.core.geometry import from_rotation_translation, so3_exp

Array = NDArray[np.float64]
TUM_LINE = "1.5 1 2 3 0 0 0 1\n"
KITTI_LINE = "1 0 0 4 0 1 0 5 0 0 1 6\n"


def poses_of(seed: int, count: int = 12) -> Array:
    rng = np.random.default_rng(seed)
    return from_rotation_translation(so3_exp(rng.normal(size=(count, 3)) * 2.0), rng.normal(size=(count, 3)) * 100.0)


def written(tmp_path: Path, text: str, name: str = "traj.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1 - 2**62, 2**62 - 1), min_size=1, max_size=12, unique=True), st.integers(0, 10_000))
def test_tum_files_keep_every_nanosecond_and_nanometre(tmp_path: Path, stamps: list[int], seed: int) -> None:
    stamps_ns, poses = np.array(sorted(stamps), dtype=np.int64), poses_of(seed, len(stamps))
    path = tmp_path / "traj.txt"
    write_tum(path, stamps_ns, poses)
    found = read_trajectory(path)
    assert found.stamps_ns is not None
    np.testing.assert_array_equal(found.stamps_ns, stamps_ns)
    np.testing.assert_allclose(found.poses[:, :3, 3], poses[:, :3, 3], atol=0.51e-9)
    np.testing.assert_allclose(found.poses[:, :3, :3], poses[:, :3, :3], atol=1e-8)


def test_kitti_files_and_gzipped_ones_are_read_back(tmp_path: Path) -> None:
    poses = poses_of(1)
    for name in ("traj.txt", "traj.txt.gz"):
        write_kitti(tmp_path / name, poses)
        found = read_trajectory(tmp_path / name)
        assert found.stamps_ns is None
        np.testing.assert_allclose(found.poses, poses, atol=1e-9)
    assert gzip.decompress((tmp_path / "traj.txt.gz").read_bytes()) == (tmp_path / "traj.txt").read_bytes()
    before = (tmp_path / "traj.txt.gz").read_bytes()
    write_kitti(tmp_path / "traj.txt.gz", poses)
    assert (tmp_path / "traj.txt.gz").read_bytes() == before


def test_a_tum_quaternion_is_x_y_z_w_as_scipy_has_it(tmp_path: Path) -> None:
    quat = np.array([0.1, -0.4, 0.3, 0.85]) * 1.7  # brought to length one
    path = written(tmp_path, f"0 0 0 0 {' '.join(map(str, quat))}\n")
    np.testing.assert_allclose(read_trajectory(path).poses[0, :3, :3], Rotation.from_quat(quat).as_matrix(), atol=1e-12)
    write_tum(path, np.array([0]), poses_of(3, 1))
    words = path.read_text().split()
    expected = Rotation.from_matrix(poses_of(3, 1)[0, :3, :3]).as_quat()
    assert abs(np.dot([float(word) for word in words[4:]], expected)) == pytest.approx(1.0, abs=1e-9)


def test_a_stamp_is_no_float(tmp_path: Path) -> None:
    path = written(tmp_path, "1403636580.838555648 0 0 0 0 0 0 1\n1.403636580863555584e+09 0 0 0 0 0 0 1\n")
    assert read_trajectory(path).stamps_ns.tolist() == [1403636580838555648, 1403636580863555584]  # type: ignore[union-attr]
    assert seconds_text(1403636580838555648) == "1403636580.838555648"
    assert seconds_text(-1) == "-0.000000001"


@pytest.mark.parametrize("name", ["traj.txt", "traj.txt.gz"])
def test_comments_blank_lines_and_line_ends_of_either_kind_are_no_poses(tmp_path: Path, name: str) -> None:
    text = "\ufeff# t x y z\r\n\r\n" + TUM_LINE.replace("\n", "\r\n") + "   \n  # more\n2.5\t1  2 3 0 0 0 1"
    found = read_trajectory(written(tmp_path, text, name))
    assert found.stamps_ns is not None
    assert found.stamps_ns.tolist() == [1_500_000_000, 2_500_000_000]


def test_times_of_another_file_stamp_kittis_rows(tmp_path: Path) -> None:
    path = written(tmp_path, KITTI_LINE * 2)
    times = written(tmp_path, "# s\n0.0\n1.037359e-01\n", "times.txt")
    found = read_trajectory(path, times=times)
    assert found.stamps_ns is not None
    assert found.stamps_ns.tolist() == [0, 103_735_900]
    np.testing.assert_array_equal(found.poses[1, :3, 3], [4, 5, 6])
    with pytest.raises(UserError, match="2 stamps.*3 poses"):
        read_trajectory(written(tmp_path, KITTI_LINE * 3), times=times)
    with pytest.raises(UserError, match="line 1: 12 columns"):
        read_trajectory(path, times=path)
    with pytest.raises(UserError, match="leave .* out"):
        read_trajectory(written(tmp_path, TUM_LINE, "tum.txt"), times=times)


def test_stamps_that_go_back_are_put_in_order_and_said(tmp_path: Path) -> None:
    problems: list[str] = []
    path = written(tmp_path, "3 30 0 0 0 0 0 1\n1 10 0 0 0 0 0 1\n2 20 0 0 0 0 0 1\n")
    found = read_trajectory(path, problems=problems)
    assert found.poses[:, 0, 3].tolist() == [10, 20, 30]
    assert len(problems) == 1
    assert "back in time 1 times" in problems[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no pose"),
        ("# only words\n", "holds no pose"),
        ("1 2 3\n", "line 1: 3 columns, 8 .* or 12"),
        (TUM_LINE + "2 1 2 3 0 0 0\n", "line 2: 7 columns, 8 are wanted"),
        (TUM_LINE + KITTI_LINE, "line 2: 12 columns, 8 are wanted"),
        ("1,1,2,3,0,0,0,1\n", "line 1: 1 columns"),
        ("1 1, 2, 3, 0, 0, 0, 1\n", "line 1: '1,' is not a number; white space"),
        ("x 1 2 3 0 0 0 1\n", "line 1: 'x' is not a time in seconds"),
        ("nan 1 2 3 0 0 0 1\n", "line 1: 'nan' is not a time"),
        ("inf 1 2 3 0 0 0 1\n", "line 1: 'inf' is out of range"),
        ("1403636580838555648 1 2 3 0 0 0 1\n", "out of range for a time in seconds"),
        ("-9223372036 1 2 3 0 0 0 1\n9223372036 1 2 3 0 0 0 1\n", "line 1: '-9223372036' is out of range"),
        ("\n\n" + TUM_LINE + "2 nan 2 3 0 0 0 1\n", "line 4: 'nan' is not finite"),
        ("1 1 2 3 0 0 inf 1\n", "line 1: 'inf' is not finite"),
        ("1 1 2 1e12 0 0 0 1\n", "line 1: '1e12'"),
        (TUM_LINE + "2 1 2 3 0 0 0 0\n", "line 2: a quaternion of length zero"),
        (KITTI_LINE + "1 0 0 4 0 2 0 5 0 0 1 6\n", "matrix of pose 2 is no rotation"),
        ("1 0 0 4 0 1 0 5 0 0 -1 6\n", "matrix of pose 1 is no rotation"),
        ("\x00" * 5000, "line 1 is longer"),
    ],
)
def test_what_is_no_trajectory_is_refused_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        read_trajectory(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_or_false_gzip_is_one_line(tmp_path: Path) -> None:
    whole = gzip.compress((TUM_LINE * 500).encode())
    path = tmp_path / "traj.txt.gz"
    for content in (whole[: len(whole) // 2], b"no gzip", whole[:12] + b"\xff" * 12 + whole[24:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            read_trajectory(path)


def test_a_file_that_unpacks_to_more_than_is_allowed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trajectory_files, "MAX_POSES", 10)
    with pytest.raises(UserError, match="longer than 10 poses"):
        read_trajectory(written(tmp_path, TUM_LINE * 11, "traj.txt.gz"))
    monkeypatch.setattr(trajectory_files, "MAX_FILE_BYTES", 1000)
    with pytest.raises(UserError, match="longer"):
        read_trajectory(written(tmp_path, "#\n" * 600 + TUM_LINE, "traj.txt.gz"))


def test_lines_that_say_nothing_are_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte of line ends packs into a megabyte, and would take minutes."""
    monkeypatch.setattr(trajectory_files, "_MAX_LINES", 20)
    with pytest.raises(UserError, match="longer"):
        read_trajectory(written(tmp_path, TUM_LINE + "\n" * 20, "traj.txt.gz"))
    assert len(read_trajectory(written(tmp_path, TUM_LINE + "\n" * 19)).poses) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_bytes_at_all_end_in_anything_but_poses_or_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "traj.txt"
    path.write_bytes(TUM_LINE.encode() + content)
    try:
        found = read_trajectory(path)
    except UserError:
        return
    assert np.isfinite(found.poses).all()


def test_what_is_not_written_whole_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "traj.txt"
    path.write_text("kept")
    bad = poses_of(0, 3)
    bad[2, 0, 3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        write_tum(path, np.arange(3), bad)
    with pytest.raises(ValueError, match="one integer for each"):
        write_tum(path, np.arange(2), poses_of(0, 3))
    with pytest.raises(ValueError, match="one integer for each"):
        write_tum(path, np.arange(3.0), poses_of(0, 3))
    assert [p.name for p in tmp_path.iterdir()] == ["traj.txt"]
    assert path.read_text() == "kept"
