"""PCD point clouds (Point Cloud Library, format 0.7): ascii, binary and binary_compressed.

The compressed body is two uint32 (compressed and plain size) and an LZF stream of the fields one after another, all
x, then all y... LZF follows Lehmann's liblzf: a control byte below 32 begins a run of literals, another a copy of
earlier output.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from devices.sensors.recorded.cloud_files import (
    MAX_FILE_BYTES,
    MAX_HEADER_BYTES,
    Columns,
    ascii_table,
    read_bytes,
    strided_column,
)

_SIZES = {"F": (4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}


@dataclass(frozen=True)
class _Field:
    """One field: `values` numbers of dtype for each point, `start` bytes and `first` numbers into the point."""

    name: str
    dtype: np.dtype[Any]
    values: int
    start: int
    first: int


def read_pcd(path: Path) -> Columns:
    """The fields by name, (N,) each (of a field with several values, the first). Raises ValueError if damaged."""
    data = read_bytes(path)
    header: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in header:
        end = data.find(b"\n", at, MAX_HEADER_BYTES)
        if end < 0:
            raise ValueError("not a PCD file, or its header has no end")
        words = data[at:end].decode("ascii", "replace").split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
        at = end + 1
    fields = _parse_fields(header)
    count = _point_count(header)
    body, kind = data[at:], " ".join(header["DATA"]).lower()
    if kind == "ascii":
        table = ascii_table(body, count, sum(f.values for f in fields))
        return {f.name: table[:, f.first].astype(f.dtype) for f in fields}
    stride = sum(f.dtype.itemsize * f.values for f in fields)
    if kind == "binary":
        if count * stride > len(body):
            raise ValueError(f"the header claims {count} points, the file is too short for them")
        return {f.name: strided_column(body, f.dtype, count, f.start, stride) for f in fields}
    if kind == "binary_compressed":
        plain = _decompress_body(body, count * stride)
        return {
            f.name: strided_column(plain, f.dtype, count, f.start * count, f.dtype.itemsize * f.values) for f in fields
        }
    raise ValueError(f"DATA is {kind[:20]!r}, not ascii, binary or binary_compressed")


def _parse_fields(header: dict[str, list[str]]) -> list[_Field]:
    names, kinds = header.get("FIELDS", []), header.get("TYPE", [])
    sizes = [int(word) for word in header.get("SIZE", [])]
    counts = [int(word) for word in header.get("COUNT", ["1"] * len(names))]
    if not names or not len(names) == len(sizes) == len(kinds) == len(counts) or len(names) > 256:
        raise ValueError("FIELDS, SIZE, TYPE and COUNT do not agree")
    fields: list[_Field] = []
    start = first = 0
    for name, size, kind, count in zip(names, sizes, kinds, counts, strict=True):
        if size not in _SIZES.get(kind.upper(), ()) or not 0 < count < 1 << 16:
            raise ValueError(f"a field of type {kind[:4]}{size} x {count}")
        fields.append(_Field(name, np.dtype(f"<{kind.lower()}{size}"), count, start, first))
        start, first = start + size * count, first + count
    return fields


def _point_count(header: dict[str, list[str]]) -> int:
    try:
        if "POINTS" in header:
            count = int(header["POINTS"][0])
        else:
            count = int(header["WIDTH"][0]) * int(header["HEIGHT"][0])
    except (KeyError, IndexError):
        raise ValueError("the header does not say how many points there are") from None
    if not 0 <= count < 1 << 40:
        raise ValueError(f"the header claims {count} points")
    return count


def _decompress_body(body: bytes, plain_size: int) -> bytes:
    packed_size, claimed_size = int.from_bytes(body[:4], "little"), int.from_bytes(body[4:8], "little")
    if claimed_size != plain_size or plain_size > MAX_FILE_BYTES or packed_size > len(body) - 8:
        raise ValueError("the compressed size does not fit the header or the file")
    return lzf_decompress(body[8 : 8 + packed_size], plain_size)


def lzf_decompress(packed: bytes, plain_size: int) -> bytes:
    """Exactly plain_size bytes. Raises ValueError if the stream is damaged or holds more or less."""
    out = bytearray()
    at, end = 0, len(packed)
    try:
        while at < end and len(out) <= plain_size:
            control = packed[at]
            at += 1
            if control < 32:
                out += packed[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += packed[at]
                at += 1
            distance = ((control & 31) << 8) + packed[at] + 1
            at, length, source = at + 1, length + 2, len(out) - distance
            if source < 0:
                raise ValueError("the compressed data is damaged")
            copied = out[source : source + length]
            if distance < length:  # the copy runs into what it writes: its pattern repeats
                copied = (copied * (length // distance + 1))[:length]
            out += copied
    except IndexError:
        raise ValueError("the compressed data ends early") from None
    if at != end or len(out) != plain_size:
        raise ValueError("the compressed data is damaged")
    return bytes(out)
