"""LiDAR sweeps in files: KITTI .bin, nuScenes .pcd.bin and PLY; PCD has its own module.

Every reader checks the sizes that a header claims against the file's own size before it allocates anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAX_FILE_BYTES = 1 << 30
MAX_HEADER_BYTES = 1 << 16

_INTENSITY_NAMES = ("intensity", "scalar_intensity", "i", "reflectivity", "reflectance", "scalar_reflectance")
_RING_NAMES = ("ring", "scalar_ring", "channel", "laser_id")


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises ValueError if it is larger than one sweep can be."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError("the file is too large for one cloud")
    return path.read_bytes()


def read_kitti_bin(path: Path) -> tuple[Array, Array]:
    """points_m (N, 3) and intensity (N,) of a KITTI scan: float32 x y z intensity. Raises ValueError."""
    table = _float32_table(read_bytes(path), 4)
    return table[:, :3], table[:, 3]


def read_nuscenes_bin(path: Path) -> tuple[Array, Array, Array]:
    """points_m (N, 3), intensity (N,) 0..1 and ring (N,) of a nuScenes sweep: float32 x y z intensity(0..255) ring.

    Raises ValueError.
    """
    table = _float32_table(read_bytes(path), 5)
    rings = np.nan_to_num(table[:, 4], nan=0.0, posinf=0.0, neginf=0.0).clip(0, 65535)
    return table[:, :3], table[:, 3] / np.float32(255.0), rings.astype(np.uint16)


def _float32_table(data: bytes, columns: int) -> Array:
    if not data or len(data) % (4 * columns):
        raise ValueError(f"{len(data)} bytes are not a whole number of points of {4 * columns} bytes")
    table: Array = np.frombuffer(data, "<f4").reshape(-1, columns)
    return table


# A column is an array (N,) of any numeric dtype under the name that the file gives it.
Columns = Mapping[str, Array]


def strided_column(data: bytes, dtype: np.dtype[Any], count: int, start: int, step: int) -> Array:
    """`count` values that lie `step` bytes apart in data, without a copy. Raises ValueError if data is too short."""
    if count == 0:
        return np.zeros(0, dtype)
    if start + (count - 1) * step + dtype.itemsize > len(data):
        raise ValueError("the file ends early")
    column: Array = np.ndarray((count,), dtype, data, start, (step,))
    return column


def ascii_table(text: bytes, rows: int, columns: int) -> Array:
    """(rows, columns) float64 of white-space separated numbers, "nan" allowed. Raises ValueError."""
    if rows * columns * 2 - 1 > len(text):  # a digit and a separator for each number
        raise ValueError(f"the header claims {rows} points, the file is too short for them")
    lines = text.decode("ascii", "replace").splitlines()[:rows]
    table = np.loadtxt(lines, dtype=np.float64, ndmin=2, comments=None) if lines else np.zeros((0, columns))
    if table.shape != (rows, columns):
        raise ValueError(f"{table.shape[0]} rows of {table.shape[1]} numbers, not {rows} of {columns}")
    return table


def standard_columns(columns: Columns) -> tuple[Array, Array | None, Array | None]:
    """points_m (N, 3) float32, or float64 where the file has more; intensity (N,) float32, ring (N,) uint16, or None.

    Whole-number intensities are brought to 0..1 by their dtype's range; floating ones are passed on as they are.
    Raises ValueError if x, y or z is missing.
    """
    if any(name not in columns for name in ("x", "y", "z")):
        raise ValueError(f"there is no x, y, z among its fields: {', '.join(columns)[:80]}")
    points_m = np.column_stack([columns[name] for name in ("x", "y", "z")])
    points_m = points_m.astype(
        np.float32 if points_m.dtype.itemsize <= 4 and points_m.dtype.kind == "f" else np.float64
    )
    by_lower = {name.lower(): column for name, column in columns.items()}
    intensity = next((by_lower[name] for name in _INTENSITY_NAMES if name in by_lower), None)
    ring = next((by_lower[name] for name in _RING_NAMES if name in by_lower), None)
    if intensity is not None:
        whole = np.issubdtype(intensity.dtype, np.integer)
        scale = np.float32(1.0 / np.iinfo(intensity.dtype).max) if whole else np.float32(1.0)
        intensity = intensity.astype(np.float32) * scale
    if ring is not None:
        ring = np.nan_to_num(ring.astype(np.float64), nan=0.0).clip(0, 65535).astype(np.uint16)
    return points_m, intensity, ring
