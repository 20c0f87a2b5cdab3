"""The fastest backend: which candidates are timed, which one wins, and what is remembered of it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import perception.runtime
from perception.backend_choice import (
    MAX_ENTRIES,
    MAX_FILE_BYTES,
    MAX_TIMING_S,
    Candidate,
    agreeing_with,
    cache_folder,
    cache_key,
    candidates,
    fastest,
    remember,
    remembered,
    trial_tensor,
)
from perception.runtime import Backend, load_network
from tercel.core.errors import Rejected, UserError
from tercel.hosts.graph import Graph
from tercel.hosts.networks import load_networks
from tercel.terminal import BACKENDS
from tests.unit import onnx_files

ONE = Candidate("onnxruntime", 1)
TWO = Candidate("openvino", 1)
THREE = Candidate("openvino", 2)
X = np.ones(3, np.float32)
Y = np.array([1.0, 2.0, 4.0])


class Clock:
    """A clock that only the runs of Timed networks move."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


class Timed:
    """A network that takes so many ms by the clock, of its runs in turn, and gives this answer."""

    def __init__(self, clock: Clock, answer: Any, *took_ms: float) -> None:
        self.clock, self.answer, self.took_ms, self.runs = clock, answer, took_ms, 0

    def run(self, tensor: Any) -> list[Any]:
        if self.answer is None:
            raise Rejected("model run failed")
        self.clock.now_ns += round(self.took_ms[self.runs % len(self.took_ms)] * 1e6)
        self.runs += 1
        return [np.asarray(self.answer)]


def winner(clock: Clock, networks: dict[Candidate, Timed]) -> Candidate:
    return fastest(networks, Timed(clock, Y, 1), X, clock)[0]


def quiet(_text: str) -> None:
    pass


# --- timing ---------------------------------------------------------------------------------------------------------


def test_candidates_are_backends_times_threads_and_accelerators_each_with_all_that_catch_what_it_cannot_run() -> None:
    providers = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    assert candidates(1, providers[2:], openvino=False) == [ONE]
    assert [(one.backend, one.threads) for one in candidates(6, providers[2:], openvino=True)] == [
        (backend, threads) for threads in (1, 2, 4, 6) for backend in ("onnxruntime", "openvino")
    ]
    assert candidates(1, providers, openvino=False) == [
        ONE,
        Candidate("onnxruntime", 1, providers),
        Candidate("onnxruntime", 1, providers[1:]),
    ]


def test_the_lowest_median_wins_and_one_slow_run_does_not_matter() -> None:
    clock = Clock()
    slow_once = (5.0, 1.0, 1.0, 400.0, 1.0, 1.0, 1.0, 1.0)
    assert winner(clock, {ONE: Timed(clock, Y, 2.0), TWO: Timed(clock, Y, *slow_once)}) == TWO


def test_of_equals_the_simpler_one_wins() -> None:
    clock = Clock()
    assert winner(clock, {ONE: Timed(clock, Y, 1.04), TWO: Timed(clock, Y, 1.0)}) == ONE
    assert winner(clock, {ONE: Timed(clock, Y, 1.06), TWO: Timed(clock, Y, 1.0)}) == TWO


