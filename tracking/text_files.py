"""Text files that strangers wrote, plain or gzipped, read within bounds: neither a zip bomb nor a wrong name hurts."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from devices.sensors.recorded.reading import note, short_name
from tercel.core.errors import UserError

MAX_TEXT_BYTES = 256 << 20
"""The longest text that is read, unzipped: MOT20's longest truth has 60 MB."""
MAX_TEXT_LINES = 10_000_000

_BLOCK_BYTES = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"


def read_lines(path: Path, problems: list[str]) -> list[str]:
    """All lines of a text file, unzipped if its name ends in .gz.

    A zipped file that ends early is noted, its beginning kept. Raises UserError for one that is longer than
    MAX_TEXT_BYTES or MAX_TEXT_LINES, is no gzip though its name says so, or is no UTF-8.
    """
    data, whole = _bytes(path, problems, MAX_TEXT_BYTES)
    if not whole:
        raise UserError(f"{path} holds more than {MAX_TEXT_BYTES >> 20} MB of text; split it by sequences")
    if max(data.count(b"\n"), data.count(b"\r")) > MAX_TEXT_LINES:
        raise UserError(f"{path} holds more than {MAX_TEXT_LINES} lines; split it by sequences")
    return _decoded(path, data).splitlines()


def first_lines(path: Path, most_bytes: int) -> list[str]:
    """The lines that lie whole within the first most_bytes, unzipped. Raises UserError as `read_lines` does."""
    data, whole = _bytes(path, [], most_bytes)
    lines = _decoded(path, data[:most_bytes]).splitlines()
    return lines if whole or len(lines) < 2 else lines[:-1]


def _bytes(path: Path, problems: list[str], most: int) -> tuple[bytes, bool]:
    """The file, unzipped, up to a block after `most` bytes, and whether that is all of it."""
    zipped = path.suffix.lower() == ".gz"
    blocks: list[bytes] = []
    size = 0
    with gzip.open(path) if zipped else path.open("rb") as file:
        try:
            while block := file.read(_BLOCK_BYTES):
                blocks.append(block)
                size += len(block)
                if size > most:
                    return b"".join(blocks), False
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            if not blocks:
                raise UserError(_not_unzipped(path, error)) from None
            note(problems, f"{short_name(path)}: {error}; the rest of it is skipped")
    return b"".join(blocks), True


def _not_unzipped(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP_MAGIC
    if zipped:
        return f"{path} cannot be unzipped: {error}; copy it again"
    return f"{path} cannot be unzipped: it is no gzip; if it is plain text, take .gz off its name"


def _decoded(path: Path, data: bytes) -> str:
    """UTF-8, with or without a byte order mark; bytes that are none become marks, so that only a line fails."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path} is UTF-16, as its byte order mark says; save it as UTF-8")
    return data.decode("utf-8-sig", errors="replace")
