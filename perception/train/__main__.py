"""Train `tercel-nano`: python -m perception.train --data DATA --work DIR --budget-minutes 90

DATA holds img_coco256, img_aerial_cars and models/yolox_nano_416.onnx as the project's data folder does; only what may
be used for released weights is read. Pictures of simulated worlds are drawn into DIR first. Interrupted, the same
command goes on from DIR/checkpoint.npz.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from perception.classes import TERCEL_CLASSES
from perception.labelled import load_yolo_folder
from perception.train.export import export_onnx
from perception.train.losses import Batch
from perception.train.run import Settings, train
from perception.train.samples import Source, pictures_of
from perception.train.stream import batches
from perception.train.worlds import write_worlds


def sources(data: Path, work: Path) -> list[Source]:
    """What the released weights may learn from: photographs, aerial photographs, simulated worlds."""
    photographs = load_yolo_folder(data / "img_coco256", split="train")
    aerial = load_yolo_folder(data / "img_aerial_cars", split="train")
    worlds = load_yolo_folder(work / "worlds", class_names=TERCEL_CLASSES)
    return [
        Source("photographs", pictures_of(photographs), 0.6, True, (0.6, 2.0)),
        Source("aerial", pictures_of(aerial), 0.2, False, (0.8, 3.5)),
        Source("worlds", pictures_of(worlds), 0.2, False, (0.7, 2.2)),
    ]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--budget-minutes", type=float, default=90.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--street", type=int, default=48, help="simulated streets")
    parser.add_argument("--orchard", type=int, default=6, help="simulated orchards")
    options = parser.parse_args()
    write_worlds(options.work / "worlds", options.street, options.orchard)
    settings = Settings(seed=options.seed, threads=options.threads, budget_min=options.budget_minutes)
    found = sources(options.data, options.work)
    for source in found:
        print(f"{source.name}: {len(source.pictures)} pictures, {sum(len(p.labels) for p in source.pictures)} boxes")

    def stream_of(side_px: int) -> Iterator[Batch]:
        return batches(
            found,
            side_px=side_px,
            size=settings.batch,
            new=settings.new_in_batch,
            pool=settings.pool,
            seed=settings.seed + side_px,
            teacher=options.data / "models" / "yolox_nano_416.onnx",
        )

    network = train(settings, stream_of, options.work)
    export_onnx(network, options.work / "tercel-nano.onnx", settings.side_px)
    print(f"written: {options.work / 'tercel-nano.onnx'}; integers: tercel quantize --method qat")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
