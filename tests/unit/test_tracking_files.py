from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.core.errors import UserError
from tercel.core.messages import Tracks2D
from tracking import text_files
from tracking.files import (
    KITTI_CLASSES,
    MOT_CLASSES,
    BoxSequence,
    SequenceInfo,
    detections_2d,
    from_tracks_2d,
    read_det2d_csv,
    read_det3d_csv,
    read_kitti,
    read_kitti_seqmap,
    read_mot,
    read_seqinfo,
    write_kitti,
    write_mot,
)

CAR = "0 3 Car 1 2 -1.5 100.0 110.5 200.0 190.0 1.5 1.6 4.2 -3.0 1.7 20.0 0.25"
REGION = "0 -1 DontCare -1 -1 -10 5 6 25 36 -1000 -1000 -1000 -10 -1 -1 -1"


def written(tmp_path: Path, text: str, name: str = "file.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def tracks(count: int, seed: int = 0, **more: Any) -> BoxSequence:
    """Random boxes, each id once in a frame, on the files' grid of a thousandth."""
    rng = np.random.default_rng(seed)
    corners = np.round(rng.uniform(-50, 900, (count, 2)), 3)
    return BoxSequence(
        frames=np.sort(rng.integers(0, 5, count)),
        ids=rng.permutation(count) + 1,
        boxes_xyxy_px=np.hstack([corners, corners + np.round(rng.uniform(0, 90, (count, 2)), 3)]),
        scores=np.round(rng.uniform(-2, 15, count), 6),
        labels=np.zeros(count, dtype=np.int32),
        **({"class_names": ("pedestrian",)} | more),
    )


# --- MOTChallenge --------------------------------------------------------------------------------------------------


def test_a_mot_row_is_a_box_by_its_corners(tmp_path: Path) -> None:
    boxes = read_mot(written(tmp_path, "2,7,10.5,20,30,40,0.9,-1,-1,-1\n1,3,0,0,1,1,1,-3.17,16.3,0.45\n"), [])
    assert boxes.frames.tolist() == [1, 2]
    assert boxes.ids.tolist() == [3, 7]
    np.testing.assert_allclose(boxes.boxes_xyxy_px, [[0, 0, 1, 1], [10.5, 20, 40.5, 60]])
    assert boxes.scores.tolist() == [1.0, 0.9]
    assert boxes.class_names == ("pedestrian",)
    assert (boxes.boxes_3d, boxes.occluded, boxes.skipped_lines) == (None, None, 0)


def test_nine_columns_have_a_class(tmp_path: Path) -> None:
    boxes = read_mot(written(tmp_path, "1,1,0,0,5,5,1,8,0.5\n1,2,0,0,5,5,0,1,1.0\n"), [])
    assert [boxes.class_names[label] for label in boxes.labels] == ["distractor", "pedestrian"]
    assert boxes.class_names == MOT_CLASSES
    assert len(boxes.of_classes("Distractor")) == 1


@pytest.mark.parametrize("separator", [",", ", ", " ", "\t"])
def test_commas_and_spaces_both_separate(tmp_path: Path, separator: str) -> None:
    line = separator.join(["1", "-1", "10", "20", "30", "40", "0.5"])
    assert read_mot(written(tmp_path, f"# a comment\n\n{line}\r\n"), []).boxes_xyxy_px.tolist() == [[10, 20, 40, 60]]


@given(count=st.integers(0, 30), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, count: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("again")
    boxes = tracks(count, seed)
    for name in ("mot.txt", "mot.txt.gz"):
        write_mot(folder / name, boxes)
        again = read_mot(folder / name, [])
        for field in ("frames", "ids", "boxes_xyxy_px", "scores", "labels"):
            np.testing.assert_allclose(getattr(again, field), getattr(boxes, field), atol=1e-9)


def test_a_mot_result_has_ten_columns_and_the_same_bytes_in_every_run(tmp_path: Path) -> None:
    boxes = tracks(3)
    for name in ("a.txt", "b.txt", "a.txt.gz", "b.txt.gz"):
        write_mot(tmp_path / "deep" / name, boxes)
    lines = (tmp_path / "deep" / "a.txt").read_text().splitlines()
    assert all(line.count(",") == 9 and line.endswith(",-1,-1,-1") for line in lines)
    assert (tmp_path / "deep/a.txt.gz").read_bytes() == (tmp_path / "deep/b.txt.gz").read_bytes()


def test_a_seqinfo_tells_rate_length_and_size(tmp_path: Path) -> None:
    text = "[Sequence]\nname=A%\nframeRate=29.97\nseqLength=71\nimWidth=640\nimHeight=480\nimExt=.jpg\n"
    assert read_seqinfo(written(tmp_path, text, "seqinfo.ini")) == SequenceInfo("A%", 29.97, 71, 640, 480)
    bare = written(tmp_path, "[Sequence]\nframeRate=30\nseqLength=2\n", "bare.ini")
    assert read_seqinfo(bare) == SequenceInfo(tmp_path.name, 30.0, 2)


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[Sequence]\nframeRate=30\n", "[Sequence]\nframeRate=x\nseqLength=2\n",
     "[Sequence]\nframeRate=0\nseqLength=2\n", "[Sequence]\nframeRate=nan\nseqLength=2\n",
     "[Sequence]\nframeRate=30\nseqLength=-2\n"],
)  # fmt: skip
def test_a_seqinfo_that_does_not_tell_is_a_users_mistake(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"seqinfo.ini.*frameRate") as error:
        read_seqinfo(written(tmp_path, text, "seqinfo.ini"))
    assert "\n" not in str(error.value)


