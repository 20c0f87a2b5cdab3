"""Images of every encoding, and what components get of them."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
import pytest

from tercel.core.errors import Rejected
from tercel.core.messages import CompressedImage, Image
from tercel.ros import convert
from tercel.ros.layouts import ENCODINGS, decompress, image_for_ports, pixels_from_buffer, to_bgr8
from tercel.ros.store import make

CV_TYPES = [f"{t}C{n}" for t in ("8U", "8S", "16U", "16S", "32S", "32F", "64F") for n in ("", "1", "2", "3", "4")]
CV_DTYPES = {"8U": "u1", "8S": "i1", "16U": "u2", "16S": "i2", "32S": "i4", "32F": "f4", "64F": "f8"}


def layout_of(encoding: str) -> tuple[np.dtype, int]:
    """Dtype and channels as the encoding's name spells them: read here once more, as image_encodings.hpp words it."""
    if encoding in CV_TYPES:
        kind, channels = encoding.split("C")
        return np.dtype(CV_DTYPES[kind]), int(channels or 1)
    dtype = np.dtype("u2" if encoding.endswith("16") else "u1")
    if encoding.startswith(("rgba", "bgra")):
        return dtype, 4
    if encoding.startswith(("rgb", "bgr")):
        return dtype, 3
    return dtype, 2 if encoding in ("yuv422", "yuv422_yuy2", "uyvy", "yuyv") else 1


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", [*sorted(ENCODINGS), *CV_TYPES])
def test_images_of_every_encoding_with_padded_rows_and_either_byte_order(encoding: str, big_endian: bool) -> None:
    dtype, channels = layout_of(encoding)
    rng = np.random.default_rng(1)
    rows = {"nv12": 6, "nv21": 6, "nv24": 12}.get(encoding, 4)
    shape = (rows, 6) if channels == 1 else (rows, 6, channels)
    pixels = rng.integers(0, 100, shape).astype(dtype)
    wire = pixels.astype(dtype.newbyteorder(">" if big_endian else "<"))
    padded = np.pad(wire.reshape(rows, -1).view(np.uint8), ((0, 0), (0, 5)))
    arguments: dict[str, Any] = {"height": 4, "width": 6, "step": padded.shape[1], "encoding": encoding}
    view = pixels_from_buffer(padded.reshape(-1), **arguments, big_endian=big_endian)
    np.testing.assert_array_equal(view, pixels)
    assert np.shares_memory(view, padded)
    ros = make(
        "sensor_msgs/msg/Image", header=make("std_msgs/msg/Header"), data=padded.reshape(-1),
        is_bigendian=int(big_endian), **arguments,
    )  # fmt: skip
    image = convert.decode("sensor_msgs/msg/Image", convert.STORE.serialize_cdr(ros, "sensor_msgs/msg/Image"))
    assert isinstance(image, Image)
    assert image.pixels.dtype == dtype
    np.testing.assert_array_equal(image.pixels, pixels)
    again: Any = convert.to_ros(image)[1]
    assert (again.height, again.width, again.encoding, again.is_bigendian) == (4, 6, encoding, 0)
    assert bytes(again.data) == pixels.astype(dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "holographic"}, "unknown image encoding 'holographic'"),
        ({"encoding": "8UC0"}, "unknown"),
        ({"encoding": "8UC999"}, "unknown"),
        ({"height": 2**32 - 1, "width": 2**32 - 1, "step": 0}, "shorter"),
        ({"height": 2**32 - 1, "step": 2**32 - 1}, "shorter"),
        ({"encoding": "32FC1"}, "shorter"),
        ({"encoding": "nv24"}, "shorter"),
        ({"height": 0}, "without pixels"),
        ({"height": 9}, "shorter"),
        ({"step": 3}, "shorter"),
    ],
)
def test_bad_images_are_rejected_with_the_reason(change: dict[str, Any], reason: str) -> None:
    arguments = {"height": 2, "width": 2, "step": 6, "encoding": "bgr8", "big_endian": False, **change}
    with pytest.raises(Rejected, match=reason):
        pixels_from_buffer(np.zeros(12, np.uint8), **arguments)


