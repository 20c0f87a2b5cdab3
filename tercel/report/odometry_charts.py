"""The pictures of trajectories: the way from above with its covariance, heights, errors and health over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.report.charts import map_axes, scale_bar
from tercel.report.drawing import Axes, Panel, data_uri, nice_step, number, palette_png, thin, ticks

Array = NDArray[Any]

SIGMAS = 3.0
_ELLIPSES = 40
_ELLIPSE_POINTS = 24
_WIDTH = 1180.0
_SHADES = 15
_MAX_DRAWN = 1500


@dataclass(frozen=True, eq=False)
class Plane:
    """How a trajectory's frame is looked at from above. across, along, up (3,): right, up in the picture, and to the
    eye; names of the first two."""

    across: Array
    along: Array
    up: Array
    names: tuple[str, str]

    def flat(self, points_m: Array) -> Array:
        """(N, 2) of points (N, 3)."""
        return np.stack([points_m @ self.across, points_m @ self.along], axis=1)

    def heights(self, points_m: Array) -> Array:
        """(N,) of points (N, 3)."""
        result: Array = points_m @ self.up
        return result


def plane_of(up: Array) -> Plane:
    """z up: x right, y up in the picture. -y up, a camera's frame: x right, z up."""
    x, y, z = np.eye(3)
    return Plane(x, z, up, ("x", "z")) if abs(up[1]) > 0.5 else Plane(x, y, up, ("x", "y"))


# --- from above ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ellipses:
    """Places (N, 3) and the covariances (N, 3, 3) m^2 of them, in the trajectory's frame."""

    positions_m: Array
    covariances_m2: Array


def above_panel(
    plane: Plane, way_m: Array, true_m: Array | None, ellipses: Ellipses | None, points_m: Array | None
) -> tuple[Panel, str, float]:
    """The way (N, 3) from above, equal scales, over points (M, 3) of the map; the true way dashed.

    Also the picture that lies under the panel, and how many times too large the ellipses are drawn.
    """
    way = plane.flat(way_m)
    laid = [way] if true_m is None else [way, plane.flat(true_m)]
    axes = map_axes(np.concatenate(laid), [])
    panel = Panel(760.0, axes.top + axes.height + 30.0, "The way from above", "chart map")
    axes.draw(panel, x_unit=f"m {plane.names[0]}", y_unit=f"m {plane.names[1]}")
    if true_m is not None:
        panel.line(axes.place(thin(plane.flat(true_m), _MAX_DRAWN)), "true-way")
    panel.line(axes.place(thin(way, _MAX_DRAWN)), "way")
    magnified = 1.0 if ellipses is None else _draw_ellipses(panel, axes, plane, ellipses)
    (x0, y0), (x1, y1) = axes.place(way[[0, -1]]).tolist()
    panel.text(x0, y0, "start", "point start")
    panel.text(x1, y1, "end", "point end")
    scale_bar(panel, axes)
    background = "" if points_m is None or not len(points_m) else _raster(panel, axes, plane.flat(points_m))
    return panel, background, magnified


def _draw_ellipses(panel: Panel, axes: Axes, plane: Plane, ellipses: Ellipses) -> float:
    """SIGMAS standard deviations, evenly spread along the way; returns by how much they are magnified."""
    known = np.isfinite(ellipses.covariances_m2).all(axis=(1, 2))
    rows = _spread_along(ellipses.positions_m, np.flatnonzero(known))
    if not len(rows):
        return 1.0
    basis = np.stack([plane.across, plane.along])
    flat = np.einsum("ai,nij,bj->nab", basis, ellipses.covariances_m2[rows], basis)
    values, vectors = np.linalg.eigh(flat)
    radii_m = SIGMAS * np.sqrt(np.maximum(values, 0.0))
    span_m = axes.x_range[1] - axes.x_range[0]
    magnified = magnification(float(np.median(radii_m[:, 1])), span_m / 60.0)
    angles = np.linspace(0.0, 2.0 * np.pi, _ELLIPSE_POINTS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    shapes = np.einsum("nab,nb,bp->npa", vectors, np.minimum(magnified * radii_m, span_m / 8.0), circle)
    centres = plane.flat(ellipses.positions_m[rows])
    for centre, shape in zip(centres, shapes, strict=True):
        panel.line(axes.place(centre + shape), "ellipse", closed=True)
    return magnified


def magnification(radius_m: float, wanted_m: float) -> float:
    """1, or the 1, 2 or 5 times a power of ten that brings a radius to about the wanted one."""
    if not 0.0 < radius_m < wanted_m / 2.0:
        return 1.0
    ratio = wanted_m / radius_m
    power = 10.0 ** math.floor(math.log10(ratio))
    return max(factor * power for factor in (1.0, 2.0, 5.0) if factor * power <= ratio * (1 + 1e-9))


def _spread_along(positions_m: Array, rows: Array) -> Array:
    """Up to _ELLIPSES of the rows, at even distances along the way."""
    if len(rows) <= 1:
        return rows
    steps = np.linalg.norm(np.diff(positions_m[rows], axis=0), axis=1)
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0.0, travelled[-1], _ELLIPSES)
    chosen: Array = rows[np.unique(np.searchsorted(travelled, wanted).clip(0, len(rows) - 1))]
    return chosen


def _limits(axes: Axes) -> tuple[Array, Array]:
    low, high = np.array([axes.x_range, axes.y_range]).T
    return low, high