# --- KITTI ---------------------------------------------------------------------------------------------------------


def test_a_kitti_row_has_everything_at_its_place(tmp_path: Path) -> None:
    boxes = read_kitti(written(tmp_path, f"{REGION}\n{CAR}\n{CAR.replace(' 3 Car', ' 4 pedestrian')} 0.75\n"), [])
    assert [boxes.class_names[label] for label in boxes.labels] == ["DontCare", "Car", "Pedestrian"]
    assert boxes.ids.tolist() == [-1, 3, 4]
    assert boxes.scores.tolist() == [1.0, 1.0, 0.75]
    car = boxes.of_classes("car")
    assert car.boxes_3d is not None
    assert car.boxes_3d.tolist() == [[1.5, 1.6, 4.2, -3.0, 1.7, 20.0, 0.25]]
    assert car.boxes_xyxy_px.tolist() == [[100.0, 110.5, 200.0, 190.0]]
    assert [np.ravel(v).tolist() for v in (car.truncated, car.occluded, car.alphas_rad)] == [[1.0], [2.0], [-1.5]]


def test_kitti_truth_is_written_and_read_again(tmp_path: Path) -> None:
    boxes = read_kitti(written(tmp_path, f"{REGION}\n{CAR}\n"), [])
    write_kitti(tmp_path / "again.txt.gz", boxes)
    again = read_kitti(tmp_path / "again.txt.gz", [])
    for name in vars(boxes):
        np.testing.assert_array_equal(getattr(again, name), getattr(boxes, name))
    lines = gzip.decompress((tmp_path / "again.txt.gz").read_bytes()).decode().splitlines()
    assert [len(line.split()) for line in lines] == [18, 18]


def test_image_tracks_are_kitti_results_with_the_rest_marked_unknown(tmp_path: Path) -> None:
    write_kitti(tmp_path / "0000.txt", tracks(1, class_names=("car",)))
    words = (tmp_path / "0000.txt").read_text().split()
    assert (words[2], [float(word) for word in words[3:6]]) == ("Car", [-1, -1, -10])
    assert [float(word) for word in words[10:17]] == [-1, -1, -1, -1000, -1000, -1000, -10]
    assert len(words) == 18


