"""The report of a replay: one HTML file with pictures, charts and tables, that needs nothing but itself.

Images are data URIs, charts inline SVG, style and script inline. Without JavaScript all instants stand side by side
in one strip; the script makes them one view with a slider. The same recording, result and summary give the same bytes.
All text from a recording is escaped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tercel.hosts.recording import Recording
from tercel.report import charts, tables
from tercel.report.drawing import esc, number
from tercel.report.material import Material, gather
from tercel.report.page import document, section
from tercel.report.scene import SceneArtist, Scenes
from tercel.report.timeline import bars_of_paths, legend, timeline_panel
from tercel.report.track_paths import TrackPath, paths_2d, paths_3d


def write_report(path: Path, recording: Recording, result: Recording, summary: dict[str, Any]) -> None:
    """Write the report of a replay to path.

    recording: what was replayed; result: what came out of it (its topics are found by type). Any key of the summary
    may be missing. Raises OSError if the file cannot be written.
    """
    material = gather(recording, result, set(tables.section(summary, "sources").values()))
    tracked_3d, tracked_2d = _paths(material)
    scenes = SceneArtist(material, {path.identity: path for path in tracked_3d}).draw()
    marks: dict[str, Any] = {"times": [round(t, 3) for t in scenes.times_s], "first": scenes.first}
    sections = [
        _scene_section(scenes),
        _map_section(material, tracked_3d, marks),
        _component_section(summary),
        _timeline_section(material, tracked_3d, tracked_2d, marks),
        _recording_section(summary),
    ]
    path.write_text(_page(recording, summary, sections, marks), encoding="utf-8", errors="replace")


def _paths(material: Material) -> tuple[list[TrackPath], list[TrackPath]]:
    """The tracks in space, in a frame that stands still, and in the image."""
    in_space: list[TrackPath] = []
    if material.tracks_3d is not None:
        messages = material.tracks_3d.messages
        fixed = material.estimate.frame_id if material.estimate is not None else messages[0].frame_id
        in_space = paths_3d(messages, material.frames, fixed)
    return in_space, paths_2d(material.tracks_2d.messages) if material.tracks_2d is not None else []


# --- sections --------------------------------------------------------------------------------------------------------


def _scene_section(scenes: Scenes) -> str:
    if not scenes.articles:
        return section("scene", "Scene", '<p class="quiet">Neither images, nor clouds, nor tracks to show.</p>')
    last = len(scenes.articles) - 1
    controls = (
        '<div class="controls"><button type="button" id="play" aria-label="Play">▶</button>'
        f'<input type="range" id="slider" min="0" max="{last}" value="{scenes.first}" step="1" aria-label="Instant">'
        f'<output id="clock" for="slider">{scenes.times_s[scenes.first]:.2f} s</output></div>'
    )
    layers = [("flat", "Boxes"), ("tag", "Labels")]
    layers += [("wire", "Wireframes")] if scenes.has_wireframes else []
    layers += [("truth", "Truth")] if scenes.has_truth else []
    boxes = "".join(f'<label><input type="checkbox" id="layer-{css}" checked> {name}</label>' for css, name in layers)
    notes = "".join(f"<li>{esc(note)}: not drawn there</li>" for note in scenes.notes)
    return section(
        "scene",
        "Scene",
        f'<div class="card scenes">{controls}<noscript><p class="quiet">Scroll sideways through the instants.</p>'
        f'</noscript><div class="strip">{"".join(scenes.articles)}</div>'
        f'<div class="layers">{boxes}{_legend(scenes)}</div></div>{f"<ul class=notes>{notes}</ul>" if notes else ""}',
    )


def _legend(scenes: Scenes) -> str:
    words = ["Each track keeps its colour."]
    if scenes.has_rectangles and scenes.has_wireframes:
        words.append("On the camera, rectangles are tracks of the image, wireframes tracks in space; ids are separate.")
    if scenes.has_points:
        words.append("Points from above: the paler, the higher.")
    if scenes.has_trail:
        words.append("The line behind the arrow is the way of the last 20 s.")
    if scenes.has_truth:
        words.append("Thin dashed white: truth.")
    return f'<p class="quiet">{" ".join(words)}</p>'


def _map_section(material: Material, paths: list[TrackPath], marks: dict[str, Any]) -> str:
    estimate, truth, frames = material.estimate, material.truth, material.frames
    if estimate is None:
        return ""
    true, note = None, ""
    if truth is not None:
        try:
            true = charts.true_poses(estimate, truth, frames)
        except KeyError as error:
            note = f'<p class="quiet">Truth is not drawn: {esc(error.args[0])}.</p>'
    panel, axes = charts.map_panel(estimate, true, paths)
    places = [charts.pose_at(estimate, t, frames.slack_ns) for t in (i.stamp_ns for i in material.instants)]
    marks["map"] = [None if p is None else charts.place_percent(panel, axes, p[:2]) for p in places]
    legend = '<span class="key way"></span> estimate'
    legend += ' <span class="key true-way"></span> truth' if true is not None else ""
    if paths:
        legend += ' <span class="key track-path"></span> tracks that move <span class="key standing"></span> that stand'
    figures = (
        f'<figure class="card">{panel.html(background=_CURSOR)}<figcaption>{legend} · in <code>'
        f"{esc(estimate.frame_id)}</code>, {estimate.distances_m[-1]:.1f} m travelled</figcaption></figure>"
    )
    if true is not None and truth is not None:
        distances, errors = charts.position_errors(estimate, truth, true, frames.slack_ns)
        if len(errors):
            share = f", {100 * errors[-1] / distances[-1]:.2f} % of the way" if distances[-1] > 0 else ""
            figures += (
                f'<figure class="card">{charts.error_panel(distances, errors).html()}<figcaption>Position error over '
                f"distance, truth laid over the first pose: {errors[-1]:.2f} m at the end{share}, "
                f"{errors.max():.2f} m at most</figcaption></figure>"
            )
    return section("map", "Map", f'<div class="pair">{figures}</div>{note}')


_CURSOR = '<i class="cursor" hidden></i>'


def _component_section(summary: dict[str, Any]) -> str:
    counted = tables.counted_html(summary)
    told = f'<h3>What became of every detection</h3><div class="card">{counted}</div>' if counted else ""
    bars = "Bars: dark up to the median, pale up to 99 %, a stroke at the maximum; one scale for all."
    return section(
        "components",
        "Components",
        f'<div class="card">{tables.component_table(summary)}<p class="quiet">{bars}</p></div>'
        f'<h3>What was dropped, and why</h3><div class="card">{tables.lost_html(summary)}</div>{told}',
    )


def _timeline_section(
    material: Material,
    in_space: list[TrackPath],
    in_image: list[TrackPath],
    marks: dict[str, Any],
) -> str:
    blocks = []
    end_s = max([(p.last_ns - material.origin_ns) / 1e9 for p in in_space + in_image], default=0.0)
    if material.instants:
        end_s = max(end_s, (material.instants[-1].stamp_ns - material.origin_ns) / 1e9)
    for paths, what in ((in_space, "in space"), (in_image, "in the image")):
        if not paths:
            continue
        bars = bars_of_paths(paths, material.origin_ns)
        panel, axes, shown = timeline_panel(bars, end_s, f"When each track {what} was seen")
        stamps = [(i.stamp_ns - material.origin_ns) / 1e9 for i in material.instants]
        marks["timeline"] = [charts.place_percent(panel, axes, np.array([t, 0.0]))[0] for t in stamps]
        which = f"the {shown} longest of {len(paths):,}" if shown < len(paths) else f"{shown}"
        blocks.append(
            f'<figure class="card"><div class="wide">{panel.html(background=_CURSOR)}</div>'
            f"<figcaption>Tracks {what}: {which}, from first to last seen, thin where it was missing{legend(bars)}"
            "</figcaption></figure>"
        )
    return section("tracks", "Tracks over time", "".join(blocks)) if blocks else ""


def _recording_section(summary: dict[str, Any]) -> str:
    problems = tables.section(summary, "recording").get("problems") or []
    listed = "".join(f"<li>{esc(problem)}</li>" for problem in problems)
    told = f'<ul class="lost">{listed}</ul>' if problems else '<p class="good">No damage was found in the file.</p>'
    command = summary.get("command")
    made = f'<p>Made by <code class="command">{esc(command)}</code></p>' if command else ""
    return section(
        "recording",
        "Recording and numbers",
        f'<div class="card">{tables.topic_table(summary)}{told}</div>{tables.number_tables(summary)}'
        f'<div class="card">{made}{tables.raw_summary(summary)}</div>',
    )


# --- the page --------------------------------------------------------------------------------------------------------


def _page(recording: Recording, summary: dict[str, Any], sections: list[str], marks: dict[str, Any]) -> str:
    duration_s = (recording.end_ns - recording.start_ns) / 1e9
    facts = [f"{number(duration_s, 1)} s"]
    if summary.get("graph"):
        reason = f" ({esc(summary['graph_reason'])})" if summary.get("graph_reason") else ""
        facts.append(f"graph <b>{esc(summary['graph'])}</b>{reason}")
    if summary.get("charge"):
        facts.append(f"time charged: {esc(summary['charge'])}")
    return document(
        kind="replay report",
        name=str(tables.section(summary, "recording").get("name") or recording.path.name),
        facts=facts,
        verdict=tables.verdict(summary),
        tiles=tables.tiles(summary),
        sections=sections,
        data={"marks": marks},
        version=str(summary.get("tercel", "")),
    )
