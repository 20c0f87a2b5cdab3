"""Where have I been: a descriptor of 1200 bytes for each keyframe, compared with all others at every heading at once.

The descriptor is Scan Context (Kim and Kim, IROS 2018): how high the scene rises in each ring and sector around the
sensor. It departs from the paper in three things (tests/benchmarks/bench_merge.py measures them):

- height counts from the scan's own ground and by its square root, so that the mounting height does not matter and low
  things count beside houses;
- two descriptors are compared as wholes, by their normalised correlation at all headings, which Fourier transforms
  over the sectors give in one product; the paper compares column by column, at the heading that its key suggests;
- the one that asks does so from three places, as if it had driven in the neighbouring lanes too (as Kim et al.'s Scan
  Context++, T-RO 2022, does). Without, the way back along a road is not found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import from_rotation_translation, rotation_about_z

Array = NDArray[Any]

RINGS, SECTORS = 20, 60
REACH_M = 60.0
ASIDE_M = (-3.5, 0.0, 3.5)
"""Steps to the left from where a scan asks: a lane to the right, none, a lane to the left."""
_BLIND_M = 1.5
_HIGHEST_M = 12.0
_GROUND_QUANTILE = 0.05
_MOST_SCORES = 1 << 22  # held at once while comparing


@dataclass(frozen=True, eq=False)
class PlaceMatches:
    """For Q scans that asked and N that are known: score (Q, N) float32 at most 1, and where the one that asked is:
    yaw_rad (Q, N) and aside_m (Q, N), see guess.
    """

    score: Array
    yaw_rad: Array
    aside_m: Array

    def guess(self, asked: int, known: int) -> Array:
        """known_T_asked (4, 4), to a lane and half a sector; nothing is known about ahead and height."""
        aside = np.array([0.0, float(self.aside_m[asked, known]), 0.0])
        rotation = rotation_about_z(float(self.yaw_rad[asked, known]))
        return from_rotation_translation(rotation, rotation @ aside)


def describe(points_m: Array, *, aside_m: float = 0.0) -> Array:
    """The descriptor (RINGS, SECTORS) uint8 of a scan (N, 3), x forward, z up; points that are not finite are dropped.

    aside_m: as it would look from so far to the right. A scan without points gives zeros.
    """
    if points_m.ndim != 2 or points_m.shape[1] != 3:
        raise ValueError(f"points have shape {points_m.shape}, not (N, 3)")
    points = points_m[np.isfinite(points_m).all(axis=1)].astype(np.float64)
    x, y = points[:, 0], points[:, 1] + aside_m
    distance_m = np.hypot(x, y)
    seen = (distance_m > _BLIND_M) & (distance_m < REACH_M)
    heights = np.zeros((RINGS, SECTORS))
    if seen.any():
        height_m = np.clip(points[seen, 2] - ground_height_m(points), 0.0, _HIGHEST_M)
        ring = (distance_m[seen] * (RINGS / REACH_M)).astype(np.int64)
        sector = np.floor((np.arctan2(y[seen], x[seen]) / (2.0 * np.pi) + 0.5) * SECTORS).astype(np.int64) % SECTORS
        np.maximum.at(heights, (ring, sector), height_m)
    result: Array = np.round(np.sqrt(heights / _HIGHEST_M) * 255.0).astype(np.uint8)
    return result


def describe_aside(points_m: Array) -> Array:
    """Descriptors (len(ASIDE_M), RINGS, SECTORS) uint8 with which a scan (N, 3) asks."""
    return np.stack([describe(points_m, aside_m=aside_m) for aside_m in ASIDE_M])


def ground_height_m(points_m: Array) -> float:
    """z of the ground near a scan (N, 3) of finite points: a low quantile, 0 if there are none."""
    return float(np.quantile(points_m[:, 2], _GROUND_QUANTILE)) if len(points_m) else 0.0


def compare(known: Array, asking: Array) -> PlaceMatches:
    """How well scans that ask, (Q, len(ASIDE_M), RINGS, SECTORS), fit known places (N, RINGS, SECTORS)."""
    count = len(known)
    best = PlaceMatches(*(np.full((len(asking), count), value, np.float32) for value in (-1.0, 0.0, 0.0)))
    spectra = np.moveaxis(np.fft.rfft(_normalised(known), axis=-1), 2, 0)  # (F, N, RINGS)
    at_once = max(1, _MOST_SCORES // max(count * SECTORS, 1))
    for begin in range(0, len(asking), at_once):
        rows = slice(begin, begin + at_once)
        for index, aside_m in enumerate(ASIDE_M):
            asked = np.moveaxis(np.fft.rfft(_normalised(asking[rows, index]), axis=-1), 2, 0)
            product = asked.conj() @ np.swapaxes(spectra, 1, 2)  # (F, Q, N)
            scores = np.fft.irfft(np.moveaxis(product, 0, 2), SECTORS, axis=-1)
            turn = scores.argmax(axis=2)
            score = np.take_along_axis(scores, turn[..., None], axis=2)[..., 0]
            better = score > best.score[rows]
            best.score[rows][better] = score[better]
            best.yaw_rad[rows][better] = (turn * (2.0 * np.pi / SECTORS))[better]
            best.aside_m[rows][better] = aside_m
    return best


def _normalised(descriptors: Array) -> Array:
    """(..., RINGS, SECTORS) float64 with mean 0 and length 1; zeros where all is equal."""
    values = descriptors.astype(np.float64)
    values -= values.mean(axis=(-2, -1), keepdims=True)
    lengths = np.linalg.norm(values, axis=(-2, -1), keepdims=True)
    result: Array = values / np.maximum(lengths, 1e-9)
    return result
