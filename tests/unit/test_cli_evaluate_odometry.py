"""tercel evaluate odometry, held against evo's published values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from registration.trajectory import associate
from registration.trajectory_files import read_trajectory, write_kitti, write_tum
from tercel.core.geometry import from_rotation_translation, rotation_about_z
from tercel.report.odometry_scores import Measure, score
from tests.unit.cli_registration import Page, assert_mistake, run
from tests.unit.test_registration_odometry import PERIOD_NS

Array = NDArray[Any]

START_NS = 1_000_000_000_000_000_000
GOLDEN = Path(__file__).parents[1] / "golden" / "trajectory_errors.json"
PAIRS = {
    "KITTI_00_ORB": "KITTI_00_gt",
    "KITTI_00_SPTAM": "KITTI_00_gt",
    "freiburg1_xyz-rgbdslam": "freiburg1_xyz-groundtruth",
    "ntu_viral_eee_01_fastlivo2": "ntu_viral_eee_01_gt",
    "ntu_viral_nya_01_fastlivo2": "ntu_viral_nya_01_gt",
}


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
    assert_mistake(capsys, message, "evaluate", "odometry", *arguments)
    assert Path("truth.txt").read_bytes() == before