def test_runs_take_turns() -> None:
    clock, order = Clock(), []

    class Noting(Timed):
        def run(self, tensor: Any) -> list[Any]:
            order.append(self)
            return super().run(tensor)

    networks = {one: Noting(clock, Y, 1.0) for one in (ONE, TWO, THREE)}
    winner(clock, networks)
    assert order == list(networks.values()) * (len(order) // 3)


def test_timing_ends_when_it_has_taken_long_but_not_before_every_candidate_ran_twice() -> None:
    clock = Clock()
    networks = {ONE: Timed(clock, Y, 3e3), TWO: Timed(clock, Y, 2e3)}
    assert winner(clock, networks) == TWO
    assert networks[TWO].runs == 1 + 2
    assert clock.now_ns > MAX_TIMING_S * 1e9


@pytest.mark.parametrize(
    "wrong",
    [
        Y + 0.01,
        Y * 0,
        Y[:2],
        np.array([np.nan, 2, 4]),
        np.array([1, 2, np.inf]),
        None,
    ],
)
def test_a_candidate_that_answers_otherwise_or_fails_loses_however_fast_it_is(wrong: Any) -> None:
    clock = Clock()
    assert winner(clock, {ONE: Timed(clock, Y + 1e-6, 9.0), TWO: Timed(clock, wrong, 0.1)}) == ONE


def test_nan_where_the_reference_has_it_is_agreement() -> None:
    clock, answer = Clock(), np.array([np.nan, 2, 4])
    networks = {ONE: Timed(clock, answer, 9.0), TWO: Timed(clock, answer, 1.0)}
    assert fastest(networks, Timed(clock, answer, 1.0), X, clock)[0] == TWO


def test_backends_that_round_a_quantized_network_differently_agree_and_a_broken_one_does_not() -> None:
    rng, clock = np.random.default_rng(0), Clock()
    right = rng.normal(size=1000)
    noise = rng.normal(size=1000)
    networks = {
        ONE: Timed(clock, right + 0.1 * noise, 1),
        TWO: Timed(clock, right - 0.2 * noise, 1),
        THREE: Timed(clock, right * 0, 1),
    }
    assert agreeing_with(networks, [right], X) == [ONE, TWO]


def test_no_agreement_at_all_is_an_error() -> None:
    clock = Clock()
    with pytest.raises(Rejected, match="no backend runs the model"):
        winner(clock, {ONE: Timed(clock, Y * np.nan, 1), TWO: Timed(clock, None, 1)})


@pytest.mark.parametrize("shape", [(1, 3, 32, 48), (1, 32, 48, 3), (4, 5), (7,), ()])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int64])
def test_the_trial_tensor_is_always_the_same_and_in_range(shape: tuple[int, ...], dtype: Any) -> None:
    tensor = trial_tensor(shape, dtype)
    assert (tensor.shape, tensor.dtype) == (shape, dtype)
    assert np.array_equal(tensor, trial_tensor(shape, dtype))
    assert tensor.size == 1 or 0 <= tensor.min() < tensor.max() <= 255


# --- remembering ----------------------------------------------------------------------------------------------------


def test_what_was_fastest_is_remembered_under_its_key(tmp_path: Path) -> None:
    file = tmp_path / "new" / "backends.json"
    remember(file, "a", TWO, {ONE: 2.0, TWO: 1.0}, pytest.fail)
    remember(file, "b", ONE, {ONE: 1.0}, pytest.fail)
    assert [remembered(file, key, [ONE, TWO], pytest.fail) for key in "abc"] == [TWO, ONE, None]
    assert remembered(file, "a", [ONE, THREE], pytest.fail) is None, "no candidate any more"
    assert json.loads(file.read_text())["a"]["median_ms"] == {"onnxruntime x1": 2.0, "openvino x1": 1.0}
    assert [path.name for path in file.parent.iterdir()] == ["backends.json"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"a": 1}',
        b'{"a": {"backend": "rm -rf"}}',
        b"[" * 100_000,
        b" " * (MAX_FILE_BYTES + 1),
    ],
)
def test_a_damaged_file_is_told_and_made_anew(tmp_path: Path, data: bytes) -> None:
    file, said = tmp_path / "backends.json", []
    file.write_bytes(data)
    assert remembered(file, "a", [ONE], said.append) is None
    assert len(said) == (not data.startswith(b'{"a'))
    remember(file, "a", ONE, {}, pytest.fail)
    assert remembered(file, "a", [ONE], pytest.fail) == ONE


