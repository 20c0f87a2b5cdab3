"""Detections to track, found in files and folders: which sequences there are, in which format, at which rate.

Known are MOTChallenge's text files and folders (a result or detection file, SEQUENCE/det/det.txt with seqinfo.ini,
folders of either) and KITTI's: labels or results, one file for each sequence, and comma separated detections of one
class each in a folder that bears its name (RRC's image boxes, PointRCNN's boxes in space). Any file may be gzipped.
What a file holds is seen from its first lines. Nothing is left out without a word: see `Source` and `Loaded`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from devices.sensors.recorded.reading import files_with, short_name
from tercel.core.errors import UserError, nearest_hint
from tracking.files import (
    KITTI_CLASSES,
    KITTI_RATE_HZ,
    MOT_CLASSES,
    BoxSequence,
    read_det2d_csv,
    read_det3d_csv,
    read_kitti,
    read_kitti_seqmap,
    read_mot,
    read_seqinfo,
)
from tracking.text_files import first_lines

FORMATS = ("mot", "kitti", "kitti2d", "kitti3d")
"""MOTChallenge; KITTI's labels and results; its detections of one class in the image (RRC) and in space (PointRCNN)."""
MAX_RATE_HZ = 10_000.0

_TEXT = (".txt", ".txt.gz", ".csv", ".csv.gz")
_PROBED_LINES = 20
_PROBED_BYTES = 1 << 20
_CLASS_FOLDERS = {name.lower(): name for name in KITTI_CLASSES}
_REGIONS = "DontCare"


@dataclass(frozen=True)
class Source:
    """One sequence: its files with the class that each holds ("" where the lines say it), and what is known of it.

    kind: one of FORMATS. frames: those that the folder says there are, None where it does not. size_px: of the image,
    zeros where unknown.
    """

    name: str
    kind: str
    files: tuple[tuple[str, Path], ...]
    rate_hz: float
    frames: range | None = None
    size_px: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Loaded:
    """The detections of a source. frames: all from the first to the last; notes: what people should know, a line each.

    unreadable: lines that could not be read; left_out: detections by the class that was not asked for.
    """

    source: Source
    boxes: BoxSequence
    frames: range
    unreadable: int
    left_out: dict[str, int]
    notes: list[str]


# --- finding -------------------------------------------------------------------------------------------------------


