"""Trajectory files: TUM's text (Sturm et al., IROS 2012) and the KITTI odometry benchmark's (Geiger et al., CVPR 2012).

- TUM, eight columns: t x y z qx qy qz qw; t in seconds, read and written to the nanosecond, without floats.
- KITTI, twelve columns: the upper three rows of world_T_body, row by row; the stamps, if any, are a file of their own
  with one number of seconds a line.

Blank lines and lines that begin with # are skipped, line ends are of either kind, and a name that ends in .gz is
gzipped. The format is seen from the number of columns. Nothing is guessed: what is no pose is refused with its line.
"""

from __future__ import annotations

import gzip
import io
import zlib
from array import array
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import UserError
from tercel.core.geometry import from_rotation_translation, quat_xyzw_from_rotation, rotation_from_quat_xyzw

Array = NDArray[Any]

MAX_POSES = 2_000_000
MAX_FILE_BYTES = 1 << 30
"""Of the text, unpacked."""
_MAX_LINES = 2 * MAX_POSES  # with the comments and blank lines, which cost time, too: a gigabyte packs into a megabyte
_MAX_LINE_BYTES = 4096
_MAX_VALUE = 1e9  # metres: farther than anything drives, and its square still has digits for a millimetre
_TUM, _KITTI = 8, 12
# Files of six digits have rotations that are off by a millionth; a camera's matrix or a scale is off by far more.
_NOT_A_ROTATION = 1e-3
_ZERO_QUATERNION = 1e-6


class TrajectoryFile(NamedTuple):
    """stamps_ns (N,) int64, ascending, or None where the file has none (KITTI's); poses world_T_body (N, 4, 4)."""

    stamps_ns: Array | None
    poses: Array


def read_trajectory(path: Path, *, times: Path | None = None, problems: list[str] | None = None) -> TrajectoryFile:
    """Read a TUM or a KITTI file. times: a file with the stamps of a KITTI file's rows, in seconds.

    Rotations are as the file has them, quaternions brought to length one; KITTI's matrices are not touched, so that
    errors are those that evo computes. Poses whose stamps go back in time are put in order, which is said in problems.

    Raises UserError, with file and line, for anything that is no such trajectory; OSError if it cannot be opened.
    """
    columns, stamps, numbers = _read_rows(path)
    rows = np.frombuffer(numbers, dtype=np.float64)
    if columns == _KITTI:
        poses = _poses_of_matrices(rows.reshape(-1, 3, 4), path)
        return (
            TrajectoryFile(None, poses)
            if times is None
            else _in_order(_read_times(times, path, poses), times, problems)
        )
    if times is not None:
        raise UserError(f"{path} has stamps of its own; leave {times} out")
    rows = rows.reshape(-1, 7)
    poses = from_rotation_translation(rotation_from_quat_xyzw(rows[:, 3:]), rows[:, :3])
    return _in_order(TrajectoryFile(np.frombuffer(stamps, dtype=np.int64), poses), path, problems)


def write_tum(path: Path, stamps_ns: Array, poses: Array) -> None:
    """Write stamps_ns (N,) int64 and world_T_body (N, 4, 4), to the nanosecond and the nanometre; whole or not at all.

    Raises ValueError if the two do not fit each other or hold what is not finite.
    """
    stamps_ns, poses = np.asarray(stamps_ns), _checked(poses)
    if stamps_ns.shape != poses.shape[:1] or not np.issubdtype(stamps_ns.dtype, np.integer):
        raise ValueError(f"stamps of shape {stamps_ns.shape} {stamps_ns.dtype} are not one integer for each pose")
    values = np.concatenate([poses[:, :3, 3], quat_xyzw_from_rotation(poses[:, :3, :3])], axis=1)
    lines = (
        f"{seconds_text(stamp_ns)} {_words(row)}\n"
        for stamp_ns, row in zip(stamps_ns.tolist(), values.tolist(), strict=True)
    )
    _write(path, lines)


def write_kitti(path: Path, poses: Array) -> None:
    """Write world_T_body (N, 4, 4), one row of twelve numbers for each. Raises ValueError as write_tum does."""
    _write(path, (f"{_words(row)}\n" for row in _checked(poses)[:, :3].reshape(-1, 12).tolist()))


