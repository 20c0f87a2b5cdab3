"""Images into tensors, and boxes back: against plain numpy, and round trips."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.images import TensorMaker, bgr_from_image, place
from perception.model_spec import Fit, ModelSpec
from tercel.core.errors import Rejected
from tercel.core.messages import Image

FITS: tuple[Fit, ...] = ("letterbox_top_left", "letterbox_centred", "stretch")


def image_of(pixels: Any, encoding: str) -> Image:
    return Image(stamp_ns=0, frame_id="camera", pixels=pixels, encoding=encoding)


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def spec_of(fit: Fit, **changes: Any) -> ModelSpec:
    values: dict[str, Any] = {"pad_value": 114, "mean": (103.5, 116.3, 123.7), "std": (57.4, 57.1, 58.4)}
    return ModelSpec("yolox", 96, 128, fit, ("thing",), **(values | changes))


def test_every_colour_encoding_becomes_the_same_bgr_image() -> None:
    bgr = random_pixels(5, 7, 3)
    alpha = random_pixels(5, 7, 1)
    assert np.array_equal(bgr_from_image(image_of(bgr, "bgr8")), bgr)
    assert np.array_equal(bgr_from_image(image_of(bgr[..., ::-1], "rgb8")), bgr)
    assert np.array_equal(bgr_from_image(image_of(np.dstack([bgr, alpha]), "bgra8")), bgr)
    assert np.array_equal(bgr_from_image(image_of(np.dstack([bgr[..., ::-1], alpha]), "rgba8")), bgr)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_a_mono_image_gives_three_equal_channels(shape: tuple[int, ...]) -> None:
    grey = random_pixels(*shape)
    bgr = bgr_from_image(image_of(grey, "mono8"))
    assert np.array_equal(bgr, np.repeat(grey.reshape(5, 7, 1), 3, axis=2))


def test_of_16_bit_pixels_the_upper_byte_is_taken_as_opencv_reads_such_files() -> None:
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (6, 8, 3)).astype(np.uint16)
    opaque = np.full((6, 8, 1), 65535, np.uint16)
    bgr = np.asarray(cv2.imdecode(cv2.imencode(".png", pixels)[1], cv2.IMREAD_COLOR))
    assert np.array_equal(bgr_from_image(image_of(pixels, "bgr16")), bgr)
    assert np.array_equal(bgr_from_image(image_of(pixels[..., ::-1], "rgb16")), bgr)
    assert np.array_equal(bgr_from_image(image_of(np.dstack([pixels, opaque]), "bgra16")), bgr)
    assert np.array_equal(bgr_from_image(image_of(np.dstack([pixels[..., ::-1], opaque]), "rgba16")), bgr)
    grey = np.asarray(cv2.imdecode(cv2.imencode(".png", pixels[..., 0])[1], cv2.IMREAD_COLOR))
    assert np.array_equal(bgr_from_image(image_of(pixels[..., 0], "mono16")), grey)


@pytest.mark.parametrize(
    ("pixels", "encoding", "reason"),
    [
        (np.zeros((4, 4), np.uint8), "mono16", "not uint16"),
        (np.zeros((4, 4, 3), np.uint16), "bgr8", "not uint8"),
        (np.full((4, 4), np.nan, np.float32), "32FC1", "not a colour image"),
        (np.zeros((4, 4), np.uint16), "16UC1", "not a colour image"),
        (np.zeros((4, 4, 2), np.uint8), "yuv422", "not a colour image"),
        (np.full((4, 4, 3), np.nan, np.float32), "bgr8", "not uint8"),
        (np.zeros((4, 4), np.uint8), "bgr8", "channels"),
        (np.zeros((4, 4, 4), np.uint8), "rgb8", "channels"),
        (np.zeros((4, 4, 3), np.uint8), "mono8", "channels"),
        (np.zeros((0, 4, 3), np.uint8), "bgr8", "empty"),
        (np.zeros((4, 0, 3), np.uint8), "rgb8", "empty"),
        (np.zeros((1, 40000), np.uint8), "mono8", "too large"),
    ],
)
def test_an_unusable_image_is_rejected(pixels: np.ndarray, encoding: str, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        bgr_from_image(image_of(pixels, encoding))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(48, 200), (200, 48), (96, 128), (37, 41), (1, 1), (1, 900)])
def test_the_tensor_equals_the_plain_numpy_one(fit: Fit, size: tuple[int, int]) -> None:
    bgr = random_pixels(*size, 3)
    spec = spec_of(fit)
    tensor, where = TensorMaker(spec)(bgr)
    canvas = np.full((96, 128, 3), 114, np.uint8)
    resized = cv2.resize(bgr, (where.placed_width_px, where.placed_height_px))
    top, left = where.offset_y_px, where.offset_x_px
    canvas[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    plain = ((canvas.astype(np.float64) - spec.mean) / spec.std).transpose(2, 0, 1)[None]
    assert tensor.dtype == np.float32
    assert tensor.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(tensor, plain, rtol=1e-6, atol=1e-6)


def test_an_rgb_network_gets_its_channels_in_that_order() -> None:
    bgr = random_pixels(96, 128, 3)
    spec = spec_of("stretch", colour="rgb")
    tensor, _ = TensorMaker(spec)(bgr)
    np.testing.assert_allclose(tensor[0], ((bgr[..., ::-1] - np.array(spec.mean)) / spec.std).transpose(2, 0, 1), 1e-5)


@pytest.mark.parametrize(("layout", "dtype"), [("nhwc", "float32"), ("nchw", "float16"), ("nhwc", "uint8")])
def test_a_network_gets_its_own_layout_and_dtype(layout: Any, dtype: Any) -> None:
    bgr = random_pixels(96, 128, 3)
    spec = spec_of("stretch", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), layout=layout, dtype=dtype)
    tensor, _ = TensorMaker(spec)(bgr)
    assert (tensor.shape, tensor.dtype.name) == (spec.input_shape, dtype)
    assert np.array_equal(tensor[0], bgr if layout == "nhwc" else bgr.transpose(2, 0, 1))
    assert tensor.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (0, 0, 0), "std": (1, 1, 1)},
        {"mean": (0, 0, 0), "std": (255, 255, 255)},
        {"mean": (0, 0, 0), "std": (57.375, 255, 58.395)},  # divided in float32, blue and red would be off by a bit
        {"mean": (127.5, 127.5, 127.5), "std": (128, 128, 128)},
        {"mean": (103.53, 116.28, 123.675), "std": (57.375, 57.12, 58.395)},
    ],
)
@pytest.mark.parametrize("colour", ["bgr", "rgb"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("fit", FITS)
def test_every_way_of_normalising_gives_the_float64_result_rounded_once(
    values: dict[str, Any], colour: Any, layout: Any, fit: Fit
) -> None:
    spec = spec_of(fit, colour=colour, layout=layout, **values)
    make_tensor = TensorMaker(spec)
    for size in ((90, 70), (70, 90), (1, 1)):  # padding at the sides, above and below, and a change of size
        tensor, where = make_tensor(random_pixels(*size, 3))
        top, left = where.offset_y_px, where.offset_x_px
        canvas = np.full((96, 128, 3), 114, np.uint8)
        resized = cv2.resize(random_pixels(*size, 3), (where.placed_width_px, where.placed_height_px))
        canvas[top : top + where.placed_height_px, left : left + where.placed_width_px] = resized
        channels = canvas if colour == "bgr" else canvas[..., ::-1]
        exact = ((channels.astype(np.float64) - spec.mean) / spec.std).astype(np.float32)
        assert np.array_equal(tensor[0], exact if layout == "nhwc" else exact.transpose(2, 0, 1))


def test_an_image_of_8k_and_one_of_a_pixel_make_tensors_of_the_networks_size() -> None:
    make_tensor = TensorMaker(spec_of("letterbox_centred"))
    for pixels in (np.full((4320, 7680, 3), 200, np.uint8), np.full((1, 1, 3), 200, np.uint8)):
        tensor, where = make_tensor(pixels)
        assert tensor.shape == (1, 3, 96, 128)
        assert np.isfinite(tensor).all()
        assert where.boxes_to_image(np.array([[0, 0, 128, 96]])).tolist() == [[0, 0, *pixels.shape[1::-1]]]


def test_a_tensor_does_not_change_when_the_next_image_is_made() -> None:
    make_tensor = TensorMaker(spec_of("letterbox_centred"))
    first, _ = make_tensor(random_pixels(60, 80, 3))
    before = first.copy()
    make_tensor(np.zeros((80, 60, 3), np.uint8))
    assert np.array_equal(first, before)


def test_padding_is_renewed_when_the_image_size_changes() -> None:
    make_tensor = TensorMaker(spec_of("letterbox_top_left"))
    make_tensor(np.full((200, 48, 3), 255, np.uint8))
    tensor, _ = make_tensor(np.zeros((48, 200, 3), np.uint8))
    fresh, _ = TensorMaker(spec_of("letterbox_top_left"))(np.zeros((48, 200, 3), np.uint8))
    assert np.array_equal(tensor, fresh)


@pytest.mark.parametrize("fit", FITS)
def test_a_painted_rectangle_maps_back_to_where_it_was_painted(fit: Fit) -> None:
    bgr = np.zeros((300, 500, 3), np.uint8)
    bgr[120:210, 200:350] = 255
    tensor, where = TensorMaker(spec_of(fit, pad_value=0, mean=(0, 0, 0), std=(255, 255, 255)))(bgr)
    rows, columns = np.nonzero(tensor[0, 0] > 0.5)
    seen = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
    pixel = 1.0 / min(where.scale_xy)  # one pixel of the network, in the image's
    np.testing.assert_allclose(where.boxes_to_image(seen), [[200, 120, 350, 210]], atol=pixel)


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    fit=st.sampled_from(FITS),
    corners=st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4),
)
def test_boxes_go_to_the_network_and_back_unchanged(height: int, width: int, fit: Fit, corners: list[float]) -> None:
    where = place(height, width, 96, 128, fit)
    boxes = np.array([corners]) * [width, height, width, height]
    inside = where.boxes_to_input(boxes)
    assert (inside >= -1e-9).all()
    assert (inside <= np.array([128, 96, 128, 96]) + 1e-9).all()
    np.testing.assert_allclose(where.boxes_to_image(inside), boxes, rtol=1e-6, atol=1e-6 * max(height, width))


@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
@settings(max_examples=50)
def test_a_letterbox_keeps_the_aspect_ratio_to_half_a_pixel_and_fills_one_side(height: int, width: int) -> None:
    where = place(height, width, 96, 128, "letterbox_centred")
    scale = min(96 / height, 128 / width)
    assert abs(where.placed_width_px - max(width * scale, 1)) <= 0.5 + 1e-9
    assert abs(where.placed_height_px - max(height * scale, 1)) <= 0.5 + 1e-9
    assert where.placed_width_px == 128 or where.placed_height_px == 96


def test_boxes_outside_of_the_image_are_clipped_to_it() -> None:
    where = place(480, 640, 320, 320, "letterbox_centred")
    clipped = where.boxes_to_image(np.array([[-100.0, 0.0, 400.0, 320.0]]))
    assert np.array_equal(clipped, [[0, 0, 640, 480]])


def test_read_only_and_mirrored_pixels_are_taken() -> None:
    pixels = random_pixels(60, 80, 3)
    expected, _ = TensorMaker(spec_of("stretch"))(pixels[:, ::-1].copy())
    pixels.setflags(write=False)
    tensor, _ = TensorMaker(spec_of("stretch"))(bgr_from_image(image_of(pixels[:, ::-1], "bgr8")))
    assert np.array_equal(tensor, expected)
