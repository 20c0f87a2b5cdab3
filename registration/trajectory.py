"""How far an estimated trajectory is from the true one.

The definitions are those of evo (Grupp, 2017), so that numbers compare with published ones; they go back to Sturm et
al., "A Benchmark for the Evaluation of RGB-D SLAM Systems" (IROS 2012). Alignment is Umeyama, "Least-squares estimation
of transformation parameters between two point patterns" (TPAMI 1991), equations 40 to 42.

Poses are world_T_body (N, 4, 4) float64, positions (N, 3) in metres; a reference and an estimate have one pose for each
other, which `associate` finds by their stamps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import from_rotation_translation, inverse, so3_log

Array = NDArray[Any]


@dataclass(frozen=True)
class ErrorStatistics:
    """A summary of errors, in the errors' own unit."""

    rmse: float
    mean: float
    median: float
    std: float
    min: float
    max: float
    count: int

    @classmethod
    def of(cls, errors: Array) -> ErrorStatistics:
        """Summarise errors (N,). Raises ValueError if there are none, or one is not finite."""
        errors = np.asarray(errors, dtype=np.float64)
        if errors.size == 0 or not np.isfinite(errors).all():
            raise ValueError("no errors to summarise, or one is not finite")
        return cls(
            rmse=float(np.sqrt(np.mean(errors**2))),
            mean=float(errors.mean()),
            median=float(np.median(errors)),
            std=float(errors.std()),
            min=float(errors.min()),
            max=float(errors.max()),
            count=int(errors.size),
        )


@dataclass(frozen=True)
class RelativeErrors:
    """Drift over pairs of poses.

    translation_percent, rotation_deg_per_m: means of a pair's error by the length of its true path, over the pairs that
    have moved; NaN if none has.
    """

    translation_m: ErrorStatistics
    rotation_deg: ErrorStatistics
    translation_percent: float
    rotation_deg_per_m: float


def associate(reference_stamps_ns: Array, estimate_stamps_ns: Array, tolerance_ns: int) -> tuple[Array, Array]:
    """Indices (M,) into both of the poses that belong together.

    Each stamp of the shorter trajectory takes the nearest of the longer, if it is within the tolerance (evo's rule; one
    of the longer may be taken twice). Both must be in ascending order. Raises ValueError if they are not.
    """
    reference, estimate = np.asarray(reference_stamps_ns, np.int64), np.asarray(estimate_stamps_ns, np.int64)
    if (np.diff(reference) < 0).any() or (np.diff(estimate) < 0).any():
        raise ValueError("stamps must be in ascending order")
    reference_is_longer = len(reference) >= len(estimate)
    long, short = (reference, estimate) if reference_is_longer else (estimate, reference)
    if not len(short):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    after = np.clip(np.searchsorted(long, short), 1, max(len(long) - 1, 1))
    after = np.minimum(after, len(long) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(long[before] - short) <= np.abs(long[after] - short), before, after)
    kept = np.flatnonzero(np.abs(long[nearest] - short) <= tolerance_ns)
    return (nearest[kept], kept) if reference_is_longer else (kept, nearest[kept])


def umeyama(target_m: Array, source_m: Array, *, with_scale: bool = False) -> tuple[Array, Array, float]:
    """Rotation (3, 3), translation (3,) and scale (1 unless asked for) that carry source (N, 3) onto target (N, 3).

    target = scale * rotation @ source + translation, in the least-squares sense. On a straight line the rotation about
    it is free, and any is returned. Raises ValueError for different or empty shapes, for values that are not finite,
    and for a scale of points that all coincide.
    """
    target, source = np.asarray(target_m, np.float64), np.asarray(source_m, np.float64)
    if target.shape != source.shape or target.ndim != 2 or target.shape[1] != 3 or len(target) == 0:
        raise ValueError(f"positions have shapes {target.shape} and {source.shape}, not the same (N, 3)")
    if not (np.isfinite(target).all() and np.isfinite(source).all()):
        raise ValueError("positions must be finite")
    target_mean, source_mean = target.mean(axis=0), source.mean(axis=0)
    covariance = (target - target_mean).T @ (source - source_mean) / len(target)
    u, singular, vt = np.linalg.svd(covariance)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u * sign @ vt
    variance = float(np.mean(np.sum((source - source_mean) ** 2, axis=1)))
    if with_scale and variance == 0.0:
        raise ValueError("points that all coincide have no scale")
    scale = float(singular @ sign) / variance if with_scale else 1.0
    return rotation, target_mean - scale * rotation @ source_mean, scale


