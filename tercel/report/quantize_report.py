"""The report of `tercel quantize`: both models' boxes side by side, each layer's error, and where the time goes.

One HTML file that needs nothing but itself, as all reports (see page). Names from the model are escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

import tercel
from tercel.core.messages import Detections2D, Image
from tercel.report.drawing import Axes, Panel, data_uri, esc, hue_of_class, nice_step, number
from tercel.report.page import document, section
from tercel.report.tables import table

if TYPE_CHECKING:
    from perception.quantize.procedure import Outcome

Array = NDArray[Any]

SHOWN_SCORE = 0.3
_PICTURES = 4
_WIDTH_PX = 560
_QUALITY = 70
_ROWS = 24


def write_quantize_report(path: Path, outcome: Outcome, summary: Mapping[str, Any]) -> None:
    """Write the page. Raises OSError if the file cannot be written."""
    sections = [
        _judgement_section(outcome),
        _pictures_section(outcome),
        _speed_section(outcome, summary),
        _error_section(outcome),
        _layer_section(outcome),
        _format_section(outcome.formats),
        _range_section(outcome),
        _command_section(summary),
    ]
    accuracy = summary["accuracy"]
    facts = [
        f"method <b>{esc(summary['method'])}</b>",
        f"{summary['bits']} bits for {esc(summary['target'])}",
        f"{summary['convolutions']['quantized']} of {summary['convolutions']['all']} convolutions",
        f"verified on {summary['images']} images by {esc(accuracy['measure'])}",
    ]
    page = document(
        kind="quantization report",
        name=str(summary["model"]),
        facts=facts,
        verdict=_verdict(outcome, summary),
        tiles=_tiles(summary),
        sections=sections,
        data={},
        version=tercel.__version__,
        assets=("page.css",),
    )
    path.write_text(page, encoding="utf-8", errors="replace")


def _verdict(outcome: Outcome, summary: Mapping[str, Any]) -> str:
    if outcome.reasons:
        return f"Not done: {'; '.join(outcome.reasons)}."
    loss = summary["accuracy"]["loss_points"]
    words = f"loses {number(loss, 2)} points of AP" if loss > 0.005 else "loses no AP"
    return f"Done: {number(summary['speedup'], 2)} times as fast as the float model, and {words}."


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    accuracy, sizes = summary["accuracy"], summary["bytes"]
    speedup = float(summary["speedup"])
    return [
        (f"{speedup:.2f} ×", "speed of the float model", "good" if speedup >= 1.0 else "bad"),
        (f"{summary['quantized_ms']:.2f} ms", f"in {summary['backend']['quantized']}", ""),
        (f"{summary['float_ms']:.2f} ms", f"float, in {summary['backend']['float']}", ""),
        (f"{accuracy['ap_quantized']:.3f}", f"AP, float {accuracy['ap_float']:.3f}", ""),
        (f"{accuracy['ap50_quantized']:.3f}", f"AP50, float {accuracy['ap50_float']:.3f}", ""),
        (f"{sizes['quantized'] / 1e6:.2f} MB", f"float {sizes['float'] / 1e6:.2f} MB", ""),
    ]


# --- sections --------------------------------------------------------------------------------------------------------


def _judgement_section(outcome: Outcome) -> str:
    lines = [f'<li class="bad">{esc(reason)}</li>' for reason in outcome.reasons]
    lines += [f"<li>to blame: {esc(line)}</li>" for line in outcome.blame]
    lines += [f"<li>warning: {esc(line)}</li>" for line in outcome.warnings]
    return section("judgement", "Judgement", f'<ul class="card lost">{"".join(lines)}</ul>') if lines else ""


def _pictures_section(outcome: Outcome) -> str:
    """The images in which the two differ most, and the float model finds something."""
    found = list(zip(outcome.images, outcome.accuracy.found_float, outcome.accuracy.found_quantized, strict=True))
    counts = [(_count(before), _count(after)) for _, before, after in found]
    order = sorted(range(len(found)), key=lambda i: (-abs(counts[i][0] - counts[i][1]), -counts[i][0], i))
    rows = []
    for index in order[:_PICTURES]:
        image, before, after = found[index]
        panels = [(before, "float"), (after, "quantized")]
        figures = "".join(
            f"<figure>{_picture(image, boxes, name)}<figcaption>{name}: {_count(boxes)} boxes from score "
            f"{SHOWN_SCORE}</figcaption></figure>"
            for boxes, name in panels
        )
        rows.append(f'<div class="card pair" style="grid-template-columns:1fr 1fr">{figures}</div>')
    note = '<p class="quiet">The images in which the numbers of boxes differ most.</p>'
    return section("pictures", "Both models' boxes", "".join(rows) + note)


def _count(found: Detections2D) -> int:
    return int((found.scores >= SHOWN_SCORE).sum())


def _picture(image: Image, found: Detections2D, label: str) -> str:
    height, width = image.pixels.shape[:2]
    scale = min(1.0, _WIDTH_PX / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image.pixels, size, interpolation=cv2.INTER_AREA)
    jpeg = bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])
    panel = Panel(width, height, f"{label} model's boxes in {image.frame_id}", "camera")
    for row in np.flatnonzero(found.scores >= SHOWN_SCORE).tolist():
        x1, y1, x2, y2 = found.boxes_xyxy_px[row].astype(float).tolist()
        name = found.class_names[int(found.labels[row])]
        hue = hue_of_class(name)
        words = f"{name} {float(found.scores[row]):.2f}"
        panel.rectangle(x1, y1, x2 - x1, y2 - y1, "box flat", hue=hue, title=words)
        panel.text(x1, y1, esc(words), "tag under" if y1 < 0.05 * height else "tag", hue=hue)
    return panel.html(background=f'<img src="{data_uri("jpeg", jpeg)}" alt="{esc(image.frame_id)}">')


def _speed_section(outcome: Outcome, summary: Mapping[str, Any]) -> str:
    speeds: Mapping[str, Mapping[str, float]] = summary["latency_ms"]
    names = sorted({name for row in speeds.values() for name in row}, key=lambda name: (name != "float", name))
    rows = [[esc(name), *(f"{speeds[backend][name]:.2f}" for backend in speeds)] for name in names]
    whole = table(["median ms, one image", *map(esc, speeds)], rows)
    ends = sorted(outcome.times, key=lambda row: -abs(row.float_ms - row.quantized_ms))[:_ROWS]
    parts = table(
        ["operator", "float ms", "quantized ms", "gain ms"],
        [
            [esc(t.name), f"{t.float_ms:.3f}", f"{t.quantized_ms:.3f}", f"{t.float_ms - t.quantized_ms:+.3f}"]
            for t in sorted(ends, key=lambda row: row.float_ms - row.quantized_ms)
        ],
    )
    note = (
        '<p class="quiet">Runs in turn, in one process; each side is judged by its faster backend. Below, operators as '
        "the backend runs them, a convolution with its activation and quantizers, the greatest differences.</p>"
    )
    return section("speed", "Latency", f'<div class="card">{whole}{note}{parts}</div>')


def _error_section(outcome: Outcome) -> str:
    if not outcome.sqnr_db:
        return ""
    names, values = list(outcome.sqnr_db), np.array(list(outcome.sqnr_db.values()))
    panel = Panel(900.0, 320.0, "Signal to noise of each quantized layer, in the network's order", "chart")
    step = nice_step(float(max(values.max(), 10.0)), 6)
    top = step * float(np.ceil(max(values.max(), 10.0) / step))
    low = min(0.0, step * float(np.floor(values.min() / step)))
    axes = Axes(52.0, 14.0, 830.0, 270.0, (0.0, float(max(len(values), 2))), (low, top))
    axes.draw(panel, x_unit="", y_unit="dB", x_most=8, y_most=6)
    width = axes.width / max(len(values), 2)
    floor = float(axes.place(np.array([[0.0, max(low, 0.0)]]))[0, 1])
    for index, (name, value) in enumerate(zip(names, values.tolist(), strict=True)):
        x, y = axes.place(np.array([[float(index), value]]))[0].tolist()
        upper, height = min(y, floor), max(abs(floor - y), 1.0)
        panel.rectangle(x + 0.1 * width, upper, 0.8 * width, height, "error-area", title=f"{name}: {value:.1f} dB")
    worst = sorted(zip(names, values.tolist(), strict=True), key=lambda pair: pair[1])[:8]
    listed = table(["layer", "dB"], [[esc(name), f"{value:.1f}"] for name, value in worst])
    return section(
        "errors",
        "Error of each layer",
        f'<figure class="card"><div class="wide">{panel.html()}</div><figcaption>Signal to quantization noise behind '
        "each quantized convolution, with all before it quantized too, in the network's order: higher is better"
        f"</figcaption></figure><h3>The noisiest</h3><div class=card>{listed}</div>",
    )


def _layer_section(outcome: Outcome) -> str:
    if not outcome.layers:
        return ""
    rows = [
        [
            esc(layer.name),
            f"{-10.0 * np.log10(max(layer.error, 1e-12)):.1f}",
            f"{layer.gain_ms:+.3f}",
            "int8" if layer.name in outcome.chosen.convolutions else "float",
        ]
        for layer in outcome.layers
    ]
    head = ["layer", "outputs' signal to noise if it alone is quantized, dB", "gain ms", "precision"]
    return section("layers", "What each layer would gain and cost", f'<div class="card">{table(head, rows)}</div>')


def _format_section(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    names = list(rows[0]["sqnr_db"])
    cells = [
        [
            esc(row["layer"]),
            f"{row['weights']:,}",
            f"{row['bytes']:,}",
            *(f"{row['sqnr_db'][name]:.1f}" for name in names),
            esc(row["format"]),
        ]
        for row in rows
    ]
    total = sum(row["bytes"] for row in rows)
    head = ["layer", "weights", "bytes", *(f"{name}, dB" for name in names), "chosen"]
    note = f'<p class="quiet">All weights: {total:,} bytes in these formats, the steps included.</p>'
    return section("formats", "Number formats", f'<div class="card">{table(head, cells)}{note}</div>')


def _range_section(outcome: Outcome) -> str:
    if not outcome.chosen.ranges:
        return ""
    rows = [[esc(name), f"{low:.4g}", f"{high:.4g}"] for name, (low, high) in outcome.chosen.ranges.items()]
    body = table(["activation", "from", "to"], rows)
    return section("ranges", "Ranges", f'<details class="card"><summary>{len(rows)} ranges</summary>{body}</details>')


def _command_section(summary: Mapping[str, Any]) -> str:
    command = esc(summary.get("command", ""))
    return section("command", "Made by", f'<div class="card"><p><code class="command">{command}</code></p></div>')
