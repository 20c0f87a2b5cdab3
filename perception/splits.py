"""Which labelled images may be trained on and which are kept for evaluation: by sequence, never by neighbouring frames.

datasets/catalog.yaml says the same under `labelled`, with sources and licences, for people; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

from tercel.core.errors import UserError

Split = Literal["train", "evaluate"]
SPLITS: tuple[Split, ...] = ("train", "evaluate")

DATASET_SPLITS: Mapping[str, Mapping[Split, tuple[str, ...]]] = {
    "img_coco256": {"train": ("images/train2017/*",), "evaluate": ("images/val2017/*",)},
    "img_aerial_cars": {
        "train": ("MOS*", "DJI_0005*", "DJI-00760*"),
        "evaluate": ("MunichStreet02*", "DJI_0762*", "DJI_0012*", "DJI_0020*", "DJI_0028*"),
    },
    "kitti_object_3frames": {"train": (), "evaluate": ("*",)},
    "kitti_drive0052_camlidar": {"train": (), "evaluate": ("*",)},
    "rgbd_7scenes": {"train": (), "evaluate": ("*",)},
}
"""Patterns of the images' paths in the data set's folder, with forward slashes.

DJI_0013 of img_aerial_cars is in neither split: it shows the crossing of DJI_0005 from the same place (240 of its
points match under one homography; no other pair of a training and an evaluation flight has 20).
"""

WORLD_SEEDS: Mapping[Split, range] = {"train": range(1000, 2000), "evaluate": range(100)}
"""Seeds of simulated worlds (`tercel world NAME --seed S`), whatever the world's name."""


def split_of(dataset: str, name: str) -> Split | None:
    """The split of one image of a data set, None if it is in neither.

    name: its path in the data set's folder, "images/val2017/000000000139.jpg". A data set that is not known here is
    split by its folders, as YOLO's and COCO's are: below one whose name begins with train, or with val or test.
    """
    if dataset in DATASET_SPLITS:
        for split, patterns in DATASET_SPLITS[dataset].items():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return split
        return None
    for folder in name.lower().split("/")[:-1]:
        if folder.startswith("train"):
            return "train"
        if folder.startswith(("val", "test")):
            return "evaluate"
    return None


def split_of_world(seed: int) -> Split | None:
    """The split of the simulated worlds of a seed."""
    return next((split for split, seeds in WORLD_SEEDS.items() if seed in seeds), None)


def require_split(split: str) -> None:
    """Raises UserError unless it is train, evaluate or all."""
    if split not in (*SPLITS, "all"):
        raise UserError(f"no split is named {split!r}; known: train, evaluate, all")
