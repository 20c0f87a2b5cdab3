"""How long a component's work takes on the virtual clock.

- nothing: results are out at the instant their input came in; nothing is late, nothing dropped.
- measured: what the work took here, this time. The one charge that is not reproducible.
- a profile: the `summary.json` of a replay on some board; durations are drawn, with a seed, from the quantiles that it
  states for each component.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tercel.core.errors import UserError

# (component, seconds that the work took here) -> nanoseconds to charge
Charge = Callable[[str, float], int]

_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))


def charge_nothing(_component: str, _took_s: float) -> int:
    """Work takes no virtual time."""
    return 0


def charge_measured(_component: str, took_s: float) -> int:
    """Work takes as long as it took here."""
    return round(took_s * 1e9)


def charge_profile(path: Path, seed: int, components: Sequence[str]) -> Charge:
    """Work takes as long as on the board that wrote this summary.json.

    A duration is drawn by inverting the piecewise-linear distribution through the stated p50, p90, p99 and max, from
    half the median up. Each component has its own stream, so that one more component does not change the others.
    Raises UserError if the file is no summary, or says nothing usable of one of the components.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["components"]
        rows = {name: [float(entry["latency_ms"][key]) for key, _ in _QUANTILES] for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is no board profile: give the summary.json of a replay on that board") from None
    for name in components:
        if name not in rows:
            raise UserError(f"{path} says nothing of component {name!r}: replay the same graph on the board")
        if not (np.isfinite(rows[name]).all() and np.all(np.diff([0.0, *rows[name]]) >= 0)):
            raise UserError(f"{path}: the latencies of {name!r} are no quantiles: {rows[name]}")
    levels = [0.0, *(level for _, level in _QUANTILES)]
    curves = {name: [rows[name][0] / 2, *rows[name]] for name in components}
    streams = {name: np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in components}

    def charge(component: str, _took_s: float) -> int:
        draw_ms = np.interp(streams[component].random(), levels, curves[component])
        return round(float(draw_ms) * 1e6)

    return charge
