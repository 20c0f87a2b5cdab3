"""The page of `tercel detect`: the images with their boxes, in one HTML file that needs nothing but itself."""

from __future__ import annotations

from pathlib import Path

from tercel.report.box_pictures import box_panel
from tercel.report.detect_run import DetectRun, Seen
from tercel.report.drawing import esc
from tercel.report.page import document, section
from tercel.report.tables import table

_ASSETS = ("page.css", "detection.css", "page.js")
_MAX_LISTED = 500


def write_detect_report(path: Path, run: DetectRun) -> None:
    """Write the page of a run. Raises OSError if the file cannot be written."""
    summary = run.summary()
    shown = [seen for seen in run.seen if seen.jpeg is not None]
    ms = summary["latency_ms_p50"]
    tiles = [
        (f"{summary['images']:,}", "images", ""),
        (f"{summary['boxes']:,}", "boxes", ""),
        ("–" if ms is None else f"{ms:.1f} ms", "an image (median)", ""),
    ]
    if run.skipped:
        tiles.append((f"{len(run.skipped):,}", "images skipped", "bad"))
    classes = table(("Class", "Boxes"), [(esc(name), f"{n:,}") for name, n in summary["classes"].items()])
    skipped = table(("Image", "Why"), [(esc(name), esc(why)) for name, why in run.skipped[:_MAX_LISTED]])
    more = f'<p class="quiet">The first {len(shown)} of {len(run.seen)} images; OUT/images has them all.</p>'
    sections = [
        section(
            "pictures",
            "Images",
            f"{more if len(shown) < len(run.seen) else ''}<div class=pictures>{''.join(map(_figure, shown))}</div>",
        ),
        section("classes", "Boxes of each class", f"<div class=card>{classes}</div>") if summary["classes"] else "",
        section("skipped", "Images that could not be used", f"<div class=card>{skipped}</div>") if run.skipped else "",
    ]
    boxes, images = summary["boxes"], summary["images"]
    page = document(
        kind="detections",
        name=run.model_name,
        facts=[f"score at least {run.options.score:g}", esc(run.options.command)],
        verdict=f"{boxes:,} boxes in {images:,} images." if images else "No image could be read.",
        tiles=tiles,
        sections=sections,
        data={},
        version=summary["tercel"],
        assets=_ASSETS,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")


def _figure(seen: Seen) -> str:
    count = len(seen.found.labels)
    words = f"{seen.name}: {count} box{'' if count == 1 else 'es'}"
    panel = box_panel(seen.jpeg or b"", seen.size_px, seen.found, words)
    return f"<figure class=card>{panel}<figcaption>{esc(words)}</figcaption></figure>"
