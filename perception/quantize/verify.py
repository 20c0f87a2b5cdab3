"""Is a quantized network worth having? Its speed and its boxes beside the original's, and which layers are to blame.

Speed is the best of the backends that are installed, for each side: a fast integer network is no use if the float one
runs faster elsewhere. Accuracy is COCO's AP against labels or, without labels, *agreement*: the AP of the quantized
network's boxes when the float network's own, from a score of 0.3 on, are held to be the truth.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.average_precision import average_precision
from perception.camera_detector import CameraDetector, CameraDetectorConfig
from perception.model_spec import ModelSpec
from perception.quantize.calibration import activation_session
from perception.quantize.graph import Graph
from perception.quantize.plan import Layout, unit_end
from perception.quantize.timing import OperatorTime, operator_times, time_by_unit
from perception.runtime import LocalModels, load_network
from tercel.core.errors import Rejected
from tercel.core.messages import Detections2D, Image

Array = NDArray[Any]

EVALUATION = CameraDetectorConfig(score_threshold=0.01, nms_iou=0.6, multi_label=True)
TRUSTED_SCORE = 0.3
"""From this score on the float network's boxes are the truth of an agreement."""
MIN_AGREEMENT_AP50 = 0.8
"""Below this a quantized network is broken: its boxes are others."""
SLOWER = 1.02
"""Ratios of medians up to this are equal: that is how well two runs of one file agree here."""
_SPEED_BLAMED = 6
_LAYERS_BLAMED = 5


@dataclass(frozen=True, eq=False)
class Accuracy:
    """ap, ap50: of each side against the truth; labelled: whether that are labels; found: boxes by image."""

    labelled: bool
    ap_float: float
    ap_quantized: float
    ap50_float: float
    ap50_quantized: float
    found_float: list[Detections2D]
    found_quantized: list[Detections2D]

    @property
    def loss_points(self) -> float:
        """AP lost, in points of a hundred."""
        return 100.0 * (self.ap_float - self.ap_quantized)


def detect_all(path: Path, spec: ModelSpec, images: Iterable[Image]) -> list[Detections2D]:
    """What a model finds in each image, at COCO's thresholds; nothing where its output is not sound."""
    detector = CameraDetector(EVALUATION, LocalModels({"detector": load_network(path)}, {"detector": spec}))

    async def run() -> list[Detections2D]:
        found = []
        for image in images:
            try:
                found.append((await detector.detect(image))["detections"])
            except Rejected:
                found.append(_nothing(image, spec))
        return found

    return asyncio.run(run())


def _nothing(image: Image, spec: ModelSpec) -> Detections2D:
    return Detections2D(
        stamp_ns=image.stamp_ns,
        frame_id=image.frame_id,
        boxes_xyxy_px=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        labels=np.zeros(0, np.int32),
        class_names=spec.class_names,
    )


def trusted(found: Detections2D) -> Detections2D:
    """The boxes of at least TRUSTED_SCORE."""
    rows = np.flatnonzero(found.scores >= TRUSTED_SCORE)
    return Detections2D(
        stamp_ns=found.stamp_ns,
        frame_id=found.frame_id,
        boxes_xyxy_px=found.boxes_xyxy_px[rows],
        scores=found.scores[rows],
        labels=found.labels[rows],
        class_names=found.class_names,
    )


def compared(
    found_float: list[Detections2D], found_quantized: list[Detections2D], truth: Sequence[Detections2D] | None
) -> Accuracy:
    """AP of both sides against the truth; None: agreement."""
    held = list(truth) if truth is not None else [trusted(found) for found in found_float]
    ours, theirs = average_precision(found_float, held), average_precision(found_quantized, held)
    return Accuracy(
        labelled=truth is not None,
        ap_float=ours.mean,
        ap_quantized=theirs.mean,
        ap50_float=ours.mean_at(0.5),
        ap50_quantized=theirs.mean_at(0.5),
        found_float=found_float,
        found_quantized=found_quantized,
    )


