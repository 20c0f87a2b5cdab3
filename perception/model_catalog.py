"""Detectors by name: those that ship with Tercel, and well-known ones that can be fetched from their publishers.

The catalog is perception/models/catalog.yaml; the shipped models lie beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from perception.download import MAX_BYTES, download
from perception.model_card import CLASS_LISTS, ModelCard, card_path, write_card
from perception.model_spec import HeadKind
from perception.network_file import checked_sha256
from tercel.core.component import config_from_mapping
from tercel.core.errors import UserError, nearest_hint

MODELS_FOLDER = Path(__file__).parent / "models"
CATALOG = MODELS_FOLDER / "catalog.yaml"
MAX_CATALOG_BYTES = 1 << 20


@dataclass(frozen=True)
class CatalogModel:
    """One entry. file: its name on disk. sha256, size_bytes: None where unknown. input: height and width, px."""

    name: str
    file: str
    url: str
    source: str
    licence: str
    head: HeadKind
    input: tuple[int, int]
    classes: str
    sha256: str | None = None
    size_bytes: int | None = None
    evidence: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.onnx", self.file):
            raise ValueError(f"file {self.file!r} must be a plain name that ends in .onnx")
        if self.classes not in CLASS_LISTS:
            raise ValueError(f"classes {self.classes!r}: {nearest_hint(self.classes, CLASS_LISTS)}")
        if len(self.input) != 2 or min(self.input) < 1:
            raise ValueError(f"input {self.input} must be height and width")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 {self.sha256!r} must be 64 hex digits or null")
        if self.size_bytes is not None and not 0 < self.size_bytes <= MAX_BYTES:
            raise ValueError(f"size_bytes {self.size_bytes} must be in 1..{MAX_BYTES} or null")


def read_catalog(path: Path | None = None) -> dict[str, CatalogModel]:
    """The models of a catalog file by name; None: our own. Raises UserError, in one line, for one that is wrong."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = CATALOG if path is None else path
    if not path.is_file():
        raise UserError(f"{path}: no such catalog; check the path")
    if path.stat().st_size > MAX_CATALOG_BYTES:
        raise UserError(f"{path}: too large for a catalog")
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path}: no YAML ({str(error).splitlines()[0]}); mend it") from None
    rows = content.get("models") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: must hold a list `models`")
    models: dict[str, CatalogModel] = {}
    for row in rows:
        model = config_from_mapping(CatalogModel, row, where=f"{path.name}: {row.get('name', 'a model')}")
        if model.name in models:
            raise UserError(f"{path.name}: {model.name} stands there twice")
        models[model.name] = model
    return models


def pulled_folder() -> Path:
    """Where pulled models are kept: $XDG_CACHE_HOME/tercel/models, else ~/.cache/tercel/models."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tercel" / "models"


def shipped_models() -> dict[str, Path]:
    """The models that come with Tercel, by name."""
    return {path.stem: path for path in sorted(MODELS_FOLDER.glob("*.onnx"))}


def model_file(word: str | Path) -> Path:
    """The file that is meant by a path, or by the name of a shipped or pulled model.

    Raises UserError for a name that is none, and for a model that has not been pulled yet.
    """
    path = Path(word)
    shipped = shipped_models()
    if path.exists() or path.suffix == ".onnx" or len(path.parts) > 1:
        return path  # whoever loads it says what is wrong with it
    if str(word) in shipped:
        return shipped[str(word)]
    catalog = read_catalog()
    if str(word) not in catalog:
        raise UserError(f"no model file or model is named {word!r}; {nearest_hint(str(word), [*shipped, *catalog])}")
    path = pulled_folder() / catalog[str(word)].file
    if not path.is_file():
        raise UserError(f"{word} is not on this machine; fetch it: tercel models pull {word}")
    return path


def pull(
    name: str,
    catalog: Mapping[str, CatalogModel],
    folder: Path,
    *,
    keep_unverified: bool = False,
    progress: Callable[[float], None] = lambda _fraction: None,
    pause_s: float = 1.0,
) -> tuple[Path, str, bool]:
    """Fetch a model into folder: its path, its SHA-256, and whether it had to be fetched.

    A file that is there already is taken if it is the right one, or if the catalog cannot say and keep_unverified. A
    model card is written beside it where there is none.
    Raises UserError as perception.download does, for an unknown name, and for another file of the same name.
    """
    if name not in catalog:
        raise UserError(f"no model of the catalog is named {name!r}; {nearest_hint(name, catalog)}")
    model = catalog[name]
    target = folder / model.file
    if target.exists():
        found = checked_sha256(target)
        if found == model.sha256 or (model.sha256 is None and keep_unverified):
            _write_card(target, model, found)
            return target, found, False
        raise UserError(f"{target}: is there already and is not {name} (sha256 {found[:12]}...); move it away")
    found = download(
        model.url,
        target,
        sha256=model.sha256,
        max_bytes=model.size_bytes or MAX_BYTES,
        keep_unverified=keep_unverified,
        pause_s=pause_s,
        progress=progress,
    )
    _write_card(target, model, found)
    return target, found, True


def _write_card(target: Path, model: CatalogModel, sha256: str) -> None:
    """What the catalog knows of the model, for whoever loads it; a card that is there is the user's."""
    path = card_path(target)
    if path.exists():
        return
    card = ModelCard(
        name=model.name,
        head=model.head,
        input_size=model.input,
        classes=CLASS_LISTS[model.classes],
        licence=model.licence,
        sha256=sha256,
        source=model.url,
    )
    write_card(path, card)