def _raster(panel: Panel, axes: Axes, points: Array) -> str:
    """Points (N, 2) as a picture of the panel's size, the denser the darker, grey on any ground."""
    width, height = round(2 * panel.width), round(2 * panel.height)
    low, high = _limits(axes)
    inside = ((points >= low) & (points <= high)).all(axis=1)
    cells = (2.0 * axes.place(points[inside])).astype(np.int64)
    counts = np.zeros((height, width), dtype=np.float64)
    np.add.at(counts, (cells[:, 1].clip(0, height - 1), cells[:, 0].clip(0, width - 1)), 1.0)
    top = max(float(np.quantile(counts[counts > 0], 0.98)), 1.0) if (counts > 0).any() else 1.0
    shade = np.ceil(np.log1p(counts) / np.log1p(top) * _SHADES).clip(0, _SHADES).astype(np.uint8)
    grey = np.tile(np.array([112, 124, 140, 0], dtype=np.uint8), (_SHADES + 1, 1))
    grey[1:, 3] = np.linspace(70, 235, _SHADES).astype(np.uint8)
    return f'<img src="{data_uri("png", palette_png(shade, grey))}" alt="">'


# --- along the way and over time -------------------------------------------------------------------------------------


def line_panel(
    x: Array,
    series: Sequence[tuple[Array, str]],
    label: str,
    *,
    x_unit: str,
    y_unit: str,
    from_zero: bool = False,
    width: float = 560.0,
    height: float = 300.0,
) -> Panel:
    """Lines over x (N,), each values (N,) and its style; NaN leaves a gap. from_zero: filled down to nought."""
    every = np.concatenate([values[np.isfinite(values)] for values, _ in series])
    low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
    low, high = (0.0, max(high, 1e-3)) if from_zero else _roomy(low, high)
    step = nice_step(high - low, 5)
    y_range = (step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9))
    begin, end = float(x[0]), float(x[-1])
    panel = Panel(width, height, label, "chart")
    axes = Axes(54.0, 12.0, width - 74.0, height - 46.0, (begin, max(end, begin + 1e-3)), y_range)
    axes.draw(panel, x_unit=x_unit, y_unit=y_unit, x_most=max(4, int(width / 90)), y_most=5)
    for values, css in series:
        _draw_line(panel, axes, x, values, css, filled=from_zero)
    return panel


def _roomy(low: float, high: float) -> tuple[float, float]:
    """A range that is not so narrow that noise fills the picture: a decimetre at least."""
    lacking = max(0.0, 0.1 - (high - low)) / 2
    return low - lacking, high + lacking


def _draw_line(panel: Panel, axes: Axes, x: Array, values: Array, css: str, *, filled: bool) -> None:
    known = np.isfinite(values)
    edges = np.flatnonzero(np.diff(known)) + 1
    for run in np.split(np.arange(len(x)), edges):
        if not known[run[0]]:
            continue
        placed = axes.place(_thin_peaks(np.stack([x[run], values[run]], axis=1)))
        if filled:
            floor = axes.top + axes.height
            corners = np.array([[placed[-1, 0], floor], [placed[0, 0], floor]])
            panel.line(np.concatenate([placed, corners]), f"{css}-area", closed=True)
        panel.line(placed, f"{css}-line")


def _thin_peaks(points: Array) -> Array:
    """At most _MAX_DRAWN of points (N, 2): of each stretch its lowest and its highest, so that no peak is lost."""
    if len(points) <= _MAX_DRAWN:
        return points
    parts = np.array_split(np.arange(len(points)), _MAX_DRAWN // 2)
    ends = [(part[np.argmin(points[part, 1])], part[np.argmax(points[part, 1])]) for part in parts]
    kept: Array = points[np.unique(np.array([0, *np.ravel(ends), len(points) - 1]))]
    return kept


# --- health ----------------------------------------------------------------------------------------------------------

HEALTHS = ("tracking", "degraded", "lost", "rejected")


def health_panel(times_s: Array, healths: Sequence[str], end_s: float) -> Panel:
    """A row for each health, with bars from the scans that had it to the next scan. times_s (N,) ascending."""
    panel = Panel(_WIDTH, 30.0 * len(HEALTHS) + 34.0, "Health of each scan over time", "chart health")
    axes = Axes(84.0, 6.0, _WIDTH - 100.0, 30.0 * len(HEALTHS), (0.0, max(end_s, 1e-3)), (0.0, 1.0))
    bottom = axes.top + axes.height
    values = ticks(*axes.x_range, 10)
    for value in values:
        x = float(axes.place(np.array([[value, 0.0]]))[0, 0])
        panel.line(np.array([[x, axes.top], [x, bottom]]), "grid")
        panel.text(x, bottom, number(value, 3) + (" s" if value == values[-1] else ""), "tick below")
    for row, health in enumerate(HEALTHS):
        y = axes.top + 30.0 * row
        panel.text(axes.left, y + 15.0, health, "row-label")
        for begin_s, until_s, count in spans(times_s, healths, end_s)[health]:
            x0, x1 = axes.place(np.array([[begin_s, 0.0], [until_s, 0.0]]))[:, 0].tolist()
            title = f"{health}: {count} scan{'s' * (count > 1)} from {begin_s:.2f} s"
            panel.rectangle(x0, y + 6.0, max(x1 - x0, 1.5), 18.0, f"state {health}", title=title)
    return panel


def spans(times_s: Array, healths: Sequence[str], end_s: float) -> Mapping[str, Sequence[tuple[float, float, int]]]:
    """By health, when it began, until when it lasted, and for how many scans."""
    found: dict[str, list[tuple[float, float, int]]] = {health: [] for health in HEALTHS}
    first = 0
    for row in range(1, len(healths) + 1):
        if row == len(healths) or healths[row] != healths[first]:
            until_s = float(times_s[row]) if row < len(healths) else end_s
            found[healths[first]].append((float(times_s[first]), until_s, row - first))
            first = row
    return found
