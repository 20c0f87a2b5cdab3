"""The whole of `tercel quantize`: calibrate, quantize in one of the ways, and verify against the original.

All candidates of a method (the layouts that different runtimes like, the precisions of `mixed`) are measured in one go
beside the float network; the fastest one is then held against it for accuracy. What is slower or broken is not done.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.images import TensorMaker, bgr_from_image
from perception.model_card import card_beside, card_path, write_card
from perception.model_spec import ModelSpec
from perception.quantize import mixed
from perception.quantize.calibration import Histogram, measure, overflow
from perception.quantize.candidates import (
    Candidate,
    Material,
    Settings,
    fastest,
    in_formats,
    is_broken,
    mixed_candidates,
    static_candidates,
    weights_only,
    written,
)
from perception.quantize.graph import INT4_OPSET, MIN_OPSET, Graph, prepared, write_model
from perception.quantize.images import ImageFiles
from perception.quantize.plan import make_plan
from perception.quantize.timing import latencies_ms
from perception.quantize.verify import (
    SLOWER,
    Accuracy,
    UnitTime,
    accuracy_blame,
    compared,
    detect_all,
    layer_sqnr_db,
    speed_blame,
    unit_times,
)
from perception.runtime import LocalModels, load_network
from tercel.core.errors import UserError
from tercel.core.messages import Detections2D, Image

Array = NDArray[Any]
STRANGE_SHARE = 0.01
"""Values outside the calibrated range, of one activation, from which on the verification images look like others."""
SLACK = 0.05
"""How far beyond a calibrated range, as a part of it, nothing is strange."""
_PROBED_IMAGES = 4


@dataclass(eq=False)
class Outcome:
    """What came of it. done: neither slower nor broken; reasons: why not, in words; blame: operators and layers."""

    done: bool
    chosen: Candidate
    summary: dict[str, Any]
    reasons: list[str]
    blame: list[str]
    warnings: list[str]
    accuracy: Accuracy
    images: list[Image]
    sqnr_db: dict[str, float]
    times: list[UnitTime]
    formats: list[dict[str, Any]] = field(default_factory=list)
    layers: list[mixed.LayerChoice] = field(default_factory=list)


# --- before ----------------------------------------------------------------------------------------------------------


def detector_of(source: Path) -> ModelSpec:
    """What the camera detector knows of a model file. Raises UserError for a model that is no detector."""
    return LocalModels({"detector": load_network(source)}).spec("detector")


def gather(
    source: Path,
    calibration: ImageFiles | None,
    images: list[Image],
    truth: list[Detections2D] | None,
    settings: Settings,
) -> Material:
    """Load and prepare the model and measure its activations over the calibration images, if there are any.

    images, truth: to verify with. Raises UserError as graph.prepared and calibration.measure do, and for a model that
    is no detector.
    """
    model = prepared(source, opset=INT4_OPSET if settings.bits == 4 else MIN_OPSET)
    spec = detector_of(source)
    graph = Graph(model)
    if not graph.convolutions():
        raise UserError(f"{source}: its convolutions have no constant weights; export it for inference")
    histograms: dict[str, Histogram] = {}
    if calibration is not None:
        plans = [make_plan(graph, layout=layout) for layout in settings.layouts]
        tensors = dict.fromkeys(name for plan in plans for name in plan.tensors if name not in plan.shares)
        histograms = measure(model, list(tensors), calibration.tensors(spec))
    maker = TensorMaker(spec)
    inputs = [maker(bgr_from_image(image))[0] for image in images[:: max(1, len(images) // _PROBED_IMAGES)]]
    return Material(source, spec, model, graph, histograms, images, truth, inputs[:_PROBED_IMAGES])


def calibration_warnings(material: Material, calibration: ImageFiles) -> list[str]:
    """What is odd about the calibration images: damaged ones, flat ones, and activations that others go beyond."""
    used = len(calibration.paths) - len(calibration.problems)
    found = []
    if calibration.problems:
        first = next(iter(calibration.problems.values()))
        found.append(f"{len(calibration.problems)} calibration images could not be used, such as {first}")
    if 2 * len(calibration.flat) >= used:
        found.append(f"{len(calibration.flat)} of {used} calibration images are of one colour; give real ones")
    if used < 16:
        found.append(f"only {used} calibration images; a few dozen give steadier ranges")
    seen = measure(material.model, list(material.histograms), material.inputs)
    limits = {name: _with_slack(histogram.low, histogram.high) for name, histogram in material.histograms.items()}
    beyond = overflow(seen, limits)
    strange = {name: share for name, share in beyond.items() if share > STRANGE_SHARE}
    if strange:
        worst = max(strange, key=lambda name: strange[name])
        low, high = material.histograms[worst].low, material.histograms[worst].high
        reach = (max(seen[worst].high, high) - min(seen[worst].low, low)) / max(high - low, 1e-9)
        found.append(
            f"the calibration images are unlike those verified with: {len(strange)} of {len(beyond)} activations go "
            f"beyond their calibrated range, at worst {worst!r} with {100 * strange[worst]:.1f} % of its values, in a "
            f"range {reach:.3g} times as wide; calibrate with images from where the network will be used"
        )
    return found


# --- the run ---------------------------------------------------------------------------------------------------------


def _with_slack(low: float, high: float) -> tuple[float, float]:
    slack = SLACK * (high - low)
    return low - slack, high + slack


def run(material: Material, settings: Settings, say: Callable[[str], object] = print) -> Outcome:
    """Quantize and verify. Whether activations become integers follows from the method and from calibration images.

    Raises UserError for a method that needs calibration images and has none.
    """
    formats: list[dict[str, Any]] = []
    layers: list[mixed.LayerChoice] = []
    calibrated = bool(material.histograms) and settings.bits == 8
    if settings.method in ("static", "mixed", "qat") and not calibrated:
        raise UserError(f"--method {settings.method} needs images: --calibration FOLDER")
    if settings.method == "ant":
        candidate, formats = in_formats(material, settings)
        candidates = [candidate]
    elif settings.method == "mixed":
        candidates, layers = mixed_candidates(material, settings, say)
    elif settings.method == "squant" and not calibrated:
        candidates = [weights_only(material, settings)]
    else:
        candidates, _, _ = static_candidates(material, settings, say)
    outcome = verified(material, settings, candidates)
    outcome.formats, outcome.layers = formats, layers
    return outcome


def verified(material: Material, settings: Settings, candidates: list[Candidate]) -> Outcome:
    """Measure all candidates for speed, the fastest for accuracy, and judge."""
    with tempfile.TemporaryDirectory() as folder:
        files = written(candidates, None, Path(folder)) | {"float": material.source}
        speeds = latencies_ms(
            files, material.inputs[0], backends=settings.backends, threads=settings.threads, seconds=settings.timing_s
        )
        backend, best = fastest(speeds, [one.name for one in candidates])
        float_backend, _ = fastest(speeds, ["float"])
        chosen = next(one for one in candidates if one.name == best)
        found = [detect_all(path, material.spec, material.images) for path in (material.source, files[best])]
        accuracy = compared(found[0], found[1], material.truth)
        sqnr = layer_sqnr_db(material.model, chosen.model, chosen.layout, material.inputs, chosen.convolutions)
        float_ms, quantized_ms = speeds[float_backend]["float"], speeds[backend][best]
        slow = settings.method != "ant" and quantized_ms > SLOWER * float_ms
        size = (material.source.stat().st_size, files[best].stat().st_size)
        prepared_file = written([], material.model, Path(folder))["float"]
        times = unit_times(material.model, float_backend, prepared_file, backend, files[best], material.inputs[0])
    broken = is_broken(accuracy, settings)
    reasons, blame = _judgement(accuracy, slow, broken, float_ms, quantized_ms, (float_backend, backend))
    if slow:
        blame += speed_blame(times)
    if broken:
        blame += accuracy_blame(sqnr, lambda name: _range_words(material.graph, chosen, name))
    summary = {
        "model": material.source.name,
        "method": settings.method,
        "bits": settings.bits,
        "target": settings.target,
        "layout": chosen.layout,
        "chosen": chosen.name,
        "convolutions": {"quantized": len(chosen.convolutions), "all": len(material.graph.convolutions())},
        "bytes": {"float": size[0], "quantized": size[1]},
        "latency_ms": speeds,
        "float_ms": float_ms,
        "quantized_ms": quantized_ms,
        "backend": {"float": float_backend, "quantized": backend},
        "speedup": float_ms / quantized_ms,
        "accuracy": _accuracy_numbers(accuracy),
        "images": len(material.images),
    }
    return Outcome(
        not reasons, chosen, summary, reasons, blame, [], accuracy, material.images, sqnr, times
    )  # fmt: skip


def _accuracy_numbers(accuracy: Accuracy) -> dict[str, Any]:
    return {
        "measure": "AP against labels" if accuracy.labelled else "agreement with the float model",
        "ap_float": accuracy.ap_float,
        "ap_quantized": accuracy.ap_quantized,
        "ap50_float": accuracy.ap50_float,
        "ap50_quantized": accuracy.ap50_quantized,
        "loss_points": accuracy.loss_points,
    }


def _judgement(
    accuracy: Accuracy, slow: bool, broken: bool, float_ms: float, quantized_ms: float, backends: tuple[str, str]
) -> tuple[list[str], list[str]]:
    reasons: list[str] = []
    if slow:
        reasons.append(
            f"slower: {quantized_ms:.2f} ms in {backends[1]}, against {float_ms:.2f} ms of the float model in "
            f"{backends[0]}"
        )
    if broken and accuracy.labelled:
        reasons.append(f"less accurate: AP {accuracy.ap_quantized:.3f} against {accuracy.ap_float:.3f}")
    elif broken and np.isnan(accuracy.ap50_quantized):
        reasons.append("cannot be judged: the float model finds nothing in the images; give some with objects")
    elif broken:
        reasons.append(f"other boxes: agreement with the float model is {accuracy.ap50_quantized:.2f} (AP50)")
    return reasons, []


def _range_words(graph: Graph, chosen: Candidate, name: str) -> str:
    node = next(one for one in graph.convolutions() if one.name == name)
    low_high = chosen.ranges.get(node.input[0])
    return f", reads {node.input[0]!r} within {low_high[0]:.3g}..{low_high[1]:.3g}" if low_high else ""


def keep(outcome: Outcome, source: Path, output: Path) -> None:
    """Write the chosen model, with how it was made as metadata, and a card where the original has one."""
    facts = {key: outcome.summary[key] for key in ("method", "bits", "target", "layout")}
    write_model(output, outcome.chosen.model, {"tercel_quantization": json.dumps(facts, sort_keys=True)})
    card = card_beside(source)
    if card is not None:
        sha256 = load_network(output).sha256
        write_card(card_path(output), replace(card, sha256=sha256))
