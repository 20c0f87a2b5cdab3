"""One workload in the report of `tercel simulate`: kinds, the day, who ran what when, what became of every task."""

from __future__ import annotations

from typing import Any

from offload.scores import Held, held_by
from tercel.report.drawing import esc, number
from tercel.report.offload_charts import day_panel
from tercel.report.offload_gantt import MAX_TASKS, STRETCH_NS, choose_stretches, gantt_of
from tercel.report.offload_material import bin_edges_ns, link_line, timeline_of, windows_of
from tercel.report.offload_run import Result, Shown, SimulationRun
from tercel.report.tables import table

KIND_COLOURS = 8
"""How many there are in offload.css."""
_BOX = 0
_FATE_WORDS = ("on the board", "in the cloud", "split", "late", "dropped")


def workload_article(run: SimulationRun, name: str, reasons: list[str]) -> tuple[str, dict[str, Any]]:
    """The article of a workload whose first day was kept, and its Gantt charts' data. reasons: those of the page."""
    shown, results = run.shown[name], run.results[name]
    held = {policy: held_by(shown.day, done) for policy, done in shown.runs.items()}
    starts_ns, first = choose_stretches(shown.day, list(shown.runs.values()), _BOX)
    numbered = {reason: index for index, reason in enumerate(reasons)}
    timelines, spans = _timelines(run, name, held)
    html = (
        f'<article class="workload" aria-label="{esc(name)}"><h3>{esc(name)}</h3>'
        f'<p class="facts">{_about(run, name)}</p>'
        f"<h4>Kind by kind</h4>{_kinds(shown, results)}"
        f"<h4>Over the day</h4>{timelines}"
        f"<h4>Who ran what, when</h4>{_gantt_figure(shown, starts_ns)}"
        f"<h4>What became of every task</h4>{_account(results)}</article>"
    )
    content = {
        "name": name,
        "kinds": [kind.name for kind in shown.day.kinds],
        "lanes": shown.day.lanes,
        "first": first,
        "spans": spans,
        "end_ms": shown.day.duration_ns / 1e6,
        "stretches": [
            {
                "from_ms": start_ns / 1e6,
                "tasks": [
                    gantt_of(shown.day, done, held[policy], _BOX, start_ns, numbered)
                    for policy, done in shown.runs.items()
                ],
            }
            for start_ns in starts_ns
        ],
    }  # fmt: skip
    return html, content


def _about(run: SimulationRun, name: str) -> str:
    fleet, tasks = run.workloads[name].fleet, len(run.shown[name].day.created_ns)
    words = [
        counted(fleet.drones, "drone"),
        counted(fleet.boxes, "box", "boxes") + (f" of {counted(fleet.lanes, 'lane')}" if fleet.lanes > 1 else ""),
        f"{number(fleet.duration_ns / 1e9)} s",
        f"{tasks:,} tasks",
        f"link {esc(run.workloads[name].link_words)}",
    ]
    if fleet.cold:
        words.append(
            f"cold starts of {number(fleet.cold.start_ns / 1e6)} ms after {number(fleet.cold.keep_ns / 1e9)} s"
        )
    return " · ".join(words)


def counted(number_of: int, one: str, many: str = "") -> str:
    """A count with its noun: "1 box", "20 boxes"."""
    return f"{number_of:,} {one if number_of == 1 else many or one + 's'}"


def _kinds(shown: Shown, results: dict[str, Result]) -> str:
    """A heat table of completion, with the share of windows that met their target."""
    names = [kind.name for kind in shown.day.kinds]
    windows = [windows_of(shown.day, index) for index in range(len(names))]
    rows = []
    for policy, result in results.items():
        cells = [esc(policy)]
        for kind, of_kind in zip(shown.day.kinds, windows, strict=True):
            done = result.of_kind(kind.name, "completion")
            met = ""
            if kind.qoe_bonus and of_kind:
                share = result.of_kind(kind.name, "qoe_utility") / kind.qoe_bonus / of_kind
                met = f"<small>{percent(share)} of windows</small>"
            late = result.of_kind(kind.name, "late")
            words = f"{policy}, {kind.name}: {percent(done, 1)} in time, {late:,.0f} late"
            cells.append(f'<div class="heat" style="--v:{done:.3f}" title="{esc(words)}">{percent(done)}{met}</div>')
        rows.append(cells)
    heads = [
        "", *(f'<span class="class-key kind-{i % KIND_COLOURS}"></span>{esc(n)}' for i, n in enumerate(names))
    ]  # fmt: skip
    targets = sorted({kind.qoe_target for kind in shown.day.kinds})
    words = " or ".join(percent(target) for target in targets)
    return (
        f'<div class="card">{table(heads, rows, css="heats")}<p class="quiet">Tasks done in time, of those created; '
        f"below, the windows of {number(shown.day.window_ns / 1e9)} s in which at least {words} were.</p></div>"
    )


