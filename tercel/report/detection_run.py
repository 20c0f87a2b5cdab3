"""Detectors held against labelled images: COCO's scores, and what an image costs. For `tercel evaluate detection`.

All models see the same images, one after another image by image, so that a machine that slows down slows all of them.
They are compared in one list of classes: a detector of COCO's 80 is mapped to our six where another one knows only
those, and boxes that fall together by it (a bus that is also called a truck) are merged as the detector merges its own.

Scores are taken at the thresholds of JUDGED. Latency and CPU time are those of an image in use, at a camera detector's
own thresholds: pixels to tensor, network, decoding and selection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tercel
from perception.boxes import suppress
from perception.camera_detector import CameraDetector, CameraDetectorConfig
from perception.class_maps import is_coco, label_table
from perception.classes import TERCEL_CLASSES
from perception.coco import COCO_CLASSES
from perception.detection_scores import DetectionScores, Truth, coco_scores
from perception.labelled import (
    IMAGE_TOPIC,
    TRUTH_TOPIC,
    LabelledFolder,
    LabelledImage,
    in_classes,
    labelled_from_messages,
    load_labelled,
)
from perception.model_catalog import model_file
from perception.runtime import Backend, load_network
from tercel.core.errors import Rejected, UserError, require
from tercel.core.messages import Detections2D, Image, Message
from tercel.report.detector_steps import DetectorSteps

Array = NDArray[Any]
Progress = Callable[[float], None]

JUDGED = CameraDetectorConfig(score_threshold=0.01, nms_iou=0.6, max_detections=100, multi_label=True)
"""As the models' sources evaluate them: COCO's score rewards weak boxes, and a box that bears several names."""

FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR")
SPACES = {"coco": COCO_CLASSES, "tercel": TERCEL_CLASSES}


@dataclass(frozen=True)
class EvaluationOptions:
    """What the user asked for. classes: "coco", "tercel", or None for what the models have in common."""

    models: Sequence[str]
    data: Path
    split: str = "evaluate"
    classes: str | None = None
    threads: int = 1
    backend: Backend = "onnxruntime"
    command: str = ""


@dataclass(eq=False)
class Candidate:
    """One model, what it found in each image, and the same judged."""

    name: str
    steps: DetectorSteps
    judged: CameraDetector
    found: list[Detections2D] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    scores: DetectionScores | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """As the model has them."""
        return self.steps.detector.spec.class_names

    @property
    def answered(self) -> bool:
        """Whether the model gave a sound answer to at least one image."""
        return self.failed.total() < len(self.found)

    def summary(self) -> dict[str, Any]:
        """For a JSON file; wall and CPU times are of this machine."""
        figures = {} if self.scores is None else self.scores.summary()
        classes = figures.pop("classes", {})
        return {
            "model": self.name,
            "sha256": self.steps.network.sha256,
            "backend": self.steps.network.backend,
            **figures,
            **self.steps.times(),
            "failed": dict(sorted(self.failed.items())),
            "classes": classes,
        }


@dataclass(eq=False)
class EvaluationRun:
    """What was done. rejected: images that could not be used, by reason; problems: a line each, of labels and files."""

    options: EvaluationOptions
    data_name: str
    class_names: tuple[str, ...]
    candidates: list[Candidate]
    images: int = 0
    truths: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """For a JSON file. With one model its figures stand at the top as well."""
        models = [candidate.summary() for candidate in self.candidates]
        alone = {} if len(models) > 1 else {key: value for key, value in models[0].items() if key != "failed"}
        return {
            "tercel": tercel.__version__,
            "command": self.options.command,
            "data": self.data_name,
            "split": self.options.split,
            "images": self.images,
            "truths": self.truths,
            "rejected": dict(sorted(self.rejected.items())),
            "class_names": list(self.class_names),
            "score_threshold": JUDGED.score_threshold,
            "nms_iou": JUDGED.nms_iou,
            "max_detections": JUDGED.max_detections,
            "threads": self.options.threads,
            **alone,
            "models": models,
            "problems": self.problems,
        }

    def table(self) -> str:
        """For a terminal: ratios in percent, times of one image."""
        width = max(8, *(len(candidate.name) for candidate in self.candidates))
        head = f"{'model':{width}}" + "".join(f"{name:>10}" for name in (*FIGURES, "p50 ms", "p95 ms", "CPU ms"))
        lines = [f"{self.images} images, {self.truths} boxes, {len(self.class_names)} classes", head]
        for row in (candidate.summary() for candidate in self.candidates):
            figures = "".join(f"{'-' if row[name] is None else f'{100 * row[name]:.2f}':>10}" for name in FIGURES)
            times = (row["latency_ms_p50"], row["latency_ms_p95"], 1e3 * (row["cpu_s_per_image"] or 0.0))
            lines.append(f"{row['model']:{width}}{figures}" + "".join(f"{value or 0.0:>10.2f}" for value in times))
            lines += [f"  {row['model']}: {n} images failed: {reason}" for reason, n in row["failed"].items()]
        lines += [f"not used: {n} images: {reason}" for reason, n in sorted(self.rejected.items())]
        return "\n".join(lines)


def run_evaluation(options: EvaluationOptions, progress: Progress = lambda _fraction: None) -> EvaluationRun:
    """Evaluate every model on every image. Raises UserError for anything that the user can mend."""
    require("pycocotools.cocoeval", extra="evaluate")  # before the work, not after it
    source = open_data(options.data, options.split)
    candidates = [_open_model(word, options) for word in options.models]
    names = common_classes(options.classes, [c.class_names for c in candidates], source.class_names)
    run = EvaluationRun(options, source.name, names, candidates, problems=source.problems)
    tables = [_judge_in(candidate, names) for candidate in candidates]
    truths: list[Truth] = []
    for labelled in source.images(run.rejected):
        judged = in_classes(labelled, names)
        truths.append(Truth.of(judged))
        for candidate, table in zip(candidates, tables, strict=True):
            candidate.found.append(_look(candidate, labelled.image, table, names))
        progress(len(truths) / max(1, source.count))
    run.images = len(truths)
    run.truths = sum(len(truth.boxes.labels) for truth in truths)
    if not truths:
        reasons = ", ".join(f"{reason} ({n})" for reason, n in run.rejected.items()) or "it holds none"
        raise UserError(f"{options.data}: no image could be used: {reasons}")
    if not run.truths:
        raise UserError(f"{options.data}: none of its boxes is of the classes {', '.join(names[:8])}; say --classes")
    for candidate in candidates:
        candidate.scores = coco_scores(candidate.found, truths)
    return run


def common_classes(wanted: str | None, models: Sequence[tuple[str, ...]], data: tuple[str, ...]) -> tuple[str, ...]:
    """The class list in which to compare: the one asked for; else the data's own if all models have it, else our six.

    Raises UserError if a model of other classes is to be judged in COCO's.
    """
    if wanted == "coco" and not all(is_coco(names) for names in models):
        raise UserError("--classes coco is for detectors of COCO's 80 classes; say --classes tercel")
    if wanted is not None:
        return SPACES[wanted]
    return data if all(names == data for names in models) else TERCEL_CLASSES


# --- data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Source:
    """Labelled images of a folder, a JSON file or a recording. count: about how many."""

    name: str
    class_names: tuple[str, ...]
    count: int
    images: Callable[[Counter[str]], Iterator[LabelledImage]]
    problems: list[str]


def open_data(path: Path, split: str) -> Source:
    """The images to evaluate on; those that cannot be used are counted while they are read. Raises UserError."""
    if path.suffix in (".mcap", ".bag", ".db3") or (path / "metadata.yaml").is_file():
        return _open_recording(path)
    folder = load_labelled(path, split=split)
    return Source(folder.name, folder.class_names, len(folder), lambda counts: _read(folder, counts), folder.problems)


def _read(folder: LabelledFolder, rejected: Counter[str]) -> Iterator[LabelledImage]:
    for index in range(len(folder)):
        try:
            yield folder[index]
        except Rejected as error:
            rejected[str(error)] += 1
            folder.problems.append(f"{folder.files[index].name}: {error}")


def _open_recording(path: Path) -> Source:
    from tercel.hosts.recording import open_recording

    recording = open_recording(path)
    for topic in (IMAGE_TOPIC, TRUTH_TOPIC):
        if topic not in recording.topics:
            raise UserError(
                f"{path}: has no {topic}; only recordings with true boxes, as of `tercel world`, can be used"
            )

    def messages(rejected: Counter[str]) -> Iterator[tuple[str, int, Message]]:
        for recorded in recording.messages((IMAGE_TOPIC, TRUTH_TOPIC)):
            try:
                yield recorded.topic, recorded.log_time_ns, recording.decode(recorded)
            except Rejected as error:
                rejected[str(error)] += 1

    def images(rejected: Counter[str]) -> Iterator[LabelledImage]:
        return labelled_from_messages(messages(rejected))

    first = next(images(Counter()), None)
    if first is None:
        raise UserError(f"{path}: no image of it has true boxes of the same stamp")
    count = recording.topics[TRUTH_TOPIC].count
    return Source(path.stem, first.truth.class_names, count, images, list(recording.problems))


# --- models ----------------------------------------------------------------------------------------------------------


def _open_model(word: str, options: EvaluationOptions) -> Candidate:
    path = model_file(word)
    steps = DetectorSteps(load_network(path, threads=options.threads, backend=options.backend))
    return Candidate(path.name, steps, steps.detector)


def _judge_in(candidate: Candidate, names: tuple[str, ...]) -> Array:
    """The table from the model's labels to the common ones; boxes of other classes are not even looked for.

    Raises UserError if the model knows none of the common classes.
    """
    own = candidate.class_names
    table = label_table(own, names)
    known = tuple(name for name, label in zip(own, table.tolist(), strict=True) if label >= 0)
    if not known:
        raise UserError(
            f"{candidate.name}: none of its classes ({', '.join(own[:6])}...) is one of {', '.join(names[:6])}"
        )
    config = JUDGED if len(known) == len(own) else replace(JUDGED, classes=known)
    candidate.judged = CameraDetector(config, candidate.steps.detector.models)
    return table


def _look(candidate: Candidate, image: Image, table: Array, names: tuple[str, ...]) -> Detections2D:
    """What the model finds in one image, in the common classes; its times are kept."""
    xyxy, scores, labels = np.zeros((0, 4)), np.zeros(0), np.zeros(0)
    try:
        look = candidate.steps(image.pixels)
        boxes = candidate.judged.boxes_from_outputs(look.outputs, look.placement)
        boxes = boxes._replace(labels=table[boxes.labels])
        if len(np.unique(table[table >= 0])) < int((table >= 0).sum()):
            boxes = suppress(boxes, JUDGED.nms_iou, JUDGED.max_detections)
        xyxy, scores, labels = boxes.xyxy_px, boxes.scores, boxes.labels
    except Rejected as error:
        candidate.failed[str(error)] += 1
    return Detections2D(
        stamp_ns=image.stamp_ns,
        frame_id=image.frame_id,
        boxes_xyxy_px=xyxy,
        scores=scores,
        labels=labels,
        class_names=names,
    )