def layer_sqnr_db(
    prepared: Any, quantized: Any, layout: Layout, inputs: Sequence[Array], names: Sequence[str]
) -> dict[str, float]:
    """Signal to quantization noise at the end of each named convolution's unit, with all before it quantized, in dB.

    prepared and quantized have the same names for tensors; both run as they do in use, with whatever saturates.
    """
    graph, after = Graph(prepared), Graph(quantized)
    nodes = {node.name: node for node in graph.convolutions()}
    ends = {name: unit_end(graph, nodes[name], layout) for name in names}
    ends = {name: end for name, end in ends.items() if end in after.producer}
    wanted = list(dict.fromkeys(ends.values()))
    if not wanted:
        return {}
    before_session, fed = activation_session(prepared, wanted)
    after_session, _ = activation_session(quantized, wanted)
    signal, noise = np.zeros(len(wanted)), np.zeros(len(wanted))
    for tensor in inputs:
        pairs = zip(before_session.run(wanted, {fed: tensor}), after_session.run(wanted, {fed: tensor}), strict=True)
        for index, (truth, found) in enumerate(pairs):
            signal[index] += float((truth.astype(np.float64) ** 2).sum())
            noise[index] += float(((truth.astype(np.float64) - found) ** 2).sum())
    ratio = dict(zip(wanted, 10.0 * np.log10((signal + 1e-30) / (noise + 1e-30)), strict=True))
    return {name: float(min(ratio[end], 120.0)) for name, end in ends.items()}


# --- blame -----------------------------------------------------------------------------------------------------------


def unit_owners(prepared: Any) -> dict[str, str]:
    """For each node that belongs to a convolution's unit, and each tensor it makes, the convolution's name.

    Backends name what they run after either. The activation and the quantizers behind belong to it in every layout,
    since the float network fuses them.
    """
    graph = Graph(prepared)
    owners: dict[str, str] = {}
    for node in graph.convolutions():
        alone = unit_end(graph, node, "fused") == node.output[0]
        for member in [node] if alone else [node, *graph.consumers[node.output[0]]]:
            owners[member.name] = node.name
            for made in member.output:
                owners |= dict.fromkeys((made, f"quantize_{made}", f"dequantize_{made}"), node.name)
    return owners


@dataclass(frozen=True)
class UnitTime:
    """ms of one convolution with its activation, or of all operators of a kind that belong to none, on each side."""

    name: str
    float_ms: float
    quantized_ms: float


def unit_times(
    prepared: Any, backend_float: str, file_float: Path, backend: str, file: Path, tensor: Array
) -> list[UnitTime]:
    """Where the time goes on each side, each in its own backend; what costs most to have quantized comes first."""
    owners = unit_owners(prepared)
    sides = []
    for name, path in ((backend_float, file_float), (backend, file)):
        times = operator_times(path, name, tensor)
        by_unit = time_by_unit(times, owners)
        rest = by_unit.pop("", 0.0)
        by_unit |= _by_kind(times, owners) if rest else {}
        sides.append(by_unit)
    names = list(dict.fromkeys((*sides[0], *sides[1])))
    rows = [UnitTime(name, sides[0].get(name, 0.0), sides[1].get(name, 0.0)) for name in names]
    return sorted(rows, key=lambda row: row.float_ms - row.quantized_ms)


def _by_kind(times: list[OperatorTime], owners: Mapping[str, str]) -> dict[str, float]:
    """ms of the operators that belong to no unit, by kind."""
    found: dict[str, float] = {}
    for one in times:
        if not time_by_unit([one], owners).keys() - {""}:
            kind = f"all {one.kind} elsewhere"
            found[kind] = found.get(kind, 0.0) + one.ms
    return found


def speed_blame(rows: Sequence[UnitTime]) -> list[str]:
    """The units that became slower, worst first, in words."""
    slower = [row for row in rows if row.quantized_ms > row.float_ms][:_SPEED_BLAMED]
    return [f"{row.name}: {row.float_ms:.2f} ms float, {row.quantized_ms:.2f} ms quantized" for row in slower]


def accuracy_blame(sqnr_db: Mapping[str, float], words: Callable[[str], str]) -> list[str]:
    """The layers behind which the signal first got lost: the steepest falls of the ratio, in words.

    words: more about a layer, such as its range.
    """
    names = list(sqnr_db)
    falls = [sqnr_db[before] - sqnr_db[name] for before, name in itertools.pairwise(names)]
    order = sorted(range(len(falls)), key=lambda index: -falls[index])[:_LAYERS_BLAMED]
    worst = [names[index + 1] for index in order if falls[index] > 1.0] or sorted(names, key=lambda n: sqnr_db[n])[:3]
    return [f"{name}: signal to noise {sqnr_db[name]:.1f} dB{words(name)}" for name in worst]
