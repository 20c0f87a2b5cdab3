"""Folders of sequences: truth and tracks found, read, compared and scored, every sequence and class.

Truth: MOTChallenge's SEQUENCE/gt/gt.txt with SEQUENCE/seqinfo.ini, or KITTI's label_02/SEQUENCE.txt with an
evaluate_tracking.seqmap beside label_02. Tracks: SEQUENCE.txt in the folder or in its subfolder data. Any text file may
be gzipped. Nothing is left out without a word: see Folders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from devices.sensors.recorded.reading import files_with, require_folder, short_name
from tercel.core.errors import UserError, nearest_hint
from tracking.evaluation import kitti3d
from tracking.evaluation.kitti3d import Kitti3dScores
from tracking.evaluation.preprocessing import KITTI_DISTRACTORS, MOT_BENCHMARKS, kitti_overlaps, mot_overlaps
from tracking.evaluation.scores import Scores, score
from tracking.files import MOT_CLASSES, BoxSequence, read_kitti, read_kitti_seqmap, read_mot, read_seqinfo

FORMATS = (*MOT_BENCHMARKS, "kitti")

MAX_FRAMES = 10_000_000
"""The longest sequence that is scored: four days at 30 Hz."""

_TEXT = (".txt", ".txt.gz")


@dataclass(frozen=True)
class TruthFolder:
    """The truth file of each sequence, by name, and its frames where the folder tells them. kind: mot or kitti."""

    kind: str
    files: dict[str, Path]
    frames: dict[str, range]


@dataclass(frozen=True, eq=False)
class Folders:
    """Truth and tracks of all sequences, by name; a sequence without a tracks file has no boxes.

    frames: all frames of each sequence. without_tracks: sequences that have truth but no tracks file; without_truth:
    tracks files that were not read; skipped_lines: lines that could not be read, by file; notes: what else people
    should know, one line each.
    """

    format: str
    truth: dict[str, BoxSequence]
    tracks: dict[str, BoxSequence]
    frames: dict[str, range]
    without_tracks: list[str]
    without_truth: list[str]
    skipped_lines: dict[str, int]
    notes: list[str]

    def summary(self) -> dict[str, Any]:
        """What was left out, for a JSON file."""
        return {name: getattr(self, name) for name in ("format", "without_tracks", "without_truth", "skipped_lines")}


@dataclass(frozen=True, eq=False)
class FolderScores:
    """What was compared, and for each class the scores of each sequence. notes: the folders' and what was left out."""

    folders: Folders
    classes: dict[str, dict[str, Scores]]
    notes: list[str]

    def combined(self, class_name: str) -> Scores:
        """All sequences of a class together, weighted by their boxes as TrackEval does it."""
        return reduce(add, self.classes[class_name].values(), Scores())

    def summary(self) -> dict[str, Any]:
        """For a JSON file."""
        classes = {}
        for name, sequences in self.classes.items():
            combined = self.combined(name)
            classes[name] = {
                "combined": combined.summary(),
                "sequences": {sequence: scores.summary() for sequence, scores in sequences.items()},
                "by_threshold": combined.curves(),
            }
        return self.folders.summary() | {"notes": self.notes, "classes": classes}


@dataclass(frozen=True, eq=False)
class FolderScores3d:
    """What was compared, and each class's scores in space, of all sequences together. notes as in FolderScores."""

    folders: Folders
    classes: dict[str, Kitti3dScores]
    min_iou: float
    notes: list[str]

    def summary(self) -> dict[str, Any]:
        """For a JSON file."""
        classes = {name: {"combined": scores.summary()} for name, scores in self.classes.items()}
        return self.folders.summary() | {"min_iou": self.min_iou, "notes": self.notes, "classes": classes}


