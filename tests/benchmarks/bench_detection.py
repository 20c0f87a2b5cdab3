"""AP of the camera detectors on labelled images, and milliseconds for each stage of an image.

    python tests/benchmarks/bench_detection.py [--threads 2] [--json FILE] [MODEL.onnx ...]

Without models: all of TERCEL_DATA/models, else of ../shared/data/models beside the repository. The images are the
128 val images of img_coco256; non-maximum suppression at 0.6 and scores from 0.01, as the models' README measured them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception.average_precision import average_precision
from perception.camera_detector import CameraDetector, CameraDetectorConfig
from perception.coco import COCO_CLASSES
from perception.images import TensorMaker
from perception.runtime import LocalModels, Network, load_network
from tercel.core.errors import UserError
from tercel.core.messages import Detections2D, Image

REPOSITORY = Path(__file__).resolve().parents[2]
EVALUATION = CameraDetectorConfig(score_threshold=0.01, nms_iou=0.6, multi_label=True)


@dataclass(frozen=True)
class LabelledImage:
    """An image and its true boxes."""

    image: Image
    truth: Detections2D


def data_folder() -> Path:
    """TERCEL_DATA, else the folder beside the repository."""
    return Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))


def load_labelled_images(folder: Path, part: str = "val2017") -> list[LabelledImage]:
    """img_coco256 in YOLO's layout: images/PART/*.jpg, labels/PART/*.txt of `class cx cy w h`, normalised."""
    labelled = []
    for index, path in enumerate(sorted((folder / "images" / part).glob("*.jpg"))):
        pixels = np.asarray(cv2.imread(str(path)))
        rows = np.loadtxt(folder / "labels" / part / f"{path.stem}.txt", ndmin=2).reshape(-1, 5)
        size_wh = np.array(pixels.shape[1::-1])
        centres, halves = rows[:, 1:3] * size_wh, rows[:, 3:5] * size_wh / 2.0
        truth = Detections2D(
            stamp_ns=index,
            frame_id=path.stem,
            boxes_xyxy_px=np.concatenate([centres - halves, centres + halves], axis=1),
            scores=np.ones(len(rows)),
            labels=rows[:, 0],
            class_names=COCO_CLASSES,
        )
        image = Image(stamp_ns=index, frame_id=path.stem, pixels=pixels, encoding="bgr8")
        labelled.append(LabelledImage(image, truth))
    return labelled


def detect_all(network: Network, labelled: list[LabelledImage]) -> list[Detections2D]:
    """What the camera detector finds in each image, at the evaluation's thresholds."""
    detector = CameraDetector(EVALUATION, LocalModels({"detector": network}))

    async def run() -> list[Detections2D]:
        return [(await detector.detect(item.image))["detections"] for item in labelled]

    return asyncio.run(run())


def evaluate(network: Network, labelled: list[LabelledImage]) -> dict[str, float]:
    """AP50 and AP (mean and person)."""
    result = average_precision(detect_all(network, labelled), [item.truth for item in labelled])
    person = COCO_CLASSES.index("person")
    return {
        "ap50": result.mean_at(0.5),
        "ap50_person": float(result.at(0.5)[person]),
        "ap": result.mean,
        "ap_person": float(result.ap[person].mean()),
    }


def stage_times_ms(network: Network, labelled: list[LabelledImage]) -> dict[str, float]:
    """Median ms an image: pixels to tensor, network, decoding and suppression at the component's own thresholds."""
    models = LocalModels({"detector": network})
    detector = CameraDetector(models=models)
    make_tensor = TensorMaker(detector.spec)
    times: dict[str, list[float]] = {"preprocess_ms": [], "infer_ms": [], "decode_ms": []}
    for item in labelled:
        start = time.perf_counter()
        tensor, placement = make_tensor(item.image.pixels)
        made = time.perf_counter()
        outputs = network.run(tensor)
        inferred = time.perf_counter()
        detector.boxes_from_outputs(outputs, placement)
        done = time.perf_counter()
        for name, seconds in zip(times, (made - start, inferred - made, done - inferred), strict=True):
            times[name].append(seconds * 1e3)
    return {f"{name[:-3]}_p50_ms": float(np.median(values)) for name, values in times.items()}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    paths = options.models or sorted((data_folder() / "models").glob("*.onnx"))
    labelled = load_labelled_images(data_folder() / "img_coco256")
    if not labelled or not paths:
        print(f"no images or no models under {data_folder()}; set TERCEL_DATA", file=sys.stderr)
        return 2
    command = " ".join(["python", *sys.argv])
    print(f"{command}\n{len(labelled)} images, {options.threads} threads, {platform.machine()}")
    rows: list[dict[str, Any]] = []
    for path in paths:
        try:
            network = load_network(path, threads=options.threads)
            row = {"model": path.name, "sha256": network.sha256}
            row |= evaluate(network, labelled) | stage_times_ms(network, labelled)
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
        rows.append(row)
        print(
            "{model:22s} AP50 {ap50:.3f} person {ap50_person:.3f}  AP {ap:.3f} person {ap_person:.3f}  p50 ms: "
            "pixels {preprocess_p50_ms:.2f} network {infer_p50_ms:.2f} boxes {decode_p50_ms:.2f}".format(**row)
        )
    if options.json:
        options.json.write_text(json.dumps({"command": command, "threads": options.threads, "models": rows}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
