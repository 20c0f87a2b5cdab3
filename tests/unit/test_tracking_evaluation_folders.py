from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tercel.cli import main
from tests.golden import tracking_scenes
from tracking.evaluation.folders import FolderScores, evaluate_folders, find_tracks, find_truth, read_folders


def scored(truth: Path, tracks: Path, *, classes: tuple[str, ...] = (), **more: Any) -> FolderScores:
    """Read two folders and score them, without a problem."""
    problems: list[str] = []
    result = evaluate_folders(read_folders(truth, tracks, problems=problems, **more), classes=classes)
    assert problems == []
    return result


@pytest.fixture
def mot(tmp_path: Path) -> Path:
    tracking_scenes.write_mot(tmp_path, classes=False)
    return tmp_path


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    tracking_scenes.write_kitti(tmp_path)
    return tmp_path


def evaluate(root: Path, *arguments: object) -> int:
    words = ["evaluate", "tracking", "--truth", root / "truth", "--tracks", root / "tracks", *arguments]
    return main([str(word) for word in words])


def test_the_command_prints_a_table_and_writes_the_same_numbers(mot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(mot, "--json", mot / "deep" / "scores.json") == 0
    content = json.loads((mot / "deep" / "scores.json").read_text())
    result = scored(mot / "truth", mot / "tracks")
    pedestrian = content["classes"]["pedestrian"]
    assert pedestrian["combined"] == pytest.approx(result.combined("pedestrian").summary())
    assert list(pedestrian["sequences"]) == sorted(tracking_scenes.MOT_SEQUENCES)
    assert len(pedestrian["by_threshold"]["HOTA"]) == 19
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mot15 pedestrian"
    hota = lines[1].split().index("HOTA")
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:7]}
    for name, numbers in pedestrian["sequences"].items():
        assert rows[name][hota] == f"{100 * numbers['HOTA']:.3f}"
    assert rows["COMBINED"][hota] == f"{100 * pedestrian['combined']['HOTA']:.3f}"


def test_a_sequence_without_tracks_is_all_missed_and_named(mot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mot / "tracks" / "busy.txt").unlink()
    (mot / "tracks" / "other.txt").write_text("1,1,0,0,5,5,1\n")
    assert evaluate(mot, "--json", mot / "scores.json") == 0
    content = json.loads((mot / "scores.json").read_text())
    assert (content["without_tracks"], content["without_truth"]) == (["busy"], ["other"])
    busy = content["classes"]["pedestrian"]["sequences"]["busy"]
    assert (busy["CLR_TP"], busy["CLR_FN"], busy["Dets"]) == (0, busy["GT_Dets"], 0)
    printed = capsys.readouterr().out
    assert "all truth missed: busy" in printed
    assert "not scored: other" in printed


