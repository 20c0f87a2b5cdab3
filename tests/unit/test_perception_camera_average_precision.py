"""Average precision: worked by hand, and against a direct transcription of the definition."""

from __future__ import annotations

import numpy as np
import pytest

from perception.average_precision import COCO_IOU_THRESHOLDS, average_precision, iou_matrix
from tercel.core.messages import Detections2D

NAMES = ("a", "b", "c")


def boxes_of(xyxy: object, scores: object = None, labels: object = None) -> Detections2D:
    xyxy_px = np.asarray(xyxy, np.float32).reshape(-1, 4)
    n = len(xyxy_px)
    return Detections2D(
        stamp_ns=0,
        frame_id="camera",
        boxes_xyxy_px=xyxy_px,
        scores=np.ones(n) if scores is None else np.asarray(scores),
        labels=np.zeros(n) if labels is None else np.asarray(labels),
        class_names=NAMES,
    )


def test_right_wrong_right_gives_the_area_worked_by_hand() -> None:
    truth = boxes_of([[0, 0, 10, 10], [50, 50, 60, 60]])
    found = boxes_of([[0, 0, 10, 10], [100, 0, 110, 10], [50, 50, 60, 60]], [0.9, 0.8, 0.7])
    # Precision is 1 up to recall 0.5 (51 of the 101 levels) and 2/3 from there on.
    assert average_precision([found], [truth]).mean == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_an_overlap_counts_only_at_the_thresholds_that_it_reaches() -> None:
    truth = boxes_of([[0, 0, 10, 10]])
    found = boxes_of([[0, 0, 10, 6.2]])  # IoU 0.62: right at 0.5, 0.55 and 0.6
    result = average_precision([found], [truth])
    assert result.ap[0].tolist() == [1.0] * 3 + [0.0] * 7
    assert result.mean_at(0.5) == 1.0
    assert result.mean == pytest.approx(0.3)


def test_a_second_box_on_the_same_object_is_wrong() -> None:
    truth = boxes_of([[0, 0, 10, 10], [50, 50, 60, 60]])
    found = boxes_of([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.8, 0.7])
    assert average_precision([found], [truth]).mean_at(0.5) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_mean_is_over_classes_that_have_a_true_box() -> None:
    truth = boxes_of([[0, 0, 10, 10], [50, 50, 60, 60]], labels=[0, 1])
    found = boxes_of([[0, 0, 10, 10], [0, 0, 9, 9]], labels=[0, 2])
    result = average_precision([found], [truth])
    assert result.at(0.5)[:2].tolist() == [1.0, 0.0]
    assert np.isnan(result.ap[2]).all()
    assert result.mean == 0.5


def test_no_truth_at_all_gives_nan_and_not_a_score() -> None:
    assert np.isnan(average_precision([boxes_of([[0, 0, 1, 1]])], [boxes_of([])]).mean)


def test_at_most_a_hundred_boxes_of_a_class_count_in_an_image() -> None:
    wrong = [[500, 500, 510, 510]] * 100
    truth, scores = boxes_of([[0, 0, 10, 10]]), [0.9] * 100 + [0.8]
    assert average_precision([boxes_of([*wrong, [0, 0, 10, 10]], scores)], [truth]).mean == 0.0
    assert average_precision([boxes_of([*wrong[1:], [0, 0, 10, 10]], scores[1:])], [truth]).mean == pytest.approx(0.01)


def textbook(found: list[Detections2D], truth: list[Detections2D], label: int, limit: float) -> float:
    """The definition, one scalar at a time."""
    everything = [
        (float(score), image, box)
        for image, f in enumerate(found)
        for score, box, kind in zip(f.scores, f.boxes_xyxy_px, f.labels, strict=True)
        if kind == label
    ]
    everything.sort(key=lambda entry: -entry[0])
    used: set[tuple[int, int]] = set()
    total = sum(int((t.labels == label).sum()) for t in truth)
    points, right = [], 0
    for rank, (_, image, box) in enumerate(everything, start=1):
        best, best_iou = None, limit
        for k, (other, kind) in enumerate(zip(truth[image].boxes_xyxy_px, truth[image].labels, strict=True)):
            x, y = min(box[2], other[2]) - max(box[0], other[0]), min(box[3], other[3]) - max(box[1], other[1])
            overlap = max(float(x), 0.0) * max(float(y), 0.0)
            areas = [float((b[2] - b[0]) * (b[3] - b[1])) for b in (box, other)]
            value = overlap / (sum(areas) - overlap)
            if kind == label and (image, k) not in used and value >= best_iou:
                best, best_iou = (image, k), value
        if best is not None:
            used.add(best)
            right += 1
        points.append((right / total, right / rank))
    levels = [max((p for r, p in points if r >= level), default=0.0) for level in np.linspace(0, 1, 101)]
    return float(np.mean(levels))


def test_random_scenes_agree_with_the_textbook() -> None:
    random = np.random.default_rng(3)
    found, truth = [], []
    for _ in range(12):
        n = int(random.integers(1, 7))
        corners = random.uniform(0, 60, (n, 2))
        true = np.concatenate([corners, corners + random.uniform(10, 40, (n, 2))], axis=1)
        labels = random.integers(0, 2, n)
        near = np.repeat(true, 2, axis=0) + random.normal(0, 3, (2 * n, 4))
        truth.append(boxes_of(true, labels=labels))
        found.append(
            boxes_of(near, random.random(2 * n), np.where(random.random(2 * n) < 0.9, np.repeat(labels, 2), 1))
        )
    result = average_precision(found, truth)
    for label in (0, 1):
        expected = [textbook(found, truth, label, limit) for limit in COCO_IOU_THRESHOLDS]
        np.testing.assert_allclose(result.ap[label], expected, atol=1e-12)
    assert 0.2 < result.mean < 0.9


def test_overlap_of_boxes_without_area_is_zero() -> None:
    assert iou_matrix(np.zeros((1, 4)), np.zeros((2, 4))).tolist() == [[0.0, 0.0]]
    assert iou_matrix(np.zeros((0, 4)), np.zeros((2, 4))).shape == (0, 2)


def test_unequal_inputs_are_a_programmers_error() -> None:
    with pytest.raises(ValueError, match="equal numbers"):
        average_precision([], [boxes_of([])])
    with pytest.raises(ValueError, match="label"):
        average_precision([boxes_of([[0, 0, 1, 1]], labels=[3])], [boxes_of([])])
