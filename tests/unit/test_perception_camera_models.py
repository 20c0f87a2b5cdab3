"""The real detectors on real images: their scores are the ones that the models' README measured."""

from __future__ import annotations

import asyncio
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.average_precision import iou_matrix
from perception.camera_detector import CameraDetector
from perception.runtime import LocalModels, load_network
from tercel.core.messages import Image
from tests.benchmarks.bench_detection import evaluate, load_labelled_images


@pytest.mark.parametrize(
    ("model", "ap50", "ap50_person"),
    [("yolox_nano_416", 0.507, 0.634), ("nanodet_m_320", 0.432, 0.576), ("nanodet_m_416", 0.433, 0.619)],
)
def test_ap50_is_the_one_that_was_measured_elsewhere(
    shared_data: Path, model: str, ap50: float, ap50_person: float
) -> None:
    labelled = load_labelled_images(shared_data / "img_coco256")
    assert len(labelled) == 128
    scores = evaluate(load_network(shared_data / "models" / f"{model}.onnx", threads=2), labelled)
    assert scores["ap50"] == pytest.approx(ap50, abs=0.01)
    assert scores["ap50_person"] == pytest.approx(ap50_person, abs=0.01)


def test_two_loads_of_a_model_give_equal_bits(shared_data: Path) -> None:
    path = shared_data / "models" / "yolox_nano_416.onnx"
    tensor = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)
    first, second = load_network(path, threads=2), load_network(path, threads=2)
    outputs = [first.run(tensor), first.run(tensor), second.run(tensor)]
    assert all(np.array_equal(other[0], outputs[0][0]) for other in outputs[1:])


@pytest.mark.parametrize("model", ["yolox_nano_416", "nanodet_m_416", "fastestdet_352"])
def test_the_labelled_pedestrian_of_kitti_is_found_where_it_stands(shared_data: Path, model: str) -> None:
    labelled_xyxy_px = np.array([[712.40, 143.00, 810.73, 307.92]])  # label_2/000000.txt
    path = next((shared_data / "kitti_object_3frames").rglob("*000000*.[jp][pn]g"))
    image = Image(stamp_ns=0, frame_id="camera", pixels=np.asarray(cv2.imread(str(path))), encoding="bgr8")
    networks = {"detector": load_network(shared_data / "models" / f"{model}.onnx")}
    found = asyncio.run(CameraDetector(models=LocalModels(networks)).detect(image))["detections"]
    people = found.boxes_xyxy_px[found.labels == found.class_names.index("person")]
    assert iou_matrix(people, labelled_xyxy_px).max(initial=0.0) > 0.6
