"""Our own detector beside well-known ones, all in integers, image in and boxes out; AP of each on the same images.

    python tests/benchmarks/bench_nano.py [--threads 1] [--write-cards] [--json FILE]

tercel-nano in float32 and INT8, and NanoDet-m (320) and YOLOX-nano (416) of TERCEL_DATA/models in both, quantized here
by the same procedure (static, calibrated with the training images of img_coco256). All see one image before the next
one comes, in each backend; what counts is the faster backend of each. AP in our six classes on img_coco256 (val),
img_aerial_cars (its evaluation part), three KITTI frames, and two simulated streets of evaluation seeds. --write-cards
writes the figures into the cards of the shipped models.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from perception.labelled import load_labelled
from perception.model_card import card_path, read_card, write_card
from perception.model_catalog import shipped_models
from perception.quantize import procedure
from perception.quantize.candidates import Settings
from perception.quantize.images import calibration_files, labelled_images
from perception.runtime import load_network
from tercel.cli import main as tercel
from tercel.core.errors import UserError
from tercel.report.detection_run import EvaluationOptions, EvaluationRun, run_evaluation

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
OWN = ("tercel-nano", "tercel-nano-int8")
PEERS = ("nanodet_m_320", "yolox_nano_416")
WORLD_SEEDS = (7, 8)
BACKENDS = ("onnxruntime", "openvino")
CARD_FIGURES = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")


def quantized(name: str, folder: Path) -> Path:
    """A peer in integers by our own static procedure, kept whatever its verdict."""
    source = DATA / "models" / f"{name}.onnx"
    calibration = calibration_files([DATA / "img_coco256" / "images" / "train2017"], 71)
    images, truth = labelled_images(
        load_labelled(DATA / "img_coco256", split="evaluate"), procedure.detector_of(source), 32
    )
    settings = Settings(method="static")
    material = procedure.gather(source, calibration, images, truth, settings)
    target = folder / f"{name}-int8.onnx"
    procedure.keep(procedure.run(material, settings, lambda _: None), source, target)
    return target


def data_sets(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of what is evaluated on; the simulated streets are made here."""
    yield "img_coco256", DATA / "img_coco256"
    yield "img_aerial_cars", DATA / "img_aerial_cars"
    yield "kitti_object_3frames", DATA / "kitti_object_3frames"
    for seed in WORLD_SEEDS:
        path = folder / f"street_{seed}.mcap"
        settings = {
            "duration_s": 10, "camera_rate_hz": 2, "lidar_rate_hz": 1, "lidar_columns": 64, "imu_rate_hz": 10,
            "gps_rate_hz": 0, "include_depth": "false",
        }  # fmt: skip
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        if tercel(["world", "street", "--seed", str(seed), "-o", str(path), *words]) != 0:
            raise UserError(f"the simulated street {seed} could not be made")
        yield f"street_{seed}", path


def faster(runs: dict[str, EvaluationRun], model: str) -> tuple[str, float]:
    """(backend, p50 ms) of a model in the faster one."""
    times = {
        backend: row["latency_ms_p50"]
        for backend, run in runs.items()
        for row in run.summary()["models"]
        if Path(row["model"]).stem == model
    }
    backend = min(times, key=lambda name: times[name])
    return backend, times[backend]


def speed_lines(runs: dict[str, EvaluationRun], models: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The goals: our INT8 against our float, and against each peer's INT8."""
    own = faster(runs, "tercel-nano-int8")
    lines, ratios = [], {}
    for model in models:
        if model != "tercel-nano-int8":
            backend, ms = faster(runs, model)
            ratios[model] = ms / own[1]
            lines.append(
                f"tercel-nano-int8 ({own[0]}, {own[1]:.2f} ms) is {ms / own[1]:.2f}x as fast as "
                f"{model} ({backend}, {ms:.2f} ms)"
            )
    return lines, ratios


def write_cards(scores: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Put the AP figures of each data set, in percent, into the cards of the shipped models."""
    for name, path in shipped_models().items():
        measured = {
            data: {key: None if row[key] is None else round(100 * row[key], 1) for key in CARD_FIGURES}
            for data, rows in scores.items()
            if (row := rows.get(name))
        }
        card = read_card(card_path(path))
        write_card(card_path(path), replace(card, measured=measured, sha256=load_network(path).sha256))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write-cards", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(" ".join(["python", *sys.argv]))
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peers = [str(DATA / "models" / f"{peer}.onnx") for peer in PEERS]
        try:
            models = [*OWN, *(str(quantized(peer, folder)) for peer in PEERS), *peers]
            runs: dict[str, EvaluationRun] = {}
            for data, path in data_sets(folder):
                for backend in BACKENDS if data == "img_coco256" else BACKENDS[:1]:
                    asked = EvaluationOptions(models, path, classes="tercel", threads=options.threads, backend=backend)
                    run = run_evaluation(asked)
                    runs |= {backend: run} if data == "img_coco256" else {}
                    print(f"\n{data}, {backend}, {options.threads} thread\n{run.table()}")
                    scores.setdefault(data, {Path(row["model"]).stem: row for row in run.summary()["models"]})
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
        lines, ratios = speed_lines(runs, [Path(model).stem for model in models])
    print("\nimage in, boxes out, img_coco256:", *lines, sep="\n  ")
    if options.write_cards:
        write_cards(scores)
    if options.json:
        options.json.write_text(json.dumps({"scores": scores, "times_longer_than_ours": ratios}, indent=1, default=str))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