def test_detections_of_both_detectors_are_read(tmp_path: Path) -> None:
    flat = read_det2d_csv(written(tmp_path, "4,1.5,2,3,4,0.9\n"), [], "Car")
    assert (flat.frames.tolist(), flat.ids.tolist(), flat.scores.tolist()) == ([4], [-1], [0.9])
    assert flat.boxes_xyxy_px.tolist() == [[1.5, 2, 3, 4]]
    assert [flat.class_names[label] for label in flat.labels] == ["Car"]
    solid = read_det3d_csv(written(tmp_path, "4,1,1.5,2,3,4,-0.9,1.7,0.6,0.8,-9.9,0.5,27.4,2.6,2.9\n"), [])
    assert solid.boxes_3d is not None
    assert solid.boxes_3d.tolist() == [[1.7, 0.6, 0.8, -9.9, 0.5, 27.4, 2.6]]
    assert solid.alphas_rad is not None
    assert solid.alphas_rad.tolist() == [2.9]
    assert [solid.class_names[label] for label in solid.labels] == ["Pedestrian"]
    assert solid.scores.tolist() == [-0.9]


def test_a_seqmap_tells_the_frames(tmp_path: Path) -> None:
    path = written(
        tmp_path, "0000 empty 000000 000154\n0001 empty 000003 000447\n", "evaluate_tracking.seqmap.training"
    )
    assert read_kitti_seqmap(path) == {"0000": range(154), "0001": range(3, 447)}
    with pytest.raises(UserError, match="line 1"):
        read_kitti_seqmap(written(tmp_path, "0000\n", "seqmap"))


def test_all_real_files_are_read_without_a_problem(shared_data: Path) -> None:
    problems: list[str] = []
    for sequence in sorted(path for path in (shared_data / "mot15").iterdir() if path.is_dir()):
        info = read_seqinfo(sequence / "seqinfo.ini")
        for boxes in (read_mot(sequence / name, problems) for name in ("det/det.txt", "gt/gt.txt")):
            assert boxes.frames.min() >= 1
            assert boxes.frames.max() <= info.length
    root = shared_data / "kitti_tracking"
    frames = read_kitti_seqmap(root / "evaluate_tracking.seqmap.training")
    for name in ("0001", "0005", "0020"):
        read = [read_kitti(root / "label_02" / f"{name}.txt.gz", problems)]
        for kind in ("Car", "Pedestrian"):
            read.append(read_det2d_csv(root / "det2d_rrc" / kind / f"{name}.txt.gz", problems, kind))
            read.append(read_det3d_csv(root / "det3d_pointrcnn" / kind / f"{name}.txt.gz", problems))
            assert len(read[-1].of_classes(kind)) == len(read[-1])
        assert all(boxes.frames.max(initial=0) in frames[name] for boxes in read)
    assert problems == []


# --- bad files -----------------------------------------------------------------------------------------------------

BAD_MOT = ["1,2,3", "x,1,0,0,5,5,1", "1,1,nan,0,5,5,1", "1,1,0,0,5,5,inf", "1.5,1,0,0,5,5,1", "1,1.5,0,0,5,5,1",
           "-1,1,0,0,5,5,1", "5e9,1,0,0,5,5,1", "1,1e17,0,0,5,5,1", "1,1,0,0,5,5,1,99,0.5", "1,1,0,0,5e40,5,1",
           ]  # fmt: skip
BAD_KITTI = [CAR.rsplit(" ", 1)[0], CAR.replace("Car", "Carr"), CAR.replace("20.0", "nan"), f"-1{CAR[1:]}"]


@pytest.mark.parametrize("line", BAD_MOT)
def test_a_bad_mot_line_is_skipped_counted_and_said(tmp_path: Path, line: str) -> None:
    problems: list[str] = []
    boxes = read_mot(written(tmp_path, f"1,1,0,0,5,5,1\n{line}\n2,1,0,0,5,5,1\n"), problems)
    assert (len(boxes), boxes.skipped_lines, len(problems)) == (2, 1, 1)
    assert "line 2: " in problems[0]
    with pytest.raises(UserError, match=r"not one line .* frame,id,x,y,width,height,score is wanted"):
        read_mot(written(tmp_path, f"{line}\n"), [])


