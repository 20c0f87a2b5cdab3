"""Milliseconds from a network's raw outputs to the boxes in the image, for every head, at 640x480 and 80 classes.

    python tests/benchmarks/bench_decoding.py [--json FILE] [--rounds 100]

Outputs are noise below the default threshold with 40 boxes above it. The heads take turns, five calls at a time, so
that what else runs on the machine meets all of them; the first of five is not counted: it brings the outputs into the
processor's cache, where a network's last layer leaves them. On a busy machine `quiet`, the 2nd percentile, says more
than the median. The goal is 0.5 ms, decoding and selection together.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from perception.camera_detector import CameraDetector
from perception.detector_spec import detector_spec
from perception.images import Placement, place
from perception.model_spec import STRIDES_PX, ModelSpec, cell_counts

HEIGHT, WIDTH, CLASSES, FOUND = 480, 640, 80, 40
CELLS = cell_counts(HEIGHT, WIDTH)

Outputs = list[np.ndarray]


def raw_outputs(random: np.random.Generator) -> dict[str, tuple[tuple[str, ...], Outputs]]:
    """For each head the names of its outputs, where they matter, and the outputs."""

    def noise(*shape: int) -> np.ndarray:
        return random.random(shape, dtype=np.float32) * np.float32(0.2)

    def hot(array: np.ndarray, *columns: int | slice) -> np.ndarray:
        """Noise (1, N, M), FOUND rows of which score 0.9 in all the columns and in one class of the last slice."""
        rows = random.choice(array.shape[1], FOUND, replace=False)
        *fixed, classes = columns
        for column in fixed:
            array[0, rows, column] = 0.9
        array[0, :, classes][rows, random.integers(0, CLASSES, FOUND)] = 0.9
        return array

    cells, classes = sum(CELLS), slice(0, CLASSES)
    finished = noise(1, 300, 6)
    finished[0, :, 2:4] += 50.0
    finished[0, :FOUND, 4], finished[0, :, 5] = 0.9, random.integers(0, CLASSES, 300)
    partial = sum(-(-HEIGHT // s) * -(-WIDTH // s) for s in (*STRIDES_PX, 64))
    grid = hot(noise(1, HEIGHT * WIDTH // 256, 5 + CLASSES), 0, slice(5, None)).transpose(0, 2, 1).copy()
    boxes = noise(1, 3000, 4)
    boxes[0, :, 2:] += 0.3
    logits = [np.full((1, 6, HEIGHT // s, WIDTH // s), -4.0, np.float32) for s in STRIDES_PX]
    logits[0].reshape(6, -1)[2, random.choice(CELLS[0], FOUND, replace=False)] = 2.0
    sides = [noise(1, 4, HEIGHT // s, WIDTH // s) + 0.5 for s in STRIDES_PX]
    anchored = [noise(1, HEIGHT // s, WIDTH // s, 15 + CLASSES) for s in (16, 32)]
    hot(anchored[0].reshape(1, -1, 15 + CLASSES), 12, slice(15, None))
    nanodet = [noise(1, n, CLASSES) for n in CELLS] + [noise(1, n, 32) for n in CELLS]
    hot(nanodet[0], classes)
    return {
        "tercel": (tuple(f"{role}_{s}" for role in ("cls", "box") for s in STRIDES_PX), [*logits, *sides]),
        "yolox": ((), [hot(noise(1, cells, 5 + CLASSES), 4, slice(5, None))]),
        "yolov5": ((), [hot(noise(1, 3 * cells, 5 + CLASSES), 4, slice(5, None))]),
        "yolov8": ((), [hot(noise(1, cells, 4 + CLASSES), slice(4, None)).transpose(0, 2, 1).copy()]),
        "end_to_end": ((), [finished]),
        "rtdetr": ((), [hot(noise(1, 300, 4 + CLASSES), slice(4, None))]),
        "nanodet": ((), nanodet),
        "nanodet_plus": ((), [hot(noise(1, partial, CLASSES + 32), classes)]),
        "fastestdet": ((), [grid.reshape(1, 5 + CLASSES, HEIGHT // 16, WIDTH // 16)]),
        "yolo_fastestv2": ((), anchored),
        "ssd": (("scores", "boxes"), [hot(noise(1, 3000, 1 + CLASSES), slice(1, None)), boxes]),
    }


class OneModel:
    """`DetectorModels` of a spec, for a detector whose network is never run."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec

    def spec(self, model: str) -> ModelSpec:
        """The only one."""
        return self._spec

    async def infer(self, model: str, tensor: np.ndarray, *, deadline_ns: int | None = None) -> Outputs:
        """Not asked."""
        raise NotImplementedError


def measure(rounds: int) -> list[dict[str, Any]]:
    """One row for each head."""
    cases: list[tuple[CameraDetector, Placement, Outputs, list[float]]] = []
    for names, outputs in raw_outputs(np.random.default_rng(0)).values():
        spec = detector_spec((1, 3, HEIGHT, WIDTH), [o.shape for o in outputs], output_names=names)
        placement = place(HEIGHT, WIDTH, HEIGHT, WIDTH, spec.fit)
        cases.append((CameraDetector(models=OneModel(spec)), placement, outputs, []))
    for _ in range(rounds):
        for detector, placement, outputs, times_ms in cases:
            for turn in range(5):
                began_ns = time.perf_counter_ns()
                detector.boxes_from_outputs(outputs, placement)
                if turn > 0:
                    times_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
    return [
        {
            "head": detector.spec.head,
            "values": sum(o.size for o in outputs),
            "boxes": len(detector.boxes_from_outputs(outputs, placement).scores),
            "quiet_ms": float(np.percentile(times_ms, 2)),
            "median_ms": float(np.median(times_ms)),
        }
        for detector, placement, outputs, times_ms in cases
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    command = f"python tests/benchmarks/bench_decoding.py --rounds {options.rounds}"
    print(command)
    rows = measure(options.rounds)
    print(f"{'head':<16}{'values':>10}{'boxes':>7}{'quiet ms':>10}{'median ms':>11}")
    for row in rows:
        print(
            f"{row['head']:<16}{row['values']:>10}{row['boxes']:>7}{row['quiet_ms']:>10.3f}{row['median_ms']:>11.3f}"
            f"{'' if row['quiet_ms'] <= 0.5 else '  above the goal'}"
        )
    if options.json:
        options.json.write_text(json.dumps({"command": command, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
