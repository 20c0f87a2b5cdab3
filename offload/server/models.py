"""One served model: an ONNX file in onnxruntime, checked, warmed up, and tried in batches when it is loaded.

A run uses one thread, the caller's; several runs go on at once in as many threads of the server. No worker of
onnxruntime spins.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.wire.tensors import DATATYPES, datatype_of
from tercel.core.errors import Rejected, UserError

Array = NDArray[Any]

BATCH_ROWS = 8
"""Most rows that requests of one model are joined to."""
BATCH_GAIN = 0.75
"""Joined requests must take less than this fraction of their time one by one, or the model is not batched."""
MAX_WARM_UP_BYTES = 1 << 28

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: name, the protocol's datatype, and shape, a free side being -1."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Model:
    """A loaded ONNX file. Made by load_model.

    inputs, outputs; batchable: whether requests may be joined along the first axis; batched: whether that also saves
    time here; took_ns: of a run with one row, and, where batchable, with BATCH_ROWS, as measured when it was loaded.
    sha256: of the file, in hex.
    """

    def __init__(self, name: str, sha256: str, session: Any, inputs: Sequence[TensorSpec]) -> None:
        self.name = name
        self.sha256 = sha256
        self.inputs = tuple(inputs)
        self.outputs = tuple(
            TensorSpec(node.name, _DATATYPES.get(node.type, node.type), _shape(node)) for node in session.get_outputs()
        )
        self.batchable = self.batched = False
        self.took_ns: dict[int, int] = {}
        self._session = session
        self._output_names = [output.name for output in self.outputs]

    def check(self, tensors: Mapping[str, Array]) -> None:
        """Raises Rejected unless the tensors are what the model takes."""
        if len(tensors) != len(self.inputs) or any(spec.name not in tensors for spec in self.inputs):
            raise Rejected("input names are not the model's")
        for name, tensor in tensors.items():
            self.check_announced(name, tensor.dtype, tensor.shape)

    def check_announced(self, name: str, dtype: np.dtype[Any] | None, shape: Sequence[int]) -> None:
        """Raises Rejected unless the model takes such a tensor under this name. dtype None: none that is known."""
        spec = next((spec for spec in self.inputs if spec.name == name), None)
        if spec is None:
            raise Rejected("input names are not the model's")
        if dtype != DATATYPES[spec.datatype]:
            raise Rejected("input datatype is not the model's")
        if len(shape) != len(spec.shape) or any(
            side not in (-1, given) for side, given in zip(spec.shape, shape, strict=True)
        ):
            raise Rejected("input shape is not the model's")

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs. Raises Rejected if the model fails."""
        try:
            outputs = self._session.run(self._output_names, dict(tensors))
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise Rejected("model run failed") from error
        named = dict(zip(self._output_names, outputs, strict=True))
        for output in outputs:
            if not isinstance(output, np.ndarray) or output.dtype == object:
                raise Rejected("model output is not a tensor")
        return named

    def run_joined(self, requests: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
        """The outputs of several requests, run as one batch along the first axis. Raises Rejected if that fails."""
        if len(requests) == 1:
            return [self.run(requests[0])]
        joined = {spec.name: np.concatenate([request[spec.name] for request in requests]) for spec in self.inputs}
        ends = np.cumsum([rows_of(self, request) for request in requests])
        outputs = self.run(joined)
        if any(output.ndim == 0 or len(output) != ends[-1] for output in outputs.values()):
            raise Rejected("model output has another number of rows than its input")
        split = {name: np.split(output, ends[:-1]) for name, output in outputs.items()}
        return [{name: parts[index] for name, parts in split.items()} for index in range(len(requests))]


def rows_of(model: Model, tensors: Mapping[str, Array]) -> int:
    """The length of a batchable model's first axis; 1 for other models."""
    return len(tensors[model.inputs[0].name]) if model.batchable else 1


def load_model(name: str, path: Path) -> Model:
    """Load, check, warm up and time an ONNX file; FILE.sha256 beside it, where there is one, must match.

    Raises UserError, in one line, for a file that is missing, damaged, no ONNX model, or takes what cannot be sent.
    """
    sha256 = _checked_sha256(path)
    import onnxruntime as ort  # here and not above: it takes 0.1 s

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = " ".join(str(error).split()).rsplit(" : ", 1)[-1][:120]
        raise UserError(f"{path}: not a model that onnxruntime can load ({reason}); export it again") from None
    model = Model(name, sha256, session, [_input_spec(path, node) for node in session.get_inputs()])
    _warm_up(path, model)
    return model


def _checked_sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    listed = path.with_name(path.name + ".sha256")
    if listed.exists():
        words = listed.read_text(encoding="utf-8", errors="replace").split()
        if not words or words[0].lower() != sha256.hexdigest():
            raise UserError(f"{path}: is not the file that {listed.name} speaks of; copy it again")
    return sha256.hexdigest()


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(side if isinstance(side, int) else -1 for side in node.shape)


def _input_spec(path: Path, node: Any) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise UserError(f"{path}: input {node.name} is a {node.type}, which cannot be sent; export it with tensors")
    return TensorSpec(node.name, datatype, _shape(node))


# --- the first runs ------------------------------------------------------------------------------------------------


def _warm_up(path: Path, model: Model) -> None:
    """Run the model once, time it, and see whether batches help. A model with other free sides cannot be tried."""
    if any(-1 in spec.shape[1:] for spec in model.inputs):
        return
    one = _example(path, model, rows=1)
    try:
        outputs = model.run(one)  # the first run is also the slowest
    except Rejected:
        raise UserError(f"{path}: the model fails on small random tensors; export it again") from None
    for output in outputs.values():
        try:
            datatype_of(output.dtype)
        except ValueError as error:
            raise UserError(f"{path}: {error}; export it with other outputs") from None
    # A rank that the file leaves open is reported like a scalar's.
    model.outputs = tuple(
        spec if len(spec.shape) == outputs[spec.name].ndim else replace(spec, shape=(-1,) * outputs[spec.name].ndim)
        for spec in model.outputs
    )
    model.took_ns[1] = _median_ns(model, one)
    model.batchable = all(spec.shape[:1] == (-1,) for spec in (*model.inputs, *model.outputs)) and _joins(path, model)
    model.batched = model.batchable and model.took_ns[BATCH_ROWS] <= BATCH_GAIN * BATCH_ROWS * model.took_ns[1]


def _joins(path: Path, model: Model) -> bool:
    """Whether a joined run gives the same results as single ones. A trial, not a promise of the file."""
    requests = [_example(path, model, rows=1, seed=seed) for seed in range(BATCH_ROWS)]
    joined = {spec.name: np.concatenate([request[spec.name] for request in requests]) for spec in model.inputs}
    try:
        together = model.run(joined)
        singly = [model.run(request) for request in requests]
    except Rejected:
        return False
    for name, output in together.items():
        rows = [single[name] for single in singly]
        if any(len(row) != 1 for row in rows) or output.shape[:1] != (BATCH_ROWS,):
            return False
        if not np.allclose(output, np.concatenate(rows), rtol=1e-3, atol=1e-4, equal_nan=True):
            return False
    model.took_ns[BATCH_ROWS] = _median_ns(model, joined)
    return True


def _example(path: Path, model: Model, rows: int, seed: int = 0) -> dict[str, Array]:
    """Random tensors in 0..1 (integers: 0 and 1) that the model should take, its free first sides being rows."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for spec in model.inputs:
        shape = tuple(rows if side == -1 else side for side in spec.shape)
        dtype = DATATYPES[spec.datatype]
        if math.prod(shape) * 8 > MAX_WARM_UP_BYTES:
            raise UserError(f"{path}: input {spec.name} of {shape} is too large; export a smaller model")
        draw = rng.random(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        tensors[spec.name] = draw.astype(dtype)
    return tensors


def _median_ns(model: Model, tensors: Mapping[str, Array]) -> int:
    """Of three runs."""
    times = []
    for _ in range(3):
        began_ns = time.perf_counter_ns()
        model.run(tensors)
        times.append(time.perf_counter_ns() - began_ns)
    return max(1, int(statistics.median(times)))