@pytest.mark.parametrize("line", BAD_KITTI)
def test_a_bad_kitti_line_is_skipped_counted_and_said(tmp_path: Path, line: str) -> None:
    problems: list[str] = []
    boxes = read_kitti(written(tmp_path, f"{line}\n{CAR}\n"), problems)
    assert (len(boxes), boxes.skipped_lines, len(problems)) == (1, 1, 1)
    with pytest.raises(UserError, match="not one line"):
        read_kitti(written(tmp_path, line), [])


def test_boxes_without_area_are_kept_for_the_tracker_to_judge(tmp_path: Path) -> None:
    boxes = read_mot(written(tmp_path, "1,-1,5,5,0,3,1\n1,-1,5,5,-2,3,1\n"), [])
    assert boxes.boxes_xyxy_px.tolist() == [[5, 5, 5, 8], [5, 5, 3, 8]]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing was seen\n"])
def test_an_empty_file_is_a_sequence_without_boxes(tmp_path: Path, text: str) -> None:
    for boxes in (
        read_mot(written(tmp_path, text), []),
        read_kitti(written(tmp_path, text, "a.txt.gz"), []),
        read_det2d_csv(written(tmp_path, text), [], "Car"),
        read_det3d_csv(written(tmp_path, text), []),
    ):
        assert len(boxes) == 0
        assert boxes.boxes_xyxy_px.shape == (0, 4)


def test_an_id_twice_in_a_frame_names_the_frame(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="id 7 occurs twice in frame 12"):
        read_mot(written(tmp_path, "11,7,0,0,5,5,1\n12,7,0,0,5,5,1\n12,7,9,9,5,5,1\n"), [])
    with pytest.raises(UserError, match="id 3 occurs twice in frame 0"):
        read_kitti(written(tmp_path, f"{CAR}\n{CAR}\n"), [])
    assert len(read_kitti(written(tmp_path, f"{CAR}\n{CAR.replace('Car', 'Van')}\n"), [])) == 2
    assert len(read_mot(written(tmp_path, "1,-1,0,0,5,5,1\n" * 2), [])) == 2


def test_a_zipped_file_that_was_cut_keeps_its_beginning(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = "".join(f"{frame},1,{x:.5f},0,5,5,1\n" for frame, x in enumerate(rng.uniform(size=20000)))
    whole = gzip.compress(text.encode())
    (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
    problems: list[str] = []
    assert 3000 < len(read_mot(tmp_path / "cut.txt.gz", problems)) < 12000
    assert "the rest of it is skipped" in problems[0]
    for data in (b"no gzip at all", whole[:40]):
        (tmp_path / "noise.txt.gz").write_bytes(data)
        with pytest.raises(UserError, match="cannot be unzipped"):
            read_mot(tmp_path / "noise.txt.gz", [])


def test_a_zip_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_TEXT_BYTES", 1 << 20)
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(b"\n" * (8 << 20)))
    with pytest.raises(UserError, match="more than 1 MB"):
        read_mot(path, [])


def test_more_lines_than_any_sequence_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_TEXT_LINES", 1000)
    with pytest.raises(UserError, match="more than 1000 lines"):
        read_mot(written(tmp_path, "\n" * 1001), [])


@pytest.mark.parametrize("line", ["1,2,3,4,5", "1,2,3,4,5,0.9,7", "1" + ",2" * 17, "1" + ",2" * 11])
def test_image_detections_of_another_width_are_bad_lines_and_never_joined(tmp_path: Path, line: str) -> None:
    problems: list[str] = []
    boxes = read_det2d_csv(written(tmp_path, f"0,1,2,3,4,0.5\n{line}\n{line}\n"), problems, "Car")
    assert (boxes.boxes_xyxy_px.tolist(), boxes.scores.tolist(), boxes.skipped_lines) == ([[1, 2, 3, 4]], [0.5], 2)
    assert "columns, not 6" in problems[0]


def test_detections_that_are_not_finite_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, "1,-1,nan,0,5,5,1\n1,-1,0,0,inf,5,1\n1,-1,0,0,5,5,-inf\n1,-1,0,0,5,5,0.5\n")
    boxes = read_mot(path, [], finite=False)
    np.testing.assert_array_equal(boxes.scores, [np.nan, np.nan, np.nan, 0.5])
    assert (boxes.skipped_lines, read_mot(path, []).skipped_lines) == (0, 3)
    for line in ("nan,-1,0,0,5,5,1", "inf,-1,0,0,5,5,1", "1,-inf,0,0,5,5,1", "1,-1,0,0,5,5,1,-inf,1"):
        both = written(tmp_path, f"1,-1,0,0,5,5,1\n{line}\n")
        assert read_mot(both, [], finite=False).skipped_lines == 1
    labels = written(tmp_path, f"{CAR.replace('20.0', 'nan')}\n{CAR.replace(' 3 Car', ' 4 Car')}\n")
    np.testing.assert_array_equal(read_kitti(labels, [], finite=False).scores, [np.nan, 1.0])
    flat = read_det2d_csv(written(tmp_path, "0,1,2,3,4,nan\n"), [], "Car", finite=False)
    assert np.isnan(flat.scores).all()


