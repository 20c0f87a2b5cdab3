"""Quantized detectors against their float originals: speed in both backends, AP, size, and what is refused.

    python tests/benchmarks/bench_quantize.py [--method static] [--images 128] [--json FILE] [MODEL.onnx ...]

Without models: yolox_nano_416, nanodet_m_320, nanodet_m_416 and fastestdet_352 of TERCEL_DATA/models. Calibrated with
the 71 train images of img_coco256, verified by AP on its val images, one thread. A model that is slower than its float
original, or loses more than a point of AP, is refused, and the operators or layers to blame are printed. Then, on the
last model: what 8-bit weights would do on a processor without VNNI (saturation), and studies of data-free weights
(SQuant against rounding, 8 and 4 bits), of number formats (ANT) and of a rounding border (AQuant).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from perception.labelled import load_labelled
from perception.quantize import procedure
from perception.quantize.calibration import activation_session
from perception.quantize.candidates import Material, Settings, static_candidates, written
from perception.quantize.images import calibration_files, labelled_images
from perception.quantize.number_formats import best_format
from perception.quantize.rounding import patches_of, study
from perception.quantize.sensitivity import Trials
from perception.quantize.squant import squant_weights
from perception.quantize.static import rounded_weights
from perception.quantize.verify import compared, detect_all
from tercel.core.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = ("yolox_nano_416", "nanodet_m_320", "nanodet_m_416", "fastestdet_352")
DATA = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))


def has_vnni() -> bool:
    """Whether this processor multiplies bytes without saturating."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def quantize_one(path: Path, settings: Settings, most: int) -> tuple[Material, dict[str, Any]]:
    """One model through the whole procedure, and its row of the table."""
    began = time.perf_counter()
    calibration = calibration_files([DATA / "img_coco256" / "images" / "train2017"], 71)
    spec = procedure.detector_of(path)
    images, truth = labelled_images(load_labelled(DATA / "img_coco256", split="evaluate"), spec, most)
    material = procedure.gather(path, calibration, images, truth, settings)
    outcome = procedure.run(material, settings, lambda _: None)
    row = outcome.summary | {
        "done": outcome.done,
        "reasons": outcome.reasons,
        "blame": outcome.blame,
        "warnings": procedure.calibration_warnings(material, calibration),
        "seconds": time.perf_counter() - began,
    }
    return material, row


def print_row(row: dict[str, Any]) -> None:
    """Two lines for a model, and a line for each reason and each to blame."""
    accuracy, counts = row["accuracy"], row["convolutions"]
    speeds = "  ".join(
        f"{backend}: " + " ".join(f"{name} {ms:.2f}" for name, ms in times.items())
        for backend, times in row["latency_ms"].items()
    )
    print(
        f"{row['model']:<22} float {row['float_ms']:.2f} ms AP {accuracy['ap_float']:.3f}   {row['chosen']} "
        f"{row['quantized_ms']:.2f} ms AP {accuracy['ap_quantized']:.3f}   {row['speedup']:.2f}x   "
        f"{counts['quantized']}/{counts['all']} convolutions   {row['bytes']['float'] / 1e6:.2f} -> "
        f"{row['bytes']['quantized'] / 1e6:.2f} MB   {'done' if row['done'] else 'REFUSED'}   {row['seconds']:.0f} s"
    )
    print(f"{'':<22} ms {speeds}")
    for line in (*row["reasons"], *(f"to blame: {line}" for line in row["blame"][:4]), *row["warnings"]):
        print(f"{'':<22} {line}")


def saturation(material: Material, settings: Settings, folder: Path) -> dict[str, float]:
    """AP, as it runs on this processor, of weights that keep to 7 bits and of weights that use 8."""
    found_float = detect_all(material.source, material.spec, material.images)
    scores = {}
    for target in ("avx2", "vnni"):
        changed = replace(settings, target=target, layouts=("stepwise",))
        candidates, _, _ = static_candidates(material, changed, lambda _: None)
        path = written(candidates, None, folder)["stepwise"]
        scores[target] = compared(
            found_float, detect_all(path, material.spec, material.images), material.truth
        ).ap_quantized
    return scores


def weight_study(material: Material) -> dict[str, float]:
    """Relative error of the outputs (dB, less is better) with only the weights rounded, without any data."""
    constants = {node.name: material.graph.constants[node.input[1]] for node in material.graph.convolutions()}
    found = {}
    for bits, limit in ((8, 127), (4, 7)):
        for name, make in (("nearest", rounded_weights), ("squant", squant_weights)):
            weights = {layer: make(values, limit) for layer, values in constants.items()}
            error = Trials(material.model, {}, weights, material.inputs).error([], list(weights))
            found[f"{name} {bits} bits"] = 10.0 * float(np.log10(error))
    return found


def format_study(material: Material) -> dict[str, Any]:
    """Which 4-bit format each layer's weights take, and how much better than int that is."""
    choices = [best_format(material.graph.constants[n.input[1]], 4) for n in material.graph.convolutions()]
    gains = [choice.mse["int"] / max(choice.mse[choice.format], 1e-30) for choice in choices]
    return {"formats": dict(Counter(choice.format for choice in choices)), "mse_gain_median": float(np.median(gains))}


def border_study(material: Material) -> dict[str, Any]:
    """Output error of a real 1x1 convolution behind a ReLU with 4-bit activations: nearest against adaptive border."""
    graph = material.graph
    node = next(
        n
        for n in graph.convolutions()[3:]
        if graph.constants[n.input[1]].shape[1] >= 24
        and graph.constants[n.input[1]].shape[2:] == (1, 1)
        and n.input[0] in graph.producer
        and graph.producer[n.input[0]].op_type == "Relu"
    )
    session, fed = activation_session(material.model, [node.input[0]])
    parts = [patches_of(session.run(None, {fed: x})[0], (1, 1), most=800, seed=0) for x in material.inputs]
    values = graph.constants[node.input[1]].reshape(len(graph.constants[node.input[1]]), -1).T.astype(np.float64)
    half = len(parts) // 2
    fitted, held_out = np.concatenate(parts[:half]), np.concatenate(parts[half:])
    found = study(fitted, held_out, values, high=float(np.quantile(fitted, 0.999)))
    return {"layer": node.name, "borders": found.borders, "output_mse_gain": found.gain}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--method", choices=("static", "mixed", "squant"), default="static")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    paths = options.models or [DATA / "models" / f"{name}.onnx" for name in MODELS]
    command = " ".join(["python", *sys.argv])
    print(f"{command}\none thread, {'VNNI' if has_vnni() else 'no VNNI: AVX2 multiplies 7-bit weights'}")
    settings = Settings(method=options.method, timing_s=5.0)
    result: dict[str, Any] = {"command": command, "vnni": has_vnni(), "models": []}
    material = None
    try:
        for path in paths:
            material, row = quantize_one(path, settings, options.images)
            result["models"].append(row)
            print_row(row)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if material is not None:
        with tempfile.TemporaryDirectory() as folder:
            result["saturation_ap"] = saturation(material, settings, Path(folder))
        result["weights_db"] = weight_study(material)
        result["formats"] = format_study(material)
        result["border"] = border_study(material)
        name = material.source.name
        print(f"{name}: AP here with weights for avx2 (7 bits), vnni (8 bits): {result['saturation_ap']}")
        print(f"{name}: outputs' error with weights rounded, dB: {result['weights_db']}")
        print(f"{name}: 4-bit formats of the layers' weights: {result['formats']}")
        print(f"{name}: rounding border of 4-bit activations: {result['border']}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
