"""ONNX files in onnxruntime: providers and their options, sessions, and its errors in one line.

Worker threads do not spin between runs (`allow_spinning` 0): that cuts CPU by 20-35 % where cores are shared. The same
file, thread count and tensor give the same bits on the CPU provider. TensorRT, CUDA and XNNPACK are asked for with the
options below, which are tested; they have not been run by us on hardware.

Outputs are new arrays that onnxruntime allocates for each run and does not copy. Binding them to arrays of ours
(io_binding) was measured and left out: +0.02 ms a run for small outputs, -0.1 ms for 5 MB, within the noise for
detectors.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.network_file import InputTensor, NetworkFile, TensorInfo, one_line
from tercel.core.errors import UserError, nearest_hint

Array = NDArray[Any]

CPU = "CPUExecutionProvider"
PREFERRED_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "XnnpackExecutionProvider", CPU)
"""Fastest first; what one cannot run falls to the next."""

DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}

_REASONS: tuple[tuple[str, str], ...] = (
    (r"fatal error: (?:ai\.onnx)?[:.]*(\S+?)\(-?\d+\) is not a registered", "it has no operator {0}"),
    (r"No Op registered for (\S+) with domain_version of (\d+)", "it has no operator {0} of opset {1}"),
    (r"Could not find an implementation for (\S+?)\((\d+)\)", "it cannot run the operator {0} of opset {1}"),
    (r"Opset (\d+) is under development.*till opset (\d+)", "opset {0}; it knows opsets up to {1}"),
    (r"External data path does not exist: \"?([^\"]+)\"?", "its weights file {0} is missing"),
)


class OrtSession:
    """A session of one input; runs of several threads at once are allowed."""

    def __init__(self, session: Any, input_name: str) -> None:
        self._session = session
        self._input_name = input_name

    def run(self, tensor: Array) -> list[Any]:
        """All outputs, new ones each time. Raises what onnxruntime raises."""
        return list(self._session.run(None, {self._input_name: tensor}))


def open_onnxruntime(
    path: Path,
    threads: int,
    check: Callable[[NetworkFile], InputTensor],
    *,
    providers: Sequence[str] | None = None,
    cache_dir: Path | None = None,
    quantized: bool = True,
) -> tuple[OrtSession, NetworkFile, InputTensor]:
    """Open a file for runs of one tensor. check: fixes the input's shape, or raises.

    providers: None is the CPU alone; the CPU always comes last. cache_dir: where TensorRT keeps its engines; None: it
    builds them anew. quantized=False computes the layers of a quantized file in float32, between the same roundings.
    Raises UserError for a file that cannot be loaded and a provider that this onnxruntime lacks or cannot start.
    """
    import onnxruntime as ort  # here and not above: it takes 0.1 s, which a host without networks saves

    asked = with_options(checked_providers(providers, ort.get_available_providers()), cache_dir)

    def opened(overrides: dict[str, int]) -> tuple[Any, NetworkFile]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not quantized:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        for name, side in overrides.items():
            options.add_free_dimension_override_by_name(name, side)
        try:
            # No fallback: it would print, and run with other providers than were asked for.
            session = ort.InferenceSession(str(path), options, providers=asked, enable_fallback=0)
            file = _described(path, session)
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise UserError(
                f"{path}: not a model that onnxruntime can load ({_reason(error)}); export or download it again"
            ) from None
        for provider, _options in asked:
            if provider not in session.get_providers():  # without its libraries it is left out, and only logged
                raise UserError(f"{path}: {provider} does not start here; install its libraries, or leave it out")
        return session, file

    session, file = opened({})
    tensor = check(file)
    free = {side: size for side, size in zip(file.inputs[0].sides, tensor.shape, strict=True) if isinstance(side, str)}
    if free:  # once more, so that the fixed sizes reach the optimiser; a file of fixed sizes is loaded once
        session, file = opened(free)
        tensor = check(file)
    return OrtSession(session, tensor.name), file, tensor


def usable_providers(wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The providers that are wanted, or of PREFERRED_PROVIDERS those that this onnxruntime has; the CPU last.

    Raises UserError for one that is wanted and not available.
    """
    import onnxruntime as ort

    available = ort.get_available_providers()
    return checked_providers(wanted or [one for one in PREFERRED_PROVIDERS if one in available], available)


def checked_providers(providers: Sequence[str] | None, available: Sequence[str]) -> tuple[str, ...]:
    """The providers to ask for, the CPU last. Raises UserError for one that is not available."""
    asked = tuple(providers or ())
    for provider in asked:
        if provider not in available:
            raise UserError(f"this onnxruntime has no provider {provider!r}; {nearest_hint(provider, available)}")
    return (*(provider for provider in asked if provider != CPU), CPU)


def with_options(providers: Sequence[str], cache_dir: Path | None) -> list[tuple[str, dict[str, str]]]:
    """Providers with the options that they are asked for with: full float32, and TensorRT's engines kept in a folder
    of their own, which is made (building an engine takes minutes on a Jetson)."""
    options: dict[str, dict[str, str]] = {provider: {} for provider in providers}
    if "CUDAExecutionProvider" in options:
        options["CUDAExecutionProvider"] = {"use_tf32": "0"}
    if "TensorrtExecutionProvider" in options and cache_dir is not None:
        folder = cache_dir / "tensorrt"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            options["TensorrtExecutionProvider"] = {
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": str(folder),
                "trt_timing_cache_enable": "1",
                "trt_timing_cache_path": str(folder),
            }
    return list(options.items())


def _described(path: Path, session: Any) -> NetworkFile:
    def info(node: Any) -> TensorInfo:
        return TensorInfo(node.name, tuple(node.shape or ()), DTYPES.get(node.type), node.type)

    return NetworkFile(
        path,
        tuple(map(info, session.get_inputs())),
        tuple(map(info, session.get_outputs())),
        dict(session.get_modelmeta().custom_metadata_map),
    )


def _reason(error: Exception) -> str:
    """The cause in a few words; operators, opsets and missing weights by name."""
    text = " ".join(str(error).split())
    for pattern, words in _REASONS:
        if found := re.search(pattern, text, re.IGNORECASE):
            return words.format(*(part.rpartition("/")[2][:60] for part in found.groups()))
    return one_line(re.sub(r"^.*?Load model from .*? failed: ?", "", text))
