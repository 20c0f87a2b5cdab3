"""The page of `tercel register`: both clouds before and after, from above and from the side, and what is known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import so3_log, transform_points
from tercel.report.drawing import Panel, data_uri, esc, nice_step, number, palette_png
from tercel.report.page import document, section
from tercel.report.register_run import RegisterRun
from tercel.report.tables import table

Array = NDArray[Any]

_ASSETS = ("page.css", "registration.css")
_WIDTH = 640
_MAX_POINTS = 300_000
_LEVELS = 5
# Target, source, both: blue, orange, near white, each from pale to full.
_COLOURS = ((74, 144, 226), (240, 138, 44), (250, 246, 232))


def write_register_report(path: Path, run: RegisterRun) -> None:
    """Write the page. Raises OSError if the file cannot be written."""
    summary = run.summary()
    words = {True: "The clouds fit", False: "The clouds could not be aligned"}[run.converged]
    verdict = f"{words}: {run.status}" + (f", confidence {run.confidence:.2f}." if run.confidence is not None else ".")
    page = document(
        kind="registration",
        name=f"{run.options.source.name} in {run.options.target.name}",
        facts=[f"method <b>{run.method}</b>", f'<code class="command">{esc(run.options.command)}</code>'],
        verdict=verdict,
        tiles=_tiles(run),
        sections=[
            section("clouds", "Before and after", _pictures(run)),
            section("numbers", "Numbers", _numbers(run, summary)),
        ],
        data={},
        version=summary["tercel"],
        assets=_ASSETS,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")


def _tiles(run: RegisterRun) -> list[tuple[str, str, str]]:
    tiles = [(run.status, "status", "good" if run.converged else "bad")]
    if np.isfinite(run.target_T_source).all():
        turn = np.degrees(np.linalg.norm(so3_log(run.target_T_source[:3, :3])))
        tiles.append((f"{np.linalg.norm(run.whole_target_T_source[:3, 3]):,.2f} m", "apart", ""))
        tiles.append((f"{turn:.1f}°", "turned", ""))
    if run.confidence is not None:
        tiles.append((f"{run.confidence:.2f}", "confidence", ""))
    if run.local is not None and np.isfinite(run.local.rmse_m):
        tiles.append((f"{run.local.inlier_ratio:.0%}", "of the source overlaps", ""))
        tiles.append((f"{run.local.rmse_m:.3f} m", "RMSE, point to plane", ""))
    return tiles


# --- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """What a picture shows: columns of the points, ranges in metres, and pixels a metre."""

    columns: tuple[int, int]
    low: tuple[float, float]
    high: tuple[float, float]
    scale: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px."""
        width, height = ((h - b) * self.scale for b, h in zip(self.low, self.high, strict=True))
        return max(1, round(width)), max(1, round(height))

    def cells(self, points_m: Array) -> Array:
        """Row-major pixel indices (K,) of those of the points (N, 3) that are inside."""
        width, height = self.size
        flat = points_m[:, list(self.columns)]
        columns = np.floor((flat[:, 0] - self.low[0]) * self.scale).astype(np.int64)
        rows = np.floor((self.high[1] - flat[:, 1]) * self.scale).astype(np.int64)
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        result: Array = rows[inside] * width + columns[inside]
        return result


def _pictures(run: RegisterRun) -> str:
    target = _thinned(run.target_m)
    source = _thinned(run.source_m)
    before = transform_points(run.guess, source)
    known = np.isfinite(run.target_T_source).all()
    after = transform_points(run.target_T_source, source) if known else before
    above, side = _windows(np.concatenate([target, before, after]))
    figures = []
    for window, words in ((above, "from above"), (side, "from the side")):
        for moved, when in ((before, "Before"), (after, "After")):
            figures.append(_figure(window, target, moved, f"{when}, {words}"))
    keys = (
        '<p class="quiet keys"><span class="key target"></span> target &ensp;<span class="key source"></span> source '
        '&ensp;<span class="key both"></span> both &ensp; in the target\'s frame: x to the right, y up (from above) '
        "or z up (from the side)</p>"
    )
    return f'<div class="halves">{"".join(figures)}</div>{keys}'


