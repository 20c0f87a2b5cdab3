"""What a camera detector costs, stage by stage, in each backend, beside cv2.dnn and a plain onnxruntime session.

    python tests/benchmarks/bench_detector_runtime.py [--rounds 15] [--threads 1 2] [--json FILE] [MODEL.onnx ...]

Without models: those that come with Tercel and all of TERCEL_DATA/models, else of ../shared/data/models beside the
repository. One real frame of 640x480. All that is compared runs in turn in one process, so that a busy machine slows
both sides alike; medians. CPU ms are of all threads: what spins or splits work costs more of them than of the clock.

    network        Network.run of a backend with so many threads; peers: cv2.dnn, and onnxruntime as it comes (all
                   cores, spinning)
    preprocessing  TensorMaker on one thread; peer: cv2.dnn.blobFromImage, which letterboxes by no means and knows one
                   scale for all channels
    boxes          decoding, selection and suppression, at the component's own thresholds

The shares are of CPU ms, of the faster backend on one thread. The goals: preprocessing of the frame under 0.7 ms and
15 % of the network, boxes under 0.5 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from perception.backend_choice import board_name  # noqa: E402
from perception.camera_detector import CameraDetector  # noqa: E402
from perception.images import TensorMaker  # noqa: E402
from perception.runtime import Backend, LocalModels, load_network  # noqa: E402
from tercel.core.errors import UserError  # noqa: E402

BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino")
Times = dict[str, dict[str, float]]


def data_folder() -> Path:
    """TERCEL_DATA, else the folder beside the repository."""
    return Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))


def vga_frame() -> np.ndarray:
    """The first image of the labelled ones that is 640x480."""
    for path in sorted((data_folder() / "img_coco256" / "images" / "val2017").glob("*.jpg")):
        pixels = cv2.imread(str(path))
        if pixels is not None and pixels.shape == (480, 640, 3):
            return np.asarray(pixels)
    raise UserError(f"no image of 640x480 under {data_folder()}; set TERCEL_DATA")


def in_turn(runs: dict[str, Callable[[], Any]], rounds: int) -> Times:
    """Median ms and CPU ms of each, after one round that does not count."""
    walls: dict[str, list[float]] = {name: [] for name in runs}
    cpus: dict[str, list[float]] = {name: [] for name in runs}
    for count in range(rounds + 1):
        for name, run in runs.items():
            cpu_s, start_s = time.process_time(), time.perf_counter()
            run()
            if count:
                walls[name].append((time.perf_counter() - start_s) * 1e3)
                cpus[name].append((time.process_time() - cpu_s) * 1e3)
    return {name: {"ms": float(np.median(walls[name])), "cpu_ms": float(np.median(cpus[name]))} for name in runs}


def with_cv2_threads(count: int, run: Callable[[], Any]) -> Callable[[], Any]:
    """The run with so many threads of OpenCV's, which otherwise has one here."""

    def counted() -> None:
        cv2.setNumThreads(count)
        run()
        cv2.setNumThreads(1)

    return counted


def network_runs(path: Path, tensor: np.ndarray, threads: list[int]) -> dict[str, Callable[[], Any]]:
    """The ways of running a network, ours and the peers'."""
    runs: dict[str, Callable[[], Any]] = {}
    for count in threads:
        for backend in BACKENDS:
            network = load_network(path, threads=count, backend=backend)
            runs[f"{backend} x{count}"] = lambda network=network: network.run(tensor)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    runs["peer: onnxruntime as it comes"] = lambda: session.run(None, {name: tensor})
    try:
        net = cv2.dnn.readNetFromONNX(str(path))
        outputs = net.getUnconnectedOutLayersNames()

        def forward() -> None:
            net.setInput(tensor)
            net.forward(outputs)

        forward()
        runs |= {f"peer: cv2.dnn x{count}": with_cv2_threads(count, forward) for count in threads}
    except cv2.error:
        print(f"{path.name}: cv2.dnn cannot run it")
    return runs


def measure(path: Path, frame: np.ndarray, threads: list[int], rounds: int) -> dict[str, Any]:
    """All stages of one model."""
    models = LocalModels({"detector": load_network(path)})
    detector = CameraDetector(models=models)
    spec = detector.spec
    make_tensor = TensorMaker(spec)
    tensor, placement = make_tensor(frame)
    outputs = load_network(path).run(tensor)
    size = (spec.input_width_px, spec.input_height_px)

    stages = {
        "preprocessing": lambda: make_tensor(frame),
        "peer: blobFromImage": lambda: cv2.dnn.blobFromImage(frame, 1.0 / spec.std[0], size, spec.mean),
        "boxes": lambda: detector.boxes_from_outputs(outputs, placement),
    }
    times = in_turn(network_runs(path, tensor, threads), rounds) | in_turn(stages, 10 * rounds)
    network_ms = min(times[f"{backend} x{threads[0]}"]["cpu_ms"] for backend in BACKENDS)
    return {
        "model": path.name,
        "input": f"{spec.input_width_px}x{spec.input_height_px}",
        "head": spec.head,
        "times": times,
        "preprocessing_share": times["preprocessing"]["cpu_ms"] / network_ms,
        "boxes_share": times["boxes"]["cpu_ms"] / network_ms,
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    folders = (REPOSITORY / "perception" / "models", data_folder() / "models")
    paths = options.models or [path for folder in folders for path in sorted(folder.glob("*.onnx"))]
    command = " ".join(["python", *sys.argv])
    print(f"{command}\n{platform.machine()}, {board_name()}; medians of {options.rounds} rounds")
    rows = []
    try:
        frame = vga_frame()
        for path in paths:
            row = measure(path, frame, options.threads, options.rounds)
            rows.append(row)
            print(f"\n{row['model']} ({row['head']}, {row['input']})")
            for name, took in row["times"].items():
                print(f"  {name:32s} {took['ms']:8.3f} ms  CPU {took['cpu_ms']:8.3f} ms")
            print(
                f"  of the faster network x{options.threads[0]}: preprocessing {row['preprocessing_share']:.1%}, "
                f"boxes {row['boxes_share']:.1%}"
            )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps({"command": command, "board": board_name(), "models": rows}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