def read_folders(
    truth_folder: Path,
    tracks_folder: Path,
    *,
    format_name: str | None = None,
    sequences: Sequence[str] = (),
    problems: list[str],
) -> Folders:
    """Find and read truth and tracks. Lines that cannot be read are appended to problems.

    format_name: one of FORMATS, default what the truth looks like; sequences: default all with truth. Raises UserError
    if there is nothing to compare, or a name is unknown.
    """
    truth_files, track_files = find_truth(truth_folder, sequences), find_tracks(tracks_folder)
    names = list(truth_files.files)
    if not set(names) & set(track_files):
        found = ", ".join(list(track_files)[:3]) or "no .txt file"
        raise UserError(
            f"{tracks_folder} has no tracks of {names[0]} or the others, but {found}; {names[0]}.txt wanted"
        )
    read = read_mot if truth_files.kind == "mot" else read_kitti
    truth = {name: read(path, problems) for name, path in truth_files.files.items()}
    given = {name: read(track_files[name], problems) for name in names if name in track_files}
    notes: list[str] = []
    frames = {
        name: truth_files.frames.get(name) or _frames(name, boxes, truth_files.kind, notes)
        for name, boxes in truth.items()
    }
    too_long = next((name for name in names if len(frames[name]) > MAX_FRAMES), None)
    if too_long is not None:
        raise UserError(f"{too_long} is said to have {len(frames[too_long])} frames; at most {MAX_FRAMES} are scored")
    return Folders(
        format=_format(truth_files.kind, format_name, truth),
        truth=truth,
        tracks={name: given.get(name, boxes.take(boxes.frames < 0)) for name, boxes in truth.items()},
        frames=frames,
        without_tracks=[name for name in names if name not in given],
        without_truth=[name for name in track_files if name not in given],
        skipped_lines={
            short_name(files[name]): boxes.skipped_lines
            for files, read_boxes in ((truth_files.files, truth), (track_files, given))
            for name, boxes in read_boxes.items()
            if boxes.skipped_lines
        },
        notes=notes,
    )


def evaluate_folders(
    folders: Folders, *, classes: Sequence[str] = (), progress: Callable[[float], None] = lambda _: None
) -> FolderScores:
    """Score every sequence and class by image boxes. classes: default those that the tracks have. Raises UserError."""
    chosen, left_out = choose_classes(folders, classes)
    scores: dict[str, dict[str, Scores]] = {class_name: {} for class_name in chosen}
    for done, name in enumerate(folders.truth):
        progress(done / len(folders.truth))
        for class_name, of_class in scores.items():
            of_class[name] = _scored(folders, name, class_name)
    return FolderScores(folders, scores, [*folders.notes, *left_out])


def evaluate_folders_3d(
    folders: Folders,
    *,
    classes: Sequence[str] = (),
    min_iou: float = 0.25,
    progress: Callable[[float], None] = lambda _: None,
) -> FolderScores3d:
    """Score every class by KITTI's boxes in space, of which at least min_iou overlaps.

    Raises UserError if the truth is not KITTI's, or min_iou not above 0 and up to 1.
    """
    if folders.format != "kitti":
        raise UserError(f"boxes in space are evaluated for KITTI's tracking labels, not for {folders.format}")
    check_min_iou(min_iou)
    chosen, left_out = choose_classes(folders, classes)
    scores = {}
    for done, name in enumerate(chosen):
        progress(done / len(chosen))
        scores[name] = kitti3d.evaluate(folders.truth, folders.tracks, class_name=name, min_iou=min_iou)
    return FolderScores3d(folders, scores, min_iou, [*folders.notes, *left_out])


def check_min_iou(min_iou: float) -> None:
    """Raises UserError for a least overlap that is none."""
    if not 0.0 < min_iou <= 1.0:
        raise UserError(f"min_iou is {min_iou:g}; give an overlap above 0 and up to 1, published are 0.25, 0.5 and 0.7")


