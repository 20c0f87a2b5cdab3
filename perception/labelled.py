"""Images with true boxes: the data sets that detectors are trained on and evaluated with.

    for labelled in load_yolo_folder(folder, split="evaluate"): labelled.image, labelled.truth, labelled.ignored

A data set is anything with __len__ and __getitem__ (and so with iteration); an image is read when it is asked for. Its
labels keep the class names of their source; `in_classes` brings them to COCO's or to our six. What a source marks as
not to be judged (COCO's crowds, KITTI's DontCare and Misc) is in `ignored`: what is found there counts neither way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.class_maps import RIDERS, label_table
from perception.coco_json import CocoFile, find_coco_files, read_coco_json
from perception.image_files import bgr_from_bytes, read_image_file
from perception.label_files import (
    Boxes,
    find_kitti_pairs,
    find_yolo_pairs,
    read_kitti_labels,
    read_yolo_labels,
    yolo_class_names,
)
from perception.splits import require_split, split_of
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import CompressedImage, Detections2D, Image, Message

Array = NDArray[Any]

ANY_CLASS = -1
IMAGE_TOPIC = "/camera/image"
TRUTH_TOPIC = "/truth/tracks_2d"
MAX_WAITING_IMAGES = 64


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image (bgr8) and its true boxes, in the image's pixels and clipped to it; the scores are all 1.

    ignored: regions where nothing is judged, of one class or (label ANY_CLASS) of all. areas_px2 (N,) float64: of the
    true objects where the source measured their outlines, as COCO did; None: those of the boxes.
    """

    image: Image
    truth: Detections2D
    ignored: Detections2D
    areas_px2: Array | None = None


@dataclass(frozen=True, eq=False)
class LabelledFile:
    """One image of a folder, not yet read. name: its path in the data set, which decides its split."""

    path: Path
    name: str
    boxes: Boxes


@dataclass(frozen=True, eq=False)
class LabelledFolder:
    """A data set of image files. problems: what of the labels could not be used, a line each."""

    name: str
    class_names: tuple[str, ...]
    files: tuple[LabelledFile, ...]
    problems: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> LabelledImage:
        """Raises Rejected if the image's file is damaged, IndexError at the end."""
        file = self.files[index]
        image = read_image_file(file.path, stamp_ns=index, frame_id=file.name)
        height, width = image.pixels.shape[:2]
        return _labelled(image, file.boxes.in_pixels(width, height), self.class_names)

    def part(self, split: str) -> LabelledFolder:
        """Only the images of a split, or "all". An unknown data set that no folder's name divides is all "evaluate".

        Raises UserError for an unknown split and one that is empty.
        """
        require_split(split)
        splits = [split_of(self.name, file.name) for file in self.files]
        if split == "all" or (split == "evaluate" and not any(splits)):
            return self
        kept = tuple(file for file, of_file in zip(self.files, splits, strict=True) if of_file == split)
        if not kept:
            raise UserError(f"{self.name}: none of its {len(self)} images is in the split {split!r}; say --split all")
        return replace(self, files=kept)


# --- loaders ---------------------------------------------------------------------------------------------------------


def load_yolo_folder(
    folder: str | Path, *, split: str = "all", class_names: Sequence[str] | None = None
) -> LabelledFolder:
    """YOLO's text labels: images/**/NAME.jpg with labels/**/NAME.txt, or both in one folder.

    A row is `class cx cy w h` or `class x1 y1 x2 y2 ...` (an outline), in parts of the image's width and height.
    class_names: if None, those of a data set known by its folder's name, of data.yaml, classes.txt or a *.names file.
    An image without a label file holds no object, which `problems` says. Raises UserError for a folder without images,
    without any labels or without class names.
    """
    folder = Path(folder)
    problems: list[str] = []
    pairs = find_yolo_pairs(folder)
    names = tuple(class_names) if class_names is not None else yolo_class_names(folder)
    files = tuple(
        LabelledFile(image, name, read_yolo_labels(labels, len(names), problems)) for image, labels, name in pairs
    )
    bare = sum(labels is None for _, labels, _ in pairs)
    if bare:
        problems.append(f"{bare} of {len(pairs)} images have no label file: they are taken to show nothing")
    return LabelledFolder(folder.resolve().name, names, files, problems).part(split)


