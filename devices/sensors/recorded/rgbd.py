"""RGB-D recordings: TUM RGB-D and Microsoft 7-Scenes. Depth becomes a 16-bit PNG in millimetres, 0 where unknown.

In both the depth is used as if seen by the colour camera: TUM's is registered to it, 7-Scenes' nearly is (its authors
give no registration). The truth is the pose of "camera" (z forward) in "world".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.recorded.image_bytes import (
    camera_info,
    compressed_depth,
    compressed_image,
    read_depth_mm,
    read_image,
)
from devices.sensors.recorded.reading import (
    Item,
    attempt,
    files_with,
    floats,
    frame_time_ns,
    in_time_order,
    intrinsics_from_text,
    note,
    ns_from_seconds,
    require_folder,
    require_rate,
    short_name,
    text_rows,
)
from devices.sensors.recorded.truth_files import tum_trajectory
from tercel.core.errors import UserError
from tercel.core.geometry import orthonormalise
from tercel.core.messages import Odometry

Array = NDArray[Any]

_FRAME = re.compile(r"frame-(\d{1,9})\.(color\.(?:jpg|jpeg|png)|depth\.png|pose\.txt)", re.ASCII)


def read_tum_rgbd(
    source: Path, *, intrinsics: str = "525,525,319.5,239.5", problems: list[str] | None = None
) -> Iterator[Item]:
    """A TUM RGB-D sequence: rgb.txt, depth.txt, groundtruth.txt (any but rgb.txt may be missing), with its own clock.

    intrinsics: "fx,fy,cx,cy" px; the default is the one that TUM recommends for its registered depth. Raises
    UserError if there is no rgb.txt.
    """
    problems = [] if problems is None else problems
    matrix = intrinsics_from_text(intrinsics)
    if not (require_folder(source) / "rgb.txt").is_file():
        raise UserError(f"no rgb.txt under {source}; tum-rgbd wants the unpacked folder rgbd_dataset_freiburg...")

    def colour(path: Path, stamp_ns: int) -> Iterator[Item]:
        return _colour_items(path, stamp_ns, matrix, problems)

    def depth(path: Path, stamp_ns: int) -> Iterator[Item]:
        return _depth_items(path, stamp_ns, 5000.0, 0, problems)

    streams = [_listed_files(source / "rgb.txt", colour, problems)]
    if (source / "depth.txt").is_file():
        streams.append(_listed_files(source / "depth.txt", depth, problems))
    if (source / "groundtruth.txt").is_file():
        streams.append(tum_trajectory(source / "groundtruth.txt", "camera", problems))
    return in_time_order(streams, None, problems)


def _listed_files(index: Path, items: Callable[[Path, int], Iterator[Item]], problems: list[str]) -> Iterator[Item]:
    """What `items` makes of the files that a TUM index names ("stamp path", the path inside the index's folder)."""
    for number, line in text_rows(index, problems):
        words = line.split(maxsplit=1)
        try:
            stamp_ns, path = ns_from_seconds(words[0]), index.parent / words[1]
            inside = path.resolve().is_relative_to(index.parent.resolve())
        except (ValueError, IndexError, OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
            note(problems, f"{short_name(index)} line {number}: not a stamp and a file; skipped")
            continue
        if not inside:
            note(problems, f"{short_name(index)} line {number}: the file lies outside the recording; skipped")
            continue
        yield from items(path, stamp_ns)


def _colour_items(path: Path, stamp_ns: int, intrinsics: Array, problems: list[str]) -> Iterator[Item]:
    image = attempt(read_image, path, problems)
    if image is not None:
        yield "/camera/camera_info", stamp_ns, camera_info(image, intrinsics, stamp_ns, "camera")
        yield "/camera/image", stamp_ns, compressed_image(image, stamp_ns, "camera")


def _depth_items(path: Path, stamp_ns: int, units_per_m: float, invalid: int, problems: list[str]) -> Iterator[Item]:
    depth = attempt(lambda file: read_depth_mm(file, units_per_m=units_per_m, invalid=invalid), path, problems)
    if depth is not None:
        yield "/camera/depth", stamp_ns, compressed_depth(depth, stamp_ns, "camera")


def read_7scenes(
    source: Path, *, rate_hz: float = 30.0, intrinsics: str = "", problems: list[str] | None = None
) -> Iterator[Item]:
    """A 7-Scenes sequence: frame-NNNNNN.color.{png,jpg}, .depth.png, .pose.txt; frame n is stamped n / rate_hz.

    intrinsics: "fx,fy,cx,cy" px; else camera-intrinsics.txt in the folder, else 585,585,320,240, the depth camera's,
    which 7-Scenes gives for both. Raises UserError if there is no frame.
    """
    problems = [] if problems is None else problems
    require_rate(rate_hz)
    require_folder(source)
    frames: dict[int, dict[str, Path]] = {}
    for path in files_with(source, (".png", ".jpg", ".jpeg", ".pose.txt")):
        match = _FRAME.fullmatch(path.name)
        if match:
            frames.setdefault(int(match[1]), {})[match[2].split(".")[0]] = path
    if not frames:
        raise UserError(f"no frame-000000.color.png under {source}; 7scenes wants one sequence's folder (seq-01)")
    matrix = intrinsics_from_text(intrinsics) if intrinsics else _intrinsics_file(source, problems)
    return in_time_order([_scene_stream(frames, matrix, rate_hz, problems)], None, problems)


def _scene_stream(
    frames: dict[int, dict[str, Path]], intrinsics: Array, rate_hz: float, problems: list[str]
) -> Iterator[Item]:
    for number in sorted(frames):
        stamp_ns, files = frame_time_ns(number, rate_hz), frames[number]
        if "color" in files:
            yield from _colour_items(files["color"], stamp_ns, intrinsics, problems)
        if "depth" in files:
            yield from _depth_items(files["depth"], stamp_ns, 1000.0, 65535, problems)
        world_T_camera = attempt(_read_pose, files["pose"], problems) if "pose" in files else None
        if world_T_camera is not None:
            truth = Odometry(stamp_ns=stamp_ns, frame_id="world", child_frame_id="camera", frame_T_child=world_T_camera)
            yield "/truth/odometry", stamp_ns, truth


def _read_pose(path: Path) -> Array:
    """The rigid (4, 4) nearest to the file's, which is rounded. Raises ValueError if it is none."""
    return orthonormalise(floats(" ".join(line for _, line in text_rows(path, [])).split(), 16).reshape(4, 4))


def _intrinsics_file(source: Path, problems: list[str]) -> Array:
    path = source / "camera-intrinsics.txt"
    if path.is_file():
        words = " ".join(line for _, line in text_rows(path, problems)).split()
        matrix = attempt(lambda _: floats(words, 9).reshape(3, 3), path, problems)
        if matrix is not None and matrix[0, 0] > 0 and matrix[1, 1] > 0:
            return np.array(matrix)
    return intrinsics_from_text("585,585,320,240")
