"""Scores of detections: against pycocotools fed from files, and through `tercel evaluate detection`."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from perception.average_precision import average_precision
from perception.camera_detector import CameraDetector
from perception.classes import TERCEL_CLASSES
from perception.coco import COCO_CLASSES
from perception.coco_json import category_ids, detections_document
from perception.detection_scores import Truth, coco_scores
from perception.labelled import ANY_CLASS, load_coco_folder, load_labelled
from perception.runtime import LocalModels, load_network
from tercel.cli import main
from tercel.core.messages import Detections2D
from tercel.report.detection_run import JUDGED, EvaluationOptions, common_classes, run_evaluation
from tests.unit import onnx_files

NAMES = ("a", "b", "c")
STATS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def message(xyxy: Any, scores: Any = None, labels: Any = None, names: tuple[str, ...] = NAMES) -> Detections2D:
    boxes = np.asarray(xyxy, np.float32).reshape(-1, 4)
    return Detections2D(
        stamp_ns=0,
        frame_id="camera",
        boxes_xyxy_px=boxes,
        scores=np.ones(len(boxes)) if scores is None else np.asarray(scores),
        labels=np.zeros(len(boxes)) if labels is None else np.asarray(labels),
        class_names=names,
    )


NOTHING = message([])


def from_files(folder: Path, truth: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, float]:
    """What pycocotools makes of a file of labels and a file of results."""
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps(found))
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO(str(folder / "truth.json"))
        judge = COCOeval(labels, labels.loadRes(str(folder / "found.json")), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return dict(zip(STATS, judge.stats.tolist(), strict=False)) | {"AR": float(judge.stats[8])}


def scene(seed: int, *, crowds: bool, images: int = 10) -> tuple[list[Detections2D], list[Truth]]:
    """Truth of all three sizes, and detections near it, beside it and on it twice."""
    random = np.random.default_rng(seed)
    found, truths = [], []
    for _ in range(images):
        count = int(random.integers(0, 7))
        corners = random.uniform(0, 300, (count, 2))
        true = np.concatenate([corners, corners + np.exp(random.uniform(2.2, 5.2, (count, 2)))], axis=1)
        labels = random.integers(0, 2, count)
        near = np.repeat(true, 2, axis=0) + random.normal(0, 4, (2 * count, 4))
        far = random.uniform(0, 200, (3, 2))
        boxes = np.concatenate([near, np.concatenate([far, far + random.uniform(5, 150, (3, 2))], axis=1)])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        guesses = np.concatenate([np.repeat(labels, 2), random.integers(0, 3, 3)])
        scores = random.choice([0.2, 0.5, 0.9, *random.random(4)], len(boxes))  # some are equal
        crowd = random.uniform(0, 150, (2, 2))
        regions = np.concatenate([crowd, crowd + 150], axis=1) if crowds else []
        ignored = message(regions, labels=[0, 1] if crowds else [])
        areas = (true[:, 2] - true[:, 0]) * (true[:, 3] - true[:, 1]) * random.uniform(0.4, 1.0, count)
        found.append(message(boxes, scores, guesses))
        truths.append(Truth(message(true, labels=labels), ignored, areas if crowds else None))
    return found, truths


def as_documents(found: Sequence[Detections2D], truths: Sequence[Truth]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same as COCO's two kinds of file, written without the code under test."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (detected, truth) in enumerate(zip(found, truths, strict=True), start=1):
        for boxes, crowd in ((truth.boxes, 0), (truth.ignored, 1)):
            for row, (x1, y1, x2, y2) in enumerate(boxes.boxes_xyxy_px.astype(float).tolist()):
                area = (x2 - x1) * (y2 - y1) if crowd or truth.areas_px2 is None else float(truth.areas_px2[row])
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image,
                        "category_id": 10 + int(boxes.labels[row]),
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": area,
                        "iscrowd": crowd,
                    }
                )
        for (x1, y1, x2, y2), score, label in zip(
            detected.boxes_xyxy_px.astype(float).tolist(),
            detected.scores.tolist(),
            detected.labels.tolist(),
            strict=True,
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image, "category_id": 10 + label, "bbox": box, "score": score})
    truth_file = {
        "info": {},
        "images": [{"id": image} for image in range(1, len(truths) + 1)],
        "categories": [{"id": 10 + label, "name": name} for label, name in enumerate(NAMES)],
        "annotations": annotations,
    }
    return truth_file, results


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_figure_is_the_one_that_pycocotools_gives_for_files(tmp_path: Path, seed: int, crowds: bool) -> None:
    found, truths = scene(seed, crowds=crowds)
    expected = from_files(tmp_path, *as_documents(found, truths))
    summary = coco_scores(found, truths).summary()
    assert 0.05 < expected["AP"] < 0.9
    for name, value in expected.items():
        assert summary[name] == (None if value == -1.0 else pytest.approx(value, abs=1e-9)), name


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_our_own_average_precision_agrees_with_pycocotools(seed: int) -> None:
    found, truths = scene(seed, crowds=False, images=6)
    if not any(len(truth.boxes.labels) for truth in truths):
        return
    ours = average_precision(found, [truth.boxes for truth in truths])
    theirs = coco_scores(found, truths)
    summary = theirs.summary()
    assert ours.mean == pytest.approx(summary["AP"], abs=1e-6)
    assert ours.mean_at(0.5) == pytest.approx(summary["AP50"], abs=1e-6)
    for label, name in enumerate(NAMES):
        if theirs.truth_counts[label]:
            assert ours.ap[label].mean() == pytest.approx(summary["classes"][name]["AP"], abs=1e-6)
            assert theirs.curve_at_50(label).mean() == pytest.approx(ours.at(0.5)[label], abs=1e-6)


def test_what_lies_in_an_ignored_region_counts_neither_way() -> None:
    truth = message([[0, 0, 50, 50]])
    found = message([[100, 100, 140, 140], [105, 105, 120, 120], [0, 0, 50, 50]], [0.9, 0.8, 0.7])
    judged = coco_scores([found], [Truth(truth, NOTHING)]).summary()["AP"]
    assert judged == pytest.approx(1 / 3, abs=0.01)
    for label in (0, ANY_CLASS):
        region = message([[90, 90, 160, 160]], labels=[label])
        assert coco_scores([found], [Truth(truth, region)]).summary()["AP"] == pytest.approx(1.0)
    other = message([[90, 90, 160, 160]], labels=[1])
    assert coco_scores([found], [Truth(truth, other)]).summary()["AP"] == judged


def test_sizes_and_classes_without_truth_have_no_figure() -> None:
    summary = coco_scores([message([[0, 0, 10, 10]])], [Truth(message([[0, 0, 10, 10]]), NOTHING)]).summary()
    assert (summary["AP_small"], summary["AP_medium"], summary["AP_large"]) == (pytest.approx(1.0), None, None)
    assert list(summary["classes"]) == ["a"]
    assert summary["classes"]["a"]["truths"] == 1
    assert coco_scores([NOTHING], [Truth(NOTHING, NOTHING)]).summary()["AP"] is None


def test_unequal_inputs_are_a_programmers_error() -> None:
    with pytest.raises(ValueError, match="equal numbers"):
        coco_scores([], [])
    with pytest.raises(ValueError, match="same class_names"):
        coco_scores([message([], names=("x",))], [Truth(NOTHING, NOTHING)])
    with pytest.raises(ValueError, match=r"not in 0\.\.2"):
        coco_scores([message([[0, 0, 1, 1]], labels=[3])], [Truth(NOTHING, NOTHING)])


def test_written_detections_are_a_results_file_and_a_file_of_labels(tmp_path: Path) -> None:
    found, truths = scene(5, crowds=False)
    document = detections_document([(f"{i}.png", 400, 400) for i in range(len(found))], found, NAMES)
    truth_file, _ = as_documents(found, truths)
    for row in (*truth_file["annotations"], *truth_file["categories"]):
        key = "category_id" if "category_id" in row else "id"
        row[key] -= 9
    expected = coco_scores(found, truths).summary()
    assert from_files(tmp_path, truth_file, document["annotations"])["AP"] == pytest.approx(expected["AP"], abs=2e-3)
    for index in range(len(found)):
        (tmp_path / f"{index}.png").write_bytes(b"")
    (tmp_path / "found.json").unlink()
    (tmp_path / "truth.json").write_text(json.dumps(document))
    read = load_coco_folder(tmp_path / "truth.json")
    assert read.class_names == NAMES
    for file, detected in zip(read.files, found, strict=True):
        np.testing.assert_allclose(file.boxes.xyxy, detected.boxes_xyxy_px, atol=2e-3)


def test_the_common_classes_are_those_that_all_models_can_be_judged_in() -> None:
    assert common_classes(None, [COCO_CLASSES], COCO_CLASSES) == COCO_CLASSES
    assert common_classes(None, [COCO_CLASSES, TERCEL_CLASSES], COCO_CLASSES) == TERCEL_CLASSES
    assert common_classes(None, [("x", "y")], ("x", "y")) == ("x", "y")
    assert common_classes("tercel", [COCO_CLASSES], COCO_CLASSES) == TERCEL_CLASSES


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_coco(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve real images of COCO's validation, in YOLO's layout."""
    source, root = shared_data / "img_coco256", tmp_path_factory.mktemp("data") / "img_coco256"
    for image in sorted((source / "images" / "val2017").glob("*.jpg"))[:12]:
        for part, name in (("images", image.name), ("labels", f"{image.stem}.txt")):
            target = root / part / "val2017" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / part / "val2017" / name, target)
    return root


