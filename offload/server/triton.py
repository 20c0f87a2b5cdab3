"""A Triton model repository from a folder of ONNX models: NAME/1/model.onnx and NAME/config.pbtxt.

Triton then takes our `timeout` parameter for its queue, and rejects what has waited longer: later than our admission
does, but a client sees the same. A request may shorten the default and not set a timeout where there is none.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from offload.server.engine import NO_DEADLINE_NS
from offload.server.folder import ModelFolder
from offload.server.models import BATCH_ROWS, Model, TensorSpec, load_model
from tercel.core.errors import UserError

QUEUE_DELAY_US = 100
QUEUE_LIMIT = 128


def export_triton(models: Path, repository: Path) -> list[str]:
    """Write the repository; returns the models' names. Raises UserError, and writes nothing if a model is bad."""
    if repository.exists() and (not repository.is_dir() or any(repository.iterdir())):
        raise UserError(f"-o {repository} is there already; name a new or empty folder")
    sources: dict[str, Path] = {}

    def load(name: str, path: Path) -> Model:
        sources[name] = path
        model = load_model(name, path)
        _check_alone(path)
        return model

    folder = ModelFolder(models, load)
    changes = folder.look(settle=False)
    if folder.problems:
        raise UserError(next(iter(folder.problems.values())))
    if not changes:
        raise UserError(f"{models}: there is no NAME.onnx in it")
    texts = {change.name: config_text(change.model) for change in changes if change.model is not None}
    for name, text in texts.items():
        target = repository / name / "1"
        target.mkdir(parents=True)
        shutil.copyfile(sources[name], target / "model.onnx")
        (repository / name / "config.pbtxt").write_text(text, encoding="utf-8")
    return list(texts)


def _check_alone(path: Path) -> None:
    """Raises UserError for a model that loads only beside another file, which has its weights and is not copied."""
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(shutil.copyfile(path, Path(folder) / "model.onnx"))
        try:
            load_model("alone", alone)
        except UserError:
            raise UserError(f"{path}: its weights lie in another file; export it as one file") from None


def config_text(model: Model) -> str:
    """The model's config.pbtxt. With batches Triton adds the first axis itself, so that it is left out of dims."""
    rows = BATCH_ROWS if model.batchable else 0
    blocks = [
        f"name: {_quoted(model.name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {rows}",
        *(_tensor("input", spec, batched=model.batchable) for spec in model.inputs),
        *(_tensor("output", spec, batched=model.batchable) for spec in model.outputs),
    ]
    if model.batchable:
        blocks.append(
            "dynamic_batching {\n"
            f"  max_queue_delay_microseconds: {QUEUE_DELAY_US}\n"
            "  default_queue_policy {\n"
            "    timeout_action: REJECT\n"
            f"    default_timeout_microseconds: {NO_DEADLINE_NS // 1000}\n"
            "    allow_timeout_override: true\n"
            f"    max_queue_size: {QUEUE_LIMIT}\n"
            "  }\n"
            "}"
        )
    return "\n".join(blocks) + "\n"


def _tensor(field: str, spec: TensorSpec, *, batched: bool) -> str:
    kind = "TYPE_" + spec.datatype
    dims = ", ".join(str(side) for side in (spec.shape[1:] if batched else spec.shape))
    reshape = ""
    if not dims:  # Triton allows no empty dims: one element, which it takes away again
        dims, reshape = "1", "\n  reshape { shape: [ ] }"
    return f"{field} {{\n  name: {_quoted(spec.name)}\n  data_type: {kind}\n  dims: [ {dims} ]{reshape}\n}}"


def _quoted(text: str) -> str:
    return '"' + "".join(f"\\{c}" if c in '"\\' else c if c.isprintable() else "?" for c in text) + '"'
