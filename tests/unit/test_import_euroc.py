"""EuRoC's inertial data: sound files, and one that a spreadsheet has rounded."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.sensors.recorded import FORMATS
from tercel.core.errors import UserError
from tercel.core.geometry import inverse, so3_log


def imported(name: str, source: Path, **options: Any) -> Iterator[tuple[str, int, Any]]:
    """The importer's items, with messages of no particular type."""
    return FORMATS[name].read(source, **options)


HEADER = "#timestamp [ns],w_RS_S_x,w_RS_S_y,w_RS_S_z,a_RS_S_x,a_RS_S_y,a_RS_S_z\n"
START_NS = 1403636579_758555392


def imu_csv(folder: Path, stamps: list[str]) -> Path:
    path = folder / "mav0" / "imu0" / "data.csv"
    path.parent.mkdir(parents=True)
    path.write_text(HEADER + "".join(f"{stamp},{k},0,0,0,0,9.8\n" for k, stamp in enumerate(stamps)))
    return folder


def imu_stamps(folder: Path, problems: list[str] | None = None, **options: object) -> list[int]:
    return [ns for topic, ns, _ in imported("euroc-imu", folder, problems=problems, **options) if "imu" in topic]


def test_sound_stamps_are_kept_to_the_nanosecond(tmp_path: Path) -> None:
    stamps = [START_NS + k * 5_000_192 for k in range(20)]
    problems: list[str] = []
    assert imu_stamps(imu_csv(tmp_path, [str(s) for s in stamps]), problems) == stamps
    assert problems == []


def test_rounded_stamps_are_rebuilt_at_the_rate_keep_their_gap_and_are_reported(tmp_path: Path) -> None:
    steps = [0, 1, 2, 5, 6]
    folder = imu_csv(tmp_path, [f"{START_NS + 5_000_000 * k:.14E}" for k in steps])
    problems: list[str] = []
    assert imu_stamps(folder, problems, start_ns=START_NS) == [START_NS + 5_000_000 * k for k in steps]
    assert len(problems) == 1
    assert "rounded" in problems[0]
    kept = imu_stamps(folder, stamps="keep")
    assert kept[0] == 1403636579_758560000


def test_stamps_that_stand_still_are_rebuilt_by_their_row(tmp_path: Path) -> None:
    folder = imu_csv(tmp_path, ["1.40363657976E+018"] * 6)
    assert np.diff(imu_stamps(folder, rate_hz=100.0)).tolist() == [10_000_000] * 5


def test_damaged_rows_are_skipped_and_the_rest_keeps_its_time(tmp_path: Path) -> None:
    folder = imu_csv(tmp_path, [str(START_NS + 5_000_000 * k) for k in range(6)])
    path = folder / "mav0/imu0/data.csv"
    lines = path.read_text().splitlines()
    lines[2], lines[4] = lines[2].replace("9.8", "nan"), lines[4][:-6]
    path.write_text("\n".join([*lines, ",,,,,,", "Step: 0.005,,,,,,"]))
    problems: list[str] = []
    assert imu_stamps(folder, problems) == [START_NS + 5_000_000 * k for k in (0, 2, 4, 5)]
    assert len(problems) == 3


def test_a_cut_gzip_gives_what_came_before_the_cut(tmp_path: Path) -> None:
    rows = HEADER + "".join(f"{START_NS + 5_000_000 * k},{k % 7},0,0,0,{k % 13},9.8\n" for k in range(5000))
    path = tmp_path / "data.csv.gz"
    path.write_bytes(gzip.compress(rows.encode())[:-2000])
    problems: list[str] = []
    count = len(imu_stamps(path, problems))
    assert 100 < count < 5000
    assert len(problems) == 1


def test_a_file_of_something_else_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(UserError, match=r"imu0/data\.csv"):
        imported("euroc-imu", tmp_path, problems=[])
    with pytest.raises(UserError, match="auto, keep or rebuild"):
        imported("euroc-imu", tmp_path, stamps="guess", problems=[])


def test_the_state_estimate_gives_poses_and_body_velocities(tmp_path: Path) -> None:
    folder = imu_csv(tmp_path, [str(START_NS)])
    states = folder / "mav0/state_groundtruth_estimate0/data.csv"
    states.parent.mkdir()
    half = np.sqrt(0.5)
    states.write_text(f"#t\n{START_NS},1,2,3,{half},0,0,{half},0,1,0,0,0,0,0,0,0\n{START_NS + 5},1,2,3,0,0,0,0,0,1,0\n")
    problems: list[str] = []
    truth = [m for topic, _, m in imported("euroc-imu", folder, problems=problems) if topic == "/truth/odometry"]
    assert len(truth) == len(problems) == 1
    np.testing.assert_allclose(truth[0].frame_T_child[:3], [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3]], atol=1e-9)
    np.testing.assert_allclose(
        truth[0].linear_velocity_mps, [1, 0, 0], atol=1e-9
    )  # north is ahead of a nose to the north


def test_mh_01_has_36820_imu_rows_whose_gyro_is_the_truths_rotation(shared_data: Path) -> None:
    problems: list[str] = []
    gyro, gyro_ns, poses, poses_ns = [], [], [], []
    for topic, stamp_ns, message in imported("euroc-imu", shared_data / "imu_euroc_mh01", problems=problems):
        if topic == "/imu/data":
            gyro.append(message.angular_velocity_radps)
            gyro_ns.append(stamp_ns)
        else:
            poses.append(message.frame_T_child)
            poses_ns.append(stamp_ns)
    assert len(gyro) == 36820
    assert set(np.diff(gyro_ns).tolist()) == {5_000_000}
    assert len(poses) == 36382
    assert "rounded" in problems[0]
    assert len(problems) == 6  # that, and the five rows of notes under the table
    world_T_imu = np.stack(poses[::4])
    rates = so3_log((inverse(world_T_imu[:-1]) @ world_T_imu[1:])[:, :3, :3]) / 0.02
    at = np.searchsorted(gyro_ns, np.array(poses_ns[::4])[:-1] + 10_000_000)

    def worst_correlation(lag: int) -> float:
        measured = np.stack(gyro)[np.clip(at + lag, 0, len(gyro) - 1)]
        return min(float(np.corrcoef(rates[:, axis], measured[:, axis])[0, 1]) for axis in range(3))

    assert worst_correlation(0) > 0.95
    assert worst_correlation(0) > max(worst_correlation(-2), worst_correlation(2))  # the stamps are right to 10 ms
