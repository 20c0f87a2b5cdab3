from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.bench_tracking import MOT15_CONFIG, mot_rows, track_mot15, xyxy
from tracking.association import pairwise_iou
from tracking.clear_mot import ClearMot, TrackSet, evaluate_distance, evaluate_iou


def on_a_line(rows: list[tuple[int, int, float]]) -> TrackSet:
    """Frame, id and x of points on the x axis."""
    values = np.array(rows, dtype=np.float64).reshape(-1, 3)
    places = np.column_stack([values[:, 2], np.zeros((len(values), 2))])
    return TrackSet(values[:, 0].astype(np.int64), values[:, 1].astype(np.int64), places)


def test_an_example_worked_by_hand() -> None:
    """Two objects over six frames, gate 2 m.

    Object 1 is followed by track 10 in frames 0, 1, 2 (0.5 m off), missed in 3, followed by track 11 in 4, 5: one
    switch, one fragmentation, 5 of 6 frames. Object 2 is followed by track 20 in frame 0 alone: 1 of 6 frames.
    Track 30 follows nothing in frames 0 and 1.
    """
    truth = on_a_line([(f, 1, 0.0) for f in range(6)] + [(f, 2, 50.0) for f in range(6)])
    tracks = on_a_line(
        [(f, 10, 0.5) for f in (0, 1, 2)] + [(4, 11, 0.0), (5, 11, 0.0), (0, 20, 50.0), (0, 30, 90.0), (1, 30, 90.0)]
    )
    result = evaluate_distance(truth, tracks, gate_m=2.0)
    assert result == ClearMot(
        frames=6, truths=12, matches=6, misses=6, false_positives=2, id_switches=1, fragmentations=1,
        mostly_tracked=1, partly_tracked=0, mostly_lost=1, cost_sum=1.5,
    )  # fmt: skip
    assert result.mota == pytest.approx(1 - 9 / 12)
    assert result.motp == pytest.approx(0.25)
    assert result.recall == pytest.approx(0.5)
    assert result.precision == pytest.approx(6 / 8)
    assert result.summary()["mota"] == pytest.approx(0.25)


def test_a_correspondence_is_kept_while_within_the_gate_although_another_is_nearer() -> None:
    truth = on_a_line([(0, 1, 0.0), (1, 1, 0.0)])
    tracks = on_a_line([(0, 5, 0.0), (1, 5, 1.5), (1, 6, 0.1)])
    result = evaluate_distance(truth, tracks, gate_m=2.0)
    assert (result.id_switches, result.false_positives) == (0, 1)
    assert result.cost_sum == pytest.approx(1.5)


def test_a_switch_after_a_gap_is_counted() -> None:
    truth = on_a_line([(f, 1, 0.0) for f in range(4)])
    tracks = on_a_line([(0, 5, 0.0), (3, 6, 0.0)])
    result = evaluate_distance(truth, tracks)
    assert (result.id_switches, result.fragmentations, result.misses) == (1, 1, 2)


def test_only_the_given_frames_count_and_an_empty_labelled_frame_can_hold_false_positives() -> None:
    truth = on_a_line([(0, 1, 0.0), (2, 1, 0.0)])
    tracks = on_a_line([(f, 5, 0.0) for f in range(4)])
    assert evaluate_distance(truth, tracks).false_positives == 0
    assert evaluate_distance(truth, tracks, frames=[0, 1, 2]).false_positives == 1
    assert evaluate_distance(truth, tracks, frames=[0]).truths == 1


def test_a_track_near_an_ignored_object_is_neither_match_nor_false_positive() -> None:
    truth = on_a_line([(0, 1, 0.0), (0, 2, 10.0)])
    tracks = on_a_line([(0, 5, 0.0), (0, 6, 10.5), (0, 7, 30.0)])
    result = evaluate_distance(truth, tracks, ignored=np.array([False, True]))
    assert (result.truths, result.matches, result.false_positives, result.misses) == (1, 1, 1, 0)


def test_without_truth_or_tracks_the_measures_are_nan_and_none_in_the_summary() -> None:
    nothing = on_a_line([])
    result = evaluate_distance(nothing, nothing)
    assert np.isnan([result.mota, result.motp, result.recall, result.precision]).all()
    assert result.summary()["mota"] is None
    assert evaluate_distance(nothing, on_a_line([(0, 1, 0.0)]), frames=[0]).false_positives == 1
    assert evaluate_distance(on_a_line([(0, 1, 0.0)]), nothing).mota == 0.0


