"""A folder of models, NAME.onnx or NAME/1/model.onnx, watched for changes.

A file that has changed is loaded once it has stayed the same for a whole look, so that one being copied is not read
half. What cannot be loaded is reported, and the model that was there before goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from offload.server.models import Model, load_model
from tercel.core.errors import UserError

Stamp = tuple[int, int, int]
"""Modification time and size of a model file, and modification time of its .sha256 (0: none)."""


@dataclass(frozen=True)
class Change:
    """model: a new one, or one in place of the one of its name; None: the name is gone."""

    name: str
    model: Model | None


class ModelFolder:
    """Looks at a folder. problems: name -> why its newest file is not served, one line each.

    load: reads one model and raises UserError if it cannot. Raises UserError if there is no such folder.
    """

    def __init__(self, path: Path, load: Callable[[str, Path], Model] = load_model) -> None:
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; name the one that holds NAME.onnx")
        self.path = path
        self.problems: dict[str, str] = {}
        self._load = load
        self._tried: dict[str, Stamp] = {}
        self._seen: dict[str, Stamp] = {}

    def look(self, *, settle: bool = True) -> list[Change]:
        """What has changed since the last look. settle: only files that are as they were at the look before.

        Takes as long as loading does: to be called in a thread.
        """
        files = self._files()
        stamps = {name: stamp for name, path in files.items() if (stamp := _stamp(path)) is not None}
        changes = [Change(name, None) for name in sorted(self._tried.keys() - stamps.keys())]
        for change in changes:
            del self._tried[change.name]
            self.problems.pop(change.name, None)
        for name, stamp in sorted(stamps.items()):
            if stamp == self._tried.get(name) or (settle and stamp != self._seen.get(name)):
                continue
            self._tried[name] = stamp
            try:
                changes.append(Change(name, self._load(name, files[name])))
                self.problems.pop(name, None)
            except UserError as error:
                self.problems[name] = str(error)
            except OSError as error:
                self.problems[name] = f"{files[name]}: {error.strerror or error}"
        self._seen = stamps
        return changes

    def _files(self) -> dict[str, Path]:
        """Name -> file. Of a name that is there twice NAME.onnx counts. Hidden ones are none of ours: copies under way,
        what file systems leave, and ...onnx, whose name would lead out of any folder."""
        found = {path.parents[1].name: path for path in sorted(self.path.glob("[!.]*/1/model.onnx"))}
        return found | {path.stem: path for path in sorted(self.path.glob("[!.]*.onnx")) if path.is_file()}


def _stamp(path: Path) -> Stamp | None:
    try:
        state = path.stat()
        listed = path.with_name(path.name + ".sha256")
        return state.st_mtime_ns, state.st_size, listed.stat().st_mtime_ns if listed.exists() else 0
    except OSError:  # gone between two looks
        return None
