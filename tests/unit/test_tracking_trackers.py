from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Detections2D, Tracks2D
from tests.benchmarks.peers.streams import simulated_stream
from tests.unit.test_tracking_tracker import check_account
from tracking.components import Tracker2D
from tracking.files import detections_2d
from tracking.image_motion import ImageMotion
from tracking.presets import TRACKERS_2D, make_tracker_2d
from tracking.screening import Outcome
from tracking.tracker import Tracker

Array = np.ndarray[Any, Any]
MS = 1_000_000
PERIOD_MS = 40
CLASSES = ("person", "car")
EVERY_TRACKER = pytest.mark.parametrize("name", TRACKERS_2D)


def boxes(stamp_ms: float, corners: Any, scores: Any = 0.9, labels: Any = 0) -> Detections2D:
    corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4)
    return Detections2D(
        stamp_ns=round(stamp_ms * MS),
        frame_id="camera",
        boxes_xyxy_px=corners,
        scores=np.broadcast_to(scores, len(corners)),
        labels=np.broadcast_to(labels, len(corners)),
        class_names=CLASSES,
    )


def component(name: str, **changed: Any) -> Tracker2D:
    return make_tracker_2d(name, frame_period_s=PERIOD_MS / 1000, **changed)


def tracker_of(name: str, class_aware: bool, max_age_frames: int) -> Tracker:
    """A tracker whose parts can be looked at. The age limit is so many frames for all."""
    config = TRACKERS_2D[name][1]
    changed: dict[str, Any] = {"max_age_frames": max_age_frames, "frame_period_s": PERIOD_MS / 1000}
    if name == "tercel":
        changed = {"max_age_s": (max_age_frames + 1.5) * PERIOD_MS / 1000, "start_score": 0.3, "coast_s": 0.05}
    return config(class_aware=class_aware, **changed).assemble()


def run(tracker: Tracker2D, messages: Iterable[Detections2D]) -> list[Tracks2D]:
    outputs = [tracker.step(message)["tracks"] for message in messages]
    assert all(isinstance(output, Tracks2D) for output in outputs)
    return outputs  # type: ignore[return-value]


def as_bytes(tracks: Tracks2D) -> bytes:
    parts = (tracks.ids, tracks.boxes_xyxy_px, tracks.velocities_px_per_s, tracks.covariances, tracks.scores)
    return b"".join(np.ascontiguousarray(part).tobytes() for part in (*parts, tracks.labels, tracks.unseen_s))


def walk(rng: np.random.Generator, count: int, frames: int) -> Array:
    """Corners (frames, count, 4) of boxes that drift through the picture, far enough apart not to be mixed up."""
    start = 150.0 * np.stack(np.divmod(np.arange(count), 4), axis=1)
    velocity = rng.uniform(-1.5, 1.5, (count, 2))
    corner = start + velocity * np.arange(frames)[:, None, None]
    return np.concatenate([corner, corner + rng.uniform(50, 100, (count, 2))], axis=2)


# --- every detection is accounted for ------------------------------------------------------------------------------


