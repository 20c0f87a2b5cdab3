"""Where one upright scene lies in another, by correlating what both see from above, for every yaw.

Vehicles share gravity, so that three unknowns are left, and a search over all of them needs no features, no repeatable
keypoints and no guess. For each yaw the fast Fourier transform gives the agreement of two maps for all shifts at once
(Reddy and Chatterji, 1996, rotated explicitly instead of by magnitudes). What makes it work at a small overlap:

- A cell is occupied or not: what is near does not outweigh what is far. Slabs of height are correlated apart, so that a
  hedge does not fit a roof.
- Each slab counts by its cosine, its agreement over the geometric mean of what both hold. A rare thing, the one house
  behind an orchard, weighs as much as a hundred trees in rows that agree as well a row further on.
- Slow changes across the map are taken out (a high pass): two dense middles on top of each other are no agreement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.distant.structure import Scene
from tercel.core.geometry import from_rotation_translation, rotation_about_z, wrap_angle

Array = NDArray[Any]

CELL_M = 1.0
SLABS_M = (0.4, 2.0, 4.5, np.inf)
_SIDE = 240  # cells of the transforms: what a scan sees to either side, plus the largest shift (2^4 * 3 * 5)
_SHIFT = 60  # cells, the largest shift looked at
_BLOCK = 10  # cells; the best shift of each block of shifts is kept
_YAW_STEPS = 180
_BLUR_CELLS, _HIGH_PASS_PER_CELL = 0.7, 0.03
_PRIOR_CELLS = 10.0  # keeps a slab that holds next to nothing from deciding
_APART_RAD, _APART_M = np.radians(5.0), 4.0  # nearer peaks are one


@dataclass(frozen=True, eq=False)
class Peak:
    """A candidate: target_T_source (4, 4) between the level frames, and its score, the sum of the slabs' cosines."""

    target_T_source: Array
    score: float


def correlate(target: Scene, source: Scene, *, count: int = 5) -> list[Peak]:
    """The `count` poses, best first, at which what both scenes see from above agrees most; none if one is empty."""
    target_slabs = [_in_slab(target, slab) for slab in range(len(SLABS_M) - 1)]
    source_slabs = [_in_slab(source, slab) for slab in range(len(SLABS_M) - 1)]
    if not len(target.structure_m) or not len(source.structure_m):
        return []
    target_spectra, weights = [], []
    for ours, theirs in zip(target_slabs, source_slabs, strict=True):
        image, other = _image(ours), _image(theirs)
        target_spectra.append(np.fft.rfft2(image) * _band_pass())
        weights.append(1.0 / (np.sqrt(image.sum() * other.sum()) + _PRIOR_CELLS))
    weighted = np.conj(np.stack(target_spectra)) * np.array(weights, np.float32)[:, None, None]

    rows = []
    for yaw_rad in np.arange(_YAW_STEPS // 2) * (2.0 * np.pi / _YAW_STEPS):
        turn = rotation_about_z(yaw_rad)[:2, :2].astype(np.float32)
        images = np.stack([_image(np.einsum("ij,kj->ik", xy_m, turn)) for xy_m in source_slabs])
        spectra = np.fft.rfft2(images)
        rows.append(_best_of_blocks((spectra * weighted).sum(axis=0), yaw_rad, 0))
        # Half a turn more is the map read backwards, whose spectrum is the conjugate, a cell further on.
        rows.append(_best_of_blocks((np.conj(spectra) * weighted).sum(axis=0), yaw_rad + np.pi, 1))
    return _separate(np.concatenate(rows), count)


def _in_slab(scene: Scene, slab: int) -> Array:
    """x, y (n, 2) of the structure in one slab of height."""
    chosen = (scene.height_m >= SLABS_M[slab]) & (scene.height_m < SLABS_M[slab + 1])
    result: Array = scene.structure_m[chosen, :2]
    return result


def _image(xy_m: Array) -> Array:
    """(side, side) float32: 1 where a cell holds a point, else 0; x along rows."""
    cells = np.floor(xy_m / CELL_M).astype(np.int64) + _SIDE // 2
    cells = cells[((cells >= 0) & (cells < _SIDE)).all(axis=1)]
    image = np.zeros((_SIDE, _SIDE), np.float32)
    image[cells[:, 0], cells[:, 1]] = 1.0
    return image


def _band_pass() -> Array:
    """(side, side // 2 + 1) float32: a Gaussian low pass, which forgives yaw steps and cells, times a high pass."""
    squared = np.fft.fftfreq(_SIDE)[:, None] ** 2 + np.fft.rfftfreq(_SIDE)[None, :] ** 2
    low = np.exp(-2.0 * np.pi**2 * _BLUR_CELLS**2 * squared)
    high = 1.0 - np.exp(-squared / (2.0 * _HIGH_PASS_PER_CELL**2))
    result: Array = (low * high).astype(np.float32)
    return result


def _best_of_blocks(spectrum: Array, yaw_rad: float, ahead: int) -> Array:
    """The best shift of each block, rows of score, yaw, x, y (in m): what must be added to the turned source.

    The transform was conjugated on the target's side, so that a shift d stands at cell -d; `ahead` cells are added.
    """
    agreement = np.fft.irfft2(spectrum, s=(_SIDE, _SIDE))
    across = 2 * _SHIFT // _BLOCK
    window = np.roll(agreement, (_SHIFT, _SHIFT), axis=(0, 1))[: 2 * _SHIFT, : 2 * _SHIFT]
    blocks = window.reshape(across, _BLOCK, across, _BLOCK).transpose(0, 2, 1, 3).reshape(across**2, _BLOCK**2)
    inside = blocks.argmax(axis=1)
    block = np.arange(across**2)
    x = block // across * _BLOCK + inside // _BLOCK - _SHIFT
    y = block % across * _BLOCK + inside % _BLOCK - _SHIFT
    shifts_m = (ahead - np.stack([x, y])) * CELL_M
    return np.stack([blocks[block, inside], np.full(len(block), yaw_rad), *shifts_m], axis=1)


def _separate(rows: Array, count: int) -> list[Peak]:
    """The best rows that are not the slope of a better one."""
    rows = rows[np.argsort(-rows[:, 0], kind="stable")]
    kept: list[Array] = []
    while len(rows) and len(kept) < count:
        best = rows[0]
        kept.append(best)
        turned = np.abs(wrap_angle(rows[:, 1] - best[1])) > _APART_RAD
        moved = np.hypot(rows[:, 2] - best[2], rows[:, 3] - best[3]) > _APART_M
        rows = rows[turned | moved]
    return [
        Peak(from_rotation_translation(rotation_about_z(yaw), np.array([x, y, 0.0])), float(score))
        for score, yaw, x, y in kept
        if score > 0.0
    ]
