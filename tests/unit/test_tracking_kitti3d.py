from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from tercel.core.errors import UserError
from tracking import boxes3d
from tracking.evaluation.kitti3d import LEVELS, Kitti3dScores, evaluate, recall_levels
from tracking.files import KITTI_CLASSES, BoxSequence

Array = np.ndarray[Any, Any]
CAR, VAN, REGION = (KITTI_CLASSES.index(name) for name in ("Car", "Van", "DontCare"))


def sequence(rows: Array, **changed: Any) -> BoxSequence:
    """Rows frame, id, label, truncated, occluded, x1 y1 x2 y2, h w l x y z ry, score (R, 17), as a KITTI file's."""
    rows = np.asarray(rows, dtype=np.float64).reshape(-1, 17)
    rows = rows[np.argsort(rows[:, 0], kind="stable")].round(6)
    fields = {
        "frames": rows[:, 0].astype(np.int64), "ids": rows[:, 1].astype(np.int64),
        "labels": rows[:, 2].astype(np.int32), "truncated": rows[:, 3], "occluded": rows[:, 4],
        "boxes_xyxy_px": rows[:, 5:9], "boxes_3d": rows[:, 9:16], "scores": rows[:, 16],
        "class_names": KITTI_CLASSES,
    }  # fmt: skip
    return BoxSequence(**{**fields, **changed})


def row(
    frame: int, name: int, x: float = 0.0, z: float = 20.0, *, label: int = CAR, score: float = 1.0,
    truncated: int = 0, occluded: int = 0, turn: float = 0.0, height_px: float | None = None, y: float = 1.7,
) -> list[float]:  # fmt: skip
    """A car of 1.5 x 1.7 x 4 m on the ground, x m to the right and z m ahead, about where a camera would see it."""
    u, v, half = 600.0 + 700.0 * x / z, 180.0 + 1000.0 / z, 1000.0 / z
    height_px = 1050.0 / z if height_px is None else height_px
    image = [u - half, v - height_px, u + half, v]
    return [frame, name, label, truncated, occluded, *image, 1.5, 1.7, 4.0, x, y, z, turn, score]


