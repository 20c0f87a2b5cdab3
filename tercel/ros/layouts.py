"""sensor_msgs/Image of every encoding as pixels, and what components can use of it.

Pixels are views of the message's bytes. Components know colour and grey of 8 bits and depth (16UC1 in mm, 32FC1 in m);
what cameras send raw (Bayer, YUV, 16-bit colour) and compressed becomes BGR at one place, `image_for_ports`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tercel.core.messages import CompressedImage, Image, Message

Array = NDArray[Any]

# sensor_msgs/image_encodings.hpp: numpy dtype and channels. Names that it lacks but drivers use: nv12.
ENCODINGS: dict[str, tuple[str, int]] = {
    "bgr8": ("u1", 3), "rgb8": ("u1", 3), "bgra8": ("u1", 4), "rgba8": ("u1", 4), "mono8": ("u1", 1),
    "bgr16": ("u2", 3), "rgb16": ("u2", 3), "bgra16": ("u2", 4), "rgba16": ("u2", 4), "mono16": ("u2", 1),
    "yuv422": ("u1", 2), "uyvy": ("u1", 2), "yuv422_yuy2": ("u1", 2), "yuyv": ("u1", 2),
    "nv12": ("u1", 1), "nv21": ("u1", 1), "nv24": ("u1", 1),
    **{f"bayer_{order}{bits}": (f"u{bits // 8}", 1) for order in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)},
}  # fmt: skip
# OpenCV's types: "16UC1", and "16UC" for the same.
_CV_TYPE = re.compile(r"(8U|8S|16U|16S|32S|32F|64F)C([1-9][0-9]?)?")
_CV_DTYPES = {"8U": "u1", "8S": "i1", "16U": "u2", "16S": "i2", "32S": "i4", "32F": "f4", "64F": "f8"}
# Rows of bytes for two rows of pixels: the colours of NV12 and NV21 lie behind the grey, one row for two; NV24's, two.
_ROWS_FOR_TWO = {"nv12": 3, "nv21": 3, "nv24": 6}

MAX_PIXELS = 1 << 27
_DEPTH_HEADER = Struct("<iff")


@lru_cache(maxsize=64)
def encoding_layout(encoding: str) -> tuple[str, int]:
    """The numpy dtype ("u1" .. "f8") and channels of an encoding. Raises Rejected if nobody has heard of it."""
    if encoding in ENCODINGS:
        return ENCODINGS[encoding]
    match = _CV_TYPE.fullmatch(encoding)
    if match is None:
        raise Rejected(f"unknown image encoding {encoding[:32]!r}")
    return _CV_DTYPES[match[1]], int(match[2] or 1)


def rows_of(encoding: str, height: int) -> int:
    """The rows of bytes in an image of so many rows of pixels: more than those where colours lie behind the grey."""
    return height * _ROWS_FOR_TWO.get(encoding, 2) // 2


def height_of(image: Image) -> int:
    """The rows of pixels in an image, as ROS counts them."""
    return len(image.pixels) * 2 // _ROWS_FOR_TWO.get(image.encoding, 2)


def pixels_from_buffer(data: Array, *, height: int, width: int, step: int, encoding: str, big_endian: bool) -> Array:
    """Pixels (H, W) or (H, W, C) as a view of a ROS image's bytes, row padding left out.

    nv12 and nv21 give (H * 3 / 2, W), nv24 (H * 3, W), as OpenCV has them. Raises Rejected for an unknown encoding or a
    buffer shorter than the size it claims.
    """
    code, channels = encoding_layout(encoding)
    dtype = np.dtype((">" if big_endian else "<") + code)
    row_bytes = width * channels * dtype.itemsize
    step = step or row_bytes
    if height <= 0 or width <= 0:
        raise Rejected("image without pixels")
    rows = rows_of(encoding, height)
    if step < row_bytes or len(data) < step * (rows - 1) + row_bytes:
        raise Rejected("image data shorter than its size says")
    shape: tuple[int, ...] = (rows, width)
    strides: tuple[int, ...] = (step, channels * dtype.itemsize)
    if channels > 1:
        shape, strides = (*shape, channels), (*strides, dtype.itemsize)
    view: Array = np.ndarray(shape, dtype, data.data, 0, strides)
    return view


def image_for_ports(message: Message) -> Message:
    """What a port of type Image gets of a message: a compressed image decoded, a raw one of a camera in colour.

    Other messages, and images that components know, are returned as they are. Raises Rejected if it cannot be.
    """
    if isinstance(message, CompressedImage):
        return decompress(message)
    return to_bgr8(message) if isinstance(message, Image) else message


# The names of 8-bit colour that OpenCV's plain types stand for, as cv_bridge takes them.
_PLAIN = {"8UC1": "mono8", "8UC": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC": "16UC1", "32FC": "32FC1"}


def to_bgr8(image: Image) -> Image:
    """A Bayer, YUV or 16-bit colour image as bgr8 (of 16 bits the upper 8); plain types under their usual name.

    YUV is taken as cameras send it, BT.601 in video range. Other images are returned as they are. Raises Rejected where
    the size does not fit the encoding.
    """
    encoding = image.encoding
    if encoding in _PLAIN:
        return Image(stamp_ns=image.stamp_ns, frame_id=image.frame_id, pixels=image.pixels, encoding=_PLAIN[encoding])
    if encoding not in ENCODINGS or not encoding.startswith(("bayer_", "yuv", "uyvy", "yuyv", "nv", "rgb", "bgr")):
        return image
    if encoding.endswith("8") and not encoding.startswith("bayer_"):
        return image
    pixels = _colour(np.ascontiguousarray(image.pixels), encoding)
    return Image(stamp_ns=image.stamp_ns, frame_id=image.frame_id, pixels=pixels, encoding="bgr8")


def _colour(pixels: Array, encoding: str) -> Array:
    """(H, W, 3) uint8 BGR of raw pixels."""
    import cv2

    if pixels.dtype.itemsize == 2:
        pixels = (pixels >> 8).astype(np.uint8)
    if encoding == "nv24":
        return _bgr_of_nv24(pixels)
    # ROS names a Bayer pattern by its first two rows as they are read, OpenCV's long names do the same.
    codes = {
        "rgb16": cv2.COLOR_RGB2BGR, "rgba16": cv2.COLOR_RGBA2BGR, "bgra16": cv2.COLOR_BGRA2BGR,
        "yuv422": cv2.COLOR_YUV2BGR_UYVY, "uyvy": cv2.COLOR_YUV2BGR_UYVY,
        "yuv422_yuy2": cv2.COLOR_YUV2BGR_YUY2, "yuyv": cv2.COLOR_YUV2BGR_YUY2,
        "nv12": cv2.COLOR_YUV2BGR_NV12, "nv21": cv2.COLOR_YUV2BGR_NV21,
        "bayer_rggb": cv2.COLOR_BayerRGGB2BGR, "bayer_bggr": cv2.COLOR_BayerBGGR2BGR,
        "bayer_gbrg": cv2.COLOR_BayerGBRG2BGR, "bayer_grbg": cv2.COLOR_BayerGRBG2BGR,
    }  # fmt: skip
    name = re.sub("(8|16)$", "", encoding) if encoding.startswith("bayer_") else encoding
    if name == "bgr16":
        return pixels
    try:
        return np.asarray(cv2.cvtColor(pixels, codes[name]))
    except cv2.error:
        raise Rejected(f"image size does not fit encoding {encoding}") from None


def _bgr_of_nv24(pixels: Array) -> Array:
    """OpenCV knows no NV24: grey, then two bytes of colour for each pixel. BT.601, video range."""
    import cv2

    height, width = len(pixels) // 3, pixels.shape[1]
    yuv = np.dstack([pixels[:height], pixels[height:].reshape(height, width, 2)]).astype(np.float32)
    bgr_of_yuv = np.array([[1.164, 2.018, 0.0], [1.164, -0.391, -0.813], [1.164, 0.0, 1.596]], np.float32)
    offset = bgr_of_yuv @ np.array([-16.0, -128.0, -128.0], np.float32)
    bgr = cv2.transform(yuv, np.column_stack([bgr_of_yuv, offset]))
    return np.clip(np.rint(bgr), 0, 255).astype(np.uint8)


def decompress(message: CompressedImage) -> Image:
    """Decode a JPEG or PNG. Colour becomes bgr8, grey mono8, 16-bit 16UC1. Raises Rejected if it does not decode.

    "32FC1; compressedDepth" becomes 32FC1 in metres: compressed_depth_image_transport stores a / depth + b as a 16-bit
    PNG, and a and b before it.
    """
    is_depth = "compressedDepth" in message.format and len(message.data) > _DEPTH_HEADER.size
    image = _decoded(message, message.data[_DEPTH_HEADER.size :] if is_depth else message.data)
    if not is_depth or image.encoding != "16UC1" or not message.format.startswith("32FC1"):
        return image
    _, a, b = _DEPTH_HEADER.unpack(message.data[: _DEPTH_HEADER.size].tobytes())
    stored = image.pixels.astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        depth_m = np.where(stored > 0, np.float32(a) / (stored - np.float32(b)), np.float32(np.nan))
    return Image(stamp_ns=image.stamp_ns, frame_id=image.frame_id, pixels=depth_m, encoding="32FC1")


def _decoded(message: CompressedImage, data: Array) -> Image:
    import cv2

    size = _declared_size(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise Rejected("compressed image is too large")
    if _is_cut_off(data):
        raise Rejected("compressed image is cut off")
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise Rejected("compressed image does not decode")
    if pixels.dtype == np.uint16 and pixels.ndim == 2:
        encoding = "16UC1"
    elif pixels.dtype == np.uint8:
        encoding = "mono8" if pixels.ndim == 2 else {3: "bgr8", 4: "bgra8"}.get(pixels.shape[2], "")
    else:
        encoding = ""
    if not encoding:
        raise Rejected("compressed image has an unusual pixel format")
    return Image(stamp_ns=message.stamp_ns, frame_id=message.frame_id, pixels=pixels, encoding=encoding)


def _declared_size(data: Array) -> tuple[int, int] | None:
    """Width and height that a PNG's or JPEG's header claims, so that a small file cannot ask for gigabytes."""
    head = data[: 1 << 16].tobytes()
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
        return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    at = 2 if head.startswith(b"\xff\xd8") else len(head)
    while at + 9 <= len(head) and head[at] == 0xFF:  # a JPEG is a chain of segments: marker, length, body
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            return int.from_bytes(head[at + 7 : at + 9], "big"), int.from_bytes(head[at + 5 : at + 7], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def _is_cut_off(data: Array) -> bool:
    """Whether a JPEG lacks its end marker (cameras may pad behind it); OpenCV would fill the rest with grey."""
    return data[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in data[-4096:].tobytes()
