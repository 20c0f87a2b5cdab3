"""The images of a sequence, found by frame number, and small enough to stand in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.reading import files_with, numbered_files

Array = NDArray[Any]

_IMAGES = (".jpg", ".jpeg", ".png")
_WIDTHS_PX = (640, 480, 320)
_QUALITY = 55
_FEW = 60  # rather smaller pictures than fewer
_PROBES = 3


def find_images(folder: Path, name: str, *, alone: bool) -> dict[int, Path]:
    """The image of each frame of a sequence, none if there is no folder of them.

    Looked for in MOTChallenge's and KITTI's places below folder; if the sequence is alone, also in the folder itself.
    """
    places = [folder / name / "img1", folder / name, folder / "image_02" / name]
    places += [folder / "img1", folder] if alone else []
    for place in places:
        if files_with(place, _IMAGES):
            return dict(numbered_files(place, _IMAGES, []))
    return {}


def read_image(path: Path | None) -> Array | None:
    """An image (H, W, 3) uint8 BGR; None if there is none or it cannot be read."""
    if path is None or not path.is_file():
        return None
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if not len(data):
        return None
    pixels: Array | None = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return pixels


def size_of(images: Mapping[int, Path]) -> tuple[int, int] | None:
    """Width and height of the first image that can be read, px."""
    for path in list(images.values())[:_PROBES]:
        pixels = read_image(path)
        if pixels is not None:
            return pixels.shape[1], pixels.shape[0]
    return None


def fit(images: Mapping[int, Path], frames: Sequence[int], budget_bytes: int) -> tuple[int, int]:
    """At which width (px), and every how many-th of the frames, the images stay within a number of bytes."""
    width_px, every = _WIDTHS_PX[-1], len(frames)
    for width_px in _WIDTHS_PX:
        probes = [images[frame] for frame in frames if frame in images][:: max(1, len(images) // _PROBES)]
        sizes = [len(jpeg) for path in probes[:_PROBES] if (jpeg := small_jpeg(path, width_px)) is not None]
        most = max(1, int(budget_bytes / (max(sizes, default=1) * 1.15)))  # others may be larger
        every = -(-len(frames) // most)
        if most >= min(_FEW, len(frames)):
            break
    return width_px, max(1, every)


def small_jpeg(path: Path | None, width_px: int) -> bytes | None:
    """The image as a JPEG at most width_px wide; None if it cannot be read."""
    pixels = read_image(path)
    if pixels is None:
        return None
    if pixels.shape[1] > width_px:
        height_px = max(1, round(pixels.shape[0] * width_px / pixels.shape[1]))
        pixels = cv2.resize(pixels, (width_px, height_px), interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])
