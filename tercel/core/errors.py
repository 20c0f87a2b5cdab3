"""Everything that Tercel raises on purpose, grouped by who must act.

TercelError
├── UserError    the user: a bad option, file, graph or model. One line that says how to mend it; exit code 2.
└── Rejected     nobody: bad sensor data. The host counts it under its reason and goes on.

A programmer's mistake is a plain ValueError or TypeError and ends in a traceback.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class TercelError(Exception):
    """Root of the errors that Tercel raises on purpose."""


class UserError(TercelError):
    """A user's mistake. The message is one line and says how to mend it."""


class Rejected(TercelError):
    """A message that cannot be used. The reason is short and has no numbers in it, so that it can be counted."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency, or say in one line how to install it.

    Raises UserError if the module is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise UserError(f"{module} is not installed: pip install 'tercel[{extra}]'") from None


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """The words that end an "unknown NAME" message: the nearest known name, or all of them."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(choices) or 'none'}"