def test_a_byte_order_mark_costs_no_line_and_utf_16_is_named(tmp_path: Path) -> None:
    text = "1,-1,10,20,30,40,0.5\n2,-1,10,20,30,40,0.5\n"
    for name in ("a.txt", "a.txt.gz"):
        assert read_mot(written(tmp_path, f"\ufeff{text}", name), []).frames.tolist() == [1, 2]
    path = tmp_path / "wide.txt"
    for encoding in ("utf-16", "utf-32"):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(UserError, match=r"wide.txt is UTF-16.*save it as UTF-8"):
            read_mot(path, [])


def test_plain_text_with_a_zipped_name_is_told_the_mend(tmp_path: Path) -> None:
    path = tmp_path / "plain.txt.gz"
    path.write_text("1,-1,10,20,30,40,0.5\n")
    with pytest.raises(UserError, match="take .gz off its name"):
        read_mot(path, [])


def test_bytes_that_are_no_text_are_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "binary.txt"
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(UserError, match="not one line") as error:
        read_mot(path, [])
    assert len(str(error.value).splitlines()) == 1


def test_rows_that_do_not_fit_together_are_a_programmers_mistake() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        tracks(3, boxes_3d=np.zeros((2, 7)))
    with pytest.raises(ValueError, match="order of their frames"):
        BoxSequence(np.array([2, 1]), np.arange(2), np.zeros((2, 4)), np.ones(2), np.zeros(2), KITTI_CLASSES)


# --- messages ------------------------------------------------------------------------------------------------------


def test_every_frame_is_a_message_also_without_boxes_and_tracks_come_back() -> None:
    boxes = tracks(6)
    boxes = boxes.take(boxes.frames != 2)
    frames = range(1, 8)
    messages = list(detections_2d(boxes, frames, rate_hz=30.0))
    assert [m.stamp_ns for m in messages] == [round(f * 1e9 / 30) for f in frames]
    assert [len(m.scores) for m in messages] == [int((boxes.frames == f).sum()) for f in frames]
    found = [
        Tracks2D(
            stamp_ns=m.stamp_ns, frame_id=m.frame_id, boxes_xyxy_px=m.boxes_xyxy_px, scores=m.scores, labels=m.labels,
            class_names=m.class_names, ids=boxes.ids[boxes.frames == f], ages_s=np.zeros(len(m.scores)),
            velocities_px_per_s=np.zeros((len(m.scores), 2)),
        )
        for f, m in zip(frames, messages, strict=True)
    ]  # fmt: skip
    again = from_tracks_2d(frames, found)
    expected = boxes.take(boxes.frames >= 1)
    for name in ("frames", "ids", "labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(expected, name))
    np.testing.assert_allclose(again.boxes_xyxy_px, expected.boxes_xyxy_px, atol=1e-4)
    assert len(from_tracks_2d([], [])) == 0