def align(reference: Array, estimate: Array, *, with_scale: bool = False) -> Array:
    """The estimate (N, 4, 4), carried as a whole (and scaled if asked) to where it fits the reference's positions best.

    Raises ValueError as umeyama does.
    """
    rotation, translation, scale = umeyama(reference[:, :3, 3], estimate[:, :3, 3], with_scale=with_scale)
    positions = scale * estimate[:, :3, 3] @ rotation.T + translation
    return from_rotation_translation(rotation @ estimate[:, :3, :3], positions)


def absolute_errors_m(reference: Array, estimate: Array) -> Array:
    """Distance (N,) between positions; summarised, evo's APE (translation part). Align first if the frames differ."""
    _check_pair(reference, estimate)
    result: Array = np.linalg.norm(reference[:, :3, 3] - estimate[:, :3, 3], axis=1)
    return result


def absolute_error(
    reference: Array, estimate: Array, *, aligned: bool = True, with_scale: bool = False
) -> ErrorStatistics:
    """APE, also called ATE: absolute_errors_m after alignment. Raises ValueError as umeyama does."""
    _check_pair(reference, estimate)
    fitted = align(reference, estimate, with_scale=with_scale) if aligned else estimate
    return ErrorStatistics.of(absolute_errors_m(reference, fitted))


def relative_error(
    reference: Array, estimate: Array, delta: float, unit: Literal["frames", "m"], *, tolerance: float = 0.1
) -> RelativeErrors:
    """RPE: how the estimated motion over each pair of poses differs from the true one (evo's, over all pairs,
    which are chosen on the reference).

    A pair is two poses that are `delta` frames apart, or, along the reference's path, delta metres to within the
    tolerance (a share of delta). Raises ValueError if there is no such pair.
    """
    _check_pair(reference, estimate)
    travelled_m = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(reference[:, :3, 3], axis=0), axis=1))])
    if unit == "frames":
        first, second = _pairs_by_frames(len(reference), int(delta))
    else:
        first, second = _pairs_by_path(travelled_m, delta, tolerance * delta)
    if not len(first):
        raise ValueError(f"no two poses are {delta} {unit} apart")
    true_motion = inverse(reference[first]) @ reference[second]
    motion = inverse(estimate[first]) @ estimate[second]
    error = inverse(true_motion) @ motion
    translation_m = np.linalg.norm(error[:, :3, 3], axis=1)
    rotation_deg = np.degrees(np.linalg.norm(so3_log(error[:, :3, :3]), axis=1))
    path_m = travelled_m[second] - travelled_m[first]
    moved = path_m > 0
    percent, deg_per_m = (
        float(np.mean(errors[moved] / path_m[moved])) if moved.any() else float("nan")
        for errors in (100.0 * translation_m, rotation_deg)
    )
    return RelativeErrors(ErrorStatistics.of(translation_m), ErrorStatistics.of(rotation_deg), percent, deg_per_m)


def _check_pair(reference: Array, estimate: Array) -> None:
    if reference.shape != estimate.shape or reference.shape[1:] != (4, 4):
        raise ValueError(f"trajectories have shapes {reference.shape} and {estimate.shape}, not the same (N, 4, 4)")


def _pairs_by_frames(count: int, delta: int) -> tuple[Array, Array]:
    if delta < 1:
        raise ValueError(f"delta must be 1 frame or more, not {delta}")
    first = np.arange(max(count - delta, 0))
    return first, first + delta


def _pairs_by_path(travelled_m: Array, delta_m: float, tolerance_m: float) -> tuple[Array, Array]:
    """For each pose the later one whose distance along the path is nearest to delta_m."""
    if not delta_m > 0:
        raise ValueError(f"delta must be above 0 m, not {delta_m}")
    first = np.arange(len(travelled_m) - 1)
    wanted = travelled_m[:-1] + delta_m
    after = np.clip(np.searchsorted(travelled_m, wanted), first + 1, len(travelled_m) - 1)
    before = np.maximum(after - 1, first + 1)
    before = np.maximum(np.searchsorted(travelled_m, travelled_m[before]), first + 1)  # the first of poses at a halt
    second = np.where(wanted - travelled_m[before] <= np.abs(travelled_m[after] - wanted), before, after)
    kept = np.abs(travelled_m[second] - wanted) <= tolerance_m
    return first[kept], second[kept]