def test_an_id_twice_in_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        on_a_line([(0, 1, 0.0), (0, 1, 5.0)])


def test_boxes_match_from_the_given_iou_on() -> None:
    frames, ids = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)
    truth = TrackSet(frames, ids, np.array([[0.0, 0.0, 10.0, 10.0]]))
    half = TrackSet(frames, ids, np.array([[0.0, 0.0, 10.0, 5.0]]))
    assert evaluate_iou(truth, half, min_iou=0.5).matches == 1
    assert evaluate_iou(truth, half, min_iou=0.51).matches == 0


def test_sequences_add_up() -> None:
    truth, tracks = on_a_line([(0, 1, 0.0), (1, 1, 0.0)]), on_a_line([(0, 5, 1.0)])
    one = evaluate_distance(truth, tracks)
    both = one + one
    assert (both.truths, both.misses, both.cost_sum) == (4, 2, 2.0)
    assert both.mota == one.mota


def random_tracks(rng: np.random.Generator, frames: int, objects: int) -> tuple[TrackSet, TrackSet]:
    """Walking boxes, and tracks of them that drift, break off and change their names."""
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
    a, b = np.array(truth, dtype=np.float64), np.array(tracks, dtype=np.float64)
    return (
        TrackSet(a[:, 0].astype(np.int64), a[:, 1].astype(np.int64), a[:, 2:]),
        TrackSet(b[:, 0].astype(np.int64), b[:, 1].astype(np.int64), b[:, 2:]),
    )


def trackeval_clear(truth: TrackSet, tracks: TrackSet, frames: range) -> dict[str, Any]:
    """The same by TrackEval, which wants ids counted from 0."""
    trackeval = pytest.importorskip("trackeval", reason="trackeval is not installed")
    truth_ids, tracker_ids = (np.searchsorted(np.unique(s.ids), s.ids) for s in (truth, tracks))
    data: dict[str, Any] = {
        "num_timesteps": len(frames), "num_gt_ids": len(np.unique(truth_ids)),
        "num_tracker_ids": len(np.unique(tracker_ids)),
        "num_gt_dets": len(truth_ids), "num_tracker_dets": len(tracker_ids),
        "gt_ids": [truth_ids[truth.frames == f] for f in frames],
        "tracker_ids": [tracker_ids[tracks.frames == f] for f in frames],
        "similarity_scores": [
            pairwise_iou(truth.places[truth.frames == f], tracks.places[tracks.frames == f]) for f in frames
        ],
    }  # fmt: skip
    result: dict[str, Any] = trackeval.metrics.CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)
    return result


def assert_equals_trackeval(ours: ClearMot, theirs: dict[str, Any]) -> None:
    assert (ours.matches, ours.misses, ours.false_positives, ours.id_switches, ours.fragmentations) == tuple(
        int(theirs[name]) for name in ("CLR_TP", "CLR_FN", "CLR_FP", "IDSW", "Frag")
    )
    assert (ours.mostly_tracked, ours.partly_tracked, ours.mostly_lost) == tuple(
        int(theirs[name]) for name in ("MT", "PT", "ML")
    )
    assert ours.mota == pytest.approx(theirs["MOTA"])
    assert 1.0 - ours.motp == pytest.approx(theirs["MOTP"])


@given(seed=st.integers(0, 2**31), objects=st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_random_tracks_score_as_in_trackeval(seed: int, objects: int) -> None:
    truth, tracks = random_tracks(np.random.default_rng(seed), 20, objects)
    assert_equals_trackeval(evaluate_iou(truth, tracks), trackeval_clear(truth, tracks, range(20)))


@pytest.mark.parametrize(("name", "least_mota"), [("TUD-Campus", 0.5), ("TUD-Stadtmitte", 0.65)])
def test_real_pedestrians_are_followed(shared_data: Path, name: str, least_mota: float) -> None:
    sequence = shared_data / "mot15" / name
    tracks, frames, _ = track_mot15(sequence, MOT15_CONFIG)
    rows = mot_rows(sequence / "gt" / "gt.txt")
    rows = rows[rows[:, 6] != 0]
    truth = TrackSet(rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), xyxy(rows))
    result = evaluate_iou(truth, tracks, frames=range(1, frames + 1))
    assert result.mota > least_mota
    assert result.id_switches < 20
