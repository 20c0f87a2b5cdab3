"""`tercel track`: files in, tracks out, and an account in which every detection stands once."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tercel.cli import main
from tercel.core.geometry import so3_exp
from tercel.report.tracking_input import find_sources, load
from tercel.report.tracking_space import kitti_boxes, measurements
from tercel.report.tracking_steps import stepped_frames
from tracking.files import BoxSequence, read_kitti, read_mot

Row = Sequence[Any]
KEPT = ("matched", "new", "tentative")


def walk(frames: int = 20, people: int = 3, *, first: int = 1, score: float = 0.9) -> list[Row]:
    """People who walk side by side: frame, id, x, y, width, height, score."""
    return [
        (f, -1, 50 + 150 * p + 2 * f, 100, 40, 90, score) for f in range(first, first + frames) for p in range(people)
    ]


def write(path: Path, rows: Sequence[Row], *, gap: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(gap.join(str(value) for value in row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def sequence(folder: Path, rows: Sequence[Row], *, rate_hz: float = 10, length: int = 20) -> Path:
    """A folder as MOTChallenge has it."""
    write(folder / "det" / "det.txt", rows)
    ini = f"[Sequence]\nname={folder.name}\nframeRate={rate_hz}\nseqLength={length}\nimWidth=640\nimHeight=480\n"
    (folder / "seqinfo.ini").write_text(ini)
    return folder


def track(tmp_path: Path, *arguments: object, code: int = 0) -> dict[str, Any]:
    """Run the command; the numbers that it wrote."""
    out = ["-o", str(tmp_path / "out"), "--json", str(tmp_path / "account.json")]
    assert main(["track", *(str(argument) for argument in arguments), *out]) == code
    if code == 2:
        return {}
    summary: dict[str, Any] = json.loads((tmp_path / "account.json").read_text())
    for account in (summary["all"], *summary["sequences"].values()):
        assert sum(account[kind] for kind in KEPT) + sum(account["rejected"].values()) == account["detections"]
    return summary


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: object) -> str:
    """What the command says to a user's mistake; it leaves nothing behind."""
    track(tmp_path, *arguments, code=2)
    said = capsys.readouterr().err
    assert said.startswith("tercel track: ")
    assert said.count("\n") == 1
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").is_dir() else True
    return said


def test_a_folder_of_sequences_becomes_one_result_file_for_each(tmp_path: Path) -> None:
    for name in ("B-2", "A-1"):
        sequence(tmp_path / "train" / name, walk())
    summary = track(tmp_path, tmp_path / "train")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["A-1.txt", "B-2.txt"]
    assert list(summary["sequences"]) == ["A-1", "B-2"]
    tracks = read_mot(tmp_path / "out" / "A-1.txt", [])
    assert sorted(set(tracks.ids.tolist())) == [1, 2, 3]
    assert summary["all"]["tracks"] == 6
    assert summary["all"]["boxes"] == 2 * len(tracks)


@pytest.mark.parametrize("tracker", ["tercel", "sort", "bytetrack", "ocsort"])
def test_every_tracker_accounts_for_every_detection_and_writes_the_same_bytes_twice(
    tmp_path: Path, tracker: str
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        (f, -1, *rng.uniform(0, 400, 2), *rng.uniform(-5, 80, 2), rng.uniform()) for f in range(1, 30) for _ in range(6)
    ]
    sequence(tmp_path / "S", rows, length=30)
    first = track(tmp_path, tmp_path / "S", "--tracker", tracker)
    written = (tmp_path / "out" / "S.txt").read_bytes()
    second = track(tmp_path, tmp_path / "S", "--tracker", tracker)
    assert (tmp_path / "out" / "S.txt").read_bytes() == written
    assert first["all"]["detections"] == len(rows)
    assert first["all"]["rejected"]["no size"] > 0
    assert without_wall(first) == without_wall(second)


