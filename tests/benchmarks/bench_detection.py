"""AP of the camera detectors on labelled images, and milliseconds for each stage of an image.

    python tests/benchmarks/bench_detection.py [--threads 2] [--backend onnxruntime] [--data DIR]
        [--json FILE] [MODEL.onnx or NAME ...]

Without models: all of TERCEL_DATA/models, else of ../shared/data/models beside the repository, and those that ship with
Tercel. The images are img_coco256's 128 of COCO's validation, unless --data names others; they are judged in COCO's
classes where all models know them, else in our six (`tercel evaluate detection` says more, with a page). All models
see an image before the next one comes, so that their times can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perception.class_maps import is_coco
from perception.model_catalog import shipped_models
from tercel.core.errors import UserError
from tercel.report.detection_run import EvaluationOptions, EvaluationRun, run_evaluation

REPOSITORY = Path(__file__).resolve().parents[2]


def data_folder() -> Path:
    """TERCEL_DATA, else the folder beside the repository."""
    return Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))


def runs(models: list[str], options: argparse.Namespace) -> Iterator[EvaluationRun]:
    """All models in six classes where one of them knows only those; and COCO's detectors in COCO's classes."""
    data = options.data or data_folder() / "img_coco256"
    together = EvaluationOptions(models, data, threads=options.threads, backend=options.backend)
    run = run_evaluation(together)
    yield run
    coco = [word for word, candidate in zip(models, run.candidates, strict=True) if is_coco(candidate.class_names)]
    if coco and not is_coco(run.class_names) and options.data is None:
        yield run_evaluation(EvaluationOptions(coco, data, threads=options.threads, backend=options.backend))


def rows_of(run: EvaluationRun) -> list[dict[str, Any]]:
    """The numbers of each model, with those of people, which every set has."""
    rows = []
    for row in run.summary()["models"]:
        person = row.pop("classes").get("person", {})
        rows.append(row | {"AP_person": person.get("AP"), "AP50_person": person.get("AP50")})
    return rows


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", default="onnxruntime", choices=("onnxruntime", "openvino", "auto"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    models = options.models or [*map(str, sorted((data_folder() / "models").glob("*.onnx"))), *shipped_models()]
    if not models:
        print(f"no models under {data_folder()}; set TERCEL_DATA", file=sys.stderr)
        return 2
    command = " ".join(["python", *sys.argv])
    print(f"{command}\n{options.threads} threads, {options.backend}, {platform.machine()}")
    results = []
    try:
        for run in runs(models, options):
            rows = rows_of(run)
            print(run.table())
            for row in rows:
                stages = row["stages_ms_p50"]
                print(
                    f"  {row['model']:24s} person AP50 {100 * (row['AP50_person'] or 0):.1f}; p50 ms: pixels "
                    f"{stages['preprocess']:.2f} network {stages['network']:.2f} boxes {stages['boxes']:.2f}"
                )
            results.append(
                {"data": run.data_name, "classes": len(run.class_names), "images": run.images, "models": rows}
            )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        content = {"command": command, "threads": options.threads, "backend": options.backend, "runs": results}
        options.json.write_text(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
