"""Heads: recognised by shapes, decoded back to the boxes that were written into them; and suppression."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perception.coco import COCO_CLASSES
from perception.decoders import Boxes, decode, suppress, usable
from perception.detector_spec import detector_spec
from perception.model_spec import STRIDES_PX, ModelSpec
from tercel.core.errors import Rejected, UserError

HEIGHT, WIDTH, CLASSES = 64, 96, 5
CELLS = [(HEIGHT // s) * (WIDTH // s) for s in STRIDES_PX]
NAMES = tuple("abcde")


def spec_of(*output_shapes: tuple[int, ...]) -> ModelSpec:
    return detector_spec((1, 3, HEIGHT, WIDTH), output_shapes, class_names=NAMES)


def yolox_spec() -> ModelSpec:
    return spec_of((1, sum(CELLS), 5 + CLASSES))


def nanodet_spec() -> ModelSpec:
    return spec_of(*[(1, n, CLASSES) for n in CELLS], *[(1, n, 32) for n in CELLS])


def test_coco_has_its_80_classes() -> None:
    assert len(set(COCO_CLASSES)) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[2], COCO_CLASSES[79]) == ("person", "car", "toothbrush")


@pytest.mark.parametrize(
    ("shapes", "head", "classes"),
    [
        ([(1, 3549, 85)], "yolox", 80),
        ([(1, 3549, 6)], "yolox", 1),
        ([(2704, 80), (676, 80), (169, 80), (2704, 32), (676, 32), (169, 32)], "nanodet", 80),
        ([(1, 169, 32), (1, 2704, 3), (1, 676, 3), (1, 169, 3), (1, 2704, 32), (1, 676, 32)], "nanodet", 3),
        ([(2704, 32), (676, 32), (169, 32), (2704, 32), (676, 32), (169, 32)], "nanodet", 32),
        ([(1, 85, 26, 26)], "fastestdet", 80),
    ],
)
def test_a_head_is_recognised_by_its_output_shapes(shapes: list[tuple[int, ...]], head: str, classes: int) -> None:
    spec = detector_spec((1, 3, 416, 416), shapes)
    assert (spec.head, len(spec.class_names)) == (head, classes)
    assert spec.class_names[0] == ("person" if classes == 80 else "class_0")


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [(1, 1000)],
        [(1, 3548, 85)],
        [(1, 3549, 5)],
        [(1, 84, 8400)],
        [(2704, 80), (676, 80), (169, 80), (2704, 32), (676, 32), (169, 31)],
        [(2704, 80), (676, 80), (169, 79), (2704, 32), (676, 32), (169, 32)],
        [(2704, 80)] * 6,
    ],
)
def test_an_unknown_head_is_one_line_that_says_what_was_seen(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(UserError, match=r"^my\.onnx: outputs .* no head known here") as caught:
        detector_spec((1, 3, 416, 416), shapes, where="my.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 1, 416, 416), "1 channels"),
        ((1, 416, 416, 4), "416 channels"),
        ((2, 3, 416, 416), "not one image"),
        ((1, 3), "not one image"),
        ((1, 3, 0, 416), "0x416"),
        ((1, 3, 100000, 416), "100000x416"),
    ],
)
def test_an_input_that_is_no_colour_image_is_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        detector_spec(shape, [(1, 3549, 85)])


def test_a_wrong_number_of_class_names_is_refused() -> None:
    with pytest.raises(UserError, match="2 class names given, but the model has 80"):
        detector_spec((1, 3, 416, 416), [(1, 3549, 85)], class_names=("a", "b"))


def yolox_output(placed: list[tuple[int, float, float, float, float, int, float]]) -> np.ndarray:
    """(level, cx, cy, w, h, label, score), written cell by cell with the formulas of YOLOX turned round."""
    output = np.zeros((1, sum(CELLS), 5 + CLASSES), np.float32)
    for level, cx, cy, w, h, label, score in placed:
        stride = STRIDES_PX[level]
        column, row = int(cx // stride), int(cy // stride)
        cell = output[0, sum(CELLS[:level]) + row * (WIDTH // stride) + column]
        cell[:4] = cx / stride - column, cy / stride - row, np.log(w / stride), np.log(h / stride)
        cell[4], cell[5 + label] = score, 1.0
    return output


def test_yolox_boxes_come_back_from_every_stride() -> None:
    output = yolox_output([(0, 20.5, 30.25, 10, 6, 3, 0.75), (1, 70, 40, 30, 50, 0, 0.5), (2, 50, 33, 60, 20, 4, 0.25)])
    boxes = decode(yolox_spec(), [output], 0.2)
    expected = np.array([[15.5, 27.25, 25.5, 33.25], [55, 15, 85, 65], [20, 23, 80, 43]])
    np.testing.assert_allclose(boxes.xyxy_px, expected, atol=1e-4)
    assert boxes.labels.tolist() == [3, 0, 4]
    np.testing.assert_allclose(boxes.scores, [0.75, 0.5, 0.25])
    assert decode(yolox_spec(), [output], 0.4).labels.tolist() == [3, 0]


def test_nanodet_sides_are_expectations_from_the_cells_middle() -> None:
    spec = nanodet_spec()
    scores = [np.zeros((1, n, CLASSES), np.float32) for n in CELLS]
    sides = [np.zeros((1, n, 32), np.float32) for n in CELLS]
    row, column, stride = 2, 3, STRIDES_PX[1]
    cell = row * (WIDTH // stride) + column
    scores[1][0, cell, 2] = 0.6
    logits = sides[1][0, cell].reshape(4, 8)
    logits[:] = -50.0
    logits[[0, 1, 2], [1, 2, 0]] = 50.0  # left 1, top 2, right 0 strides
    logits[3, [2, 3]] = 50.0  # bottom: half 2, half 3
    boxes = decode(spec, [*scores, *sides], 0.5)
    x, y = column * stride + 7.5, row * stride + 7.5
    np.testing.assert_allclose(boxes.xyxy_px, [[x - 16, y - 32, x, y + 40]], atol=1e-4)
    assert boxes.labels.tolist() == [2]
    shuffled = decode(spec, [sides[2], scores[1], sides[0], scores[0], sides[1], scores[2]], 0.5)
    assert np.array_equal(shuffled.xyxy_px, boxes.xyxy_px)


def test_fastestdet_scores_and_boxes_follow_its_formulas() -> None:
    output = np.zeros((1, 5 + CLASSES, HEIGHT // 16, WIDTH // 16), np.float32)
    output[0, :, 1, 2] = [0.5, 0.3, -0.2, -1.0, 0.5, 0, 0.8, 0, 0, 0]
    boxes = decode(spec_of(output.shape), [output], 0.1)
    w, h = WIDTH / (1 + np.exp(1.0)), HEIGHT / (1 + np.exp(-0.5))
    cx, cy = (2 + np.tanh(0.3)) * 16, (1 + np.tanh(-0.2)) * 16
    np.testing.assert_allclose(boxes.xyxy_px, [[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]], rtol=1e-5)
    np.testing.assert_allclose(boxes.scores, [0.5**0.6 * 0.8**0.4], rtol=1e-6)
    assert boxes.labels.tolist() == [1]


def test_a_cell_gives_its_best_class_or_on_request_all_of_them() -> None:
    output = yolox_output([(0, 20, 30, 10, 6, 3, 0.8)])
    output[output[..., 4] > 0, 5 + 1] = 0.9
    assert decode(yolox_spec(), [output], 0.3).labels.tolist() == [3]
    assert sorted(decode(yolox_spec(), [output], 0.3, multi_label=True).labels.tolist()) == [1, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_rejected(bad: float) -> None:
    output = yolox_output([(0, 20, 30, 10, 6, 3, 0.8)])
    output[0, 7, 6] = bad
    with pytest.raises(Rejected, match="not finite"):
        decode(yolox_spec(), [output], 0.3)


@pytest.mark.parametrize("shape", [(1, 5, 10), (sum(CELLS), 10), (1, sum(CELLS), 9), (1, 0, 10)])
def test_an_output_of_the_wrong_shape_is_rejected(shape: tuple[int, ...]) -> None:
    for spec in (yolox_spec(), nanodet_spec(), spec_of((1, 10, 4, 6))):
        with pytest.raises(Rejected, match="wrong shape"):
            decode(spec, [np.zeros(shape, np.float32)], 0.3)
        with pytest.raises(Rejected, match="wrong shape"):
            decode(spec, [], 0.3)


def test_a_runaway_box_size_is_dropped() -> None:
    output = yolox_output([(0, 20, 30, 10, 6, 3, 0.8), (0, 50, 30, 10, 6, 2, 0.8)])
    output[0, output[0, :, 5 + 3] > 0, 2] = 500.0  # exp(500) overflows
    assert usable(decode(yolox_spec(), [output], 0.3)).labels.tolist() == [2]


def test_boxes_without_area_are_dropped() -> None:
    xyxy = np.array([[0, 0, 1, 1], [5, 5, 5, 9], [9, 9, 8, 12], [0, np.nan, 1, 1]], np.float32)
    boxes = Boxes(xyxy, np.ones(4, np.float32), np.arange(4, dtype=np.int32))
    assert usable(boxes).labels.tolist() == [0]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    overlap = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return float(overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap))


@given(
    corners=hnp.arrays(np.int32, st.tuples(st.integers(0, 25), st.just(2)), elements=st.integers(0, 30)),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60)
def test_suppression_equals_the_textbook_loop(corners: np.ndarray, seed: int) -> None:
    random = np.random.default_rng(seed)
    n = len(corners)
    xyxy = np.concatenate([corners, corners + random.integers(5, 25, (n, 2))], axis=1).astype(np.float32)
    scores = random.permutation(n).astype(np.float32) / max(n, 1) + np.float32(0.001)
    labels = random.integers(0, 2, n).astype(np.int32)
    threshold = 0.4031  # no two such integer boxes overlap by exactly this
    kept: list[int] = []
    for index in np.argsort(-scores):
        if all(labels[k] != labels[index] or iou(xyxy[k], xyxy[index]) <= threshold for k in kept):
            kept.append(int(index))
    result = suppress(Boxes(xyxy, scores, labels), threshold, 300)
    assert np.array_equal(result.xyxy_px, xyxy[kept])
    assert np.array_equal(result.labels, labels[kept])
    assert np.array_equal(suppress(Boxes(xyxy, scores, labels), threshold, 3).scores, scores[kept][:3])
