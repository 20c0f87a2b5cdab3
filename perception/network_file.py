"""What is checked of a network's file before anything of its size is allocated: the file, its checksum, its input.

Both backends (perception.backend_onnxruntime, perception.backend_openvino) describe a file alike, as a NetworkFile, so
that the same file is refused in the same words whatever runs it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercel.core.errors import UserError

MAX_TENSOR_ELEMENTS = 1 << 26
"""Largest input or output that is allowed: 256 MiB of float32."""

Sides = tuple[int | str | None, ...]
"""Of a shape: a size, the name of a free size, or None for one without a name."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output as the file has it; dtype None: none that is known here, kind is its name in the file."""

    name: str
    sides: Sides
    dtype: type[np.generic] | None
    kind: str


@dataclass(frozen=True)
class NetworkFile:
    """What a backend read of a file, before it prepared it for running."""

    path: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class InputTensor:
    """The only input of a network, with every size fixed."""

    name: str
    shape: tuple[int, ...]
    dtype: type[np.generic]


def checked_sha256(path: Path, wanted: str | None = None) -> str:
    """The file's SHA-256 in hex. Raises UserError if there is nothing to read, or if it is not the one wanted."""
    if not path.exists():
        raise UserError(f"{path}: no such model file; check the path")
    if not path.is_file():
        raise UserError(f"{path}: not a file; name the .onnx file itself")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the model file is empty; download it again")
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    found = digest.hexdigest()
    if wanted is not None and wanted.strip().lower() != found:
        raise UserError(
            f"{path}: has the checksum {found[:12]}..., not {wanted.strip()[:12]}...; "
            "download it again, or correct the sha256"
        )
    return found


def checked_input(
    file: NetworkFile, input_size: tuple[int, int] | None = None, card_size: tuple[int, int] | None = None
) -> InputTensor:
    """The only input of a file, its free batch set to 1 and a free height and width to the first of input_size (height,
    width), card_size and the size that the exporter noted (`imgsz`, as Ultralytics writes it) that there is.

    Raises UserError, in one line, for several inputs, sizes that stay free, an input_size that the file does not take,
    an unknown type and a tensor that is too large.
    """
    if len(file.inputs) != 1:
        raise UserError(f"{file.path}: the model has {len(file.inputs)} inputs; export it with one")
    info = file.inputs[0]
    sides = list(info.sides)
    if sides and not isinstance(sides[0], int):
        sides[0] = 1
    rows, columns = _image_axes(sides)
    if len(sides) == 4:
        for axis, side in zip(
            (rows, columns), input_size or card_size or _noted_size(file.metadata) or (), strict=False
        ):
            if not isinstance(sides[axis], int):
                sides[axis] = side
        if input_size is not None and (sides[rows], sides[columns]) != tuple(input_size):
            raise UserError(
                f"{file.path}: takes images of {sides[rows]}x{sides[columns]}, not {input_size[0]}x{input_size[1]}"
                " (height x width); leave the size out, or export the model with free sizes"
            )
    if not all(isinstance(side, int) and side > 0 for side in sides):
        seen = str(info.sides).replace("'", "")
        raise UserError(
            f"{file.path}: input {info.name!r} has the shape {seen}; export the model with fixed sizes"
            + (", or write its input_size into a model card" if len(sides) == 4 else "")
        )
    if info.dtype is None:
        raise UserError(f"{file.path}: input {info.name!r} is {info.kind}; known: float32, float16 and integers")
    for tensor in (TensorInfo(info.name, tuple(sides), None, ""), *file.outputs):
        check_bounded(file.path, tensor.name, tensor.sides)
    return InputTensor(info.name, tuple(int(side) for side in sides if isinstance(side, int)), info.dtype)


def check_bounded(path: Path, name: str, sides: Sequence[Any]) -> None:
    """Before anything of that size is allocated; sizes that the file leaves open count as 1. Raises UserError."""
    if math.prod(side for side in sides if isinstance(side, int)) > MAX_TENSOR_ELEMENTS:
        raise UserError(f"{path}: tensor {name!r} of shape {tuple(sides)} is too large; export a smaller model")


def one_line(text: str, length: int = 120) -> str:
    """An error of a library's, which may run over many lines, as a few words."""
    return " ".join(text.split()).rsplit(" : ", 1)[-1].strip(" .;:")[:length]


def _image_axes(sides: Sequence[Any]) -> tuple[int, int]:
    """Where height and width stand: channels come first unless only the last side can be a number of channels."""
    last_is_channels = len(sides) == 4 and sides[3] in (1, 3, 4) and sides[1] not in (1, 3, 4)
    return (1, 2) if last_is_channels else (2, 3)


def _noted_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """(height, width) of the `imgsz` that Ultralytics' exporter writes: [640, 480] or 640."""
    text = metadata.get("imgsz", "")
    if len(text) > 64 or not re.fullmatch(r"[\[\](),\d\s]+", text):
        return None
    try:
        size = json.loads(text.replace("(", "[").replace(")", "]"))
    except ValueError:
        return None
    size = [size, size] if isinstance(size, int) else size
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        return None
    return size[0], size[1]
