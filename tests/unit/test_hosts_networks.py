from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from perception.runtime import Network, load_network
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import NextLook
from tercel.hosts.graph import Graph
from tercel.hosts.networks import LoopModels, offloaded, open_models
from tests.unit import onnx_files

SETUP = """
policy: edf
models:
  doubler: {deadline_ms: 2000, benefit: 1, edge: {ms: 2, cost: 0.1}}
link: {model: constant, rate_mbps: 20, rtt_ms: 50}
"""


def network(path: Path) -> Network:
    """y = x + x of three numbers."""
    ends = [onnx_files.value_info("x", (1, 3))], [onnx_files.value_info("y", (1, 3))]
    path.write_bytes(onnx_files.model([onnx_files.node("Add", ["x", "x"], "y")], *ends))
    return load_network(path)


def graph_of(file: Path) -> Graph:
    return Graph("toy", (), {"doubler": file})


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    network(tmp_path / "n.onnx")
    (tmp_path / "offload.yaml").write_text(SETUP)
    return tmp_path / "n.onnx", tmp_path / "offload.yaml"


def ask(models: LoopModels, number: int) -> float:
    """In a loop of this thread's own, as a component's worker does."""
    tensor = np.full((1, 3), number, np.float32)
    return float(asyncio.run(models.infer("doubler", tensor))[0][0, 0])


def test_components_in_threads_of_their_own_share_one_manager_and_each_gets_its_own_answer(
    files: tuple[Path, Path],
) -> None:
    with offloaded(
        files[1], graph_of(files[0]), {"doubler": load_network(files[0])}, hint=lambda *_: 1.0, say=print
    ) as m:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda number: ask(m, number), range(40))) == [2.0 * n for n in range(40)]
        summary = m.summary()
        assert (summary["policy"], summary["tasks"], summary["fates"]["done-edge"]) == ("edf", 40, 40)
        m.call(lambda models: models.set_policy("tercel"))
        assert ask(m, 7) == 14.0
        assert m.summary()["policy"] == "tercel"
        with pytest.raises(UserError, match="there is no policy|known|did you mean"):
            m.call(lambda models: models.set_policy("terce"))
        with pytest.raises(UserError, match="names no model 'x'"):
            asyncio.run(m.infer("x", np.zeros((1, 3), np.float32)))
    assert not any(thread.name == "tercel-offload" for thread in threading.enumerate())


def test_a_task_that_is_late_already_is_rejected_across_the_threads(files: tuple[Path, Path]) -> None:
    with offloaded(
        files[1], graph_of(files[0]), {"doubler": load_network(files[0])}, hint=lambda *_: 1.0, say=print
    ) as m:
        with pytest.raises(Rejected):
            asyncio.run(m.infer("doubler", np.zeros((1, 3), np.float32), deadline_ns=1))
        assert m.summary()["tasks"] == 1


def test_an_offload_file_that_lacks_a_network_is_the_users_mistake_and_leaves_no_thread(
    files: tuple[Path, Path],
) -> None:
    graph = Graph("toy", (), {"doublet": files[0]})
    with contextlib.ExitStack() as stack, pytest.raises(UserError, match="did you mean 'doubler'"):
        open_models(graph, {}, 1, files[1], stack, print)
    assert not any(thread.name == "tercel-offload" for thread in threading.enumerate())


def test_a_graph_without_networks_has_no_models_and_nothing_to_offload(files: tuple[Path, Path]) -> None:
    graph = Graph("toy", (), {})
    with contextlib.ExitStack() as stack:
        assert open_models(graph, {}, 1, None, stack, print)[0] is None
        with pytest.raises(UserError, match="runs no networks: leave --offload out"):
            open_models(graph, {}, 1, files[1], stack, print)


def test_the_manager_hears_when_the_tracker_wants_to_look(files: tuple[Path, Path]) -> None:
    weights: list[float] = []
    with contextlib.ExitStack() as stack:
        models, hear = open_models(graph_of(files[0]), {}, 1, files[1], stack, print)
        assert isinstance(models, LoopModels)
        for due_ns in (0, 2**62):  # at once; in a century
            hear("/look", NextLook(stamp_ns=1, frame_id="", due_ns=due_ns, reason=""))
            models.call(lambda m: weights.append(m._hint("doubler", 10**18)))
        hear("/other", NextLook(stamp_ns=1, frame_id="", due_ns=0, reason=""))
    assert weights == [1.0, 0.3]
