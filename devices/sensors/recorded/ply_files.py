"""PLY point clouds: the vertices of ascii, binary little endian and binary big endian files (Turk, 1994)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.cloud_files import MAX_HEADER_BYTES, Columns, ascii_table, read_bytes, strided_column

Array = NDArray[Any]

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}


@dataclass
class _Element:
    name: str
    count: int
    properties: list[tuple[str, str]] = field(default_factory=list)
    has_list: bool = False


def read_ply(path: Path) -> Columns:
    """The vertex properties by name, (N,) each. Raises ValueError if the file is damaged or has no plain vertices."""
    data = read_bytes(path)
    end = data.find(b"end_header", 0, MAX_HEADER_BYTES)
    body = data.find(b"\n", end) + 1
    if not data.startswith(b"ply") or end < 0 or body == 0:
        raise ValueError("not a PLY file, or its header has no end")
    order, elements = _parse_header(data[:end].decode("ascii", "replace"))
    return _vertices(data[body:], order, elements)


def _parse_header(text: str) -> tuple[str, list[_Element]]:
    order, elements = "", []
    for line in text.splitlines():
        match line.split():
            case ["format", name, _]:
                order = _ORDERS.get(name, "")
            case ["element", name, count]:
                if not count.isdecimal() or len(count) > 18:
                    raise ValueError(f"an element count of {count[:20]!r}")
                elements.append(_Element(name, int(count)))
            case ["property", "list", *_] if elements:
                elements[-1].has_list = True
            case ["property", kind, name] if elements:
                if kind not in _TYPES:
                    raise ValueError(f"a property of type {kind[:20]!r}")
                elements[-1].properties.append((name, _TYPES[kind]))
    if not order:
        raise ValueError("its format is neither ascii nor binary")
    return order, elements


def _vertices(data: bytes, order: str, elements: list[_Element]) -> Columns:
    names = [element.name for element in elements]
    if "vertex" not in names:
        raise ValueError("it has no vertices")
    before, vertex = elements[: names.index("vertex")], elements[names.index("vertex")]
    if vertex.has_list or any(element.count for element in before):
        raise ValueError("its vertices hold lists, or other elements come before them")
    if order == "=":
        table = ascii_table(data, vertex.count, len(vertex.properties))
        return {name: table[:, i].astype(kind) for i, (name, kind) in enumerate(vertex.properties)}
    dtypes = [np.dtype(order + kind) for _, kind in vertex.properties]
    stride = sum(dtype.itemsize for dtype in dtypes)
    if vertex.count * stride > len(data):
        raise ValueError(f"the header claims {vertex.count} points, the file is too short for them")
    starts = np.cumsum([0, *(dtype.itemsize for dtype in dtypes)])
    return {
        name: strided_column(data, dtype, vertex.count, int(start), stride)
        for (name, _), dtype, start in zip(vertex.properties, dtypes, starts[:-1], strict=True)
    }
