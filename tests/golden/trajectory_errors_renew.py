"""Renew trajectory_errors.json: evo's numbers for every pair of trajectories among the real recordings.

In an environment of its own: pip install evo==1.38.1, then
python tests/golden/trajectory_errors_renew.py FOLDER_OF_TRAJECTORIES

By "estimate/alignment": ape, the statistics of the translation's absolute errors, and for each "delta unit" the
statistics of the relative ones (all pairs, chosen on the reference, within a tenth of delta), with translation_percent
and rotation_deg_per_m: the means of evo's own errors of the pairs by the lengths of their true paths.
"""

from __future__ import annotations

import copy
import gzip
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from evo.core import metrics, sync
from evo.tools import file_interface

GOLDEN = Path(__file__).with_name("trajectory_errors.json")
PAIRS = {  # estimate: reference
    "KITTI_00_ORB": "KITTI_00_gt",
    "KITTI_00_SPTAM": "KITTI_00_gt",
    "freiburg1_xyz-rgbdslam": "freiburg1_xyz-groundtruth",
    "ntu_viral_eee_01_fastlivo2": "ntu_viral_eee_01_gt",
    "ntu_viral_nya_01_fastlivo2": "ntu_viral_nya_01_gt",
}
TOLERANCE_S = 0.01
DELTAS = ((1, "frames"), (10, "frames"), (1, "m"), (10, "m"), (100, "m"))
UNITS = {"frames": metrics.Unit.frames, "m": metrics.Unit.meters}
KEPT = ("rmse", "mean", "median", "std", "min", "max")


def main(folder: Path) -> None:
    """Write the file."""
    lines = []
    for estimate_name, reference_name in PAIRS.items():
        reference, estimate = pair(folder, reference_name, estimate_name)
        for alignment in ("none", "rigid", "scaled"):
            fitted = copy.deepcopy(estimate)
            if alignment != "none":
                fitted.align(reference, correct_scale=alignment == "scaled")
            numbers = {"poses": reference.num_poses, "ape": absolute(reference, fitted)}
            for delta, unit in DELTAS:
                relative_numbers = relative(reference, fitted, delta, unit)
                if relative_numbers:
                    numbers[f"{delta} {unit}"] = relative_numbers
            lines.append(f'"{estimate_name}/{alignment}": {json.dumps(numbers)}')
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def pair(folder: Path, reference_name: str, estimate_name: str) -> tuple[Any, Any]:
    """Both trajectories, pose by pose."""
    with tempfile.TemporaryDirectory() as unpacked:
        plain = []
        for name in (reference_name, estimate_name):
            plain.append(Path(unpacked) / name)
            plain[-1].write_bytes(gzip.decompress((folder / f"{name}.txt.gz").read_bytes()))
        if reference_name.startswith("KITTI"):
            reference, estimate = (file_interface.read_kitti_poses_file(path) for path in plain)
            return reference, estimate
        reference, estimate = (file_interface.read_tum_trajectory_file(path) for path in plain)
    associated: tuple[Any, Any] = sync.associate_trajectories(reference, estimate, max_diff=TOLERANCE_S)
    return associated


def absolute(reference: Any, estimate: Any) -> dict[str, Any]:
    """APE of the translation part."""
    metric = metrics.APE(metrics.PoseRelation.translation_part)
    metric.process_data((reference, estimate))
    return statistics(metric)


def relative(reference: Any, estimate: Any, delta: int, unit: str) -> dict[str, Any]:
    """RPE of both parts; nothing if no two poses are that far apart."""
    found: dict[str, Any] = {}
    for part, relation, ratio, factor in (
        ("translation_m", metrics.PoseRelation.translation_part, "translation_percent", 100.0),
        ("rotation_deg", metrics.PoseRelation.rotation_angle_deg, "rotation_deg_per_m", 1.0),
    ):
        metric = metrics.RPE(relation, delta, UNITS[unit], 0.1, all_pairs=True, pairs_from_reference=True)
        try:
            metric.process_data((reference, estimate))
        except Exception as error:
            if "produced an empty index list" not in str(error):
                raise
            return {}
        pairs = metrics.id_pairs_from_delta(reference.poses_se3, delta, UNITS[unit], 0.1, all_pairs=True)
        travelled_m = np.concatenate([[0.0], reference.distances[1:]])
        path_m = np.array([travelled_m[j] - travelled_m[i] for i, j in pairs])
        moved = path_m > 0
        found[part] = statistics(metric) | {"count": len(metric.error)}
        found[ratio] = round(float(factor * np.mean(metric.error[moved] / path_m[moved])), 12)
    return found


def statistics(metric: Any) -> dict[str, Any]:
    """Twelve digits, as Python's own numbers."""
    values = metric.get_all_statistics()
    return {name: round(float(values[name]), 12) for name in KEPT}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
