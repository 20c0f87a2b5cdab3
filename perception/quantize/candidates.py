"""The candidates of each method of quantization: one prepared model, turned into integers in one or several ways."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from perception.model_spec import ModelSpec
from perception.quantize import mixed
from perception.quantize.calibration import Histogram, Range, RangeMethod, quantizer_range
from perception.quantize.graph import Graph, constant, rewrite, write_model
from perception.quantize.number_formats import best_format
from perception.quantize.plan import LAYOUTS, Layout, make_plan
from perception.quantize.sensitivity import Trials, convolution_errors, fragile_tensors, sturdy_convolutions
from perception.quantize.squant import squant_weights
from perception.quantize.static import (
    INT4_LIMIT,
    WEIGHT_LIMITS,
    IntegerWeights,
    Target,
    quantized_model,
    rounded_weights,
    weights_only_model,
)
from perception.quantize.timing import BACKENDS, latencies_ms
from perception.quantize.verify import (
    MIN_AGREEMENT_AP50,
    Accuracy,
    compared,
    detect_all,
    unit_times,
)
from tercel.core.messages import Detections2D, Image

Array = NDArray[Any]
Method = Literal["static", "squant", "mixed", "qat", "ant"]
METHODS: tuple[Method, ...] = get_args(Method)

TRIAL_IMAGES = 1
"""So many tell which activations are fragile; errors of two images differ by less than 2 dB."""


@dataclass(frozen=True)
class Settings:
    """How to quantize. backends: those that speed is measured in; max_ap_loss: AP in points that may be lost.

    timing_s: seconds that each measurement of speed takes.
    """

    method: Method = "static"
    bits: int = 8
    target: Target = "avx2"
    ranges: RangeMethod = "mse"
    layouts: tuple[Layout, ...] = LAYOUTS
    backends: tuple[str, ...] = BACKENDS
    max_ap_loss: float = 1.0
    threads: int = 1
    timing_s: float = 6.0

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits {self.bits} must be 4 or 8")
        if self.bits == 4 and self.method not in ("squant", "ant"):
            raise ValueError("4 bits are offered for weights only: method squant or ant")
        if not self.max_ap_loss > 0.0 or self.threads < 1:
            raise ValueError("max_ap_loss must be above 0 and threads at least 1")


@dataclass(eq=False)
class Material:
    """What a quantization works with: the float model, prepared, and the images that it is measured with."""

    source: Path
    spec: ModelSpec
    model: Any
    graph: Graph
    histograms: dict[str, Histogram]
    images: list[Image]
    truth: list[Detections2D] | None
    inputs: list[Array]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One quantized model. layout: where its quantizers stand (of no meaning for weights only)."""

    name: str
    model: Any
    layout: Layout
    convolutions: tuple[str, ...]
    ranges: dict[str, Range] = field(default_factory=dict)


def integer_weights(graph: Graph, settings: Settings) -> dict[str, IntegerWeights]:
    """Every convolution's weights as integers, by the method."""
    squant = settings.method == "squant"
    limit = INT4_LIMIT if settings.bits == 4 else WEIGHT_LIMITS[settings.target]
    make = squant_weights if squant else rounded_weights
    return {node.name: make(graph.constants[node.input[1]], limit) for node in graph.convolutions()}


def static_candidates(
    material: Material, settings: Settings, say: Callable[[str], object]
) -> tuple[list[Candidate], Trials, dict[str, IntegerWeights]]:
    """A candidate for each layout, with fragile activations left in float."""
    graph = material.graph
    weights = integer_weights(graph, settings)
    ranges = activation_ranges(material, settings)
    trials = Trials(material.model, ranges, weights, material.inputs[:TRIAL_IMAGES])
    candidates = []
    for layout in settings.layouts:
        plan = make_plan(graph, layout=layout)
        fragile = fragile_tensors(trials, plan)
        kept = sturdy_convolutions(graph, plan, fragile)
        if fragile:
            say(f"{layout}: left in float for their error alone: {', '.join(map(repr, fragile))}")
        candidates.append(_candidate(layout, material, layout, kept, ranges, weights, settings))
    return candidates, trials, weights


def activation_ranges(material: Material, settings: Settings) -> dict[str, Range]:
    """Of every activation of any plan; one that shares a range may need it for itself in a smaller plan."""
    ranges = {name: quantizer_range(histogram, settings.ranges) for name, histogram in material.histograms.items()}
    for layout in settings.layouts:
        shares = make_plan(material.graph, layout=layout).shares
        ranges |= {name: ranges[owner] for name, owner in shares.items() if name not in ranges}
    return ranges


def _candidate(
    name: str,
    material: Material,
    layout: Layout,
    convolutions: Sequence[str],
    ranges: Mapping[str, Range],
    weights: Mapping[str, IntegerWeights],
    settings: Settings,
) -> Candidate:
    plan = make_plan(material.graph, layout=layout, convolutions=convolutions)
    model = quantized_model(material.model, plan, ranges, weights, target=settings.target)
    kept = {name: ranges[name] for name in plan.tensors if name not in plan.shares}
    return Candidate(name, model, layout, plan.convolutions, kept)


