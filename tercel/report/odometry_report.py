"""The pages of `tercel odometry` and `tercel evaluate odometry`: one HTML file each, that needs nothing but itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.report.drawing import Panel, esc, number
from tercel.report.evaluate_odometry import EvaluateRun
from tercel.report.odometry_charts import SIGMAS, Ellipses, above_panel, health_panel, line_panel, plane_of
from tercel.report.odometry_run import OdometryRun
from tercel.report.odometry_scores import OdometryScores
from tercel.report.page import document, section
from tercel.report.tables import table

Array = NDArray[Any]

_ASSETS = ("page.css", "registration.css")
_WIDE = 1180.0
_UP = np.array([0.0, 0.0, 1.0])
_WAY_KEY = '<span class="key way"></span> estimate'
_TRUE_KEY = ' &ensp;<span class="key true-way"></span> truth'


def write_odometry_report(path: Path, run: OdometryRun) -> None:
    """Write the page of a run that has poses. Raises OSError if the file cannot be written."""
    summary = run.summary()
    page = document(
        kind="LiDAR odometry",
        name=run.feed.name,
        facts=[f"{run.duration_s:.1f} s", f"the way of <code>{esc(run.frame)}</code>", _made(run.options.command)],
        verdict=_verdict(run),
        tiles=_tiles(run, summary),
        sections=[
            section("map", "From above", _above(run)),
            section("errors", "Against the truth", _errors(run.scores)) if run.scores is not None else "",
            section("height", "Height and health", _heights(run) + _health(run)),
            section("numbers", "Numbers", _numbers(run.table(), [*run.notes, *run.feed.problems], summary)),
        ],
        data={},
        version=summary["tercel"],
        assets=_ASSETS,
    )
    _write(path, page)


def write_evaluation_report(path: Path, run: EvaluateRun) -> None:
    """Write the page of two trajectories. Raises OSError if the file cannot be written."""
    scores, summary = run.scores, run.summary()
    plane = plane_of(scores.up)
    way, true = scores.estimate[:, :3, 3], scores.reference[:, :3, 3]
    panel, _, _ = above_panel(plane, way, true, None, None)
    heights = line_panel(
        travelled(true),
        [(plane.heights(true), "true"), (plane.heights(way), "way")],
        "Height over distance",
        x_unit="m",
        y_unit="m",
        height=panel.height * 560.0 / panel.width,
    )
    above = (
        f'<div class="halves">{_figure(panel, _WAY_KEY + _TRUE_KEY)}{_figure(heights, "Height over distance")}</div>'
    )
    page = document(
        kind="trajectory errors",
        name=run.options.estimate.name,
        facts=[
            f"against <b>{esc(run.options.truth.name)}</b>",
            esc(scores.measure.words),
            _made(run.options.command),
        ],
        verdict=f"{scores.absolute.rmse:.3f} m off (RMSE) on a way of {scores.path_m:,.1f} m.",
        tiles=_score_tiles(scores),
        sections=[
            section("map", "From above", above),
            section("errors", "Errors", _errors(scores)),
            section("numbers", "Numbers", _numbers(run.table(), run.notes, summary)),
        ],
        data={},
        version=summary["tercel"],
        assets=_ASSETS,
    )
    _write(path, page)


def travelled(positions_m: Array) -> Array:
    """The length of the way (N,) from the first of the positions (N, 3) to each."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(positions_m, axis=0), axis=1))])


# --- sections --------------------------------------------------------------------------------------------------------


def _above(run: OdometryRun) -> str:
    positions_m = run.poses[:, :3, 3]
    covariances = np.stack(run.account.covariances)[:, :3, :3]
    rotations = run.poses[:, :3, :3]
    ellipses = Ellipses(positions_m, rotations @ covariances @ np.swapaxes(rotations, 1, 2))
    points = np.concatenate(run.account.mapped) if run.account.mapped else None
    true = None if run.truth is None else _during(run)[:, :3, 3]
    panel, background, magnified = above_panel(plane_of(_UP), positions_m, true, ellipses, points)
    words = _WAY_KEY + (_TRUE_KEY + ", aligned" if true is not None else "")
    if np.isfinite(covariances).any():
        drawn = f", drawn {magnified:,.0f} times too large" if magnified > 1 else ""
        words += f' &ensp;<span class="key ellipse"></span> {SIGMAS:.0f} σ of the position{drawn}'
    words += ' &ensp;<span class="key cloud"></span> points of keyframes' if points is not None else ""
    return _figure(panel, words, background)


def _during(run: OdometryRun) -> Array:
    """The true poses from the first to the last of the odometry."""
    if run.truth is None:
        return np.zeros((0, 4, 4))
    stamps = run.truth.stamps_ns
    inside: Array = run.truth.frame_T_child[(stamps >= run.stamps_ns[0]) & (stamps <= run.stamps_ns[-1])]
    return inside if len(inside) else run.truth.frame_T_child[:1]


def _heights(run: OdometryRun) -> str:
    positions_m = run.poses[:, :3, 3]
    distances_m = travelled(positions_m)
    series = [(positions_m[:, 2], "way")]
    if run.truth is not None and run.scores is not None and run.scores.stamps_ns is not None:
        series.insert(0, (np.interp(run.stamps_ns, run.truth.stamps_ns, run.truth.frame_T_child[:, 2, 3]), "true"))
    panel = line_panel(distances_m, series, "Height over distance", x_unit="m", y_unit="m", width=_WIDE, height=230.0)
    keys = _WAY_KEY + (_TRUE_KEY + ", aligned" if len(series) > 1 else "")
    return _figure(panel, f"Height over distance &ensp;{keys}", wide=True)


