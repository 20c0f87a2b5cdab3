"""Two trajectory files, read, brought together pose by pose, and compared: what `tercel evaluate odometry` calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tercel
from registration.trajectory import associate
from registration.trajectory_files import TrajectoryFile, read_trajectory
from tercel.core.errors import UserError
from tercel.report.odometry_scores import Measure, OdometryScores, rows_text, score

Array = NDArray[Any]

TOLERANCE_S = 0.01
"""How far apart two stamps may be that belong together: evo's default."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What the user asked for. times: stamps of a KITTI file's rows, for whichever of the two has none."""

    estimate: Path
    truth: Path
    measure: Measure
    tolerance_s: float = TOLERANCE_S
    times: Path | None = None
    command: str = ""


@dataclass(frozen=True, eq=False)
class EvaluateRun:
    """What was found. poses: how many each file has, the estimate's first. notes: what people should know."""

    options: EvaluateOptions
    scores: OdometryScores
    poses: tuple[int, int]
    notes: list[str]

    def summary(self) -> dict[str, Any]:
        """For a JSON file."""
        return self.scores.summary() | {
            "estimate": self.options.estimate.name,
            "truth": self.options.truth.name,
            "estimate_poses": self.poses[0],
            "truth_poses": self.poses[1],
            "notes": self.notes,
            "command": self.options.command,
            "tercel": tercel.__version__,
        }

    def table(self) -> str:
        """For a terminal."""
        return rows_text([*self.scores.rows(), *(("note", note) for note in self.notes)])


def run_evaluation(options: EvaluateOptions) -> EvaluateRun:
    """Read both files and compare them. Raises UserError, OSError for files that cannot be read or compared."""
    if not 0.0 <= options.tolerance_s <= 3600.0:
        raise UserError(f"--tolerance {options.tolerance_s:g} s: 0 to 3600 is wanted")
    notes: list[str] = []
    estimate, truth = _read(options, notes)
    stamps_ns, reference, estimated = _paired(estimate, truth, options, notes)
    up = _up(truth)
    try:
        scores = score(reference, estimated, options.measure, stamps_ns=stamps_ns, up=up)
    except ValueError as error:
        raise UserError(f"{options.estimate.name} and {options.truth.name} cannot be compared: {error}") from None
    return EvaluateRun(options, scores, (len(estimate.poses), len(truth.poses)), notes)


def _read(options: EvaluateOptions, notes: list[str]) -> tuple[TrajectoryFile, TrajectoryFile]:
    """Both files; the times go to those that have no stamps, if only one of them has."""
    found = [read_trajectory(path, problems=notes) for path in (options.estimate, options.truth)]
    bare = [index for index, one in enumerate(found) if one.stamps_ns is None]
    if options.times is not None and not bare:
        raise UserError(f"both files have stamps; leave --times {options.times} out")
    if options.times is None and len(bare) == 1:
        path = (options.estimate, options.truth)[bare[0]]
        raise UserError(f"{path} has no stamps and the other file has; give its stamps: --times FILE")
    if options.times is not None:
        for index in bare:
            path = (options.estimate, options.truth)[index]
            found[index] = read_trajectory(path, times=options.times, problems=notes)
    return found[0], found[1]


def _paired(
    estimate: TrajectoryFile, truth: TrajectoryFile, options: EvaluateOptions, notes: list[str]
) -> tuple[Array | None, Array, Array]:
    """Stamps of the truth, true and estimated poses that belong together: by stamp, or without stamps by row."""
    if estimate.stamps_ns is None or truth.stamps_ns is None:
        if len(estimate.poses) != len(truth.poses):
            raise UserError(
                f"{options.estimate} has {len(estimate.poses)} poses, {options.truth} {len(truth.poses)}: KITTI files "
                "are compared row by row, so both need the same scans"
            )
        return None, truth.poses, estimate.poses
    of_truth, of_estimate = associate(truth.stamps_ns, estimate.stamps_ns, round(options.tolerance_s * 1e9))
    if not len(of_truth):
        apart_s = abs(int(estimate.stamps_ns[0]) - int(truth.stamps_ns[0])) / 1e9
        raise UserError(
            f"no two stamps are within {options.tolerance_s:g} s: the files begin {apart_s:.3f} s apart; another "
            "--tolerance or another truth is wanted"
        )
    fewer = min(len(estimate.poses), len(truth.poses))
    if len(of_truth) < fewer:
        notes.append(f"{fewer - len(of_truth):,} poses have no partner within {options.tolerance_s:g} s")
    return truth.stamps_ns[of_truth], truth.poses[of_truth], estimate.poses[of_estimate]


def _up(truth: TrajectoryFile) -> Array:
    """z; but in KITTI's files, whose frame is a camera's, -y, where the way goes less along y than along z."""
    extent = np.ptp(truth.poses[:, :3, 3], axis=0)
    camera = truth.stamps_ns is None and extent[1] < extent[2]
    return np.array([0.0, -1.0, 0.0]) if camera else np.array([0.0, 0.0, 1.0])
