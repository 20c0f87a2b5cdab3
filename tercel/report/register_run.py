"""Two cloud files, read and aligned: what `tercel register` calls."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import tercel
from devices.sensors.recorded.cloud_files import MAX_FILE_BYTES
from devices.sensors.recorded.folders import CLOUD_SUFFIXES, read_cloud
from registration.distant.structure import upright_scene
from registration.global_ import GlobalConfig, GlobalRegistration, register_global
from registration.local import Registration, register_local
from registration.verification import confidence as confidence_of
from registration.verification import evidence, view_of
from tercel.core.errors import Rejected, UserError
from tercel.core.geometry import from_rotation_translation, inverse, orthonormalise, transform_points
from tercel.report.odometry_scores import rows_text

Array = NDArray[Any]
Method = Literal["global", "local", "distant"]

SUFFIXES = (*CLOUD_SUFFIXES, ".npy")
_MAX_GUESS_BYTES = 1 << 20
_NOWHERE_M = 1e15  # such a coordinate is no number either: its square has no room in a float32
_FAR_M = 1e4  # from here on float32 rounds to millimetres
_AXES = ("x", "y", "z", "rotation about x", "rotation about y", "rotation about z")


@dataclass(frozen=True)
class RegisterOptions:
    """What the user asked for. method None: local with a guess, else global. seed: of what is drawn at random.

    target_is_map: the target was not seen from one place, so that nothing tells what its sensor saw through.
    """

    target: Path
    source: Path
    method: Method | None = None
    guess: Path | None = None
    seed: int = 0
    target_is_map: bool = False
    command: str = ""


@dataclass(frozen=True, eq=False)
class RegisterRun:
    """What was found. target_m (N, 3), source_m (M, 3): finite points. guess (4, 4). local: the fine alignment, None if
    it never came to that. confidence 0..1, None where the method gives none. counts: what else the method counted.

    target_T_near (4, 4): a map may lie so far from its frame's origin (UTM) that float32 has no room for centimetres;
    target_m, guess and target_T_source are in a frame that is near it, and whole_target_T_source is not.
    """

    options: RegisterOptions
    method: Method
    target_m: Array
    source_m: Array
    guess: Array
    target_T_source: Array
    converged: bool
    confidence: float | None
    local: Registration | None
    counts: dict[str, int]
    took_s: float
    target_T_near: Array

    @property
    def whole_target_T_source(self) -> Array:
        """In the target's own frame, however far its origin is."""
        result: Array = self.target_T_near @ self.target_T_source
        return result

    @property
    def status(self) -> str:
        """How it ended, in a word or two: the fine alignment's status, or that its pose is not to be believed."""
        if self.local is None:
            return "not converged"
        return "not credible" if self.local.converged and not self.converged else self.local.status

    def summary(self) -> dict[str, Any]:
        """For a JSON file. What is not known, such as the covariance of nothing, is null."""
        local = self.local
        return {
            "target_T_source": _listed(self.whole_target_T_source),
            "converged": self.converged,
            "confidence": self.confidence,
            "covariance": None if local is None or not self.converged else _listed(local.covariance),
            "status": self.status,
            "degenerate_directions": [] if local is None else local.degenerate_directions.tolist(),
            "method": self.method,
            "inlier_ratio": None if local is None else local.inlier_ratio,
            "rmse_m": None if local is None or not np.isfinite(local.rmse_m) else local.rmse_m,
            "iterations": None if local is None else local.iterations,
            **self.counts,
            "target": self.options.target.name,
            "source": self.options.source.name,
            "target_points": len(self.target_m),
            "source_points": len(self.source_m),
            "took_s": round(self.took_s, 3),
            "command": self.options.command,
            "tercel": tercel.__version__,
        }

    def rows(self) -> list[tuple[str, str]]:
        """What it says, and the figure, for people."""
        rows = [("status", self.status + ("" if self.converged else ": not to be used"))]
        if self.confidence is not None:
            rows.append(("confidence", f"{self.confidence:.3f}"))
        if self.local is not None and np.isfinite(self.local.rmse_m):
            rows.append(("overlap", f"{self.local.inlier_ratio:.1%} of the source, {self.local.rmse_m:.3f} m RMSE"))
        rows += [("one sigma", words) for words in self.sigmas()]
        rows += [("not held", words) for words in self.open_directions()]
        rows += [(name.replace("_", " "), f"{count:,}") for name, count in self.counts.items() if count]
        rows.append(("took", f"{self.took_s:.2f} s, {self.method}"))
        return rows

    def table(self) -> str:
        """For a terminal: the transform, if there is one, and what is known of it."""
        if not np.isfinite(self.target_T_source).all():
            return rows_text(self.rows())
        matrix = "\n".join("  ".join(f"{value:11.6f}" for value in row) for row in self.whole_target_T_source.tolist())
        return f"target_T_source\n{matrix}\n\n{rows_text(self.rows())}"

    def sigmas(self) -> list[str]:
        """The standard deviations in words; none if they are not known."""
        if self.local is None or not self.converged or not np.isfinite(self.local.covariance).all():
            return []
        sigma = np.sqrt(np.diagonal(self.local.covariance))
        position = ", ".join(f"{name} {value:.4f} m" for name, value in zip("xyz", sigma[:3], strict=True))
        rotation = ", ".join(f"{name} {value:.4f}°" for name, value in zip("xyz", np.degrees(sigma[3:]), strict=True))
        return [position, f"about {rotation}"]

    def open_directions(self) -> list[str]:
        """Each degenerate direction in words: the axes that make up most of it."""
        if self.local is None:
            return []
        return [direction_words(direction) for direction in self.local.degenerate_directions]


