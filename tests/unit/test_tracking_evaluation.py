from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from tests.golden import tracking_scenes
from tracking.association import pairwise_iou
from tracking.components import Tracker2D
from tracking.evaluation.clear import clear
from tracking.evaluation.folders import FolderScores, evaluate_folders, read_folders
from tracking.evaluation.hota import ALPHAS, hota
from tracking.evaluation.identity import identity
from tracking.evaluation.matching import best_pairs, least_cost
from tracking.evaluation.overlaps import Overlaps, TrackSet, covered_one_by_one, iou_one_by_one, nearness, overlaps
from tracking.evaluation.preprocessing import mot_overlaps
from tracking.evaluation.scores import Scores, score
from tracking.files import (
    detections_2d,
    from_tracks_2d,
    read_det2d_csv,
    read_kitti_seqmap,
    read_mot,
    read_seqinfo,
    write_kitti,
    write_mot,
)

Array = np.ndarray[Any, Any]
GOLDEN = Path(__file__).parents[1] / "golden" / "tracking_evaluation.json"


def scored(truth: Path, tracks: Path, *, classes: tuple[str, ...] = (), **more: Any) -> FolderScores:
    """Read two folders and score them, without a problem."""
    problems: list[str] = []
    result = evaluate_folders(read_folders(truth, tracks, problems=problems, **more), classes=classes)
    assert problems == []
    return result


# --- against TrackEval ---------------------------------------------------------------------------------------------


def assert_equals_trackeval(ours: Scores, theirs: dict[str, Any]) -> None:
    """Every number that both state: measures to 1e-9, counts exactly."""
    summary, curves = ours.summary(), ours.hota.per_alpha()
    counts = {
        "HOTA_TP": ours.hota.true_positives,
        "HOTA_FN": ours.hota.false_negatives,
        "HOTA_FP": ours.hota.false_positives,
    }
    compared = 0
    for name, value in theirs.items():
        found = (counts | curves)[name] if isinstance(value, list) else summary.get(name)
        if found is not None:
            np.testing.assert_allclose(found, value, rtol=0, atol=1e-9, err_msg=name)
            compared += 1
    # Not ours: FP_per_frame, MOTP_sum, and the frames, which TrackEval counts in some sequences and not in others.
    assert set(theirs) - set(summary) - set(curves) - set(counts) == {
        "CLR_Frames", "FP_per_frame", "MOTP_sum",
    } | ({"Frames"} & set(theirs))  # fmt: skip
    assert compared >= 40


@pytest.mark.parametrize("format_name", ["mot15", "mot17", "mot20", "kitti"])
def test_every_number_is_trackevals_on_sequences_with_all_that_is_special(format_name: str, tmp_path: Path) -> None:
    if format_name == "kitti":
        tracking_scenes.write_kitti(tmp_path)
    else:
        tracking_scenes.write_mot(tmp_path, classes=format_name != "mot15")
    forced = format_name if format_name == "mot20" else None  # the others are seen from the files
    result = scored(tmp_path / "truth", tmp_path / "tracks", format_name=forced)
    assert (result.folders.format, result.notes, result.folders.without_tracks) == (format_name, [], [])
    golden = {
        name.split("/", 1)[1]: numbers
        for name, numbers in json.loads(GOLDEN.read_text()).items()
        if name.startswith(f"{format_name}/")
    }
    ours = {f"{c}/{name}": scores for c, sequences in result.classes.items() for name, scores in sequences.items()}
    ours |= {f"{c}/COMBINED_SEQ": result.combined(c) for c in result.classes}
    assert ours.keys() == golden.keys()
    for name, numbers in golden.items():
        assert_equals_trackeval(ours[name], numbers)


