"""Plain files without a recording around them: a folder of clouds, a folder of images, a video.

They have no clock: file or frame i, in natural order of their names, is stamped EPOCH_NS + i / rate. A damaged file
keeps its place in time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.cloud_files import read_kitti_bin, read_nuscenes_bin, standard_columns
from devices.sensors.recorded.image_bytes import IMAGE_SUFFIXES, ImageFile, camera_info, compressed_image, read_image
from devices.sensors.recorded.pcd_files import read_pcd
from devices.sensors.recorded.ply_files import read_ply
from devices.sensors.recorded.reading import (
    Item,
    attempt,
    files_with,
    frame_time_ns,
    in_time_order,
    intrinsics_from_text,
    note,
    require_rate,
    short_name,
)
from tercel.core.errors import UserError
from tercel.core.messages import PointCloud

Array = NDArray[Any]
CloudArrays = tuple[Array, Array | None, Array | None]

CLOUD_SUFFIXES = (".ply", ".pcd", ".bin")


def read_clouds(source: Path, *, rate_hz: float = 10.0, problems: list[str] | None = None) -> Iterator[Item]:
    """A file or folder of PLY, PCD, KITTI .bin and nuScenes .pcd.bin sweeps, to /lidar/points.

    Raises UserError if there is none.
    """
    problems = [] if problems is None else problems
    require_rate(rate_hz)
    paths = _files(source, CLOUD_SUFFIXES, "clouds")
    return in_time_order([_cloud_items(paths, rate_hz, problems)], None, problems)


def read_cloud(path: Path) -> CloudArrays:
    """points_m (N, 3), intensity (N,) or None, ring (N,) or None, by the file's suffix. Raises ValueError, OSError."""
    name = path.name.lower()
    if name.endswith(".pcd.bin"):
        return read_nuscenes_bin(path)
    if name.endswith(".bin"):
        return (*read_kitti_bin(path), None)
    return standard_columns(read_ply(path) if name.endswith(".ply") else read_pcd(path))


def _cloud_items(paths: list[Path], rate_hz: float, problems: list[str]) -> Iterator[Item]:
    for number, path in enumerate(paths):
        arrays = attempt(read_cloud, path, problems)
        if arrays is None:
            continue
        points_m, intensity, ring = arrays
        points_m = points_m.astype(np.float32, copy=False)
        stamp_ns = frame_time_ns(number, rate_hz)
        cloud = PointCloud(stamp_ns=stamp_ns, frame_id="lidar", points_m=points_m, intensity=intensity, ring=ring)
        yield "/lidar/points", stamp_ns, cloud


def read_images(
    source: Path, *, rate_hz: float = 10.0, intrinsics: str = "", problems: list[str] | None = None
) -> Iterator[Item]:
    """A file or folder of JPEG and PNG images, to /camera/image; with intrinsics, /camera/camera_info too.

    The files' bytes are passed through. Raises UserError if there is none.
    """
    problems = [] if problems is None else problems
    require_rate(rate_hz)
    matrix = intrinsics_from_text(intrinsics) if intrinsics else None
    paths = _files(source, IMAGE_SUFFIXES, "images")
    return in_time_order([_image_items(paths, rate_hz, matrix, problems)], None, problems)


def _image_items(paths: list[Path], rate_hz: float, intrinsics: Array | None, problems: list[str]) -> Iterator[Item]:
    for number, path in enumerate(paths):
        image = attempt(read_image, path, problems)
        if image is not None:
            yield from _camera_items(image, frame_time_ns(number, rate_hz), intrinsics)


def _camera_items(image: ImageFile, stamp_ns: int, intrinsics: Array | None) -> Iterator[Item]:
    if intrinsics is not None:
        yield "/camera/camera_info", stamp_ns, camera_info(image, intrinsics, stamp_ns, "camera")
    yield "/camera/image", stamp_ns, compressed_image(image, stamp_ns, "camera")


def read_video(
    source: Path,
    *,
    rate_hz: float = 0.0,
    intrinsics: str = "",
    jpeg_quality: int = 90,
    problems: list[str] | None = None,
) -> Iterator[Item]:
    """A video file, each frame a JPEG on /camera/image. rate_hz 0 is the file's own rate.

    Raises UserError if OpenCV cannot open it, or it does not say its rate.
    """
    problems = [] if problems is None else problems
    if not 1 <= jpeg_quality <= 100:
        raise UserError(f"jpeg_quality is {jpeg_quality}; give 1 to 100")
    matrix = intrinsics_from_text(intrinsics) if intrinsics else None
    if not source.is_file():
        raise UserError(f"{source} is no file; video wants a video file")
    capture = cv2.VideoCapture(str(source))
    if not capture.isOpened():
        raise UserError(f"{source} cannot be opened as a video; convert it: ffmpeg -i {source.name} out.mp4")
    own_rate_hz = capture.get(cv2.CAP_PROP_FPS)
    if rate_hz == 0.0 and not (math.isfinite(own_rate_hz) and own_rate_hz > 0):
        raise UserError(f"{source} does not say its frame rate; give rate_hz=")
    rate_hz = require_rate(rate_hz or own_rate_hz)
    return in_time_order([_video_items(capture, source, rate_hz, matrix, jpeg_quality, problems)], None, problems)


def _video_items(
    capture: cv2.VideoCapture,
    source: Path,
    rate_hz: float,
    intrinsics: Array | None,
    jpeg_quality: int,
    problems: list[str],
) -> Iterator[Item]:
    expected, number = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
    try:
        while True:
            there, pixels = capture.read()
            if not there:
                break
            ok, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
            if ok:
                height_px, width_px = pixels.shape[:2]
                image = ImageFile("jpeg", width_px, height_px, "bgr8", np.asarray(data).tobytes())
                yield from _camera_items(image, frame_time_ns(number, rate_hz), intrinsics)
            else:
                note(problems, f"{short_name(source)} frame {number}: cannot be encoded; skipped")
            number += 1
    finally:
        capture.release()
    if number < expected:
        note(problems, f"{short_name(source)}: ends after {number} of {expected} frames")


def _files(source: Path, suffixes: tuple[str, ...], name: str) -> list[Path]:
    """The file itself, or a folder's files. Raises UserError if there are none."""
    kinds = ", ".join(f"*{suffix}" for suffix in suffixes)
    if source.is_file():
        if not source.name.lower().endswith(suffixes):
            raise UserError(f"{source} is none of {kinds}")
        return [source]
    if not source.is_dir():
        raise UserError(f"{source} does not exist; {name} wants a file or a folder of {kinds}")
    paths = files_with(source, suffixes)
    if not paths:
        raise UserError(f"no {kinds} under {source}; {name} wants the folder that holds the files themselves")
    return paths