def run_register(options: RegisterOptions) -> RegisterRun:
    """Align source with target. Raises UserError for files that cannot be used and options that do not fit."""
    method: Method = options.method or ("global" if options.guess is None else "local")
    if options.guess is not None and method != "local":
        raise UserError(f"--{method} needs no --guess; leave it out or say --local")
    if options.target_is_map and method == "distant":
        raise UserError("--distant is for two scans, each from one place; leave --map out or say --global")
    guess = np.eye(4) if options.guess is None else read_guess(options.guess)
    (target_m, origin_m), (source_m, source_origin_m) = read_points(options.target), read_points(options.source)
    if source_origin_m.any():
        far = f"{options.source} lies {_km(source_origin_m)} from its frame's origin"
        raise UserError(f"{far}; a scan in its sensor's frame is wanted")
    if origin_m.any() and method != "local" and not options.target_is_map:
        raise UserError(f"{options.target} lies {_km(origin_m)} from its frame's origin; if it is a map, say --map")
    target_T_near = from_rotation_translation(np.eye(3), origin_m)
    guess = inverse(target_T_near) @ guess
    local: Registration | None
    confidence: float | None
    began_s = time.perf_counter()
    if method == "local":
        local = register_local(target_m, source_m, guess)
        found, converged, counts = local.target_T_source, local.converged, {}
        is_map = options.target_is_map or bool(origin_m.any())  # no sensor stands at a map's middle
        confidence = _confidence(target_m, source_m, found, is_map) if converged else 0.0
    else:
        result = _from_anywhere(method, target_m, source_m, options)
        found, converged, confidence = result.target_T_source, bool(result.converged), float(result.confidence)
        local, counts = result.local, {"correspondences": result.correspondences, "inliers": result.inliers}
    took_s = time.perf_counter() - began_s
    return RegisterRun(
        options, method, target_m, source_m, guess, found, converged, confidence, local, counts, took_s, target_T_near
    )