# Made with TrackEval 1.3.0 from the same files: detections as tracks, a detection's place in its frame as its id.
REAL_MOT15 = {
    "HOTA": 0.12837742765429558, "DetA": 0.37389769632776504, "AssA": 0.045549479652552335, "LocA": 0.7502528385153987,
    "MOTA": 0.02801653928079188, "MOTP": 0.7124669428110344, "IDF1": 0.10827159835847146, "IDSW": 12729, "Frag": 2200,
    "CLR_FP": 10650, "CLR_FN": 15408, "MT": 164, "ML": 99, "GT_Dets": 39905, "Dets": 35147,
}  # fmt: skip
REAL_KITTI_CAR = {
    "HOTA": 0.2812327520739542, "DetA": 0.8245014580077017, "AssA": 0.09709178541335514, "LocA": 0.906875110372602,
    "MOTA": 0.5292895720814291, "MOTP": 0.9020268640673974, "IDF1": 0.2112167784665025, "IDSW": 9472, "Frag": 245,
    "CLR_FP": 413, "CLR_FN": 1445, "MT": 495, "ML": 9, "GT_Dets": 24070, "Dets": 23038,
}  # fmt: skip


def test_numbered_detections_of_mot15_score_as_in_trackeval(shared_data: Path, tmp_path: Path) -> None:
    problems: list[str] = []
    for path in sorted((shared_data / "mot15").glob("*/det/det.txt")):
        boxes = read_mot(path, problems)
        place = np.arange(len(boxes)) - np.searchsorted(boxes.frames, boxes.frames)
        write_mot(tmp_path / f"{path.parents[1].name}.txt", replace(boxes, ids=place + 1))
    result = scored(shared_data / "mot15", tmp_path)
    assert (result.folders.format, len(result.classes["pedestrian"]), problems) == ("mot15", 11, [])
    summary = result.combined("pedestrian").summary()
    assert {name: summary[name] for name in REAL_MOT15} == pytest.approx(REAL_MOT15, abs=1e-9)


