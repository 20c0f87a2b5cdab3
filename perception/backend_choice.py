"""Which backend runs a network fastest on this board: timed once, then remembered in a file.

Candidates are onnxruntime's CPU, each accelerator that this onnxruntime has, and OpenVINO where it is installed, each
CPU candidate with 1, 2, 4, ... threads up to those that the user allows. All run the same tensor in turn, so that a
board that gets hot or busy slows them alike. Of those that agree with the reference the first within MARGIN of the
fastest wins; they stand in the order of fewest threads, onnxruntime first.

The reference is onnxruntime's CPU with every layer in float32. A float network must equal it to TOLERANCE. The layers
of a quantized one round differently in each backend, and a step that falls the other way sets off others: there a
candidate may be three times as far off as the closest one. (Measured with YOLOX-nano and FastestDet in INT8 on images
and noise: both backends were 0.07 to 1.1 standard deviations off, one of them up to 2.0 times as far as the other, on
the tensor of this module 1.06 times.)

The file is JSON, replaced atomically; one that is damaged or cannot be written costs a warning and another timing. An
entry is used only where the model, this machine, the backends' versions, the threads and the input's shape are the
same, and only if it names one of the candidates.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected

Array = NDArray[Any]

TOLERANCE = 1e-3
"""Largest difference of an output, over its own largest value."""
MARGIN = 0.05
ROUNDS = 7
MAX_TIMING_S = 5.0
MAX_FILE_BYTES = 1 << 20
MAX_ENTRIES = 200


@dataclass(frozen=True)
class Candidate:
    """A way of running a network; providers: onnxruntime's."""

    backend: str
    threads: int
    providers: tuple[str, ...] = ()


class Runs(Protocol):
    """A network that is ready to run."""

    def run(self, tensor: Array) -> list[Array]:
        """All outputs."""
        ...


def candidates(threads: int, providers: Sequence[str], *, openvino: bool) -> list[Candidate]:
    """All that are worth timing, the simplest first. providers: of onnxruntime, best first, the CPU last."""
    counts = sorted({*(1 << power for power in range(threads.bit_length()) if 1 << power <= threads), threads})
    backends = ["onnxruntime", *(["openvino"] if openvino else [])]
    on_cpu = [Candidate(backend, count) for count in counts for backend in backends]
    with_help = [Candidate("onnxruntime", threads, tuple(providers[start:])) for start in range(len(providers) - 1)]
    return [*on_cpu, *with_help]


def fastest(
    networks: Mapping[Candidate, Runs],
    reference: Runs,
    tensor: Array,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> tuple[Candidate, dict[Candidate, float]]:
    """The candidate to take, and the median ms of each that agrees with the reference.

    A candidate that fails drops out. Raises Rejected if none is left.
    """
    agreeing = agreeing_with(networks, reference.run(tensor), tensor)
    if not agreeing:
        raise Rejected("no backend runs the model")
    took_ms: dict[Candidate, list[float]] = {candidate: [] for candidate in agreeing}
    began_ns = clock_ns()
    for count in range(ROUNDS):
        if count >= 2 and clock_ns() - began_ns > MAX_TIMING_S * 1e9:
            break
        for candidate in agreeing:
            start_ns = clock_ns()
            networks[candidate].run(tensor)
            took_ms[candidate].append((clock_ns() - start_ns) * 1e-6)
    medians = {candidate: statistics.median(times) for candidate, times in took_ms.items()}
    limit = min(medians.values()) * (1.0 + MARGIN)
    return next(candidate for candidate in agreeing if medians[candidate] <= limit), medians


def agreeing_with(networks: Mapping[Candidate, Runs], wanted: Sequence[Array], tensor: Array) -> list[Candidate]:
    """Those whose outputs are the reference's, see the module's docstring, in their order."""
    off: dict[Candidate, tuple[float, float]] = {}
    for candidate, network in networks.items():
        with contextlib.suppress(Rejected):
            off[candidate] = _differences(network.run(tensor), wanted)
    closest = min((rms for _largest, rms in off.values()), default=0.0)
    return [
        candidate for candidate, (largest, rms) in off.items() if largest <= TOLERANCE or rms <= 3.0 * closest < np.inf
    ]


def trial_tensor(shape: Sequence[int], dtype: Any) -> Array:
    """Noise whose strength grows from 0..1 in the first rows to 0..255 in the last: some of it is in every network's
    range, whatever its normalisation. Integers: 0..127. Always the same."""
    rng = np.random.default_rng(0)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, 128, shape).astype(dtype)
    rows = shape[-2] if len(shape) > 1 else 1
    strength = np.linspace(1.0, 255.0, rows).reshape(-1, *([1] * min(len(shape) - 1, 1)))
    return np.asarray(rng.random(tuple(shape)) * strength, dtype=dtype).reshape(tuple(shape))


