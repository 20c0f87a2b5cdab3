"""ONNX files for tests, written byte by byte, so that no ONNX library is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

FLOAT, INT64 = 1, 7


def varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def field(number: int, value: int | str | bytes) -> bytes:
    """One field of a protocol buffer: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def value_info(name: str, shape: Sequence[int | str], kind: int = FLOAT) -> bytes:
    dims = b"".join(field(1, field(1 if isinstance(side, int) else 2, side)) for side in shape)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, dims)))


def node(operator: str, inputs: Sequence[str], output: str) -> bytes:
    return b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, operator)


def constant(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(field(1, side) for side in values.shape)
    kind = FLOAT if values.dtype == np.float32 else INT64
    return dims + field(2, kind) + field(8, name) + field(9, values.tobytes())


def model(
    nodes: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes], constants: Sequence[bytes] = ()
) -> bytes:
    parts = [field(1, one) for one in nodes] + [field(2, "g")] + [field(5, one) for one in constants]
    graph = b"".join(parts + [field(11, one) for one in inputs] + [field(12, one) for one in outputs])
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


def identity(path: Path, shape: Sequence[int | str] = ("batch", 4)) -> Path:
    """y = x."""
    path.write_bytes(model([node("Identity", ["x"], "y")], [value_info("x", shape)], [value_info("y", shape)]))
    return path


def doubling(path: Path, shape: Sequence[int | str] = ("batch", 4)) -> Path:
    """y = x + x."""
    path.write_bytes(model([node("Add", ["x", "x"], "y")], [value_info("x", shape)], [value_info("y", shape)]))
    return path


def slow(path: Path, products: int, side: int = 512) -> Path:
    """y (1, 1) from x (1, 1), by so many products of side x side matrices; about 3-10 ms each of 512 on one core."""
    half = constant("half", np.eye(side, dtype=np.float32) * np.float32(0.5))
    nodes = [node("Mul", ["x", "half"], "m0")]
    nodes += [node("MatMul", [f"m{i}", "half"], f"m{i + 1}") for i in range(products)]
    nodes.append(node("ReduceSum", [f"m{products}"], "y"))
    path.write_bytes(model(nodes, [value_info("x", (1, 1))], [value_info("y", (1, 1))], [half]))
    return path


def picking(path: Path) -> Path:
    """y = table[x], x (n,) of int64 in 0..3: it loads and runs, and fails on other numbers."""
    table = constant("table", np.arange(4, dtype=np.float32))
    inputs, outputs = [value_info("x", ("n",), INT64)], [value_info("y", ("n",))]
    path.write_bytes(model([node("Gather", ["table", "x"], "y")], inputs, outputs, [table]))
    return path
