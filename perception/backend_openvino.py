"""ONNX files in OpenVINO's CPU plugin (extra `openvino`): on x86 the faster one for INT8, see the benchmark.

One stream with the latency hint and a fixed number of threads; arithmetic pinned to float32, because on CPUs with
bfloat16 the plugin would choose that by itself; threads are not pinned to cores, since networks, trackers and drivers
share a board's; compiled models are not kept on disk.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.network_file import InputTensor, NetworkFile, TensorInfo, check_bounded, one_line
from tercel.core.errors import UserError, require

Array = NDArray[Any]

_KINDS: dict[str, type[np.generic]] = {
    "f32": np.float32,
    "f16": np.float16,
    "u8": np.uint8,
    "i8": np.int8,
    "i32": np.int32,
    "i64": np.int64,
}

_REASONS: tuple[tuple[str, str], ...] = (
    (r"No conversion rule found for operations: ([^\s,]+(?:, [^\s,]+)*)", "it has no operator {0}"),
    (r"externally stored data in file \(([^,)]+)", "its weights file {0} is missing"),
)

_PLACES = re.compile(
    r"(Exception from|Check '.*?' failed at) \S+:\d+: ?|FrontEnd API failed with \w+: ?|Loading input model "
)
"""What OpenVINO says of its own source code before it says what is wrong."""


class OpenvinoSession:
    """A compiled model of one input. One run at a time: runs of other threads wait.

    Inputs are not copied (but for read-only arrays, which the binding does not take). Outputs are new arrays that the
    plugin writes into, so that they stay as they are when the next image comes; those whose size depends on the data
    are copied.
    """

    def __init__(self, openvino: Any, compiled: Any) -> None:
        self._tensor = openvino.Tensor
        self._request = compiled.create_infer_request()
        self._outputs = [
            (tuple(output.shape), output.element_type.to_dtype()) if output.partial_shape.is_static else None
            for output in compiled.outputs
        ]
        self._lock = threading.Lock()

    def run(self, tensor: Array) -> list[Any]:
        """All outputs, new ones each time. Raises RuntimeError if the run fails."""
        tensor = tensor if tensor.flags.writeable else tensor.copy()
        with self._lock:
            request = self._request
            results: list[Any] = [None if kind is None else np.empty(*kind) for kind in self._outputs]
            request.set_input_tensor(self._tensor(tensor, shared_memory=True))
            for index, result in enumerate(results):
                if result is not None:
                    request.set_output_tensor(index, self._tensor(result, shared_memory=True))
            request.infer()
            return [
                request.get_output_tensor(index).data.copy() if result is None else result
                for index, result in enumerate(results)
            ]


def open_openvino(
    path: Path, threads: int, check: Callable[[NetworkFile], InputTensor]
) -> tuple[OpenvinoSession, NetworkFile, InputTensor]:
    """Open a file for runs of one tensor. check: fixes the input's shape, or raises.

    Raises UserError for a file that cannot be loaded, and if OpenVINO is not installed.
    """
    openvino = require("openvino", extra="openvino")
    try:
        # Not Core.read_model: it tries the readers of TensorFlow and others on a file that is no ONNX.
        reader = openvino.frontend.FrontEndManager().load_by_framework("onnx")
        model = reader.convert(reader.load(str(path)))
        file = _described(path, model)
    except Exception as error:  # RuntimeError, and whatever a front end raises
        raise _load_error(path, error) from None
    tensor = check(file)
    try:
        model.reshape({model.inputs[0]: list(tensor.shape)})
        for output in model.outputs:
            check_bounded(path, _name(output), _sides(output))
        compiled = openvino.Core().compile_model(model, "CPU", settings(threads))
        return OpenvinoSession(openvino, compiled), file, tensor
    except (RuntimeError, TypeError, ValueError) as error:
        raise _load_error(path, error) from None


def settings(threads: int) -> dict[str, Any]:
    """What the CPU plugin is asked for."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
        "CACHE_DIR": "",
    }


def _described(path: Path, model: Any) -> NetworkFile:
    def info(port: Any) -> TensorInfo:
        kind = port.element_type.get_type_name()
        return TensorInfo(_name(port), _sides(port), _KINDS.get(kind), kind)

    noted = model.rt_info["framework"] if model.has_rt_info(["framework"]) else {}
    metadata = {key: str(model.get_rt_info(["framework", key]).astype(str)) for key in noted}
    return NetworkFile(path, tuple(map(info, model.inputs)), tuple(map(info, model.outputs)), metadata)


def _name(port: Any) -> str:
    """The tensor's name; the first of several, which an optimiser may have joined."""
    return str(min(port.get_names(), default=""))


def _sides(port: Any) -> tuple[int | None, ...]:
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        return ()
    return tuple(side.get_length() if side.is_static else None for side in shape)


def _load_error(path: Path, error: Exception) -> UserError:
    text = _PLACES.sub("", " ".join(str(error).split()))
    reason = one_line(text)
    for pattern, words in _REASONS:
        if found := re.search(pattern, text):
            reason = words.format(*(re.sub(r"-\d+(?=,|$)", "", part)[:120] for part in found.groups()))
    return UserError(f"{path}: not a model that OpenVINO can load ({reason}); export it again, or use onnxruntime")