def test_a_folder_that_cannot_be_written_is_told_and_survived(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    said: list[str] = []
    remember(tmp_path / "plain" / "backends.json", "a", ONE, {}, said.append)
    assert len(said) == 1
    assert "cannot be written" in said[0]
    assert "\n" not in said[0]


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, said = tmp_path / "backends.json", []
    remember(file, "a", ONE, {}, pytest.fail)

    def full(*_given: Any, **_more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("perception.backend_choice.json.dump", full)
    remember(file, "b", TWO, {}, said.append)
    assert remembered(file, "a", [ONE], pytest.fail) == ONE
    assert [path.name for path in tmp_path.iterdir()] == ["backends.json"]
    assert "No space left" in said[0]


def test_the_file_keeps_the_latest_entries_only(tmp_path: Path) -> None:
    file = tmp_path / "backends.json"
    file.write_text(json.dumps({str(number): {} for number in range(2 * MAX_ENTRIES)}))
    remember(file, "new", ONE, {}, pytest.fail)
    assert len(json.loads(file.read_text())) == MAX_ENTRIES
    assert remembered(file, "new", [ONE], pytest.fail) == ONE


def test_the_key_tells_models_sizes_threads_and_boards_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {cache_key("a", None, 1), cache_key("b", None, 1), cache_key("a", (32, 48), 1), cache_key("a", None, 2)}
    monkeypatch.setattr("perception.backend_choice.board_name", lambda: "another board")
    keys.add(cache_key("a", None, 1))
    monkeypatch.setattr("perception.backend_choice._version", lambda _package: "9.9")
    keys.add(cache_key("a", None, 1))
    assert len(keys) == 6


def test_the_cache_lies_where_the_user_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tercel"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/folders/are/to/be/ignored")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "tercel"


# --- through load_network -------------------------------------------------------------------------------------------


@pytest.fixture
def count_timings(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    calls = []

    def counted(*given: Any, **more: Any) -> Any:
        calls.append(1)
        return fastest(*given, **more)

    monkeypatch.setattr(perception.runtime, "fastest", counted)
    return lambda: len(calls)


def test_auto_times_a_model_once_and_gives_a_sound_network(tmp_path: Path, count_timings: Callable[[], int]) -> None:
    path = onnx_files.doubling(tmp_path / "m.onnx", (1, 3, 16, 16))
    for _ in range(2):
        network = load_network(path, threads=2, backend="auto", cache_dir=tmp_path, say=pytest.fail)
        assert network.backend in ("onnxruntime", "openvino")
        assert network.threads in (1, 2)
        tensor = np.full((1, 3, 16, 16), 3, np.float32)
        assert (network.run(tensor)[0] == 6).all()
    assert count_timings() == 1
    load_network(path, threads=1, backend="auto", cache_dir=tmp_path, say=pytest.fail)
    assert count_timings() == 2
    entries = json.loads((tmp_path / "backends.json").read_text())
    assert sorted(len(entry["median_ms"]) for entry in entries.values()) == [2, 4]


def test_auto_survives_a_damaged_cache_and_a_remembered_backend_that_no_longer_opens(
    tmp_path: Path, count_timings: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = onnx_files.doubling(tmp_path / "m.onnx", (1, 4))
    memory, said = tmp_path / "backends.json", []
    memory.write_text("{")
    load_network(path, backend="auto", cache_dir=tmp_path, say=said.append)
    assert len(said) == 1
    ((key, _entry),) = json.loads(memory.read_text()).items()
    remember(memory, key, TWO, {}, pytest.fail)

    def broken(*_given: Any, **_more: Any) -> Any:
        raise UserError("openvino does not start")

    monkeypatch.setattr("perception.backend_openvino.open_openvino", broken)
    assert load_network(path, backend="auto", cache_dir=tmp_path, say=pytest.fail).backend == "onnxruntime"
    assert count_timings() == 2


def test_auto_without_openvino_is_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    path = onnx_files.doubling(tmp_path / "m.onnx", (1, 4))
    assert load_network(path, backend="auto", cache_dir=tmp_path, say=pytest.fail).backend == "onnxruntime"


def test_auto_gives_onnxruntime_and_says_so_where_no_two_answers_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception.backend_choice.agreeing_with", lambda *_given: [])
    said: list[str] = []
    path = onnx_files.doubling(tmp_path / "m.onnx", (1, 4))
    assert load_network(path, backend="auto", cache_dir=tmp_path, say=said.append).backend == "onnxruntime"
    assert "onnxruntime runs it" in said[0]


def test_auto_refuses_what_onnxruntime_refuses(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"<html>")
    with pytest.raises(UserError, match="not a model that onnxruntime can load"):
        load_network(path, backend="auto", cache_dir=tmp_path)
    path = onnx_files.doubling(path, (1, 4))
    with pytest.raises(UserError, match="no provider 'CUDAExecutionProvidr'"):
        load_network(path, backend="auto", cache_dir=tmp_path, providers=["CUDAExecutionProvidr"])


def test_auto_runs_where_nothing_can_be_kept(tmp_path: Path) -> None:
    path, said = onnx_files.doubling(tmp_path / "m.onnx", (1, 4)), []
    network = load_network(path, backend="auto", cache_dir=path / "below", say=said.append)
    assert network.output_shapes == ((1, 4),)
    assert len(said) == 1
    assert "cannot be written" in said[0]


def test_networks_of_a_graph_are_told_with_the_backend_that_auto_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    graph, said = Graph("toy", (), {"doubler": onnx_files.doubling(tmp_path / "m.onnx", (1, 4))}), []
    assert load_networks(graph, {}, 1, say=said.append)["doubler"].backend == "onnxruntime"
    assert said == []
    network = load_networks(graph, {}, 1, "auto", said.append)["doubler"]
    assert said == [f"network doubler: {network.backend}, 1 thread"]
    assert (tmp_path / "tercel" / "backends.json").is_file()


def test_the_command_line_offers_every_backend_and_the_reproducible_one_first() -> None:
    assert get_args(Backend) == BACKENDS
    assert BACKENDS[0] == inspect.signature(load_network).parameters["backend"].default
