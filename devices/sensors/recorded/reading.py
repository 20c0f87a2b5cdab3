"""What every importer needs: time from text, files in order, problems instead of exceptions, streams in time order.

An importer yields Items. A damaged file, row or pose is never fatal: it is skipped and said in one line of the
caller's `problems` list. What is fatal (a missing folder, a wrong layout, nothing readable at all) is a UserError.
"""

from __future__ import annotations

import gzip
import heapq
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import UserError
from tercel.core.messages import Message, Transforms

Array = NDArray[Any]
Item = tuple[str, int, Message]
T = TypeVar("T")

EPOCH_NS = 1_000_000_000_000_000_000
"""When recordings that have no clock begin: 2001-09-09 01:46:40 UTC, a round number and never today."""

END_NS = 2**31 * 10**9
"""Where a ROS stamp ends: its seconds are an int32."""

MAX_PROBLEMS = 1000
MAX_TEXT_LINE = 1 << 16
MAX_VALUE = 1e30  # no quantity that we read comes near, and its square still fits a float64


def note(problems: list[str], text: str) -> None:
    """Append a problem; after MAX_PROBLEMS of them say once that the rest is not listed."""
    if len(problems) < MAX_PROBLEMS:
        problems.append(text)
    elif len(problems) == MAX_PROBLEMS:
        problems.append("more problems are not listed")


def short_name(path: Path) -> str:
    """A file's last two names, enough to find it: "data/0000000004.bin"."""
    return "/".join(path.parts[-2:])


def attempt(read: Callable[[Path], T], path: Path, problems: list[str]) -> T | None:
    """What `read` returns, or None and one problem if the file cannot be opened or is damaged (OSError, ValueError)."""
    try:
        return read(path)
    except OSError as error:
        note(problems, f"{short_name(path)}: {error.strerror or error}; skipped")
    except (ValueError, EOFError) as error:
        note(problems, f"{short_name(path)}: {error}; skipped")
    return None


def require_folder(source: Path) -> Path:
    """The same path. Raises UserError if it is no folder."""
    if not source.is_dir():
        what = "is a file" if source.exists() else "does not exist"
        raise UserError(f"{source} {what}; this format wants a folder")
    return source


def require_rate(rate_hz: float) -> float:
    """The same rate. Raises UserError unless it is between 1e-3 and 1e6."""
    if not 1e-3 <= rate_hz <= 1e6:
        raise UserError(f"rate_hz is {rate_hz:g}; give a rate between 0.001 and 1e6")
    return rate_hz


def intrinsics_from_text(text: str) -> Array:
    """The matrix (3, 3) of "fx,fy,cx,cy" in px. Raises UserError for anything else."""
    try:
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except ValueError:
        fx = fy = cx = cy = math.nan
    if not (all(map(math.isfinite, (fx, fy, cx, cy))) and fx > 0 and fy > 0):
        raise UserError(f'intrinsics is {text!r}; give four numbers in px: "fx,fy,cx,cy"')
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts "scan2" before "scan10"."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def files_with(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The folder's files that end in one of the (lower-case) suffixes, in natural order; none if there is no folder."""
    if not folder.is_dir():
        return []
    try:
        found = [path for path in folder.iterdir() if path.name.lower().endswith(tuple(suffixes)) and path.is_file()]
    except PermissionError:
        raise UserError(f"{folder} may not be listed; give yourself the right to read it") from None
    return sorted(found, key=lambda path: (natural_key(path), path.name))


def numbered_files(folder: Path, suffixes: Sequence[str], problems: list[str]) -> list[tuple[int, Path]]:
    """(number, file) of the files whose stem is a number, by number; others are noted."""
    found: dict[int, Path] = {}
    for path in files_with(folder, suffixes):
        if not path.stem.isdecimal() or len(path.stem) > 12:
            note(problems, f"{short_name(path)}: its name is not a frame number; skipped")
        elif int(path.stem) in found:
            note(problems, f"{short_name(path)}: frame {int(path.stem)} is there twice; skipped")
        else:
            found[int(path.stem)] = path
    return sorted(found.items())


