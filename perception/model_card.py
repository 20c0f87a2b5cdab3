"""Model cards: what people know about a detector and its file does not say, in FILE.yaml beside FILE.onnx.

    head: yolov8                      # one of perception/model_spec.py's; needed where the outputs fit several or none
    input_size: [480, 640]            # height, width
    layout: nchw                      # or nhwc
    fit: letterbox_centred            # or letterbox_top_left, stretch
    pad_value: 114
    colour: rgb                       # or bgr
    mean: [0, 0, 0]                   # pixels become (pixel - mean) / std, on the scale 0..255, in `colour` order
    std: [255, 255, 255]
    classes: [person, car]            # or one word: coco, coco91, tercel
    outputs: [boxes, labels, scores]  # names, in the order that the head wants them
    box_format: xyxy_px               # of finished boxes; also xyxy_unit, yxyx_unit, cxcywh_px, cxcywh_unit
    first_label: 1                    # the number of the first of `classes`; 1 where 0 is the background
    licence: Apache-2.0
    sha256: 695e750a...
    name, source, about, training, measured: whatever is worth knowing

Every key may be left out; what stands there wins over what was recognised, and metadata in the file wins over defaults.
A card that contradicts its model is an error that names both values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np

from perception.classes import TERCEL_CLASSES
from perception.coco import COCO91_CLASSES, COCO_CLASSES
from perception.detector_spec import detector_spec
from perception.model_metadata import hints_from_metadata
from perception.model_spec import (
    MAX_CLASSES,
    BoxFormat,
    Colour,
    Fit,
    HeadKind,
    InputDtype,
    Layout,
    ModelSpec,
    Triple,
)
from tercel.core.errors import UserError, nearest_hint

MAX_CARD_BYTES = 1 << 20
MAX_VALUES = 20_000
"""Values in a card, aliases counted as often as they are used."""
MAX_DEPTH = 50
MAX_NAME_CHARACTERS = 200

CLASS_LISTS: dict[str, tuple[str, ...]] = {
    "coco": COCO_CLASSES,
    "coco91": COCO91_CLASSES,
    "tercel": TERCEL_CLASSES,
}


@dataclass(frozen=True)
class ModelCard:
    """A card's content; None where it says nothing. input_size: (height, width) in pixels. The rest: see ModelSpec."""

    name: str | None = None
    head: HeadKind | None = None
    input_size: tuple[int, int] | None = None
    layout: Layout | None = None
    fit: Fit | None = None
    pad_value: int | None = None
    colour: Colour | None = None
    mean: Triple | None = None
    std: Triple | None = None
    classes: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    box_format: BoxFormat | None = None
    first_label: int | None = None
    licence: str | None = None
    sha256: str | None = None
    source: Any = None
    about: Any = None
    training: Any = None
    measured: Any = None


