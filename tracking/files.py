"""Files of boxes over time, as arrays: MOTChallenge and KITTI tracking, read and written.

MOTChallenge (motchallenge.net): frame, id, x, y, width, height, score or flag, then -1s or a world position, or, in
files of nine columns (MOT16 and later truth), class and visibility. Frames count from 1, ids of detections are -1.
KITTI tracking (the devkit's readme): frame, id, class, truncated, occluded, alpha, x1 y1 x2 y2, h w l, x y z, ry and
in results a score; frames count from 0. Two comma separated detection files go with it: frame, x1 y1 x2 y2, score
(RRC) and frame, type, x1 y1 x2 y2, score, h w l, x y z, ry, alpha (PointRCNN).

Any file may be gzipped. A line that cannot be read is skipped, counted and said in the caller's `problems`; a file of
which no line can be read is a UserError, and so is an id that occurs twice in a frame. Of detections, finite=False
keeps the lines with a number that is not finite, the score NaN whichever it is, so that every tracker rejects them by
that name.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterator, Sequence
from configparser import ConfigParser, Error
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.kitti_labels import CLASS_NAMES
from devices.sensors.recorded.reading import MAX_VALUE, note, short_name
from tercel.core.errors import UserError
from tercel.core.messages import Detections2D, Tracks2D
from tracking.text_files import read_lines

Array = NDArray[Any]

KITTI_CLASSES = (*CLASS_NAMES, "DontCare")
KITTI_RATE_HZ = 10.0
MOT_CLASSES = (
    "pedestrian", "person_on_vehicle", "car", "bicycle", "motorbike", "non_mot_vehicle", "static_person", "distractor",
    "occluder", "occluder_on_ground", "occluder_full", "reflection", "crowd",
)  # fmt: skip

_UNKNOWN_2D = (-1.0, -1.0, -10.0)  # KITTI's words for: truncated, occluded and alpha are not known
_UNKNOWN_3D = (-1.0, -1.0, -1.0, -1000.0, -1000.0, -1000.0, -10.0)
_DETECTOR_TYPES = {1: "Pedestrian", 2: "Car", 3: "Cyclist"}


@dataclass(frozen=True, eq=False)
class BoxSequence:
    """Boxes of one sequence, N rows in the order of their frames.

    frames (N,) int64; ids (N,) int64, -1 for detections and regions; boxes_xyxy_px (N, 4) float64; scores (N,) float64
    (1 where the file has none; in MOTChallenge truth 0 marks what is not evaluated); labels (N,) int32, indices into
    class_names. Of KITTI files also boxes_3d (N, 7) float64: height, width, length (m), bottom centre x y z (m) in the
    rectified camera (x right, y down, z forward), and turn ry about y (rad); alphas_rad, truncated, occluded (N,)
    float64; None where the file has none of them.
    """

    frames: Array
    ids: Array
    boxes_xyxy_px: Array
    scores: Array
    labels: Array
    class_names: tuple[str, ...]
    boxes_3d: Array | None = None
    alphas_rad: Array | None = None
    truncated: Array | None = None
    occluded: Array | None = None
    skipped_lines: int = 0

    def __post_init__(self) -> None:
        count = len(self.frames)
        shapes = {name: np.shape(getattr(self, name)) for name in _ROW_FIELDS if getattr(self, name) is not None}
        wanted = {name: (count, *_ROW_FIELDS[name]) for name in shapes}
        if shapes != wanted:
            raise ValueError(f"shapes {shapes} do not fit together")
        if (np.diff(self.frames) < 0).any():
            raise ValueError("the rows are not in the order of their frames")

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, rows: Array) -> BoxSequence:
        """The rows of a mask or an index array."""
        chosen = {name: getattr(self, name)[rows] for name in _ROW_FIELDS if getattr(self, name) is not None}
        return replace(self, **chosen)

    def of_classes(self, *names: str) -> BoxSequence:
        """The rows of these classes; upper and lower case are the same."""
        wanted = {name.lower() for name in names}
        return self.take(np.isin(self.labels, [i for i, name in enumerate(self.class_names) if name.lower() in wanted]))

    def rows_of(self, frames: Sequence[int]) -> list[Array]:
        """Row indices of each of these frames; frames without a box have none."""
        starts = np.searchsorted(self.frames, frames, side="left")
        ends = np.searchsorted(self.frames, frames, side="right")
        return [np.arange(start, end) for start, end in zip(starts, ends, strict=True)]


_ROW_FIELDS: dict[str, tuple[int, ...]] = {
    "frames": (), "ids": (), "boxes_xyxy_px": (4,), "scores": (), "labels": (), "boxes_3d": (7,), "alphas_rad": (),
    "truncated": (), "occluded": (),
}  # fmt: skip


@dataclass(frozen=True)
class SequenceInfo:
    """What a MOTChallenge seqinfo.ini says. Frames count from 1 to length; sizes are 0 where unknown."""

    name: str
    rate_hz: float
    length: int
    width_px: int = 0
    height_px: int = 0


# --- reading -------------------------------------------------------------------------------------------------------


def read_seqinfo(path: Path) -> SequenceInfo:
    """A seqinfo.ini. Raises UserError if it cannot be read, or the rate or the length is missing or not positive."""
    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string("\n".join(read_lines(path, [])))
        section = parser["Sequence"]
        info = SequenceInfo(
            name=section.get("name", path.parent.name),
            rate_hz=float(section["frameRate"]),
            length=int(section["seqLength"]),
            width_px=int(section.get("imWidth", "0")),
            height_px=int(section.get("imHeight", "0")),
        )
    except (Error, KeyError, ValueError) as error:
        what = str(error).splitlines()[0]
        raise UserError(f"{path}: {what}; [Sequence] with frameRate=HZ and seqLength=FRAMES is wanted") from None
    if not (0 < info.rate_hz < math.inf and 0 < info.length < 1 << 31):
        raise UserError(f"{path}: frameRate {info.rate_hz:g} and seqLength {info.length} must be positive")
    return info


def read_kitti_seqmap(path: Path) -> dict[str, range]:
    """The frames of each sequence of an evaluate_tracking.seqmap: name, "empty", first frame, end. Raises UserError."""
    frames: dict[str, range] = {}
    for number, line in enumerate(read_lines(path, []), 1):
        words = line.split()
        if words:
            try:
                frames[words[0]] = range(int(words[2]), int(words[3]))
            except (IndexError, ValueError):
                raise UserError(f"{path}: line {number}: NAME empty FIRST END is wanted, not {line[:60]!r}") from None
    return frames


def read_mot(path: Path, problems: list[str], *, finite: bool = True) -> BoxSequence:
    """A MOTChallenge det.txt, gt.txt or result file. class_names has one entry unless the file has classes.

    Raises UserError if no line can be read or an id occurs twice in a frame.
    """
    rows, skipped = _rows(path, problems, _mot_row, "frame,id,x,y,width,height,score", finite)
    values = _table(rows, 8, score=6)
    has_classes = bool((values[:, 7] > 0).any())
    x1y1, sizes = values[:, 2:4], values[:, 4:6]
    return _sequence(
        path,
        values,
        boxes_xyxy_px=np.hstack([x1y1, x1y1 + sizes]),
        scores=values[:, 6],
        labels=np.maximum(values[:, 7] - 1, 0).astype(np.int32),
        class_names=MOT_CLASSES if has_classes else MOT_CLASSES[:1],
        skipped_lines=skipped,
    )


def read_kitti(path: Path, problems: list[str], *, finite: bool = True) -> BoxSequence:
    """A KITTI tracking label_02 or result file, DontCare regions (id -1) included.

    Raises UserError if no line can be read or an id occurs twice in a class of a frame.
    """
    wanted = "frame id class truncated occluded alpha x1 y1 x2 y2 h w l x y z ry [score]"
    rows, skipped = _rows(path, problems, _kitti_row, wanted, finite)
    values = _table(rows, 18, score=17)
    return _kitti_sequence(path, values, skipped)


def read_det2d_csv(path: Path, problems: list[str], class_name: str, *, finite: bool = True) -> BoxSequence:
    """Detections of one class, frame,x1,y1,x2,y2,score (RRC's). class_name: one of KITTI_CLASSES. Raises UserError."""
    label = float(KITTI_CLASSES.index(class_name))

    def parse(words: list[str]) -> list[float]:
        frame, *box, score = _floats(words, 6, most=6)
        return [frame, -1.0, label, *_UNKNOWN_2D, *box, *_UNKNOWN_3D, score]

    rows, skipped = _rows(path, problems, parse, "frame,x1,y1,x2,y2,score", finite)
    return _kitti_sequence(path, _table(rows, 18, score=17), skipped)


def read_det3d_csv(path: Path, problems: list[str], *, finite: bool = True) -> BoxSequence:
    """Detections frame,type,x1,y1,x2,y2,score,h,w,l,x,y,z,ry,alpha (PointRCNN's). Raises UserError."""
    wanted = "frame,type,x1,y1,x2,y2,score,h,w,l,x,y,z,ry,alpha"
    rows, skipped = _rows(path, problems, _det3d_row, wanted, finite)
    return _kitti_sequence(path, _table(rows, 18, score=17), skipped)


def _mot_row(words: list[str]) -> list[float]:
    """frame id x y w h score class; class is 0 where the file has none."""
    values = _floats(words, 6)
    if any(map(math.isnan, values[7:])):
        raise ValueError("a value is not finite")
    score = values[6] if len(values) > 6 else 1.0
    # Nine columns end in class and visibility; seven and ten have no class (ten: a world position or -1s).
    label = values[7] if len(values) == 9 else 0.0
    if label > len(MOT_CLASSES) or label != int(label):
        raise ValueError(f"unknown class {label:g}")
    return [*values[:6], score, max(label, 0.0)]


def _kitti_row(words: list[str]) -> list[float]:
    """The columns of a label row, the class as its index and the score 1 where there is none."""
    if len(words) < 17:
        raise ValueError(f"{len(words)} columns, not 17 or 18")
    label = _KITTI_LABEL_OF.get(words[2].lower())
    if label is None:
        raise ValueError(f"unknown class {words[2][:20]!r}")
    values = _floats([*words[:2], *words[3:18]], 16)
    return [*values[:2], float(label), *values[2:], *([1.0] if len(values) == 16 else [])]


def _det3d_row(words: list[str]) -> list[float]:
    frame, kind, *box_and_score = _floats(words, 15, most=15)
    box, score, box_3d, alpha = box_and_score[:4], box_and_score[4], box_and_score[5:12], box_and_score[12]
    if kind not in _DETECTOR_TYPES:
        raise ValueError(f"unknown type {kind:g}")
    label = float(KITTI_CLASSES.index(_DETECTOR_TYPES[int(kind)]))
    return [frame, -1.0, label, *_UNKNOWN_2D[:2], alpha, *box, *box_3d, score]


_KITTI_LABEL_OF = {name.lower(): label for label, name in enumerate(KITTI_CLASSES)}


def _floats(words: list[str], least: int, most: int | None = None) -> list[float]:
    """All words as numbers, NaN where one is not finite. Raises ValueError for too few, too many or no numbers."""
    if len(words) < least or (most is not None and len(words) > most):
        raise ValueError(f"{len(words)} columns, not {least}")
    values = [float(word) for word in words]
    return [value if abs(value) < MAX_VALUE else math.nan for value in values]


def _rows(
    path: Path, problems: list[str], parse: Callable[[list[str]], list[float]], wanted: str, finite: bool
) -> tuple[list[list[float]], int]:
    """The parsed lines, and how many were skipped. parse gets a line's words and raises ValueError."""
    rows, skipped = [], 0
    for number, line in enumerate(read_lines(path, problems), 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            row = parse(words)
            # NaN, which is equal to nothing, is no frame and no id either.
            whole = row[0] == row[0] // 1 and row[1] == row[1] // 1
            if not (whole and 0 <= row[0] < 1 << 31 and abs(row[1]) < 1 << 53):
                raise ValueError("the frame or the id is not a whole number in range")
            if finite and any(map(math.isnan, row)):
                raise ValueError("a value is not finite")
            rows.append(row)
        except ValueError as error:
            skipped += 1
            note(problems, f"{short_name(path)}: line {number}: {error}; skipped")
    if skipped and not rows:
        raise UserError(f"{path}: not one line could be read ({problems[-1].split(': ', 1)[-1]}); {wanted} is wanted")
    return rows, skipped


def _table(rows: list[list[float]], columns: int, score: int) -> Array:
    """The rows as one array, by frame; within a frame in the file's order. One with a NaN has it for its score."""
    values = np.array(rows, dtype=np.float64) if rows else np.zeros((0, columns))
    if values.shape[1:] != (columns,):
        raise ValueError(f"rows of {values.shape[1:]} values, not {columns}")
    values[np.isnan(values).any(axis=1), score] = np.nan
    return values[np.argsort(values[:, 0], kind="stable")]


def _kitti_sequence(path: Path, values: Array, skipped: int) -> BoxSequence:
    return _sequence(
        path,
        values,
        labels=values[:, 2].astype(np.int32),
        truncated=values[:, 3],
        occluded=values[:, 4],
        alphas_rad=values[:, 5],
        boxes_xyxy_px=values[:, 6:10],
        boxes_3d=values[:, 10:17],
        scores=values[:, 17],
        class_names=KITTI_CLASSES,
        skipped_lines=skipped,
    )


def _sequence(path: Path, values: Array, **columns: Any) -> BoxSequence:
    boxes = BoxSequence(values[:, 0].astype(np.int64), values[:, 1].astype(np.int64), **columns)
    # MOTChallenge's ids are those of the frame, KITTI's those of the class: trackers there run once for each class.
    labels = boxes.labels if boxes.class_names == KITTI_CLASSES else np.zeros_like(boxes.labels)
    named = np.flatnonzero(boxes.ids >= 0)
    named = named[np.lexsort([labels[named], boxes.ids[named], boxes.frames[named]])]
    keys = np.stack([boxes.frames[named], boxes.ids[named], labels[named]])
    twice = np.flatnonzero((keys[:, 1:] == keys[:, :-1]).all(axis=0))
    if len(twice):
        frame, track_id, _ = keys[:, twice[0]]
        raise UserError(f"{path}: id {track_id} occurs twice in frame {frame}; an id names one object in a frame")
    return boxes


# --- writing -------------------------------------------------------------------------------------------------------


def write_mot(path: Path, boxes: BoxSequence) -> None:
    """A MOTChallenge result file, frame,id,x,y,width,height,score,-1,-1,-1; gzipped if its name ends in .gz."""
    corners = boxes.boxes_xyxy_px
    columns = [boxes.frames, boxes.ids, *corners[:, :2].T, *(corners[:, 2:] - corners[:, :2]).T, boxes.scores]
    rows = zip(*(column.tolist() for column in columns), strict=True)
    _write(path, ("{},{},{:.3f},{:.3f},{:.3f},{:.3f},{:.6f},-1,-1,-1".format(*row) for row in rows))


def write_kitti(path: Path, boxes: BoxSequence) -> None:
    """A KITTI tracking result file with its 18 columns; what is not known is written as the devkit has it."""
    count = len(boxes)
    truncated, occluded, alphas = (
        np.full(count, unknown) if values is None else values
        for values, unknown in zip((boxes.truncated, boxes.occluded, boxes.alphas_rad), _UNKNOWN_2D, strict=True)
    )
    boxes_3d = np.tile(_UNKNOWN_3D, (count, 1)) if boxes.boxes_3d is None else boxes.boxes_3d
    # KITTI's own spelling of the class where it has one: its tools compare letter by letter.
    names = [KITTI_CLASSES[_KITTI_LABEL_OF.get(name.lower(), -1)] if name.lower() in _KITTI_LABEL_OF else name
             for name in boxes.class_names]  # fmt: skip
    columns = [boxes.frames, boxes.ids, np.array([*names, ""])[boxes.labels], truncated, occluded, alphas]
    columns += [*boxes.boxes_xyxy_px.T, *boxes_3d.T, boxes.scores]
    rows = zip(*(column.tolist() for column in columns), strict=True)
    _write(path, (("{} {} {} {:.0f} {:.0f}" + " {:.6f}" * 13).format(*row) for row in rows))


def _write(path: Path, lines: Iterator[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix.lower() == ".gz" else data)


# --- messages ------------------------------------------------------------------------------------------------------


def detections_2d(
    boxes: BoxSequence, frames: Sequence[int], rate_hz: float, frame_id: str = "camera"
) -> Iterator[Detections2D]:
    """One message for each of the frames, also for those without a box, stamped frame / rate_hz."""
    for frame, rows in zip(frames, boxes.rows_of(frames), strict=True):
        yield Detections2D(
            stamp_ns=round(frame * 1e9 / rate_hz),
            frame_id=frame_id,
            boxes_xyxy_px=boxes.boxes_xyxy_px[rows],
            scores=boxes.scores[rows],
            labels=boxes.labels[rows],
            class_names=boxes.class_names,
        )


def from_tracks_2d(frames: Sequence[int], tracks: Sequence[Tracks2D]) -> BoxSequence:
    """The tracks of the frames, in ascending order, as one sequence. Raises ValueError if their classes differ."""
    names = {message.class_names for message in tracks if len(message.ids)} or {MOT_CLASSES[:1]}
    if len(names) > 1:
        raise ValueError(f"the messages have different class names: {sorted(names)}")
    return BoxSequence(
        frames=np.repeat(np.asarray(frames, dtype=np.int64), [len(message.ids) for message in tracks]),
        ids=np.concatenate([np.zeros(0, np.int64), *(message.ids for message in tracks)]),
        boxes_xyxy_px=np.concatenate([np.zeros((0, 4)), *(message.boxes_xyxy_px for message in tracks)]),
        scores=np.concatenate([np.zeros(0), *(message.scores for message in tracks)]),
        labels=np.concatenate([np.zeros(0, np.int32), *(message.labels for message in tracks)]),
        class_names=names.pop(),
    )
