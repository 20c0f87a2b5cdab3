"""Which network is fast in integers: candidates for tercel-nano, untrained, timed in both backends (extra `train`).

    python tests/benchmarks/study_network.py [--seconds 60] [--json FILE]

Each shape is exported as it would be released, quantized as a plan says without looking at accuracy, and timed in turn
with the others, one thread, 320x320. The choice fell by these times; multiply-accumulates are printed to show why not
by them. Not part of `make bench`, for it needs torch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from perception.quantize import procedure
from perception.quantize.calibration import quantizer_range
from perception.quantize.candidates import BACKENDS, Settings, integer_weights
from perception.quantize.graph import write_model
from perception.quantize.images import ImageFiles, calibration_files
from perception.quantize.plan import make_plan
from perception.quantize.static import quantized_model
from perception.quantize.timing import latencies_ms
from perception.train.export import export_onnx
from perception.train.network import Shape, TercelNano

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
SIDE_PX = 320
SHAPES = {
    "dense (released)": Shape(),
    "dense, ReLU": Shape(activation="relu"),
    "dense, wide neck": Shape((32, 64, 96, 128), (0, 1, 2, 2), 64),
    "dense, block at 4": Shape((32, 48, 96, 128), (1, 2, 2, 1), 48),
    "bottleneck": Shape(kind="bottleneck"),
    "mobile": Shape(kind="mobile"),
    "dense, edges": Shape(edges=True),
}


def multiply_accumulates(network: torch.nn.Module) -> int:
    """Of one picture, in the released part."""
    total = 0

    def count(module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, torch.nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    network(torch.zeros(1, 3, SIDE_PX, SIDE_PX))
    for hook in hooks:
        hook.remove()
    return total


def in_integers(source: Path, files: ImageFiles, target: Path) -> None:
    """All eligible convolutions, whatever they do to the (untrained) answers."""
    settings = Settings(layouts=("fused",))
    material = procedure.gather(source, files, list(files.read())[:2], None, settings)
    ranges = {name: quantizer_range(histogram, settings.ranges) for name, histogram in material.histograms.items()}
    weights = integer_weights(material.graph, settings)
    write_model(target, quantized_model(material.model, make_plan(material.graph, layout="fused"), ranges, weights), {})


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(" ".join(["python", *sys.argv]))
    counts: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as name:
        files: dict[str, Path] = {}
        images = calibration_files([DATA / "img_coco256" / "images" / "train2017"], 4)
        for index, (word, shape) in enumerate(SHAPES.items()):
            torch.manual_seed(0)
            network = TercelNano(shape, 6).eval()
            taught_only = sum(p.numel() for p in network.one_to_many.parameters())
            counts[word] = (sum(p.numel() for p in network.parameters()) - taught_only, multiply_accumulates(network))
            files |= {f"{word}, float": Path(name) / f"{index}.onnx", f"{word}, INT8": Path(name) / f"{index}q.onnx"}
            export_onnx(network, files[f"{word}, float"], SIDE_PX)
            in_integers(files[f"{word}, float"], images, files[f"{word}, INT8"])
        tensor = np.random.default_rng(0).uniform(0, 255, (1, 3, SIDE_PX, SIDE_PX)).astype(np.float32)
        times = latencies_ms(files, tensor, backends=BACKENDS, threads=1, seconds=options.seconds)
    print(f"{'shape':20} {'M weights':>10} {'M MAC':>7} {'float ms':>9} {'INT8 ms':>8} {'ratio':>6}   backends")
    rows = {}
    for word, (weights, macs) in counts.items():
        (slow, first), (fast, second) = (
            min((ms[f"{word}, {kind}"], backend) for backend, ms in times.items()) for kind in ("float", "INT8")
        )
        rows[word] = {"weights": weights, "macs": macs, "float_ms": slow, "int8_ms": fast}
        print(
            f"{word:20} {weights / 1e6:>10.2f} {macs / 1e6:>7.0f} {slow:>9.2f} {fast:>8.2f} {slow / fast:>6.2f}   "
            f"{first}, {second}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
