"""The embedded server over loopback: round trips, throughput, overload, refusals.

    python tests/benchmarks/bench_server.py [--json FILE]

The server runs in a process of its own (`tercel serve`, two worker threads); the client, in this process on one asyncio
loop, drives the load and takes its share of the same cores. Goals: a 100 kB tensor there and back in 0.6 ms above the
model's own time on the stream and 1.2 ms by unary calls (medians); 1,000 requests/s of a trivial model; at three times
what the server can do, 99 % of what it admits in time; a refusal in 1 ms. The floor is gRPC itself: the same bytes
through a stream and unary calls of grpc.aio that echo them, also between two processes, measured in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from offload.executors import TaskLost, TaskTooLate, WallClock
from offload.remote import RemoteExecutor
from offload.server.engine import Engine, Refused
from offload.server.models import TensorSpec, load_model
from offload.tasks import Option, Task, TaskKind
from tests.scenarios.serving import Served
from tests.unit import onnx_files

CLOCK = WallClock()
ROUND_TRIPS, RUNS = 1000, 5
IN_FLIGHT = 32


def kind_of(model: str, deadline_ms: float) -> TaskKind:
    """A task kind with one way to run it."""
    return TaskKind(model, int(deadline_ms * 1e6), (Option("cloud", 1.0, 0.0, 1_000_000),))


async def run(executor: RemoteExecutor, kind: TaskKind, payload: Any) -> str:
    """Run one task: "done", "late", or why it was lost."""
    try:
        await executor.run(Task(0, kind, CLOCK.now_ns), kind.options[0], payload)
    except TaskLost as lost:
        return lost.reason
    except TaskTooLate:
        return "late"
    return "done"


ECHO = """
import asyncio, grpc
async def unary(data, context):
    return data
async def stream(requests, context):
    while (data := await context.read()) is not grpc.aio.EOF:
        await context.write(data)
async def main():
    server = grpc.aio.server()
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()
asyncio.run(main())
"""


@asynccontextmanager
async def echo(data: bytes) -> AsyncIterator[dict[str, Callable[[], Awaitable[Any]]]]:
    """The floor: calls that send bytes to a bare gRPC server and have them back."""
    process = subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}") as channel:
            unary, stream = channel.unary_unary("/echo/Unary"), channel.stream_stream("/echo/Stream")()

            async def by_stream() -> None:
                await stream.write(data)
                await stream.read()

            async def by_unary() -> None:
                await unary(data)

            yield {"floor_stream_ms": by_stream, "floor_unary_ms": by_unary}
            stream.cancel()
    finally:
        process.kill()
        process.wait()


def model_ms(path: Path, tensor: np.ndarray) -> float:
    """The model's own time, in this process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    took_ms = []
    for _ in range(ROUND_TRIPS):
        began_s = time.perf_counter()
        session.run(None, {"x": tensor})
        took_ms.append((time.perf_counter() - began_s) * 1e3)
    return statistics.median(took_ms)


async def round_trips(address: str, tensor: np.ndarray) -> dict[str, float]:
    """Medians of RUNS runs of each kind, in turn; ms."""
    kind = kind_of("large", 5000)
    medians: dict[str, list[float]] = defaultdict(list)
    async with (
        echo(tensor.tobytes()) as floors,
        RemoteExecutor(address, CLOCK) as stream,
        RemoteExecutor(address, CLOCK, stream=False) as unary,
    ):
        calls = {
            "stream_ms": partial(run, stream, kind, {"x": tensor}),
            "unary_ms": partial(run, unary, kind, {"x": tensor}),
            **floors,
        }
        for _ in range(RUNS):
            for name, call in calls.items():
                took_ms = []
                for _ in range(ROUND_TRIPS):
                    began_s = time.perf_counter()
                    assert await call() in ("done", None)
                    took_ms.append((time.perf_counter() - began_s) * 1e3)
                medians[name].append(statistics.median(took_ms))
    return {name: round(statistics.median(values), 3) for name, values in medians.items()}


