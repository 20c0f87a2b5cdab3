"""Scores of tracks as text: one table for each class, one row for each sequence, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping

from tercel.terminal import printable
from tracking.evaluation.folders import FolderScores, FolderScores3d
from tracking.evaluation.scores import Scores

_PERCENT = ("HOTA", "DetA", "AssA", "LocA", "MOTA", "MOTP", "IDF1", "IDR", "IDP")
_COUNTS = {
    "IDSW": "IDSW", "Frag": "Frag", "CLR_FP": "FP", "CLR_FN": "FN", "MT": "MT", "PT": "PT", "ML": "ML",
    "GT_Dets": "truths", "Dets": "tracks", "GT_IDs": "objects", "IDs": "ids",
}  # fmt: skip
_NAME_WIDTH = 16


def text_report(scores: FolderScores | FolderScores3d) -> str:
    """Tables, and below them sequences that were missing and other notes."""
    folders = scores.folders
    tables = (
        [table_3d(scores)]
        if isinstance(scores, FolderScores3d)
        else [
            f"{folders.format} {name}\n{score_table({**sequences, 'COMBINED': scores.combined(name)})}\n"
            for name, sequences in scores.classes.items()
        ]
    )
    lines = [f"no tracks, all truth missed: {', '.join(folders.without_tracks)}"] if folders.without_tracks else []
    if folders.without_truth:
        lines.append(f"tracks without truth, not scored: {', '.join(folders.without_truth)}")
    if folders.skipped_lines:
        count = sum(folders.skipped_lines.values())
        lines.append(f"{count} lines could not be read, in {len(folders.skipped_lines)} files")
    return "\n".join([*tables, *map(printable, [*lines, *scores.notes])]).rstrip()


def score_table(rows: Mapping[str, Scores]) -> str:
    """One line for each name; ratios in percent."""
    rows = {printable(name): scores for name, scores in rows.items()}
    width = max([_NAME_WIDTH, *(len(name) for name in rows)])
    head = f"{'':{width}} " + " ".join(f"{name:>7}" for name in (*_PERCENT, *_COUNTS.values()))
    return "\n".join([head, *(_row(f"{name:{width}}", scores) for name, scores in rows.items())])


def _row(name: str, scores: Scores) -> str:
    values = scores.summary()
    percent = [f"{100 * values[key]:7.3f}" for key in _PERCENT]
    return " ".join([name, *percent, *(f"{values[key]:7d}" for key in _COUNTS)])


def table_3d(scores: FolderScores3d) -> str:
    """One line for each class; ratios in percent, counts and the score threshold at the best MOTA."""
    rows = {name: of_class.summary() for name, of_class in scores.classes.items()}
    names = list(next(iter(rows.values())))
    lines = [f"kitti 3d, IoU {scores.min_iou:g}", f"{'':{_NAME_WIDTH}} " + " ".join(f"{name:>9}" for name in names)]
    for class_name, values in rows.items():
        cells = (
            f"{values[n]:9d}" if isinstance(values[n], int)
            else f"{values[n] if n == 'threshold' else 100 * values[n]:9.3f}"
            for n in names
        )  # fmt: skip
        lines.append(f"{class_name:{_NAME_WIDTH}} " + " ".join(cells))
    return "\n".join([*lines, ""])