# --- remembering ----------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """The user's own folder for what can be made again: XDG_CACHE_HOME/tercel, else ~/.cache/tercel."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if named and Path(named).is_absolute():
        return Path(named) / "tercel"
    try:
        return Path.home() / ".cache" / "tercel"
    except RuntimeError:  # a user without a home: nothing can be kept, which is told when it is tried
        return Path(os.devnull) / "tercel"


def cache_key(sha256: str, input_size: tuple[int, int] | None, threads: int) -> str:
    """Everything that the fastest way of running a network hangs on. input_size: as the user gave it."""
    parts = (
        sha256,
        "x".join(map(str, input_size or ("its own size",))),
        f"{threads} threads",
        board_name(),
        *(f"{package} {_version(package)}" for package in ("onnxruntime", "onnxruntime-gpu", "openvino")),
    )
    return "; ".join(part.replace(";", ",") for part in parts)


def board_name() -> str:
    """The names of this machine's processor, its cores and its GPU, as Linux tells them."""
    cpu = platform.processor() or platform.machine()
    for line in _first_text("/proc/cpuinfo").splitlines():
        if line.lower().startswith(("model name", "cpu part", "hardware")):
            cpu = line.partition(":")[2].strip() or cpu
            break
    gpus = [
        line.partition(":")[2].strip()
        for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        for line in _first_text(str(path)).splitlines()
        if line.startswith("Model:")
    ]
    model = _first_text("/proc/device-tree/model").strip("\0 \n")
    return ", ".join(filter(None, [model, cpu, f"{os.cpu_count()} cores", *gpus]))


def remembered(file: Path, key: str, known: Sequence[Candidate], say: Callable[[str], Any]) -> Candidate | None:
    """What was fastest here, if it has been timed and is still among the known candidates."""
    entry = _entries(file, say).get(key)
    if not isinstance(entry, dict):
        return None
    return next(
        (one for one in known if all(entry.get(name) == value for name, value in _plain(one).items())),
        None,
    )


def remember(
    file: Path, key: str, winner: Candidate, medians_ms: Mapping[Candidate, float], say: Callable[[str], Any]
) -> None:
    """Add an entry. A file that cannot be written is told to `say`, and left."""
    entries = _entries(file, lambda _text: None)
    entries.pop(key, None)
    timed = {
        f"{one.backend} x{one.threads} {' '.join(one.providers)}".strip(): round(ms, 3)
        for one, ms in medians_ms.items()
    }
    entries[key] = {**_plain(winner), "median_ms": timed}
    kept = dict(list(entries.items())[-MAX_ENTRIES:])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(kept, stream, indent=1)
            Path(name).replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        say(f"{file}: cannot be written ({error.strerror}); the fastest backend will be timed again next time")


def _entries(file: Path, say: Callable[[str], Any]) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        entries = json.loads(data) if len(data) <= MAX_FILE_BYTES else None
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        say(f"{file}: is damaged or cannot be read; the fastest backend is timed again")
        return {}
    return entries


def _plain(candidate: Candidate) -> dict[str, Any]:
    return {**asdict(candidate), "providers": list(candidate.providers)}


def _differences(outputs: Sequence[Array], wanted: Sequence[Array]) -> tuple[float, float]:
    """(largest, root mean square) difference of the outputs; over the largest value, over the standard deviation.

    The worst of all outputs; infinite where shapes differ or other values are NaN or infinite.
    """
    worst = (0.0, 0.0)
    if [output.shape for output in outputs] != [output.shape for output in wanted]:
        return np.inf, np.inf
    for output, right in zip(outputs, wanted, strict=True):
        sound = np.isfinite(right)
        if not np.array_equal(np.isfinite(output), sound):
            return np.inf, np.inf
        if not sound.any():
            continue
        values = right[sound].astype(np.float64)
        apart = np.abs(output[sound].astype(np.float64) - values)
        largest = float(apart.max() / max(np.abs(values).max(), 1e-12))
        rms = float(np.sqrt(np.mean(apart**2)) / max(values.std(), 1e-12))
        worst = (max(worst[0], largest), max(worst[1], rms))
    return worst


def _first_text(path: str) -> str:
    """The beginning of a small text file of the system's, or nothing."""
    try:
        with Path(path).open("rb") as file:
            return file.read(4096).decode("utf-8", "replace")
    except OSError:
        return ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