def seconds_text(stamp_ns: int) -> str:
    """A stamp as decimal seconds, exact: 1305031102.160407000."""
    seconds, nanoseconds = divmod(abs(stamp_ns), 10**9)
    return f"{'-' if stamp_ns < 0 else ''}{seconds}.{nanoseconds:09d}"


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_rows(path: Path) -> tuple[int, array[int], array[float]]:
    """The number of columns, the first column's stamps (none of KITTI's), and the other numbers, row after row."""
    columns = 0
    stamps, numbers = array("q"), array("d")
    for line_number, words in _rows(path):
        if len(words) != columns:
            if columns or len(words) not in (_TUM, _KITTI):
                wanted = columns or "8 (TUM: t x y z qx qy qz qw) or 12 (KITTI: three rows of a matrix)"
                raise UserError(f"{path} line {line_number}: {len(words)} columns, {wanted} are wanted")
            columns = len(words)
        try:
            if columns == _TUM:
                stamps.append(_stamp_ns(words[0]))
            numbers.extend(_floats(words[1:] if columns == _TUM else words))
            if columns == _TUM and max(map(abs, numbers[-4:])) < _ZERO_QUATERNION:
                raise ValueError("a quaternion of length zero has no rotation")
        except ValueError as error:
            raise UserError(f"{path} line {line_number}: {error}") from None
    if not columns:
        raise UserError(f"{path} holds no pose; a TUM or KITTI trajectory is wanted")
    return columns, stamps, numbers


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and words of each line that says something. Raises UserError for a file that is too large."""
    read_bytes, poses = 0, 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            line_number = 0
            while line := stream.readline(_MAX_LINE_BYTES):
                line_number += 1
                read_bytes += len(line)
                if len(line) == _MAX_LINE_BYTES:
                    raise UserError(f"{path} line {line_number} is longer than any pose; a text file is wanted")
                words = line.decode("utf-8-sig" if line_number == 1 else "utf-8", "replace").split()
                if not words or words[0].startswith("#"):
                    words = []
                poses += bool(words)
                if poses > MAX_POSES or line_number > _MAX_LINES or read_bytes > MAX_FILE_BYTES:
                    raise UserError(f"{path} is longer than {MAX_POSES:,} poses; cut it into parts")
                if words:
                    yield line_number, words
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged ({error}); pack it again") from None


def _stamp_ns(text: str) -> int:
    """Integer nanoseconds of decimal seconds, exact to the last digit. Raises ValueError."""
    try:
        value = Decimal(text) * 10**9
        if not abs(value) < 2**62:  # so that a difference of two is an int64, too
            raise ValueError(f"{text[:40]!r} is out of range for a time in seconds")
        return round(value)
    except ArithmeticError:
        raise ValueError(f"{text[:40]!r} is not a time in seconds") from None


def _floats(words: Iterable[str]) -> list[float]:
    values = []
    for word in words:
        try:
            values.append(float(word))
        except ValueError:
            raise ValueError(f"{word[:40]!r} is not a number; white space stands between the columns") from None
        if not abs(values[-1]) < _MAX_VALUE:
            raise ValueError(f"{word[:40]!r} is not finite, or no metres that anything travels")
    return values


def _poses_of_matrices(matrices: Array, path: Path) -> Array:
    """(N, 4, 4) of (N, 3, 4). Raises UserError if a rotation is none."""
    rotations = matrices[:, :, :3]
    off = np.abs(np.swapaxes(rotations, 1, 2) @ rotations - np.eye(3)).max(axis=(1, 2))
    wrong = np.flatnonzero((off > _NOT_A_ROTATION) | (np.linalg.det(rotations) < 0))
    if len(wrong):
        raise UserError(f"{path}: the matrix of pose {wrong[0] + 1} is no rotation; KITTI's twelve columns are wanted")
    return from_rotation_translation(rotations, matrices[:, :, 3])


def _read_times(times: Path, path: Path, poses: Array) -> TrajectoryFile:
    """The poses with the stamps of another file, one a line."""
    stamps = array("q")
    for line_number, words in _rows(times):
        try:
            if len(words) != 1:
                raise ValueError(f"{len(words)} columns; one number of seconds is wanted")
            stamps.append(_stamp_ns(words[0]))
        except ValueError as error:
            raise UserError(f"{times} line {line_number}: {error}") from None
    if len(stamps) != len(poses):
        raise UserError(f"{times} has {len(stamps)} stamps, {path} {len(poses)} poses; one for each is wanted")
    return TrajectoryFile(np.frombuffer(stamps, dtype=np.int64), poses)


def _in_order(found: TrajectoryFile, path: Path, problems: list[str] | None) -> TrajectoryFile:
    stamps_ns, poses = found
    assert stamps_ns is not None  # noqa: S101 - only files with stamps come here
    backwards = int((np.diff(stamps_ns) < 0).sum())
    if not backwards:
        return found
    if problems is not None:
        problems.append(f"{path}: the stamps go back in time {backwards} times; its poses were put in order")
    order = np.argsort(stamps_ns, kind="stable")
    return TrajectoryFile(stamps_ns[order], poses[order])


# --- writing ---------------------------------------------------------------------------------------------------------


def _checked(poses: Array) -> Array:
    poses = np.asarray(poses, dtype=np.float64)
    if poses.shape[1:] != (4, 4) or not np.isfinite(poses).all():
        raise ValueError(f"poses of shape {poses.shape} are not finite (N, 4, 4)")
    return poses


def _words(values: Iterable[float]) -> str:
    return " ".join(f"{round(value, 9) + 0.0:.9f}" for value in values)  # + 0.0: no "-0.000000000"


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as stream:
            gzipped = path.suffix.lower() == ".gz"
            packed: Any = gzip.GzipFile("", "wb", fileobj=stream, mtime=0) if gzipped else stream
            with io.TextIOWrapper(packed, encoding="ascii", newline="\n") as text:
                text.writelines(lines)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