def load_kitti_folder(folder: str | Path, *, split: str = "all") -> LabelledFolder:
    """KITTI's object benchmark: image_2/NNNNNN.png with label_2/NNNNNN.txt, or image_2_NNNNNN.png beside its label.

    DontCare and Misc become ignored regions of every class. Raises UserError for a folder without such images.
    """
    folder = Path(folder)
    problems: list[str] = []
    files = []
    names: tuple[str, ...] = ()
    for image, labels, name in find_kitti_pairs(folder):
        boxes, names = read_kitti_labels(labels, problems)
        files.append(LabelledFile(image, name, boxes))
    return LabelledFolder(folder.resolve().name, names, tuple(files), problems).part(split)


def load_coco_folder(folder: str | Path, *, split: str = "all") -> LabelledFolder:
    """COCO JSON: a .json file, or a folder with such files (annotations/instances_val2017.json) and their images.

    Crowds (iscrowd 1) and annotations marked ignore become ignored regions of their class. Raises UserError for files
    that hold no COCO data, disagree about their classes, or name images that are nowhere.
    """
    folder = Path(folder)
    problems: list[str] = []
    read = [read_coco_json(path) for path in find_coco_files(folder)]
    names = read[0].class_names
    if any(file.class_names != names for file in read):
        raise UserError(f"{folder}: its JSON files have different categories; name one of them")
    files = tuple(
        LabelledFile(path, name, boxes) for file in read for path, name, boxes in _coco_images(file, folder, problems)
    )
    root = folder if folder.is_dir() else folder.parent
    return LabelledFolder(root.resolve().name, names, files, problems).part(split)


def load_labelled(data: str | Path, *, split: str = "all") -> LabelledFolder:
    """A folder or .json file in whichever of the three layouts it is. Raises UserError if it is in none."""
    path = Path(data)
    if not path.exists():
        raise UserError(f"{path}: no such data; check the path")
    if path.is_file() or find_coco_files(path, missing_ok=True):
        return load_coco_folder(path, split=split)
    if find_kitti_pairs(path, missing_ok=True):
        return load_kitti_folder(path, split=split)
    return load_yolo_folder(path, split=split)


def labelled_from_messages(
    items: Iterable[tuple[str, int, Message]],
    *,
    image_topic: str = IMAGE_TOPIC,
    truth_topic: str = TRUTH_TOPIC,
) -> Iterator[LabelledImage]:
    """Images and true boxes of equal stamps, from the (topic, log time, message) rows of a recording, or of a world as
    devices.sensors.simulated.world.generate makes them.

    An image that has no truth, or is none (damaged, no colour image), is passed over. At most MAX_WAITING_IMAGES wait.
    """
    images: dict[int, Image | CompressedImage] = {}
    truths: dict[int, Detections2D] = {}
    for topic, _, message in items:
        if topic == image_topic and isinstance(message, (Image, CompressedImage)):
            images[message.stamp_ns] = message
        elif topic == truth_topic and isinstance(message, Detections2D):
            truths[message.stamp_ns] = message
        else:
            continue
        if message.stamp_ns in images and message.stamp_ns in truths:
            image, truth = images.pop(message.stamp_ns), truths.pop(message.stamp_ns)
            try:
                yield from_messages(image, truth)
            except Rejected:
                continue
        for waiting in (images, truths):
            while len(waiting) > MAX_WAITING_IMAGES:
                waiting.pop(next(iter(waiting)))


def from_messages(image: Image | CompressedImage, truth: Detections2D) -> LabelledImage:
    """One image with its truth. Raises Rejected for an image that does not decode or is no colour image."""
    from perception.images import bgr_from_image

    pixels = bgr_from_bytes(image.data.tobytes()) if isinstance(image, CompressedImage) else bgr_from_image(image)
    bgr = Image(stamp_ns=image.stamp_ns, frame_id=image.frame_id, pixels=pixels, encoding="bgr8")
    return _labelled(bgr, Boxes(truth.boxes_xyxy_px, truth.labels), truth.class_names)


# --- classes ---------------------------------------------------------------------------------------------------------


