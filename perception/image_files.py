"""Image files of any usual kind as BGR images, and the files that the words of a command line mean.

JPEG, PNG, BMP and WebP. A header is read, and a JPEG or PNG checked to its end, before anything is decoded: a file
cannot ask for more than MAX_PIXELS, and a truncated one is found where a decoder would fill the missing part with grey.
Images come out upright (the EXIF orientation is applied, as viewers do), grey ones as BGR, transparency is dropped.
16-bit ones are brought to 8 bits by a shift that keeps their highest set bit: cameras fill 16-bit files with 10, 12 or
16 bits.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.image_bytes import MAX_FILE_BYTES, MAX_PIXELS, parse_image
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Image

Array = NDArray[Any]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MAX_FILES = 1_000_000


def read_image_file(path: Path, *, stamp_ns: int = 0, frame_id: str | None = None) -> Image:
    """One file as bgr8, (H, W, 3) uint8; frame_id: the file's name if None.

    Raises Rejected, in words that can be counted, for a file that cannot be read, is damaged, of another kind or too
    large.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Rejected("image file is too large")
        data = path.read_bytes()
    except OSError as error:
        raise Rejected(f"image file cannot be read ({error.strerror})") from None
    pixels = bgr_from_bytes(data)
    return Image(
        stamp_ns=stamp_ns, frame_id=path.name if frame_id is None else frame_id, pixels=pixels, encoding="bgr8"
    )


def bgr_from_bytes(data: bytes) -> Array:
    """The pixels (H, W, 3) uint8 of a file in memory. Raises Rejected as read_image_file does."""
    if not data:
        raise Rejected("image file is empty")
    _check_header(data)
    try:
        pixels: Array | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.size == 0:
        raise Rejected("image file does not decode")
    if pixels.dtype == np.uint16:
        pixels = (pixels >> max(0, int(pixels.max()).bit_length() - 8)).astype(np.uint8)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise Rejected("image file has an unusual pixel format")
    return np.ascontiguousarray(pixels)


def find_image_files(words: Iterable[str | Path]) -> list[Path]:
    """The files that are meant: each word is a file, a folder (its images, also in folders below) or a pattern.

    In the order of the words, folders and patterns sorted, no file twice. A file that is named is taken whatever its
    suffix. Raises UserError for a word that means no file.
    """
    found: dict[Path, Path] = {}  # by where it is: one file may be named in several ways
    for word in map(str, words):
        path = Path(word)
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        elif path.is_file():
            files = [path]
        else:
            files = [Path(name) for name in sorted(glob.glob(word, recursive=True)) if Path(name).is_file()]  # noqa: PTH207 - absolute ones too
        if not files:
            raise UserError(f"{word}: {_nothing_there(path)}")
        for file in files:
            found.setdefault(file.resolve(), file)
        if len(found) > MAX_FILES:
            raise UserError(f"{word}: more than {MAX_FILES} images; name fewer at a time")
    return list(found.values())


def _nothing_there(path: Path) -> str:
    if path.is_dir():
        return f"the folder holds no image ({', '.join(SUFFIXES)})"
    if glob.has_magic(str(path)):
        return "no file is named like this; check the pattern"
    return "no such file or folder; check the path"


def _check_header(data: bytes) -> None:
    """Raises Rejected for a file that is none of the four kinds, is cut off, or declares no or too many pixels."""
    if data[:2] == b"BM" and len(data) >= 26:
        width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
        size = width, abs(height)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        size = _webp_size(data)
    elif data[:2] == b"\xff\xd8" or data[:4] == b"\x89PNG":
        try:
            parsed = parse_image(data)
        except ValueError as error:
            reason = "is too large" if "px" in str(error) else "is damaged or cut off"
            raise Rejected(f"image file {reason}") from None
        size = parsed.width_px, parsed.height_px
    else:
        raise Rejected("image file is none of JPEG, PNG, BMP and WebP")
    if not (min(size) > 0 and size[0] * size[1] <= MAX_PIXELS):
        raise Rejected("image file is too large")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height that a WebP (RFC 9649) declares; zeros for an unknown or cut-off one."""
    kind, head = data[12:16], data[20:30]
    if len(head) < 10 or len(data) < 8 + int.from_bytes(data[4:8], "little"):
        return 0, 0
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    return 0, 0
