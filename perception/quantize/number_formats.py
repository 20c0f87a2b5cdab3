"""Number formats of few bits, chosen for each tensor by error, after ANT (arXiv 2208.14286).

    int     equal steps: the best for values that are spread evenly
    pot     0 and powers of two: for long tails
    flint   ANT's own, a float around an integer: equal steps below 2^(bits-1), then ever fewer mantissa bits; unsigned
            in four bits 0..8, 10, 12, 14, 16, 24, 32, 64

A signed format of b bits is a sign and the unsigned one of b - 1 bits. No runtime here computes in pot or flint: the
formats serve studies of size and accuracy, with weights that are rounded to a format and written as floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Format = Literal["int", "pot", "flint"]
FORMATS: tuple[Format, ...] = ("int", "pot", "flint")

_SHRINKS = np.linspace(0.3, 1.0, 29)


@dataclass(frozen=True, eq=False)
class FormatChoice:
    """A tensor in the format of least error. values: on the grid, as floats; mse: mean squared error by format."""

    format: Format
    values: Array
    mse: dict[Format, float]


@cache
def grid(name: Format, bits: int, *, signed: bool) -> tuple[float, ...]:
    """All values of a format, ascending, in its own unit. Raises ValueError for bits outside 3..8 (pot: 3..5)."""
    if not 3 <= bits <= (5 if name == "pot" else 8):
        raise ValueError(f"{name} of {bits} bits is not offered")
    if signed:
        positive = grid_unsigned(name, bits - 1)[1:]
        return (*(-value for value in reversed(positive)), 0.0, *positive)
    return grid_unsigned(name, bits)


def grid_unsigned(name: Format, bits: int) -> tuple[float, ...]:
    """The 2^bits values of an unsigned format, ascending from 0."""
    if name == "int":
        return tuple(float(value) for value in range(2**bits))
    if name == "pot":
        return (0.0, *(2.0**power for power in range(2**bits - 1)))
    mantissas = [*range(bits - 1), *reversed(range(bits - 1)), 0]
    values = [
        2.0**exponent * (1.0 + part / 2**mantissa)
        for exponent, mantissa in enumerate(mantissas)
        for part in range(2**mantissa)
    ]
    return (0.0, *values)


def to_grid(values: Array, grid_values: tuple[float, ...], step: Array) -> Array:
    """Values (...) each replaced by the nearest step * grid value; step broadcasts."""
    levels = np.array(grid_values)
    middles = (levels[1:] + levels[:-1]) / 2.0
    result: Array = levels[np.searchsorted(middles, values / step)] * step
    return result


def in_format(values: Array, name: Format, bits: int, *, per_channel: bool = True) -> Array:
    """Values (O, ...) in a signed (or, where none is negative, unsigned) format, float64.

    The step, one for each channel of the first axis or one for all, is the one of least squared error of 29 between
    30 and 100 % of what would just hold the largest value.
    """
    rows = values.astype(np.float64).reshape(len(values) if per_channel else 1, -1)
    levels = grid(name, bits, signed=bool((values < 0.0).any()))
    largest = np.abs(rows).max(axis=1, keepdims=True)
    full = np.where(largest > 0.0, largest, 1.0) / levels[-1]
    best, least = to_grid(rows, levels, full), np.full((len(rows), 1), np.inf)
    for shrink in _SHRINKS:
        trial = to_grid(rows, levels, full * shrink)
        error = ((trial - rows) ** 2).sum(axis=1, keepdims=True)
        best, least = np.where(error < least, trial, best), np.minimum(error, least)
    return best.reshape(values.shape)


def best_format(values: Array, bits: int, *, per_channel: bool = True) -> FormatChoice:
    """The tensor (O, ...) in whichever format has the least mean squared error; of equals the first of FORMATS."""
    offered = [name for name in FORMATS if name != "pot" or bits <= 5]
    made = {name: in_format(values, name, bits, per_channel=per_channel) for name in offered}
    mse = {name: float(((one - values) ** 2).mean()) for name, one in made.items()}
    chosen = min(offered, key=lambda name: mse[name])
    return FormatChoice(chosen, made[chosen].astype(np.float32), mse)
