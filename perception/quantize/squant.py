"""SQuant (arXiv 2202.07471): integer weights without any data, by flipping roundings until their errors cancel.

Rounded to nearest, the errors e of a kernel's weights (in steps) add up to anything; what a convolution gives is then
off by about its inputs' mean times that sum. SQuant makes the sums small, by moving some weights to the other one of
their two neighbouring integers:

    element   round to nearest: every |e| <= 1/2
    kernel    in each kernel (output channel, input channel) flip the round(|Σe|) weights of largest |e| that lean the
              sum's way: every |e| < 1, every kernel's |Σe| <= 1/2
    channel   in each output channel flip one weight in each of the round(|Σe|) kernels that lean most: every channel's
              |Σe| <= 1/2, and every |e| < 1 still; the sum of a kernel that was flipped is now 1 - |Σe| < 1

Both |Σe| <= 1/2 at once cannot be had in general: the first already names the sum of each kernel, and so the channel's.
The paper's last stage gives up the first for the second, as is done here. All kernels are flipped at once: ranks by
sorting, no loop over weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.quantize.static import IntegerWeights, weight_steps

Array = NDArray[Any]


def squant_weights(weights: Array, limit: int) -> IntegerWeights:
    """Weights (O, I, ...) float32, or (O, I), as integers within -limit..limit.

    Raises ValueError for weights of another rank or that are not finite.
    """
    if weights.ndim < 2 or not np.isfinite(weights).all():
        raise ValueError(f"weights of shape {weights.shape} must be (O, I, ...) and finite")
    steps = weight_steps(weights, limit)
    scaled = weights.astype(np.float64) / steps.astype(np.float64).reshape(-1, *[1] * (weights.ndim - 1))
    scaled = np.clip(scaled, -limit, limit)  # the step is float32: the largest may be an ulp beyond
    flat = scaled.reshape(*weights.shape[:2], -1)
    errors = flip_channels(flip_kernels(np.rint(flat) - flat))
    values = np.rint(flat + errors).reshape(weights.shape)
    return IntegerWeights(values.astype(np.int8), steps)


def flip_kernels(errors: Array) -> Array:
    """Errors (O, I, K) of weights rounded to nearest, in steps -> the same with each kernel's |Σe| <= 1/2."""
    sums = errors.sum(axis=2)
    return _flipped(errors, np.sign(sums), np.rint(np.abs(sums)))


def flip_channels(errors: Array) -> Array:
    """Errors (O, I, K) with each kernel's |Σe| <= 1/2 -> the same with each output channel's |Σe| <= 1/2."""
    kernel_sums = errors.sum(axis=2)
    sums = kernel_sums.sum(axis=1)
    leaning = kernel_sums * np.sign(sums)[:, None]
    chosen = _ranks(leaning) < np.rint(np.abs(sums))[:, None]
    signs = np.broadcast_to(np.sign(sums)[:, None], kernel_sums.shape)
    return _flipped(errors, signs, chosen.astype(np.float64))


def _flipped(errors: Array, signs: Array, counts: Array) -> Array:
    """In each row of errors (..., K) move the counts (...) elements that lean most to signs (...) by one step back."""
    leaning = errors * signs[..., None]
    moved = (_ranks(leaning) < counts[..., None]) & (leaning > 0.0)
    result: Array = errors - moved * signs[..., None]
    return result


def _ranks(values: Array) -> Array:
    """The place of each value among those of its row (last axis), 0 for the greatest, equal ones in order."""
    order = np.argsort(-values, axis=-1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(values.shape[-1]), values.shape), axis=-1)
    return ranks
