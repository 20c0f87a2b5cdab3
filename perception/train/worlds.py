"""Pictures of simulated worlds with their true boxes, as files: what `tercel-nano` may learn from without any licence.

Worlds of the training seeds only; those of the evaluation seeds are never drawn here. A picture is written as NAME.jpg
beside NAME.txt, `class cx cy w h` normalised, with the classes of perception.classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from devices.sensors.simulated.world import WorldConfig, generate
from perception.class_maps import label_table
from perception.classes import TERCEL_CLASSES
from perception.splits import WORLD_SEEDS
from tercel.core.messages import CompressedImage, Tracks2D

TRAINING_SEEDS = WORLD_SEEDS["train"]


def pictures(name: str, seed: int, *, rate_hz: float, duration_s: float) -> Iterator[tuple[bytes, list[str]]]:
    """JPEG bytes and label lines of each camera picture of one world.

    Raises ValueError for a seed that is not for training.
    """
    if seed not in TRAINING_SEEDS:
        raise ValueError(f"seed {seed} is not for training; take one of {TRAINING_SEEDS.start}..{TRAINING_SEEDS.stop}")
    config = WorldConfig(
        name=name, seed=seed, duration_s=duration_s, camera_rate_hz=rate_hz, lidar_rate_hz=1.0, lidar_columns=64,
        imu_rate_hz=10.0, gps_rate_hz=0.0, include_depth=False,
    )  # fmt: skip
    jpeg = b""
    for topic, _, message in generate(config):
        if topic == "/camera/image" and isinstance(message, CompressedImage):
            jpeg = bytes(message.data)
        elif topic == "/truth/tracks_2d" and isinstance(message, Tracks2D):
            yield jpeg, _lines(message, config.camera_width_px, config.camera_height_px)


def _lines(truth: Tracks2D, width_px: int, height_px: int) -> list[str]:
    lines = []
    labels = label_table(truth.class_names, TERCEL_CLASSES)[truth.labels]
    for box, label in zip(truth.boxes_xyxy_px, labels, strict=True):
        low, high = np.array(box[:2]), np.array(box[2:])
        size = np.array([width_px, height_px])
        centre, extent = (low + high) / 2 / size, (high - low) / size
        lines.append(f"{label} {centre[0]:.5f} {centre[1]:.5f} {extent[0]:.5f} {extent[1]:.5f}")
    return lines


def write_worlds(folder: Path, street_count: int, orchard_count: int) -> int:
    """Draw the first worlds of the training seeds into the folder, those that are not yet there. Returns the pictures'
    count."""
    folder.mkdir(parents=True, exist_ok=True)
    worlds = [("street", seed) for seed in TRAINING_SEEDS[:street_count]]
    worlds += [("orchard", seed) for seed in TRAINING_SEEDS[:orchard_count]]
    for name, seed in worlds:
        done = folder / f"{name}_{seed}.done"
        if done.exists():
            continue
        for index, (jpeg, lines) in enumerate(pictures(name, seed, rate_hz=0.6, duration_s=11.0)):
            (folder / f"{name}_{seed}_{index:03d}.jpg").write_bytes(jpeg)
            (folder / f"{name}_{seed}_{index:03d}.txt").write_text("\n".join(lines) + "\n" if lines else "")
        done.touch()
    return len(list(folder.glob("*.jpg")))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--street", type=int, default=48)
    parser.add_argument("--orchard", type=int, default=16)
    options = parser.parse_args()
    print(f"{write_worlds(options.folder, options.street, options.orchard)} pictures in {options.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