def mixed_candidates(
    material: Material, settings: Settings, say: Callable[[str], object]
) -> tuple[list[Candidate], list[mixed.LayerChoice]]:
    """The candidates of `mixed`, each within the accuracy budget, and what was measured of each layer."""
    full, trials, weights = static_candidates(material, settings, say)
    with tempfile.TemporaryDirectory() as folder:
        files = written([*full], material.model, Path(folder))
        speeds = latencies_ms(
            files, material.inputs[0], backends=settings.backends, threads=settings.threads, seconds=settings.timing_s
        )
        backend, best = fastest(speeds, [one.name for one in full])
        base = next(one for one in full if one.name == best)
        float_backend, _ = fastest(speeds, ["float"])
        times = unit_times(material.model, float_backend, files["float"], backend, files[best], material.inputs[0])
        plan = make_plan(material.graph, layout=base.layout, convolutions=base.convolutions)
        errors = convolution_errors(trials, material.graph, plan, base.layout)
        ranked = mixed.ranking(errors, times)
        say(f"mixed: {len(ranked)} of {len(errors)} convolutions gain time as integers in {backend}")
        gains = mixed.gains_ms(errors, times)
        found_float = detect_all(material.source, material.spec, material.images)
        within = []
        for head in mixed.heads(ranked):
            taken = mixed.bridged(material.graph, base.layout, head, errors)
            name = f"{len(taken)} of {len(errors)}"
            one = _candidate(
                name, material, base.layout, taken, activation_ranges(material, settings), weights, settings
            )
            path = written([one], None, Path(folder))[one.name]
            accuracy = compared(found_float, detect_all(path, material.spec, material.images), material.truth)
            say(f"mixed: {name} convolutions as integers lose {accuracy.loss_points:.2f} points")
            if not is_broken(accuracy, settings):
                within.append(one)
            if len(within) == 2:
                break
    kept = within or full
    layers = [mixed.LayerChoice(n, errors[n], gains[n], any(n in one.convolutions for one in within)) for n in errors]
    return kept, layers


def weights_only(material: Material, settings: Settings) -> Candidate:
    """Integer weights alone."""
    # Nothing is multiplied in integers here, so nothing saturates: all eight bits are used.
    weights = integer_weights(material.graph, replace(settings, target="vnni"))
    model = weights_only_model(material.model, weights, bits=settings.bits)
    return Candidate(f"weights in {settings.bits} bits", model, "fused", tuple(weights))


def in_formats(material: Material, settings: Settings) -> tuple[Candidate, list[dict[str, Any]]]:
    """Weights rounded to the best number format of so many bits, written as floats; and a row for each layer."""
    rows, constants = [], []
    for node in material.graph.convolutions():
        values = material.graph.constants[node.input[1]]
        choice = best_format(values, settings.bits)
        constants.append(constant(node.input[1], choice.values))
        power = float((values**2).mean()) or 1.0
        rows.append(
            {
                "layer": node.name,
                "weights": int(values.size),
                "format": choice.format,
                "bytes": (values.size * settings.bits + 7) // 8 + 4 * len(values),
                "sqnr_db": {k: 10.0 * float(np.log10(power / max(v, 1e-30))) for k, v in choice.mse.items()},
            }
        )
    replaced = {one.name for one in constants}
    model = rewrite(material.model, material.graph.nodes, [])
    kept = [one for one in model.graph.initializer if one.name not in replaced]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *constants])
    names = tuple(node.name for node in material.graph.convolutions())
    return Candidate(f"weights in {settings.bits}-bit formats", model, "fused", names), rows


def written(candidates: Sequence[Candidate], model: Any, folder: Path) -> dict[str, Path]:
    """Each candidate as a file, and the float model, if given, as "float"."""
    files = {} if model is None else {"float": folder / "float.onnx"}
    if model is not None:
        write_model(files["float"], model, {})
    for index, one in enumerate(candidates):
        files[one.name] = folder / f"candidate_{len(list(folder.iterdir()))}_{index}.onnx"
        write_model(files[one.name], one.model, {})
    return files


def fastest(speeds: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> tuple[str, str]:
    """(backend, name) of the least ms among these names."""
    return min(((b, n) for b in speeds for n in names), key=lambda key: speeds[key[0]][key[1]])


def is_broken(accuracy: Accuracy, settings: Settings) -> bool:
    """Labels: more AP is lost than may be. Without: too many boxes are others, or there was none to compare."""
    if accuracy.labelled:
        return not accuracy.loss_points <= settings.max_ap_loss
    return not accuracy.ap50_quantized >= MIN_AGREEMENT_AP50