def percent(share: float, digits: int = 0) -> str:
    """A share as people read it."""
    return f"{100 * share:.{digits}f} %"


def _timelines(run: SimulationRun, name: str, held: dict[str, Held]) -> tuple[str, list[list[float]]]:
    """The figure, and where each column's time axis begins and how wide it is, in percent."""
    shown = run.shown[name]
    edges_ns = bin_edges_ns(shown.day)
    lines = {policy: timeline_of(shown.day, done, held[policy], edges_ns) for policy, done in shown.runs.items()}
    panel, columns = day_panel(shown.day, edges_ns, lines, link_line(shown.day, _BOX))
    cursors = '<i class="cursor" hidden></i>' * len(columns)
    boxes = len(shown.day.links)
    many = f" Policies: all {boxes} boxes together; the link is the first one's." * (boxes > 1)
    keys = []
    if any("band outage" in shape for shape in panel.shapes):
        keys.append('<span class="key outage"></span> the link carries nothing. ')
    if shown.day.slowdowns:
        keys.append('<span class="key hot"></span> the board is slow. ')
    html = (
        f'<figure class="card"><div class="wide" tabindex="0">{panel.html(background=cursors)}</div><figcaption>'
        f"Seed {run.options.seeds[0]}, in bins of {number((edges_ns[1] - edges_ns[0]) / 1e9)} s.{many} {''.join(keys)}"
        "The upright strokes show the stretch of the charts below.</figcaption></figure>"
    )
    return html, [[round(100 * c.left / panel.width, 3), round(100 * c.width / panel.width, 3)] for c in columns]


def _gantt_figure(shown: Shown, starts_ns: list[int]) -> str:
    kinds = "".join(
        f'<span class="class-key kind-{index % KIND_COLOURS}"></span>{esc(kind.name)}'
        for index, kind in enumerate(shown.day.kinds)
    )
    buttons = "".join(
        f'<button type="button" data-stretch="{index}" aria-pressed="false">{number(at / 1e9)} s</button>'
        for index, at in enumerate(starts_ns)
    )
    first_box = " of the first box" * (len(shown.day.links) > 1)
    return (
        f'<figure class="card"><div class="controls stretches" role="group"><span>From</span>{buttons}'
        '<output class="said"></output></div><div class="charts"></div><noscript><p class="quiet">These charts are '
        f"drawn with JavaScript only.</p></noscript><figcaption>{kinds} · row by row: the board, the uplink, what is "
        'in flight in the cloud, what was dropped and when · <span class="key late"></span> late. '
        f"Stretches of {STRETCH_NS // 10**9} s{first_box}, at most {MAX_TASKS} tasks in each, from where it mattered "
        "most which policy was at work. Point at a task to find it under every policy.</figcaption></figure>"
    )


def _account(results: dict[str, Result]) -> str:
    rows = []
    for policy, result in results.items():
        fates = list(result.fates().values())
        tasks = sum(fates)
        words = ", ".join(f"{word} {100 * n / tasks:.1f} %" for word, n in zip(_FATE_WORDS, fates, strict=True) if n)
        parts = "".join(
            f'<i class="fate-{index}" style="width:{100 * n / tasks:.2f}%"></i>' for index, n in enumerate(fates) if n
        )
        reasons = " · ".join(f"{esc(reason)} {n:,}" for reason, n in result.reasons().items())
        shares = f'<span class="shares" role="img" title="{words}" aria-label="{words}">{parts}</span>'
        rows.append([esc(policy), *(f"{n:,}" for n in fates), shares, f'<span class="why">{reasons or "–"}</span>'])
    heads = [f'<span class="key fate fate-{index}"></span>{word}' for index, word in enumerate(_FATE_WORDS)]
    seeds = len(next(iter(results.values())).scores)
    together = f", {seeds} seeds together" * (seeds > 1)
    return (
        f'<div class="card">{table(["", *heads, "shares", "why late or dropped"], rows, css="account")}'
        f'<p class="quiet">Every task stands in one column{together}.</p></div>'
    )
