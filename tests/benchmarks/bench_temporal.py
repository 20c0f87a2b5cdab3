"""What the temporal detector saves against a network that sees every image in full, and what it costs in AP.

    python tests/benchmarks/bench_temporal.py [--scene drive] [--sweep] [--json FILE] [MODEL.onnx ...]

Without models: yolox_nano_416, nanodet_m_320 and fastestdet_352 of TERCEL_DATA/models (else of ../shared/data/models
beside the repository) and perception/models/tercel-nano.onnx where it is. One thread. Both sides see the same images
one after the other in one process, from the image to the boxes, decisions included, at the component's own thresholds;
AP is also given for scores from 0.05 on. Several runs, each begun an image later, so that no lucky phase decides.

A wide image wastes most of a square input. That is not temporal: `square` is the network as its file is, `full` the
same network at the rectangle that the image needs, and `saved` is measured against `full`. (FastestDet's boxes are
shares of the square that it was trained on: it has no rectangle.) Times are CPU times of the one thread that does all:
on a core of its own they are the latency, and on a shared one they do not count the neighbours; `wall` beside them is
the clock's. A cost is the median of each kind of image, times how many there were.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from perception.average_precision import average_precision
from perception.camera_detector import CameraDetector, CameraDetectorConfig
from perception.runtime import LocalModels, Network, load_network
from perception.temporal_detector import TemporalDetector, TemporalDetectorConfig
from tercel.core.errors import UserError
from tercel.core.messages import Detections2D
from tests.benchmarks import temporal_scenes as scenes

REPOSITORY = Path(__file__).resolve().parents[2]
KEPT = REPOSITORY / "out" / "bench_temporal"
NAMES = ("yolox_nano_416.onnx", "nanodet_m_320.onnx", "fastestdet_352.onnx")
SCENES = ("drive", "hand_held", "street", "still", "changing")
PHASES = {"drive": 4}
LOW = {"score_threshold": 0.05, "nms_iou": 0.6}
SWEEP = [(i, m) for i in (450.0, 650.0, 850.0, 1050.0) for m in (0.15, 0.25, 0.35)]
"""max_interval_ms and max_moved; the intervals lie between the drive's images."""


def data_folder() -> Path:
    """TERCEL_DATA, else the folder beside the repository."""
    return Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))


def load_scene(name: str) -> scenes.Scene:
    """One of SCENES."""
    data, models = data_folder(), data_folder() / "models"
    if name == "hand_held":
        return scenes.hand_held(data, models, KEPT)
    if name == "street":
        return scenes.street(KEPT)
    first = scenes.drive(data, models, KEPT)
    return {"drive": lambda s: s, "still": scenes.still, "changing": scenes.changing}[name](first)


def rectangle(network: Network, height_px: int, width_px: int) -> tuple[int, int]:
    """(height, width) of the smallest input in steps of 32 for an image as large as in the square, or 5 % smaller."""
    size = network.input_shape[2:]
    scale = min(size[0] / height_px, size[1] / width_px)
    return tuple(
        min(s, math.ceil(0.95 * side * scale / 32) * 32) for s, side in zip(size, (height_px, width_px), strict=True)
    )  # type: ignore[return-value]


def run(scene: scenes.Scene, networks: dict[str, Network], **settings: Any) -> dict[str, Any]:
    """One pass of both sides over the scene: messages, seconds and decisions."""
    models = LocalModels(networks)
    plain = {k: v for k, v in settings.items() if k in ("score_threshold", "nms_iou")}
    if "regions" in networks:
        settings["regions_model"] = "regions"
    full = CameraDetector(CameraDetectorConfig(**plain), models)
    temporal = TemporalDetector(TemporalDetectorConfig(**settings), models)
    rows: dict[str, list[Any]] = {"full": [], "temporal": [], "full_s": [], "temporal_s": [], "kinds": []}
    rows |= {"full_wall_s": [], "temporal_wall_s": []}

    async def watch() -> None:
        for image in scene.images:
            for name, detector in (("full", full), ("temporal", temporal)):
                start, wall = time.thread_time(), time.perf_counter()
                found = (await detector.detect(image))["detections"]
                rows[f"{name}_s"].append(time.thread_time() - start)
                rows[f"{name}_wall_s"].append(time.perf_counter() - wall)
                rows[name].append(scenes.in_tercel_classes(found))
            assert temporal.decision is not None
            followed = temporal.decision.reason in ("moved", "much is new")
            rows["kinds"].append(temporal.decision.kind + (" after following" if followed else ""))

    asyncio.run(watch())
    return {**rows, "counters": temporal.counters()}


def ap(found: list[Detections2D], truth: list[Detections2D]) -> float:
    """In points, over the classes of ours that there are."""
    return 100.0 * average_precision(found, truth).mean