class NetworkFacts(Protocol):
    """What must be known of a network; perception.runtime.Network is one."""

    path: Path
    sha256: str
    input_shape: tuple[int, ...]
    input_dtype: type[np.generic]
    output_names: tuple[str, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    metadata: dict[str, str]


def card_path(model_path: str | Path) -> Path:
    """Where a model's card stands."""
    return Path(model_path).with_suffix(".yaml")


def card_beside(model_path: str | Path) -> ModelCard | None:
    """The card of a model file, if there is one. Raises UserError as read_card does."""
    path = card_path(model_path)
    return read_card(path) if path.is_file() and path != Path(model_path) else None


def read_card(path: Path) -> ModelCard:
    """A card, checked. Raises UserError, in one line, for a file that is none and an unknown or impossible entry."""
    content = _read_yaml(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: a model card is a mapping such as `head: yolov8`")
    values = {}
    for key, value in content.items():
        if key not in _CHECKS:
            raise UserError(f"{path}: unknown key {str(key)[:40]!r}; {nearest_hint(str(key)[:40], _CHECKS)}")
        if value is None:
            continue
        try:
            values[key] = _CHECKS[key](value)
        except ValueError as error:
            raise UserError(f"{path}: {key}: {error}") from None
    return ModelCard(**values)


def write_card(path: Path, card: ModelCard) -> None:
    """Write a card, which read_card gives back equal. Raises UserError if the file cannot be written."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt", pure=True)
    yaml.width = 120
    pairs = {field.name: getattr(card, field.name) for field in fields(card)}
    pairs["classes"] = next((word for word, names in CLASS_LISTS.items() if names == card.classes), card.classes)
    try:
        with path.open("w", encoding="utf-8") as file:
            yaml.dump({key: _plain(value) for key, value in pairs.items() if value is not None}, file)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def card_of(spec: ModelSpec, **facts: Any) -> ModelCard:
    """A card that makes a model with such outputs a detector of this spec. facts: further entries, as sha256."""
    size = (spec.input_height_px, spec.input_width_px)
    same = {key: getattr(spec, key) for key in ("head", "first_label", *_OVERRIDES)}
    return ModelCard(**same | {"input_size": size, "classes": spec.class_names} | facts)


def network_spec(network: NetworkFacts) -> ModelSpec:
    """The spec of a loaded network: what its card says, else its metadata, else what its outputs look like.

    Raises UserError, in one line, if the network is no camera detector, and if its card contradicts it.
    """
    dtype = np.dtype(network.input_dtype).name
    if dtype not in get_args(InputDtype):
        raise UserError(f"{network.path}: input is {dtype}; a detector needs {', '.join(get_args(InputDtype))}")
    card = card_beside(network.path) or ModelCard()
    where = str(card_path(network.path))
    _check_against(card, network, where)
    spec = detector_spec(
        network.input_shape,
        network.output_shapes,
        output_names=network.output_names,
        class_names=card.classes,
        hints=hints_from_metadata(network.metadata, str(network.path)),
        head=card.head,
        output_order=_output_order(card, network, where),
        first_label=card.first_label,
        dtype=dtype,
        where=where if card.head or card.classes else str(network.path),
    )
    try:
        return replace(spec, **{key: getattr(card, key) for key in _OVERRIDES if getattr(card, key) is not None})
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


_OVERRIDES = ("layout", "fit", "pad_value", "colour", "mean", "std", "box_format")


def _check_against(card: ModelCard, network: NetworkFacts, where: str) -> None:
    """Raises UserError if the card contradicts the file or its input."""
    shape = network.input_shape
    if card.sha256 is not None and card.sha256 != network.sha256:
        raise UserError(
            f"{where}: sha256 is {card.sha256[:12]}..., but {network.path.name} has {network.sha256[:12]}...; "
            "download the model again, or correct the card"
        )
    if len(shape) != 4:
        return  # detector_spec says what is wrong with it
    layout = "nhwc" if shape[3] == 3 and shape[1] != 3 else "nchw"
    if card.layout not in (None, layout):
        raise UserError(f"{where}: layout is {card.layout}, but the model takes {shape}, which is {layout}")
    size = shape[2:] if layout == "nchw" else shape[1:3]
    if card.input_size not in (None, size):
        height, width = card.input_size or size
        raise UserError(f"{where}: input_size is {height}x{width}, but the model takes {size[0]}x{size[1]}")


def _output_order(card: ModelCard, network: NetworkFacts, where: str) -> tuple[int, ...]:
    for name in card.outputs or ():
        if name not in network.output_names:
            raise UserError(f"{where}: the model has no output {name!r}; {nearest_hint(name, network.output_names)}")
    return tuple(network.output_names.index(name) for name in card.outputs or ())


def _read_yaml(path: Path) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        with path.open("rb") as file:
            data = file.read(MAX_CARD_BYTES + 1)
        if len(data) > MAX_CARD_BYTES:
            raise UserError(f"{path} is larger than {MAX_CARD_BYTES} bytes: no model card")
        if _open_brackets(data) > MAX_DEPTH:  # the scanner's time grows with the cube of it
            raise UserError(f"{path}: nested too deeply to be a model card")
        content = YAML(typ="safe", pure=True).load(data.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be a model card") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path}: no YAML: {' '.join(str(error).split())[:120]}") from None
    waiting, seen = [content], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen > MAX_VALUES:
            raise UserError(f"{path}: more than {MAX_VALUES} values: no model card")
        waiting.extend(node.values() if isinstance(node, Mapping) else node if isinstance(node, list | set) else ())
    return content


def _open_brackets(data: bytes) -> int:
    """How many brackets are open at once, at most; those in text count too."""
    depth = deepest = 0
    for bracket in re.finditer(rb"[\[\]{}]", data):
        depth += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _plain(value: Any) -> Any:
    """Tuples as the lists that YAML knows, all the way down, each in one line."""
    from ruamel.yaml.comments import CommentedSeq
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, str) and value.startswith("?"):
        return DoubleQuotedScalarString(value)  # plain, "?0" would be read back as a mapping
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if not isinstance(value, list | tuple):
        return value.item() if isinstance(value, np.generic) else value
    line = CommentedSeq(_plain(one) for one in value)
    line.fa.set_flow_style()
    return line


# --- what an entry may be; ValueError says what is wanted ---


def _word_of(kind: Any) -> Callable[[Any], str]:
    words = get_args(kind)

    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(f"there is no {str(value)[:40]!r}; {nearest_hint(str(value)[:40], words)}")
        return str(value)

    return check


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{str(value)[:40]!r} is no whole number")
    return value


def _zero_or_one(value: Any) -> int:
    if type(value) is not int or value not in (0, 1):
        raise ValueError(f"{str(value)[:40]!r} is neither 0 nor 1")
    return value


def _size(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or any(type(side) is not int or side < 1 for side in value):
        raise ValueError(f"{str(value)[:40]!r} is not [height, width] in pixels")
    return value[0], value[1]


def _triple(value: Any) -> Triple:
    if not isinstance(value, list) or len(value) != 3 or any(type(one) not in (int, float) for one in value):
        raise ValueError(f"{str(value)[:40]!r} is not one number for each of three channels")
    return float(value[0]), float(value[1]), float(value[2])


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{str(value)[:40]!r} is no text")
    return value.strip()


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CLASSES:
        raise ValueError(f"a list of 1 to {MAX_CLASSES} names is wanted")
    for name in value:
        if not isinstance(name, str) or not 1 <= len(name.strip()) <= MAX_NAME_CHARACTERS:
            raise ValueError(f'{str(name)[:40]!r} is no name; write "{str(name)[:40]}"')
    return tuple(name.strip() for name in value)


def _classes(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        if value not in CLASS_LISTS:
            raise ValueError(f"there is no list {value[:40]!r}; {nearest_hint(value[:40], CLASS_LISTS)}")
        return CLASS_LISTS[value]
    return _names(value)


def _sha256(value: Any) -> str:
    text = str(value).strip().lower()
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"{text[:40]!r} is not 64 hexadecimal digits")
    return text


def _anything(value: Any) -> Any:
    return value


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "name": _text,
    "head": _word_of(HeadKind),
    "input_size": _size,
    "layout": _word_of(Layout),
    "fit": _word_of(Fit),
    "pad_value": _integer,
    "colour": _word_of(Colour),
    "mean": _triple,
    "std": _triple,
    "classes": _classes,
    "outputs": _names,
    "box_format": _word_of(BoxFormat),
    "first_label": _zero_or_one,
    "licence": _text,
    "sha256": _sha256,
    "source": _anything,
    "about": _anything,
    "training": _anything,
    "measured": _anything,
}
