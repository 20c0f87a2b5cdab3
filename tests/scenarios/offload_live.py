"""A board in flight: the manager over small networks here and served ones there, a camera's frames, a recorded link."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from offload.link import link_from_text
from offload.link_proxy import LinkProxy
from offload.models import OffloadedModels, live_models
from offload.setup import OffloadSetup, read_setup
from offload.tasks import Fate, Outcome
from perception.runtime import LocalModels, load_network
from tercel.core.errors import Rejected
from tests.unit import onnx_files

MODELS = ("near", "far")
BOARD_S = {"near": 0.12, "far": 0.24}
"""How long the board takes, at 5 frames a second: nearly twice what it can do alone. It mostly sleeps, so that a test
machine's other work does not decide what it gets done."""
RATE_HZ = 5.0
SETUP = """
policy: {policy}
models:
  near: {{deadline_ms: 600, benefit: 1, qoe_bonus: 5, edge: {{ms: 125, cost: 0.01}},
         cloud: {{ms: 130, cost: 0.1, upload_bytes: 40000}}}}
  far: {{deadline_ms: 800, benefit: 1, qoe_bonus: 5, edge: {{ms: 245, cost: 0.02}},
        cloud: {{ms: 130, cost: 0.1, upload_bytes: 40000}}}}
spread: {{edge: 0.05, cloud: 0.3}}
link: {{model: constant, rate_mbps: 20, rtt_ms: 50}}
{server}
"""
SIDE = 256


def write_network(path: Path, products: int = 4) -> Path:
    """y (1, 1) from x (1, 10000), 40 kB: SIDE times the sum of x, at the price of so many products of matrices."""
    one = onnx_files.constant("one", np.eye(SIDE, dtype=np.float32))
    nodes = [onnx_files.node("ReduceSum", ["x"], "s"), onnx_files.node("Mul", ["s", "one"], "m0")]
    nodes += [onnx_files.node("MatMul", [f"m{i}", "one"], f"m{i + 1}") for i in range(products)]
    nodes.append(onnx_files.node("ReduceSum", [f"m{products}"], "y"))
    ends = [onnx_files.value_info("x", (1, 10000))], [onnx_files.value_info("y", (1, 1))]
    path.write_bytes(onnx_files.model(nodes, *ends, [one]))
    return path


def write_models(folder: Path, products: int = 4) -> Path:
    """The networks that both sides run."""
    folder.mkdir(exist_ok=True)
    for name in MODELS:
        write_network(folder / f"{name}.onnx", products)
    return folder


def write_setup(folder: Path, *, policy: str = "tercel", **server: Any) -> OffloadSetup:
    """The offload file of a board; with an address, that of a board with a server."""
    path = folder / f"{policy}.yaml"
    words = ", ".join(f"{key}: {value!r}" for key, value in server.items())
    path.write_text(SETUP.format(policy=policy, server=f"server: {{{words}}}" if server else ""))
    return read_setup(path)


@dataclass
class Board:
    """One board in flight, and what became of its frames. said: its lines; strange: its server answers twice."""

    models: OffloadedModels
    strange: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    asked: int = 0
    answered: int = 0
    rejected: int = 0

    async def look(self, model: str, number: int) -> None:
        """One frame; its answer must be its own."""
        frame = np.zeros((1, 10000), np.float32)
        frame[0, number % 10000] = number
        self.asked += 1
        try:
            outputs = await self.models.infer(model, frame)
        except Rejected:
            self.rejected += 1
            return
        assert outputs[0].shape == (1, 1)
        assert outputs[0][0, 0] == SIDE * number
        self.answered += 1

    def check(self) -> None:
        """Every frame ended once, and all books say the same."""
        account = self.models.account.summary()
        done = [outcome for outcome in self.outcomes if outcome.on_time]
        assert self.asked == self.answered + self.rejected == len(self.outcomes) == account["tasks"]
        assert len({outcome.task.id for outcome in self.outcomes}) == len(self.outcomes)
        assert self.answered == len(done)
        assert sum(account["fates"].values()) == account["tasks"]
        assert sum(account["reasons"].values()) == self.rejected
        assert all(outcome.task.created_ns <= outcome.ended_ns <= outcome.task.deadline_ns for outcome in done)
        if self.models.remote is not None:
            counts = self.models.remote.counts  # type: ignore[attr-defined]
            assert counts.sent == counts.received + counts.refused + counts.lost + counts.expired + counts.cancelled
            with_answer = [outcome for outcome in self.outcomes if _came_from_server(outcome)]
            assert len(with_answer) == counts.received
            assert self.strange or counts.duplicate == counts.unknown == 0

    def between(self, from_s: float, to_s: float) -> list[Outcome]:
        """Of the frames that were filmed in between, by `time.time()` as the board's clock has it."""
        return [outcome for outcome in self.outcomes if from_s <= outcome.task.created_ns / 1e9 < to_s]

    def first_s(self, fate: Fate, after_s: float) -> float:
        """When the first frame ended so after a time."""
        ends_s = [one.ended_ns / 1e9 for one in self.outcomes if one.fate is fate and one.ended_ns / 1e9 > after_s]
        return min(ends_s, default=float("inf"))


def _came_from_server(outcome: Outcome) -> bool:
    return outcome.option is not None and outcome.option.place == "cloud" and outcome.outputs is not None


def share(outcomes: list[Outcome], *fates: Fate) -> float:
    """Of these outcomes, how many ended so; in time, if no fate is named."""
    assert outcomes
    return sum(one.fate in fates if fates else one.on_time for one in outcomes) / len(outcomes)


@contextlib.asynccontextmanager
async def board_of(folder: Path, setup: OffloadSetup, *, strange: bool = False) -> AsyncIterator[Board]:
    """A board with the networks of a folder, slowed to BOARD_S; its books are checked at the end."""
    networks = {name: load_network(folder / f"{name}.onnx") for name in MODELS}
    board = Board(None, strange)  # type: ignore[arg-type]

    def infer(model: str, tensor: Any) -> Any:
        ends_s = time.monotonic() + BOARD_S[model]
        outputs = networks[model].run(tensor)
        time.sleep(max(0.0, ends_s - time.monotonic()))
        return outputs

    names = {name: network.output_names for name, network in networks.items()}
    async with live_models(
        setup, LocalModels(networks), infer, output_names=names, say=board.said.append, on_outcome=board.outcomes.append
    ) as board.models:
        yield board
    board.check()


@contextlib.asynccontextmanager
async def alone(folder: Path, tmp_path: Path) -> AsyncIterator[Board]:
    """The same board without a server, under plain EDF: what it must never be worse than."""
    setup = replace(write_setup(tmp_path, policy="edf"), server=None)
    async with board_of(folder, setup) as board:
        yield board


async def film(boards: list[Board], duration_s: float) -> None:
    """Give each board a frame for each model at the camera's rate, and wait for their ends."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    looks = []
    for number in range(1, 1 + round(duration_s * RATE_HZ)):
        looks += [asyncio.ensure_future(board.look(model, number)) for board in boards for model in MODELS]
        await asyncio.sleep(began_s + number / RATE_HZ - loop.time())
    await asyncio.gather(*looks)


def link_to(address: str, trace: Path | str, **options: Any) -> LinkProxy:
    """A recorded link to a server, as it was at its beginning."""
    host, port = address.rsplit(":", 1)
    return LinkProxy(link_from_text(str(trace)), host, int(port), **options)


async def until(is_so: Callable[[], bool], timeout_s: float) -> None:
    """Wait for something to become so."""
    ends_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < ends_s, "it did not happen in time"
        await asyncio.sleep(0.02)
