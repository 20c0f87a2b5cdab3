"""Image sequences for bench_temporal.py, each with the boxes that its detections are scored by, and networks to size.

Where there are no labels, the boxes are those of a stronger teacher: YOLOX-nano and NanoDet-m, each at full resolution
and at smaller scales, as seen and mirrored, ten passes in all, merged by weighted box fusion (Solovyev et al., arXiv
1910.13302). No detector that is measured runs at any of its sizes. One network alone as teacher would not do: its
whims of one frame are shared by the same network at a smaller size, and what holds a box for a frame would be blamed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from devices.sensors.simulated.world import WorldConfig, generate
from perception.average_precision import iou_matrix
from perception.boxes import Boxes, suppress
from perception.camera_detector import CameraDetector, CameraDetectorConfig
from perception.classes import TERCEL_CLASSES, tercel_from_coco
from perception.labelled import in_classes, labelled_from_messages
from perception.runtime import LocalModels, Network, load_network
from tercel.core.errors import UserError
from tercel.core.messages import Detections2D, Image

Array = np.ndarray[Any, Any]

TEACHER_FRACTIONS = {"yolox_nano_416.onnx": (1.0, 0.67, 0.5), "nanodet_m_416.onnx": (1.0, 0.67)}
TEACHER_SCORE, TEACHER_IOU = 0.25, 0.55
BASE_STRIDE_PX = 32


@dataclass(frozen=True)
class Scene:
    """Images in order, and for each the boxes that it is scored by, in TERCEL_CLASSES."""

    name: str
    images: list[Image]
    truth: list[Detections2D]


def sized(path: Path, size: tuple[int, int], folder: Path, threads: int = 1) -> Network:
    """The network for an input of (height, width), whole multiples of 32: as it is, or with its baked-in sizes changed.

    Raises UserError for a network that cannot be had at that size.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    constants = {tensor.name for tensor in model.graph.initializer}
    sides = next(v for v in model.graph.input if v.name not in constants).type.tensor_type.shape.dim
    base = sides[2].dim_value, sides[3].dim_value
    if base == size:
        return load_network(path, threads=threads)
    if not all(base):
        return load_network(path, threads=threads, input_size=size)
    sides[2].dim_value, sides[3].dim_value = size

    def changed(values: Array) -> Array:
        values = values.copy()
        for stride in (4, 8, 16, 32):
            cells = [side // stride for side in base]
            if values.dtype == np.int64 and values.ndim == 1 and len(values) > 3 and values[-2:].tolist() == cells:
                values[-2:] = [side // stride for side in size]
                break
        return values

    used = {name for node in model.graph.node if node.op_type in ("Reshape", "Resize") for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in used:
            tensor.CopyFrom(numpy_helper.from_array(changed(numpy_helper.to_array(tensor)), tensor.name))
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in used:
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(changed(numpy_helper.to_array(node.attribute[0].t))))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    out = folder / f"{path.stem}_{size[0]}x{size[1]}.onnx"
    onnx.save(model, str(out))
    return load_network(out, threads=threads)


def in_tercel_classes(found: Detections2D) -> Detections2D:
    """Detections in COCO's classes, those of a class of ours only."""
    if found.class_names == TERCEL_CLASSES:
        return found
    labels = tercel_from_coco()[found.labels]
    known = Boxes(found.boxes_xyxy_px, found.scores, labels).take(np.flatnonzero(labels >= 0))
    return _message(found, suppress(known, 0.6, 300))


def teacher_boxes(images: Sequence[Image], models: Path, folder: Path) -> list[Detections2D]:
    """What the teacher sees in each image; kept in `folder`, for it takes a second an image."""
    kept = folder / f"teacher_{images[0].frame_id}_{len(images)}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as file:
            return [
                _message(image, Boxes(*(file[f"{name}{i}"] for name in ("boxes", "scores", "labels"))))
                for i, image in enumerate(images)
            ]
    height, width = images[0].pixels.shape[:2]
    passes: list[list[Boxes]] = []
    for name, fractions in TEACHER_FRACTIONS.items():
        for fraction in fractions:
            size = (_whole(height * fraction), _whole(width * fraction))
            config = CameraDetectorConfig(score_threshold=0.1)
            detector = CameraDetector(config, LocalModels({"detector": sized(models / name, size, folder)}))
            passes += [[_seen(detector, image, mirrored) for image in images] for mirrored in (False, True)]
    truth = [_message(image, fused([p[i] for p in passes])) for i, image in enumerate(images)]
    arrays: dict[str, Array] = {}
    for i, message in enumerate(truth):
        arrays |= {f"boxes{i}": message.boxes_xyxy_px, f"scores{i}": message.scores, f"labels{i}": message.labels}
    np.savez_compressed(kept, **arrays)  # type: ignore[arg-type]
    return truth


def fused(passes: Sequence[Boxes]) -> Boxes:
    """Weighted box fusion: boxes of one class that overlap become their mean by score, which is the passes' mean."""
    xyxy, scores, labels = (np.concatenate([getattr(p, name) for p in passes]) for name in Boxes._fields)
    groups: list[list[int]] = []
    middles: list[Array] = []
    for row in np.argsort(-scores, kind="stable"):
        same = [g for g, rows in enumerate(groups) if labels[rows[0]] == labels[row]]
        overlaps = iou_matrix(np.array([middles[g] for g in same]).reshape(-1, 4), xyxy[row : row + 1])[:, 0]
        if len(same) and overlaps.max() > TEACHER_IOU:
            group = same[int(overlaps.argmax())]
            groups[group].append(int(row))
            middles[group] = np.average(xyxy[groups[group]], axis=0, weights=scores[groups[group]])
        else:
            groups.append([int(row)])
            middles.append(xyxy[row].astype(np.float64))
    totals = np.array([min(1.0, scores[rows].sum() / len(passes)) for rows in groups])
    sure = np.flatnonzero(totals >= TEACHER_SCORE)
    firsts = np.array([labels[rows[0]] for rows in groups], dtype=np.int32)
    return Boxes(np.array(middles).reshape(-1, 4)[sure], totals[sure], firsts[sure])


def drive(data: Path, models: Path, folder: Path) -> Scene:
    """KITTI drive 0052: 39 images at 5 Hz, braking to a stop behind a car; teacher's boxes."""
    paths = sorted((data / "kitti_drive0052_camlidar" / "image_02").glob("*.jpg"))
    images = _stamped([np.asarray(cv2.imread(str(p))) for p in paths], 200, "drive")
    return Scene("drive", images, teacher_boxes(images, models, folder))


def hand_held(data: Path, models: Path, folder: Path) -> Scene:
    """7-Scenes: 90 images of a hand-held camera indoors at 30 Hz; teacher's boxes."""
    paths = sorted((data / "rgbd_7scenes").glob("*.color.jpg"))[:90]
    images = _stamped([np.asarray(cv2.imread(str(p))) for p in paths], 33, "hand_held")
    return Scene("hand_held", images, teacher_boxes(images, models, folder))


def street(folder: Path) -> Scene:
    """The simulated street, seed 7: 60 images at 10 Hz of a robot that drives; its own truth. Kept in `folder`."""
    kept = folder / "street.npz"
    if not kept.is_file():
        config = WorldConfig("street", seed=7, duration_s=6.0, camera_rate_hz=10.0, lidar_rate_hz=1.0)
        items = [in_classes(item, TERCEL_CLASSES) for item in labelled_from_messages(generate(config))]
        arrays: dict[str, Array] = {"count": np.array(len(items))}
        for i, item in enumerate(items):
            arrays |= {f"pixels{i}": item.image.pixels, f"stamp{i}": np.array(item.image.stamp_ns)}
            arrays |= {f"boxes{i}": item.truth.boxes_xyxy_px, f"labels{i}": item.truth.labels}
        np.savez(kept, **arrays)  # type: ignore[arg-type]
    with np.load(kept, allow_pickle=False) as file:
        images = [
            Image(stamp_ns=int(file[f"stamp{i}"]), frame_id="street", pixels=file[f"pixels{i}"], encoding="bgr8")
            for i in range(int(file["count"]))
        ]
        boxes = [(file[f"boxes{i}"], file[f"labels{i}"]) for i in range(len(images))]
    truth = [
        _message(image, Boxes(b, np.ones(len(b)), labels)) for image, (b, labels) in zip(images, boxes, strict=True)
    ]
    return Scene("street", images, truth)


def still(drive_scene: Scene, seed: int = 0, count: int = 60) -> Scene:
    """A camera that stands: the drive's last image at 10 Hz with noise of 2 levels and an exposure that wavers by 3 %.

    A car cut out of the drive's first image crosses it from the left from the 15th image on, in front of what is there.
    Truth: the teacher's boxes of the last image, less what the car hides by more than half, and the car.
    """
    rng = np.random.default_rng(seed)
    ground, known = drive_scene.images[-1].pixels, drive_scene.truth[-1]
    start = drive_scene.truth[0]
    areas = (start.boxes_xyxy_px[:, 2:] - start.boxes_xyxy_px[:, :2]).prod(axis=1) * (start.labels == 2)
    x1, y1, x2, y2 = start.boxes_xyxy_px[int(areas.argmax())].astype(int)
    car = cv2.resize(drive_scene.images[0].pixels[y1:y2, x1:x2], None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    height, width = car.shape[:2]
    images, truth = [], []
    for index in range(count):
        picture, boxes = ground.copy(), Boxes(known.boxes_xyxy_px, known.scores, known.labels)
        left, top = (index - 15) * 24 - width, ground.shape[0] - height - 20
        low, high = max(left, 0), min(left + width, ground.shape[1])
        if low < high:
            picture[top : top + height, low:high] = car[:, low - left : high - left]
            box = np.array([[low, top, high, top + height]], np.float32)
            shared = np.clip(
                np.minimum(boxes.xyxy_px[:, 2:], box[:, 2:]) - np.maximum(boxes.xyxy_px[:, :2], box[:, :2]), 0, None
            ).prod(axis=1)
            boxes = boxes.take(shared < 0.5 * (boxes.xyxy_px[:, 2:] - boxes.xyxy_px[:, :2]).prod(axis=1))
            boxes = Boxes(
                np.concatenate([boxes.xyxy_px, box]), np.append(boxes.scores, 1.0), np.append(boxes.labels, 2)
            )
        light = 1.0 + 0.03 * np.sin(0.7 * index)
        noisy = picture * light + rng.normal(0.0, 2.0, picture.shape)
        images.append(np.clip(noisy, 0, 255).astype(np.uint8))
        truth.append(boxes)
    stamped = _stamped(images, 100, "still")
    return Scene("still", stamped, [_message(image, b) for image, b in zip(stamped, truth, strict=True)])


def changing(scene: Scene, count: int = 200) -> Scene:
    """The worst case: every image is of another place. Mirrored and turned pieces of a scene; no truth to score by."""
    pictures = []
    for index in range(count):
        pixels = scene.images[(index * 17) % len(scene.images)].pixels
        pixels = np.roll(pixels[:: -1 if index % 2 else 1, :: -1 if index % 3 else 1], index * 97, axis=1)
        pictures.append(np.ascontiguousarray(pixels))
    images = _stamped(pictures, 33, "changing")
    return Scene("changing", images, [replace(scene.truth[0], stamp_ns=image.stamp_ns) for image in images])


def _seen(detector: CameraDetector, image: Image, mirrored: bool) -> Boxes:
    pixels = np.ascontiguousarray(image.pixels[:, ::-1]) if mirrored else image.pixels
    found = in_tercel_classes(asyncio.run(detector.detect(replace(image, pixels=pixels)))["detections"])
    xyxy = found.boxes_xyxy_px.copy()
    if mirrored:
        xyxy[:, [0, 2]] = image.pixels.shape[1] - xyxy[:, [2, 0]]
    return Boxes(xyxy, found.scores, found.labels)


def _stamped(pictures: Sequence[Array], period_ms: int, name: str) -> list[Image]:
    if not pictures:
        raise UserError(f"no images for {name}; set TERCEL_DATA")
    return [
        Image(stamp_ns=(i + 1) * period_ms * 1_000_000, frame_id=name, pixels=p, encoding="bgr8")
        for i, p in enumerate(pictures)
    ]


def _message(like: Image | Detections2D, boxes: Boxes) -> Detections2D:
    return Detections2D(
        stamp_ns=like.stamp_ns,
        frame_id=like.frame_id,
        boxes_xyxy_px=boxes.xyxy_px,
        scores=boxes.scores,
        labels=boxes.labels,
        class_names=TERCEL_CLASSES,
    )


def _whole(side_px: float) -> int:
    return max(BASE_STRIDE_PX, round(side_px / BASE_STRIDE_PX) * BASE_STRIDE_PX)