def evaluate(*words: object, code: int = 0) -> None:
    assert main(["evaluate", "detection", *map(str, words)]) == code


def test_the_command_gives_what_pycocotools_gives_for_the_same_boxes(
    small_coco: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shared_data / "models" / "fastestdet_352.onnx"
    evaluate("--model", model, "--data", small_coco, "--json", tmp_path / "s.json", "--report", tmp_path / "report")
    scores = json.loads((tmp_path / "s.json").read_text())
    detector = CameraDetector(JUDGED, LocalModels({"detector": load_network(model)}))
    items = list(load_labelled(small_coco, split="evaluate"))
    found = [asyncio.run(detector.detect(item.image))["detections"] for item in items]
    ids = category_ids(COCO_CLASSES)
    truth, results = as_documents(found, [Truth.of(item) for item in items])
    truth["categories"] = [{"id": identity} for identity in ids]
    for row in (*truth["annotations"], *results):
        row["category_id"] = ids[row["category_id"] - 10]
    expected = from_files(tmp_path, truth, results)
    for name in (*STATS, "AR"):
        assert scores[name] == pytest.approx(expected[name], abs=1e-6), name
    assert scores["AP"] > 0.1
    assert scores["latency_ms_p50"] > 0
    assert scores["latency_ms_p95"] >= scores["latency_ms_p50"]
    assert scores["cpu_s_per_image"] > 0
    assert (scores["images"], scores["truths"]) == (12, sum(len(item.truth.labels) for item in items))
    table = capsys.readouterr().out
    assert f"{100 * scores['AP']:.2f}" in table
    page = (tmp_path / "report" / "detection.html").read_text()
    assert "fastestdet_352.onnx" in page
    assert page.count('class="curve"') == min(24, len(scores["classes"]))
    assert "http" not in page.replace("http-equiv", "")


def test_several_models_are_compared_on_the_same_images_in_six_classes(
    small_coco: Path, shared_data: Path, tmp_path: Path
) -> None:
    models = [shared_data / "models" / f"{name}.onnx" for name in ("fastestdet_352", "nanodet_m_320")]
    words = [word for model in models for word in ("--model", model)]
    evaluate(*words, "--data", small_coco, "--classes", "tercel", "--json", tmp_path / "s.json")
    scores = json.loads((tmp_path / "s.json").read_text())
    assert [model["model"] for model in scores["models"]] == [model.name for model in models]
    assert scores["class_names"] == list(TERCEL_CLASSES)
    assert "AP" not in scores
    assert set(scores["models"][0]["classes"]) == set(scores["models"][1]["classes"]) <= set(TERCEL_CLASSES)
    assert all(model["AP"] > 0.1 for model in scores["models"])


def test_images_that_cannot_be_read_are_counted_and_named(
    small_coco: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(small_coco, tmp_path / "img_coco256")
    broken = sorted((data / "images" / "val2017").glob("*.jpg"))[:11]
    broken[0].write_bytes(b"")
    for path in broken[1:]:
        path.write_bytes(path.read_bytes()[:2000])
    model = shared_data / "models" / "fastestdet_352.onnx"
    evaluate("--model", model, "--data", data, "--json", tmp_path / "s.json")
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["images"] == 1
    assert scores["rejected"] == {"image file is damaged or cut off": 10, "image file is empty": 1}
    said = capsys.readouterr()
    assert f"skipped: images/val2017/{broken[0].name}: image file is empty" in said.err
    assert "not used: 10 images" in said.out


def test_recordings_of_worlds_are_evaluated_in_six_classes(shared_data: Path, tmp_path: Path) -> None:
    settings_ = ("duration_s=1", "camera_rate_hz=2", "lidar_rate_hz=1", "lidar_columns=64", "include_depth=false")
    words = [word for setting in settings_ for word in ("--set", setting)]
    assert main(["world", "street", "--seed", "3", "-o", str(tmp_path / "street.mcap"), *words]) == 0
    model = shared_data / "models" / "fastestdet_352.onnx"
    evaluate("--model", model, "--data", tmp_path / "street.mcap", "--json", tmp_path / "s.json")
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["images"] == 2
    assert scores["class_names"] == list(TERCEL_CLASSES)
    assert {"person", "car", "large vehicle"} >= set(scores["classes"]) != set()


def answering(path: Path, cells: dict[int, dict[int, float]], fill: float = 0.0) -> Path:
    """A YOLOX of 64x64 that says the same of every image: values by column of some of its 84 cells of 85."""
    output = np.full((1, 84, 85), fill, np.float32)
    for cell, columns in cells.items():
        output[0, cell, list(columns)] = list(columns.values())
    nodes, constants = [onnx_files.node("Identity", ["answer"], "output")], [onnx_files.constant("answer", output)]
    inputs, outputs = [onnx_files.value_info("images", (1, 3, 64, 64))], [onnx_files.value_info("output", (1, 84, 85))]
    path.write_bytes(onnx_files.model(nodes, inputs, outputs, constants))
    path.with_suffix(".yaml").write_text("head: yolox\n")
    return path


def test_boxes_that_become_one_class_are_merged_and_others_are_not_looked_for(small_coco: Path, tmp_path: Path) -> None:
    bus, truck, banana, person = (5 + COCO_CLASSES.index(name) for name in ("bus", "truck", "banana", "person"))
    cells = {9: {4: 1.0, bus: 0.9, truck: 0.8, banana: 0.95}, 40: {4: 1.0, person: 0.7}}
    model = answering(tmp_path / "constant.onnx", cells)
    for classes, labels in (("coco", ["banana", "bus", "truck", "person"]), ("tercel", ["large vehicle", "person"])):
        run = run_evaluation(EvaluationOptions([str(model)], small_coco, classes=classes))
        for found in run.candidates[0].found:
            assert [run.class_names[label] for label in found.labels] == labels


def test_a_model_that_answers_nan_is_counted_and_fails_the_run(
    small_coco: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = answering(tmp_path / "nan.onnx", {}, fill=float("nan"))
    sound = shared_data / "models" / "fastestdet_352.onnx"
    words = ("--model", model, "--model", sound, "--data", small_coco)
    evaluate(*words, "--json", tmp_path / "s.json", "--report", tmp_path / "page", code=1)
    broken, well = json.loads((tmp_path / "s.json").read_text())["models"]
    assert (broken["AP"], broken["latency_ms_p50"], broken["failed"]) == (0.0, None, {"model output is not finite": 12})
    assert well["AP"] > 0.1
    assert "nan.onnx: 12 images failed: model output is not finite" in capsys.readouterr().out
    assert "nan.onnx: 12 images: model output is not finite" in (tmp_path / "page" / "detection.html").read_text()
    image = next((small_coco / "images" / "val2017").glob("*.jpg"))
    assert main(["detect", str(model), str(image), "--out", str(tmp_path / "out")]) == 1
    assert f"skipped: {image.name}: model output is not finite" in capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command says to a user's mistake: one line."""
    evaluate(*words, code=2)
    said = capsys.readouterr().err
    assert said.startswith("tercel evaluate: ")
    assert said.count("\n") == 1
    return said


def test_what_the_user_can_mend_is_one_line(
    small_coco: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shared_data / "models" / "fastestdet_352.onnx"
    with_model = ("--model", model, "--data")
    assert "no such data" in refused(capsys, *with_model, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refused(capsys, *with_model, tmp_path / "empty")
    assert "split 'train'" in refused(capsys, *with_model, small_coco, "--split", "train")
    assert "--threads" in refused(capsys, *with_model, small_coco, "--threads", "0")
    assert "did you mean 'yolox-tiny'" in refused(capsys, "--model", "yolox-tinny", "--data", small_coco)
    assert "no such model file" in refused(capsys, "--model", tmp_path / "no.onnx", "--data", small_coco)
    (tmp_path / "text.onnx").write_text("no model")
    assert "text.onnx" in refused(capsys, "--model", tmp_path / "text.onnx", "--data", small_coco)
    (tmp_path / "bad.mcap").write_bytes(b"no recording")
    assert "bad.mcap" in refused(capsys, *with_model, tmp_path / "bad.mcap")
    assert "is a file" in refused(capsys, *with_model, small_coco, "--report", model / "x")


def test_a_data_set_of_which_nothing_can_be_used_is_a_users_error(
    small_coco: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(small_coco, tmp_path / "img_coco256")
    for path in (data / "images" / "val2017").glob("*.jpg"):
        path.write_bytes(b"\xff\xd8")
    model = shared_data / "models" / "fastestdet_352.onnx"
    assert "no image could be used" in refused(capsys, "--model", model, "--data", data)
    other = tmp_path / "teapots"
    shutil.copytree(small_coco / "images" / "val2017", other)
    (other / "classes.txt").write_text("teapot\n")
    for path in list(other.glob("*.jpg")):
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.1 0.1")
    assert "none of its boxes is of the classes" in refused(capsys, "--model", model, "--data", other)
