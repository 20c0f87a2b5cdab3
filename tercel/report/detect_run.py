"""A detector over image files: boxes as COCO JSON, pictures with the boxes drawn. What `tercel detect` calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import tercel
from perception.camera_detector import CameraDetectorConfig
from perception.coco_json import detections_document
from perception.image_files import find_image_files, read_image_file
from perception.model_catalog import model_file
from perception.runtime import Backend, load_network
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Detections2D
from tercel.report.box_pictures import draw_boxes, small_jpeg
from tercel.report.detector_steps import DetectorSteps
from tercel.terminal import require_writable

Array = NDArray[Any]
Progress = Callable[[float], None]

MAX_ROWS = 15
MAX_SHOWN = 200
MAX_SHOWN_BYTES = 24 << 20
"""Of the pictures in the page; the folder has them all."""


@dataclass(frozen=True)
class DetectOptions:
    """What the user asked for. classes: names of those to give out; none: all."""

    model: str
    images: Sequence[str]
    out: Path
    score: float = 0.3
    classes: tuple[str, ...] = ()
    threads: int = 1
    backend: Backend = "onnxruntime"
    command: str = ""
    json: Path | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """One image. name: its path below the folder that all images share; picture: its file in OUT; size (width, height).

    jpeg: small, for the page, of shown_px (width, height); None where the page holds enough.
    """

    name: str
    picture: Path
    size_px: tuple[int, int]
    found: Detections2D
    jpeg: bytes | None = None


@dataclass(eq=False)
class DetectRun:
    """What was done. skipped: name and reason of each image that could not be used."""

    options: DetectOptions
    model_name: str
    steps: DetectorSteps
    seen: list[Seen] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the model."""
        return self.steps.detector.spec.class_names

    def boxes_by_class(self) -> dict[str, int]:
        """How many boxes of each class were found, most first."""
        labels = np.concatenate([np.zeros(0, np.int32), *(seen.found.labels for seen in self.seen)])
        counts = np.bincount(labels, minlength=len(self.class_names))
        order = np.argsort(-counts, kind="stable")
        return {self.class_names[label]: int(counts[label]) for label in order if counts[label]}

    def detections(self) -> dict[str, Any]:
        """The COCO JSON of all boxes."""
        images = [(seen.name, *seen.size_px) for seen in self.seen]
        return detections_document(images, [seen.found for seen in self.seen], self.class_names)

    def summary(self) -> dict[str, Any]:
        """For a JSON file."""
        by_class = self.boxes_by_class()
        return {
            "tercel": tercel.__version__,
            "command": self.options.command,
            "model": self.model_name,
            "sha256": self.steps.network.sha256,
            "backend": self.steps.network.backend,
            "threads": self.options.threads,
            "score_threshold": self.options.score,
            "images": len(self.seen),
            "boxes": sum(by_class.values()),
            "classes": by_class,
            "skipped": [{"image": name, "reason": reason} for name, reason in self.skipped],
            **self.steps.times(),
        }

    def table(self) -> str:
        """For a terminal."""
        summary = self.summary()
        rows = list(summary["classes"].items())
        lines = [f"{name:<24}{count:>8}" for name, count in rows[:MAX_ROWS]]
        if rest := rows[MAX_ROWS:]:
            lines.append(f"{f'{len(rest)} more classes':<24}{sum(count for _, count in rest):>8}")
        with_boxes = sum(len(seen.found.labels) > 0 for seen in self.seen)
        ms = summary["latency_ms_p50"]
        lines.append(
            f"{summary['images']} images, {with_boxes} with boxes, {summary['boxes']} boxes"
            + (f", {len(self.skipped)} images skipped" if self.skipped else "")
            + ("" if ms is None else f"; {ms:.1f} ms an image (median), {self.model_name}, {summary['backend']}")
        )
        return "\n".join(lines)


def run_detect(options: DetectOptions, progress: Progress = lambda _fraction: None) -> DetectRun:
    """Detect in every image, write its picture into OUT/images, and keep what the page and the JSON want.

    Raises UserError for anything that the user can mend: no such model or image, an output over an input.
    """
    files = find_image_files(options.images)
    names = _names(files)
    pictures = [options.out / "images" / f"{name}.jpg" for name in names]
    model = model_file(options.model)
    written = [*pictures, *(options.out / f"detections.{kind}" for kind in ("json", "html"))]
    _check_out(options.out, [*files, model], [*written, options.json] if options.json else written)
    network = load_network(model, threads=options.threads, backend=options.backend)
    config = CameraDetectorConfig(score_threshold=options.score, classes=options.classes)
    run = DetectRun(options, network.path.name, DetectorSteps(network, config))
    shown_bytes = 0
    for index, (file, name, picture) in enumerate(zip(files, names, pictures, strict=True)):
        try:
            image = read_image_file(file, stamp_ns=index, frame_id=name)
            boxes = run.steps(image.pixels).boxes
        except Rejected as error:
            run.skipped.append((name, str(error)))
            continue
        found = Detections2D(
            stamp_ns=index,
            frame_id=name,
            boxes_xyxy_px=boxes.xyxy_px,
            scores=boxes.scores,
            labels=boxes.labels,
            class_names=run.class_names,
        )
        jpeg = None
        if len(run.seen) < MAX_SHOWN and shown_bytes < MAX_SHOWN_BYTES:
            jpeg = small_jpeg(image.pixels)
            shown_bytes += len(jpeg)
        _write_picture(picture, draw_boxes(image.pixels, found))
        run.seen.append(Seen(name, picture, (image.pixels.shape[1], image.pixels.shape[0]), found, jpeg))
        progress((index + 1) / len(files))
    return run


def _names(files: Sequence[Path]) -> list[str]:
    """Each file's path below the deepest folder that holds them all, with forward slashes."""
    # Links are not followed: a name is what the user sees, not where the file lies on this machine.
    paths = [Path(os.path.abspath(file)) for file in files]  # noqa: PTH100
    shared = Path(os.path.commonpath([path.parent for path in paths]))
    return [path.relative_to(shared).as_posix() for path in paths]


def _check_out(out: Path, inputs: Sequence[Path], written: Sequence[Path]) -> None:
    """Before the work: that OUT can be written, and that nothing would replace an image or the model, by any name."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; a folder is wanted")
    require_writable(out / "detections.json")
    known = {_identity(path) for path in inputs if path.exists()}
    over = next((path for path in written if path.exists() and _identity(path) in known), None)
    if over is not None:
        raise UserError(f"{over} would be written over an image or the model; name another --out or --json")


def _identity(path: Path) -> tuple[int, int]:
    """The same for all links to one file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _write_picture(path: Path, bgr: Array) -> None:
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not done:
        raise UserError(f"{path}: the picture cannot be encoded")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())