def without_wall(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_wall(item) for key, item in value.items() if key != "wall"}
    return value


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_outcomes_add_up_to_the_detections_whatever_the_file_holds(tmp_path: Path, data: st.DataObject) -> None:
    number = st.one_of(st.floats(-50, 50).map(lambda v: round(v, 1)), st.sampled_from(["nan", "inf", 1e9, "x", ""]))
    count = data.draw(st.integers(1, 12))
    rows = [(data.draw(st.integers(0, 5)), -1, *(data.draw(number) for _ in range(5))) for _ in range(count)]
    path = write(tmp_path / "S.txt", [(1, -1, 5, 5, 10, 10, 1), *rows])
    summary = track(tmp_path, path, "--rate-hz", 10, "--format", "mot")
    assert summary["all"]["detections"] + summary["all"]["unreadable"] == count + 1


def test_one_file_needs_a_rate_and_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path / "mine.txt", walk())
    assert "--rate-hz" in refused(capsys, tmp_path, path)
    summary = track(tmp_path, path, "--rate-hz", 10)
    assert summary["sequences"]["mine"]["frames"] == 20
    assert any("nothing tells its length" in note for note in summary["notes"])


def test_a_detection_file_inside_its_sequence_bears_the_sequences_name_and_rate(tmp_path: Path) -> None:
    folder = sequence(tmp_path / "S", walk(), length=25)
    summary = track(tmp_path, folder / "det" / "det.txt")
    assert summary["sequences"]["S"]["frames"] == 25


def test_gzipped_and_plain_files_give_the_same_tracks(tmp_path: Path) -> None:
    for name in ("plain/S.txt", "zipped/S.txt.gz"):
        write(tmp_path / name, walk())
        track(tmp_path, tmp_path / name, "--rate-hz", 10)
        (tmp_path / "out" / "S.txt").rename(tmp_path / name.split("/")[0] / "result.txt")
    assert (tmp_path / "plain" / "result.txt").read_bytes() == (tmp_path / "zipped" / "result.txt").read_bytes()


def test_settings_have_the_types_of_the_trackers_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = sequence(tmp_path / "S", walk())
    summary = track(tmp_path, folder, "--set", "max_age_s=2", "--set", "class_aware=no", "--set", "min_hits=1")
    assert summary["settings"] == {"max_age_s": 2.0, "class_aware": False, "min_hits": 1}
    capsys.readouterr()
    for setting, words in {
        "max_age=2": "did you mean 'max_age_s'?",
        "min_hits=2.5": "int is wanted",
        "class_aware=perhaps": "true or false is wanted",
        "max_age_s=-1": "max_age_s must be above 0",
        "max_age_s=nan": "max_age_s must be above 0",
        "max_age_s": "KEY=VALUE",
    }.items():
        track(tmp_path, folder, "--set", setting, code=2)
        assert words in capsys.readouterr().err


def test_fewer_hits_confirm_sooner(tmp_path: Path) -> None:
    folder = sequence(tmp_path / "S", walk())
    boxes = [track(tmp_path, folder, "--set", f"min_hits={hits}")["all"]["boxes"] for hits in (1, 5)]
    assert boxes == [60, 48]


# --- KITTI


def cars(frames: int, *, lane_m: float = -3.0, first_m: float = 15.0, speed_mps: float = 1.0) -> list[list[float]]:
    """PointRCNN's rows of a car ahead: frame, type, box, score, h w l, x y z, ry, alpha."""
    rows = []
    for f in range(frames):
        z = first_m + speed_mps * 0.1 * f
        box = [600 + 700 * lane_m / z, 170, 660 + 700 * lane_m / z, 170 + 1000 / z]
        rows.append([f, 2, *box, 8.0, 1.5, 1.6, 4.0, lane_m, 1.7, z, -1.57, -1.5])
    return rows


