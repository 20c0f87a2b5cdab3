"""An estimated trajectory held against the true one: the numbers that `tercel evaluate odometry` and `tercel odometry`
print. The errors are evo's, see registration.trajectory; here they are put together and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from registration.trajectory import ErrorStatistics, RelativeErrors, absolute_errors_m, align, relative_error
from tercel.core.errors import UserError

Array = NDArray[Any]
Unit = Literal["m", "frames"]

RPE_DELTA_M = 10.0


@dataclass(frozen=True, eq=False)
class Measure:
    """How two trajectories are compared: laid over each other as a whole (and scaled) or as they are, and the length
    over which drift is measured, in metres of the true path or in poses."""

    aligned: bool = False
    scaled: bool = False
    delta: float = RPE_DELTA_M
    unit: Unit = "m"

    def __post_init__(self) -> None:
        if self.scaled and not self.aligned:
            raise UserError("--scale goes with --align; add it")
        if not 0.0 < self.delta < 1e6 or (self.unit == "frames" and self.delta != int(self.delta)):
            wanted = "1 or more, a whole number," if self.unit == "frames" else "above 0"
            raise UserError(f"--delta {self.delta:g} {self.unit}: {wanted} is wanted")

    @property
    def words(self) -> str:
        """What was done before comparing."""
        return "aligned and scaled" if self.scaled else "aligned" if self.aligned else "as they are"


@dataclass(frozen=True, eq=False)
class OdometryScores:
    """Two trajectories pose by pose, and how far apart they are.

    stamps_ns (N,) of the true poses, or None where there are none. reference, estimate (N, 4, 4), the estimate laid
    over the reference if that was asked for. errors_m (N,): distances. height_rmse_m: of the errors along `up`.
    relative: None where no two poses are delta apart. up (3,): the reference's direction that is drawn upward.
    """

    measure: Measure
    stamps_ns: Array | None
    reference: Array
    estimate: Array
    errors_m: Array
    absolute: ErrorStatistics
    relative: RelativeErrors | None
    height_rmse_m: float
    path_m: float
    up: Array

    def summary(self) -> dict[str, Any]:
        """For JSON: the three figures of every paper first."""
        relative = self.relative
        return {
            "ate_rmse_m": self.absolute.rmse,
            "rpe_trans_percent": None if relative is None else _finite(relative.translation_percent),
            "rpe_rot_deg_per_m": None if relative is None else _finite(relative.rotation_deg_per_m),
            "poses": len(self.errors_m),
            "path_m": self.path_m,
            "alignment": self.measure.words,
            "ate_m": asdict(self.absolute),
            "height_rmse_m": self.height_rmse_m,
            "end_error_m": float(self.errors_m[-1]),
            "rpe_delta": self.measure.delta,
            "rpe_unit": self.measure.unit,
            "rpe_m": None if relative is None else asdict(relative.translation_m),
            "rpe_deg": None if relative is None else asdict(relative.rotation_deg),
        }

    def rows(self) -> list[tuple[str, str]]:
        """What it says, and the figure, for people."""
        ate, relative, measure = self.absolute, self.relative, self.measure
        rows = [
            ("poses compared", f"{len(self.errors_m):,} over {self.path_m:,.1f} m"),
            (f"ATE, {measure.words}", f"{ate.rmse:.4f} m RMSE, {ate.median:.4f} m median, {ate.max:.4f} m at most"),
            ("of it in height", f"{self.height_rmse_m:.4f} m RMSE"),
        ]
        name = f"RPE over {measure.delta:g} {measure.unit}"
        if relative is None:
            return [*rows, (name, "no two poses are so far apart; a smaller --delta is wanted")]
        moved = np.isfinite(relative.translation_percent)
        share = f"{relative.translation_percent:.3f} %, {relative.rotation_deg_per_m:.4f} °/m" if moved else "no motion"
        across = f"{relative.translation_m.rmse:.4f} m and {relative.rotation_deg.rmse:.3f}° RMSE"
        return [*rows, (name, f"{share} ({across}, {relative.translation_m.count:,} pairs)")]


def score(
    reference: Array, estimate: Array, measure: Measure, *, stamps_ns: Array | None = None, up: Array | None = None
) -> OdometryScores:
    """Compare poses (N, 4, 4) that belong to each other.

    up (3,): which way is up in the reference's frame, z if None. Raises ValueError if there are none, one is not
    finite, or they cannot be laid over each other.
    """
    if measure.scaled:
        _check_scale(reference, estimate)
    fitted = align(reference, estimate, with_scale=measure.scaled) if measure.aligned else estimate
    errors_m = absolute_errors_m(reference, fitted)
    absolute = ErrorStatistics.of(errors_m)
    try:
        relative = relative_error(reference, fitted, measure.delta, measure.unit)
    except ValueError:  # no two poses are that far apart
        relative = None
    up = np.array([0.0, 0.0, 1.0]) if up is None else up
    heights_m = (fitted[:, :3, 3] - reference[:, :3, 3]) @ up
    steps_m = np.linalg.norm(np.diff(reference[:, :3, 3], axis=0), axis=1)
    return OdometryScores(
        measure=measure,
        stamps_ns=stamps_ns,
        reference=reference,
        estimate=fitted,
        errors_m=errors_m,
        absolute=absolute,
        relative=relative,
        height_rmse_m=float(np.sqrt(np.mean(heights_m**2))),
        path_m=float(steps_m.sum()),
        up=up,
    )


def rows_text(rows: list[tuple[str, str]]) -> str:
    """Names and figures, in two columns."""
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows)


def counts_text(counts: Mapping[str, int]) -> str:
    """Reasons with their numbers: "2 too few usable points, 1 stamp not after the one before"."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items())) or "none"


def _check_scale(reference: Array, estimate: Array) -> None:
    """Raises ValueError where a scale says nothing: everything in one place."""
    for poses in (reference, estimate):
        if np.ptp(poses[:, :3, 3], axis=0).max() < 1e-9:
            raise ValueError("a trajectory that stands still has no scale")


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