def test_numbered_detections_of_kitti_score_as_in_trackeval(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "kitti_tracking"
    problems: list[str] = []
    for name in read_kitti_seqmap(root / "evaluate_tracking.seqmap.training"):
        boxes = read_det2d_csv(root / "det2d_rrc" / "Car" / f"{name}.txt.gz", problems, "Car")
        place = np.arange(len(boxes)) - np.searchsorted(boxes.frames, boxes.frames)
        write_kitti(tmp_path / f"{name}.txt", replace(boxes, ids=place + 1))
    result = scored(root, tmp_path)
    assert (result.folders.format, list(result.classes), problems) == ("kitti", ["car"], [])
    summary = result.combined("car").summary()
    assert {name: summary[name] for name in REAL_KITTI_CAR} == pytest.approx(REAL_KITTI_CAR, abs=1e-9)


@pytest.mark.parametrize(("name", "least_mota"), [("TUD-Campus", 0.5), ("TUD-Stadtmitte", 0.65)])
def test_real_pedestrians_are_followed(shared_data: Path, name: str, least_mota: float) -> None:
    sequence = shared_data / "mot15" / name
    info = read_seqinfo(sequence / "seqinfo.ini")
    frames = range(1, info.length + 1)
    tracker = Tracker2D()
    found = detections_2d(read_mot(sequence / "det" / "det.txt", []), frames, info.rate_hz)
    messages: list[Any] = [tracker.step(message)["tracks"] for message in found]
    tracks = from_tracks_2d(frames, messages)
    result = clear(mot_overlaps(read_mot(sequence / "gt" / "gt.txt", []), tracks, frames))
    assert result.mota > least_mota
    assert result.id_switches < 20


# --- matching ------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), n=st.integers(0, 9), m=st.integers(0, 9), values=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_of_equally_good_assignments_scipys_is_taken(seed: int, n: int, m: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    costs = -rng.integers(0, values + 1, (n, m)) / 3.0 - 1000.0 * (rng.uniform(size=(n, m)) < 0.1)
    expected = np.full(n, -1)
    rows, columns = linear_sum_assignment(costs)
    expected[rows] = columns
    np.testing.assert_array_equal(least_cost(costs, ties=True), expected)
    chosen = least_cost(costs, ties=False)
    assert costs[chosen >= 0, chosen[chosen >= 0]].sum() == pytest.approx(costs[rows, columns].sum())


@given(seed=st.integers(0, 2**31), objects=st.integers(1, 7), ties=st.booleans())
@settings(max_examples=50, deadline=None)
def test_pairs_of_all_frames_are_chosen_as_by_a_solver_of_each_frame(seed: int, objects: int, ties: bool) -> None:
    truth, tracks = random_tracks(np.random.default_rng(seed), 12, objects, grid=10.0 if ties else None)
    found = overlaps(truth, tracks, iou_one_by_one)
    near = np.flatnonzero(found.similarities >= 0.3)
    chosen = near[best_pairs(found, near, found.similarities[near])]
    expected = []
    for frame in range(found.frame_count):
        rows, columns = np.flatnonzero(found.truth_frames == frame), np.flatnonzero(found.track_frames == frame)
        weights = np.zeros((len(rows), len(columns)))
        here = near[found.pair_frames[near] == frame]
        pairs = np.searchsorted(rows, found.truth_rows[here]), np.searchsorted(columns, found.track_rows[here])
        weights[pairs] = found.similarities[here]
        best = linear_sum_assignment(-weights)
        kept = weights[best] > 0
        expected += list(zip(rows[best[0][kept]].tolist(), columns[best[1][kept]].tolist(), strict=True))
    pairs_found = zip(found.truth_rows[chosen].tolist(), found.track_rows[chosen].tolist(), strict=True)
    assert sorted(pairs_found) == sorted(expected)


# --- overlaps ------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), objects=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_pairs_are_those_of_the_same_frame_that_overlap(seed: int, objects: int) -> None:
    truth, tracks = random_tracks(np.random.default_rng(seed), 8, objects)
    found = overlaps(truth, tracks, iou_one_by_one)
    expected = pairwise_iou(truth.places, tracks.places) * (truth.frames[:, None] == tracks.frames[None, :])
    dense = np.zeros_like(expected)
    dense[found.truth_rows, found.track_rows] = found.similarities
    np.testing.assert_allclose(dense, expected, atol=1e-12)
    assert (found.similarities > 0).all()
    assert (np.diff(found.pair_frames) >= 0).all()


def test_blocks_of_pairs_do_not_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, tracks = random_tracks(np.random.default_rng(3), 10, 6)
    whole = overlaps(truth, tracks, iou_one_by_one)
    monkeypatch.setattr("tracking.evaluation.overlaps._BLOCK_PAIRS", 5)
    blocks = overlaps(truth, tracks, iou_one_by_one)
    for name in vars(whole):
        np.testing.assert_array_equal(getattr(whole, name), getattr(blocks, name))


def test_boxes_without_area_or_with_nan_are_no_pairs() -> None:
    boxes = np.array([[0, 0, 0, 10], [5, 5, 1, 9], [np.nan, 0, 1, 1], [np.inf, 0, np.inf, 1], [0, 0, 10, 10]], float)
    other = np.tile([0.0, 0.0, 10.0, 10.0], (5, 1))
    assert (iou_one_by_one(boxes, other) > 0).tolist() == [False, False, False, False, True]
    assert (iou_one_by_one(other, boxes) > 0).tolist() == [False, False, False, False, True]
    np.testing.assert_allclose(covered_one_by_one(other, np.tile([5.0, 0.0, 20.0, 5.0], (5, 1))), 0.25)
    assert covered_one_by_one(boxes[:1], other[:1]).tolist() == [0.0]


def test_a_distance_is_a_similarity_that_is_a_half_at_the_gate() -> None:
    near = nearness(2.0)
    found = near(np.zeros((4, 3)), np.array([[0, 0, 0], [0, 1, 0], [0, 0, 2], [9, 0, 0]], float))
    np.testing.assert_allclose(found, [1.0, 0.75, 0.5, 0.0])
    with pytest.raises(ValueError, match="gate_m"):
        nearness(0.0)


def test_an_id_twice_in_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="id 1 occurs twice in frame 0"):
        on_a_line([(0, 1, 0.0), (0, 1, 5.0)])


# --- measures ------------------------------------------------------------------------------------------------------


def on_a_line(rows: list[tuple[int, int, float]]) -> TrackSet:
    """Frame, id and x of points on the x axis."""
    values = np.array(rows, dtype=np.float64).reshape(-1, 3)
    places = np.column_stack([values[:, 2], np.zeros((len(values), 2))])
    return TrackSet(values[:, 0].astype(np.int64), values[:, 1].astype(np.int64), places)


