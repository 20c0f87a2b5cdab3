"""Replicas in Ray against the plain server, over loopback: start, round trips, throughput, memory.

    python tests/benchmarks/bench_ray.py [--json FILE]

Three ways to the same model, two worker threads in all: `tercel serve --threads 2`; `tercel serve --ray` with two
replicas behind its own port; and Ray Serve's gRPC proxy before two replicas, as in launch/cloud. The client, in this
process on one asyncio loop, takes its share of the same cores. Round trips are of one request at a time, medians of
medians in turn; memory is the proportional set size of all processes of a way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from offload.remote_access import RemoteAccess
from tests.scenarios.ray_serving import RayServed, descendants_of, proxied, running_cluster
from tests.scenarios.serving import Client, Served, client_of, kind_of
from tests.unit import onnx_files

ROUND_TRIPS, RUNS, ASKED, IN_FLIGHT = 200, 3, 1000, 32
ACCESS = RemoteAccess(token="a-token-of-benchmarks-0123456789")  # noqa: S106
MODELS = {"small": ("16 B", np.zeros((1, 4), np.float32)), "large": ("100 kB", np.zeros((1, 25_000), np.float32))}


async def measure(address: str) -> dict[str, float]:
    """Round trips and throughput of one way, on the stream and by unary calls."""
    results: dict[str, float] = {}
    async with (
        client_of(address, access=ACCESS, stream=True) as stream,
        client_of(address, access=ACCESS, stream=False) as unary,
    ):
        clients = {"stream": stream, "unary": unary}
        for model, (size, tensor) in MODELS.items():
            medians: dict[str, list[float]] = {way: [] for way in clients}
            for _ in range(RUNS):
                for way, client in clients.items():
                    medians[way].append(
                        statistics.median([await took_ms(client, model, tensor) for _ in range(ROUND_TRIPS)])
                    )
            for way, values in medians.items():
                results[f"{size}, {way}, ms"] = round(statistics.median(values), 2)
        for way, client in clients.items():
            results[f"requests/s, {way}"] = round(max([await throughput_hz(client) for _ in range(RUNS)]))
    return results


async def took_ms(client: Client, model: str, tensor: Any) -> float:
    """One round trip."""
    began_s = time.perf_counter()
    assert await client.run(kind_of(model, 10_000), {"x": tensor}) == "done"
    return (time.perf_counter() - began_s) * 1e3


async def throughput_hz(client: Client) -> float:
    """Of the trivial model, so many in flight."""

    async def asker() -> None:
        for _ in range(ASKED // IN_FLIGHT):
            await took_ms(client, "small", MODELS["small"][1])

    began_s = time.perf_counter()
    await asyncio.gather(*(asker() for _ in range(IN_FLIGHT)))
    return ASKED // IN_FLIGHT * IN_FLIGHT / (time.perf_counter() - began_s)


def memory_mb(pid: int) -> float:
    """Proportional set size of a process and all that it has started."""
    total_kb = 0
    for one in {pid, *descendants_of(pid)}:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total_kb += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(total_kb / 1024)


async def until_answered(address: str) -> None:
    """Until a request is."""
    ends_s = time.monotonic() + 120
    while time.monotonic() < ends_s:
        async with client_of(address, access=ACCESS, stream=False) as client:
            if await client.run(kind_of("small", 2000), {"x": MODELS["small"][1]}) == "done":
                return
        await asyncio.sleep(0.1)
    raise TimeoutError(address)


@contextlib.contextmanager
def plain(models: Path, token_file: Path) -> Iterator[tuple[str, int]]:
    """`tercel serve`."""
    with Served(models, "--threads", 2, "--token-file", token_file) as server:
        yield server.address, server.process.pid
        server.terminate()


@contextlib.contextmanager
def replicated(models: Path, token_file: Path) -> Iterator[tuple[str, int]]:
    """`tercel serve --ray`."""
    with RayServed(models, "--replicas", "2:2", "--token-file", token_file) as server:
        yield server.address, server.process.pid
        server.terminate()


@contextlib.contextmanager
def behind_rays_proxy(models: Path, token_file: Path) -> Iterator[tuple[str, int]]:
    """As in launch/cloud."""
    with running_cluster() as cluster, proxied(cluster, models, token_file) as address:
        yield address, cluster.process.pid


WAYS = {"tercel serve": plain, "tercel serve --ray": replicated, "Ray's proxy": behind_rays_proxy}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print("command: python tests/benchmarks/bench_ray.py")
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models, token_file = Path(folder) / "models", Path(folder) / "token"
        models.mkdir()
        token_file.write_text(str(ACCESS.token))
        onnx_files.identity(models / "large.onnx", ("n", 25_000))
        onnx_files.doubling(models / "small.onnx")
        for name, way in WAYS.items():
            began_s = time.perf_counter()
            with way(models, token_file) as (address, pid):
                asyncio.run(until_answered(address))
                start_s = round(time.perf_counter() - began_s, 1)
                results[name] = {"start, s": start_s, **asyncio.run(measure(address)), "memory, MB": memory_mb(pid)}
    print(f"{'':<22}" + "".join(f"{name:>20}" for name in results))
    for row in next(iter(results.values())):
        print(f"{row:<22}" + "".join(f"{numbers[row]:>20}" for numbers in results.values()))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