def measure(scene: scenes.Scene, networks: dict[str, Network], phases: int, **settings: Any) -> dict[str, Any]:
    """All figures of one network on one scene: means over the phases."""
    totals: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {"every": []}
    walls = {"full": 0.0, "temporal": 0.0}
    kinds: list[str] = []
    for phase in range(phases):
        part = replace(scene, images=scene.images[phase:], truth=scene.truth[phase:])
        rows, low = run(part, networks, **settings), run(part, networks, **LOW, **settings)
        sure = rows["full"]
        figures = {
            "ap_full": ap(low["full"], part.truth),
            "ap_temporal": ap(low["temporal"], part.truth),
            "ap_sure_full": ap(rows["full"], part.truth),
            "ap_sure_temporal": ap(rows["temporal"], part.truth),
            "agreement_ap": ap(rows["temporal"], sure),
            "agreement_ap50": 100.0 * average_precision(rows["temporal"], sure).mean_at(0.5),
        }
        for name, value in figures.items():
            totals.setdefault(name, []).append(value)
        times["every"] += rows["full_s"]
        walls = {name: seconds + sum(rows[f"{name}_wall_s"]) for name, seconds in walls.items()}
        for kind, seconds in zip(rows["kinds"], rows["temporal_s"], strict=True):
            times.setdefault(kind, []).append(seconds)
        kinds += rows["kinds"]
    result: dict[str, Any] = {name: float(np.mean(values)) for name, values in totals.items()}
    result["ap_lost"] = result["ap_full"] - result["ap_temporal"]
    result["ap_sure_lost"] = result["ap_sure_full"] - result["ap_sure_temporal"]
    result["ap_lost_by_phase"] = (np.array(totals["ap_full"]) - np.array(totals["ap_temporal"])).tolist()
    cost = sum(kinds.count(kind) * float(np.median(times[kind])) for kind in set(kinds)) / len(kinds)
    result["full_ms"] = 1e3 * float(np.median(times["every"]))
    result["temporal_ms"] = 1e3 * cost
    result["saved"] = result["full_ms"] / result["temporal_ms"]
    result["saved_by_sums"] = sum(times["every"]) / sum(sum(v) for k, v in times.items() if k != "every")
    result["saved_wall_by_sums"] = walls["full"] / walls["temporal"]
    result["kind_ms"] = {kind: 1e3 * float(np.median(times[kind])) for kind in sorted(set(kinds))}
    result["shares"] = {
        kind: sum(k.startswith(kind) for k in kinds) / len(kinds) for kind in ("full", "narrowed", "skipped")
    }
    result["counters"] = rows["counters"]
    return result


def show(label: str, row: dict[str, Any]) -> None:
    """One line."""
    shares = " ".join(f"{name} {share:.0%}" for name, share in row["shares"].items() if share)
    print(
        f"{label:34s} full {row['full_ms']:6.2f} ms, temporal {row['temporal_ms']:6.2f}: saved {row['saved']:.2f}x "
        f"(wall {row['saved_wall_by_sums']:.2f}; {shares})\n{'':34s} AP {row['ap_full']:.1f} -> "
        f"{row['ap_temporal']:.1f} (lost {row['ap_lost']:+.2f}; at its own "
        f"threshold {row['ap_sure_lost']:+.2f})  agreement AP50 {row['agreement_ap50']:.1f}",
        flush=True,
    )


def square_ms(scene: scenes.Scene, networks: dict[str, Network]) -> dict[str, float]:
    """Median ms of the network at its file's size and at the rectangle, interleaved; no temporal saving in either."""
    detectors = {name: CameraDetector(models=LocalModels({"detector": network})) for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    for image in scene.images[:20]:
        for name, detector in detectors.items():
            start = time.thread_time()
            asyncio.run(detector.detect(image))
            times[name].append(time.thread_time() - start)
    return {name: 1e3 * float(np.median(values)) for name, values in times.items()}


def bench(path: Path, scene: scenes.Scene, sweep: bool) -> list[dict[str, Any]]:
    """All variants of one network on one scene."""
    square = load_network(path)
    networks, regions = {"detector": square}, None
    if "fastestdet" not in path.name:
        size = rectangle(square, *scene.images[0].pixels.shape[:2])
        networks = {"detector": scenes.sized(path, size, KEPT)}
        half = (max(64, size[0] // 64 * 32), max(64, size[1] // 64 * 32))
        regions = scenes.sized(path, half, KEPT)
    shape = "x".join(map(str, networks["detector"].input_shape[2:]))
    rows = []
    if networks["detector"] is not square:
        both = square_ms(scene, {"square": square, "rectangle": networks["detector"]})
        print(
            f"  not temporal: square {both['square']:.2f} ms, {shape} {both['rectangle']:.2f} ms, "
            f"saved {both['square'] / both['rectangle']:.2f}x"
        )
        rows.append({"variant": "rectangle, not temporal", **both})
    phases = PHASES.get(scene.name, 1)
    variants: list[tuple[str, dict[str, Network], dict[str, Any]]] = [("temporal", networks, {})]
    if regions is not None:
        variants.append(("temporal, regions", {**networks, "regions": regions}, {}))
    if sweep:
        variants += [
            (f"interval {i:.0f} moved {m}", networks, {"max_interval_ms": i, "max_moved": m}) for i, m in SWEEP
        ]
    for label, nets, settings in variants:
        row = {"variant": label, "input": shape, **measure(scene, nets, phases, **settings)}
        show(f"  {label}", row)
        rows.append(row)
    return [{"model": path.name, "sha256": square.sha256, "scene": scene.name, **row} for row in rows]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--scene", choices=SCENES, action="append")
    parser.add_argument("--sweep", action="store_true", help="also the trade-off of saving and AP")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    KEPT.mkdir(parents=True, exist_ok=True)
    own = REPOSITORY / "perception" / "models" / "tercel-nano.onnx"
    paths = options.models or [data_folder() / "models" / name for name in NAMES] + [own] * own.is_file()
    command = " ".join(["python", *sys.argv])
    print(f"{command}\n1 thread, {platform.machine()}")
    rows: list[dict[str, Any]] = []
    try:
        for name in options.scene or SCENES:
            scene = load_scene(name)
            print(f"{name}: {len(scene.images)} images, {sum(len(t.scores) for t in scene.truth)} true boxes")
            for path in paths:
                print(f" {path.name}")
                rows += bench(path, scene, options.sweep)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps({"command": command, "threads": 1, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