def scene(seed: int, *, objects: int = 9, frames: int = 40) -> tuple[BoxSequence, BoxSequence]:
    """Truth with vans, hidden and cut objects and a region, and tracks that miss, swap, break and invent."""
    rng = np.random.default_rng(seed)
    truth, tracks = [], []
    for name in range(objects):
        begin, end = sorted(rng.choice(frames, 2, replace=False))
        x, z, vx, vz = rng.uniform(-12, 12), rng.uniform(12, 50), rng.normal(0, 0.2), rng.normal(0, 0.3)
        label = VAN if name % 5 == 4 else CAR
        level, break_at = rng.uniform(0.0, 9.0), rng.integers(frames)
        for frame in range(begin, end):
            place = {"x": x + vx * frame, "z": max(z + vz * frame, 5.0)}
            hidden = {"truncated": int(rng.random() < 0.1), "occluded": int(rng.choice([0, 1, 2, 3]))}
            truth.append(row(frame, name, **place, **hidden, label=label))
            if rng.random() < 0.85:
                seen = {"x": place["x"] + rng.normal(0, 0.6), "z": place["z"] + rng.normal(0, 0.25)}
                identity = name + 100 * int(frame >= break_at) + 200 * int(rng.random() < 0.05)
                tracks.append(row(frame, identity, **seen, turn=rng.normal(0, 0.1), score=level + rng.normal()))
    for name in range(objects // 2):
        begin, x, z, level = rng.integers(frames), rng.uniform(-12, 12), rng.uniform(5, 50), rng.uniform(-1.0, 4.0)
        height = 20.0 if name % 3 == 0 else None
        tracks += [
            row(frame, 1000 + name, x, z, score=level + rng.normal(), height_px=height)
            for frame in range(begin, min(begin + 8, frames))
        ]
    truth += [[frame, -1, REGION, -1, -1, 300, 100, 520, 260, -1, -1, -1, -1000, -1000, -1000, -10, -1]
              for frame in range(frames)]  # fmt: skip
    return sequence(np.array(truth)), sequence(np.array(tracks))


def evaluate_scenes(*seeds: int, **options: Any) -> Kitti3dScores:
    scenes = {f"{seed:04d}": scene(seed) for seed in seeds}
    truth, tracks = ({name: pair[part] for name, pair in scenes.items()} for part in (0, 1))
    return evaluate(truth, tracks, class_name="car", **options)


# --- against others ------------------------------------------------------------------------------------------------

GOLDEN = (
    # How many recall levels in a row have the threshold, matches, excused matches, false positives, misses, switches,
    # fragmentations, and mostly tracked and lost objects that follow; the last of all stands for the best MOTA.
    (4, 8.99575, 24, 5, 0, 122, 1, 1, 0.0625, 0.9375),
    (3, 7.385559, 40, 20, 0, 121, 3, 2, 0.0625, 0.9375),
    (1, 7.070462, 43, 20, 0, 118, 3, 2, 0.1875, 0.8125),
    (1, 5.527099, 44, 21, 0, 118, 3, 2, 0.1875, 0.8125),
    (2, 4.339599, 58, 27, 0, 110, 3, 2, 0.3125, 0.6875),
    (2, 3.179866, 73, 41, 8, 109, 3, 2, 0.3125, 0.625),
    (1, 2.931598, 75, 42, 8, 108, 3, 2, 0.375, 0.5625),
    (3, 2.766755, 90, 49, 8, 100, 3, 3, 0.375, 0.5),
    (1, 2.718288, 98, 51, 8, 94, 3, 4, 0.375, 0.4375),
    (1, 2.558943, 100, 51, 8, 92, 3, 4, 0.375, 0.375),
    (2, 2.095925, 103, 53, 8, 91, 3, 5, 0.375, 0.375),
    (3, 1.78716, 128, 56, 8, 69, 3, 7, 0.5, 0.25),
    (3, 1.687122, 128, 56, 8, 69, 3, 7, 0.5, 0.25),
    (4, 1.18933, 146, 58, 8, 53, 3, 11, 0.625, 0.1875),
    (1, 0.967643, 165, 61, 8, 37, 4, 11, 0.6875, 0.125),
    (6, 0.233582, 172, 64, 8, 33, 4, 11, 0.6875, 0.0625),
)


def test_two_scenes_score_at_every_level_what_the_published_code_gives() -> None:
    # AB3DMOT's own evaluation (its first release) was run once on these scenes, written as KITTI files.
    scores = evaluate_scenes(1, 2)
    got = [
        (
            level.threshold, level.matches, level.excused, level.false_positives, level.misses, level.id_switches,
            level.fragmentations, level.mostly_tracked, level.mostly_lost,
        )
        for level in (*scores.levels, scores.best)
    ]  # fmt: skip
    wanted = [values for count, *values in GOLDEN for _ in range(count)]
    assert len(got) == len(wanted) == 38
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert scores.samota == pytest.approx(0.6616501644462179, abs=1e-12)
    assert scores.amota == pytest.approx(0.3140070921985815, abs=1e-12)
    assert scores.amotp == pytest.approx(0.5600131010587706, abs=1e-12)
    assert scores.best.motp == pytest.approx(0.6177136202761401, abs=1e-12)


def test_without_the_rounding_a_track_counts_at_its_own_score() -> None:
    published, exact = evaluate_scenes(1, 2), evaluate_scenes(1, 2, as_published=False)
    assert exact.best.matches == 191 > published.best.matches == 172
    assert exact.samota > published.samota


def counted_one_by_one(truth: BoxSequence, tracks: BoxSequence, min_iou: float) -> dict[str, int]:
    """Matches, misses, false positives and switches of all tracks, frame by frame and object by object."""
    result = dict.fromkeys(("TP", "FN", "FP", "IDS"), 0)
    last: dict[int, int] = {}
    before: dict[int, int] = {}
    areas = truth.take(truth.ids < 0)
    for frame in np.union1d(truth.frames, tracks.frames):
        objects = truth.take((truth.frames == frame) & (truth.ids >= 0))
        found, regions = tracks.take(tracks.frames == frame), areas.take(areas.frames == frame)
        costs = np.full((len(objects), len(found)), 1e9)
        for i, a in enumerate(objects.boxes_3d):
            for j, b in enumerate(found.boxes_3d):
                iou = boxes3d.paired_iou_3d(boxes3d.from_kitti(a[None]), boxes3d.from_kitti(b[None]))[0]
                costs[i, j] = 1.0 - iou if iou >= min_iou else 1e9
        matched = {i: j for i, j in zip(*linear_sum_assignment(costs), strict=True) if costs[i, j] < 1e9}
        now: dict[int, int] = {}
        for i, name in enumerate(objects.ids.tolist()):
            excused = objects.occluded[i] > 2 or objects.truncated[i] > 0 or objects.labels[i] != CAR
            track = int(found.ids[matched[i]]) if i in matched else -1
            result["TP"] += track >= 0
            result["FN"] += track < 0 and not excused
            now[name] = track
            if excused:
                last[name] = -1 if name in before or name in last else track
                continue
            if track >= 0:
                result["IDS"] += last.get(name, -1) not in (-1, track) and before.get(name, -1) >= 0
                last[name] = track
            elif name not in last:
                last[name] = -1
        before.update(now)
        for j, (x1, y1, x2, y2) in enumerate(found.boxes_xyxy_px):
            if j in matched.values() or abs(y2 - y1) <= 25.0:
                continue
            shares = [
                max(0.0, min(x2, u2) - max(x1, u1)) * max(0.0, min(y2, v2) - max(y1, v1)) / ((x2 - x1) * (y2 - y1))
                for u1, v1, u2, v2 in regions.boxes_xyxy_px
            ]
            result["FP"] += max(shares, default=0.0) <= 0.5
    return result


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(100, 10_000), min_iou=st.sampled_from([0.25, 0.5]))
def test_all_tracks_together_count_as_one_by_one(seed: int, min_iou: float) -> None:
    truth, tracks = scene(seed, objects=6, frames=20)
    tracks = replace(tracks, scores=np.ones(len(tracks)))  # one threshold for all
    best = evaluate({"a": truth}, {"a": tracks}, class_name="car", min_iou=min_iou, as_published=False).best
    got = {"TP": best.matches, "FN": best.misses, "FP": best.false_positives, "IDS": best.id_switches}
    assert got == counted_one_by_one(truth, tracks, min_iou)


