"""`tercel quantize` on a real detector and real images: what it keeps, what it refuses, and what it says."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from perception.quantize import candidates, procedure, verify
from perception.quantize.calibration import Histogram, quantizer_range
from perception.quantize.candidates import Material, Settings, integer_weights
from perception.quantize.graph import Graph, prepared
from perception.quantize.images import ImageFiles, calibration_files, held_out
from perception.quantize.mixed import bridged, heads, ranking
from perception.quantize.plan import make_plan
from perception.quantize.sensitivity import FRAGILE, Trials, fragile_tensors, sturdy_convolutions
from perception.quantize.static import quantized_model
from perception.quantize.timing import OperatorTime, side_by_side_ms, time_by_unit
from perception.quantize.verify import UnitTime
from perception.runtime import load_network
from tercel.cli import main
from tercel.core.errors import UserError
from tercel.core.messages import Detections2D
from tercel.report.quantize_report import write_quantize_report
from tests.unit.quantize_nets import tiny_yolox

FAST = Settings(timing_s=0.2, backends=("onnxruntime",), layouts=("stepwise",))


@pytest.fixture(scope="module")
def images(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "img_coco256" / "images" / "train2017").glob("*.jpg"))[:12]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_yolox(tmp_path_factory.mktemp("tiny") / "tiny.onnx")


@pytest.fixture(scope="module")
def material(detector: Path, images: list[Path]) -> Material:
    calibration, kept = held_out(ImageFiles(images))
    return procedure.gather(detector, calibration, list(kept.read()), None, FAST)


@pytest.fixture(scope="module")
def outcome(material: Material) -> procedure.Outcome:
    return procedure.run(material, FAST, lambda _: None)


def test_a_real_detector_in_integers_finds_what_it_found_and_says_how_fast(
    shared_data: Path, images: list[Path]
) -> None:
    calibration, kept = held_out(ImageFiles(images))
    path = shared_data / "models" / "fastestdet_352.onnx"
    material = procedure.gather(path, calibration, list(kept.read()), None, FAST)
    outcome = procedure.run(material, FAST, lambda _: None)
    assert outcome.accuracy.ap50_quantized > 0.85
    assert outcome.accuracy.ap50_float == pytest.approx(1.0)
    assert outcome.summary["bytes"]["quantized"] < 0.6 * outcome.summary["bytes"]["float"]
    speeds = outcome.summary["latency_ms"]["onnxruntime"]
    assert outcome.summary["speedup"] == pytest.approx(speeds["float"] / speeds["stepwise"])
    slow = speeds["stepwise"] > verify.SLOWER * speeds["float"]
    assert outcome.done is not slow
    assert any("slower" in reason for reason in outcome.reasons) is slow
    assert set(outcome.sqnr_db) == set(outcome.chosen.convolutions)
    assert min(outcome.sqnr_db.values()) > 0.0


def test_a_slower_model_is_refused_with_the_operators_that_became_slower(
    material: Material, outcome: procedure.Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(files: dict[str, Path], *rest: Any, **settings: Any) -> dict[str, dict[str, float]]:
        return {"onnxruntime": {name: 1.0 if name == "float" else 2.0 for name in files}}

    times = [UnitTime("Conv_9", 0.1, 0.9), UnitTime("all QuantizeLinear elsewhere", 0.0, 0.3), UnitTime("Conv_1", 2, 1)]
    monkeypatch.setattr(procedure, "latencies_ms", slow)
    monkeypatch.setattr(procedure, "unit_times", lambda *_: times)
    found = procedure.verified(material, FAST, [outcome.chosen])
    assert not found.done
    assert found.reasons == ["slower: 2.00 ms in onnxruntime, against 1.00 ms of the float model in onnxruntime"]
    assert found.blame == [
        "Conv_9: 0.10 ms float, 0.90 ms quantized",
        "all QuantizeLinear elsewhere: 0.00 ms float, 0.30 ms quantized",
    ]


def test_a_broken_model_is_refused_with_the_layers_where_the_signal_is_lost(
    material: Material, outcome: procedure.Outcome
) -> None:
    plan = make_plan(material.graph, layout="stepwise")
    cut = dict.fromkeys(material.histograms, (0.0, 1e-6))
    weights = integer_weights(material.graph, FAST)
    model = quantized_model(material.model, plan, cut, weights)
    broken = replace(outcome.chosen, model=model, convolutions=plan.convolutions, ranges=cut)
    found = procedure.verified(material, FAST, [broken])
    assert not found.done
    assert any("other boxes: agreement" in reason for reason in found.reasons)
    assert any(": signal to noise 0.0 dB" in line for line in found.blame)
    words = verify.accuracy_blame({"a": 40.0, "b": 38.0, "c": 5.0, "d": 4.5}, lambda name: f", reads {name}")
    assert words == ["c: signal to noise 5.0 dB, reads c", "b: signal to noise 38.0 dB, reads b"]


def test_an_activation_that_bears_no_rounding_is_left_in_float(material: Material) -> None:
    plan = make_plan(material.graph, layout="stepwise")
    victim = plan.tensors[len(plan.tensors) // 2]
    victim = plan.shares.get(victim, victim)
    cut = {name: quantizer_range(h, "mse") for name, h in material.histograms.items()} | {victim: (0.0, 1e-6)}
    trials = Trials(material.model, cut, integer_weights(material.graph, FAST), material.inputs[:1])
    fragile = fragile_tensors(trials, plan)
    one_by_one = {name for name in plan.tensors if name not in plan.shares and trials.error([name]) > FRAGILE}
    assert victim in fragile
    assert set(fragile) == one_by_one
    kept = sturdy_convolutions(material.graph, plan, fragile)
    readers = {node.name for node in material.graph.convolutions() if node.input[0] == victim}
    assert not readers & set(kept)


def _no_boxes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)


def test_no_boxes_to_compare_is_said_and_is_no_success(
    material: Material, outcome: procedure.Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    black = [replace(image, pixels=np.zeros_like(image.pixels)) for image in material.images[:2]]
    boxes, scores, labels = _no_boxes()
    names = material.spec.class_names
    none = Detections2D(stamp_ns=0, frame_id="", boxes_xyxy_px=boxes, scores=scores, labels=labels, class_names=names)
    blind = [none] * 2
    accuracy = verify.compared(blind, blind, None)
    assert np.isnan(accuracy.ap50_quantized)
    monkeypatch.setattr(procedure, "compared", lambda *_: accuracy)
    found = procedure.verified(replace(material, images=black), FAST, [outcome.chosen])
    assert not found.done
    assert any("finds nothing in the images" in reason for reason in found.reasons)


@pytest.mark.parametrize(("value", "flat"), [(0, True), (None, False)])
def test_calibration_images_of_the_wrong_domain_are_warned_of_with_the_overflow(
    tmp_path: Path, detector: Path, material: Material, value: int | None, flat: bool
) -> None:
    draw = np.random.default_rng(0)
    for index in range(4):
        dark = draw.integers(0, 30, (120, 160, 3), np.uint8) if value is None else np.full((120, 160, 3), value)
        cv2.imwrite(str(tmp_path / f"{index}.png"), dark.astype(np.uint8))
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    files = calibration_files([tmp_path], 100)
    wrong = procedure.gather(detector, files, material.images, None, FAST)
    warnings = procedure.calibration_warnings(wrong, files)
    assert any("1 calibration images could not be used, such as torn.jpg" in line for line in warnings)
    assert any("of one colour" in line for line in warnings) is flat
    assert any("only 4 calibration images" in line for line in warnings)
    (strange,) = [line for line in warnings if "unlike those verified with" in line]
    share = float(re.search(r"with ([\d.]+) % of its values", strange).group(1))  # type: ignore[union-attr]
    assert share > 1.0
    good = procedure.calibration_warnings(material, ImageFiles(calibration_files([tmp_path], 100).paths * 5))
    assert not any("unlike" in line for line in good)


def test_the_report_is_one_file_with_both_models_pictures(tmp_path: Path, outcome: procedure.Outcome) -> None:
    hostile = replace_name(outcome, "<script>alert(1)</script>")
    write_quantize_report(tmp_path / "report.html", hostile, hostile.summary | {"command": "tercel quantize x.onnx"})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert page.count("data:image/jpeg;base64,") >= 4
    assert page.count('id="errors"') == page.count('id="speed"') == page.count('id="ranges"') == 1
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def replace_name(outcome: procedure.Outcome, name: str) -> procedure.Outcome:
    return replace(outcome, summary=outcome.summary | {"model": name}, warnings=[name])


# --- mixed precision -------------------------------------------------------------------------------------------------


def test_layers_are_ranked_by_gain_for_error_and_those_without_gain_stay_in_float() -> None:
    errors = {"a": 1e-3, "b": 1e-4, "c": 1e-5, "d": 1e-2}
    times = [UnitTime("a", 2.0, 1.0), UnitTime("b", 1.0, 0.5), UnitTime("c", 0.5, 0.9), UnitTime("d", 1.0, 0.9)]
    assert ranking(errors, times) == ["b", "a", "d"]
    assert heads(["b", "a", "d"]) == [["b", "a", "d"], ["b", "a"], ["b"]]
    assert heads([]) == []


def test_a_layer_alone_between_two_integer_ones_is_taken_along_unless_it_errs(material: Material) -> None:
    nodes = material.graph.convolutions()
    chain = [node.name for node in nodes][1:4]  # each reads the ReLU of the one before
    cheap = bridged(material.graph, "stepwise", [chain[0], chain[2]], dict.fromkeys(chain, 1e-4))
    dear = bridged(material.graph, "stepwise", [chain[0], chain[2]], dict.fromkeys(chain, 1e-4) | {chain[1]: 1.0})
    assert cheap == chain
    assert dear == [chain[0], chain[2]]


def test_mixed_keeps_within_the_budget_and_says_what_each_layer_would_gain(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [node.name for node in material.graph.convolutions()]
    times = [UnitTime(name, 1.0, 0.5 if index % 3 else 1.5) for index, name in enumerate(names)]
    monkeypatch.setattr(candidates, "unit_times", lambda *_: times)
    said: list[str] = []
    found = procedure.run(material, replace(FAST, method="mixed"), said.append)
    gaining = {layer.name for layer in found.layers if layer.gain_ms > 0.0}
    assert gaining == {row.name for row in times if row.quantized_ms < 1.0} & {layer.name for layer in found.layers}
    assert {layer.name for layer in found.layers if layer.quantized} >= set(found.chosen.convolutions)
    assert all(layer.error > 0.0 for layer in found.layers)
    assert any(f"{len(gaining)} of {len(found.layers)} convolutions gain time" in line for line in said)
    assert found.accuracy.ap50_quantized >= verify.MIN_AGREEMENT_AP50


@pytest.mark.parametrize("layout", ["fused", "stepwise"])
def test_any_choice_of_convolutions_of_a_real_network_can_be_built_and_run(shared_data: Path, layout: str) -> None:
    model = prepared(shared_data / "models" / "fastestdet_352.onnx")
    graph = Graph(model)
    plan = make_plan(graph, layout=layout)
    histograms = dict.fromkeys((name for name in plan.tensors if name not in plan.shares), Histogram())
    next(iter(histograms.values())).add(np.linspace(0.0, 4.0, 50))
    settings = replace(FAST, layouts=(layout,))
    spec = procedure.detector_of(shared_data / "models" / "fastestdet_352.onnx")
    material = Material(Path("x"), spec, model, graph, histograms, [], None, [])
    ranges = candidates.activation_ranges(material, settings)
    weights = integer_weights(graph, settings)
    draw = np.random.default_rng(0)
    for _ in range(6):
        some = [name for name in plan.convolutions if draw.random() < 0.4]
        smaller = make_plan(graph, layout=layout, convolutions=some)
        assert set(smaller.tensors) <= set(plan.tensors)
        onnx.checker.check_model(quantized_model(model, smaller, ranges, weights))


def test_time_is_given_to_units_by_the_names_that_backends_make() -> None:
    times = [
        OperatorTime(("Conv_1_token_127",), "QLinearConv", 0.75),
        OperatorTime(("17_float_nchwc",), "Conv", 0.25),
        OperatorTime(("Mul_43/QuickGeluFusion/",), "QuickGelu", 0.5),
        OperatorTime(("x", "Conv_2"), "Convolution", 2.0),
        OperatorTime(("Resize_9",), "Resize", 4.0),
    ]
    owners = {"Conv_1": "Conv_1", "17": "Conv_1", "Mul_43": "Conv_1", "Conv_2": "Conv_2"}
    assert time_by_unit(times, owners) == {"Conv_1": 1.5, "Conv_2": 2.0, "": 4.0}


def test_runs_are_timed_in_turn() -> None:
    order: list[str] = []
    side_by_side_ms({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 0.0)
    assert order == ["a", "b"] * 6


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_keeps_a_weights_only_model_with_its_numbers_and_report(
    tmp_path: Path, detector: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.onnx"
    words = ["quantize", str(detector), "--method", "squant", "--verify", *map(str, images[:4]), "-o", str(out)]
    words += ["--backend", "onnxruntime", "--keep-anyway", "--report", str(tmp_path / "report")]
    code = main([*words, "--json", str(tmp_path / "numbers.json")])
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert code == (0 if numbers["done"] else 1)
    assert out.stat().st_size == pytest.approx(numbers["bytes"]["quantized"], abs=200)  # the metadata
    assert numbers["accuracy"]["ap50_quantized"] > 0.9
    assert json.loads(load_network(out).metadata["tercel_quantization"])["method"] == "squant"
    assert (tmp_path / "report" / "report.html").is_file()
    assert "accuracy (agreement with the float model, 4 images)" in capsys.readouterr().out


def test_formats_of_four_bits_name_one_for_each_layer(material: Material) -> None:
    found = procedure.run(material, replace(FAST, method="ant", bits=4), lambda _: None)
    assert len(found.formats) == len(material.graph.convolutions())
    assert {row["format"] for row in found.formats} <= {"int", "pot", "flint"}
    assert all(row["sqnr_db"][row["format"]] == max(row["sqnr_db"].values()) for row in found.formats)
    assert not any("slower" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (["--method", "static"], "needs images: --calibration"),
        (["--method", "squant"], "nothing to verify with"),
        (["--bits", "4", "--calibration", "{images}"], "for weights only"),
        (["--calibration", "{empty}"], "holds no image"),
        (["--calibration", "{images}", "--labels", "x", "--verify", "y"], "give one"),
        (["--calibration", "{images}", "--threads", "0"], "begin at 1"),
    ],
)
def test_a_users_mistake_is_a_line_with_the_mend(
    tmp_path: Path,
    detector: Path,
    images: list[Path],
    words: list[str],
    mend: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [word.format(images=images[0].parent, empty=tmp_path / "empty") for word in words]
    assert main(["quantize", str(detector), *filled, "-o", str(tmp_path / "out.onnx")]) == 2
    error = capsys.readouterr().err
    assert mend in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()


def test_the_model_is_never_written_over_and_a_quantized_one_is_not_quantized_again(
    tmp_path: Path, detector: Path, images: list[Path], outcome: procedure.Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copy(detector, tmp_path / "model.onnx"))
    words = ["--calibration", str(images[0].parent), "-o", str(copy)]
    assert main(["quantize", str(copy), *words]) == 2
    assert "would be written over the model" in capsys.readouterr().err
    onnx.save(outcome.chosen.model, str(tmp_path / "int8.onnx"))
    assert main(["quantize", str(tmp_path / "int8.onnx"), *words[:2], "-o", str(tmp_path / "again.onnx")]) == 2
    assert "is quantized already" in capsys.readouterr().err


def test_settings_that_cannot_be_are_a_programmers_error() -> None:
    for wrong in ({"bits": 5}, {"bits": 4}, {"max_ap_loss": 0.0}, {"threads": 0}):
        with pytest.raises(ValueError, match="must be|bits"):
            Settings(**wrong)


def test_every_fourth_image_is_kept_back(tmp_path: Path) -> None:
    paths = [tmp_path / str(index) for index in range(12)]
    calibration, kept = held_out(ImageFiles(paths))
    assert kept.paths == [paths[3], paths[7], paths[11]]
    assert set(calibration.paths) | set(kept.paths) == set(paths)
    assert held_out(ImageFiles(paths[:5]))[1].paths == paths[:5]
    with pytest.raises(UserError, match="no such file"):
        calibration_files([tmp_path / "none"], 5)
