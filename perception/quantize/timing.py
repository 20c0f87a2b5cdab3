"""How long networks take here, side by side; and which operators take it."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perception.runtime import Network, load_network
from tercel.core.errors import UserError

Array = NDArray[Any]
BackendName = Literal["onnxruntime", "openvino"]
BACKENDS: tuple[BackendName, ...] = ("onnxruntime", "openvino")

_MIN_ROUNDS = 5
_ADDED = re.compile(r"(/QuickGelu.*|_token_\d+|(_float)?_nchwc|_float)$")
"""What onnxruntime, and the quantizers' surgery, add to a name when they fuse, lay out anew or split."""


@dataclass(frozen=True)
class OperatorTime:
    """covers: names of the model's nodes that this operator computes (fused ones too); kind: the backend's word."""

    covers: tuple[str, ...]
    kind: str
    ms: float


def side_by_side_ms(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median ms of each run, all of them in turn for so many seconds: what disturbs one disturbs the others."""
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < _MIN_ROUNDS or time.perf_counter() < end:
        rounds += 1
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            taken[name].append((time.perf_counter() - began) * 1e3)
    return {name: float(np.median(values)) for name, values in taken.items()}


def latencies_ms(
    files: Mapping[str, Path], tensor: Array, *, backends: tuple[str, ...], threads: int, seconds: float
) -> dict[str, dict[str, float]]:
    """{backend: {name of file: median ms}} of networks with one tensor, all files and backends in turn.

    A backend that is not installed, or cannot load one of the files, is left out; raises UserError if none is left.
    """
    networks: dict[tuple[str, str], Network] = {}
    problem = "no backend was asked for"
    for backend in backends:
        try:
            loaded = {(backend, name): _loaded(path, backend, threads) for name, path in files.items()}
        except UserError as error:
            problem = str(error)
            continue
        networks |= loaded
    if not networks:
        raise UserError(problem)
    runs = {f"{backend}\n{name}": _run_of(network, tensor) for (backend, name), network in networks.items()}
    medians = side_by_side_ms(runs, seconds)
    found: dict[str, dict[str, float]] = {}
    for backend, name in networks:
        found.setdefault(backend, {})[name] = medians[f"{backend}\n{name}"]
    return found


def _loaded(path: Path, backend: str, threads: int) -> Network:
    return load_network(path, threads=threads, backend="openvino" if backend == "openvino" else "onnxruntime")


def _run_of(network: Network, tensor: Array) -> Callable[[], object]:
    return lambda: network.run(tensor)


def operator_times(path: Path, backend: str, tensor: Array, *, runs: int = 12) -> list[OperatorTime]:
    """The operators of a network as the backend runs them, with their median (OpenVINO: mean) ms, one thread."""
    return _openvino_times(path, tensor, runs) if backend == "openvino" else _onnxruntime_times(path, tensor, runs)


def _onnxruntime_times(path: Path, tensor: Array, runs: int) -> list[OperatorTime]:
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        fed = session.get_inputs()[0].name
        for _ in range(runs):
            session.run(None, {fed: tensor})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    taken: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            key = (event["name"].removesuffix("_kernel_time"), event["args"]["op_name"])
            taken.setdefault(key, []).append(event["dur"] / 1e3)
    return [OperatorTime((name,), kind, float(np.median(ms))) for (name, kind), ms in taken.items()]


def _openvino_times(path: Path, tensor: Array, runs: int) -> list[OperatorTime]:
    import openvino as ov

    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": True,
    }
    compiled = ov.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    for _ in range(runs):
        request.infer([tensor])
    found = []
    for operator in compiled.get_runtime_model().get_ops():
        facts = {key: value.astype(str) for key, value in operator.get_rt_info().items() if hasattr(value, "astype")}
        text = facts.get("execTimeMcs", "")
        if text.isdigit():
            covers = tuple(name for name in facts.get("originalLayersNames", "").split(",") if name)
            kind = f"{facts.get('layerType', '')} {facts.get('runtimePrecision', '')}".strip()
            found.append(OperatorTime(covers or (operator.get_friendly_name(),), kind, int(text) / 1e3))
    return found


def time_by_unit(times: list[OperatorTime], owners: Mapping[str, str]) -> dict[str, float]:
    """ms by owner: owners names, for nodes and tensors of the model, their unit. What has none is under ""."""
    found: dict[str, float] = {}
    for one in times:
        names = [name for covered in one.covers for name in (covered, _ADDED.sub("", covered.removeprefix("fused ")))]
        owner = next((owners[name] for name in names if name in owners), "")
        found[owner] = found.get(owner, 0.0) + one.ms
    return found
