"""The component, on a network whose answer is set by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perception.camera_detector import CameraDetector, CameraDetectorConfig
from perception.detector_spec import detector_spec
from perception.model_spec import ModelSpec
from tercel.core.component import config_from_mapping
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Detections2D, Image

SIZE = 64
CELLS = 64 + 16 + 4


class FakeModels:
    """Answers what the test says, and remembers what was asked."""

    def __init__(self, answer: Callable[[], list[np.ndarray]]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, np.ndarray, int | None]] = []

    def spec(self, model: str) -> ModelSpec:
        if model != "detector":
            raise UserError(f"no model is named {model!r}")
        return detector_spec((1, 3, SIZE, SIZE), [(1, CELLS, 8)], class_names=("person", "car", "dog"))

    async def infer(self, model: str, tensor: np.ndarray, *, deadline_ns: int | None = None) -> list[np.ndarray]:
        self.asked.append((model, tensor, deadline_ns))
        return self.answer()


def yolox_answer(*boxes: tuple[float, float, float, float, int, float]) -> list[np.ndarray]:
    """(x1, y1, x2, y2, label, score) in the network's pixels, each in a cell of its own at stride 8."""
    output = np.zeros((1, CELLS, 8), np.float32)
    for cell, (x1, y1, x2, y2, label, score) in enumerate(boxes):
        row, column = divmod(cell, SIZE // 8)
        output[0, cell, :2] = (x1 + x2) / 16 - column, (y1 + y2) / 16 - row
        output[0, cell, 2:4] = np.log((x2 - x1) / 8), np.log((y2 - y1) / 8)
        output[0, cell, 4], output[0, cell, 5 + label] = score, 1.0
    return [output]


def detect(models: FakeModels, pixels: Any, encoding: str = "bgr8", **config: Any) -> Detections2D:
    detector = CameraDetector(CameraDetectorConfig(**config), models)
    image = Image(stamp_ns=7_000_000, frame_id="front", pixels=pixels, encoding=encoding)
    return asyncio.run(detector.detect(image))["detections"]


BLACK = np.zeros((128, 256, 3), np.uint8)  # a quarter of its size fits into the network: scale 0.25, top left


def test_boxes_come_out_in_the_images_own_pixels_best_first() -> None:
    models = FakeModels(lambda: yolox_answer((4, 8, 20, 24, 1, 0.5), (30, 2, 50, 22, 0, 0.9)))
    found = detect(models, BLACK)
    np.testing.assert_allclose(found.boxes_xyxy_px, [[120, 8, 200, 88], [16, 32, 80, 96]], atol=1e-3)
    np.testing.assert_allclose(found.scores, [0.9, 0.5])
    assert [found.class_names[label] for label in found.labels] == ["person", "car"]
    assert (found.stamp_ns, found.frame_id) == (7_000_000, "front")


def test_a_box_in_the_padding_is_dropped_and_one_across_it_is_clipped() -> None:
    models = FakeModels(lambda: yolox_answer((4, 40, 20, 60, 1, 0.5), (4, 20, 20, 60, 1, 0.9)))
    found = detect(models, BLACK)
    np.testing.assert_allclose(found.boxes_xyxy_px, [[16, 80, 80, 128]], atol=1e-3)


def test_the_config_chooses_threshold_classes_overlap_and_number() -> None:
    answer = yolox_answer(
        (0, 0, 16, 16, 0, 0.9), (0, 0, 16, 12, 0, 0.8), (20, 0, 40, 20, 2, 0.4), (0, 0, 16, 16, 1, 0.2)
    )
    models = FakeModels(lambda: answer)
    assert detect(models, BLACK).labels.tolist() == [0, 2]
    assert detect(models, BLACK, nms_iou=0.8).labels.tolist() == [0, 0, 2]
    assert detect(models, BLACK, score_threshold=0.1).labels.tolist() == [0, 2, 1]
    assert detect(models, BLACK, max_detections=1).labels.tolist() == [0]
    assert detect(models, BLACK, classes=("dog", "car")).labels.tolist() == [2]
    with pytest.raises(UserError, match="no class 'persn'; did you mean 'person'"):
        detect(models, BLACK, classes=("persn",))


def test_the_deadline_counts_from_the_capture() -> None:
    models = FakeModels(yolox_answer)
    detect(models, BLACK)
    detect(models, BLACK, deadline_ms=33.5)
    assert [deadline for _, _, deadline in models.asked] == [None, 40_500_000]
    assert models.asked[0][1].shape == (1, 3, SIZE, SIZE)


def test_an_image_without_objects_gives_an_empty_message() -> None:
    found = detect(FakeModels(yolox_answer), BLACK)
    assert found.boxes_xyxy_px.shape == (0, 4)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (5000, 1, 3), (4320, 7680, 3)])
