"""What an exporter wrote into an ONNX file's metadata about a detector: class names, task, kind.

Read are `names` (a Python or JSON list or mapping, as the ultralytics exporters write it), `class_names` (separated by
commas, as Tercel's own exporter writes it), `task`, `end2end`, `head` and
`description`. The text comes from a file that
anybody may have made: it is bounded, and taken apart by a grammar of quoted strings alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from perception.model_spec import MAX_CLASSES
from tercel.core.errors import UserError

MAX_TEXT_CHARACTERS = 1 << 20

_ITEM = re.compile(
    r"""\s*(?:["']?(\d{1,6})["']?\s*:\s*)?          # 0: or "0":
        (?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")  # 'name' or "name"
        \s*(?:,|$)""",
    re.VERBOSE,
)


class Hints(NamedTuple):
    """class_names: None where the file says nothing. task: of ultralytics ("detect", "segment", ...), or "".

    rtdetr: whether the file is an RT-DETR of ultralytics'; rtdetr_rows: whether it is one of the later ones, which give
    rows of box, score and label, where the earlier ones gave boxes and the scores of all classes.
    """

    class_names: tuple[str, ...] | None = None
    task: str = ""
    end_to_end: bool = False
    rtdetr: bool = False
    rtdetr_rows: bool = False


def hints_from_metadata(metadata: Mapping[str, str], where: str) -> Hints:
    """What the metadata says. Raises UserError, naming `where`, for class names that cannot be read."""
    names = None
    if "class_names" in metadata:
        names = tuple(name.strip() for name in metadata["class_names"][:MAX_TEXT_CHARACTERS].split(","))
    elif "names" in metadata:
        names = parse_names(metadata["names"])
    if names is not None and not (names and all(names) and len(names) <= MAX_CLASSES):
        raise UserError(f"{where}: the class names in its metadata cannot be read; give `classes` in a model card")
    description = metadata.get("description", "")[:1000].lower()
    rows = metadata.get("head", "") == "RTDETRDecoder"  # the key came with the rows
    return Hints(
        names,
        metadata.get("task", "")[:100].strip().lower(),
        metadata.get("end2end", "").strip().lower() == "true",
        rows or "rtdetr" in description or "rt-detr" in description,
        rows,
    )


def parse_names(text: str) -> tuple[str, ...]:
    """The strings of a list or of a mapping 0, 1, 2, ... -> string, written as Python or JSON; () if it is neither.

    >>> parse_names("{0: 'person', 1: \\"bird's nest\\"}")
    ('person', "bird's nest")
    """
    text = text.strip()
    if len(text) > MAX_TEXT_CHARACTERS or not text or text[0] + text[-1] not in ("[]", "()", "{}"):
        return ()
    body, position = text[1:-1].rstrip(" ,\n"), 0
    names: list[str] = []
    while position < len(body):
        item = _ITEM.match(body, position)
        if item is None or (text[0] == "{") != (item[1] is not None):
            return ()
        if item[1] is not None and int(item[1]) != len(names):
            return ()
        names.append(re.sub(r"\\(.)", r"\1", item[2] if item[2] is not None else item[3]))
        position = item.end()
    return tuple(names)
