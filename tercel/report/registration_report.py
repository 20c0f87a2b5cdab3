"""The page of `tercel evaluate registration`: recall over distance, errors, and whether the method knows when it is
right.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.distant.evaluation import MAX_ROTATION_DEG, MAX_TRANSLATION_M
from tercel.report.drawing import Axes, Panel, esc, hue_of_id
from tercel.report.evaluate_registration import Judged, RegistrationRun
from tercel.report.page import document, section
from tercel.report.tables import table

Array = NDArray[Any]

_ASSETS = ("page.css", "registration.css")
_FARTHEST_M = 100.0
_NEAREST_M = 0.01


def write_registration_report(path: Path, run: RegistrationRun) -> None:
    """Write the page. Raises OSError if the file cannot be written."""
    summary, bins = run.summary(), run.bins()
    best = max(run.judged, key=lambda method: _recall(run.all_of(method)))
    farthest = list(bins[best].items())[-1]
    page = document(
        kind="registration by distance",
        name=", ".join(path.name for path in run.options.recordings),
        facts=[
            f"right: less than {MAX_TRANSLATION_M:g} m and {MAX_ROTATION_DEG:g}° off",
            f'<code class="command">{esc(run.options.command)}</code>',
        ],
        verdict=f"{best}: {_recall(run.all_of(best)):.1%} of {len(run.all_of(best))} pairs are right, "
        f"{farthest[1]['recall']:.1%} of those {farthest[0]} apart.",
        tiles=_tiles(run, best),
        sections=[
            section("recall", "Recall over distance", _recall_figure(bins, run.judged)),
            section("pairs", "Every pair", _pair_figures(run)),
            section("numbers", "Numbers", _numbers(run, bins, summary)),
        ],
        data={},
        version=summary["tercel"],
        assets=_ASSETS,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")


def _recall(pairs: Sequence[Judged]) -> float:
    return float(np.mean([pair.outcome.right for pair in pairs])) if pairs else 0.0


def _tiles(run: RegistrationRun, best: str) -> list[tuple[str, str, str]]:
    pairs, known = run.all_of(best), run.confidence(best)
    right = [pair.outcome for pair in pairs if pair.outcome.right]
    tiles = [(f"{len(pairs):,}", "pairs", ""), (f"{_recall(pairs):.1%}", "recall", "")]
    if right:
        tiles.append((f"{np.mean([one.translation_m for one in right]):.2f} m", "RTE, mean of the right ones", ""))
        tiles.append((f"{np.mean([one.rotation_deg for one in right]):.2f}°", "RRE, mean of the right ones", ""))
    tiles.append((f"{np.median([pair.outcome.time_s for pair in pairs]):.2f} s", "a pair (median)", ""))
    wrong = int(known["wrong_believed"])
    tiles.append((f"{wrong:,}", "wrong and believed", "bad" if wrong else "good"))
    return tiles


# --- pictures --------------------------------------------------------------------------------------------------------


def _recall_figure(bins: dict[str, dict[str, dict[str, float]]], methods: Collection[str]) -> str:
    """A line for each method, with a mark for each distance; those of single recordings are thin."""
    panel = Panel(1180.0, 320.0, "Share of pairs that are right, over their distance", "chart")
    axes = Axes(54.0, 12.0, 1106.0, 270.0, (0.0, 50.0), (0.0, 100.0))
    axes.draw(panel, x_unit="m", y_unit="%", x_most=10, y_most=5)
    keys = []
    for number, (method, rows) in enumerate(bins.items()):
        hue = hue_of_id(number * 3 + 1)
        places = np.array([[_middle_m(name), 100.0 * row["recall"]] for name, row in rows.items()])
        placed = axes.place(places)
        panel.line(placed, "recall" if method in methods else "recall one", hue=hue)
        for (x, y), (name, row) in zip(placed.tolist(), rows.items(), strict=True):
            title = f"{method}, {name}: {row['recall']:.1%} of {row['pairs']:.0f}"
            panel.rectangle(x - 4, y - 4, 8, 8, "recall-mark", hue=hue, title=title)
        keys.append(f'<span class="swatch" style="--h:{hue}"></span>{esc(method)}')
    words = "Share of pairs that are right, over the distance between the scans"
    return f'<figure class="card">{panel.html()}<figcaption>{words} &ensp;{" &ensp;".join(keys)}</figcaption></figure>'


def _middle_m(name: str) -> float:
    low, high = name.removesuffix(" m").split("-")
    return (float(low) + float(high)) / 2


def _pair_figures(run: RegistrationRun) -> str:
    figures = "".join(_pair_figure(method, run.all_of(method)) for method in run.judged)
    words = (
        '<p class="quiet keys"><span class="key right-pair"></span> right &ensp;<span class="key wrong-pair"></span> '
        "wrong &ensp; The surer a method is, the farther to the right its pair stands: right ones should be low and to "
        "the right, wrong ones high and to the left.</p>"
    )
    return f'<div class="halves">{figures}</div>{words}'


def _pair_figure(method: str, pairs: Sequence[Judged]) -> str:
    """A dot for each pair: its confidence, and its error on a scale of powers of ten."""
    panel = Panel(560.0, 300.0, f"Error of every pair over the confidence of {method}", "chart")
    axes = Axes(64.0, 12.0, 476.0, 250.0, (0.0, 1.0), tuple(np.log10([_NEAREST_M, _FARTHEST_M]).tolist()))
    right, bottom = axes.left + axes.width, axes.top + axes.height
    for error_m in (0.01, 0.1, 1.0, 10.0, 100.0):
        y = float(axes.place(np.array([[0.0, np.log10(error_m)]]))[0, 1])
        panel.line(np.array([[axes.left, y], [right, y]]), "grid")
        panel.text(axes.left, y, f"{error_m:g} m", "tick before")
    for confidence in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = float(axes.place(np.array([[confidence, 0.0]]))[0, 0])
        panel.line(np.array([[x, axes.top], [x, bottom]]), "grid")
        panel.text(x, bottom, f"{confidence:g}", "tick below")
    for pair in pairs:
        error_m = float(np.clip(pair.outcome.translation_m, _NEAREST_M, _FARTHEST_M))
        x, y = axes.place(np.array([[pair.outcome.confidence, np.log10(error_m)]]))[0].tolist()
        panel.circle(x, y, 3.2, "pair right-pair" if pair.outcome.right else "pair wrong-pair")
    return (
        f'<figure class="card">{panel.html()}<figcaption>{esc(method)}: error of each pair over its confidence'
        "</figcaption></figure>"
    )


# --- numbers ---------------------------------------------------------------------------------------------------------


def _numbers(run: RegistrationRun, bins: dict[str, dict[str, dict[str, float]]], summary: dict[str, Any]) -> str:
    head = ("Method", "Apart", "Pairs", "Recall", "RRE", "RTE", "Median error", "A pair took")
    rows = [
        (
            esc(method),
            name,
            f"{row['pairs']:.0f}",
            f"{row['recall']:.1%}",
            _known(row["rre_deg"], "°"),
            _known(row["rte_m"], " m"),
            f"{_known(row['translation_m_p50'], ' m')}, {_known(row['rotation_deg_p50'], '°')}",
            _known(row["time_s_p50"], " s"),
        )
        for method, named in bins.items()
        for name, row in named.items()
    ]
    believed = [
        (
            esc(method),
            f"{known['right_believed']:.0f} of {known['right']:.0f}",
            f"{known['wrong_believed']:.0f} of {known['wrong']:.0f}",
            _known(known["auc"], ""),
        )
        for method, known in ((method, run.confidence(method)) for method in run.judged)
    ]
    listed = "".join(f"<li>{esc(note)}</li>" for note in run.notes)
    raw = esc(json.dumps(summary, indent=2))
    return (
        f'<div class="card">{table(head, rows, css="scores")}'
        '<p class="quiet">RRE and RTE are means over the right pairs, medians are over all.</p></div>'
        f'<div class="card">{table(("Method", "Right and believed", "Wrong and believed", "Area under ROC"), believed)}'
        f"{f'<ul class=notes>{listed}</ul>' if listed else ''}"
        f"<details><summary>all numbers</summary><pre tabindex=0>{raw}</pre></details></div>"
    )


def _known(value: float, unit: str) -> str:
    return f"{value:.2f}{unit}" if np.isfinite(value) else "–"
