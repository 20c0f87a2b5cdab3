"""Train `tercel-nano`: python -m perception.train --data DATA --work DIR --budget-minutes 90

DATA holds img_coco256, img_aerial_cars and models/yolox_nano_416.onnx as the project's data folder does; only what may
be used for released weights is read. Pictures of simulated worlds are drawn into DIR first. Interrupted, the same
command goes on from DIR/checkpoint.npz.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from perception.classes import TERCEL_CLASSES, tercel_from_coco
from perception.train.losses import Batch
from perception.train.run import Settings, train, with_budget
from perception.train.samples import Source, load_pictures
from perception.train.stream import batches
from perception.train.worlds import write_worlds

AERIAL_TRAINING = ("MOS", "DJI_0005", "DJI-00760")
_AERIAL_CLASSES = np.array([2, 3, 3, 3, 1], np.int32)  # car, truck, bus, minibus, cyclist


def sources(data: Path, work: Path) -> list[Source]:
    """What the released weights may learn from: photographs, aerial photographs, simulated worlds."""
    coco = data / "img_coco256"
    photographs = [
        (path, coco / "labels" / "train2017" / f"{path.stem}.txt")
        for path in sorted((coco / "images" / "train2017").glob("*.jpg"))
    ]
    aerial = [
        (path, path.with_suffix(".txt"))
        for path in sorted((data / "img_aerial_cars").glob("*.jpg"))
        if path.name.startswith(AERIAL_TRAINING)
    ]
    worlds = [(path, path.with_suffix(".txt")) for path in sorted((work / "worlds").glob("*.jpg"))]
    return [
        Source("photographs", load_pictures(photographs, tercel_from_coco()), 0.55, True, (0.6, 2.0)),
        Source("aerial", load_pictures(aerial, _AERIAL_CLASSES), 0.18, False, (0.9, 4.0)),
        Source("worlds", load_pictures(worlds, np.arange(len(TERCEL_CLASSES))), 0.27, False, (0.7, 2.2)),
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
    settings = with_budget(Settings(seed=options.seed, threads=options.threads), options.budget_minutes)
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

    train(settings, stream_of, options.work)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