def test_boxes_in_space_are_written_as_kitti_has_them(tmp_path: Path) -> None:
    path = write(tmp_path / "det" / "0001.txt", cars(20))
    for tracker in ("tercel3d", "ab3dmot"):
        summary = track(tmp_path, path, "--tracker", tracker)
        tracks = read_kitti(tmp_path / "out" / "0001.txt", [])
        assert set(tracks.ids.tolist()) == {1}
        last = tracks.take(np.array([len(tracks) - 1]))
        assert last.class_names[int(last.labels[0])] == "Car"
        assert last.boxes_3d is not None
        assert last.boxes_3d[0] == pytest.approx([1.5, 1.6, 4.0, -3.0, 1.7, 16.9, -1.57], abs=0.25)
        assert last.boxes_xyxy_px[0] == pytest.approx(cars(20)[-1][2:6], abs=1e-3)
        assert any("no --poses" in note for note in summary["notes"])


def test_our_own_tracker_in_space_is_taken_where_the_detections_are_in_space(tmp_path: Path) -> None:
    assert track(tmp_path, write(tmp_path / "det" / "0001.txt", cars(9)))["tracker"] == "tercel3d"
    assert (
        track(tmp_path, write(tmp_path / "rrc" / "Car" / "0001.txt", [row[:1] + row[2:7] for row in cars(9)]))[
            "tracker"
        ]
        == "tercel"
    )


def test_several_classes_are_tracked_by_themselves_in_one_go(tmp_path: Path) -> None:
    rows = [row[:1] + row[2:7] for row in cars(12)]
    write(tmp_path / "rrc" / "Car" / "0003.txt.gz", rows)
    write(tmp_path / "rrc" / "Pedestrian" / "0003.txt.gz", rows)  # at the very same places
    summary = track(tmp_path, tmp_path / "rrc")
    tracks = read_kitti(tmp_path / "out" / "0003.txt", [])
    names = np.array(tracks.class_names)[tracks.labels]
    assert {int(i): set(names[tracks.ids == i].tolist()) for i in set(tracks.ids.tolist())} == {
        1: {"Car"},
        2: {"Pedestrian"},
    }
    assert summary["all"]["detections"] == 24
    only = track(tmp_path, tmp_path / "rrc", "--classes", "pedestrian")["all"]
    assert (only["detections"], only["left_out"]) == (12, {"Car": 12})


def test_classes_of_motchallenge_are_kept_apart_though_its_results_do_not_name_them(tmp_path: Path) -> None:
    rows = [(f, -1, 50 + f, 100, 40, 90, 1, label, 1) for f in range(1, 13) for label in (1, 3)]  # at the same place
    summary = track(tmp_path, sequence(tmp_path / "S", rows))
    assert summary["all"]["tracks"] == 2
    assert any("name no class" in note for note in summary["notes"])
    assert track(tmp_path, tmp_path / "S", "--classes", "car")["all"]["left_out"] == {"pedestrian": 12}


def test_regions_that_are_no_objects_are_left_out_and_counted(tmp_path: Path) -> None:
    kitti = "{} {} {} 0 0 0.0 {} 100 {} 200 1.5 1.6 4.0 2 1.6 20 0"
    rows = [[kitti.format(f, 7, "Car", 100 + f, 200 + f)] for f in range(10)]
    rows += [[kitti.format(f, -1, "DontCare", 300, 400)] for f in range(10)]
    account = track(tmp_path, write(tmp_path / "label_02" / "0000.txt", rows))["all"]
    assert (account["detections"], account["left_out"]) == (10, {"DontCare": 10})


def test_the_class_of_a_file_that_does_not_say_it_has_to_be_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write(tmp_path / "some" / "0001.txt", [row[:1] + row[2:7] for row in cars(9)])
    assert "--classes" in refused(capsys, tmp_path, path)
    assert track(tmp_path, path, "--classes", "car")["all"]["detections"] == 9


def test_a_seqmap_above_the_files_tells_how_long_a_sequence_is(tmp_path: Path) -> None:
    write(tmp_path / "kitti" / "evaluate_tracking.seqmap.training", [("0001", "empty", "000000", "000030")], gap=" ")
    path = write(tmp_path / "kitti" / "det3d" / "Car" / "0001.txt", cars(9))
    assert track(tmp_path, path)["all"]["frames"] == 30


