"""The report of `tercel simulate`: one HTML file that holds policies against each other and shows what each did.

The comparison is over all seeds; timelines and Gantt charts are of the first one. Charts are inline SVG; the Gantt
charts are drawn by the page's own script, from data in the page. The same run gives the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import tercel
from offload.scores import Power
from offload.simulator import FATES
from tercel.report.drawing import esc
from tercel.report.offload_charts import comparison_panel, is_best
from tercel.report.offload_gantt import STRETCH_NS, TICK_NS
from tercel.report.offload_run import DEVIATES, INTERVAL, Result, SimulationRun
from tercel.report.offload_workload import percent, workload_article
from tercel.report.page import document, section
from tercel.report.tables import table

MAX_PICTURED = 24
"""Workloads whose day is drawn; the comparison has them all."""
_ASSETS = ("page.css", "offload.css", "offload.js")


def write_offload_report(path: Path, run: SimulationRun) -> None:
    """Write the report of a run that kept its first days. Raises OSError if the file cannot be written."""
    reasons = sorted(
        {reason for shown in run.shown.values() for done in shown.runs.values() for reason in done.reasons}
    )
    reasons = [reason for reason in reasons if reason]
    pictured = list(run.shown)[:MAX_PICTURED]
    days = [workload_article(run, name, reasons) for name in pictured]
    sections = [
        section("compare", "Policies beside each other", _comparison(run)),
        section("workloads", "Workload by workload", _chooser(pictured) + "".join(html for html, _ in days)),
        section("numbers", "Settings and numbers", _numbers(run)),
    ]
    data = {
        "tick_ms": TICK_NS / 1e6,
        "stretch_ms": STRETCH_NS / 1e6,
        "policies": run.policies,
        "fates": [fate.value for fate in FATES],
        "reasons": reasons,
        "workloads": [content for _, content in days],
    }
    page = document(
        kind="offloading report",
        name=run.options.fleets.stem,
        facts=_facts(run),
        verdict=_verdict(run),
        tiles=_tiles(run),
        sections=sections,
        data={"gantt": data},
        version=tercel.__version__,
        assets=_ASSETS,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")


# --- comparison ------------------------------------------------------------------------------------------------------


def _comparison(run: SimulationRun) -> str:
    bounded = run.options.bound
    figures = [
        ("qos_utility", "QoS utility: what results in time earn, less what was spent", "", 1.0),
        ("qoe_utility", "QoE utility: bonuses of windows in which a kind met its target", "", 1.0),
        ("completion", "Completion: tasks done in time", " %", 100.0),
    ]
    if bounded:
        figures.append(("of_bound", "QoS utility, of the best that is possible", " %", 100.0))
    html = ""
    for metric, title, unit, factor in figures:
        panel = comparison_panel(run.results, metric, title, unit=unit, factor=factor)
        html += f'<figure class="card"><h3>{title}</h3><div class="wide" tabindex="0">{panel.html()}</div></figure>'
    seeds = len(run.options.seeds)
    spread = f"Dots: medians of {seeds} seeds; strokes: {INTERVAL}." if seeds > 1 else "One seed, so no intervals."
    line = " Dashed: the clairvoyant bound." if bounded else ""
    return f'{html}<p class="quiet">{spread} Filled: the best, and those within 1 % of it.{line} Point at a dot.</p>'


def _chooser(names: list[str]) -> str:
    buttons = "".join(
        f'<button type="button" data-workload="{index}" aria-pressed="false">{esc(name)}</button>'
        for index, name in enumerate(names)
    )
    return f'<div class="controls chooser"{" hidden" * (len(names) < 2)} role="group">{buttons}</div>'


# --- words and numbers -----------------------------------------------------------------------------------------------


def _facts(run: SimulationRun) -> list[str]:
    seeds = run.options.seeds
    return [
        f"fleet file <b>{esc(run.options.fleets.name)}</b>",
        f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}",
        f"policies expect {'mean times' if DEVIATES[run.options.estimates] is None else '95th percentiles of times'}",
        f"link {esc(_link_words(run))}",
    ]


def _link_words(run: SimulationRun) -> str:
    words = list(dict.fromkeys(workload.link_words for workload in run.workloads.values()))
    return words[0] if len(words) == 1 else f"{len(words)} kinds, see each workload"


def _verdict(run: SimulationRun) -> str:
    policies, workloads = len(run.policies), len(run.results)
    if policies == 1:
        result = next(iter(run.results.values()))[run.policies[0]]
        return f"{run.policies[0]} did {percent(result.median('completion') or 0.0, 1)} of the tasks in time."
    wins = Counter(
        policy
        for results in run.results.values()
        for policy in results
        if is_best(results, policy, "total_utility")
    )  # fmt: skip
    told = [f"{policy} in {n}" for policy, n in sorted(wins.items(), key=lambda item: -item[1])]
    where = "the workload" if workloads == 1 else f"{workloads} workloads"
    if workloads == 1:
        return f"Highest total utility in {where}, within 1 %: {', '.join(policy for policy in wins)}."
    return f"Highest total utility, within 1 %, among {policies} policies in {where}: {', '.join(told)}."


def _tiles(run: SimulationRun) -> list[tuple[str, str, str]]:
    every = [result for results in run.results.values() for result in results.values()]
    tasks = sum(sum(score.tasks for score in result.scores) for result in every)
    days = {
        name: sum(score.tasks for score in next(iter(of.values())).scores) for name, of in run.results.items()
    }  # fmt: skip
    ended = sum(sum(result.fates().values()) for result in every)
    best = [max(result.median("completion") or 0.0 for result in of.values()) for of in run.results.values()]
    tiles = [
        (f"{len(run.results)}", "workloads", ""),
        (f"{len(run.policies)}", "policies", ""),
        (f"{len(run.options.seeds)}", f"drawn day{'s' * (len(run.options.seeds) > 1)}, the same for all", ""),
        (f"{sum(days.values()):,}", "tasks created", ""),
        (
            f"{ended:,}" if ended == tasks else f"{ended:,} of {tasks:,}",
            "fates known, all policies",
            "good" if ended == tasks else "bad",
        ),
        (_least_to_most(best), "done in time by the best policy", ""),
    ]
    shares = [max(result.median("of_bound") or 0.0 for result in of.values()) for of in run.results.values()]
    return [*tiles, (_least_to_most(shares), "of the bound, by the best policy", "")] if run.options.bound else tiles


def _least_to_most(shares: list[float]) -> str:
    low, high = f"{100 * min(shares):.0f}", f"{100 * max(shares):.0f}"
    return f"{low} %" if low == high else f"{low}–{high} %"


_COLUMNS = (
    ("completion", "in time", 100.0, 1, " %"),
    ("qos_utility", "QoS utility", 1.0, 0, ""),
    ("qoe_utility", "QoE utility", 1.0, 0, ""),
    ("total_utility", "total", 1.0, 0, ""),
    ("of_bound", "of bound", 100.0, 1, " %"),
    ("energy_j", "energy, J", 1.0, 0, ""),
    ("late", "late", 1.0, 0, ""),
    ("dropped", "dropped", 1.0, 0, ""),
)


def _numbers(run: SimulationRun) -> str:
    heads = ["", *(head for _, head, *_ in _COLUMNS)]
    blocks = "".join(
        f"<h3>{esc(name)}</h3>{_bound_words(results)}{table(heads, _rows(results), css='figures')}"
        for name, results in run.results.items()
    )
    power, deviate = Power(), DEVIATES[run.options.estimates]
    expected = "means" if deviate is None else f"95th percentiles, {deviate} standard deviations of a log-normal"
    settings = [
        f"Times that policies expect: {expected}.",
        f"Energy: {power.lane_w:g} W while a lane works and {power.radio_w:g} W while the radio sends, beside idling.",
        f"Figures are medians over seeds, in small type the {INTERVAL}; fates and reasons are counted over all seeds.",
        *(f"{esc(name)}: link {esc(workload.link_words)}." for name, workload in run.workloads.items()),
    ]
    listed = "".join(f"<li>{line}</li>" for line in settings)
    command = run.options.command
    made = f'<p>Made by <code class="command">{esc(command)}</code></p>' if command else ""
    raw = esc(json.dumps(run.summary(), indent=1))
    return (
        f'<div class="card">{blocks}</div><div class="card"><ul class="lost">{listed}</ul>{made}'
        f"<details><summary>all numbers</summary><pre tabindex=0>{raw}</pre></details></div>"
    )


def _bound_words(results: dict[str, Result]) -> str:
    best = next(iter(results.values())).best
    if not best:
        return ""
    low, high = (sorted(getattr(b, name) for b in best)[len(best) // 2] for name in ("achieved", "qos_utility"))
    return (
        f'<p class="quiet">The best possible QoS utility lies between {low:,.0f}, which a schedule achieves, and '
        f"{high:,.0f}.</p>"
    )


def _rows(results: dict[str, Result]) -> list[list[str]]:
    rows = []
    for policy, result in results.items():
        cells = [esc(policy)]
        for metric, _, factor, digits, unit in _COLUMNS:
            median, interval = result.median(metric), result.interval(metric)
            if median is None or interval is None:
                cells.append("–")
                continue
            text = f"{factor * median:,.{digits}f}{unit}"
            if len(result.scores) > 1:
                text += f"<small>{factor * interval[0]:,.{digits}f} to {factor * interval[1]:,.{digits}f}</small>"
            cells.append(f"<b>{text}</b>" if metric in _HIGHER and is_best(results, policy, metric) else text)
        rows.append(cells)
    return rows


_HIGHER = ("completion", "qos_utility", "qoe_utility", "total_utility", "of_bound")