def in_classes(labelled: LabelledImage, class_names: tuple[str, ...]) -> LabelledImage:
    """The same with labels of these classes (see perception.class_maps); boxes of no such class are left out.

    The box of a KITTI cyclist is the truth of a two-wheeler and holds a person of which nothing is known: there, people
    are ignored; and in COCO's classes so are bicycles and motorcycles, since the box is that of neither.
    """
    names = labelled.truth.class_names
    if names == class_names:
        return labelled
    table = label_table(names, class_names)
    truth = _mapped(labelled.truth, table, class_names)
    areas = None if labelled.areas_px2 is None else labelled.areas_px2[table[labelled.truth.labels] >= 0]
    ignored = [_mapped(labelled.ignored, table, class_names)]
    riders = labelled.truth.boxes_xyxy_px[
        np.isin(labelled.truth.labels, [i for i, n in enumerate(names) if n.lower() in RIDERS])
    ]
    ridden = [class_names.index(name) for name in RIDERS["cyclist"] if name in class_names and len(riders)]
    ignored += [_regions(riders, label, labelled.truth, class_names) for label in ridden]
    return LabelledImage(labelled.image, truth, _joined(ignored, class_names), areas)


def _mapped(boxes: Detections2D, table: Array, class_names: tuple[str, ...]) -> Detections2D:
    """With other labels; those that the table sends to -1 go, ANY_CLASS stays."""
    labels = np.where(boxes.labels == ANY_CLASS, ANY_CLASS, table[boxes.labels])
    kept = (labels >= 0) | (boxes.labels == ANY_CLASS)
    return replace(
        boxes,
        boxes_xyxy_px=boxes.boxes_xyxy_px[kept],
        scores=boxes.scores[kept],
        labels=labels[kept],
        class_names=class_names,
    )


def _regions(boxes_xyxy_px: Array, label: int, like: Detections2D, class_names: tuple[str, ...]) -> Detections2D:
    count = len(boxes_xyxy_px)
    return Detections2D(
        stamp_ns=like.stamp_ns,
        frame_id=like.frame_id,
        boxes_xyxy_px=boxes_xyxy_px,
        scores=np.ones(count),
        labels=np.full(count, label),
        class_names=class_names,
    )


def _joined(parts: Sequence[Detections2D], class_names: tuple[str, ...]) -> Detections2D:
    return replace(
        parts[0],
        boxes_xyxy_px=np.concatenate([part.boxes_xyxy_px for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        class_names=class_names,
    )


def _labelled(image: Image, boxes: Boxes, class_names: tuple[str, ...]) -> LabelledImage:
    """Boxes in pixels, clipped to the image; those without area there go."""
    height, width = image.pixels.shape[:2]

    def detections(xyxy_px: Array, labels: Array) -> tuple[Detections2D, Array]:
        clipped = np.clip(xyxy_px, 0.0, [width, height, width, height])
        kept = np.asarray((clipped[:, 2:] > clipped[:, :2]).all(axis=1))
        message = Detections2D(
            stamp_ns=image.stamp_ns,
            frame_id=image.frame_id,
            boxes_xyxy_px=clipped[kept],
            scores=np.ones(int(kept.sum())),
            labels=labels[kept],
            class_names=class_names,
        )
        return message, kept

    truth, kept = detections(boxes.xyxy, boxes.labels)
    ignored, _ = detections(boxes.ignored_xyxy, boxes.ignored_labels)
    return LabelledImage(image, truth, ignored, None if boxes.areas_px2 is None else boxes.areas_px2[kept])


def _coco_images(file: CocoFile, folder: Path, problems: list[str]) -> Iterator[tuple[Path, str, Boxes]]:
    """Path, name in the data set and boxes of each image that is there."""
    missing = 0
    part = file.path.stem.removeprefix("instances_")
    find = _finder(file.path, folder, part)
    for name, boxes in file.images:
        path = find(name)
        if path is None:
            missing += 1
            continue
        yield path, f"{part}/{name}" if part.startswith(("train", "val", "test")) else name, boxes
    if missing == len(file.images):
        raise UserError(f"{file.path}: none of its {missing} images is found beside it; put them into {folder}/images")
    if missing:
        problems.append(f"{file.path.name}: {missing} of its images are not there; skipped")


def _finder(json_path: Path, folder: Path, part: str) -> Callable[[str], Path | None]:
    """Where an image of a COCO file lies: below the folder, its images/ or the part's own folder."""
    root = folder if folder.is_dir() else folder.parent
    places = [
        root,
        root / "images",
        root / part,
        root / "images" / part,
        json_path.parent,
        json_path.parent.parent / part,
    ]

    def find(name: str) -> Path | None:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return None
        return next((place / name for place in places if (place / name).is_file()), None)

    return find