def test_poses_hold_a_parked_car_still_while_the_camera_drives(tmp_path: Path) -> None:
    # The camera drives 1 m a frame towards a parked car, and looks where it drives, to the north.
    rows = [[*row[:12], 30.0 - row[0], *row[13:]] for row in cars(20)]
    path = write(tmp_path / "det" / "0001.txt", rows)
    north_deg = np.degrees(1.0 / 6378137.0)
    packets = [
        [49.0 + f * north_deg * np.cos(np.radians(49.0)), 8.4, 100.0, 0, 0, np.pi / 2, *[0] * 24] for f in range(20)
    ]
    write(tmp_path / "kitti" / "oxts" / "0001.txt", packets, gap=" ")
    lidar_T_camera = "0 -1 0 0 0 0 -1 0 1 0 0 0"
    calibration = ["P2: 700 0 600 0 0 700 180 0 0 0 1 0", "R_rect 1 0 0 0 1 0 0 0 1", f"Tr_velo_cam {lidar_T_camera}"]
    calibration.append("Tr_imu_velo 1 0 0 0 0 1 0 0 0 0 1 0")
    write(tmp_path / "kitti" / "calib" / "0001.txt", [[line] for line in calibration])
    summary = track(tmp_path, path, "--poses", tmp_path / "kitti", "--tracker", "ab3dmot")
    tracks = read_kitti(tmp_path / "out" / "0001.txt", [])
    assert tracks.boxes_3d is not None
    assert tracks.boxes_3d[-1, 3:6] == pytest.approx([-3.0, 1.7, 11.0], abs=0.1)
    assert not any("no --poses" in note for note in summary["notes"])


def test_the_cameras_motion_is_read_off_the_images(tmp_path: Path) -> None:
    # The camera pans by 25 px a frame to and fro; one person stands, and would be lost without the images.
    ground = cv2.resize(np.random.default_rng(0).integers(0, 255, (60, 160), dtype=np.uint8), (1600, 480))
    images = tmp_path / "img" / "S" / "img1"
    images.mkdir(parents=True)
    rows = []
    for frame in range(1, 31):
        pan = 300 + 30 * (frame % 6 if frame // 6 % 2 else 6 - frame % 6)
        cv2.imwrite(str(images / f"{frame:06d}.jpg"), ground[:, pan : pan + 640])
        if frame % 3:
            rows.append((frame, -1, 700 - pan, 200, 24, 60, 0.9))
    folder = sequence(tmp_path / "S", rows, length=30)
    options = ("--images", tmp_path / "img", "--follow-images", "--set", "max_age_s=1")
    summary = track(tmp_path, folder, *options)
    assert summary["all"]["began"] == 1
    assert not any("motion" in note for note in summary["notes"])
    assert track(tmp_path, folder, "--set", "max_age_s=1")["all"]["began"] > 1
    for path in list(images.iterdir())[::2]:
        path.unlink()
    assert any("the camera's motion is not known in" in note for note in track(tmp_path, folder, *options)["notes"])


def test_a_frame_without_a_pose_has_its_detections_rejected_for_that(tmp_path: Path) -> None:
    path = write(tmp_path / "det" / "0001.txt", cars(12))
    packets = [[49.0, 8.4, 100.0, 0, 0, 0.1, *[0] * 24] for _ in range(9)]
    write(tmp_path / "kitti" / "oxts" / "0001.txt", packets, gap=" ")
    calibration = ["R_rect 1 0 0 0 1 0 0 0 1", "Tr_velo_cam 0 -1 0 0 0 0 -1 0 1 0 0 0"]
    calibration.append("Tr_imu_velo 1 0 0 0 0 1 0 0 0 0 1 0")
    write(tmp_path / "kitti" / "calib" / "0001.txt", [[line] for line in calibration])
    summary = track(tmp_path, path, "--poses", tmp_path / "kitti")
    assert summary["all"]["rejected"] == {"no pose at this frame": 3}


@given(st.integers(0, 2**32 - 1))
def test_boxes_go_to_the_world_and_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes_3d = np.hstack([rng.uniform(0.5, 4, (5, 3)), rng.uniform(-40, 40, (5, 3)), rng.uniform(-3.1, 3.1, (5, 1))])
    boxes = BoxSequence(
        np.zeros(5, np.int64), np.full(5, -1), np.zeros((5, 4)), np.ones(5), np.zeros(5, np.int32), ("Car",), boxes_3d
    )
    world_T_level = np.eye(4)
    world_T_level[:3, :3] = so3_exp(np.array([0.0, 0.0, rng.uniform(-3, 3)]))
    world_T_level[:3, 3] = rng.uniform(-100, 100, 3)
    world = measurements(boxes, np.arange(5), world_T_level)
    back, alphas = kitti_boxes(world, np.linalg.inv(world_T_level))
    assert back == pytest.approx(boxes_3d, abs=1e-9)
    assert np.cos(alphas) == pytest.approx(np.cos(boxes_3d[:, 6] - np.arctan2(boxes_3d[:, 3], boxes_3d[:, 5])))


# --- bad input


@pytest.mark.parametrize(
    "line", ["1,-1,50,100,40", "nan,-1,50,100,40,90,1", "1,-1,50,100,x,90,0.9", "1.5,-1,1,1,9,9,1"]
)
def test_a_line_that_cannot_be_read_is_counted_and_the_others_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str
) -> None:
    folder = sequence(tmp_path / "S", [*walk(), [line]])
    account = track(tmp_path, folder)["all"]
    assert (account["detections"], account["unreadable"]) == (60, 1)
    assert "line 61" in capsys.readouterr().err


