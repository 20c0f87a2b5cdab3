"""What all commands share: how a verb is declared, options of the form KEY=VALUE, a line of progress, a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tercel.core.errors import UserError, nearest_hint

BACKENDS = ("onnxruntime", "openvino", "auto")
"""What can run networks, see perception.runtime; the first is the default."""


def add_verb(verbs: Any, name: str, run: Callable[..., int], summary: str, examples: str) -> argparse.ArgumentParser:
    """A verb's parser, with one sentence and examples; `run` gets the parsed arguments and returns the exit code."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def parse_pairs(values: Iterable[str], separator: str, option: str, default_key: str | None = None) -> dict[str, str]:
    """Options of the form KEY=VALUE, the separator being "="; without a key that of default_key. Raises UserError."""
    pairs: dict[str, str] = {}
    for value in values:
        key, found, right = value.partition(separator)
        if not found:
            if default_key is None:
                raise UserError(f"{option} {value}: write KEY{separator}VALUE")
            key, right = default_key, value
        if key in pairs:
            raise UserError(f"{option}: {key!r} is given twice")
        pairs[key] = right
    return pairs


def typed_settings(texts: Mapping[str, str], defaults: Mapping[str, Any], option: str) -> dict[str, Any]:
    """Settings with the types that their defaults have. Raises UserError for an unknown key or another type."""
    settings: dict[str, Any] = {}
    for key, text in texts.items():
        if key not in defaults:
            raise UserError(f"{option} {key}: no such setting; {nearest_hint(key, defaults)}")
        kind = type(defaults[key])
        try:
            settings[key] = _TRUTHS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise UserError(
                f"{option} {key}={text}: {'true or false' if kind is bool else kind.__name__} is wanted"
            ) from None
    return settings


_TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def printable(text: str) -> str:
    """The text on one line: names of files may hold line ends and worse, which become marks."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def require_writable(path: Path) -> None:
    """Raises UserError if the file, or the folders that it still wants, cannot be written, before the work is done."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if path.is_dir():
        raise UserError(f"{path} is a folder; the name of a file is wanted")
    if not folder.is_dir():
        raise UserError(f"{path} cannot be written: {folder} is a file, not a folder; name another place")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(f"{path} may not be written; give yourself the right or name another place")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class Progress:
    """A line on the terminal that says how far the work is; silent where stderr is no terminal."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._began_s = time.monotonic()
        self._next_s = 0.0

    def __call__(self, fraction: float) -> None:
        """Show a bar, at most ten times a second."""
        filled = int(30 * min(max(fraction, 0.0), 1.0))
        self._show(f"[{'#' * filled}{'.' * (30 - filled)}] {100 * fraction:3.0f} %")

    def count(self, done: int) -> None:
        """Show a number, for work whose end is not known."""
        self._show(f"{done} messages")

    def _show(self, text: str) -> None:
        now_s = time.monotonic()
        if self._shown and now_s >= self._next_s:
            self._next_s = now_s + 0.1
            print(f"\r{self._label} {text} {now_s - self._began_s:.0f} s\033[K", end="", file=sys.stderr, flush=True)

    def done(self) -> None:
        """Clear the line."""
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
