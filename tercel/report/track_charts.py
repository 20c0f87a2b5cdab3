"""What a tracker did with one sequence, over time: every track's life, and how many detections became what."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.report.drawing import Axes, Panel, nice_step, number
from tercel.report.timeline import Bar, describe, spells
from tercel.report.tracking_steps import Tracked
from tracking.screening import Outcome

Array = NDArray[Any]

_MAX_BINS = 200


def bars_of(tracked: Tracked) -> list[Bar]:
    """The tracks that were reported at least once: when they were detected, pale until they were confirmed."""
    source, boxes = tracked.loaded.source, tracked.loaded.boxes
    begin_s = tracked.loaded.frames.start / source.rate_hz
    reported = np.unique(tracked.tracks.ids)
    rows = np.flatnonzero(np.isin(tracked.track_ids, reported) & (tracked.track_ids >= 0))
    rows = rows[np.argsort(tracked.track_ids[rows], kind="stable")]
    names = boxes.class_names
    label_of = dict(zip(tracked.tracks.ids.tolist(), tracked.tracks.labels.tolist(), strict=True))
    bars = []
    for of_track in np.split(rows, np.flatnonzero(np.diff(tracked.track_ids[rows])) + 1):
        if not len(of_track):
            continue
        identity = int(tracked.track_ids[of_track[0]])
        sure = tracked.outcomes[of_track] == Outcome.MATCHED
        first_sure = int(np.argmax(sure)) if sure.any() else len(of_track)
        frames = boxes.frames[of_track]
        seen_s, pale_s, all_s = (
            _spells_s(part, source.rate_hz, begin_s) for part in (frames[first_sure:], frames[:first_sure], frames)
        )
        words = describe(identity, names[label_of[identity]], all_s, len(of_track))
        bars.append(Bar(identity, names[label_of[identity]], seen_s, pale_s, words))
    return bars


def _spells_s(frames: Array, rate_hz: float, begin_s: float) -> Array:
    """Spells (K, 2) of the frames; each frame lasts until the next one."""
    runs = spells(frames)
    ends = [(frames[first], frames[last] + 1) for first, last in runs]
    return np.array(ends, dtype=np.float64).reshape(-1, 2) / rate_hz - begin_s


def duration_s(tracked: Tracked) -> float:
    """How long the sequence lasts, to the end of its last frame."""
    return max(len(tracked.loaded.frames), 1) / tracked.loaded.source.rate_hz


def counts_panel(tracked: Tracked) -> tuple[Panel, Axes]:
    """Detections a frame by what became of them, one on the other, and the tracks reported as a line."""
    frames = tracked.loaded.frames
    bins = max(1, min(_MAX_BINS, len(frames)))
    edges = frames.start + np.linspace(0.0, max(1, len(frames)), bins + 1)
    kinds = {"matched": (0, 1), "tentative": (2, 3), "new": (1, 2), "rejected": (int(Outcome.TOO_WEAK_TO_START), 128)}
    per_frame = np.maximum(np.diff(np.ceil(edges)), 1.0)  # whole frames in each bin
    layers = {}
    for kind, (low, high) in kinds.items():
        chosen = (tracked.outcomes >= low) & (tracked.outcomes < high)
        layers[kind] = np.histogram(tracked.loaded.boxes.frames[chosen], edges)[0] / per_frame
    reported = np.histogram(tracked.tracks.frames, edges)[0] / per_frame
    top = max(1.0, float(np.sum(list(layers.values()), axis=0).max()), float(reported.max()))
    step = nice_step(top, 4)
    panel = Panel(1100.0, 190.0, "Detections and tracks in each frame", "chart counts")
    axes = Axes(130.0, 8.0, 950.0, 152.0, (0.0, duration_s(tracked)), (0.0, float(step * np.ceil(top / step))))
    axes.draw(panel, x_unit="s", y_unit="", x_most=10, y_most=4)
    times_s = (edges - frames.start) / tracked.loaded.source.rate_hz
    heights = dict(zip(layers, np.cumsum(list(layers.values()), axis=0), strict=True))
    for kind in reversed(layers):  # the highest first, so that each covers all but its own part of it
        if layers[kind].any():
            floor = axes.top + axes.height
            data = _stairs(axes, times_s, heights[kind]) + f"V{number(floor)}H{number(axes.left)}z"
            panel.shapes.append(f'<path class="area {kind}" d="{data}"/>')
    panel.shapes.append(f'<path class="reported" d="{_stairs(axes, times_s, reported)}"/>')
    return panel, axes


def _stairs(axes: Axes, times_s: Array, values: Array) -> str:
    """Each value (N,) from its edge to the next (N + 1,), as the data of a path."""
    x, y = axes.place(np.stack([times_s, np.append(values, 0.0)], axis=1)).T.tolist()
    steps = [f"V{number(high)}H{number(right)}" for high, right in zip(y[:-1], x[1:], strict=True)]
    return f"M{number(x[0])} {number(y[0])}{''.join(steps)}"
