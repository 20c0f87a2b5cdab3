"""tercel register and tercel evaluate registration: pairs of clouds, and pairs of a recording by distance."""

from __future__ import annotations

import json
import re
import shlex
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from registration.distant.evaluation import Outcome
from tercel.cli import _parser
from tercel.core.errors import UserError
from tercel.core.geometry import inverse, so3_log, transform_points
from tercel.report.evaluate_registration import Judged, RegistrationOptions, RegistrationRun
from tercel.report.register_run import direction_words, read_points
from tercel.report.registration_pairs import read_pairs
from tests.unit.cli_registration import HOSTILE, Page, assert_mistake, run, write_room, write_street
from tests.unit.test_registration_odometry import room_walk

Array = NDArray[Any]


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
    header = (
        "ply\nformat ascii 1.0\nelement vertex {}\nproperty double x\nproperty double y\nproperty double z\nend_header"
    )
    utm_points_m = np.load(tmp_path / "map.npy")
    np.savetxt(tmp_path / "map.ply", utm_points_m, "%.4f", header=header.format(len(utm_points_m)), comments="")
    same_m, origin_m = read_points(tmp_path / "map.ply")
    np.testing.assert_allclose(same_m + origin_m, utm_points_m, atol=2e-4)
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
    assert_mistake(capsys, message, "register", *arguments)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_room(tmp_path_factory.mktemp("room") / "room.mcap")


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street(tmp_path_factory.mktemp("street") / "street.mcap")


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
    assert_mistake(capsys, message, "evaluate", "registration", *arguments)


def test_directions_are_named_by_what_makes_up_most_of_them() -> None:
    assert direction_words(np.array([0.0, -1.0, 0.01, 0, 0, 0])) == "y"
    assert direction_words(np.array([0.6, 0.8, 0, 0, 0, 0])) == "0.80 y +0.60 x"
    assert direction_words(np.array([-0.6, 0, 0, 0, 0, 0.8])) == "0.80 rotation about z -0.60 x"


def test_help_shows_examples_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (("odometry",), ("register",), ("evaluate", "odometry"), ("evaluate", "registration")):
        with pytest.raises(SystemExit) as ended:
            run(*verb, "--help")
        assert ended.value.code == 0
        examples = re.findall(rf"^  tercel ({' '.join(verb)} .*)$", capsys.readouterr().out, re.MULTILINE)
        assert len(examples) >= 2
        for example in examples:
            _parser().parse_args(shlex.split(example, comments=True))