async def throughput(address: str, *, stream: bool) -> float:
    """Requests/s of the trivial model, so many in flight, the best of RUNS."""
    kind, tensor = kind_of("small", 5000), {"x": np.zeros((1, 4), np.float32)}
    best = 0.0
    async with RemoteExecutor(address, CLOCK, stream=stream) as executor:
        for _ in range(RUNS):
            began_s = time.perf_counter()

            async def asker() -> None:
                for _ in range(2000 // IN_FLIGHT):
                    assert await run(executor, kind, tensor) == "done"

            await asyncio.gather(*(asker() for _ in range(IN_FLIGHT)))
            best = max(best, 2000 // IN_FLIGHT * IN_FLIGHT / (time.perf_counter() - began_s))
    return round(best)


async def overload(address: str, seconds: float = 10.0) -> dict[str, float]:
    """Poisson arrivals at three times what the model can do on both workers, deadlines of 4 to 12 times its time."""
    rng = np.random.default_rng(0)
    tensor = {"x": np.ones((1, 1), np.float32)}
    async with RemoteExecutor(address, CLOCK) as executor:
        capacity_hz = await capacity(executor, tensor)
        service_ms = 2e3 / capacity_hz
        fates: list[str] = []
        refused_ms: list[float] = []

        async def ask(deadline_ms: float) -> None:
            began_s = time.perf_counter()
            fates.append(await run(executor, kind_of("slow", deadline_ms), tensor))
            if fates[-1] == "refused by the server":
                refused_ms.append((time.perf_counter() - began_s) * 1e3)

        tasks, at_s, began_s = [], 0.0, time.perf_counter()
        while at_s < seconds:
            at_s += rng.exponential(1 / (3 * capacity_hz))
            await asyncio.sleep(max(0.0, began_s + at_s - time.perf_counter()))
            tasks.append(asyncio.ensure_future(ask(service_ms * rng.uniform(4, 12))))
        await asyncio.gather(*tasks)
    admitted = len(fates) - fates.count("refused by the server")
    return {
        "capacity_hz": round(capacity_hz, 1),
        "asked_hz": round(len(fates) / seconds, 1),
        "done_hz": round(fates.count("done") / seconds, 1),
        "admitted": admitted,
        "in_time_of_admitted": round(fates.count("done") / admitted, 4),
        "refused_round_trip_ms": round(statistics.median(refused_ms), 3),
        "refused_round_trip_p99_ms": round(float(np.percentile(refused_ms, 99)), 3),
    }


class WaitingModel:
    """A model on an accelerator, as the server sees it: 10 ms of waiting, log-normal with a spread of 0.1."""

    name, batchable, batched, took_ns = "waiting", False, False, {1: 10_000_000}
    inputs = outputs = (TensorSpec("x", "FP32", (1, 1)),)

    def __init__(self) -> None:
        self._rng = np.random.default_rng(1)

    def check(self, tensors: Any) -> None:
        """Takes all."""

    def run_joined(self, requests: Any) -> Any:
        """Waits."""
        time.sleep(0.01 * float(np.exp(0.1 * self._rng.standard_normal())))
        return [{"y": request["x"]} for request in requests]


async def admission(seconds: float = 10.0) -> dict[str, float]:
    """The same overload on the engine alone and a model that takes no core, so that neighbours' load hardly counts."""
    engine, rng, tensors = Engine(threads=2), np.random.default_rng(0), {"x": np.zeros((1, 1), np.float32)}
    engine.put_model(WaitingModel())  # type: ignore[arg-type]
    fates: list[str] = []

    async def ask(deadline_ms: float) -> None:
        began_s = time.perf_counter()
        try:
            await engine.infer("waiting", lambda _: tensors, timeout_ns=int(deadline_ms * 1e6))
            fates.append("done" if (time.perf_counter() - began_s) * 1e3 <= deadline_ms else "late")
        except Refused as refusal:
            fates.append(refusal.status)

    tasks, at_s, began_s = [], 0.0, time.perf_counter()
    while at_s < seconds:
        at_s += rng.exponential(1 / 600)
        await asyncio.sleep(max(0.0, began_s + at_s - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask(rng.uniform(40, 120))))
    await asyncio.gather(*tasks)
    engine.close()
    admitted = len(fates) - fates.count("RESOURCE_EXHAUSTED")
    return {
        "waiting_done_hz": fates.count("done") / seconds,
        "waiting_in_time": round(fates.count("done") / admitted, 4),
    }


async def capacity(executor: RemoteExecutor, tensor: Any) -> float:
    """Runs/s with four requests always under way."""
    kind = kind_of("slow", 10_000)
    began_s = time.perf_counter()

    async def asker() -> None:
        for _ in range(20):
            assert await run(executor, kind, tensor) == "done"

    await asyncio.gather(*(asker() for _ in range(4)))
    return 80 / (time.perf_counter() - began_s)


async def refusal_us(path: Path) -> dict[str, float]:
    """A refusal inside the server, with a full queue ahead: median and 99th percentile, microseconds."""
    engine = Engine(threads=2, queue_limit=129)
    engine.put_model(load_model("slow", path))
    tensors = {"x": np.ones((1, 1), np.float32)}
    queued = [asyncio.ensure_future(engine.infer("slow", lambda _: tensors, timeout_ns=10**12)) for _ in range(130)]
    await asyncio.sleep(0)
    took_us = []
    for _ in range(1000):
        began_s = time.perf_counter()
        try:
            await engine.infer("slow", lambda _: tensors, timeout_ns=20_000_000)
        except Refused:
            took_us.append((time.perf_counter() - began_s) * 1e6)
    for task in queued:
        task.cancel()
    await asyncio.gather(*queued, return_exceptions=True)
    engine.close()
    return {"median_us": round(statistics.median(took_us)), "p99_us": round(float(np.percentile(took_us, 99)))}


async def measure(address: str, models: Path, tensor: np.ndarray, results: dict[str, Any]) -> None:
    """Fill in the results and print what belongs on one line."""
    results |= await round_trips(address, tensor)
    for kind in ("stream", "unary"):
        above_ms, floor_ms = results[f"{kind}_ms"] - results["model_ms"], results[f"floor_{kind}_ms"]
        took = f"{results[f'{kind}_ms']:>7.3f} ms, {above_ms:.3f} above the model"
        print(f"100 kB both ways, {kind:<7}{took}; gRPC alone {floor_ms:.3f}")
    for kind in ("stream", "unary"):
        results[f"{kind}_hz"] = await throughput(address, stream=kind == "stream")
        print(f"trivial model, {IN_FLIGHT} in flight, {kind:<7} {results[f'{kind}_hz']:>7} requests/s")
    results["overload"] = await overload(address)
    results["admission"] = await admission()
    results["refusal"] = await refusal_us(models / "slow.onnx")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print("command: python tests/benchmarks/bench_server.py")
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    tensor = np.random.default_rng(0).random((1, 25_000), dtype=np.float32)
    results: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        onnx_files.identity(models / "large.onnx", ("n", 25_000))
        onnx_files.doubling(models / "small.onnx")
        onnx_files.slow(models / "slow.onnx", products=4)
        results["model_ms"] = round(model_ms(models / "large.onnx", tensor), 3)
        with Served(models, "--threads", 2) as server:
            asyncio.run(measure(server.address, models, tensor, results))
            server.terminate()
    for name, value in (results["overload"] | results["admission"] | results["refusal"]).items():
        print(f"{name:<28}{value:>10}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