# --- what the measures mean ----------------------------------------------------------------------------------------


def straight(names: dict[int, float], frames: range = range(20), **options: Any) -> BoxSequence:
    """Cars by name at their own distance z, that stand still."""
    return sequence(np.array([row(frame, name, z=z, **options) for name, z in names.items() for frame in frames]))


def test_perfect_tracks_reach_every_level_with_nothing_wrong() -> None:
    truth = straight({1: 15.0, 2: 25.0, 3: 35.0, 4: 45.0})
    scores = evaluate({"a": truth}, {"a": replace(truth, scores=truth.ids / 4.0)}, class_name="car")
    values = scores.summary()
    assert [values[key] for key in ("MOTA", "MOTP", "IDS", "FRAG", "FP", "FN", "MT", "ML", "TP")] == pytest.approx(
        [1.0, 1.0, 0, 0, 0, 0, 1.0, 0.0, 80]
    )
    assert len(scores.levels) == LEVELS
    assert values["sAMOTA"] == pytest.approx(1.0)
    assert values["AMOTP"] == pytest.approx(1.0)
    # Ten levels for each of four cars, at which 20, 40, 60 and 80 of 80 are found.
    assert values["AMOTA"] == pytest.approx((0.25 + 0.5 + 0.75 + 1.0) / 4.0)


def test_a_swap_and_a_gap_are_counted_at_the_object() -> None:
    truth = straight({1: 20.0, 2: 40.0})
    ids = np.where((truth.frames >= 10) & (truth.ids == 1), 7, truth.ids)  # a new name from frame 10 on
    kept = ~((truth.ids == 2) & (truth.frames == 5))
    best = evaluate({"a": truth}, {"a": replace(truth, ids=ids).take(kept)}, class_name="car").best
    # The swap is a fragmentation too; so is the return after the gap.
    assert (best.id_switches, best.fragmentations, best.misses, best.false_positives) == (1, 2, 1, 0)
    assert best.mota == pytest.approx(1.0 - 2 / 40)
    assert (best.recall, best.precision) == pytest.approx((39 / 40, 1.0))


def test_a_switch_over_a_gap_or_an_excused_box_is_none() -> None:
    truth = straight({1: 20.0})
    ids = np.where(truth.frames >= 10, 7, 1)
    gap = evaluate({"a": truth}, {"a": replace(truth, ids=ids).take(truth.frames != 10)}, class_name="car").best
    assert (gap.id_switches, gap.fragmentations) == (0, 1)
    hidden = replace(truth, occluded=np.where(truth.frames == 10, 3.0, 0.0))
    excused = evaluate({"a": hidden}, {"a": replace(truth, ids=ids)}, class_name="car").best
    assert (excused.id_switches, excused.excused, excused.truths) == (0, 1, 19)


def test_truth_that_need_not_be_found_is_no_miss_and_a_track_on_it_no_error() -> None:
    for changed in ({"label": VAN}, {"occluded": 3}, {"truncated": 1}):
        rows = [row(0, 1, z=20.0), row(0, 2, z=40.0, **changed)]
        truth = sequence(np.array(rows))
        for tracks in (straight({1: 20.0}, range(1)), straight({1: 20.0, 2: 40.0}, range(1))):
            best = evaluate({"a": truth}, {"a": tracks}, class_name="car").best
            assert (best.misses, best.false_positives, best.mota) == (0, 0, 1.0)
            assert best.matches == len(tracks)


def test_low_boxes_and_boxes_in_regions_that_nobody_labelled_are_no_false_positives() -> None:
    region = [0, -1, REGION, -1, -1, 500, 100, 700, 300, -1, -1, -1, -1000, -1000, -1000, -10, -1]
    truth = sequence(np.array([row(0, 1, x=-15.0, z=20.0), region]))
    extra = {"in a region": row(0, 2, z=30.0), "low": row(0, 2, x=20.0, z=30.0, height_px=25.0)}
    for wrong in (*extra.values(), row(0, 2, x=20.0, z=30.0)):
        tracks = sequence(np.array([row(0, 1, x=-15.0, z=20.0), wrong]))
        best = evaluate({"a": truth}, {"a": tracks}, class_name="car").best
        assert best.false_positives == (0 if wrong in extra.values() else 1)