def test_numbers_that_are_not_finite_reach_the_tracker_which_rejects_them_by_name(tmp_path: Path) -> None:
    bad = ["5,-1,300,300,40,90,nan", "5,-1,300,inf,40,90,1", "5,-1,300,300,nan,90,1", "5,-1,300,300,40,1e200,1"]
    folder = sequence(tmp_path / "S", [*walk(), *([line] for line in bad)])
    for tracker in ("tercel", "sort", "bytetrack", "ocsort"):
        account = track(tmp_path, folder, "--tracker", tracker, "--report", tmp_path / "r.html")["all"]
        assert (account["detections"], account["unreadable"], account["rejected"]) == (64, 0, {"not finite": 4})
    rows = [*cars(9), [5, 2, "nan", *cars(9)[5][3:]], [5, 2, *cars(9)[5][2:9], "inf", *cars(9)[5][10:]]]
    path = write(tmp_path / "det" / "0001.txt", rows)
    for tracker in ("tercel3d", "ab3dmot"):
        account = track(tmp_path, path, "--tracker", tracker)["all"]
        assert (account["detections"], account["unreadable"], account["rejected"]) == (11, 0, {"not finite": 2})
        assert "nan" not in (tmp_path / "out" / "0001.txt").read_text()


def test_boxes_without_size_and_duplicates_are_rejected_by_name(tmp_path: Path) -> None:
    rows = [*walk(), (5, -1, 300, 300, -40, 90, 0.9), (6, -1, 300, 300, 40, 0, 0.9), *walk(frames=4)]
    account = track(tmp_path, sequence(tmp_path / "S", rows))["all"]
    assert account["rejected"] == {"no size": 2, "duplicate": 12}
    assert account["tracks"] == 3


def test_frames_in_any_order_give_the_same_tracks(tmp_path: Path) -> None:
    rows = walk()
    track(tmp_path, sequence(tmp_path / "S", rows))
    written = (tmp_path / "out" / "S.txt").read_bytes()
    later_first = sorted(rows, key=lambda row: -row[0])
    track(tmp_path, sequence(tmp_path / "S", later_first))
    assert (tmp_path / "out" / "S.txt").read_bytes() == written


