"""Descriptors of keypoints for distant pairs, before any registration: how many mutual nearest neighbours are right.

python tests/benchmarks/bench_descriptor.py [--pairs N] [--sequences A,B] [--model NAME=FILE.onnx ...] [--json FILE]

Sequences and pairs are bench_distant.py's: drive0005 against the chain of its registrations, and simulated worlds with
seeds from 1000, which no training and no tuning has seen. A match is right if both keypoints are within 1.5 m of each
other by the truth. "places" is how many keypoints of one scan have one of the other within 1.5 m at all. --model adds
further networks of registration.train, for ablations. "drive0005 2nd half" takes pairs of its scans from 77 on only:
for networks that have adapted to the first half.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))

from distant_data import SEED, WORLDS, Scans, chained, unpack_drive, world_pairs

from registration.distant.keypoints import Prepared, describe, prepare
from registration.distant.learned import describe_learned
from registration.distant.matching import mutual_matches
from registration.distant.pairs import Pair, choose_pairs
from tercel.core.errors import UserError
from tercel.core.geometry import inverse, transform_points

Array = NDArray[Any]
Describe = Callable[[Prepared], Array]

RIGHT_M = 1.5
SECOND_HALF = 77


def sequence(name: str, per_bin: int, folder: Path) -> tuple[Scans, Scans, list[Pair]]:
    if not name.startswith("drive0005"):
        world, beams, other_beams, seed = WORLDS[name]
        return world_pairs(world, beams, other_beams, seed, per_bin)
    scan, gps = unpack_drive(folder / name.replace(" ", "_"))
    truth, first = chained(scan, len(gps)), SECOND_HALF if name.endswith("2nd half") else 0
    pairs = choose_pairs(truth[first:], truth[first:], per_bin=per_bin, seed=SEED)
    return (lambda k: scan(k + first)), (lambda k: scan(k + first)), pairs


def distances_m(target: Prepared, source: Prepared, target_T_source: Array) -> Array:
    """(K, L) m between keypoints by the truth between the sensors' frames."""
    between = target.scene.level_T_sensor @ target_T_source @ inverse(source.scene.level_T_sensor)
    moved = transform_points(between, source.keypoints_m.astype(np.float64))
    result: Array = np.linalg.norm(target.keypoints_m[:, None] - moved[None], axis=2)
    return result


def compare(name: str, per_bin: int, descriptors: dict[str, Describe], folder: Path) -> dict[str, Any]:
    """For each bin and descriptor: mean share and number of right matches, and the time to describe one scan."""
    target_scan, source_scan, pairs = sequence(name, per_bin, folder)
    rows: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for count, pair in enumerate(pairs):
        target = prepare(target_scan(pair.target))
        turned_m = transform_points(pair.turned_T_source, source_scan(pair.source))
        source = prepare(turned_m.astype(np.float32))
        apart_m = distances_m(target, source, pair.target_T_turned)
        its = rows.setdefault(f"{pair.bin_m[0]:g}-{pair.bin_m[1]:g} m", {})
        its.setdefault("places", []).append((float("nan"), float((apart_m.min(axis=1) < RIGHT_M).sum()), float("nan")))
        for word, describe_with in descriptors.items():
            start = time.perf_counter()
            ours = describe_with(target)
            elapsed_ms = 1e3 * (time.perf_counter() - start)
            matches = mutual_matches(ours, describe_with(source))
            right = apart_m[matches[:, 0], matches[:, 1]] < RIGHT_M
            its.setdefault(word, []).append((float(right.mean()), float(right.sum()), elapsed_ms))
        print(f"\r{name}: {count + 1} of {len(pairs)} pairs", end="", file=sys.stderr, flush=True)
    return {
        distance: {
            word: {
                "pairs": len(values),
                "right_share": float(np.mean([v[0] for v in values])),
                "right": float(np.mean([v[1] for v in values])),
                "describe_ms_p50": float(np.median([v[2] for v in values])),
            }
            for word, values in its.items()
        }
        for distance, its in rows.items()
    }


def learned_with(path: Path) -> Describe:
    return lambda prepared: describe_learned(prepared, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8, help="of each bin, for each sequence")
    parser.add_argument("--sequences", default=",".join(["drive0005", *WORLDS]))
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FILE", help="further networks")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print("python", *sys.argv)
    descriptors: dict[str, Describe] = {"classical": describe, "learned": describe_learned}
    for word in args.model:
        name, _, path = word.partition("=")
        descriptors[name] = learned_with(Path(path))
    report: dict[str, Any] = {"command": ["python", *sys.argv], "sequences": {}}
    try:
        with tempfile.TemporaryDirectory() as temporary:
            for name in args.sequences.split(","):
                report["sequences"][name] = compare(name, args.pairs, descriptors, Path(temporary))
                print(f"\r{name:24} right matches: share, number; ms to describe a scan")
                for distance, its in report["sequences"][name].items():
                    for word, row in its.items():
                        print(
                            f"  {distance:9} {word:18} {row['right_share']:6.1%} {row['right']:6.1f} "
                            f"{row['describe_ms_p50']:6.0f} ms  ({row['pairs']} pairs)",
                            flush=True,
                        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