def damaged(rng: np.random.Generator, steps: int, longest_s: float) -> Iterator[Detections2D]:
    """Things that move, are missed, found twice and taken for another class, at irregular times, with numbers broken in
    every way that a float32 can be."""
    count = int(rng.integers(1, 8))
    places, sizes = rng.uniform(0, 300, (count, 2)), rng.uniform(20, 80, (count, 2))
    classes, velocity, stamp_ns = rng.integers(0, 2, count), rng.normal(0, 60, (count, 2)), int(rng.integers(-5, 5))
    for _ in range(steps):
        dt_s = rng.choice([0.04, rng.uniform(1e-9, 0.2), rng.uniform(1e-3, longest_s)], p=[0.6, 0.3, 0.1])
        stamp_ns += max(1, int(dt_s * 1e9))
        places += velocity * min(float(dt_s), 0.2)
        rows = np.flatnonzero(rng.random(count) < rng.choice([0.0, 0.9, 1.0], p=[0.1, 0.8, 0.1]))
        rows = np.concatenate([rows, rng.choice(rows, rng.integers(0, 3)) if len(rows) else rows])
        corner = places[rows] + rng.normal(0, 2, (len(rows), 2))
        corners = np.hstack([corner, corner + sizes[rows]])
        hit = rng.random(corners.shape) < 0.02
        corners[hit] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -1e4, 3e38, 1e6], int(hit.sum()))
        same = rng.integers(0, max(len(rows), 1), len(rows) // 3)
        scores, labels = rng.uniform(-0.05, 1.0, len(rows)), classes[rows] + (rng.random(len(rows)) < 0.05)
        labels[rng.random(len(rows)) < 0.02] = -1
        scores[rng.random(len(rows)) < 0.03] = rng.choice([np.nan, np.inf])
        scores = np.concatenate([scores, np.where(rng.random(len(same)) < 0.5, scores[same], 0.5)])
        yield boxes(stamp_ns / MS, np.vstack([corners, corners[same]]), scores, np.concatenate([labels, labels[same]]))


def fault(box: list[float], score: float, label: int, min_score: float) -> Outcome | None:
    """What is wrong with one detection by itself, in plain words."""
    x1, y1, x2, y2 = box
    numbers = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    if not np.isfinite([*numbers, score]).all():
        return Outcome.NOT_FINITE
    if max(map(abs, numbers)) > 1e6:
        return Outcome.OUT_OF_RANGE
    if not (x2 > x1 and y2 > y1):
        return Outcome.NO_SIZE
    if label not in range(len(CLASSES)):
        return Outcome.UNKNOWN_LABEL
    return Outcome.LOW_SCORE if score < min_score else None


def check_reasons(detections: Detections2D, outcomes: list[int], min_score: float, start_score: float) -> None:
    """Each rejection has the reason that its detection gives; of equal boxes one with the best score is used."""
    equal = defaultdict(list)
    rows = zip(detections.boxes_xyxy_px.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    for (box, score, label), outcome in zip(rows, outcomes, strict=True):
        reason = fault(box, score, label, min_score)
        if reason:
            assert outcome == reason
            continue
        assert outcome <= Outcome.TENTATIVE or outcome in (Outcome.TOO_WEAK_TO_START, Outcome.DUPLICATE)
        assert outcome != Outcome.NEW or score >= start_score
        assert outcome != Outcome.TOO_WEAK_TO_START or score < start_score
        equal[(*box, label)].append((outcome == Outcome.DUPLICATE, score))
    for group in equal.values():
        used = [score for repeated, score in group if not repeated]
        assert used == [max(score for _, score in group)]


@EVERY_TRACKER
@given(
    seed=st.integers(0, 2**31),
    class_aware=st.booleans(),
    max_age_frames=st.sampled_from([1, 30, 3000]),
    longest_s=st.sampled_from([0.2, 60.0, 4000.0]),
)
@settings(max_examples=25, deadline=None)
def test_every_detection_of_a_damaged_stream_is_accounted_for_once(
    name: str, seed: int, class_aware: bool, max_age_frames: int, longest_s: float
) -> None:
    tracker = tracker_of(name, class_aware, max_age_frames)
    motion, table, given_ids, total = tracker.motion, tracker.table, set(), 0
    assert isinstance(motion, ImageMotion)
    for detections in damaged(np.random.default_rng(seed), 30, longest_s):
        ids_before = table.ids.tolist()
        step = tracker.step(ImageMotion.observe(detections))
        table, total = tracker.table, total + len(detections.scores)
        check_account(tracker, step, len(detections.scores), ids_before)
        config = tracker.config
        check_reasons(detections, step.outcomes.tolist(), config.min_score, config.start_score)
        started = set(step.track_ids[step.outcomes == Outcome.NEW].tolist())
        assert not started & given_ids
        given_ids |= started
        confirmed = dict(zip(table.ids.tolist(), table.confirmed.tolist(), strict=True))
        for outcome, track in zip(step.outcomes.tolist(), step.track_ids.tolist(), strict=True):
            assert outcome not in (Outcome.MATCHED, Outcome.TENTATIVE) or confirmed[track] == (outcome == 0)
        assert motion.state.shape[2] == motion.seen_boxes.shape[1] == len(table)
        assert not len(motion.memory) or motion.memory.shape[2] == len(table)
        assert np.isfinite(motion.state).all()
        assert (motion.state[2] > 0.0).all()
        assert (motion.state[4] >= 0.0).all()
        shown = tracker.reported()
        assert all(confirmed[track] for track in table.ids[shown].tolist())
        corners = motion.shown_xyxy_px(shown)
        assert np.isfinite(corners).all()
        assert (corners[:, 2:] > corners[:, :2]).all()
    counted = tracker.counters()
    assert counted.pop("detections") == sum(counted.values()) == total


@EVERY_TRACKER
def test_each_fault_is_named_and_the_sound_detection_beside_it_is_tracked(name: str) -> None:
    tracker = component(name)
    sound = [10.0, 10.0, 60.0, 110.0]
    faults = {
        Outcome.NO_SIZE: ([60, 10, 60, 110], 0.9, 0),
        Outcome.NOT_FINITE: (sound, np.nan, 0),
        Outcome.DUPLICATE: (sound, 0.85, 0),
        Outcome.UNKNOWN_LABEL: (sound, 0.9, 2),
        Outcome.OUT_OF_RANGE: ([0, 0, 2e7, 10], 0.9, 0),
    }
    corners, scores, labels = (list(column) for column in zip(*faults.values(), strict=True))
    for frame in range(5):
        tracks = run(tracker, [boxes(PERIOD_MS * frame, [*corners, sound], [*scores, 0.9], [*labels, 0])])[0]
        assert tracker.last_step is not None
        assert [Outcome(value) for value in tracker.last_step.outcomes[:-1]] == list(faults)
        assert tracker.last_step.track_ids.tolist() == [-1] * 5 + [1]
    assert tracks.ids.tolist() == [1]
    assert np.isfinite(tracks.boxes_xyxy_px).all()


@EVERY_TRACKER
def test_a_box_turned_inside_out_is_no_box(name: str) -> None:
    tracker = component(name)
    run(tracker, [boxes(0, [[60, 110, 10, 10], [10, 10, 60, 110]])])
    assert tracker.last_step is not None
    assert tracker.last_step.outcomes.tolist() == [Outcome.NO_SIZE, Outcome.NEW]


@EVERY_TRACKER
def test_empty_frames_say_so_and_tracks_go_on_after_one(name: str) -> None:
    tracker = component(name)
    path = walk(np.random.default_rng(0), 3, 12)
    outputs = run(
        tracker,
        [boxes(PERIOD_MS * frame, path[frame] if frame not in (0, 5) else []) for frame in range(12)],
    )
    assert [len(outputs[frame].ids) for frame in (0, 5, 11)] == [0, 0, 3]
    assert outputs[0].boxes_xyxy_px.shape == (0, 4)
    assert outputs[0].covariances is not None
    assert outputs[0].covariances.shape == (0, 4, 4)
    assert outputs[11].ids.tolist() == [1, 2, 3]


@EVERY_TRACKER
def test_five_thousand_boxes_in_a_frame_and_again_take_bounded_time(name: str) -> None:
    """In a picture of 3840 x 2160 px each overlaps a dozen others. The limit is many times what it takes."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, [3840, 2160], (5000, 2))
    corners = np.hstack([corner, corner + rng.uniform([5, 10], [30, 60], (5000, 2))])
    tracker, matched = component(name), 0
    for frame in range(3):
        seen = boxes(PERIOD_MS * frame, corners + rng.normal(0, 0.5, corners.shape), rng.uniform(0.75, 1.0, 5000))
        begin = time.perf_counter()
        tracker.step(seen)
        assert time.perf_counter() - begin < 5.0
        assert tracker.last_step is not None
        matched = int(np.isin(tracker.last_step.outcomes, [Outcome.MATCHED, Outcome.TENTATIVE]).sum())
    assert matched > 4800


# --- the same again ------------------------------------------------------------------------------------------------


@EVERY_TRACKER
def test_two_runs_are_equal_to_the_last_byte(name: str) -> None:
    def once() -> list[bytes]:
        return [as_bytes(tracks) for tracks in run(component(name), damaged(np.random.default_rng(7), 80, 1.0))]

    assert once() == once()


@EVERY_TRACKER
def test_the_order_of_the_detections_changes_nothing_but_the_names_of_new_tracks(name: str) -> None:
    rng, stream = np.random.default_rng(1), simulated_stream(25, 60, seed=3)
    plain, shuffled = component(name), component(name)
    names: dict[int, int] = {}
    for message in detections_2d(stream.detections, stream.frames, 25.0):
        order = rng.permutation(len(message.scores))
        again = Detections2D(
            stamp_ns=message.stamp_ns, frame_id="camera", class_names=message.class_names,
            boxes_xyxy_px=message.boxes_xyxy_px[order], scores=message.scores[order], labels=message.labels[order],
        )  # fmt: skip
        first, second = run(plain, [message])[0], run(shuffled, [again])[0]
        assert plain.last_step is not None
        assert shuffled.last_step is not None
        assert plain.last_step.outcomes[order].tolist() == shuffled.last_step.outcomes.tolist()
        for a, b in zip(plain.last_step.track_ids[order].tolist(), shuffled.last_step.track_ids.tolist(), strict=True):
            assert names.setdefault(a, b) == b
        renamed = [names[track] for track in first.ids.tolist()]
        places = [second.ids.tolist().index(track) for track in renamed]
        assert len(first.ids) == len(second.ids)
        np.testing.assert_allclose(first.boxes_xyxy_px, second.boxes_xyxy_px[places], rtol=1e-6, atol=1e-3)
    assert len(set(names.values())) == len(names) > 25


# --- time ----------------------------------------------------------------------------------------------------------


@EVERY_TRACKER
def test_irregular_frames_are_taken_as_they_come(name: str) -> None:
    """Between 5 and 70 ms apart, at a rate of 25 Hz: ids hold, and speeds are per second."""
    rng = np.random.default_rng(2)
    stamps_ms = np.cumsum(rng.uniform(5, 70, 60))
    velocity = np.array([80.0, -30.0])  # px / s
    tracker = component(name)
    for stamp in stamps_ms:
        there = np.array([100.0, 400.0, 150.0, 490.0]) + np.tile(velocity * stamp / 1000, 2)
        tracks = run(tracker, [boxes(stamp, there)])[0]
    assert tracks.ids.tolist() == [1]
    np.testing.assert_allclose(tracks.velocities_px_per_s, [velocity], atol=4.0)
    np.testing.assert_allclose(tracks.boxes_xyxy_px, [there], atol=0.5)


@EVERY_TRACKER
def test_a_stamp_that_is_not_later_is_rejected_and_changes_nothing(name: str) -> None:
    tracker, untouched = component(name), component(name)
    path = walk(np.random.default_rng(3), 6, 12)
    for frame in range(12):
        run(untouched, [boxes(PERIOD_MS * frame, path[frame])])
        run(tracker, [boxes(PERIOD_MS * frame, path[frame])])
        account = tracker.last_step
        for stamp_ms in (PERIOD_MS * frame, PERIOD_MS * frame - 1, -3_600_000):
            with pytest.raises(Rejected, match="stamp not after"):
                tracker.step(boxes(stamp_ms, path[0]))
        assert tracker.last_step is account
    last = boxes(PERIOD_MS * 12, path[11])
    assert as_bytes(run(tracker, [last])[0]) == as_bytes(run(untouched, [last])[0])
    assert tracker.counters() == untouched.counters()


@EVERY_TRACKER
@pytest.mark.parametrize("gap_ms", [60_000, 3_600_000], ids=["a gap of a minute", "a clock step of an hour"])
def test_after_a_long_gap_all_tracks_are_new_and_are_tracked_as_the_old_ones_were(name: str, gap_ms: int) -> None:
    tracker = component(name)
    path = walk(np.random.default_rng(4), 5, 10)
    before = run(tracker, [boxes(PERIOD_MS * frame, path[frame]) for frame in range(10)])
    assert before[-1].ids.tolist() == [1, 2, 3, 4, 5]
    after = run(tracker, [boxes(gap_ms, path[0])])
    assert tracker.last_step is not None
    assert tracker.last_step.outcomes.tolist() == [Outcome.NEW] * 5
    assert tracker.last_step.forgotten_ids.tolist() == [1, 2, 3, 4, 5]
    after += run(tracker, [boxes(gap_ms + PERIOD_MS * frame, path[frame]) for frame in range(1, 10)])
    assert after[-1].ids.tolist() == [6, 7, 8, 9, 10]
    np.testing.assert_array_equal(after[-1].boxes_xyxy_px, before[-1].boxes_xyxy_px)
    np.testing.assert_allclose(after[-1].ages_s, 0.36, rtol=1e-6)


# --- by name -------------------------------------------------------------------------------------------------------


def test_an_unknown_tracker_or_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="bytetrack"):
        make_tracker_2d("byte_track")
    with pytest.raises(UserError, match="max_age_frames"):
        make_tracker_2d("sort", max_age=3)
    with pytest.raises(UserError, match="has no setting 'frame_period'"):
        make_tracker_2d("tercel", frame_period=0.04)


@pytest.mark.parametrize("name", ["sort", "bytetrack", "ocsort"])
@pytest.mark.parametrize(
    ("changed", "range_said"),
    [
        ({"frame_period_s": 0.0}, "from 0.0001 to 60"),
        ({"frame_period_s": float("nan")}, "from 0.0001 to 60"),
        ({"max_age_frames": -1}, "0 or more"),
    ],
)
def test_a_rate_or_age_that_means_nothing_is_refused(name: str, changed: dict[str, Any], range_said: str) -> None:
    with pytest.raises(ValueError, match=range_said):
        TRACKERS_2D[name][1](**changed)
