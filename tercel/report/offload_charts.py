"""The pictures of `tercel simulate`: policies beside each other, and policies over the day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.scenario import Day
from tercel.report.drawing import Axes, Panel, esc, number, ticks
from tercel.report.offload_material import LinkLine, Timeline
from tercel.report.offload_run import Result

Array = NDArray[Any]

_WIDTH = 1100.0
_LEFT = 104.0  # room for the policies' names
_GAP = 32.0
_ROW = 17.0
_IN_A_ROW = 6
AS_GOOD = 0.01
"""Within this share of the best a policy counts as best, too."""


def short(value: float) -> str:
    """A number with few digits: 1.2M, 350k, 12, 0.5."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return number(value / size, 1 if abs(value) < 100 * size else 0) + letter
    return number(value, 2 if abs(value) < 10 else 0)


def is_best(results: Mapping[str, Result], policy: str, metric: str) -> bool:
    """Whether none is better by more than AS_GOOD."""
    medians = {name: result.median(metric) or 0.0 for name, result in results.items()}
    best = max(medians.values())
    return medians[policy] >= best - AS_GOOD * abs(best)


# --- comparison ------------------------------------------------------------------------------------------------------


def comparison_panel(
    results: Mapping[str, Mapping[str, Result]], metric: str, label: str, *, unit: str = "", factor: float = 1.0
) -> Panel:
    """A dot for each policy's median, with its interval; a field for each workload. A line: what nobody can pass."""
    names = list(results)
    policies = list(next(iter(results.values())))
    columns = min(_IN_A_ROW, len(names))
    height = _ROW * len(policies)
    field = height + 48.0
    panel = Panel(_WIDTH, field * -(-len(names) // columns), label, "chart comparison")
    width = (_WIDTH - _LEFT - 10.0) / columns - _GAP
    for index, name in enumerate(names):
        left = _LEFT + (index % columns) * (width + _GAP)
        top = (index // columns) * field + 26.0
        low, high, line = _range(results[name], metric, factor)
        axes = Axes(left, top, width, height, (low, high), (0.0, 1.0))
        panel.text(left, top - 12.0, f"<b>{esc(name)}</b>", "field-name")
        _rows(panel, axes, policies, named=index % columns == 0)
        _scale(panel, axes, unit, most=max(3, int(width / 50)))
        if line is not None:
            x = float(axes.place(np.array([[line, 0.0]]))[0, 0])
            panel.segments([np.array([[x, top], [x, top + height]])], "limit", title=f"nobody can pass {line:,.0f}")
        for row, policy in enumerate(policies):
            _dot(panel, axes, top + (row + 0.5) * _ROW, policy, results[name], metric, factor, unit)
    return panel


def _range(results: Mapping[str, Result], metric: str, factor: float) -> tuple[float, float, float | None]:
    """From zero, or below it, to the greatest value; and the line of the bound, if it is known."""
    ends = [factor * end for result in results.values() for end in result.interval(metric) or (0.0,)]
    best = next(iter(results.values())).best
    attribute = {"qos_utility": "qos_utility", "qoe_utility": "qoe_utility"}.get(metric)
    line = float(np.median([getattr(b, attribute) for b in best])) if best and attribute else None
    low, high = min(0.0, *ends), max(0.0, *ends, line or 0.0)
    if metric in ("completion", "of_bound"):
        high = factor
    room = 0.04 * ((high - low) or 1.0)
    return (low - room if low < 0 else 0.0), high + room, line


def _rows(panel: Panel, axes: Axes, policies: Sequence[str], *, named: bool) -> None:
    for row, policy in enumerate(policies):
        y = axes.top + row * _ROW
        if row % 2 == 0:
            panel.rectangle(axes.left, y, axes.width, _ROW, "stripe")
        if named:
            panel.text(axes.left, y + _ROW / 2, esc(policy), "row-label")


def _scale(panel: Panel, axes: Axes, unit: str, *, most: int = 3) -> None:
    """Vertical grid lines with their values."""
    bottom = axes.top + axes.height
    for value in ticks(*axes.x_range, most):
        x = float(axes.place(np.array([[value, 0.0]]))[0, 0])
        panel.line(np.array([[x, axes.top], [x, bottom]]), "grid zero" if value == 0 else "grid")
        panel.text(x, bottom, short(value) + unit, "tick below")


def _dot(
    panel: Panel,
    axes: Axes,
    y: float,
    policy: str,
    results: Mapping[str, Result],
    metric: str,
    factor: float,
    unit: str,
) -> None:
    median, interval = results[policy].median(metric), results[policy].interval(metric)
    if median is None or interval is None:
        return
    css = "best" if is_best(results, policy, metric) else "other"
    at, low, high = axes.place(np.array([[factor * value, 0.0] for value in (median, *interval)]))[:, 0].tolist()
    digits = 1 if unit else 0
    words = f"{policy}: {factor * median:,.{digits}f}{unit}"
    if len(results[policy].scores) > 1:
        words += f", {factor * interval[0]:,.{digits}f} to {factor * interval[1]:,.{digits}f}"
    if high - low > 1.0:
        panel.segments([np.array([[low, y], [high, y]])], f"spread {css}", title=words)
    panel.shapes.append(
        f'<circle class="dot {css}" cx="{number(at)}" cy="{number(y)}" r="4.2"><title>{esc(words)}</title></circle>'
    )


# --- over the day ----------------------------------------------------------------------------------------------------

_SPARK = 24.0
_LINK = 58.0
_HEAD = 24.0
_COLUMNS = 3


def day_panel(day: Day, edges_ns: Array, lines: Mapping[str, Timeline], link: LinkLine) -> tuple[Panel, list[Axes]]:
    """Policies in rows; utility a second, completion and use of the board in columns; above them the link's rate and
    round trip and how slow the board is. Also the axes of each column, for cursors.
    """
    count = len(lines)
    top = _HEAD + _LINK + _HEAD
    panel = Panel(_WIDTH, top + count * _SPARK + 28.0, "Policies over the day", "chart day")
    width = (_WIDTH - _LEFT - 10.0) / _COLUMNS - _GAP
    end_s = day.duration_ns / 1e9
    columns = []
    for column, (title, values) in enumerate(_series(lines).items()):
        left = _LEFT + column * (width + _GAP)
        whole = Axes(left, top, width, count * _SPARK, (0.0, end_s), (0.0, 1.0))
        columns.append(whole)
        _above(panel, Axes(left, _HEAD, width, _LINK, (0.0, end_s), (0.0, 1.0)), column, day, link)
        _bands(panel, whole, day, link)
        _time_scale(panel, whole)
        low, high = _limits(values, is_share=column > 0)
        panel.text(left, top - 9.0, f"<b>{title}</b>, {short(low)} to {short(high)}", "field-name")
        for row, (policy, series) in enumerate(values.items()):
            axes = Axes(left, top + row * _SPARK + 2.0, width, _SPARK - 4.0, (0.0, end_s), (low, high))
            _spark(
                panel, axes, edges_ns / 1e9, series, f"{policy}, {title}: {short(_mean(edges_ns, series))} on average"
            )
            if column == 0:
                panel.text(left, axes.top + axes.height / 2, esc(policy), "row-label")
    return panel, columns


def _series(lines: Mapping[str, Timeline]) -> dict[str, dict[str, Array]]:
    return {
        "utility a second": {policy: line.utility_per_s for policy, line in lines.items()},
        "share done in time": {policy: line.completion for policy, line in lines.items()},
        "share of the board in use": {policy: line.edge_busy for policy, line in lines.items()},
    }


def _limits(values: Mapping[str, Array], *, is_share: bool) -> tuple[float, float]:
    if is_share:
        return 0.0, 1.0
    every = np.concatenate(list(values.values()))
    return min(0.0, float(np.nanmin(every))), max(1e-9, float(np.nanmax(every)))


def _mean(edges_ns: Array, series: Array) -> float:
    known = ~np.isnan(series)
    return float(np.average(series[known], weights=np.diff(edges_ns)[known])) if known.any() else 0.0


def _spark(panel: Panel, axes: Axes, edges_s: Array, series: Array, words: str) -> None:
    """Stairs over a floor at zero; where nothing is known, nothing."""
    filled = np.nan_to_num(series)
    x, y = axes.place(np.column_stack([edges_s, np.append(filled, 0.0)])).T.tolist()
    floor = float(axes.place(np.array([[0.0, 0.0]]))[0, 1])
    steps = "".join(f"V{number(high)}H{number(right)}" for high, right in zip(y[:-1], x[1:], strict=True))
    panel.shapes.append(
        f'<path class="spark" d="M{number(x[0])} {number(floor)}{steps}V{number(floor)}z">'
        f"<title>{esc(words)}</title></path>"
    )
    panel.line(np.array([[axes.left, floor], [axes.left + axes.width, floor]]), "grid")


def _above(panel: Panel, axes: Axes, column: int, day: Day, link: LinkLine) -> None:
    """The head of a column: what the policies could not choose."""
    if column == 0:
        title, times_s, values, css = "link, Mbit/s", link.times_s, link.rate_mbps, "rate"
    elif column == 1:
        title, times_s, values, css = "round trip, ms", link.times_s, link.rtt_ms, "rtt"
    else:
        times_s = link.times_s
        values = np.array([day.slowdown(round(at * 1e9)) for at in times_s[:-1].tolist()])
        title, css = "board's times, over those stated", "slow"
    high = max(float(values.max()) * 1.08, 1e-9)
    scaled = Axes(axes.left, axes.top, axes.width, axes.height, axes.x_range, (0.0, high))
    _bands(panel, scaled, day, link)
    for value in ticks(0.0, high, 3):
        y = float(scaled.place(np.array([[0.0, value]]))[0, 1])
        panel.line(np.array([[axes.left, y], [axes.left + axes.width, y]]), "grid")
        panel.text(axes.left, y, short(value), "tick before")
    x, y = scaled.place(np.column_stack([times_s, np.append(values, values[-1])])).T
    stairs = np.column_stack([np.repeat(x, 2)[1:-1], np.repeat(y[:-1], 2)])
    panel.line(stairs, f"world {css}")
    panel.text(axes.left, axes.top - 9.0, f"<b>{title}</b>", "field-name")


def _bands(panel: Panel, axes: Axes, day: Day, link: LinkLine) -> None:
    """Where the link carried nothing, and where the board was slow."""
    silent = link.rate_mbps <= 0
    spans = [(link.times_s[i], link.times_s[i + 1], "band outage") for i in np.flatnonzero(silent).tolist()]
    spans += [(slow.from_ns / 1e9, slow.to_ns / 1e9, "band hot") for slow in day.slowdowns if slow.factor > 1]
    for begin, end, css in spans:
        times = np.clip([begin, end], *axes.x_range)
        left, right = axes.place(np.column_stack([times, [0.0, 0.0]]))[:, 0].tolist()
        if right > left:
            panel.rectangle(left, axes.top, right - left, axes.height, css)


def _time_scale(panel: Panel, axes: Axes) -> None:
    bottom = axes.top + axes.height
    values = ticks(*axes.x_range, 6)
    for value in values:
        x = float(axes.place(np.array([[value, 0.0]]))[0, 0])
        panel.line(np.array([[x, axes.top], [x, bottom]]), "grid")
        panel.text(x, bottom, number(value, 1) + (" s" if value == values[-1] else ""), "tick below")
