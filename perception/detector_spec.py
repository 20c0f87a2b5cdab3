"""The spec of a detector, put together from what its file says about inputs, outputs and classes."""

from __future__ import annotations

from collections.abc import Sequence

from perception.coco import class_names_for
from perception.heads import ULTRALYTICS, Head, Out, Preparation, Size, recognise
from perception.model_metadata import Hints
from perception.model_spec import MAX_INPUT_SIDE_PX, HeadKind, InputDtype, Layout, ModelSpec
from tercel.core.errors import UserError

MAX_UNNAMED_CLASSES = 100
"""Class names class_0, class_1, ... of a head whose outputs do not tell how many classes it has."""

_NANODET = Preparation("letterbox_centred", 0, "bgr", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
_PREPARATIONS: dict[HeadKind, Preparation] = {
    "yolox": Preparation("letterbox_top_left", 114, "bgr", std=(1.0, 1.0, 1.0)),
    "yolov5": ULTRALYTICS,
    "yolov8": ULTRALYTICS,
    "end_to_end": ULTRALYTICS,
    "rtdetr": Preparation("stretch"),
    "nanodet": _NANODET,
    "nanodet_plus": _NANODET._replace(fit="stretch"),
    "fastestdet": Preparation("stretch", colour="bgr"),
    "yolo_fastestv2": Preparation("stretch", colour="bgr"),
    "ssd": Preparation("stretch", mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0)),
    "detections": Preparation("stretch"),
    "tercel": Preparation("letterbox_centred", 114, "bgr", std=(1.0, 1.0, 1.0)),
}


def detector_spec(
    input_shape: Sequence[int],
    output_shapes: Sequence[Sequence[int]],
    *,
    output_names: Sequence[str] = (),
    class_names: tuple[str, ...] | None = None,
    hints: Hints | None = None,
    head: HeadKind | None = None,
    output_order: tuple[int, ...] = (),
    first_label: int | None = None,
    dtype: InputDtype = "float32",
    where: str = "model",
) -> ModelSpec:
    """The spec of a detector with these inputs and outputs.

    class_names default to those of the metadata (hints), then to COCO's where there are 80 classes, then to class_0,
    class_1, ... head: the one it must be, as a model card says it, with its outputs in output_order. first_label: as in
    ModelSpec, where it is not the head's usual one.

    Raises UserError, naming `where`, for an input that is not one colour image, for outputs of no known head or of
    several, and for a wrong number of class names.
    """
    hints = hints or Hints()
    layout, size = _layout_and_size(input_shape, where)
    names = [name.lower() for name in output_names] or [""] * len(output_shapes)
    outs = [Out(name, tuple(shape)) for name, shape in zip(names, output_shapes, strict=True)]
    if output_order:
        outs = [outs[index] for index in output_order]
    class_count = None if (class_names or hints.class_names) is None else len(class_names or hints.class_names or ())
    found = recognise(outs, size, hints, head, class_count, where)
    if output_order:
        found = found._replace(output_order=tuple(output_order[i] for i in found.output_order) or output_order)
    if first_label is not None:
        if found.kind == "ssd" and found.class_count is not None:  # a background is one column more than classes
            found = found._replace(class_count=found.class_count + found.first_label - first_label)
        found = found._replace(first_label=first_label)
    preparation = found.preparation or _PREPARATIONS[found.kind]
    if dtype == "uint8":
        preparation = preparation._replace(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return ModelSpec(
        found.kind,
        *size,
        class_names=_class_names(found, class_names, hints, where),
        layout=layout,
        dtype=dtype,
        output_order=found.output_order,
        box_format=found.box_format,
        first_label=found.first_label,
        **preparation._asdict(),
    )


def _class_names(found: Head, given: tuple[str, ...] | None, hints: Hints, where: str) -> tuple[str, ...]:
    names = given or hints.class_names
    if names is None:
        return class_names_for(found.class_count or MAX_UNNAMED_CLASSES)
    if found.class_count not in (None, len(names)):
        whose = "given" if given else "in its metadata"
        raise UserError(f"{where}: {len(names)} class names {whose}, but the model has {found.class_count} classes")
    return names


def _layout_and_size(input_shape: Sequence[int], where: str) -> tuple[Layout, Size]:
    shape = tuple(input_shape)
    if len(shape) != 4 or shape[0] != 1:
        raise UserError(f"{where}: input shape {shape} is not one image (1, 3, height, width)")
    layout: Layout = "nhwc" if shape[3] == 3 and shape[1] != 3 else "nchw"
    if layout == "nchw" and shape[1] != 3:
        raise UserError(f"{where}: input has {shape[1]} channels; a camera detector needs 3 (1, 3, height, width)")
    size = shape[2:] if layout == "nchw" else shape[1:3]
    if not all(1 <= side <= MAX_INPUT_SIDE_PX for side in size):
        raise UserError(f"{where}: input size {size[0]}x{size[1]} is not in 1..{MAX_INPUT_SIDE_PX} pixels a side")
    return layout, (size[0], size[1])
