"""Adaptive rounding of activations, after AQuant (arXiv 2208.11945): a study, in numpy.

Rounding to nearest has its border at 1/2: x is rounded up where its fraction is above it. AQuant makes the border a
function of the activation itself, so that the error which rounding leaves in a layer's *output*, W e, becomes small,
and not e. Here the border depends on the step below x: one for each of the lowest three, where most activations after
a ReLU lie and lean to 0, and one for all above. The four are found by pattern search on calibration patches; the gain
is what remains on others. (AQuant learns a parabola by gradient descent.)

No runtime lets a quantizer's border be chosen (QuantizeLinear rounds to nearest, ties to even), so this is no option of
`tercel quantize`: the bench says what it would be worth on a real layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LEVELS_4_BIT = 15
OWN_BORDERS = 4
NEAREST = (0.5,) * OWN_BORDERS
_FIRST_REACH = 0.2
_ROUNDS = 16


@dataclass(frozen=True)
class BorderStudy:
    """borders: see the module's docstring; mean squared errors of the output on patches that were not fitted."""

    borders: tuple[float, ...]
    nearest_mse: float
    adaptive_mse: float

    @property
    def gain(self) -> float:
        """How many times smaller the output's squared error becomes."""
        return self.nearest_mse / max(self.adaptive_mse, 1e-30)


def rounded(values: Array, high: float, levels: int, borders: tuple[float, ...] = NEAREST) -> Array:
    """Values rounded to one of levels + 1 steps over 0..high; borders[k] is for step k, the last for all above."""
    step = high / levels
    scaled = np.clip(values / step, 0.0, levels)
    lower = np.floor(scaled)
    limit = np.array(borders)[np.minimum(lower, len(borders) - 1).astype(np.int64)]
    result: Array = np.minimum(lower + (scaled - lower > limit), levels) * step
    return result


def output_mse(patches: Array, weights: Array, high: float, levels: int, borders: tuple[float, ...]) -> float:
    """Mean squared error of patches (N, K) @ weights (K, O) when the patches are rounded."""
    error = (rounded(patches, high, levels, borders) - patches) @ weights
    return float((error**2).mean())


def study(fitted: Array, held_out: Array, weights: Array, *, high: float, levels: int = LEVELS_4_BIT) -> BorderStudy:
    """The borders that suit a layer best.

    fitted, held_out: inputs (N, K) of the layer's product with weights (K, O), none negative (after a ReLU); high: the
    quantizer's range. Raises ValueError for shapes that do not fit.
    """
    if fitted.shape[1:] != weights.shape[:1] or held_out.shape[1:] != weights.shape[:1]:
        raise ValueError(f"patches {fitted.shape} and {held_out.shape} do not fit weights {weights.shape}")
    best = NEAREST
    least = output_mse(fitted, weights, high, levels, best)
    reach = _FIRST_REACH
    for _ in range(_ROUNDS):
        moves = [_moved(best, place, by) for place in range(OWN_BORDERS) for by in (reach, -reach)]
        errors = [output_mse(fitted, weights, high, levels, move) for move in moves]
        winner = int(np.argmin(errors))
        if errors[winner] < least:
            best, least = moves[winner], errors[winner]
        else:
            reach /= 2.0
    nearest = output_mse(held_out, weights, high, levels, NEAREST)
    return BorderStudy(best, nearest, output_mse(held_out, weights, high, levels, best))


def _moved(borders: tuple[float, ...], place: int, by: float) -> tuple[float, ...]:
    value = min(max(borders[place] + by, 0.0), 1.0)
    return (*borders[:place], value, *borders[place + 1 :])


def patches_of(activation: Array, kernel: tuple[int, int], *, most: int, seed: int) -> Array:
    """At most `most` patches (N, C kh kw), drawn at random, of an activation (1, C, H, W), without padding."""
    windows = np.lib.stride_tricks.sliding_window_view(activation[0], kernel, axis=(1, 2))
    flat = windows.transpose(1, 2, 0, 3, 4).reshape(-1, activation.shape[1] * kernel[0] * kernel[1])
    rows = np.random.default_rng(seed).permutation(len(flat))[:most]
    result: Array = flat[np.sort(rows)].astype(np.float64)
    return result
