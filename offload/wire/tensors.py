"""Tensors as they travel: numpy arrays to raw bytes and back, coded on request.

Nothing is allocated on the word of the other side: a shape is held against the bytes that came, and a coded tensor is
decoded no further than the size that its shape announces, which is bounded.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected

Array = NDArray[Any]
Codec = Literal["none", "zlib", "jpeg"]
CODECS: tuple[Codec, ...] = ("none", "zlib", "jpeg")
CODEC = "tercel_codec"

MAX_TENSOR_BYTES = 1 << 28
"""Largest tensor that is taken: 256 MiB."""
MAX_CODED_BYTES = 1 << 25
"""Largest that is decoded where fewer bytes carry it, 32 MiB: it is done at once, and a server waits for that long."""
MAX_DIMENSIONS = 32
JPEG_QUALITY = 90

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def datatype_of(dtype: Any) -> str:
    """The protocol's name of a numpy dtype. Raises ValueError if it has none."""
    name = _NAMES.get(dtype) or _NAMES.get(np.dtype(dtype).newbyteorder("<"))
    if name is None:
        raise ValueError(f"a tensor of {np.dtype(dtype)} cannot be sent")
    return name


def put_tensors(listed: Any, raw: Any, tensors: Mapping[str, Array], codec: Codec = "none") -> int:
    """Append tensors to a message's list of tensors and its list of raw contents; returns the bytes of the contents.

    codec: "zlib" at level 1, without loss; "jpeg" of uint8 images, (h, w), (h, w, 3) or (1, h, w, 3), with loss. What
    a codec is not for goes raw. Raises ValueError for a dtype that cannot be sent.
    """
    total_bytes = 0
    for name, tensor in tensors.items():
        datatype = datatype_of(tensor.dtype)
        entry = listed.add(name=name, datatype=datatype, shape=tensor.shape)
        data = _coded(tensor, codec)
        if data is None:
            data = np.ascontiguousarray(tensor, DATATYPES[datatype]).tobytes()
        else:
            entry.parameters[CODEC].string_param = codec
        raw.append(data)
        total_bytes += len(data)
    return total_bytes


def get_tensors(listed: Sequence[Any], raw: Sequence[bytes]) -> dict[str, Array]:
    """The tensors of a message, views of its bytes where they are raw. Raises Rejected."""
    if raw and len(raw) != len(listed):
        raise Rejected("tensors and raw contents differ in number")
    tensors: dict[str, Array] = {}
    for index, entry in enumerate(listed):
        if entry.name in tensors:
            raise Rejected("a tensor is given twice")
        dtype = DATATYPES.get(entry.datatype)
        if dtype is None:
            raise Rejected("unknown datatype")
        shape = tuple(entry.shape)
        size_bytes = _size_bytes(shape, dtype)
        if not raw:
            tensors[entry.name] = _listed(entry, dtype).reshape(shape)
            continue
        data = raw[index]
        if CODEC in entry.parameters:
            if size_bytes > MAX_CODED_BYTES:
                raise Rejected("coded tensor is too large")
            tensors[entry.name] = _decoded(entry.parameters[CODEC].string_param, data, shape, dtype, size_bytes)
        elif len(data) != size_bytes:
            raise Rejected("shape contradicts the number of bytes")
        else:
            tensors[entry.name] = np.frombuffer(data, dtype).reshape(shape)
    return tensors


def _size_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    if len(shape) > MAX_DIMENSIONS:
        raise Rejected("shape is not a shape")
    size, bounded = dtype.itemsize, dtype.itemsize
    for side in shape:
        if side < 0:
            raise Rejected("shape is not a shape")
        size *= side
        bounded *= side or 1
    if bounded > MAX_TENSOR_BYTES:
        raise Rejected("tensor is too large")  # also one of no bytes whose other sides numpy could not count
    return size


def _listed(entry: Any, dtype: np.dtype[Any]) -> Array:
    field = _CONTENTS.get(entry.datatype)
    elements = getattr(entry.contents, field) if field else ()
    if len(elements) != math.prod(entry.shape):
        raise Rejected("shape contradicts the number of elements")
    wide = np.array(elements, np.float64 if dtype.kind == "f" else None)
    narrow = wide.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(narrow, wide):
        raise Rejected("an element is out of its datatype's range")
    return narrow


# --- codecs --------------------------------------------------------------------------------------------------------


def _coded(tensor: Array, codec: Codec) -> bytes | None:
    """The tensor's bytes in the codec; None where that is not for it or does not make it smaller."""
    if tensor.nbytes > MAX_CODED_BYTES:
        return None
    if codec == "zlib":
        data = zlib.compress(np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).tobytes(), 1)
        return data if len(data) < tensor.nbytes else None
    if codec == "jpeg" and tensor.dtype == np.uint8 and _image_shape(tensor.shape) is not None:
        import cv2

        quality = [int(cv2.IMWRITE_JPEG_QUALITY), JPEG_QUALITY]
        done, coded = cv2.imencode(".jpg", tensor.reshape(_image_shape(tensor.shape)), quality)
        return coded.tobytes() if done else None
    return None


def _decoded(codec: str, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any], size_bytes: int) -> Array:
    if codec == "zlib":
        return np.frombuffer(_inflated(data, size_bytes), dtype).reshape(shape)
    if codec == "jpeg":
        return _jpeg_decoded(data, shape, dtype)
    raise Rejected("unknown codec")


def _inflated(data: bytes, size_bytes: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        # A byte more than is wanted: a stream that ends just there has not shown its end mark yet.
        plain = stream.decompress(data, size_bytes + 1)
    except zlib.error:
        raise Rejected("zlib contents are damaged") from None
    if len(plain) != size_bytes or not stream.eof:
        raise Rejected("shape contradicts the number of bytes")
    return plain


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """(h, w) or (h, w, 3) of an image that JPEG can hold, an axis of one in front dropped; else None."""
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    colour = len(shape) == 3 and shape[2] == 3
    return shape if (colour or len(shape) == 2) and all(0 < side < 65_500 for side in shape[:2]) else None


def _jpeg_decoded(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    image_shape = _image_shape(shape)
    if dtype != np.uint8 or image_shape is None:
        raise Rejected("JPEG contents of a tensor that is no image")
    if _jpeg_size(data) != image_shape[:2]:
        raise Rejected("shape contradicts the JPEG's size")
    import cv2

    # Not turned by its EXIF: a tensor is what its shape says.
    flags = (cv2.IMREAD_COLOR if len(image_shape) == 3 else cv2.IMREAD_GRAYSCALE) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image: Array | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None or image.shape != image_shape:
        raise Rejected("JPEG contents are damaged")
    return image.reshape(shape)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG's frame header (ITU-T T.81, B.2.2) announces, read before anything is allocated."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + length
    return None
