"""Model cards: read, written, held against their model; and what a network is taken for with and without one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.classes import TERCEL_CLASSES
from perception.coco import COCO91_CLASSES, COCO_CLASSES
from perception.model_card import ModelCard, card_beside, card_of, network_spec, read_card, write_card
from perception.model_spec import MAX_CLASSES, ModelSpec
from tercel.core.errors import UserError

SHA256 = "0123456789abcdef" * 4


BOMB = "about: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"{key}: &{this} [{', '.join([f'*{last}'] * 10)}]"
    for key, this, last in (("source", "b", "a"), ("training", "c", "b"), ("measured", "d", "c"), ("name", "e", "d"))
)


@dataclass
class Facts:
    """A network as network_spec sees it: YOLOX, unless the test says otherwise."""

    path: Path
    sha256: str = SHA256
    input_shape: tuple[int, ...] = (1, 3, 416, 416)
    input_dtype: type[np.generic] = np.float32
    output_names: tuple[str, ...] = ("output",)
    output_shapes: tuple[tuple[int, ...], ...] = ((1, 3549, 85),)
    metadata: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def network(tmp_path: Path) -> Facts:
    return Facts(tmp_path / "my.onnx")


def with_card(network: Facts, text: str) -> Facts:
    network.path.with_suffix(".yaml").write_text(text, encoding="utf-8")
    return network


def test_without_a_card_the_outputs_say_what_a_network_is(network: Facts) -> None:
    assert card_beside(network.path) is None
    spec = network_spec(network)
    assert (spec.head, spec.fit, spec.class_names) == ("yolox", "letterbox_top_left", COCO_CLASSES)


def test_a_card_wins_over_metadata_and_metadata_over_defaults(network: Facts) -> None:
    network.output_shapes, network.metadata = ((1, 3549, 7),), {"names": "{0: 'cat', 1: 'dog'}"}
    assert network_spec(network).class_names == ("cat", "dog")
    spec = network_spec(
        with_card(network, "classes: [goat, sheep]\nfit: stretch\ncolour: rgb\nstd: [255, 255.0, 255]\n")
    )
    assert (spec.class_names, spec.fit, spec.colour, spec.std) == (("goat", "sheep"), "stretch", "rgb", (255.0,) * 3)
    assert (spec.head, spec.pad_value) == ("yolox", 114)


def test_a_card_names_the_head_and_its_outputs_where_nothing_else_does(network: Facts) -> None:
    network.output_names, network.output_shapes = ("a", "b", "c"), ((1, 9), (1, 9, 4), (1, 9))
    with pytest.raises(UserError, match=r"my\.onnx: outputs a \(1,9\), b \(1,9,4\), c \(1,9\) .* no head known here"):
        network_spec(network)
    card = "head: detections\noutputs: [b, c, a]\nbox_format: xyxy_unit\nfirst_label: 0\nclasses: coco\n"
    spec = network_spec(with_card(network, card))
    assert (spec.head, spec.output_order, spec.box_format, spec.first_label) == (
        "detections",
        (1, 2, 0),
        "xyxy_unit",
        0,
    )


def test_a_head_that_the_card_names_is_put_into_order_among_the_outputs_that_it_names(network: Facts) -> None:
    network.output_names = ("mask", "logits", "pred_boxes")
    network.output_shapes = ((1, 300, 7), (1, 300, 80), (1, 300, 4))
    spec = network_spec(with_card(network, "head: rtdetr\noutputs: [logits, pred_boxes]\n"))
    assert spec.output_order == (2, 1)


def test_a_head_without_background_is_a_card_with_first_label_0(network: Facts) -> None:
    network.output_names, network.output_shapes = ("scores", "boxes"), ((1, 3549, 80), (1, 3549, 4))
    spec = network_spec(with_card(network, "head: ssd\nfirst_label: 0\nbox_format: xyxy_px\n"))
    assert (len(spec.class_names), spec.first_label, spec.box_format) == (80, 0, "xyxy_px")


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("input_size: [320, 416]", "input_size is 320x416, but the model takes 416x416"),
        ("layout: nhwc", r"layout is nhwc, but the model takes \(1, 3, 416, 416\), which is nchw"),
        ("classes: [a, b]", "2 class names given, but the model has 80 classes"),
        ("classes: tercel", "6 class names given, but the model has 80 classes"),
        ("head: nanodet", r"outputs output \(1,3549,85\) .* do not fit the head 'nanodet' that the model card names"),
        ("sha256: " + "f" * 64, "sha256 is ffffffffffff..., but my.onnx has 0123456789ab"),
        ("outputs: [outputs]", "the model has no output 'outputs'; did you mean 'output'"),
        ("pad_value: 300", "pad_value 300 not in 0..255"),
        ("std: [1, 0, 1]", "std .* above 0"),
        ("mean: [.nan, 0, 1]", "mean .* must be finite"),
    ],
)
def test_a_card_that_contradicts_its_model_is_one_line_with_both_values(network: Facts, card: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        network_spec(with_card(network, card + "\n"))
    assert str(caught.value).startswith(f"{network.path.with_suffix('.yaml')}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("haed: yolox", "unknown key 'haed'; did you mean 'head'"),
        ("1: yolox", "unknown key '1'"),
        ("head: yolox9000", "head: there is no 'yolox9000'; did you mean 'yolox'"),
        ("head: [yolox]", "head: there is no"),
        ("fit: letterbox", "fit: there is no 'letterbox'"),
        ("classes: cocoa", "classes: there is no list 'cocoa'; did you mean 'coco'"),
        ("classes: []", "classes: a list of 1 to 10000 names is wanted"),
        ("classes: [cat, true]", "classes: 'True' is no name; write \"True\""),
        ("classes: [cat, 7]", "classes: '7' is no name"),
        (f"classes: [{'a, ' * (MAX_CLASSES + 1)}]", "classes: a list of 1 to 10000"),
        ("classes: ['" + "a" * 300 + "']", "classes: 'a*' is no name"),
        ("input_size: 416", "input_size: '416' is not \\[height, width\\] in pixels"),
        ("input_size: [416, -1]", "input_size"),
        ("input_size: [true, 416]", "input_size"),
        ("mean: [1, 2]", "mean: '\\[1, 2\\]' is not one number for each of three channels"),
        ("pad_value: 1.5", "pad_value: '1.5' is no whole number"),
        ("pad_value: true", "pad_value: 'True' is no whole number"),
        ("first_label: 2", "first_label: '2' is neither 0 nor 1"),
        ("sha256: abc", "sha256: 'abc' is not 64 hexadecimal digits"),
        ("licence: 7", "licence: '7' is no text"),
        ("head: yolox\nhead: yolov5", "no YAML"),
        ("head: [", "no YAML"),
        ("- head", "a model card is a mapping"),
        ("", "a model card is a mapping"),
        ("about: !!python/object/apply:os.system ['true']", "no YAML"),
        ("about: " + "[" * 500_000, "nested too deeply"),
        ("\n".join(" " * depth + "about:" for depth in range(700)), "nested too deeply"),
        (BOMB, "more than 20000 values"),
    ],
)
def test_a_bad_card_is_one_line_with_the_mend(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=words) as caught:
        read_card(path)
    assert str(caught.value).startswith(f"{path}: ") or str(caught.value).startswith(f"{path} is ")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_cards_are_users_errors(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        read_card(path)
    path.write_bytes(b"about: " + b"a" * (1 << 20))
    with pytest.raises(UserError, match="larger than 1048576 bytes: no model card"):
        read_card(path)
    path.write_bytes(b"about: \xff\xfe\x00")
    with pytest.raises(UserError, match="no YAML"):
        read_card(path)
    with pytest.raises(UserError, match="cannot be written"):
        write_card(tmp_path / "none" / "my.yaml", ModelCard())


def test_measured_numbers_may_be_numpys(tmp_path: Path) -> None:
    write_card(tmp_path / "my.yaml", ModelCard(measured={"AP50": np.float64(0.5), "images": [np.int64(7)]}))
    assert read_card(tmp_path / "my.yaml").measured == {"AP50": 0.5, "images": [7]}


def test_lists_of_classes_have_names(tmp_path: Path) -> None:
    for word, names in (("coco", COCO_CLASSES), ("coco91", COCO91_CLASSES), ("tercel", TERCEL_CLASSES)):
        write_card(tmp_path / "my.yaml", ModelCard(classes=names))
        assert f"classes: {word}\n" in (tmp_path / "my.yaml").read_text()
        assert read_card(tmp_path / "my.yaml").classes == names


def test_a_class_that_begins_with_a_question_mark_is_read_back(tmp_path: Path) -> None:
    write_card(tmp_path / "my.yaml", ModelCard(classes=("?0", "a")))
    assert read_card(tmp_path / "my.yaml").classes == ("?0", "a")


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=30).map(str.strip)
NAME = TEXT.filter(bool)


@given(
    name=st.none() | NAME,
    classes=st.none() | st.lists(NAME, min_size=1, max_size=5).map(tuple),
    std=st.none() | st.tuples(*[st.floats(1e-3, 1e3)] * 3),
    size=st.none() | st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    about=st.none()
    | st.recursive(st.integers() | TEXT | st.booleans(), lambda x: st.lists(x, max_size=3), max_leaves=5),
)
def test_a_card_that_was_written_is_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory,
    name: str | None,
    classes: tuple[str, ...] | None,
    std: tuple[float, float, float] | None,
    size: tuple[int, int] | None,
    about: object,
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    card = ModelCard(name=name, head="yolov8", classes=classes, std=std, input_size=size, about=about, sha256=SHA256)
    write_card(path, card)
    assert read_card(path) == card


def test_the_card_of_a_spec_makes_the_same_spec_of_a_network_with_such_outputs(network: Facts) -> None:
    spec = replace(network_spec(network), fit="stretch", mean=(1.0, 2.0, 3.0), class_names=("x",) * 80, colour="rgb")
    write_card(network.path.with_suffix(".yaml"), card_of(spec, sha256=SHA256, licence="Apache-2.0"))
    network.metadata = {"names": "['other']"}
    assert network_spec(network) == spec
    assert card_beside(network.path) == card_of(spec, sha256=SHA256, licence="Apache-2.0")


def test_an_input_of_another_kind_is_refused_or_fed(network: Facts) -> None:
    network.input_dtype = np.int64
    with pytest.raises(UserError, match=r"my\.onnx: input is int64; a detector needs float32, float16, uint8"):
        network_spec(network)
    network.input_dtype, network.input_shape = np.uint8, (1, 416, 416, 3)
    spec = network_spec(network)
    assert (spec.dtype, spec.layout, spec.std, spec.input_shape) == ("uint8", "nhwc", (1.0,) * 3, (1, 416, 416, 3))
    with pytest.raises(UserError, match=r"my\.yaml: a uint8 input takes pixels as they are"):
        network_spec(with_card(network, "mean: [1, 2, 3]\n"))
    network.input_dtype, network.input_shape = np.float32, (1, 1, 416, 416)
    with pytest.raises(UserError, match="input has 1 channels; a camera detector needs 3"):
        network_spec(network)
    network.input_shape = (1, 3)
    with pytest.raises(UserError, match="is not one image"):
        network_spec(network)


def test_a_spec_out_of_range_is_a_programmers_mistake() -> None:
    for changes in ({"first_label": 2}, {"class_names": ()}, {"mean": (np.inf, 0.0, 0.0)}, {"input_width_px": 5000}):
        with pytest.raises(ValueError, match=next(iter(changes))[:5]):
            ModelSpec(**{"head": "yolox", "input_height_px": 9, "input_width_px": 9, "fit": "stretch",
                         "class_names": ("a",)} | changes)  # type: ignore[arg-type]  # fmt: skip