def choose_classes(folders: Folders, wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """The classes to score, those wanted or else those that the tracks have, and in words what is left out.

    Raises UserError if a class is not one that the format evaluates.
    """
    known = list(KITTI_DISTRACTORS) if folders.format == "kitti" else [MOT_CLASSES[0]]
    unknown = [name for name in wanted if name.lower() not in known]
    if unknown:
        what = f"class {unknown[0]!r} is not evaluated in {folders.format}"
        raise UserError(f"{what}; {nearest_hint(unknown[0].lower(), known)}")
    counts: Counter[str] = Counter()
    no_id = 0
    for boxes in folders.tracks.values():
        no_id += int((boxes.ids < 0).sum())
        for label, count in zip(*np.unique(boxes.labels, return_counts=True), strict=True):
            counts[boxes.class_names[label].lower()] += int(count)
    chosen = [name.lower() for name in wanted] or [name for name in known if name in counts] or known[:1]
    others = sorted(set(counts) - set(chosen))
    left_out = [f"{counts[name]} track boxes of class {name} are not scored" for name in others]
    return chosen, left_out + ([f"{no_id} track boxes without an id are not scored"] if no_id else [])


def find_truth(folder: Path, sequences: Sequence[str] = ()) -> TruthFolder:
    """The truth files of a folder in MOTChallenge's or KITTI's layout, of these sequences or all.

    Raises UserError if there are none, or one of the sequences is not there.
    """
    require_folder(folder)
    mot = _mot_files(folder)
    labels = folder / "label_02" if (folder / "label_02").is_dir() else folder
    files = mot or {_stem(path): path for path in files_with(labels, _TEXT)}
    if not files:
        raise UserError(
            f"{folder} holds no truth; SEQUENCE/gt/gt.txt (MOTChallenge) or label_02/SEQUENCE.txt is wanted"
        )
    unknown = [name for name in sequences if name not in files]
    if unknown:
        raise UserError(f"{folder} has no sequence {unknown[0]!r}; {nearest_hint(unknown[0], files)}")
    files = {name: path for name, path in files.items() if not sequences or name in sequences}
    frames: dict[str, range] = {}
    if mot:
        infos = {name: path.parents[1] / "seqinfo.ini" for name, path in files.items()}
        frames = {name: range(1, read_seqinfo(i).length + 1) for name, i in infos.items() if i.is_file()}
    else:
        for path in sorted([*folder.glob("*.seqmap*"), *labels.parent.glob("*.seqmap*")]):
            frames |= read_kitti_seqmap(path)
    return TruthFolder("mot" if mot else "kitti", files, {name: frames[name] for name in files if name in frames})


def find_tracks(folder: Path) -> dict[str, Path]:
    """The text files of a folder, or of its subfolder data, by sequence. Raises UserError if it is no folder."""
    require_folder(folder)
    found = files_with(folder, _TEXT) or files_with(folder / "data", _TEXT)
    return {_stem(path): path for path in found}


def _scored(folders: Folders, name: str, class_name: str) -> Scores:
    truth, tracks, frames = folders.truth[name], folders.tracks[name], folders.frames[name]
    try:
        if folders.format == "kitti":
            return score(kitti_overlaps(truth, tracks, frames, class_name))
        return score(mot_overlaps(truth, tracks, frames, folders.format))
    except UserError as error:
        raise UserError(f"sequence {name}: {error}") from None


def _format(kind: str, wanted: str | None, truth: dict[str, BoxSequence]) -> str:
    """The format that was asked for, else what the truth looks like: mot15 has no classes, KITTI is KITTI."""
    if wanted is not None and wanted not in FORMATS:
        raise UserError(f"unknown format {wanted!r}; {nearest_hint(wanted, FORMATS)}")
    if wanted is not None and (wanted == "kitti") != (kind == "kitti"):
        raise UserError(f"the format is given as {wanted}, but the truth lies in {kind}'s layout; leave the format out")
    if kind == "kitti" or wanted is not None:
        return wanted or kind
    if all(len(boxes.class_names) == 1 for boxes in truth.values()):
        return "mot15"
    return "mot20" if all(name.upper().startswith("MOT20") for name in truth) else "mot17"


def _frames(name: str, truth: BoxSequence, kind: str, notes: list[str]) -> range:
    """The frames of a sequence whose folder does not tell them: up to the last one with truth."""
    last = int(truth.frames.max(initial=0))
    missing = "seqinfo.ini" if kind == "mot" else "evaluate_tracking.seqmap line"
    notes.append(f"{name} has no {missing}; its frames are taken to end with its truth, at {last}")
    return range(1 if kind == "mot" else 0, last + 1)


def _mot_files(folder: Path) -> dict[str, Path]:
    """gt/gt.txt of the folder itself, or of each of its subfolders."""
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    candidates = {place.resolve().name: files_with(place / "gt", ("gt.txt", "gt.txt.gz")) for place in places}
    return {name: found[0] for name, found in candidates.items() if found}


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz").removesuffix(".txt")
    if not name:
        raise UserError(f"{path} has no name before its ending, and so none of a sequence; rename it")
    return name