def frame_time_ns(number: int, rate_hz: float) -> int:
    """The stamp of a numbered frame of a recording that has no clock."""
    return EPOCH_NS + round(number * 1e9 / rate_hz)


def ns_from_seconds(text: str) -> int:
    """Integer nanoseconds of decimal seconds, exact to the last digit. Raises ValueError."""
    return _exact_ns(text, 10**9)


def ns_from_text(text: str) -> int:
    """Integer nanoseconds of a number of nanoseconds, in any notation. Raises ValueError."""
    return _exact_ns(text, 1)


def _exact_ns(text: str, ns_per_unit: int) -> int:
    try:
        value = Decimal(text.strip()) * ns_per_unit
        if not abs(value) < 2**63:
            raise ValueError(f"{text.strip()[:40]!r} is out of range for a time")
        return round(value)
    except ArithmeticError:
        raise ValueError(f"{text.strip()[:40]!r} is not a time") from None


def open_text(path: Path) -> IO[str]:
    """A text file, gunzipped on the way if it ends in .gz. Undecodable bytes become "?", so only a row fails."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8", errors="replace")


def text_rows(path: Path, problems: list[str]) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of the lines that are neither empty nor comments ('#').

    A file that ends early (a cut .gz) is noted and what came before it kept.
    """
    try:
        with open_text(path) as file:
            number = 0
            while line := file.readline(MAX_TEXT_LINE):
                number += 1
                if line.strip() and not line.lstrip().startswith("#"):
                    yield number, line.strip()
    except (OSError, EOFError, zlib.error) as error:
        note(problems, f"{short_name(path)}: {error}; the rest of it is skipped")


def floats(words: Sequence[str], count: int) -> Array:
    """The first `count` words as finite float64. Raises ValueError if there are fewer, or one is no finite number."""
    if len(words) < count:
        raise ValueError(f"{len(words)} columns, not {count}")
    values = np.array([float(word) for word in words[:count]])
    if not (np.abs(values) < MAX_VALUE).all():
        raise ValueError("a value is not finite")
    return values


def in_time_order(streams: Iterable[Iterator[Item]], statics: Transforms | None, problems: list[str]) -> Iterator[Item]:
    """Merge streams by time, the fixed transforms first, at the first message's time.

    A message that goes back in time within its own stream, or is beyond what a ROS stamp can say, is noted and
    dropped. Messages of one instant keep the
    order of the streams. Raises UserError, with the first problem, if nothing at all could be read.
    """
    empty = True
    for item in heapq.merge(*(_forward_only(stream, problems) for stream in streams), key=lambda item: item[1]):
        if empty and statics is not None:
            yield "/tf_static", item[1], stamped(statics, item[1])
        empty = False
        yield item
    if empty:
        raise UserError(f"nothing could be read; {problems[0] if problems else 'there are no messages'}")


def _forward_only(stream: Iterator[Item], problems: list[str]) -> Iterator[Item]:
    last_ns = 0
    for item in stream:
        if not 0 <= item[1] < END_NS:
            note(problems, f"{item[0]} at {item[1]} ns: outside the years 1970 to 2038; skipped")
            continue
        if item[1] < last_ns:
            note(problems, f"{item[0]} at {item[1]} ns: goes back in time; skipped")
            continue
        last_ns = item[1]
        yield item


def fixed_transforms(links: Sequence[tuple[str, str, Array]]) -> Transforms | None:
    """Transforms of (parent, child, parent_T_child), not yet stamped; None if there are none."""
    if not links:
        return None
    parents, children, matrices = zip(*links, strict=True)
    return Transforms(stamp_ns=0, frame_id="", parents=parents, children=children, parent_T_child=np.stack(matrices))


def stamped(statics: Transforms, stamp_ns: int) -> Transforms:
    """The same transforms at stamp_ns."""
    return replace(statics, stamp_ns=stamp_ns)