def _health(run: OdometryRun) -> str:
    account = run.account
    begin_ns = min([int(run.stamps_ns[0]), *(at for _, at in account.rejected_at)])
    rows = [(s, h) for s, h in zip(account.stamps_ns, account.healths, strict=True)]
    rows = sorted([*rows, *((at, "rejected") for _, at in account.rejected_at)], key=lambda row: row[0])
    times_s = np.array([(stamp_ns - begin_ns) / 1e9 for stamp_ns, _ in rows])
    period_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.1
    panel = health_panel(times_s, [health for _, health in rows], float(times_s[-1]) + period_s)
    html = _figure(panel, "What the odometry says of each scan, over time", wide=True)
    since_s = (run.stamps_ns - begin_ns) / 1e9
    overlap = line_panel(
        since_s, [(np.array(account.overlaps), "plain")], "Overlap", x_unit="s", y_unit="", from_zero=True, height=200.0
    )
    took = line_panel(
        since_s, [(np.array(account.took_ms), "plain")], "Time a scan", x_unit="s", y_unit="ms", from_zero=True,
        height=200.0,
    )  # fmt: skip
    overlap_words = "Share of the scan that found partners in the map"
    return (
        f'{html}<div class="halves second">{_figure(overlap, overlap_words)}{_figure(took, "Time a scan took")}</div>'
    )


def _errors(scores: OdometryScores) -> str:
    """Errors over time, or over distance where there are no stamps, and their figures."""
    true, way = scores.reference[:, :3, 3], scores.estimate[:, :3, 3]
    heights_m = np.abs((way - true) @ scores.up)
    distances_m = travelled(true)
    if scores.stamps_ns is None:
        x, unit, over = distances_m, "m", "distance"
    else:
        x, unit, over = (scores.stamps_ns - scores.stamps_ns[0]) / 1e9, "s", "time"
    panel = line_panel(
        x,
        [(scores.errors_m, "error"), (heights_m, "height")],
        f"Position error over {over}",
        x_unit=unit,
        y_unit="m",
        from_zero=True,
        width=_WIDE,
        height=260.0,
    )
    words = (
        f'Position error over {over}, trajectories {esc(scores.measure.words)} &ensp;<span class="key way"></span> '
        'all of it<span class="key height"></span> of it in height'
    )
    return _figure(panel, words, wide=True)


def _figure(panel: Panel, words: str, background: str = "", *, wide: bool = False) -> str:
    drawn = panel.html(background=background)
    drawn = f'<div class="wide">{drawn}</div>' if wide else drawn
    return f'<figure class="card">{drawn}<figcaption>{words}</figcaption></figure>'


def _numbers(text: str, notes: Sequence[str], summary: dict[str, Any]) -> str:
    """The terminal's rows as a table, what people should know, and all numbers."""
    lines = [line.partition("  ") for line in text.split("\n")]
    rows = [(esc(name), esc(value.strip())) for name, _, value in lines if name not in ("note", "problem")]
    listed = "".join(f"<li>{esc(note)}</li>" for note in notes[:50])
    told = f'<ul class="lost">{listed}</ul>' if listed else ""
    raw = esc(json.dumps(summary, indent=2))
    folded = f"<details><summary>all numbers</summary><pre tabindex=0>{raw}</pre></details>"
    return f'<div class="card">{table(("What", "Figure"), rows)}{told}{folded}</div>'


# --- words -----------------------------------------------------------------------------------------------------------


def _made(command: str) -> str:
    return f'<code class="command">{esc(command)}</code>' if command else ""


def _verdict(run: OdometryRun) -> str:
    account = run.account
    well = account.healths.count("tracking")
    words = f"{well:,} of {account.scans:,} scans were followed well over {run.path_m:,.1f} m"
    others = [
        f"{count:,} {name}"
        for name, count in (
            ("degraded", account.healths.count("degraded")),
            ("lost", account.healths.count("lost")),
            ("rejected", account.rejected.total()),
        )
        if count
    ]
    return f"{words}; {', '.join(others)}." if others else f"{words}."


def _tiles(run: OdometryRun, summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    account, took = run.account, summary["latency_ms"]
    tiles = [
        (f"{account.scans:,}", "scans", ""),
        (f"{run.path_m:,.1f} m", "way", ""),
        (f"{took['p50']:.0f} ms", "a scan (median)", ""),
    ]
    if run.scores is not None:
        tiles += _score_tiles(run.scores)[:2]
    lost, rejected = account.healths.count("lost"), account.rejected.total()
    tiles.append((f"{lost:,}", "lost", "bad" if lost else "good"))
    tiles.append((f"{rejected:,}", "rejected", "bad" if rejected else "good"))
    return tiles


def _score_tiles(scores: OdometryScores) -> list[tuple[str, str, str]]:
    relative, measure = scores.relative, scores.measure
    tiles = [(f"{scores.absolute.rmse:.3f} m", "absolute error (ATE, RMSE)", "")]
    if relative is not None and np.isfinite(relative.translation_percent):
        tiles.append((f"{relative.translation_percent:.2f} %", f"drift over {measure.delta:g} {measure.unit}", ""))
        tiles.append((f"{relative.rotation_deg_per_m:.4f} °/m", "drift in rotation", ""))
    tiles.append((f"{scores.height_rmse_m:.3f} m", "error in height (RMSE)", ""))
    tiles.append((f"{number(scores.path_m, 1)} m", "true way", ""))
    return tiles


def _write(path: Path, page: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")
