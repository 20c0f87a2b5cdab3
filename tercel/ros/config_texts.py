"""What a config's class says of its fields, in the three ways in which configs say it.

    @dataclass(frozen=True)
    class LookConfig:
        \"""How to look.

        near_m, far_m: points nearer and farther are not looked at. patience: so many looks in vain end it.
        \"""

        near_m: float = 0.5
        far_m: float = 80.0
        patience: int = 3
        is_shy: bool = False  # look away when looked at
        name: str = "eye"
        \"""What it is called.\"""

Texts of a class come before those of its bases. Comments and texts below a field are read from the source; where there
is none (a frozen program), these are missing, and nothing else is.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from dataclasses import fields
from functools import lru_cache


@lru_cache(maxsize=256)
def field_texts(config_type: type) -> dict[str, str]:
    """The text of each field that has one, by name."""
    names = {field.name for field in fields(config_type)}
    texts: dict[str, str] = {}
    for cls in reversed(config_type.__mro__):
        doc = cls.__doc__ or ""
        is_written = not doc.startswith(f"{cls.__name__}(")  # a dataclass without one is given its signature
        texts |= _beside(cls, names) | (_in_docstring(doc, names) if is_written else {})
    return texts


def _in_docstring(doc: str, names: set[str]) -> dict[str, str]:
    """What follows "name:" or "name, other:", up to the next of them."""
    name = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "$^"
    marks = list(re.finditer(rf"(?<![\w.])(?:{name})(?:(?:, | and )(?:{name}))*:(?=\s)", doc))
    texts: dict[str, str] = {}
    for index, mark in enumerate(marks):
        end = marks[index + 1].start() if index + 1 < len(marks) else len(doc)
        text = " ".join(doc[mark.end() : end].split())
        texts |= dict.fromkeys(re.findall(rf"\b(?:{name})\b", mark.group()), text)
    return texts


def _beside(cls: type, names: set[str]) -> dict[str, str]:
    """Comments beside fields, and texts below them."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    except (OSError, TypeError, SyntaxError):
        return {}
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.line.lstrip().startswith("#")
    }
    texts = {}
    for statement, below in zip(body, [*body[1:], None], strict=True):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        field, lines = statement.target.id, range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
        if field not in names:
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            texts[field] = " ".join(below.value.value.split())
        elif said := " ".join(comments[line] for line in lines if line in comments):
            texts[field] = said
    return texts
