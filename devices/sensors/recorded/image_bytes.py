"""JPEG and PNG files as messages, without decoding: the bytes pass through, only their headers are read.

A PNG (ISO/IEC 15948) is checked chunk by chunk against its CRCs, a JPEG (ITU T.81) for its frame header and its end
marker, so a truncated file is found here, where a decoder would fill the missing part with grey.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tercel.core.messages import CameraInfo, CompressedImage

Array = NDArray[Any]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_PIXELS = 1 << 27
MAX_FILE_BYTES = 1 << 28

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_ENCODINGS = {
    (0, 16): "mono16", (2, 8): "bgr8", (2, 16): "bgr16", (3, 8): "bgr8", (4, 8): "bgra8", (4, 16): "bgra16",
    (6, 8): "bgra8", (6, 16): "bgra16",
}  # fmt: skip


@dataclass(frozen=True)
class ImageFile:
    """An image file in memory. encoding: the ROS name of what it decodes to."""

    kind: Literal["jpeg", "png"]
    width_px: int
    height_px: int
    encoding: str
    data: bytes


def read_image(path: Path) -> ImageFile:
    """Read and check a JPEG or PNG file. Raises ValueError if it is damaged or another format."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError("the file is too large for an image")
    return parse_image(path.read_bytes())


def parse_image(data: bytes) -> ImageFile:
    """Check a JPEG or PNG. Raises ValueError if it is damaged or another format."""
    if data.startswith(_PNG_START):
        image = _parse_png(data)
    elif data.startswith(b"\xff\xd8"):
        image = _parse_jpeg(data)
    else:
        raise ValueError("neither a JPEG nor a PNG file" if data else "the file is empty")
    if not 0 < image.width_px * image.height_px <= MAX_PIXELS:
        raise ValueError(f"an image of {image.width_px} x {image.height_px} px")
    return image


def _parse_png(data: bytes) -> ImageFile:
    view, at, header = memoryview(data), len(_PNG_START), b""
    while True:
        length, name = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 12 + length
        if len(name) < 4 or end > len(data):
            raise ValueError("the PNG ends early")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ValueError("the PNG's checksum is wrong")
        header = bytes(view[at + 8 : end - 4]) if name == b"IHDR" else header
        if name == b"IEND":
            break
        at = end
    if len(header) != 13:
        raise ValueError("the PNG has no header")
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits, colour = header[8], header[9]
    return ImageFile("png", width, height, _PNG_ENCODINGS.get((colour, bits), "bgr8" if colour == 3 else "mono8"), data)


def _parse_jpeg(data: bytes) -> ImageFile:
    size: tuple[int, int, int] | None = None
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("the JPEG's headers are damaged")
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 10 <= len(data):
            height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            size = (width, height, data[at + 9])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            break
    # In the coded data that follows, FF is written FF 00: the next FF D9 really is the end.
    if size is None or data.find(b"\xff\xd9", at) < 0:
        raise ValueError("the JPEG ends early")
    return ImageFile("jpeg", size[0], size[1], "mono8" if size[2] == 1 else "bgr8", data)


def compressed_image(image: ImageFile, stamp_ns: int, frame_id: str) -> CompressedImage:
    """The file's own bytes as a message: "bgr8; jpeg compressed bgr8", "mono8; png compressed mono8"..."""
    return CompressedImage(
        stamp_ns=stamp_ns,
        frame_id=frame_id,
        format=f"{image.encoding}; {image.kind} compressed {image.encoding}",
        data=np.frombuffer(image.data, np.uint8),
    )


def camera_info(image: ImageFile, intrinsics: Array, stamp_ns: int, frame_id: str) -> CameraInfo:
    """A rectified, undistorted camera of the image's size; intrinsics (3, 3) in px."""
    return CameraInfo(
        stamp_ns=stamp_ns,
        frame_id=frame_id,
        width_px=image.width_px,
        height_px=image.height_px,
        intrinsics=intrinsics,
        distortion_model="plumb_bob",
        distortion=np.zeros(5),
        rectification=np.eye(3),
        projection=np.column_stack([intrinsics, np.zeros(3)]),
    )


def read_depth_mm(path: Path, *, units_per_m: float, invalid: int) -> ImageFile:
    """A 16-bit depth PNG brought to millimetres, 0 where there is none; beyond 65.535 m it is 0 too.

    units_per_m: the file's scale (TUM 5000, 7-Scenes 1000). invalid: the value that means no depth, besides 0. The
    file's own bytes are kept if they already say that. Raises ValueError if it is damaged or not 16 bits grey.
    """
    image = read_image(path)
    if image.encoding != "mono16":
        raise ValueError(f"a depth image is a 16-bit grey PNG; this is {image.encoding}")
    raw = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype != np.uint16 or raw.shape != (image.height_px, image.width_px):
        raise ValueError("the PNG cannot be decoded")
    depth_mm = np.rint(raw * (1000.0 / units_per_m))
    depth_mm = np.where((raw == invalid) | (depth_mm > 65535), 0, depth_mm).astype(np.uint16)
    if np.array_equal(depth_mm, raw):
        return image
    ok, encoded = cv2.imencode(".png", depth_mm, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not ok:
        raise ValueError("the depth image cannot be encoded")
    return ImageFile("png", image.width_px, image.height_px, "mono16", encoded.tobytes())


def compressed_depth(image: ImageFile, stamp_ns: int, frame_id: str) -> CompressedImage:
    """A depth PNG in millimetres as a message."""
    data = np.frombuffer(image.data, np.uint8)
    return CompressedImage(stamp_ns=stamp_ns, frame_id=frame_id, format="16UC1; png compressed", data=data)
