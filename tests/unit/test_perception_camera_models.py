"""The real detectors on real images: their scores are the ones that the models' README measured."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from perception.average_precision import iou_matrix
from perception.camera_detector import CameraDetector, CameraDetectorConfig
from perception.coco import COCO91_CLASSES
from perception.model_card import ModelCard, write_card
from perception.runtime import LocalModels, load_network
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Detections2D, Image
from tercel.report.detection_run import EvaluationOptions, run_evaluation


@pytest.mark.parametrize(
    ("model", "ap50", "ap50_person"),
    [("yolox_nano_416", 0.507, 0.634), ("nanodet_m_320", 0.432, 0.576), ("nanodet_m_416", 0.433, 0.619)],
)
def test_ap50_is_the_one_that_was_measured_elsewhere(
    shared_data: Path, model: str, ap50: float, ap50_person: float
) -> None:
    file = str(shared_data / "models" / f"{model}.onnx")
    scores = run_evaluation(EvaluationOptions([file], shared_data / "img_coco256", threads=2)).summary()
    assert scores["images"] == 128
    assert scores["AP50"] == pytest.approx(ap50, abs=0.01)
    assert scores["classes"]["person"]["AP50"] == pytest.approx(ap50_person, abs=0.01)


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


# --- files of every kind of export, from ONNX to boxes in the image ---


def exported(path: Path, shape: tuple[int, ...], outputs: dict[str, np.ndarray], **metadata: str) -> Path:
    """An ONNX file that takes `shape` (uint8 where channels are last) and answers `outputs`, whatever it sees."""
    from onnx import TensorProto, helper, numpy_helper, save

    kind = TensorProto.UINT8 if shape[-1] == 3 else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["pixels"], ["most"], keepdims=0),
        helper.make_node("Sub", ["most", "most"], ["zero"]),
    ]
    constants, infos = [], []
    for name, values in outputs.items():
        onnx_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        constants.append(numpy_helper.from_array(values, f"{name}_value"))
        nodes.append(helper.make_node("Cast", ["zero"], [f"{name}_zero"], to=onnx_type))
        nodes.append(helper.make_node("Add", [f"{name}_value", f"{name}_zero"], [name]))
        infos.append(helper.make_tensor_value_info(name, onnx_type, [f"{name}_{i}" for i in range(values.ndim)]))
    images = helper.make_tensor_value_info("images", kind, shape)
    model = helper.make_model(
        helper.make_graph(nodes, "detector", [images], infos, constants),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    helper.set_model_props(model, metadata)
    save(model, str(path))
    return path


def found_in(path: Path, height: int = 128, width: int = 256, **config: Any) -> Detections2D:
    image = Image(stamp_ns=0, frame_id="camera", pixels=np.full((height, width), 9, np.uint16), encoding="mono16")
    models = LocalModels({"detector": load_network(path)})
    return asyncio.run(CameraDetector(CameraDetectorConfig(**config), models).detect(image))["detections"]


NAMES = "{0: 'person', 1: 'car'}"
ULTRALYTICS = {"names": NAMES, "task": "detect", "stride": "32", "imgsz": "[64, 64]"}
CENTRES = np.array([[16, 32, 8, 16], [48, 40, 12, 8]], np.float32)  # of a 64 x 64 input
CORNERS = np.array([[12, 24, 20, 40], [42, 36, 54, 44]], np.float32)
LETTERBOXED = (CORNERS - [0, 16, 0, 16]) * 4  # in an image of 256 x 128, whose middle half of the input it fills
STRETCHED = CORNERS * [4, 2, 4, 2]
SCORES = np.array([0.9, 0.6], np.float32)


def with_rows(shape: tuple[int, ...], *columns: np.ndarray) -> np.ndarray:
    """Zeros (1, N, M), whose first rows are these columns."""
    rows = np.column_stack([column.astype(np.float32) for column in columns])
    output = np.zeros(shape, np.float32)
    output[0, : len(rows), : rows.shape[1]] = rows
    return output


ONE_HOT = np.diag(SCORES)
EXPORTS: dict[str, tuple[dict[str, np.ndarray], dict[str, str], np.ndarray]] = {
    "yolov5": ({"output0": with_rows((1, 252, 7), CENTRES, np.ones(2), ONE_HOT)}, ULTRALYTICS, LETTERBOXED),
    "yolov8": (
        {"output0": with_rows((1, 84, 6), CENTRES, ONE_HOT).transpose(0, 2, 1).copy()},
        ULTRALYTICS,
        LETTERBOXED,
    ),
    "end_to_end": (
        {"output0": with_rows((1, 300, 6), CORNERS, SCORES, np.arange(2))},
        ULTRALYTICS | {"end2end": "True"},
        LETTERBOXED,
    ),
    "rtdetr": (
        {"output0": with_rows((1, 300, 6), CENTRES / 64, ONE_HOT)},
        ULTRALYTICS | {"description": "Ultralytics rtdetr-l model"},
        STRETCHED,
    ),
    "rtdetr_rows": (
        {"output0": with_rows((1, 300, 6), CENTRES / 64, SCORES, np.arange(2))},
        ULTRALYTICS | {"head": "RTDETRDecoder"},
        STRETCHED,
    ),
    "torchvision": (
        {"boxes": CORNERS, "labels": np.array([1, 2]), "scores": SCORES},
        {"names": NAMES},
        STRETCHED,
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_runs_from_its_file_to_boxes_in_the_image(tmp_path: Path, name: str) -> None:
    outputs, metadata, expected = EXPORTS[name]
    found = found_in(exported(tmp_path / "my.onnx", (1, 3, 64, 64), outputs, **metadata))
    np.testing.assert_allclose(found.boxes_xyxy_px, expected, atol=1e-3)
    np.testing.assert_allclose(found.scores, SCORES, rtol=1e-5)
    assert [found.class_names[label] for label in found.labels] == ["person", "car"]


def test_tensorflows_detector_takes_bytes_with_channels_last(tmp_path: Path) -> None:
    outputs = {
        "detection_boxes": with_rows((1, 50, 4), CORNERS[:, [1, 0, 3, 2]] / 64),
        "detection_classes": with_rows((1, 50, 1), np.array([1, 3]))[..., 0],
        "detection_scores": with_rows((1, 50, 1), SCORES)[..., 0],
        "num_detections": np.array([2], np.float32),
    }
    path = exported(tmp_path / "ssd.onnx", (1, 64, 64, 3), outputs)
    write_card(tmp_path / "ssd.yaml", ModelCard(classes=COCO91_CLASSES))
    found = found_in(path)
    np.testing.assert_allclose(found.boxes_xyxy_px, STRETCHED, atol=1e-3)
    assert [found.class_names[label] for label in found.labels] == ["person", "car"]


def test_a_head_without_nms_keeps_boxes_that_overlap_and_gives_the_best_ones_first(tmp_path: Path) -> None:
    boxes = np.repeat(CORNERS[:1], 3, axis=0) + np.array([[0], [0.5], [1]], np.float32)
    outputs = {"output0": with_rows((1, 300, 6), boxes, np.array([0.5, 0.9, 0.7]), np.zeros(3))}
    path = exported(tmp_path / "my.onnx", (1, 3, 64, 64), outputs, **ULTRALYTICS)
    np.testing.assert_allclose(found_in(path).scores, [0.9, 0.7, 0.5])
    np.testing.assert_allclose(found_in(path, max_detections=2).scores, [0.9, 0.7])
    centres, scores = CENTRES[:1] + np.array([[0], [0.5], [1]], np.float32), np.array([[0.5], [0.9], [0.7]])
    columns = with_rows((1, 84, 6), centres, scores).transpose(0, 2, 1).copy()
    with_nms = exported(tmp_path / "v8.onnx", (1, 3, 64, 64), {"output0": columns}, **ULTRALYTICS)
    np.testing.assert_allclose(found_in(with_nms).scores, [0.9])


@pytest.mark.parametrize(
    ("shape", "outputs", "words"),
    [
        ((1, 1, 64, 64), {"output0": np.zeros((1, 6, 84), np.float32)}, "input has 1 channels"),
        ((1, 4, 64, 64), {"output0": np.zeros((1, 6, 84), np.float32)}, "input has 4 channels"),
        ((2, 3, 64, 64), {"output0": np.zeros((2, 6, 84), np.float32)}, "not one image"),
        ((1, 3, 64, 64), {"probabilities": np.zeros((1, 1000), np.float32)}, "no head known here; name one in a model"),
        ((1, 3, 64, 64), {"output0": np.zeros((1, 84, 84), np.float32)}, "several heads; say `head: yolox or yolov8`"),
    ],
)
def test_a_file_that_is_no_detector_is_a_users_error_in_one_line(
    tmp_path: Path, shape: tuple[int, ...], outputs: dict[str, np.ndarray], words: str
) -> None:
    path = exported(tmp_path / "my.onnx", shape, outputs)
    with pytest.raises(UserError, match=words) as caught:
        LocalModels({"detector": load_network(path)}).spec("detector")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_network_that_answers_nan_is_counted_and_not_believed(tmp_path: Path) -> None:
    output = with_rows((1, 300, 6), CORNERS, SCORES, np.arange(2))
    output[0, 200, 2] = np.nan
    path = exported(tmp_path / "my.onnx", (1, 3, 64, 64), {"output0": output}, **ULTRALYTICS)
    with pytest.raises(Rejected, match="model output is not finite"):
        found_in(path)
