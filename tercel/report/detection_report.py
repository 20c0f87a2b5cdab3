"""The page of `tercel evaluate detection`: a table of the models, precision over recall by class, AP by size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tercel.report.detection_run import FIGURES, Candidate, EvaluationRun
from tercel.report.drawing import Axes, Panel, esc, hue_of_id
from tercel.report.page import document, section
from tercel.report.tables import table

_ASSETS = ("page.css", "detection.css", "page.js")
_MAX_CURVES = 24
_SIZES = ("AP", "AP_small", "AP_medium", "AP_large")
_RECALLS = np.linspace(0.0, 1.0, 101)


def write_detection_report(path: Path, run: EvaluationRun) -> None:
    """Write the page of a run. Raises OSError if the file cannot be written."""
    summary = run.summary()
    models = summary["models"]
    best = max(models, key=lambda model: model["AP"] or 0.0)
    verdict = f"{best['model']} has the highest AP, {_percent(best['AP'])}" if len(models) > 1 else _sentence(best)
    tiles = [
        (_percent(best["AP"]), "AP", ""),
        (_percent(best["AP50"]), "AP at IoU 0.5", ""),
        (f"{best['latency_ms_p50'] or 0:.1f} ms", "an image (median)", ""),
        (f"{run.images:,}", "images", ""),
    ]
    if run.rejected:
        tiles.append((f"{run.rejected.total():,}", "images that could not be used", "bad"))
    legend = "".join(
        f'<span class="swatch" style="--h:{hue_of_id(index)}"></span>{esc(c.name)} &emsp;'
        for index, c in enumerate(run.candidates)
    )
    sections = [
        section(
            "models", "Models", f"<div class=card>{_model_table(models)}<p class=quiet>{_words(summary)}</p></div>"
        ),
        section(
            "sizes", "AP by size of the object", f"<figure class=card><p>{legend}</p>{_size_panel(models)}</figure>"
        ),
        section("curves", "Precision over recall at IoU 0.5", f"<div class=card><p>{legend}</p>{_curves(run)}</div>"),
        section("classes", "AP of each class", f"<div class=card>{_class_table(run, models)}</div>"),
        _problems(run),
    ]
    page = document(
        kind="detection scores",
        name=f"{run.data_name} ({run.options.split})",
        facts=[f"{run.images:,} images", f"{run.truths:,} true boxes", esc(run.options.command)],
        verdict=f"{verdict}.",
        tiles=tiles,
        sections=sections,
        data={},
        version=summary["tercel"],
        assets=_ASSETS,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _sentence(model: dict[str, Any]) -> str:
    return f"{model['model']}: AP {_percent(model['AP'])}, at IoU 0.5 {_percent(model['AP50'])}"


def _words(summary: dict[str, Any]) -> str:
    return (
        f"Scores from {summary['score_threshold']:g}, non-maximum suppression at {summary['nms_iou']:g}, at most "
        f"{summary['max_detections']} boxes an image; all figures are AP in percent as pycocotools computes them. "
        f"Milliseconds and CPU are medians of an image here, {summary['threads']} thread"
        f"{'' if summary['threads'] == 1 else 's'}, at a camera detector's own thresholds."
    )


def _model_table(models: list[dict[str, Any]]) -> str:
    head = ("Model", *(name.replace("_", " ") for name in FIGURES), "p50 ms", "p95 ms", "CPU ms", "Backend", "Failed")
    rows = [
        [
            esc(model["model"]),
            *(_percent(model[name]) for name in FIGURES),
            f"{model['latency_ms_p50'] or 0:.1f}",
            f"{model['latency_ms_p95'] or 0:.1f}",
            f"{1e3 * (model['cpu_s_per_image'] or 0):.1f}",
            esc(model["backend"]),
            f"{sum(model['failed'].values()):,}",
        ]
        for model in models
    ]
    return table(head, rows, css="scores")


def _size_panel(models: list[dict[str, Any]]) -> str:
    """Bars of AP, one group for each size."""
    top = max(0.1, *(model[size] or 0.0 for model in models for size in _SIZES))
    panel = Panel(1100.0, 260.0, "AP of small, medium and large objects", "chart")
    axes = Axes(46.0, 18.0, 1040.0, 210.0, (0.0, float(len(_SIZES))), (0.0, 100.0 * top * 1.1))
    floor = axes.top + axes.height
    panel.line(np.array([[axes.left, floor], [axes.left + axes.width, floor]]), "grid")
    group = axes.width / len(_SIZES)
    width = min(60.0, 0.8 * group / len(models))
    for place, size in enumerate(_SIZES):
        middle = axes.left + (place + 0.5) * group
        panel.text(middle, floor, size.replace("AP_", "").replace("AP", "all sizes"), "middle")
        for index, model in enumerate(models):
            if model[size] is None:
                continue
            x = middle + (index - len(models) / 2) * width
            y = float(axes.place(np.array([[0.0, 100.0 * model[size]]]))[0, 1])
            title = f"{model['model']}: {_percent(model[size])}"
            panel.rectangle(x, y, width - 2, floor - y, "size-bar", hue=hue_of_id(index), title=title)
            panel.text(x + width / 2 - 1, y, _percent(model[size]), "value")
    return panel.html()


def _classes_by_truths(run: EvaluationRun) -> list[int]:
    """Labels that have truth, those with most of it first."""
    scores = run.candidates[0].scores
    counts = np.zeros(0, int) if scores is None else scores.truth_counts
    return [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]


def _curves(run: EvaluationRun) -> str:
    labels = _classes_by_truths(run)
    figures = "".join(_curve_figure(run, label) for label in labels[:_MAX_CURVES])
    rest = len(labels) - _MAX_CURVES
    more = f"<p class=quiet>{rest} classes with fewer true boxes are in the table only.</p>" if rest > 0 else ""
    return f"<div class=curves>{figures}</div>{more}"


def _curve_figure(run: EvaluationRun, label: int) -> str:
    name = run.class_names[label]
    panel = Panel(280.0, 200.0, f"Precision over recall of {name}", "chart")
    axes = Axes(34.0, 8.0, 236.0, 164.0, (0.0, 1.0), (0.0, 1.0))
    axes.draw(panel, x_unit="", y_unit="", x_most=5, y_most=5)
    for index, candidate in enumerate(run.candidates):
        if candidate.scores is not None:
            curve = candidate.scores.curve_at_50(label)
            panel.line(axes.place(np.stack([_RECALLS, curve], axis=1)), "curve", hue=hue_of_id(index))
    truths = _truths(run.candidates[0], label)
    return f"<figure><h3>{esc(name)} ({truths:,})</h3>{panel.html()}</figure>"


def _truths(candidate: Candidate, label: int) -> int:
    return 0 if candidate.scores is None else int(candidate.scores.truth_counts[label])


def _class_table(run: EvaluationRun, models: list[dict[str, Any]]) -> str:
    head = ("Class", "True boxes", *(f"{esc(model['model'])}: AP, AP50" for model in models))
    rows = []
    for label in _classes_by_truths(run):
        name = run.class_names[label]
        figures = [model["classes"][name] for model in models]
        cells = [f"{_percent(figure['AP'])}, {_percent(figure['AP50'])}" for figure in figures]
        rows.append([esc(name), f"{_truths(run.candidates[0], label):,}", *cells])
    return table(head, rows, css="scores")


def _problems(run: EvaluationRun) -> str:
    lines = [f"{n:,} images: {reason}" for reason, n in sorted(run.rejected.items())]
    lines += [f"{c.name}: {n:,} images: {reason}" for c in run.candidates for reason, n in sorted(c.failed.items())]
    lines += run.problems[:100]
    if not lines:
        return ""
    listed = "".join(f"<li>{esc(line)}</li>" for line in lines)
    return section("problems", "What could not be used", f"<div class=card><ul class=lost>{listed}</ul></div>")