def test_bad_lines_are_counted_and_said(mot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (mot / "tracks" / "busy.txt").open("a") as file:
        file.write("nonsense\n1,2,3\n")
    assert evaluate(mot, "--json", mot / "scores.json") == 0
    content = json.loads((mot / "scores.json").read_text())
    assert list(content["skipped_lines"].values()) == [2]
    assert len(content["problems"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("skipped: ") == 2
    assert "2 lines could not be read, in 1 files" in captured.out


def test_gzipped_files_and_a_subfolder_called_data_are_found(kitti: Path) -> None:
    plain = scored(kitti / "truth", kitti / "tracks").summary()
    (kitti / "tracks").rename(kitti / "data")
    (kitti / "tracks").mkdir()
    (kitti / "data").rename(kitti / "tracks" / "data")
    assert list(find_tracks(kitti / "tracks")) == list(tracking_scenes.KITTI_SEQUENCES)
    for path in (kitti / "truth" / "label_02").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert scored(kitti / "truth", kitti / "tracks").summary() == plain
    assert scored(kitti / "truth" / "label_02", kitti / "tracks").summary() == plain


def test_one_sequences_own_folder_will_do(mot: Path) -> None:
    assert list(find_truth(mot / "truth" / "busy").files) == ["busy"]
    alone = scored(mot / "truth" / "busy", mot / "tracks")
    several = scored(mot / "truth", mot / "tracks")
    assert alone.combined("pedestrian").summary() == several.classes["pedestrian"]["busy"].summary()
    assert alone.folders.without_truth == ["doubled", "trackless", "truthless"]


def test_classes_and_sequences_can_be_chosen_and_what_is_left_out_is_said(kitti: Path) -> None:
    chosen = scored(kitti / "truth", kitti / "tracks", classes=("Car",), sequences=["0001"])
    assert {name: list(rows) for name, rows in chosen.classes.items()} == {"car": ["0001"]}
    assert chosen.folders.without_truth == ["0000", "0002"]
    assert any("of class pedestrian are not scored" in note for note in chosen.notes)
    everything = scored(kitti / "truth", kitti / "tracks")
    assert list(everything.classes) == ["car", "pedestrian"]
    assert everything.notes == []


def test_a_sequence_whose_length_nobody_tells_ends_with_its_truth(mot: Path) -> None:
    (mot / "truth" / "busy" / "seqinfo.ini").unlink()
    result = scored(mot / "truth", mot / "tracks", sequences=["busy"])
    assert result.notes == ["busy has no seqinfo.ini; its frames are taken to end with its truth, at 40"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "mot16x"], "unknown format 'mot16x'; did you mean 'mot17'"),
        (["--format", "kitti"], "lies in mot's layout"),
        (["--classes", "car"], "class 'car' is not evaluated in mot15; known: pedestrian"),
        (["--sequences", "bussy"], "no sequence 'bussy'; did you mean 'busy'"),
        (["--truth", "/nowhere"], "/nowhere does not exist"),
        (["--tracks", "/nowhere"], "/nowhere does not exist"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    mot: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert evaluate(mot, *arguments) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert message in error, error


def test_folders_with_nothing_to_compare_are_a_users_mistake(mot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mot / "tracks").rename(mot / "elsewhere")
    (mot / "tracks").mkdir()
    assert evaluate(mot) == 2
    assert "but no .txt file; busy.txt wanted" in capsys.readouterr().err
    (mot / "empty").mkdir()
    assert evaluate(mot, "--truth", mot / "empty") == 2
    assert "holds no truth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("41,900,0,0,5,5,1", "sequence busy: the tracks have boxes in frame 41, outside the sequence's 1 to 40"),
        ("1,-1,0,0,5,5,1", "track them first"),
        ("1,1,0,0,5,5,1\n1,1,9,9,5,5,1", "occurs twice in frame 1"),
    ],
)
def test_tracks_that_cannot_be_right_name_the_place(
    mot: Path, capsys: pytest.CaptureFixture[str], row: str, message: str
) -> None:
    (mot / "tracks" / "busy.txt").write_text(f"{row}\n")
    assert evaluate(mot) == 2
    assert message in capsys.readouterr().err


def test_kitti_rows_without_an_id_are_no_tracks_and_said(kitti: Path) -> None:
    path = kitti / "tracks" / "0000.txt"
    before = scored(kitti / "truth", kitti / "tracks")
    path.write_text(path.read_text() + "0 -1 Car -1 -1 -10 0 0 50 50 1 1 1 1 1 1 1 0.5\n")
    after = scored(kitti / "truth", kitti / "tracks")
    assert after.notes == ["1 track boxes without an id are not scored"]
    assert after.summary()["classes"] == before.summary()["classes"]


# --- boxes in space ------------------------------------------------------------------------------------------------


def test_truth_scores_one_in_space_and_the_command_says_the_same_as_the_file(
    kitti: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (kitti / "tracks").iterdir():
        path.unlink()
    for path in (kitti / "truth" / "label_02").iterdir():
        lines = path.read_text().splitlines()
        # Boxes of their own place in space, in truth and tracks alike.
        apart = [" ".join([*line.split()[:13], str(20 * int(line.split()[1])), *line.split()[14:]]) for line in lines]
        path.write_text("\n".join(apart) + "\n")
        (kitti / "tracks" / path.name).write_text("\n".join(f"{line} 0.5" for line in apart) + "\n")
    assert evaluate(kitti, "--metric", "3d", "--classes", "car", "--json", kitti / "scores.json") == 0
    content = json.loads((kitti / "scores.json").read_text())
    car = content["classes"]["car"]["combined"]
    assert (car["sAMOTA"], car["MOTA"], car["FP"], car["FN"]) == (pytest.approx(1.0), pytest.approx(1.0), 0, 0)
    assert (content["min_iou"], content["format"]) == (0.25, "kitti")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "kitti 3d, IoU 0.25"
    assert printed[1].split()[0] == "sAMOTA"
    assert printed[2].split()[:2] == ["car", "100.000"]


@pytest.mark.parametrize("min_iou", ["0", "1.5", "nan", "-1"])
def test_an_overlap_that_makes_no_sense_is_a_users_mistake(
    kitti: Path, capsys: pytest.CaptureFixture[str], min_iou: str
) -> None:
    assert evaluate(kitti, "--metric", "3d", f"--min-iou={min_iou}") == 2
    assert "min_iou is" in capsys.readouterr().err


def test_boxes_in_space_are_for_kitti(mot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(mot, "--metric", "3d") == 2
    assert "not for mot15" in capsys.readouterr().err


def test_a_length_gone_wild_is_refused_in_one_line(mot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ini = next((mot / "truth").glob("*/seqinfo.ini"))
    ini.write_text("[Sequence]\nframeRate=30\nseqLength=2000000000\n")
    assert evaluate(mot) == 2
    said = capsys.readouterr().err
    assert f"{ini.parent.name} is said to have 2000000000 frames" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("min_iou", ["nan", "0", "1.1", "inf"])
def test_an_overlap_that_is_none_is_refused_whatever_the_metric(
    mot: Path, capsys: pytest.CaptureFixture[str], min_iou: str
) -> None:
    assert evaluate(mot, "--min-iou", min_iou) == 2
    assert "above 0 and up to 1" in capsys.readouterr().err


def test_scores_that_cannot_be_written_are_refused_before_the_work(
    mot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mot / "file").write_text("")
    assert evaluate(mot, "--json", mot / "file" / "x.json") == 2
    captured = capsys.readouterr()
    assert ("is a file, not a folder" in captured.err, captured.out) == (True, "")


def test_tracks_without_a_name_are_refused(mot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mot / "tracks" / ".txt").write_text("1,1,0,0,5,5,1\n")
    assert evaluate(mot) == 2
    assert "no name before its ending" in capsys.readouterr().err
