"""The page of `tercel merge`: both recordings from above, before and after, their loops, and what is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import inverse, so3_log
from tercel.report.drawing import Axes, Panel, data_uri, esc, nice_step, number, palette_png, thin
from tercel.report.merge_run import COLOURS, MergeRun, keyframe_cloud, path_m, sigmas
from tercel.report.page import document, section
from tercel.report.tables import table

Array = NDArray[Any]

_ASSETS = ("page.css", "registration.css", "merge.css")
_WIDTH = 640.0
_LEVELS = 4
_BOTH = (250, 246, 232)
_MAP_VOXEL_M = 0.3
_ABOVE_GROUND_M = 0.4  # lower points of a keyframe are left out of pictures: the ground would cover everything
_MAX_ROWS = 40


def write_merge_report(path: Path, run: MergeRun) -> None:
    """Write the page. Raises OSError if the file cannot be written."""
    summary = run.summary()
    first, second = run.names
    page = document(
        kind="merge report",
        name=f"{second} in {first}",
        facts=[f'<code class="command">{esc(run.options.command)}</code>'],
        verdict=_verdict(run),
        tiles=_tiles(run),
        sections=[
            section("maps", "Seen from above", _maps(run)),
            section("loops", "Loops", _loops(run)),
            section("numbers", "Numbers", _numbers(run, summary)),
        ],
        data={},
        version=summary["tercel"],
        assets=_ASSETS,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")


def _verdict(run: MergeRun) -> str:
    merged = run.merged
    if merged.status != "merged":
        return f"The recordings were not merged: {merged.reason}."
    return (
        f"Both recordings are in one frame: {len(merged.loops)} places that both saw agree with each other and "
        f"with the odometry between them (confidence {merged.confidence:.3f})."
    )


def _tiles(run: MergeRun) -> list[tuple[str, str, str]]:
    merged = run.merged
    good = "good" if merged.status == "merged" else "bad"
    tiles = [(merged.status, "status", good), (f"{merged.confidence:.3f}", "confidence", good)]
    tiles.append((f"{len(merged.loops)} of {merged.verified}", "verified loops agree", ""))
    if merged.A_T_B is not None and merged.covariance is not None:
        sigma_m, sigma_deg = sigmas(merged.covariance)
        turned_deg = float(np.degrees(np.linalg.norm(so3_log(merged.A_T_B[:3, :3]))))
        tiles.append((f"{np.linalg.norm(merged.A_T_B[:3, 3]):.1f} m", "between the starts", ""))
        tiles.append((f"{turned_deg:.0f}°", "between their headings", ""))
        tiles.append((f"±{sigma_m:.2f} m", "standard deviation", ""))
        tiles.append((f"±{sigma_deg:.2f}°", "standard deviation", ""))
    ways_m = [path_m(recorded.odom_T_sensor) for recorded in run.recordings]
    tiles.append((f"{ways_m[0]:,.0f} + {ways_m[1]:,.0f} m", "ways of A and B", ""))
    return tiles


# --- pictures --------------------------------------------------------------------------------------------------------


def _maps(run: MergeRun) -> str:
    a, b = run.recordings
    merged = run.merged
    before = (a.keyframe_poses, b.keyframe_poses)
    keys = (
        '<p class="quiet keys"><span class="key target"></span> A &ensp;<span class="key source"></span> B &ensp;'
        '<span class="key both"></span> both saw it &ensp; lines: the ways of the sensors, a dot where each began; '
        "green: loops. Points near the ground are left out.</p>"
    )
    if merged.a_keyframe_poses is None or merged.b_keyframe_poses is None:
        names = [f"{side}: {esc(name)}, in its own frame" for side, name in zip("AB", run.names, strict=True)]
        empty = np.zeros((0, 4, 4))
        alone = [_map(run, (before[0], empty), names[0]), _map(run, (empty, before[1]), names[1])]
        return f'<div class="halves">{"".join(alone)}</div>{keys}'
    after = (merged.a_keyframe_poses, merged.b_keyframe_poses)
    words = ("Before: each by its odometry, as if both had begun at one place", "After: both in A's frame")
    pictures = [
        _map(run, poses, each, with_loops=poses is after) for poses, each in zip((before, after), words, strict=True)
    ]
    return f'<div class="halves">{"".join(pictures)}</div>{keys}'


def _map(run: MergeRun, poses: tuple[Array, Array], words: str, *, with_loops: bool = False) -> str:
    clouds = [_standing_cloud(run, index, poses[index]) for index in (0, 1)]
    axes = _axes(np.concatenate([*clouds, *(each[:, :3, 3] for each in poses)])[:, :2])
    panel = Panel(axes.width, axes.height, words, "clouds")
    if with_loops:
        _draw_loops(panel, axes, run, poses)
    for css, each in zip(("way-a", "way-b"), poses, strict=True):
        if len(each):
            panel.line(axes.place(thin(each[:, :2, 3], 600)), css)
            x, y = axes.place(each[:1, :2, 3])[0].tolist()
            panel.circle(x, y, 5.0, f"start {css}")
    _scale_bar(panel, axes)
    image = f'<img src="{data_uri("png", _raster(axes, clouds))}" alt="">'
    return f'<figure class="card">{panel.html(background=image)}<figcaption>{words}</figcaption></figure>'


def _standing_cloud(run: MergeRun, index: int, keyframe_poses: Array) -> Array:
    """Points (N, 3) of a recording at these poses, without the ground; none if there are no poses."""
    if not len(keyframe_poses):
        return np.zeros((0, 3), np.float32)
    return keyframe_cloud(run.recordings[index], keyframe_poses, _MAP_VOXEL_M, above_ground_m=_ABOVE_GROUND_M)


def _draw_loops(panel: Panel, axes: Axes, run: MergeRun, poses: tuple[Array, Array]) -> None:
    merged = run.merged
    for loops, known, asked, css in (
        (merged.own_loops[0], 0, 0, "loop own"),
        (merged.own_loops[1], 1, 1, "loop own"),
        (merged.loops, 0, 1, "loop"),
    ):
        lines = [
            axes.place(np.stack([poses[known][loop.known, :2, 3], poses[asked][loop.asked, :2, 3]])) for loop in loops
        ]
        if lines:
            panel.segments(lines, css)
            for line in lines:
                for x, y in line.tolist():
                    panel.circle(x, y, 2.5, css)


def _axes(points: Array) -> Axes:
    """Room for all but the farthest points, at one scale."""
    low, high = np.quantile(points, [0.005, 0.995], axis=0) if len(points) else (np.zeros(2), np.ones(2))
    span = np.maximum(high - low, 5.0) * 1.04
    height = _WIDTH * (0.5 if span[1] < 0.6 * span[0] else 0.9)  # two shapes, so that pictures side by side match
    scale = min(_WIDTH / span[0], height / span[1])
    half, middle = np.array([_WIDTH, height]) / scale / 2.0, (low + high) / 2.0
    (x0, y0), (x1, y1) = (middle - half).tolist(), (middle + half).tolist()
    return Axes(0.0, 0.0, _WIDTH, round(height), (x0, x1), (y0, y1))


def _scale_bar(panel: Panel, axes: Axes) -> None:
    span_m = axes.x_range[1] - axes.x_range[0]
    length_m = nice_step(span_m, 6)
    length, right, y = length_m / span_m * axes.width, axes.width - 12.0, axes.height - 12.0
    panel.line(np.array([[right - length, y - 5], [right - length, y], [right, y], [right, y - 5]]), "scale-bar")
    panel.text(right - length / 2, y - 4, f"{number(length_m, 2)} m", "scale-label")


def _raster(axes: Axes, clouds: Sequence[Array]) -> bytes:
    """A PNG, two pixels to a unit of the panel, in which each pixel says whose points are there, and how many."""
    width, height = round(2 * axes.width), round(2 * axes.height)
    counts = []
    for cloud in clouds:
        cells = np.floor(2.0 * axes.place(cloud[:, :2])).astype(np.int64)
        inside = ((cells >= 0) & (cells < [width, height])).all(axis=1)
        counts.append(np.bincount(cells[inside, 1] * width + cells[inside, 0], minlength=width * height))
    levels = [np.minimum(count, _LEVELS) for count in counts]
    image = np.maximum(levels[0], np.where(levels[1] > 0, levels[1] + _LEVELS, 0))
    both = (counts[0] > 0) & (counts[1] > 0)
    image = np.where(both, 2 * _LEVELS + np.maximum(*levels), image).reshape(height, width)
    # A point is two pixels high and wide where nothing else is, so that thin walls are seen.
    spread = np.maximum(
        np.maximum(image, np.roll(image, 1, 0)), np.maximum(np.roll(image, 1, 1), np.roll(image, 1, (0, 1)))
    )
    image = np.where(image > 0, image, spread)
    strengths = np.linspace(0.7, 1.0, _LEVELS)
    colours = [np.append(strength * np.array(colour), 255.0) for colour in (*COLOURS, _BOTH) for strength in strengths]
    palette = np.concatenate([np.zeros((1, 4)), np.stack(colours)]).round().astype(np.uint8)
    return palette_png(image.astype(np.uint8), palette)


# --- numbers ---------------------------------------------------------------------------------------------------------


def _loops(run: MergeRun) -> str:
    merged = run.merged
    if not merged.loops:
        return '<div class="card"><p>There is no place that both recordings are sure to have seen.</p></div>'
    begun_ns = [int(recorded.stamps_ns[0]) for recorded in run.recordings]
    rows = []
    for loop in sorted(merged.loops, key=lambda loop: loop.asked)[:_MAX_ROWS]:
        times_s = [(run.stamp_ns(k, key) - begun_ns[k]) / 1e9 for k, key in ((0, loop.known), (1, loop.asked))]
        turned_deg = np.degrees(np.linalg.norm(so3_log(loop.known_T_asked[:3, :3])))
        sigma_m, sigma_deg = sigmas(loop.covariance)
        rows.append(
            [
                f"{times_s[1]:.1f} s",
                f"{times_s[0]:.1f} s",
                f"{np.linalg.norm(loop.known_T_asked[:3, 3]):.2f} m",
                f"{turned_deg:.1f}°",
                f"{_corrected_m(run, loop.known, loop.asked, loop.known_T_asked):.2f} m",
                f"{sigma_m:.3f} m, {sigma_deg:.3f}°",
                f"{100.0 * (1.0 - loop.agreement):.1f} %",
                f"{loop.confidence:.3f}",
            ]
        )
    head = ("B at", "A at", "Apart", "Turned", "Off after merging", "σ", "Contradicted", "Confidence")
    more = (
        f'<p class="quiet">The first {_MAX_ROWS} of {len(merged.loops)}.</p>' if len(merged.loops) > _MAX_ROWS else ""
    )
    own = f"Within A {len(merged.own_loops[0])} loops were closed too, within B {len(merged.own_loops[1])}."
    words = (
        "Each row is a place that both recordings saw, and when. Apart and turned: between the two sensors there. "
        "Contradicted: points of one scan that stand where the other looked through."
    )
    return f'<div class="card">{table(head, rows, css="matrix")}{more}<p class="quiet">{words} {own}</p></div>'


def _corrected_m(run: MergeRun, known: int, asked: int, known_T_asked: Array) -> float:
    """How far the merged poses are from what a loop measured."""
    a, b = run.merged.a_keyframe_poses, run.merged.b_keyframe_poses
    if a is None or b is None:
        return float("nan")
    off = inverse(known_T_asked) @ inverse(a[known]) @ b[asked]
    return float(np.linalg.norm(off[:3, 3]))


def _numbers(run: MergeRun, summary: dict[str, Any]) -> str:
    rows = [tuple(esc(cell.strip()) for cell in line.split("  ", 1)) for line in run.table().splitlines()]
    rows = [row for row in rows if len(row) == 2]
    A_T_B = run.merged.A_T_B
    cells = [] if A_T_B is None else [[f"{value:.6f}" for value in row] for row in A_T_B.tolist()]
    matrix = table(("A_T_B", "", "", ""), cells, css="matrix") if cells else "Nothing was merged."
    raw = esc(json.dumps(summary, indent=2))
    folded = f"<details><summary>all numbers</summary><pre tabindex=0>{raw}</pre></details>"
    return (
        f'<div class="halves"><div class="card">{table(("What", "Figure"), rows)}</div><div class="card">{matrix}</div>'
        f'</div><div class="card second">{folded}</div>'
    )