def by_distance(truth: TrackSet, tracks: TrackSet, frames: list[int] | None = None) -> Overlaps:
    return overlaps(truth, tracks, nearness(2.0), frames)


def test_an_example_worked_by_hand() -> None:
    """Two objects over six frames, gate 2 m.

    Object 1 is followed by track 10 in frames 0, 1, 2 (0.5 m off), missed in 3, followed by track 11 in 4, 5: one
    switch, one fragmentation, 5 of 6 frames. Object 2 is followed by track 20 in frame 0 alone: 1 of 6 frames.
    Track 30 follows nothing in frames 0, 1 and 3.
    """
    truth = on_a_line([(f, 1, 0.0) for f in range(6)] + [(f, 2, 50.0) for f in range(6)])
    tracks = on_a_line(
        [(f, 10, 0.5) for f in (0, 1, 2)] + [(4, 11, 0.0), (5, 11, 0.0), (0, 20, 50.0)]
        + [(f, 30, 90.0) for f in (0, 1, 3)]
    )  # fmt: skip
    result = score(by_distance(truth, tracks))
    counts = {"CLR_TP": 6, "CLR_FN": 6, "CLR_FP": 3, "IDSW": 1, "Frag": 1, "MT": 1, "PT": 0, "ML": 1}
    ids = {"IDTP": 4, "IDFN": 8, "IDFP": 5, "IDs": 4, "GT_IDs": 2, "Dets": 9, "GT_Dets": 12}
    summary = result.summary()
    assert {name: summary[name] for name in counts | ids} == counts | ids
    assert summary["MOTA"] == pytest.approx(1 - 10 / 12)
    assert summary["MOTP"] == pytest.approx(1 - 0.25 / 4)
    assert (summary["CLR_Re"], summary["CLR_Pr"]) == (pytest.approx(0.5), pytest.approx(6 / 9))
    assert summary["IDF1"] == pytest.approx(4 / (4 + 13 / 2))
    # At the lowest threshold all six matches count: three couples of 3, 2 and 1 boxes.
    assert result.hota.true_positives[0] == 6
    assert summary["HOTA(0)"] == pytest.approx(np.sqrt(6 / 15 * ((3 * 3 / 6 + 2 * 2 / 6 + 1 / 6) / 6)))


def test_tracks_equal_to_the_truth_score_one_in_everything() -> None:
    truth, _ = random_tracks(np.random.default_rng(0), 15, 5)
    renamed = TrackSet(truth.frames, 100 - truth.ids, truth.places)
    summary = score(overlaps(truth, renamed, iou_one_by_one)).summary()
    for name in ("HOTA", "DetA", "AssA", "LocA", "MOTA", "MOTP", "IDF1", "IDP", "IDR", "MTR"):
        assert summary[name] == pytest.approx(1.0), name


def test_a_correspondence_is_kept_while_within_the_gate_although_another_is_nearer() -> None:
    truth = on_a_line([(0, 1, 0.0), (1, 1, 0.0)])
    tracks = on_a_line([(0, 5, 0.0), (1, 5, 1.5), (1, 6, 0.1)])
    result = clear(by_distance(truth, tracks))
    assert (result.id_switches, result.false_positives) == (0, 1)
    assert 4.0 * (1.0 - result.motp) * result.matches == pytest.approx(1.5)


def test_a_switch_after_a_gap_is_counted_and_a_frame_without_any_track_breaks_no_stretch() -> None:
    truth = on_a_line([(f, 1, 0.0) for f in range(4)])
    result = clear(by_distance(truth, on_a_line([(0, 5, 0.0), (3, 6, 0.0)])))
    assert (result.id_switches, result.fragmentations, result.misses) == (1, 0, 2)
    elsewhere = on_a_line([(0, 5, 0.0), (2, 7, 50.0), (3, 6, 0.0)])
    assert clear(by_distance(truth, elsewhere)).fragmentations == 1


def test_only_the_given_frames_count_and_an_empty_labelled_frame_can_hold_false_positives() -> None:
    truth = on_a_line([(0, 1, 0.0), (2, 1, 0.0)])
    tracks = on_a_line([(f, 5, 0.0) for f in range(4)])
    assert clear(by_distance(truth, tracks)).false_positives == 0
    assert clear(by_distance(truth, tracks, [0, 1, 2])).false_positives == 1
    assert clear(by_distance(truth, tracks, [0])).truths == 1


