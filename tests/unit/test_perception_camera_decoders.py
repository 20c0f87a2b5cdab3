"""Heads: recognised by shapes, decoded back to the boxes that were written into them; and suppression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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

HEIGHT, WIDTH, CLASSES = 128, 192, 5
CELLS = [(HEIGHT // s) * (WIDTH // s) for s in STRIDES_PX]
NAMES = tuple("abcde")


def spec_of(*output_shapes: tuple[int, ...], names: tuple[str, ...] = ()) -> ModelSpec:
    return detector_spec((1, 3, HEIGHT, WIDTH), output_shapes, output_names=names, class_names=NAMES)


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
    for spec in (yolox_spec(), nanodet_spec(), spec_of((1, 10, 8, 12))):
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


# --- every head gives back the boxes that an encoder of its own, with the formulas turned round, wrote into it ---

Row = tuple[float, float, float, float, int, float]
"""cx, cy, w, h in input pixels, label, score."""
Encoder = Callable[[list[Row], int, int], list[np.ndarray]]


def logit(p: float | np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return np.log(p / (1 - p))


def xyxy_of(rows: list[Row]) -> np.ndarray:
    cx, cy, w, h = np.array([row[:4] for row in rows]).reshape(-1, 4).T
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)


def rows_of_yolov5(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    output = np.zeros((1, 3 * sum(CELLS), 5 + CLASSES), np.float32)
    for index, (cx, cy, w, h, label, score) in enumerate(rows):
        output[0, 7 * index, :5] = cx, cy, w, h, np.sqrt(score)
        output[0, 7 * index, 5 + label] = np.sqrt(score)
    return [output]


def columns_of_yolov8(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    output = np.zeros((1, 4 + CLASSES, sum(CELLS)), np.float32)
    for index, (cx, cy, w, h, label, score) in enumerate(rows):
        output[0, :4, 2 * index] = cx, cy, w, h
        output[0, 4 + label, 2 * index] = score
    return [output]


def rows_end_to_end(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    output = np.zeros((1, 300, 6), np.float32)
    output[0, : len(rows), :4] = xyxy_of(rows)
    output[0, : len(rows), 4:] = [(score, label) for *_, label, score in rows]
    return [output]


def rows_of_yolov7_with_nms(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    output = np.zeros((len(rows), 7), np.float32)
    output[:, 1:5] = xyxy_of(rows)
    output[:, 5:] = [(label, score) for *_, label, score in rows]
    return [output]


def unit_centres(rows: list[Row], height: int, width: int) -> np.ndarray:
    return np.array([row[:4] for row in rows]) / [width, height, width, height]


def rows_of_rtdetr(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    output = np.zeros((1, 300, 4 + CLASSES), np.float32)
    output[0, : len(rows), :4] = unit_centres(rows, height, width)
    for index, (*_, label, score) in enumerate(rows):
        output[0, index, 4 + label] = score
    return [output]


def logits_of_rtdetr(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    logits, boxes = np.full((1, 300, CLASSES), -30.0, np.float32), np.zeros((1, 300, 4), np.float32)
    boxes[0, : len(rows)] = unit_centres(rows, height, width)
    for index, (*_, label, score) in enumerate(rows):
        logits[0, index, label] = logit(score)
    return [logits, boxes]


def boxes_and_scores_of_ssd(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    scores, boxes = np.zeros((1, 1234, 1 + CLASSES), np.float32), np.zeros((1, 1234, 4), np.float32)
    scores[0, :, 0] = 1.0
    boxes[0, : len(rows)] = xyxy_of(rows) / [width, height, width, height]
    for index, (*_, label, score) in enumerate(rows):
        scores[0, index, [0, 1 + label]] = 1.0 - score, score
    return [scores, boxes]


def detections_of_tensorflow(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    boxes, labels, scores = np.zeros((1, 100, 4)), np.ones((1, 100)), np.full((1, 100), 0.99)
    boxes[0, : len(rows)] = (xyxy_of(rows) / [width, height, width, height])[:, [1, 0, 3, 2]]
    labels[0, : len(rows)] = [1 + label for *_, label, _ in rows]
    scores[0, : len(rows)] = [score for *_, score in rows]
    return [array.astype(np.float32) for array in (boxes, labels, scores, np.array([len(rows)]))]


def detections_of_torchvision(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    labels = np.array([1 + label for *_, label, _ in rows], np.int64)
    return [xyxy_of(rows).astype(np.float32), labels, np.array([score for *_, score in rows], np.float32)]


def placed(rows: list[Row], width: int, strides: tuple[int, ...]) -> list[tuple[Row, int, int, int, int]]:
    """Each row with the level that suits its size, column and row of the cell it falls into, and that cell's index."""
    cells = []
    for row in rows:
        level = max(0, sum(2.1 * stride <= min(row[2:4]) for stride in strides) - 1)
        column, line = int(row[0] // strides[level]), int(row[1] // strides[level])
        cells.append((row, level, column, line, line * -(-width // strides[level]) + column))
    return cells


def rows_of_yolox(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    output = np.zeros((1, sum(CELLS), 5 + CLASSES), np.float32)
    for (cx, cy, w, h, label, score), level, column, line, cell in placed(rows, width, STRIDES_PX):
        stride, target = STRIDES_PX[level], output[0, sum(CELLS[:level]) + cell]
        target[:5] = cx / stride - column, cy / stride - line, np.log(w / stride), np.log(h / stride), score
        target[5 + label] = 1.0
    return [output]


def side_logits(point: tuple[float, float], row: Row, stride: int) -> np.ndarray:
    """(32,): of each side's distance in strides, shared by the two bins next to it."""
    x1, y1, x2, y2 = xyxy_of([row])[0]
    distances = np.array([point[0] - x1, point[1] - y1, x2 - point[0], y2 - point[1]]) / stride
    shares = np.maximum(1.0 - np.abs(distances[:, None] - np.arange(8)), 1e-30)
    return np.log(shares).ravel()


def maps_of_nanodet(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    scores = [np.zeros((1, n, CLASSES), np.float32) for n in CELLS]
    sides = [np.zeros((1, n, 32), np.float32) for n in CELLS]
    for row, level, column, line, cell in placed(rows, width, STRIDES_PX):
        stride = STRIDES_PX[level]
        middle = (column * stride + (stride - 1) / 2, line * stride + (stride - 1) / 2)
        scores[level][0, cell, row[4]] = row[5]
        sides[level][0, cell] = side_logits(middle, row, stride)
    return [*scores, *sides]


def rows_of_nanodet_plus(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    counts = [-(-height // s) * -(-width // s) for s in (8, 16, 32, 64)]
    output = np.zeros((1, sum(counts), CLASSES + 32), np.float32)
    for row, level, column, line, cell in placed(rows, width, (8, 16, 32, 64)):
        stride, target = (8, 16, 32, 64)[level], output[0, sum(counts[:level]) + cell]
        target[row[4]] = row[5]
        target[CLASSES:] = side_logits((column * stride, line * stride), row, stride)
    return [output]


def map_of_fastestdet(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    output = np.zeros((1, 5 + CLASSES, height // 16, width // 16), np.float32)
    output[0, 0] = 1e-6
    for (cx, cy, w, h, label, score), _, column, line, _ in placed(rows, width, (16,)):
        target = output[0, :, line, column]
        target[:5] = (
            score,
            np.arctanh(cx / 16 - column),
            np.arctanh(cy / 16 - line),
            logit(w / width),
            logit(h / height),
        )
        target[5 + label] = score
    return [output]


ANCHORS_PX = [[(12.64, 19.39), (37.88, 51.48), (55.71, 138.31)], [(126.91, 78.23), (131.57, 214.55), (279.92, 258.87)]]


def maps_of_yolo_fastestv2(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    """Raw: box, objectness and class maps of strides 16 and 32."""
    maps = []
    for stride in (16, 32):
        maps += [np.full((1, depth, height // stride, width // stride), -9.0, np.float32) for depth in (12, 3, CLASSES)]
    for (cx, cy, w, h, label, score), level, column, line, _ in placed(rows, width, (16, 32)):
        boxes, objectness, classes = (array[0, :, line, column] for array in maps[3 * level : 3 * level + 3])
        anchor, stride = int(np.argmin([abs(np.log(w * h / (a * b))) for a, b in ANCHORS_PX[level]])), (16, 32)[level]
        ratios = np.sqrt(np.array([w, h]) / ANCHORS_PX[level][anchor]) / 2
        offsets = (np.array([cx, cy]) / stride - [column, line] + 0.5) / 2
        boxes[4 * anchor : 4 * anchor + 4] = logit(np.concatenate([offsets, ratios]))
        objectness[anchor] = logit(score)
        classes[label] = 30.0
    return maps


def finished_maps_of_yolo_fastestv2(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    """As its own exporter writes them: sigmoid and softmax applied, channels last."""
    raw, finished = maps_of_yolo_fastestv2(rows, height, width), []
    for boxes, objectness, classes in (raw[:3], raw[3:]):
        shares = np.exp(classes) / np.exp(classes).sum(axis=1, keepdims=True)
        parts = [1 / (1 + np.exp(-boxes)), 1 / (1 + np.exp(-objectness)), shares]
        finished.append(np.concatenate(parts, axis=1).transpose(0, 2, 3, 1))
    return finished


def maps_of_tercel(rows: list[Row], height: int, width: int) -> list[np.ndarray]:
    scores = [np.full((1, CLASSES, height // s, width // s), -30.0, np.float32) for s in STRIDES_PX]
    sides = [np.zeros((1, 4, height // s, width // s), np.float32) for s in STRIDES_PX]
    for row, level, column, line, _ in placed(rows, width, STRIDES_PX):
        stride = STRIDES_PX[level]
        x, y, (x1, y1, x2, y2) = (column + 0.5) * stride, (line + 0.5) * stride, xyxy_of([row])[0]
        scores[level][0, row[4], line, column] = logit(row[5])
        sides[level][0, :, line, column] = np.array([x - x1, y - y1, x2 - x, y2 - y]) / stride
    return [*scores, *sides]


TERCEL_NAMES = tuple(f"{role}_{stride}" for role in ("cls", "box") for stride in STRIDES_PX)
TENSORFLOW_NAMES = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
HEADS: list[tuple[str, Encoder, tuple[str, ...]]] = [
    ("yolox", rows_of_yolox, ()),
    ("yolov5", rows_of_yolov5, ()),
    ("yolov8", columns_of_yolov8, ()),
    ("end_to_end", rows_end_to_end, ()),
    ("end_to_end", rows_of_yolov7_with_nms, ()),
    ("rtdetr", rows_of_rtdetr, ()),
    ("rtdetr", logits_of_rtdetr, ("logits", "pred_boxes")),
    ("ssd", boxes_and_scores_of_ssd, ("scores", "boxes")),
    ("detections", detections_of_tensorflow, TENSORFLOW_NAMES),
    ("detections", detections_of_torchvision, ("boxes", "labels", "scores")),
    ("nanodet", maps_of_nanodet, ()),
    ("nanodet_plus", rows_of_nanodet_plus, ()),
    ("fastestdet", map_of_fastestdet, ()),
    ("yolo_fastestv2", maps_of_yolo_fastestv2, ()),
    ("yolo_fastestv2", finished_maps_of_yolo_fastestv2, ()),
    ("tercel", maps_of_tercel, TERCEL_NAMES),
]
every_head = pytest.mark.parametrize(
    ("head", "encode", "names"), HEADS, ids=[encode.__name__ for _, encode, _ in HEADS]
)


def random_rows(seed: int, count: int) -> list[Row]:
    """Boxes whose centres lie in cells of 32 pixels of their own, of a size that every head can write."""
    random = np.random.default_rng(seed)
    rows = []
    for index, cell in enumerate(random.permutation((HEIGHT // 32) * (WIDTH // 32))[:count]):
        stride = (8, 16, 32)[index % 3]
        line, column = divmod(int(cell), WIDTH // 32)
        cx, cy = 32 * column + random.uniform(1, 7), 32 * line + random.uniform(1, 7)
        w, h = random.uniform(2.2, 2.9, 2) * stride
        rows.append((cx, cy, w, h, int(random.integers(CLASSES)), float(random.uniform(0.4, 0.95))))
    return rows


@every_head
@pytest.mark.parametrize("seed", range(4))
def test_boxes_come_back_from_every_head(head: str, encode: Encoder, names: tuple[str, ...], seed: int) -> None:
    rows = random_rows(seed, 3 + seed)
    outputs = encode(rows, HEIGHT, WIDTH)
    spec = spec_of(*[o.shape for o in outputs], names=names)
    boxes = decode(spec, outputs, 0.3)
    order, expected = np.argsort(boxes.scores), np.argsort([row[5] for row in rows])
    assert spec.head == head
    np.testing.assert_allclose(boxes.xyxy_px[order], xyxy_of(rows)[expected], atol=1e-3)
    np.testing.assert_allclose(boxes.scores[order], [rows[i][5] for i in expected], rtol=1e-4)
    assert boxes.labels[order].tolist() == [rows[i][4] for i in expected]
    assert (boxes.xyxy_px.dtype, boxes.scores.dtype, boxes.labels.dtype) == (np.float32, np.float32, np.int32)


@every_head
def test_a_threshold_keeps_what_reaches_it(head: str, encode: Encoder, names: tuple[str, ...]) -> None:
    rows = random_rows(5, 6)
    outputs = encode(rows, HEIGHT, WIDTH)
    spec = spec_of(*[o.shape for o in outputs], names=names)
    scores = np.sort([row[5] for row in rows])
    assert len(decode(spec, outputs, float(scores[2:4].mean())).scores) == 3
    assert len(decode(spec, outputs, 0.97).scores) == 0
    assert len(decode(spec, outputs, 1.0).scores) == 0
    assert len(decode(spec, outputs, 0.0).scores) >= 6


@every_head
def test_of_every_head_a_broken_answer_is_rejected(head: str, encode: Encoder, names: tuple[str, ...]) -> None:
    outputs = encode(random_rows(6, 4), HEIGHT, WIDTH)
    spec = spec_of(*[o.shape for o in outputs], names=names)
    for broken in ([], [o[:, None].repeat(2, axis=1) for o in outputs]):
        with pytest.raises(Rejected, match="wrong shape"):
            decode(spec, broken, 0.3)
    outputs[-1] = outputs[-1].astype(np.float32)
    outputs[-1].flat[-1] = np.nan
    with pytest.raises(Rejected, match="not finite"):
        decode(spec, outputs, 0.3)


@every_head
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.5, 5.0, 1e3, 1e30]), multi_label=st.booleans())
@settings(max_examples=12, deadline=None)
def test_whatever_a_network_says_boxes_are_valid_or_the_answer_is_rejected(
    head: str, encode: Encoder, names: tuple[str, ...], seed: int, scale: float, multi_label: bool
) -> None:
    random = np.random.default_rng(seed)
    shapes = [o.shape for o in encode(random_rows(0, 6), HEIGHT, WIDTH)]
    spec = spec_of(*shapes, names=names)
    outputs = [(random.normal(0.0, scale, shape)).astype(np.float32) for shape in shapes]
    try:
        boxes = usable(decode(spec, outputs, 0.3, multi_label=multi_label))
    except Rejected:
        return
    assert (boxes.xyxy_px[:, 2:] > boxes.xyxy_px[:, :2]).all()
    assert ((boxes.scores >= 0.3) & np.isfinite(boxes.scores)).all()
    assert ((boxes.labels >= 0) & (boxes.labels < CLASSES)).all()


def test_finished_boxes_with_labels_or_scores_that_cannot_be_are_rejected() -> None:
    outputs = rows_end_to_end(random_rows(0, 3), HEIGHT, WIDTH)
    spec = spec_of((1, 300, 6))
    for column, value, reason in ((5, CLASSES, "label"), (5, 0.5, "label"), (5, -1.0, "label"), (4, 7.0, "above 1")):
        broken = outputs[0].copy()
        broken[0, 0, column] = value
        with pytest.raises(Rejected, match=reason):
            decode(spec, [broken], 0.3)
    outputs[0][0, 3:, 5] = -1.0  # rows of padding say anything
    assert len(decode(spec, outputs, 0.3).scores) == 3


def test_pixels_in_a_head_of_unit_boxes_are_rejected_and_the_card_says_otherwise() -> None:
    scores, boxes = boxes_and_scores_of_ssd(random_rows(0, 3), HEIGHT, WIDTH)
    spec = spec_of(scores.shape, boxes.shape, names=("scores", "boxes"))
    in_pixels = boxes * np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)
    with pytest.raises(Rejected, match="pixels where 0..1 is wanted"):
        decode(spec, [scores, in_pixels], 0.3)
    told = decode(replace(spec, box_format="xyxy_px"), [scores, in_pixels], 0.3)
    np.testing.assert_allclose(told.xyxy_px, decode(spec, [scores, boxes], 0.3).xyxy_px, rtol=1e-5)


def test_an_end_to_end_head_gives_one_box_one_label_unless_it_is_asked_for_all() -> None:
    rows = random_rows(0, 2)
    outputs = rows_end_to_end([rows[0], rows[1], (*rows[0][:4], (rows[0][4] + 1) % CLASSES, 0.35)], HEIGHT, WIDTH)
    spec = spec_of((1, 300, 6))
    assert decode(spec, outputs, 0.3).labels.tolist() == [rows[0][4], rows[1][4]]
    assert len(decode(spec, outputs, 0.3, multi_label=True).labels) == 3
