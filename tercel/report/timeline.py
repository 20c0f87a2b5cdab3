"""The tracks over time: one row for each, from its first to its last detection, thin where it went unseen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.report.drawing import Axes, Panel, esc, hue_of_id, number
from tercel.report.track_paths import TrackPath

Array = NDArray[Any]

MAX_ROWS = 240
_ROW_HEIGHT = 15.0
_MAX_HEIGHT = 900.0  # with more rows than fit they become thinner
_LEAST_WIDTH = 2.0


@dataclass(frozen=True, eq=False)
class Bar:
    """One track. seen_s (K, 2): when it was seen without a pause, ascending; pale_s (P, 2): when it was not yet sure.

    words: what is said of it where the pointer rests.
    """

    identity: int
    class_name: str
    seen_s: Array
    pale_s: Array
    words: str

    @property
    def first_s(self) -> float:
        """When it was first seen."""
        return float(min(spells[0, 0] for spells in (self.seen_s, self.pale_s) if len(spells)))

    @property
    def last_s(self) -> float:
        """When it was last seen."""
        return float(max(spells[-1, 1] for spells in (self.seen_s, self.pale_s) if len(spells)))


def spells(indices: Array) -> list[tuple[int, int]]:
    """The first and last position of each run of successive numbers in ascending indices (N,)."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    starts = np.concatenate([[0], breaks]).astype(int)
    ends = np.concatenate([breaks, [len(indices)]]).astype(int) - 1
    return list(zip(starts.tolist(), ends.tolist(), strict=True)) if len(indices) else []


def describe(identity: int, class_name: str, seen_s: Array, hits: int) -> str:
    """A track in words: "track 7, car: 1.2 s to 9.4 s (8.2 s), seen 80 times, 2 pauses, the longest 0.4 s"."""
    first_s, last_s = float(seen_s[0, 0]), float(seen_s[-1, 1])
    name = f", {class_name}" if class_name else ""
    times = "once" if hits == 1 else f"{hits} times"
    text = f"track {identity}{name}: {first_s:.2f} s to {last_s:.2f} s ({last_s - first_s:.2f} s), seen {times}"
    pauses_s = seen_s[1:, 0] - seen_s[:-1, 1]
    if len(pauses_s):
        text += f", {len(pauses_s)} pause{'s' * (len(pauses_s) > 1)}, the longest {pauses_s.max():.2f} s"
    return text


def bars_of_paths(paths: Sequence[TrackPath], origin_ns: int) -> list[Bar]:
    """The bars of tracks as their messages tell them: a track pauses where it is missing in a message."""
    if not paths:
        return []
    stamps = np.unique(np.concatenate([path.stamps_ns for path in paths]))
    bars = []
    for path in paths:
        runs = spells(np.searchsorted(stamps, path.stamps_ns))
        seen_s = (path.stamps_ns[np.array(runs)] - origin_ns) / 1e9
        words = describe(path.identity, path.class_name, seen_s, len(path.stamps_ns))
        bars.append(Bar(path.identity, path.class_name, seen_s, np.zeros((0, 2)), words))
    return bars


def timeline_panel(bars: Sequence[Bar], end_s: float, label: str, most: int = MAX_ROWS) -> tuple[Panel, Axes, int]:
    """The panel, its axes, and how many of the bars it shows: the longest, in order of their first sight."""
    longest = sorted(bars, key=lambda bar: (bar.first_s - bar.last_s, bar.identity))[:most]
    rows = sorted(longest, key=lambda bar: (bar.first_s, bar.identity))
    row_height = min(_ROW_HEIGHT, _MAX_HEIGHT / max(1, len(rows)))
    height = row_height * len(rows)
    panel = Panel(1100.0, height + 34.0, label, "chart timeline")
    axes = Axes(130.0, 4.0, 950.0, height, (0.0, max(end_s, 0.1)), (0.0, 1.0))
    axes.draw(panel, x_unit="s", y_unit="", x_most=10, y_most=1)
    panel.texts = [text for text in panel.texts if "tick before" not in text]
    hues = class_hues(bars)
    labelled = round(np.ceil(_ROW_HEIGHT / row_height - 0.05))  # every so many rows there is room for a label
    for index, bar in enumerate(rows):
        y = axes.top + index * row_height
        _draw(panel, axes, bar, y + row_height / 2, row_height - 2 * min(3.0, row_height / 5), hues)
        if index % labelled == 0:
            text = f"<b>{bar.identity}</b> {esc(bar.class_name)}"
            panel.text(axes.left - 6 * (len(hues) > 1), y + row_height / 2, text, "row-label")
    return panel, axes, len(rows)


def class_hues(bars: Sequence[Bar]) -> dict[str, str]:
    """The hue of each class, in the order of their names, as far apart as they can be."""
    names = sorted({bar.class_name for bar in bars})
    return {name: number(25.0 + 360.0 * index / len(names), 0) for index, name in enumerate(names)}


def legend(bars: Sequence[Bar]) -> str:
    """The classes' colours, where there are several of them."""
    hues = class_hues(bars)
    if len(hues) < 2:
        return ""
    keys = (f'<span class="class-key" style="--h:{hue}"></span>{esc(name) or "–"}' for name, hue in hues.items())
    return f" · class, at the left: {' '.join(keys)}"


def _draw(panel: Panel, axes: Axes, bar: Bar, middle: float, height: float, hues: dict[str, str]) -> None:
    """One row: a thin line for the whole life, and on it, thick, what was seen."""
    y, thick = number(middle), number(height)
    shapes = f'<path class="gap" d="{_strokes(axes, np.array([[bar.first_s, bar.last_s]]), y)}"/>'
    for css, spells_s in (("span unsure", bar.pale_s), ("span", bar.seen_s)):
        if len(spells_s):
            shapes += f'<path class="{css}" stroke-width="{thick}" d="{_strokes(axes, spells_s, y)}"/>'
    if len(hues) > 1:
        mark = f'd="M{number(axes.left - 5.0)} {y}h3"'
        shapes += f'<path class="span class-mark" style="--h:{hues[bar.class_name]}" stroke-width="{thick}" {mark}/>'
    panel.shapes.append(
        f'<g class="life" style="--h:{hue_of_id(bar.identity)}" data-id="{bar.identity}">'
        f"<title>{esc(bar.words)}</title>{shapes}</g>"
    )


def _strokes(axes: Axes, spells_s: Array, y: str) -> str:
    """A stroke from each beginning to its end, wide enough to be seen."""
    at = axes.place(np.column_stack([spells_s.reshape(-1), np.zeros(spells_s.size)]))[:, 0].reshape(-1, 2)
    return "".join(f"M{number(x)} {y}H{number(max(end, x + _LEAST_WIDTH))}" for x, end in at.tolist())
