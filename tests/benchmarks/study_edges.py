"""Do LEGNet's fixed edge and blur filters help on aerial images? Two short trainings that differ in nothing else.

    python tests/benchmarks/study_edges.py [--steps 900] [--json FILE]    # 20 minutes; the extra `train`

Trained on the training flights of img_aerial_cars alone, judged on its other flights; same seed and steps, no teacher.
Not part of `make bench`, for it trains.
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

from perception.labelled import load_yolo_folder
from perception.train.export import export_onnx
from perception.train.losses import Batch
from perception.train.network import Shape
from perception.train.run import Settings, train
from perception.train.samples import Source, pictures_of
from perception.train.stream import batches
from tercel.report.detection_run import EvaluationOptions, run_evaluation

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data")) / "img_aerial_cars"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--edges", choices=("both", "with", "without"), default="both")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(" ".join(["python", *sys.argv]))
    source = Source("aerial", pictures_of(load_yolo_folder(DATA, split="train")), 1.0, False, (0.8, 3.5))
    results = {}
    for edges in (False, True):
        if options.edges not in ("both", "with" if edges else "without"):
            continue
        settings = replace(Settings(), shape=Shape(edges=edges), most_steps=options.steps, teacher_weight=0.0)

        def stream_of(side_px: int, settings: Settings = settings) -> Iterator[Batch]:
            return batches([source], side_px=side_px, size=settings.batch, new=4, pool=1000, seed=side_px, teacher=None)

        with tempfile.TemporaryDirectory() as folder:
            network = train(settings, stream_of, Path(folder), report=lambda line: print(line, flush=True))
            model = Path(folder) / "tercel-nano.onnx"
            export_onnx(network, model, settings.side_px)
            run = run_evaluation(EvaluationOptions([str(model)], DATA, classes="tercel"))
        word = "with edges" if edges else "without"
        print(f"{word}\n{run.table()}", flush=True)
        results[word] = run.summary()["models"][0]
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, default=str))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