def test_tracks_of_other_classes_are_not_looked_at() -> None:
    truth = straight({1: 20.0})
    others = straight({5: 30.0}, label=KITTI_CLASSES.index("Pedestrian"))
    assert evaluate({"a": truth}, {"a": others}, class_name="car").best.false_positives == 0
    assert evaluate({"a": truth}, {"a": others}, class_name="pedestrian").best.false_positives == 20


def test_the_image_is_compared_where_it_is_asked_for() -> None:
    truth = straight({1: 20.0})
    lifted = straight({1: 20.0}, y=0.3)
    assert evaluate({"a": truth}, {"a": lifted}, class_name="car").best.matches == 0
    assert evaluate({"a": truth}, {"a": lifted}, class_name="car", min_iou=0.5, in_image=True).best.matches == 20
    flat = replace(truth, boxes_3d=None)
    assert evaluate({"a": flat}, {"a": flat}, class_name="car", in_image=True).best.mota == 1.0


def test_recall_levels_take_the_nearest_score_and_the_lowest_one_level_further() -> None:
    scores = np.arange(20.0)
    levels = recall_levels(scores, 40)  # of 40, 20 are found: recalls 0.025, 0.05, ... 0.5
    assert [level for _, level in levels] == pytest.approx(np.arange(1, 20) / 40)
    assert [threshold for threshold, _ in levels] == list(range(18, -1, -1))
    assert recall_levels(np.zeros(0), 10) == []
    assert recall_levels(np.array([3.0]), 1) == []


def test_sequences_count_together_and_their_names_do_not_matter() -> None:
    both = evaluate_scenes(3, 4)
    swapped = {"x": scene(3), "w": scene(4)}
    renamed = evaluate(
        {name: pair[0] for name, pair in swapped.items()},
        {name: pair[1] for name, pair in reversed(swapped.items())},
        class_name="car",
    )
    assert renamed == both
    alone = [evaluate_scenes(seed, as_published=False).best for seed in (3, 4)]
    assert both.best.truths == sum(one.truths for one in alone)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_without_tracks_or_truth_there_is_nothing_but_misses_or_inventions() -> None:
    truth, nothing = straight({1: 20.0}), sequence(np.zeros((0, 17)))
    missed = [evaluate({"a": truth}, tracks, class_name="car") for tracks in ({}, {"a": nothing})]
    for scores in missed:
        assert (scores.best.misses, scores.best.matches, scores.samota, scores.best.mota) == (20, 0, 0.0, 0.0)
        assert (scores.best.mostly_lost, scores.best.motp) == (1.0, 0.0)
    invented = evaluate({"a": nothing}, {"a": truth}, class_name="car")
    assert (invented.best.false_positives, invented.best.mota, invented.samota) == (20, 0.0, 0.0)
    assert evaluate({}, {}, class_name="car").summary()["MOTA"] == 0.0


def test_one_broken_box_is_a_false_positive_and_no_more() -> None:
    sound = [row(frame, 1) for frame in range(20)]
    broken = [*row(3, 2, x=9.0)[:9], 0.0, -1.0, 4.0, 9.0, 1.7, 20.0, 0.0, 1.0]
    best = evaluate(
        {"a": sequence(np.array(sound))}, {"a": sequence(np.array([*sound, broken]))}, class_name="car"
    ).best
    assert (best.matches, best.false_positives) == (20, 1)


def test_mistakes_are_told_in_one_line() -> None:
    truth = straight({1: 20.0})
    with pytest.raises(UserError, match=r"tracks but no truth of 0007"):
        evaluate({"a": truth}, {"a": truth, "0007": truth}, class_name="car")
    with pytest.raises(UserError, match="no boxes in space"):
        evaluate({"a": truth}, {"a": replace(truth, boxes_3d=None)}, class_name="car")
    twice = sequence(np.array([row(0, 1), row(0, 1, x=9.0)]))
    with pytest.raises(UserError, match="id 1 occurs twice in frame 0"):
        evaluate({"a": truth}, {"a": twice}, class_name="car")
    for wrong in ({"class_name": "Car"}, {"class_name": "car", "min_iou": 0.0}, {"class_name": "car", "min_iou": 2.0}):
        with pytest.raises(ValueError, match="class_name"):
            evaluate({"a": truth}, {"a": truth}, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="occluded and truncated"):
        evaluate({"a": replace(truth, occluded=None)}, {"a": truth}, class_name="car")