def _thinned(points_m: Array) -> Array:
    every = -(-len(points_m) // _MAX_POINTS) or 1
    return points_m[::every].astype(np.float64)


def _windows(points_m: Array) -> tuple[_Window, _Window]:
    """From above and from the side, at one scale, without the few points that are very far."""
    low, high = np.quantile(points_m, [0.02, 0.98], axis=0)
    margin = np.maximum(0.15 * (high - low), 1.0)
    low, high = low - margin, high + margin
    scale = _WIDTH / float(high[0] - low[0])
    height_m = float(np.clip(high[1] - low[1], 0.4 * _WIDTH / scale, 1.1 * _WIDTH / scale))
    middle_m = float(high[1] + low[1]) / 2
    (x0, _, z0), (x1, _, z1) = low.tolist(), high.tolist()
    rise_m = float(np.clip(z1 - z0, 0.15 * _WIDTH / scale, 0.6 * _WIDTH / scale))
    above = _Window((0, 1), (x0, middle_m - height_m / 2), (x1, middle_m + height_m / 2), scale)
    return above, _Window((0, 2), (x0, z0), (x1, z0 + rise_m), scale)


def _figure(window: _Window, target: Array, source: Array, words: str) -> str:
    width, height = window.size
    panel = Panel(width, height, words, "clouds")
    length_m = nice_step((window.high[0] - window.low[0]), 6)
    length, y = length_m * window.scale, height - 12.0
    bar = [[width - 12 - length, y - 5], [width - 12 - length, y], [width - 12.0, y], [width - 12.0, y - 5]]
    panel.line(np.array(bar), "scale-bar")
    panel.text(width - 12 - length / 2, y - 4, f"{number(length_m, 2)} m", "scale-label")
    image = f'<img src="{data_uri("png", _raster(window, target, source))}" alt="">'
    return f'<figure class="card">{panel.html(background=image)}<figcaption>{words}</figcaption></figure>'


def _raster(window: _Window, target: Array, source: Array) -> bytes:
    """A PNG in which each pixel says whose points are there, and how many."""
    width, height = window.size
    counts = [np.bincount(window.cells(points), minlength=width * height) for points in (target, source)]
    levels = [_levels(count) for count in counts]
    both = (counts[0] > 0) & (counts[1] > 0)
    image = np.maximum(levels[0], np.where(levels[1] > 0, levels[1] + _LEVELS, 0))
    image = np.where(both, 2 * _LEVELS + np.maximum(levels[0], levels[1]), image).reshape(height, width)
    # A point is two pixels high and wide where nothing else is, so that far ones are seen.
    spread = np.maximum(
        np.maximum(image, np.roll(image, 1, 0)), np.maximum(np.roll(image, 1, 1), np.roll(image, 1, (0, 1)))
    )
    return palette_png(np.where(image > 0, image, spread).astype(np.uint8), _palette())


def _levels(counts: Array) -> Array:
    """0 for none, else 1 to _LEVELS by the logarithm of the number."""
    top = max(float(np.quantile(counts[counts > 0], 0.95)), 1.0) if (counts > 0).any() else 1.0
    result: Array = np.ceil(np.log1p(counts) / np.log1p(top) * _LEVELS).clip(0, _LEVELS).astype(np.int64)
    return result


def _palette() -> Array:
    strengths = np.linspace(0.55, 1.0, _LEVELS)
    colours = [np.append(strength * np.array(colour), 255.0) for colour in _COLOURS for strength in strengths]
    rgba: Array = np.concatenate([np.zeros((1, 4)), np.stack(colours)]).round().astype(np.uint8)
    return rgba


# --- numbers ---------------------------------------------------------------------------------------------------------


def _numbers(run: RegisterRun, summary: dict[str, Any]) -> str:
    rows = [(esc(name), esc(value)) for name, value in run.rows()]
    cells = [[f"{value:.6f}" for value in row] for row in run.whole_target_T_source.tolist()]
    known = np.isfinite(run.target_T_source).all()
    matrix = table(("target_T_source", "", "", ""), cells, css="matrix") if known else "No transform was found."
    raw = esc(json.dumps(summary, indent=2))
    folded = f"<details><summary>all numbers</summary><pre tabindex=0>{raw}</pre></details>"
    return (
        f'<div class="halves"><div class="card">{table(("What", "Figure"), rows)}</div><div class="card">{matrix}</div>'
        f'</div><div class="card second">{folded}</div>'
    )