def compressed(data: bytes) -> CompressedImage:
    return CompressedImage(stamp_ns=1, frame_id="camera", format="x", data=np.frombuffer(data, np.uint8))


def test_compressed_images_decode_to_their_own_kind() -> None:
    colour = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    depth = np.arange(72, dtype=np.uint16).reshape(8, 9) * 900
    for pixels, encoding in ((colour, "bgr8"), (colour[:, :, 0], "mono8"), (depth, "16UC1")):
        image = decompress(compressed(cv2.imencode(".png", pixels)[1].tobytes()))
        assert image.encoding == encoding
        np.testing.assert_array_equal(image.pixels, pixels)


@pytest.mark.parametrize("data", [b"", b"x", b"\x89PNG\r\n\x1a\nnot a png at all", b"\xff\xd8\xff broken"])
def test_compressed_images_that_do_not_decode_are_rejected(data: bytes) -> None:
    with pytest.raises(Rejected):
        decompress(compressed(data))


def test_a_png_that_claims_a_huge_size_is_rejected_before_memory_is_taken() -> None:
    png = bytearray(cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1].tobytes())
    png[16:24] = (100_000).to_bytes(4, "big") * 2
    with pytest.raises(Rejected, match="too large"):
        decompress(compressed(bytes(png)))


def test_a_jpeg_that_claims_a_huge_size_or_is_cut_off_is_rejected() -> None:
    jpeg = bytearray(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    assert decompress(compressed(bytes(jpeg))).pixels.shape == (64, 64, 3)
    with pytest.raises(Rejected, match="cut off"):
        decompress(compressed(bytes(jpeg[: len(jpeg) * 3 // 4])))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (60_000).to_bytes(2, "big") * 2
    with pytest.raises(Rejected, match="too large"):
        decompress(compressed(bytes(jpeg)))


def image_of(pixels: np.ndarray, encoding: str) -> Image:
    return Image(stamp_ns=1, frame_id="camera", pixels=pixels, encoding=encoding)


RED, GREEN, BLUE = 200, 120, 40


def yuv_of_the_colour() -> tuple[int, int, int]:
    """BT.601 in video range, from the standard's own fractions."""
    red, green, blue = RED / 255, GREEN / 255, BLUE / 255
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return (
        round(16 + 219 * luma),
        round(128 + 224 * (blue - luma) / (2 * (1 - 0.114))),
        round(128 + 224 * (red - luma) / (2 * (1 - 0.299))),
    )


def raw_picture(encoding: str) -> np.ndarray:
    """A picture of one colour, 8 by 6, as a camera sends it."""
    y, u, v = yuv_of_the_colour()
    grey = np.full((6, 8), y, np.uint8)
    if encoding in ("uyvy", "yuv422"):
        return np.dstack([np.tile(np.uint8([u, v]), (6, 4)), grey])
    if encoding in ("yuyv", "yuv422_yuy2"):
        return np.dstack([grey, np.tile(np.uint8([u, v]), (6, 4))])
    if encoding in ("nv12", "nv21"):
        return np.vstack([grey, np.tile(np.uint8([u, v] if encoding == "nv12" else [v, u]), (3, 4))])
    if encoding == "nv24":
        return np.vstack([grey, np.tile(np.uint8([u, v]), (12, 4))])
    if encoding.startswith("bayer_"):
        levels = {"r": RED, "g": GREEN, "b": BLUE}
        tile = np.array([levels[c] for c in encoding[6:10]], np.uint8).reshape(2, 2)
        mosaic = np.tile(tile, (3, 4))
        return mosaic if encoding.endswith("8") else mosaic.astype(np.uint16) * 256 + 77
    order = {"rgb16": [RED, GREEN, BLUE], "bgr16": [BLUE, GREEN, RED]}[encoding.replace("a", "")]
    alpha = [255] if "a" in encoding else []
    return np.tile(np.uint16([*order, *alpha]) * 256 + 77, (6, 8, 1))


RAW = [e for e in ENCODINGS if e.startswith(("bayer_", "yuv", "uyvy", "yuyv", "nv")) or e[-2:] == "16"]


@pytest.mark.parametrize("encoding", sorted(set(RAW) - {"mono16"}))
def test_what_cameras_send_raw_becomes_the_colour_that_it_was(encoding: str) -> None:
    image = image_for_ports(image_of(raw_picture(encoding), encoding))
    assert isinstance(image, Image)
    assert (image.encoding, image.pixels.shape, image.pixels.dtype) == ("bgr8", (6, 8, 3), np.uint8)
    worst = np.abs(image.pixels.astype(int) - [BLUE, GREEN, RED]).max()
    assert worst <= (3 if encoding.startswith(("yuv", "uyvy", "yuyv", "nv")) else 0)


@pytest.mark.parametrize("encoding", ["bgr8", "rgb8", "bgra8", "rgba8", "mono8", "mono16", "16UC1", "32FC1", "32SC2"])
def test_images_that_components_know_and_those_that_nobody_can_use_are_left_as_they_are(encoding: str) -> None:
    dtype, channels = layout_of(encoding)
    image = image_of(np.zeros((4, 4, channels) if channels > 1 else (4, 4), dtype), encoding)
    assert image_for_ports(image) is image


@pytest.mark.parametrize(("plain", "name"), [("8UC1", "mono8"), ("8UC3", "bgr8"), ("8UC4", "bgra8"), ("16UC", "16UC1")])
def test_plain_types_get_their_usual_name_and_keep_their_pixels(plain: str, name: str) -> None:
    dtype, channels = layout_of(plain)
    image = image_of(np.zeros((4, 4, channels) if channels > 1 else (4, 4), dtype), plain)
    assert to_bgr8(image).encoding == name
    assert to_bgr8(image).pixels is image.pixels


@pytest.mark.parametrize(("encoding", "shape"), [("uyvy", (3, 3, 2)), ("nv12", (4, 5)), ("nv21", (3, 3))])
def test_a_size_that_its_encoding_cannot_have_is_rejected(encoding: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(Rejected, match=f"does not fit encoding {encoding}"):
        to_bgr8(image_of(np.zeros(shape, np.uint8), encoding))


def test_decoding_for_ports_gives_pixels_of_a_compressed_and_of_a_raw_image() -> None:
    jpeg = cv2.imencode(".jpg", np.full((8, 8, 3), 90, np.uint8))[1].reshape(-1)
    for message in (
        CompressedImage(stamp_ns=1, frame_id="camera", format="jpeg", data=jpeg),
        image_of(raw_picture("bayer_grbg8"), "bayer_grbg8"),
    ):
        ros_type, data = convert.encode(message)
        image = convert.decode(ros_type, data, images=True)
        assert isinstance(image, Image)
        assert image.encoding == "bgr8"
        assert type(convert.decode(ros_type, data)) is type(message)


def test_depth_of_the_compressed_depth_transport_comes_back_in_metres() -> None:
    depth_m = np.array([[0.5, 1.0, 2.0], [4.0, 8.0, np.nan]], np.float32)
    a, b = 100.0 * 101.0, 1.0 - 100.0 * 101.0 / 10.0
    stored = np.where(np.isnan(depth_m), 0, np.rint(a / np.nan_to_num(depth_m, nan=1.0) + b)).astype(np.uint16)
    png = cv2.imencode(".png", stored)[1].tobytes()
    data = np.frombuffer(struct.pack("<iff", 0, a, b) + png, np.uint8)
    image = decompress(CompressedImage(stamp_ns=1, frame_id="d", format="32FC1; compressedDepth", data=data))
    assert image.encoding == "32FC1"
    np.testing.assert_allclose(image.pixels, depth_m, rtol=0.01)
    millimetres = decompress(CompressedImage(stamp_ns=1, frame_id="d", format="16UC1; compressedDepth png", data=data))
    assert millimetres.encoding == "16UC1"
    np.testing.assert_array_equal(millimetres.pixels, stored)
