"""Ranges of activations, measured over images that stream by, in bounded memory.

The float network runs on each tensor with the wanted activations as further outputs; each is counted into a histogram
of fixed size whose range doubles (and whose bins merge in pairs) when a larger value comes, so that one pass is enough
and nothing is kept of any image. Bins stand on multiples of powers of two: the counts do not depend on the order of the
images. Of a large activation an even sample of its values is counted; its least and greatest value are exact.

The range of a quantizer is then chosen from the histogram: `minmax`; `percentile`, which cuts off a share of the
values at either end; or `mse`, which searches the least mean squared error of rounding and clipping together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import UserError, require

Array = NDArray[Any]
Range = tuple[float, float]
RangeMethod = Literal["mse", "percentile", "minmax"]

BINS = 4096
SAMPLE = 1 << 14
"""Most values of one activation that are counted for one image."""
PERCENTILE = 99.99
_SHRINKS = np.linspace(0.1, 1.0, 37)


@dataclass(eq=False)
class Histogram:
    """Counts of values in BINS bins of equal width over -limit..limit; limit is a power of two that grows.

    low and high are the least and greatest value seen, exactly.
    """

    counts: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    limit: float = 2.0**-20
    low: float = np.inf
    high: float = -np.inf

    def add(self, values: Array) -> None:
        """Count the values. Raises ValueError for one that is not finite."""
        values = np.asarray(values).reshape(-1)
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("an activation is not finite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        while high >= self.limit or -low > self.limit:
            self._grow()
        sample = values[:: -(-len(values) // SAMPLE)].astype(np.float64)
        bins = np.floor(sample * (BINS / (2.0 * self.limit))).astype(np.int64) + BINS // 2  # a power of two: exact
        self.counts += np.bincount(bins, minlength=BINS)

    def _grow(self) -> None:
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[BINS // 4 : 3 * BINS // 4] = merged
        self.limit *= 2.0

    def occupied(self) -> tuple[Array, Array]:
        """Middles (N,) float64 and counts (N,) of the bins that are not empty."""
        bins = np.flatnonzero(self.counts)
        middles = (bins + 0.5) * (2.0 * self.limit / BINS) - self.limit
        return np.clip(middles, self.low, self.high), self.counts[bins]


def quantizer_range(histogram: Histogram, method: RangeMethod, levels: int = 256) -> Range:
    """The range, around 0, that a quantizer of so many levels should cover. An empty histogram gives (0, 0)."""
    if not histogram.counts.any():
        return 0.0, 0.0
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if method == "minmax" or low == high:
        return low, high
    values, counts = histogram.occupied()
    if method == "percentile":
        share = np.cumsum(counts) / counts.sum()
        cut = (1.0 - PERCENTILE / 100.0) / 2.0
        below = values[np.searchsorted(share, cut)]
        above = values[min(int(np.searchsorted(share, 1.0 - cut)), len(values) - 1)]
        return min(float(below), 0.0), max(float(above), 0.0)
    return _least_error_range(values, counts, low, high, levels)


def _least_error_range(values: Array, counts: Array, low: float, high: float, levels: int) -> Range:
    """First the upper end that gives the least mean squared error, then the lower one beside it."""
    best_high = high
    if high > 0.0:
        errors = [_error(values, counts, low, high * shrink, levels) for shrink in _SHRINKS]
        best_high = high * float(_SHRINKS[int(np.argmin(errors))])
    if low == 0.0:
        return 0.0, best_high
    errors = [_error(values, counts, low * shrink, best_high, levels) for shrink in _SHRINKS]
    return low * float(_SHRINKS[int(np.argmin(errors))]), best_high


def _error(values: Array, counts: Array, low: float, high: float, levels: int) -> float:
    """Sum of squared errors of values that are clipped to low..high and rounded to one of the levels."""
    step = (high - low) / (levels - 1)
    zero = round(-low / step)
    rounded = (np.clip(np.round(values / step) + zero, 0, levels - 1) - zero) * step
    return float((counts * (values - rounded) ** 2).sum())


def activation_session(model: Any, tensors: Sequence[str]) -> tuple[Any, str]:
    """(an onnxruntime session of the model whose outputs are these tensors alone, the name of its input)."""
    onnx = require("onnx", extra="quantize")
    import onnxruntime as ort

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, model.graph.input[0].name


def measure(model: Any, tensors: Sequence[str], inputs: Iterable[Array]) -> dict[str, Histogram]:
    """A histogram of each of the model's named activations over the inputs, each a tensor of the model's input.

    The model's own input may be among them. Raises UserError if there is no input at all, or if an activation is not
    finite, for then the network is broken.
    """
    fed = model.graph.input[0].name
    inner = [name for name in tensors if name != fed]
    session, fed = activation_session(model, inner)
    histograms = {name: Histogram() for name in tensors}
    count = 0
    for tensor in inputs:
        count += 1
        found = dict(zip(inner, session.run(inner, {fed: tensor}), strict=True)) | {fed: tensor}
        for name, histogram in histograms.items():
            try:
                histogram.add(found[name])
            except ValueError:
                raise UserError(f"activation {name!r} is not finite on a calibration image; export it again") from None
    if not count:
        raise UserError("no calibration image could be used; give a folder with at least one readable image")
    return histograms


def overflow(histograms: Mapping[str, Histogram], ranges: Mapping[str, Range]) -> dict[str, float]:
    """For each range the share of the histogram's values outside of it, 0..1."""
    shares = {}
    for name, (low, high) in ranges.items():
        values, counts = histograms[name].occupied()
        outside = (values < low) | (values > high)
        shares[name] = float(counts[outside].sum() / max(int(counts.sum()), 1))
    return shares