def test_frames_that_count_from_zero_and_beyond_the_end_are_kept_and_said(tmp_path: Path) -> None:
    summary = track(tmp_path, sequence(tmp_path / "S", walk(frames=25, first=0), length=20))
    assert summary["all"]["frames"] == 25
    assert summary["all"]["detections"] == 75
    assert ["frames count from 0" in note or "after the end" in note for note in summary["notes"]] == [True, True]


def test_a_gap_of_a_minute_ends_every_track(tmp_path: Path) -> None:
    rows = [*walk(frames=20), *walk(frames=20, first=620)]
    summary = track(tmp_path, sequence(tmp_path / "S", rows, length=640))
    assert summary["all"]["tracks"] == 6
    assert summary["all"]["detections"] == 120


def test_a_frame_number_gone_wild_costs_no_time(tmp_path: Path) -> None:
    began_s = time.perf_counter()
    rows = [*walk(), (2_000_000_000, -1, 50, 100, 40, 90, 0.9)]
    account = track(tmp_path, write(tmp_path / "S.txt", rows), "--rate-hz", 30)["all"]
    assert time.perf_counter() - began_s < 5.0
    assert account["frames"] == 2_000_000_000
    assert account["steps"] < 5000


def test_no_track_outlives_the_part_of_a_gap_that_is_stepped_over(tmp_path: Path) -> None:
    path = write(tmp_path / "S.txt", [*walk(frames=3), (100_000, -1, 50, 100, 40, 90, 0.9)])
    (source,) = find_sources(path, rate_hz=10.0)
    loaded = load(source, (), [])
    for settings_given, longest in (({}, 601), ({"max_age_s": 3600.0}, 36_001), ({"max_age_frames": 900}, 1801)):
        frames = stepped_frames(loaded, settings_given)
        assert frames.tolist() == [*range(1, 4 + longest), 100_000]


def test_five_thousand_boxes_in_one_frame_take_bounded_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    crowd = [(5, -1, *xy, 30, 60, 0.9) for xy in rng.uniform(0, 1900, (5000, 2))]
    folder = sequence(tmp_path / "S", [*walk(frames=10), *crowd], length=10)
    for tracker in ("tercel", "bytetrack"):
        began_s = time.perf_counter()
        account = track(tmp_path, folder, "--tracker", tracker)["all"]
        assert time.perf_counter() - began_s < 10.0
        assert account["detections"] == 5030


