"""Heads are recognised by names, shapes and metadata; what fits none or several is an error that helps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.coco import COCO91_CLASSES, COCO_CLASSES, class_names_for
from perception.detector_spec import detector_spec
from perception.model_metadata import Hints, hints_from_metadata, parse_names
from perception.model_spec import ModelSpec
from tercel.core.errors import UserError

NAMES_80 = str(dict(enumerate(COCO_CLASSES)))
# As version 8.4.190 of the exporter writes it.
EXPORTED = {"task": "detect", "stride": "32", "end2end": "False", "description": "Ultralytics YOLO11n model "}
RTDETR = {**EXPORTED, "description": "Ultralytics rtdetr-l model "}

Outputs = Sequence[tuple[str, tuple[int, ...]]]


def spec_of(outputs: Outputs, metadata: dict[str, str] | None = None, size: Any = (640, 640), **more: Any) -> ModelSpec:
    return detector_spec(
        (1, 3, *size),
        [shape for _, shape in outputs],
        output_names=[name for name, _ in outputs],
        hints=hints_from_metadata(metadata or {}, "my.onnx"),
        where="my.onnx",
        **more,
    )


def tercel_outputs(height: int, width: int, classes: int) -> list[tuple[str, tuple[int, ...]]]:
    depth = {"cls": classes, "box": 4}
    return [
        (f"head/{role}_{s}", (1, depth[role], height // s, width // s)) for s in (32, 8, 16) for role in ("box", "cls")
    ]


@pytest.mark.parametrize(
    ("outputs", "metadata", "head", "classes", "fit"),
    [
        ([("output", (1, 8400, 85))], {}, "yolox", 80, "letterbox_top_left"),
        ([("output0", (1, 25200, 85))], {"names": str(list(COCO_CLASSES))}, "yolov5", 80, "letterbox_centred"),
        ([("output", (1, 25200, 7))], {}, "yolov5", 2, "letterbox_centred"),
        ([("output0", (1, 34000 * 3 // 4, 85))], {}, "yolov5", 80, "letterbox_centred"),
        ([("output0", (1, 84, 8400))], {**EXPORTED, "names": NAMES_80}, "yolov8", 80, "letterbox_centred"),
        ([("output0", (1, 5, 8400))], {}, "yolov8", 1, "letterbox_centred"),
        ([("output0", (1, 84, 8500))], {}, "yolov8", 80, "letterbox_centred"),  # P6
        ([("output0", (1, 84, 34000))], {}, "yolov8", 80, "letterbox_centred"),  # P2
        ([("output0", (1, 300, 6))], {**EXPORTED, "end2end": "True", "names": NAMES_80}, "end_to_end", 80, None),
        ([("output0", (1, 100, 6))], {}, "end_to_end", 100, None),
        ([("output0", (300, 6))], {}, "end_to_end", 100, None),
        ([("output", (0, 7))], {}, "end_to_end", 100, None),
        ([("output0", (1, 300, 84))], {**RTDETR, "names": NAMES_80}, "rtdetr", 80, "stretch"),
        ([("output0", (1, 300, 6))], {**RTDETR, "names": "{0: 'a', 1: 'b'}"}, "rtdetr", 2, "stretch"),
        ([("output0", (1, 300, 6))], {**RTDETR, "head": "RTDETRDecoder"}, "end_to_end", 100, "stretch"),
        ([("logits", (1, 300, 80)), ("pred_boxes", (1, 300, 4))], {}, "rtdetr", 80, "stretch"),
        ([("pred_boxes", (1, 300, 4)), ("logits", (1, 300, 4))], {}, "rtdetr", 4, "stretch"),
        ([("output", (1, 8500, 112))], {}, "nanodet_plus", 80, "stretch"),
        ([("a", (1, 95, 40, 40)), ("b", (1, 95, 20, 20))], {}, None, None, None),
        ([("a", (1, 20, 20, 95)), ("b", (1, 40, 40, 95))], {}, "yolo_fastestv2", 80, "stretch"),
        (
            [(n, (1, d, g, g)) for g in (40, 20) for n, d in (("reg", 12), ("obj", 3), ("cls", 7))],
            {},
            "yolo_fastestv2",
            7,
            "stretch",
        ),
        ([("scores", (1, 3000, 21)), ("boxes", (1, 3000, 4))], {}, "ssd", 20, "stretch"),
        ([("1", (1, 4420, 2)), ("2", (1, 4420, 4))], {}, "ssd", 1, "stretch"),
        ([("boxes", (1, 4420, 4)), ("scores", (1, 4420, 4))], {}, "ssd", 3, "stretch"),
        ([("labels", (7,)), ("boxes", (7, 4)), ("scores", (7,))], {}, "detections", 100, "stretch"),
        ([("bboxes", (1, 200, 4)), ("labels", (1, 200)), ("scores", (1, 200))], {}, "detections", 100, "stretch"),
        (tercel_outputs(640, 640, 6), {"class_names": "a, b,c ,d,e,f"}, "tercel", 6, "letterbox_centred"),
    ],
)
def test_a_head_is_recognised(
    outputs: Outputs, metadata: dict[str, str], head: str | None, classes: int | None, fit: str | None
) -> None:
    if head is None:
        with pytest.raises(UserError, match="no head known here"):
            spec_of(outputs, metadata)
        return
    spec = spec_of(outputs, metadata)
    assert (spec.head, len(spec.class_names), spec.fit) == (head, classes, fit or "letterbox_centred")


def test_tensorflows_detections_are_unit_boxes_y_first_of_an_image_of_bytes() -> None:
    outputs = [("detection_boxes:0", (1, 100, 4)), ("detection_classes:0", (1, 100))]
    outputs += [("detection_scores:0", (1, 100)), ("num_detections:0", (1,))]
    spec = detector_spec(
        (1, 300, 400, 3),
        [shape for _, shape in outputs],
        output_names=[name for name, _ in outputs],
        class_names=COCO91_CLASSES,
        dtype="uint8",
    )
    assert (spec.layout, spec.input_height_px, spec.input_width_px, spec.dtype) == ("nhwc", 300, 400, "uint8")
    assert (spec.head, spec.box_format, spec.first_label, spec.std) == ("detections", "yxyx_unit", 1, (1.0, 1.0, 1.0))
    assert spec.output_order == (0, 1, 2, 3)
    assert not spec.needs_nms


def test_the_outputs_of_a_head_are_put_into_its_decoders_order() -> None:
    assert spec_of([("logits", (1, 300, 80)), ("pred_boxes", (1, 300, 4))]).output_order == (1, 0)
    assert spec_of(tercel_outputs(320, 320, 6), size=(320, 320)).output_order == (3, 5, 1, 2, 4, 0)
    raw = [("grid", (1, 3, 80, 80, 85)), ("output", (1, 25200, 85)), ("grid2", (1, 3, 40, 40, 85))]
    assert (spec_of(raw).head, spec_of(raw).output_order) == ("yolov5", (1,))


@pytest.mark.parametrize(
    ("outputs", "metadata", "words"),
    [
        ([("out", (1, 1234, 85))], {}, r"out \(1,1234,85\) for input 640x640 are no head known here; name one in a mo"),
        ([("a", (1, 300, 80)), ("b", (1, 300, 4))], {}, "no head known here"),  # RT-DETR or SSD
        ([("a", (1, 8400, 80)), ("b", (1, 8400, 4))], {}, "no head known here"),  # YOLO-NAS has no background
        ([("logits", (1, 100, 92)), ("pred_boxes", (1, 100, 4))], {}, "no head known here"),  # DETR
        ([("a", (1, 3, 80, 80, 85)), ("b", (1, 3, 40, 40, 85))], {}, "raw grid: export it decoded"),
        ([("a", (1, 116, 8400)), ("b", (1, 32, 160, 160))], {"task": "segment"}, "task 'segment'"),
        ([("a", (1, 56, 8400))], {"task": "pose"}, "export a model of the task 'detect'"),
        ([("a", (1, 84, 8400))], {"names": "{0: 'a', 1: 'b'}"}, "2 class names in its metadata, but the model has 80"),
        ([("a", (1, 84, 8400))], {"names": "__import__('os')"}, "class names in its metadata cannot be read"),
        ([("boxes", (5, 4)), ("labels", (5,)), ("scores", (6,))], {}, "no head known here"),
        ([(f"o{i}", (1,)) for i in range(20)], {}, r"\.\.\. for input"),
    ],
)
def test_what_is_no_head_is_one_line_that_says_what_was_seen(
    outputs: Outputs, metadata: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        spec_of(outputs, metadata)
    assert str(caught.value).startswith("my.onnx: ")
    assert "\n" not in str(caught.value)


def test_a_shape_that_fits_two_heads_is_decided_by_the_number_of_names_or_asks_for_a_card() -> None:
    size = (160, 96)  # 240 + 60 + 15 cells: 315; and 300 is what RT-DETR gives
    outputs = [("output0", (1, 300, 85))]
    assert spec_of(outputs, size=size).head == "rtdetr"
    ambiguous = [("output0", (1, 315, 315))]  # columns of YOLOX, rows of YOLOv8
    with pytest.raises(UserError, match="fit several heads; say `head: yolox or yolov8` in a model card"):
        spec_of(ambiguous, size=size)
    assert spec_of(ambiguous, {"names": str(list(class_names_for(310)))}, size).head == "yolox"
    assert spec_of(ambiguous, {"names": str(list(class_names_for(311)))}, size).head == "yolov8"
    assert spec_of(ambiguous, size=size, head="yolov8").head == "yolov8"


def test_a_one_class_grid_is_not_taken_for_finished_boxes() -> None:
    assert spec_of([("output", (1, 525, 6))], size=(160, 160)).head == "yolox"
    assert spec_of([("output", (1, 525, 6))], {"end2end": "True"}, size=(160, 160)).head == "end_to_end"
    assert spec_of([("output", (1, 1575, 6))], size=(160, 160)).head == "yolov5"


def test_a_card_vouches_for_a_head_that_shapes_alone_do_not_show() -> None:
    assert spec_of([("out", (1, 1234, 85))], head="yolov5").class_names == COCO_CLASSES
    nas = spec_of([("b", (1, 8400, 80)), ("a", (1, 8400, 4))], head="ssd", first_label=0)
    assert (len(nas.class_names), nas.first_label, nas.output_order) == (80, 0, (1, 0))
    with pytest.raises(UserError, match="do not fit the head 'nanodet' that the model card names"):
        spec_of([("out", (1, 1234, 85))], head="nanodet")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{0: 'person', 1: \"bird's nest\"}", ("person", "bird's nest")),
        ("['a', 'b, c', 'd:e']", ("a", "b, c", "d:e")),
        ('["a", "b\\"c"]', ("a", 'b"c')),
        ('{"0": "a", "1": "b"}', ("a", "b")),
        ("{0: 'a'}", ("a",)),
        ("{0: 'a', 1: 'b', }", ("a", "b")),
        ("{1: 'a'}", ()),
        ("{0: 'a', 2: 'b'}", ()),
        ("{'a', 'b'}", ()),
        ("[0: 'a']", ()),
        ("['a' + 'b']", ()),
        ("[__import__('os').system('true')]", ()),
        ("['a'", ()),
        ("[]", ()),
        ("", ()),
        ("[" * 100_000, ()),
    ],
)
def test_class_names_are_read_by_a_grammar_of_quoted_strings(text: str, names: tuple[str, ...]) -> None:
    assert parse_names(text) == names


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"])), max_size=8))
def test_names_that_python_wrote_come_back(names: list[str]) -> None:
    assert parse_names(str(names)) == tuple(names)
    assert parse_names(str(dict(enumerate(names)))) == tuple(names)


@given(st.text())
def test_whatever_the_metadata_says_it_is_read_or_refused(text: str) -> None:
    assert all(isinstance(name, str) for name in parse_names(f"{{{text}}}"))
    try:
        hints = hints_from_metadata({"names": text, "task": text, "description": text, "end2end": text}, "x")
    except UserError:
        return
    assert isinstance(hints, Hints)


def test_coco_by_its_own_numbers_has_ten_gaps() -> None:
    assert [COCO91_CLASSES[number - 1] for number in (1, 3, 13, 90)] == ["person", "car", "stop sign", "toothbrush"]
    assert tuple(name for name in COCO91_CLASSES if not name.startswith("unused")) == COCO_CLASSES
