"""Which head a detector has, from its outputs' names and shapes and from what its exporter wrote into the file.

Every kind of head looks at the outputs and says whether they could be its own. Shapes decide most cases; names are
needed where shapes are equal (boxes and scores of SSD, logits and boxes of RT-DETR); metadata decides between the
rest, by the number of class names. What fits no head or still fits several is an error that says what was seen, and
how to name the head in a model card. perception/model_spec.py lists the heads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

from perception.model_metadata import Hints
from perception.model_spec import (
    ANCHORS_PER_CELL,
    DFL_BINS,
    FASTESTDET_STRIDE_PX,
    MAX_CLASSES,
    NANODET_PLUS_STRIDES_PX,
    STRIDES_PX,
    YOLO_FASTESTV2_STRIDES_PX,
    BoxFormat,
    Colour,
    Fit,
    HeadKind,
    Shape,
    Triple,
    cell_counts,
    nanodet_order,
)
from tercel.core.errors import UserError

RTDETR_QUERIES = 300
MAX_FINISHED_BOXES = 1000

_YOLO_STRIDES_PX = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
"""Of YOLOv5 to YOLO26: plain, P6, P2 and the tiny ones with two strides."""

Size = tuple[int, int]


class Out(NamedTuple):
    """One output of a network; name in lower case, "" if unknown."""

    name: str
    shape: Shape


class Seen(NamedTuple):
    """What a recogniser looks at. hints None: a model card vouches for the head, so only what decoding needs counts."""

    outs: Sequence[Out]
    size: Size
    hints: Hints | None


class Preparation(NamedTuple):
    """How pixels are prepared; the fields of ModelSpec."""

    fit: Fit
    pad_value: int = 0
    colour: Colour = "rgb"
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (255.0, 255.0, 255.0)


class Head(NamedTuple):
    """What was recognised; class_count None where the outputs do not tell. The rest: see ModelSpec."""

    kind: HeadKind
    class_count: int | None
    output_order: tuple[int, ...] = ()
    box_format: BoxFormat | None = None
    first_label: int = 0
    preparation: Preparation | None = None


ULTRALYTICS = Preparation("letterbox_centred", 114)
_IMAGENET = Preparation("stretch", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def recognise(
    outs: Sequence[Out], size: Size, hints: Hints, wanted: HeadKind | None, class_count: int | None, where: str
) -> Head:
    """The only head that the outputs can be; with `wanted`, that one, if its outputs at all look like it."""
    seen = ", ".join(f"{out.name} {str(out.shape).replace(' ', '')}".strip() for out in outs[:8])
    seen = f"outputs {seen}{', ...' if len(outs) > 8 else ''} for input {size[0]}x{size[1]}"
    if hints.task not in ("", "detect") and wanted is None:
        raise UserError(f"{where}: its metadata says task {hints.task!r}; export a model of the task 'detect'")
    if wanted is not None:
        found = _RECOGNISERS[wanted](Seen(outs, size, None))
        if found is None:
            raise UserError(f"{where}: {seen} do not fit the head {wanted!r} that the model card names; correct `head`")
        return found
    fitting = [
        head for recogniser in _RECOGNISERS.values() if (head := recogniser(Seen(outs, size, hints))) is not None
    ]
    if hints.end_to_end:  # of a small input, as many finished boxes as cells
        fitting = [head for head in fitting if head.kind == "end_to_end"] or fitting
    if len(fitting) > 1 and class_count is not None:
        fitting = [head for head in fitting if head.class_count in (None, class_count)] or fitting
    if len(fitting) == 1:
        return fitting[0]
    card = "a model card (the same name with .yaml, beside the model)"
    if fitting:
        raise UserError(
            f"{where}: {seen} fit several heads; say `head: {' or '.join(h.kind for h in fitting)}` in {card}"
        )
    if all(len(out.shape) == 5 for out in outs[:1]) and outs:
        raise UserError(f"{where}: {seen} are no head known here; they are a raw grid: export it decoded (--grid)")
    raise UserError(
        f"{where}: {seen} are no head known here; name one in {card}: `head:` {', '.join(get_args(HeadKind))}"
    )


# --- one function for each kind of head ---


def _yolox(seen: Seen) -> Head | None:
    shape = _only(seen.outs)
    fits = len(shape) == 3 and shape[:2] == (1, sum(cell_counts(*seen.size))) and shape[2] > 5
    return Head("yolox", shape[2] - 5) if fits else None


def _yolov5(seen: Seen) -> Head | None:
    """Older exports repeat the raw grids, of 5 dimensions, behind the decoded output."""
    decoded = [index for index, out in enumerate(seen.outs) if len(out.shape) == 3]
    if len(decoded) != 1 or any(len(out.shape) != 5 for i, out in enumerate(seen.outs) if i != decoded[0]):
        return None
    shape = seen.outs[decoded[0]].shape
    if shape[0] != 1 or shape[2] <= 5:
        return None
    if seen.hints is not None and shape[1] not in _yolo_rows(seen.size, ANCHORS_PER_CELL):
        return None
    return Head("yolov5", shape[2] - 5, (decoded[0],))


def _yolov8(seen: Seen) -> Head | None:
    shape = _only(seen.outs)
    if len(shape) != 3 or shape[0] != 1 or not 4 < shape[1] <= 4 + MAX_CLASSES:
        return None
    return Head("yolov8", shape[1] - 4) if seen.hints is None or shape[2] in _yolo_rows(seen.size, 1) else None


def _end_to_end(seen: Seen) -> Head | None:
    """Rows of 6 (box, score, label), or of 7 (image, box, label, score) as YOLOv7 writes them for onnxruntime."""
    shape = _only(seen.outs)
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    elif shape[1:] == (7,):
        return Head("end_to_end", None)
    if len(shape) != 2 or shape[1] != 6:
        return None
    if seen.hints is not None and seen.hints.rtdetr_rows:
        return Head("end_to_end", None, box_format="cxcywh_unit", preparation=Preparation("stretch"))
    if seen.hints is not None and (seen.hints.rtdetr or shape[0] > MAX_FINISHED_BOXES):
        return None
    grids = (*_yolo_rows(seen.size, 1), *_yolo_rows(seen.size, ANCHORS_PER_CELL))
    if seen.hints is not None and not seen.hints.end_to_end and shape[0] != RTDETR_QUERIES and shape[0] in grids:
        return None  # a grid of a one-class model: nobody asks for just so many finished boxes
    return Head("end_to_end", None)


def _rtdetr(seen: Seen) -> Head | None:
    """One output of boxes and scores (ultralytics), or `logits` and `pred_boxes` (transformers)."""
    if len(seen.outs) == 1:
        shape = seen.outs[0].shape
        if len(shape) != 3 or shape[0] != 1 or shape[2] <= 4:
            return None
        if seen.hints is not None and seen.hints.rtdetr_rows and shape[2] == 6:
            return None
        vouched = seen.hints is None or seen.hints.rtdetr
        if vouched or (shape[1] == RTDETR_QUERIES and shape[2] != 6 and not (seen.hints and seen.hints.end_to_end)):
            return Head("rtdetr", shape[2] - 4)
        return None
    pair = _boxes_and_scores(seen.outs)
    if pair is None or (seen.hints is not None and "logits" not in seen.outs[pair[1]].name):
        return None
    if seen.hints is not None and seen.outs[pair[0]].shape[1] < RTDETR_QUERIES:
        return None  # DETR itself, whose softmax has a class "nothing"
    return Head("rtdetr", seen.outs[pair[1]].shape[2], pair)


def _nanodet(seen: Seen) -> Head | None:
    order = nanodet_order([out.shape for out in seen.outs], *seen.size)
    return None if order is None else Head("nanodet", seen.outs[order[0][0]].shape[-1])


def _nanodet_plus(seen: Seen) -> Head | None:
    """A cell that only partly lies in the input counts here."""
    shape = _only(seen.outs)
    rows = sum(-(-seen.size[0] // stride) * -(-seen.size[1] // stride) for stride in NANODET_PLUS_STRIDES_PX)
    fits = len(shape) == 3 and shape[:2] == (1, rows) and shape[2] > 4 * DFL_BINS
    return Head("nanodet_plus", shape[2] - 4 * DFL_BINS) if fits else None


def _fastestdet(seen: Seen) -> Head | None:
    shape = _only(seen.outs)
    grid = (seen.size[0] // FASTESTDET_STRIDE_PX, seen.size[1] // FASTESTDET_STRIDE_PX)
    fits = len(shape) == 4 and shape[0] == 1 and shape[2:] == grid and shape[1] > 5
    return Head("fastestdet", shape[1] - 5) if fits else None


def _yolo_fastestv2(seen: Seen) -> Head | None:
    """For each stride a finished map (1, h, w, 4 A + A + C), or three raw ones in the order box, objectness, class."""
    grids = [(seen.size[0] // stride, seen.size[1] // stride) for stride in YOLO_FASTESTV2_STRIDES_PX]
    shapes = [out.shape for out in seen.outs]
    finished = 5 * ANCHORS_PER_CELL
    if len(shapes) == len(grids) and all(len(s) == 4 and s[0] == 1 and s[3] > finished for s in shapes):
        order = [index for grid in grids for index, s in enumerate(shapes) if s[1:3] == grid]
        if len(order) == len(grids) and shapes[0][3] == shapes[1][3]:
            return Head("yolo_fastestv2", shapes[0][3] - finished, tuple(order))
    if len(shapes) != 3 * len(grids) or any(len(s) != 4 or s[0] != 1 for s in shapes):
        return None
    order = [index for grid in grids for index, s in enumerate(shapes) if s[2:] == grid]
    depths = [shapes[index][1] for index in order]
    classes = depths[2] if len(depths) == 6 else 0
    fits = classes > 0 and depths == [4 * ANCHORS_PER_CELL, ANCHORS_PER_CELL, classes] * 2
    return Head("yolo_fastestv2", classes, tuple(order)) if fits else None


def _ssd(seen: Seen) -> Head | None:
    pair = _boxes_and_scores(seen.outs)
    if pair is None or seen.outs[pair[1]].shape[2] < 2:
        return None
    name, rows = seen.outs[pair[1]].name, seen.outs[pair[0]].shape[1]
    if seen.hints is not None and ("logits" in name or rows in _yolo_rows(seen.size, 1)):
        return None  # of a transformer; of an anchor-free head without background, such as YOLO-NAS
    if seen.hints is not None and rows <= MAX_FINISHED_BOXES and not any(word in name for word in ("score", "conf")):
        return None  # without names, a transformer's outputs look the same
    return Head("ssd", seen.outs[pair[1]].shape[2] - 1, pair, "xyxy_unit", first_label=1)


def _detections(seen: Seen) -> Head | None:
    """Finished boxes, labels and scores, and perhaps their number; told apart by name."""
    if seen.hints is None and len(seen.outs) in (3, 4) and all(not _role(out.name) for out in seen.outs):
        order: tuple[int, ...] = tuple(range(len(seen.outs)))
    else:
        roles = [_role(out.name) for out in seen.outs]
        if len(seen.outs) not in (3, 4) or any(roles.count(role) != 1 for role in ("box", "label", "score")):
            return None
        order = tuple(roles.index(role) for role in ("box", "label", "score"))
        order += tuple(index for index in range(len(seen.outs)) if index not in order)
    boxes, labels, scores = (tuple(side for side in seen.outs[i].shape) for i in order[:3])
    if not boxes or boxes[-1] != 4 or labels != boxes[:-1] or scores != labels or boxes[:-2] not in ((), (1,)):
        return None
    name = seen.outs[order[0]].name
    if name.startswith("detection_"):  # TensorFlow
        return Head("detections", None, order, "yxyx_unit", first_label=1)
    if name.startswith("det_"):  # YOLOv7 for TensorRT
        return Head("detections", None, order, "xyxy_px", preparation=ULTRALYTICS)
    if name == "bboxes":  # SSD-ResNet of the ONNX model zoo
        return Head("detections", None, order, "xyxy_unit", first_label=1, preparation=_IMAGENET)
    return Head("detections", None, order, "xyxy_px", first_label=1)  # torchvision


def _tercel(seen: Seen) -> Head | None:
    places = {}
    for index, out in enumerate(seen.outs):
        if match := re.search(r"(cls|box)_(\d{1,4})$", out.name):
            places[match[1], int(match[2])] = index
    wanted = [(role, stride) for role in ("cls", "box") for stride in STRIDES_PX]
    if len(seen.outs) != len(wanted) or not all(key in places for key in wanted):
        return None
    classes = seen.outs[places["cls", STRIDES_PX[0]]].shape[1:2]
    depth = {"cls": classes, "box": (4,)}
    for role, stride in wanted:
        if seen.outs[places[role, stride]].shape != (1, *depth[role], seen.size[0] // stride, seen.size[1] // stride):
            return None
    return Head("tercel", classes[0], tuple(places[key] for key in wanted))


_RECOGNISERS: dict[HeadKind, Callable[[Seen], Head | None]] = {
    "yolox": _yolox,
    "yolov5": _yolov5,
    "yolov8": _yolov8,
    "end_to_end": _end_to_end,
    "rtdetr": _rtdetr,
    "nanodet": _nanodet,
    "nanodet_plus": _nanodet_plus,
    "fastestdet": _fastestdet,
    "yolo_fastestv2": _yolo_fastestv2,
    "ssd": _ssd,
    "detections": _detections,
    "tercel": _tercel,
}


def _only(outs: Sequence[Out]) -> Shape:
    return outs[0].shape if len(outs) == 1 else ()


def _yolo_rows(size: Size, anchors: int) -> tuple[int, ...]:
    return tuple(anchors * sum(cell_counts(*size, strides)) for strides in _YOLO_STRIDES_PX)


def _boxes_and_scores(outs: Sequence[Out]) -> tuple[int, int] | None:
    """Indices of boxes (1, N, 4) and scores (1, N, C): by names that say so, else by the only shapes that fit."""
    if len(outs) != 2 or any(len(out.shape) != 3 or out.shape[0] != 1 for out in outs):
        return None
    if outs[0].shape[1] != outs[1].shape[1]:
        return None
    named = [index for index, out in enumerate(outs) if "box" in out.name]
    boxes = named if len(named) == 1 else [index for index, out in enumerate(outs) if out.shape[2] == 4]
    if len(boxes) != 1 or outs[boxes[0]].shape[2] != 4:
        return None
    return boxes[0], 1 - boxes[0]


def _role(name: str) -> str:
    """Which of a finished detection's outputs has this name: box, label or score; "" for others."""
    if "num" in name:
        return ""
    found = [role for role, words in _ROLE_WORDS.items() if any(word in name for word in words)]
    return found[0] if len(found) == 1 else ""


_ROLE_WORDS = {"box": ("box",), "label": ("label", "class"), "score": ("score",)}