def test_mistakes_are_one_line_that_says_the_mend(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = sequence(tmp_path / "S", walk())
    empty = write(tmp_path / "empty.txt", [])
    (tmp_path / "nothing").mkdir()
    junk = write(tmp_path / "junk.txt", [["hello"], ["world"]])
    for arguments, words in (
        ([tmp_path / "missing"], "does not exist"),
        ([empty], "--format"),
        ([tmp_path / "nothing"], "SEQUENCE/det/det.txt"),
        ([junk], "known here"),
        ([folder, "--tracker", "srt"], "did you mean 'sort'?"),
        ([folder, "--tracker", "ab3dmot"], "boxes in space"),
        ([folder, "--format", "kiti"], "did you mean"),
        ([folder, "--sequences", "T"], "no sequence 'T'"),
        ([folder, "--classes", "pedestrain"], "did you mean 'pedestrian'?"),
        ([folder, "--rate-hz", 0], "--rate-hz 0"),
        ([folder, "--rate-hz", "nan"], "--rate-hz nan"),
        ([folder, "--tracker", "sort", "--poses", tmp_path], "not for sort"),
        ([folder, "--follow-images"], "with --images"),
        ([folder, "--video", tmp_path / "film.avi"], ".webm or .mp4"),
        ([folder, "--images", tmp_path], "--report, --video and"),
        ([folder, "--images", tmp_path, "--report", tmp_path / "r.html"], "no images"),
        ([folder, "--report", tmp_path / "nothing"], "is a folder"),
    ):
        assert words in refused(capsys, tmp_path, *arguments), arguments


def test_settings_that_no_tracker_can_have_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = sequence(tmp_path / "S", walk())
    space = write(tmp_path / "det" / "0001.txt", cars(9))
    for path, tracker, setting, words in (
        (folder, "tercel", "max_age_s=inf", "max_age_s must be"),
        (folder, "tercel", "coast_s=inf", "coast_s must be"),
        (folder, "sort", "max_age_frames=99999999999999999999", "must be"),
        (folder, "sort", f"max_age_frames={10**400}", "--set: "),
        (folder, "sort", "frame_period_s=0", "frame_period_s must be"),
        (space, "ab3dmot", "min_hits=0", "min_hits must be"),
        (space, "ab3dmot", "max_age_frames=99999999999999999999", "must be"),
        (space, "tercel3d", "max_age_s=inf", "max_age_s must be"),
    ):
        assert words in refused(capsys, tmp_path, path, "--tracker", tracker, "--set", setting), setting


def test_a_frame_period_that_is_set_is_taken_instead_of_the_files(tmp_path: Path) -> None:
    folder = sequence(tmp_path / "S", walk())
    for tracker in ("sort", "bytetrack", "ocsort"):
        summary = track(tmp_path, folder, "--tracker", tracker, "--set", "frame_period_s=0.1")
        assert summary["settings"] == {"frame_period_s": 0.1}
        assert summary["all"]["tracks"] == 3


def test_a_zip_bomb_of_empty_lines_is_not_read_through(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress(b"\n" * (300 << 20), compresslevel=1))
    for more in ((), ("--format", "mot")):
        began_s = time.perf_counter()
        assert refused(capsys, tmp_path, path, "--rate-hz", 10, *more)
        assert time.perf_counter() - began_s < 5.0


def test_a_file_that_cannot_be_unzipped_or_decoded_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plain, broken, wide, marked = (tmp_path / name for name in ("p.txt.gz", "b.txt.gz", "w.txt", "m.txt"))
    plain.write_text("1,-1,50,100,40,90,0.9\n")
    broken.write_bytes(gzip.compress(b"1,-1,50,100,40,90,0.9\n")[:12] + b"junk")
    wide.write_text("1,-1,50,100,40,90,0.9\n", encoding="utf-16")
    for path, words in ((plain, "take .gz off"), (broken, "cannot be unzipped"), (wide, "UTF-16")):
        assert words in refused(capsys, tmp_path, path, "--rate-hz", 10)
    marked.write_text("1,-1,50,100,40,90,0.9\n", encoding="utf-8-sig")
    account = track(tmp_path, marked, "--rate-hz", 10)["all"]
    assert (account["detections"], account["unreadable"]) == (1, 0)


def test_outputs_that_cannot_be_written_are_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = sequence(tmp_path / "S", walk())
    file = write(tmp_path / "file", [])
    for option, place in (("--report", file / "r.html"), ("--video", file / "v.webm"), ("--report", file / "a" / "b")):
        assert "is a file, not a folder" in refused(capsys, tmp_path, folder, option, place)
    for option, place in (("-o", file / "sub"), ("--json", file / "x")):
        assert main(["track", str(folder), "-o", str(tmp_path / "out"), option, str(place)]) == 2
        assert "is a file, not a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_with_line_ends_keep_the_table_whole_and_an_empty_name_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write(tmp_path / "a\nb.txt", [*walk(), ["x"]])
    track(tmp_path, path, "--rate-hz", 10)
    said = capsys.readouterr()
    assert "a\ufffdb" in said.out.splitlines()[1]
    assert said.err.count("\n") == 1
    nameless = write(tmp_path / "n" / ".txt", walk())
    for given_path in (nameless, nameless.parent):
        track(tmp_path, given_path, "--rate-hz", 10, code=2)
        assert "no name before its ending" in capsys.readouterr().err


def test_a_folder_too_high_names_those_below(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sequence(tmp_path / "data" / "train" / "S", walk())
    assert "did you mean train in it?" in refused(capsys, tmp_path, tmp_path / "data")


def test_the_detections_are_never_written_over(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path / "out" / "S.txt", walk())
    before = path.read_bytes()
    track(tmp_path, path, "--rate-hz", 10, code=2)
    assert "written over the detections" in capsys.readouterr().err
    (tmp_path / "link.html").symlink_to(path)
    assert (
        main(
            ["track", str(path), "--rate-hz", "10", "-o", str(tmp_path / "b"), "--report", str(tmp_path / "link.html")]
        )
        == 2
    )
    assert main(["track", str(path), "--rate-hz", "10", "-o", str(tmp_path / "b"), "--json", str(path)]) == 2
    assert main(["track", str(path), "--rate-hz", "10", "-o", str(path)]) == 2
    assert path.read_bytes() == before
    assert not (tmp_path / "b").exists()


def test_a_run_in_which_no_detection_could_be_used_has_failed(tmp_path: Path) -> None:
    summary = track(tmp_path, write(tmp_path / "S.txt", []), "--format", "mot", "--rate-hz", 10, code=1)
    assert summary["all"]["detections"] == 0
    assert (tmp_path / "out" / "S.txt").read_text() == ""
    track(tmp_path, sequence(tmp_path / "T", [(1, -1, 5, 5, -1, -1, 1)]), code=1)


def test_an_empty_file_among_others_is_a_sequence_in_which_nothing_was_found(tmp_path: Path) -> None:
    write(tmp_path / "det" / "A.txt", walk())
    write(tmp_path / "det" / "B.txt", [])
    summary = track(tmp_path, tmp_path / "det", "--rate-hz", 10)
    assert summary["sequences"]["B"]["detections"] == 0
    assert (tmp_path / "out" / "B.txt").read_text() == ""


def test_files_of_other_runs_in_the_folder_are_named(tmp_path: Path) -> None:
    write(tmp_path / "out" / "old.txt", walk())
    summary = track(tmp_path, sequence(tmp_path / "S", walk()))
    assert any("old.txt" in note for note in summary["notes"])


def test_the_table_names_every_sequence_and_the_sum(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("A", "B"):
        sequence(tmp_path / "train" / name, walk())
    track(tmp_path, tmp_path / "train", "--set", "min_hits=3")
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[:4] == ["frames", "detections", "matched", "new"]
    assert [line.split()[0] for line in said[1:4]] == ["A", "B", "all"]
    assert [int(word) for word in said[3].split()[1:4]] == [40, 120, 108]


# --- real recordings


def test_sort_makes_its_published_numbers_of_mot15(shared_data: Path, tmp_path: Path) -> None:
    track(tmp_path, shared_data / "mot15", "--tracker", "sort")
    scores = tmp_path / "scores.json"
    truth = ["evaluate", "tracking", "--truth", str(shared_data / "mot15"), "--tracks", str(tmp_path / "out")]
    assert main([*truth, "--json", str(scores)]) == 0
    combined = json.loads(scores.read_text())["classes"]["pedestrian"]["combined"]
    assert 100 * combined["HOTA"] == pytest.approx(36.44, abs=0.3)
    assert 100 * combined["MOTA"] == pytest.approx(39.88, abs=0.3)
    assert 100 * combined["IDF1"] == pytest.approx(45.89, abs=0.3)


def test_kitti_in_space_with_and_without_poses(shared_data: Path, tmp_path: Path) -> None:
    kitti = shared_data / "kitti_tracking"
    arguments = (kitti / "det3d_pointrcnn", "--sequences", "0006", "--classes", "Car", "--tracker", "ab3dmot")
    for more in ((), ("--poses", kitti)):
        summary = track(tmp_path, *arguments, *more)
        assert summary["all"]["frames"] == 270
        assert summary["all"]["matched"] > 400


def test_detections_too_rare_to_confirm_a_track_are_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write(tmp_path / "slow.txt", [(f, -1, 50, 100, 40, 90, 0.9) for f in range(1, 21)])
    track(tmp_path, rows, "--rate-hz", 1)
    assert (
        "no track was confirmed; at 1 Hz a track must outlive 1 s: --set max_tentative_age_s" in capsys.readouterr().out
    )