def test_tiny_and_huge_images_survive(shape: tuple[int, ...]) -> None:
    models = FakeModels(lambda: yolox_answer((0, 0, 64, 64, 0, 0.9)))
    found = detect(models, np.zeros(shape, np.uint8))
    np.testing.assert_allclose(found.boxes_xyxy_px, [[0, 0, shape[1], shape[0]]], rtol=1e-5)


@pytest.mark.parametrize(
    ("pixels", "encoding"),
    [
        (np.zeros((0, 0, 3), np.uint8), "bgr8"),
        (np.full((4, 4, 3), np.nan, np.float32), "bgr8"),
        (np.full((4, 4), np.nan, np.float32), "32FC1"),
        (np.zeros((4, 4), np.uint8), "rgb8"),
        (np.zeros((4, 4, 3), np.uint8), ""),
    ],
)
def test_a_bad_image_is_rejected_and_the_next_one_is_taken(pixels: np.ndarray, encoding: str) -> None:
    models = FakeModels(lambda: yolox_answer((0, 0, 16, 16, 0, 0.9)))
    detector = CameraDetector(models=models)
    bad = Image(stamp_ns=0, frame_id="front", pixels=pixels, encoding=encoding)
    with pytest.raises(Rejected, match=r"^image "):
        asyncio.run(detector.detect(bad))
    good = Image(stamp_ns=1, frame_id="front", pixels=BLACK, encoding="rgb8")
    assert len(asyncio.run(detector.detect(good))["detections"].scores) == 1
    assert len(models.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [[], [np.zeros((1, 3, 8), np.float32)], [np.full((1, CELLS, 8), np.nan, np.float32)], yolox_answer() * 2],
)
def test_a_broken_answer_is_rejected(answer: list[np.ndarray]) -> None:
    with pytest.raises(Rejected, match=r"^model output"):
        detect(FakeModels(lambda: answer), BLACK)


@given(raw=hnp.arrays(np.float32, (1, CELLS, 8), elements=st.floats(-50, 200, width=32)))
@settings(max_examples=30, deadline=None)
def test_whatever_the_network_says_boxes_have_area_and_lie_in_the_image(raw: np.ndarray) -> None:
    found = detect(FakeModels(lambda: [raw]), BLACK)
    x1, y1, x2, y2 = found.boxes_xyxy_px.T
    assert ((x1 >= 0) & (y1 >= 0) & (x2 <= 256) & (y2 <= 128) & (x2 > x1) & (y2 > y1)).all()
    assert (found.scores >= 0.3).all()
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize(
    "values",
    [
        {"score_threshold": 1.5},
        {"score_threshold": float("nan")},
        {"nms_iou": 0.0},
        {"max_detections": 0},
        {"deadline_ms": -1.0},
        {"deadline_ms": float("nan")},
    ],
)
def test_a_config_out_of_range_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"detector: {next(iter(values))}"):
        config_from_mapping(CameraDetectorConfig, values, where="detector")


def test_a_graph_without_the_model_is_a_users_error() -> None:
    with pytest.raises(UserError, match="no models are given"):
        CameraDetector()
    with pytest.raises(UserError, match="no model is named 'other'"):
        CameraDetector(CameraDetectorConfig(model="other"), FakeModels(yolox_answer))