def find_sources(
    path: Path,
    *,
    kind: str | None = None,
    rate_hz: float | None = None,
    sequences: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> list[Source]:
    """The sequences of a file or folder, by name.

    kind: one of FORMATS, default seen from each file; rate_hz: frames per second, default what the folder says, 10 for
    KITTI; classes: needed to name the class of a kitti2d file that does not lie in a folder of that name.
    Raises UserError if nothing is found, a format or rate cannot be known, or a sequence is not there.
    """
    if kind is not None and kind not in FORMATS:
        raise UserError(f"unknown format {kind!r}; {nearest_hint(kind, FORMATS)}")
    if rate_hz is not None and not 1.0 / MAX_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise UserError(f"--rate-hz {rate_hz:g}: a rate from {1.0 / MAX_RATE_HZ:g} to {MAX_RATE_HZ:g} is wanted")
    if not path.exists():
        raise UserError(f"{path} does not exist")
    found = _in_folder(path) if path.is_dir() else {_sequence_name(path): [("", path)]}
    if not found:
        wanted = "SEQUENCE/det/det.txt (MOTChallenge), SEQUENCE.txt or CLASS/SEQUENCE.txt (KITTI)"
        raise UserError(f"{path} holds no detections; {wanted} is wanted{_elsewhere(path)}")
    if "" in found:
        raise UserError(f"{found[''][0][1]} has no name before its ending, and no name for its tracks; rename it")
    unknown = [name for name in sequences if name not in found]
    if unknown:
        raise UserError(f"{path} has no sequence {unknown[0]!r}; {nearest_hint(unknown[0], found)}")
    chosen = {name: files for name, files in sorted(found.items()) if not sequences or name in sequences}
    kinds = _kinds(path, chosen, kind)
    return [_source(name, files, kinds[name], rate_hz, classes) for name, files in chosen.items()]


def _in_folder(folder: Path) -> dict[str, list[tuple[str, Path]]]:
    """The files of each sequence, in the first of the known layouts that the folder has."""
    children = sorted(child for child in folder.iterdir() if child.is_dir())
    mot = {place.resolve().name: files_with(place / "det", ("det.txt", "det.txt.gz")) for place in (folder, *children)}
    if any(mot.values()):
        return {name: [("", files[0])] for name, files in mot.items() if files}
    found: dict[str, list[tuple[str, Path]]] = {}
    for child in children:
        if child.name.lower() in _CLASS_FOLDERS:
            for file in files_with(child, _TEXT):
                found.setdefault(_stem(file), []).append(("", file))
    flat = [] if found else files_with(folder, _TEXT) or files_with(folder / "data", _TEXT)
    return found or {_stem(file): [("", file)] for file in flat}


def _elsewhere(folder: Path) -> str:
    """The words for folders below that do hold text files, for one that was given a folder too high."""
    below = [child for child in sorted(folder.iterdir()) if child.is_dir()] if folder.is_dir() else []
    names = [child.name for child in below if _in_folder(child)]
    return f"; did you mean {' or '.join(names[:4])} in it?" if names else ""


def _sequence_name(file: Path) -> str:
    """A file's own name, or that of the sequence whose detections or truth it is."""
    file = file.resolve()
    return file.parents[1].name if _is_part(file) else _stem(file)


def _is_part(file: Path) -> bool:
    """Whether the file is the det/det.txt or gt/gt.txt of a sequence's folder."""
    return file.parent.name in ("det", "gt") and _stem(file) == file.parent.name


def _kinds(path: Path, found: dict[str, list[tuple[str, Path]]], kind: str | None) -> dict[str, str]:
    """The format of each sequence; an empty file has that of the others."""
    if kind is not None:
        return dict.fromkeys(found, kind)
    try:
        seen = {name: next((k for _, file in files if (k := _probe(file))), None) for name, files in found.items()}
    except UserError as error:
        raise UserError(f"{error}{_elsewhere(path)}") from None
    known = sorted({k for k in seen.values() if k is not None})
    if not known:
        raise UserError(f"{path} holds not one detection; say its --format to have it tracked all the same")
    if len(known) > 1:
        raise UserError(f"{path} mixes the formats {' and '.join(known)}; give one folder for each")
    return dict.fromkeys(seen, known[0])


def _probe(file: Path) -> str | None:
    """What the first lines look like, None for an empty file. Raises UserError if they look like nothing known."""
    stripped = (line.strip() for line in first_lines(file, _PROBED_BYTES))
    lines = list(islice((line for line in stripped if line and not line.startswith("#")), _PROBED_LINES))
    if not lines:
        return None
    kinds = [kind for line in lines if (kind := _kind_of(line.replace(",", " ").split()))]
    if not kinds:
        raise UserError(f"{file}: {lines[0][:40]!r} is no detection in a format known here ({', '.join(FORMATS)})")
    # Six columns are a box with an id, which is whole, or a box with a score, where the left edge can be anything.
    of_one_class = file.resolve().parent.name.lower() in _CLASS_FOLDERS
    six_columns = kinds[0] in ("mot6", "kitti2d")
    if six_columns:
        return "kitti2d" if of_one_class or "kitti2d" in kinds else "mot"
    return kinds[0]


def _kind_of(words: list[str]) -> str | None:
    """The format of a line by its number of columns and by which of them are numbers; "mot6" may be kitti2d."""
    numbers = [_is_number(word) for word in words]
    if len(words) >= 17 and numbers[:3] == [True, True, False]:
        return "kitti"
    if not all(numbers):
        return None
    if len(words) == 6:
        return "mot6" if float(words[1]).is_integer() else "kitti2d"
    return "kitti3d" if len(words) == 15 else "mot" if 7 <= len(words) <= 10 else None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _source(
    name: str, files: list[tuple[str, Path]], kind: str, rate_hz: float | None, classes: Sequence[str]
) -> Source:
    if kind == "mot":
        return _mot_source(name, files[0][1], rate_hz)
    if kind == "kitti2d":
        files = [(_class_of(file, classes), file) for _, file in files]
    frames = _kitti_frames(name, files[0][1])
    return Source(name, kind, tuple(files), rate_hz or KITTI_RATE_HZ, frames)


def _mot_source(name: str, file: Path, rate_hz: float | None) -> Source:
    folder = file.resolve().parents[1] if _is_part(file.resolve()) else file.parent
    ini = folder / "seqinfo.ini"
    if ini.is_file():
        info = read_seqinfo(ini)
        frames, size_px = range(1, info.length + 1), (info.width_px, info.height_px)
        return Source(name, "mot", (("", file),), rate_hz or info.rate_hz, frames, size_px)
    if rate_hz is None:
        raise UserError(f"{short_name(file)} has no seqinfo.ini that tells its frame rate; say --rate-hz")
    return Source(name, "mot", (("", file),), rate_hz)


def _class_of(file: Path, classes: Sequence[str]) -> str:
    """The class of a file without one: its folder's name, or the only one asked for."""
    folder = file.resolve().parent.name.lower()
    if folder in _CLASS_FOLDERS:
        return _CLASS_FOLDERS[folder]
    if len(classes) == 1 and classes[0].lower() in _CLASS_FOLDERS:
        return _CLASS_FOLDERS[classes[0].lower()]
    raise UserError(
        f"{short_name(file)} does not say of which class it is; put it in a folder Car or say --classes Car"
    )


def _kitti_frames(name: str, file: Path) -> range | None:
    """What an evaluate_tracking.seqmap in one of the folders above says of the sequence."""
    for folder in file.resolve().parents[:3]:
        for path in sorted(folder.glob("*.seqmap*")):
            frames = read_kitti_seqmap(path)
            if name in frames:
                return frames[name]
    return None


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return name.removesuffix(".txt").removesuffix(".csv")


# --- reading -------------------------------------------------------------------------------------------------------


def check_classes(sources: Sequence[Source], classes: Sequence[str]) -> None:
    """Raises UserError for a class that the format does not know."""
    known = {name for source in sources for name in (MOT_CLASSES if source.kind == "mot" else KITTI_CLASSES)}
    for name in classes:
        if name.lower() not in {other.lower() for other in known}:
            raise UserError(f"unknown class {name!r}; {nearest_hint(name, known)}")


def load(source: Source, classes: Sequence[str], problems: list[str]) -> Loaded:
    """Read a source and keep the classes asked for, all if none are; KITTI's DontCare regions are none.

    Lines that cannot be read are appended to problems. Raises UserError if no line of a file can be read.
    """
    # Detections that are not finite are no lines that cannot be read: the tracker rejects them by that name.
    boxes = _merged([_read(source.kind, file, class_name, problems) for class_name, file in source.files])
    wanted = {name.lower() for name in classes}
    names = np.array([not wanted or name.lower() in wanted for name in boxes.class_names], dtype=bool)
    names &= np.array([name != _REGIONS for name in boxes.class_names], dtype=bool)
    chosen = names[boxes.labels]
    left_out = Counter(np.array(boxes.class_names)[boxes.labels[~chosen]].tolist())
    notes: list[str] = []
    frames = _frames(source, boxes, notes)
    return Loaded(source, boxes.take(chosen), frames, boxes.skipped_lines, dict(sorted(left_out.items())), notes)


def _read(kind: str, file: Path, class_name: str, problems: list[str]) -> BoxSequence:
    if kind == "mot":
        return read_mot(file, problems, finite=False)
    if kind == "kitti2d":
        return read_det2d_csv(file, problems, class_name, finite=False)
    read = read_kitti if kind == "kitti" else read_det3d_csv
    return read(file, problems, finite=False)


def _merged(parts: Sequence[BoxSequence]) -> BoxSequence:
    """Boxes of the same classes in one sequence; those of a frame in the order of the parts."""
    names = [field.name for field in fields(BoxSequence) if isinstance(getattr(parts[0], field.name), np.ndarray)]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    order = np.argsort(columns["frames"], kind="stable")
    in_order: dict[str, Any] = {name: column[order] for name, column in columns.items()}
    return replace(parts[0], **in_order, skipped_lines=sum(part.skipped_lines for part in parts))


def _frames(source: Source, boxes: BoxSequence, notes: list[str]) -> range:
    """All frames: those that the folder says there are, and those that have boxes."""
    first = 1 if source.kind == "mot" else 0
    said = source.frames if source.frames is not None else range(first, first)
    if not len(boxes):
        return said
    low, high = int(boxes.frames[0]), int(boxes.frames[-1]) + 1
    if source.frames is None:
        notes.append(
            f"{source.name}: nothing tells its length; its frames are taken to end with its boxes, at {high - 1}"
        )
    elif high > said.stop:
        notes.append(f"{source.name}: boxes up to frame {high - 1}, after the end of the sequence at {said.stop - 1}")
    if low < first:
        notes.append(f"{source.name}: frames count from {low}, not from {first}; kept as they are")
    return range(min(low, said.start), max(high, said.stop))
