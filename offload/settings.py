"""Settings in YAML, as people write them: bounded before they are looked at, and every mistake one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tercel.core.component import config_from_mapping
from tercel.core.errors import UserError, nearest_hint

MAX_FILE_BYTES = 1 << 20
MAX_NODES = 20_000
"""Values in a file, aliases counted as often as they are used."""


def read_settings(path: Path, known: Sequence[str], *, what: str, folder: str) -> Mapping[str, Any]:
    """The mapping that a YAML file holds. known: its keys; what: a file of this sort; folder: where such files lie.

    Raises UserError, which names the file and the mend.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UserError(f"{path} is larger than {MAX_FILE_BYTES} bytes: no {what}")
        content = YAML(typ="safe", pure=True).load(data.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {what}s lie in {folder}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be a {what}") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path}: no YAML: {' '.join(str(error).split())[:120]}") from None
    _check_nodes(path, content, what)
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: a mapping is wanted, with at least one entry: {', '.join(known)}")
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}; {nearest_hint(key, known)}")
    return content


def _check_nodes(path: Path, content: Any, what: str) -> None:
    """Bounded, so that aliases of aliases, or of themselves, do not become more than they are worth."""
    waiting, seen = [content], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen > MAX_NODES:
            raise UserError(f"{path}: more than {MAX_NODES} values: no {what}")
        if isinstance(node, Mapping):
            for key in node:
                if not isinstance(key, str):
                    raise UserError(f'{path}: the key {str(key)[:40]} is no text; write "{str(key)[:40]}"')
            waiting.extend(node.values())
        elif isinstance(node, list | tuple | set):
            waiting.extend(node)


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """The value, if it is a mapping with an entry. Raises UserError."""
    if not isinstance(value, Mapping) or not value:
        raise UserError(f"{where}: a mapping is wanted, with at least one entry")
    return value


def located(where: str, make: Callable[[Any], Any], value: Any) -> Any:
    """make(value), whose UserError is told where."""
    try:
        return make(value)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def config(kind: type, value: Any, where: str) -> Any:
    """The config dataclass that a mapping states. Raises UserError."""
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: a mapping is wanted, not {value!r}")
    return config_from_mapping(kind, value, where=where)