def _from_anywhere(method: Method, target_m: Array, source_m: Array, options: RegisterOptions) -> GlobalRegistration:
    if method == "distant":
        from registration.distant.register import register_distant

        return register_distant(target_m, source_m, seed=options.seed)
    config = GlobalConfig(target_is_map=options.target_is_map)
    return register_global(target_m, source_m, seed=options.seed, config=config)


def _confidence(target_m: Array, source_m: Array, target_T_source: Array, target_is_map: bool) -> float | None:
    """How likely a pose is right, by what stands in both clouds; None where nothing stands in one of them."""
    views = []
    for points_m, is_map in ((target_m, target_is_map), (source_m, False)):
        try:
            scene = upright_scene(points_m.astype(np.float64))
        except Rejected:
            return None
        if not len(scene.structure_m):
            return None
        structure_m = transform_points(inverse(scene.level_T_sensor), scene.structure_m.astype(np.float64))
        views.append(view_of(points_m, structure_m, from_one_place=not is_map))
    return confidence_of(evidence(views[0], views[1], target_T_source))


def direction_words(direction: Array) -> str:
    """A direction (6,) in words: "x", or "0.8 x + 0.6 y"."""
    order = np.argsort(-np.abs(direction), kind="stable")
    kept = [int(axis) for axis in order if abs(direction[axis]) >= 0.2] or [int(order[0])]
    if len(kept) == 1:
        return _AXES[kept[0]]
    sign = np.sign(direction[kept[0]])
    parts = [f"{sign * direction[axis]:+.2f} {_AXES[axis]}" for axis in kept]
    return " ".join(parts).removeprefix("+")


# --- files -----------------------------------------------------------------------------------------------------------


def read_points(path: Path) -> tuple[Array, Array]:
    """The finite points (N, 3) float32 of a cloud file, less an origin (3,), which is zero unless they are far from it.

    Raises UserError, OSError.
    """
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise UserError(f"{path} is none of {', '.join('*' + suffix for suffix in SUFFIXES)}")
    try:
        points_m = _read_npy(path) if name.endswith(".npy") else read_cloud(path)[0]
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}; another cloud is wanted") from None
    usable = (np.abs(points_m) < _NOWHERE_M).all(axis=1)
    if not usable.any():
        raise UserError(f"{path} holds no finite point among {len(points_m):,}; another cloud is wanted")
    points_m = points_m[usable].astype(np.float64)
    origin_m = np.round(np.median(points_m, axis=0))
    origin_m = np.where(np.abs(origin_m).max() > _FAR_M, origin_m, 0.0)
    result: Array = (points_m - origin_m).astype(np.float32)
    return result, origin_m


def _km(origin_m: Array) -> str:
    return f"{float(np.linalg.norm(origin_m)) / 1e3:,.0f} km"


def _read_npy(path: Path) -> Array:
    """The first three columns of an array (N, 3 or more). Raises ValueError."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError("the file is too large for one cloud")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] < 3 or array.dtype.kind not in "fiu":
        raise ValueError("it holds no numbers of shape (N, 3) or (N, 4)")
    return np.array(array[:, :3])


def read_guess(path: Path) -> Array:
    """target_T_source (4, 4) from a text file of sixteen numbers, or from the JSON that `tercel register` writes.

    Raises UserError, OSError.
    """
    if path.stat().st_size > _MAX_GUESS_BYTES:
        raise UserError(f"{path} is too large for a transform; four rows of four numbers are wanted")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text) if text.lstrip().startswith("{") else text.replace(",", " ").split()
        rows = content["target_T_source"] if isinstance(content, dict) else content
        return orthonormalise(np.array(rows, dtype=np.float64).reshape(4, 4))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        words = "not a rigid transform" if "rigid" in str(error) else "it holds no sixteen numbers"
        raise UserError(f"{path}: {words}; four rows of four numbers are wanted, the last 0 0 0 1") from None


def _listed(matrix: Array) -> list[list[float]] | None:
    return matrix.tolist() if np.isfinite(matrix).all() else None