def test_without_truth_or_tracks_there_is_nothing_to_measure() -> None:
    nothing, one = on_a_line([]), on_a_line([(0, 1, 0.0)])
    assert set(score(by_distance(nothing, nothing)).summary().values()) <= {0, 1.0}
    false_alarm = score(by_distance(nothing, one, [0])).summary()
    assert (false_alarm["CLR_FP"], false_alarm["IDFP"], false_alarm["MOTA"], false_alarm["HOTA"]) == (1, 1, 0.0, 0.0)
    missed = score(by_distance(one, nothing)).summary()
    assert (missed["CLR_FN"], missed["IDFN"], missed["ML"], missed["HOTA"]) == (1, 1, 1, 0.0)


def test_boxes_match_from_the_given_similarity_on() -> None:
    frames, ids = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)
    whole = TrackSet(frames, ids, np.array([[0.0, 0.0, 10.0, 10.0]]))
    half = overlaps(whole, TrackSet(frames, ids, np.array([[0.0, 0.0, 10.0, 5.0]])), iou_one_by_one)
    assert (clear(half).matches, identity(half).true_positives) == (1, 1)
    assert (clear(half, threshold=0.51).matches, identity(half, threshold=0.51).true_positives) == (0, 0)
    assert hota(half).true_positives.tolist() == (ALPHAS < 0.51).tolist()


@given(seed=st.integers(0, 2**31), objects=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_counts_add_up_and_names_of_identities_do_not_matter(seed: int, objects: int) -> None:
    rng = np.random.default_rng(seed)
    truth, tracks = random_tracks(rng, 15, objects)
    result = score(overlaps(truth, tracks, iou_one_by_one))
    boxes = (len(truth.ids), len(tracks.ids))
    assert (result.clear.matches + result.clear.misses, result.clear.matches + result.clear.false_positives) == boxes
    assert (result.hota.true_positives + result.hota.false_negatives == boxes[0]).all()
    assert (np.diff(result.hota.true_positives) <= 0).all()
    renamed = TrackSet(tracks.frames, 7 * (tracks.ids.max() - tracks.ids), tracks.places)
    again = score(overlaps(truth, renamed, iou_one_by_one)).summary()
    assert again == pytest.approx(result.summary(), abs=1e-12)
    both = (result + result).summary()
    for name in ("HOTA", "MOTA", "MOTP", "IDF1", "AssA", "LocA"):
        assert both[name] == pytest.approx(result.summary()[name], abs=1e-12)
    assert both["IDSW"] == 2 * result.clear.id_switches


def random_tracks(
    rng: np.random.Generator, frames: int, objects: int, grid: float | None = None
) -> tuple[TrackSet, TrackSet]:
    """Walking boxes, and tracks of them that drift, break off and change their names; by frame, in random order."""
    places = rng.uniform(0, 60, (objects, 2)) + np.cumsum(rng.normal(0, 2, (frames, objects, 2)), axis=0)
    truth, tracks = [], []
    names = np.arange(objects)
    for frame in range(frames):
        if rng.uniform() < 0.3:
            a, b = rng.integers(0, objects, 2)
            names[[a, b]] = names[[b, a]]
        for thing, (x, y) in enumerate(places[frame]):
            truth.append((frame, thing, x, y, x + 20, y + 30))
            if rng.uniform() < 0.8:
                dx, dy = rng.normal(0, 4, 2)
                tracks.append((frame, names[thing], x + dx, y + dy, x + dx + 20, y + dy + 30))
        tracks.append((frame, 100 + frame, *rng.uniform(0, 60, 2), 90, 90))
    rows = [np.array(r, dtype=np.float64) for r in (truth, tracks)]
    if grid is not None:
        rows = [np.column_stack([r[:, :2], np.round(r[:, 2:] / grid) * grid]) for r in rows]
    first, second = (TrackSet(r[:, 0].astype(np.int64), r[:, 1].astype(np.int64), r[:, 2:]) for r in rows)
    return first, second
