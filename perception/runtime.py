"""Networks on this machine: a thin wrapper of onnxruntime, and the board's own implementation of `Models`.

A file is checked when it is loaded, so that a wrong one is a line for the user at the start and not a failure in
flight. onnxruntime is imported when the first network is loaded. Its worker threads do not spin between runs
(`allow_spinning` 0): that cuts CPU by 20-35 % where cores are shared. The same file, thread count and tensor give the
same bits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.model_spec import ModelSpec, detector_spec
from tercel.core.errors import Rejected, UserError, nearest_hint

Array = NDArray[Any]

MAX_TENSOR_ELEMENTS = 1 << 26
"""Largest input or output that is allowed: 256 MiB of float32."""

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class Network:
    """A loaded ONNX file with one input. Made by load_network.

    path, sha256 (of the file, in hex), input_shape, input_dtype; output_names and output_shapes as the warm-up run
    gave them; metadata as the file has it.
    """

    def __init__(self, path: Path, sha256: str, session: Any) -> None:
        self.path = path
        self.sha256 = sha256
        self._session = session
        self._input_name, self.input_shape, self.input_dtype = _checked_input(path, session.get_inputs())
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.output_names: tuple[str, ...] = tuple(output.name for output in session.get_outputs())
        for output in session.get_outputs():
            _check_bounded(path, output.name, output.shape)
        try:
            outputs = self.run(np.zeros(self.input_shape, self.input_dtype))  # the first run is also the slowest
        except Rejected:
            raise UserError(f"{path}: the model fails on a tensor of zeros; export it again") from None
        self.output_shapes: tuple[tuple[int, ...], ...] = tuple(output.shape for output in outputs)

    def run(self, tensor: Array) -> list[Array]:
        """All outputs, in the file's order. Raises ValueError for a wrong tensor, Rejected if the network fails."""
        if tensor.shape != self.input_shape or tensor.dtype != self.input_dtype:
            wanted = f"{self.input_shape} {np.dtype(self.input_dtype)}"
            raise ValueError(f"{self.path.name}: tensor is {tensor.shape} {tensor.dtype}, not {wanted}")
        try:
            outputs = self._session.run(None, {self._input_name: np.ascontiguousarray(tensor)})
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise Rejected("model run failed") from error
        if not all(isinstance(output, np.ndarray) for output in outputs):
            raise Rejected("model output is not a tensor")
        return list(outputs)


def load_network(
    path: str | Path, *, threads: int = 1, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> Network:
    """Load, check and warm up an ONNX file. threads: of onnxruntime, for one run.

    Raises UserError, in one line, for a file that is missing, empty, unreadable or not ONNX, for a model that has
    several inputs or sizes that are not fixed (only the first, the batch, may be; it is run with 1), and for a
    provider that this onnxruntime lacks. Raises ValueError for threads below 1.
    """
    if threads < 1:
        raise ValueError(f"threads {threads} must be at least 1")
    path = Path(path)
    sha256 = _checked_sha256(path)
    import onnxruntime as ort  # here and not above: it takes 0.1 s, which a host without networks saves

    for provider in providers:
        if provider not in ort.get_available_providers():
            hint = nearest_hint(provider, ort.get_available_providers())
            raise UserError(f"this onnxruntime has no provider {provider!r}; {hint}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:
        reason = " ".join(str(error).split()).rsplit(" : ", 1)[-1][:120]
        raise UserError(
            f"{path}: not a model that onnxruntime can load ({reason}); export or download it again"
        ) from None
    return Network(path, sha256, session)


class LocalModels:
    """The `Models` of a board that runs every network itself, one at a time, when it is asked.

    infer computes inline, in the caller's thread: a host that must not wait puts the component into a thread. specs
    overrides what a detector's outputs say about it, for networks of our own training. Raises UserError if a spec
    does not fit its network.
    """

    def __init__(self, networks: Mapping[str, Network], specs: Mapping[str, ModelSpec] | None = None) -> None:
        self._networks = dict(networks)
        self._specs = dict(specs or {})
        for model, spec in self._specs.items():
            network = self._network(model)
            if network.input_shape != spec.input_shape:
                raise UserError(f"{network.path}: takes {network.input_shape}, not {spec.input_shape} as its spec says")

    async def infer(self, model: str, tensor: Array, *, deadline_ns: int | None = None) -> list[Array]:
        """All outputs of the named model. The deadline is not looked at: there is no other place to run."""
        del deadline_ns
        return self._network(model).run(tensor)

    def spec(self, model: str) -> ModelSpec:
        """The named model as a camera detector. Raises UserError for an unknown name and for one that is none."""
        network = self._network(model)
        if model not in self._specs:
            if network.input_dtype != np.float32:
                raise UserError(f"{network.path}: input is {np.dtype(network.input_dtype)}; a detector needs float32")
            self._specs[model] = detector_spec(network.input_shape, network.output_shapes, where=str(network.path))
        return self._specs[model]

    def _network(self, model: str) -> Network:
        if model not in self._networks:
            raise UserError(f"no model is named {model!r}; {nearest_hint(model, self._networks)}")
        return self._networks[model]


def _checked_sha256(path: Path) -> str:
    """The file's SHA-256 in hex; UserError if there is nothing to read."""
    if not path.exists():
        raise UserError(f"{path}: no such model file; check the path")
    if not path.is_file():
        raise UserError(f"{path}: not a file; name the .onnx file itself")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the model file is empty; download it again")
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    return digest.hexdigest()


def _checked_input(path: Path, inputs: Sequence[Any]) -> tuple[str, tuple[int, ...], type[np.generic]]:
    """(name, shape, dtype) of the only input, with a free batch set to 1."""
    if len(inputs) != 1:
        raise UserError(f"{path}: the model has {len(inputs)} inputs; export it with one")
    name, shape, kind = inputs[0].name, list(inputs[0].shape), inputs[0].type
    if shape and not isinstance(shape[0], int):
        shape[0] = 1
    if not all(isinstance(side, int) and side > 0 for side in shape):
        seen = str(tuple(inputs[0].shape)).replace("'", "")
        raise UserError(f"{path}: input {name!r} has the shape {seen}; export the model with fixed sizes")
    if kind not in _DTYPES:
        raise UserError(f"{path}: input {name!r} is {kind}; known: {', '.join(_DTYPES)}")
    _check_bounded(path, name, shape)
    return name, tuple(shape), _DTYPES[kind]


def _check_bounded(path: Path, name: str, shape: Sequence[Any]) -> None:
    """Before anything of that size is allocated; sizes that the file leaves open count as 1."""
    if math.prod(side for side in shape if isinstance(side, int)) > MAX_TENSOR_ELEMENTS:
        raise UserError(f"{path}: tensor {name!r} of shape {tuple(shape)} is too large; export a smaller model")
