"""A drive through a recorded LTE uplink with board and server on this machine, and what the simulator had forecast.

    python tests/benchmarks/bench_offload_live.py [--seconds 70] [--trace T] [--json FILE]

The board (this process) runs two networks for each frame of a 5 Hz camera, 120 and 240 ms on its one lane, which is
nearly twice what it can do alone; a frame is 40 kB. Behind it a link proxy plays the trace (Verizon LTE, at half its
rate: 4 to 0.4 Mbit/s, a stop at 66 s) before `tercel serve` in a process of its own. Each policy has a board and a link
of its own, all at the same time, so that what else this machine does meets them alike. Times of the kinds are measured
first, over a link of 20 Mbit/s and 50 ms.

Forecast: the same frames, kinds, trace and policies in `offload.simulator`, over 20 seeds of the times' spread and of
how late a frame is handed over, 1 ms in the mean: in perfect step plain EDF falls into a cycle that no flight shows
(50 instead of 60 % completed). Not forecast: that the server refuses what it cannot make.
Decisions: wall time of each call of the policy, with all that it does at that event.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from offload.link import Link, link_from_text
from offload.policies import POLICIES
from offload.scenario import Day
from offload.scores import score
from offload.setup import OffloadSetup, read_setup
from offload.simulator import simulate
from offload.tasks import Fate, lognormal_factor
from tests.scenarios.offload_live import BOARD_S, MODELS, RATE_HZ, Board, board_of, film, link_to, write_models
from tests.scenarios.serving import Served

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
TRACE = f"{DATA / 'net_traces' / 'lte_mahimahi' / 'Verizon-LTE-short.up.gz'},scale=0.5"
QUIET = "constant:rate_mbps=20,rtt_ms=50"
NAMES = ("edf", "edf_ec", "dems_a", "tercel")
SEEDS = 20
UPLOAD_BYTES = 40_000
SERVED_PRODUCTS = 20
LATE_NS = 1_000_000
DEADLINE_MS = {"near": 600, "far": 800}


class Timed:
    """A policy whose every call is timed."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.took_us: list[float] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._policy, name)
        if not callable(value):
            return value

        def timed(*arguments: Any) -> Any:
            began_s = time.perf_counter()
            decisions = value(*arguments)
            self.took_us.append((time.perf_counter() - began_s) * 1e6)
            return decisions

        return timed


def write_setup(folder: Path, policy: str, address: str, times: dict[str, dict[str, float]]) -> OffloadSetup:
    """An offload file with measured times."""
    lines = [f"policy: {policy}", "models:"]
    for name in MODELS:
        edge = f"{{ms: {times[name]['edge_ms']:.1f}, cost: 0.02}}"
        cloud = f"{{ms: {times[name]['cloud_ms']:.1f}, cost: 0.1, upload_bytes: {UPLOAD_BYTES}}}"
        lines.append(f"  {name}: {{deadline_ms: {DEADLINE_MS[name]}, benefit: 1, edge: {edge}, cloud: {cloud}}}")
    spread = {
        key: min(2.0, statistics.mean(row[f"{key}_spread"] for row in times.values())) for key in ("edge", "cloud")
    }
    lines.append(f"spread: {{edge: {spread['edge']:.3f}, cloud: {spread['cloud']:.3f}}}")
    lines.append("link: {model: constant, rate_mbps: 20, rtt_ms: 50}")
    lines.append(f"server: {{address: '{address}'}}")
    path = folder / f"{policy}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return read_setup(path)


async def measured_times(folder: Path, server: Served) -> dict[str, dict[str, float]]:
    """Of each network on the board and, all in, over the quiet link; spreads of the board's and the server's part."""
    guess = {name: {"edge_ms": BOARD_S[name] * 1e3, "edge_spread": 0.05} for name in MODELS}
    guess = {name: row | {"cloud_ms": 100.0, "cloud_spread": 0.3} for name, row in guess.items()}
    times: dict[str, dict[str, float]] = {name: {} for name in MODELS}
    async with link_to(server.address, QUIET, direction="up") as link:
        for policy, key in (("edf", "edge"), ("cloud_only", "cloud")):
            setup = write_setup(folder, policy, f"127.0.0.1:{link.port}", guess)
            async with board_of(folder / "models", setup) as board:
                await film([board], 8)
            for name in MODELS:
                done = [one for one in board.outcomes if one.on_time and one.task.kind.name == name]
                took_ms = [(one.timing.ended_ns - one.timing.started_ns) / 1e6 for one in done if one.timing]
                steady_ms = np.array(took_ms[2:])  # the first frames also open the stream and ask for names
                link_ms = 50 + 8e-3 * UPLOAD_BYTES / 20 if key == "cloud" else 0.0
                median_ms = max(float(np.median(steady_ms)), link_ms + 1.0)
                own_ms = np.clip(steady_ms - link_ms, 0.5, None)
                times[name] |= {
                    f"{key}_ms": median_ms,
                    f"{key}_spread": float(np.std(np.log(own_ms))),  # of a log-normal about that over its mean
                }
    return times


async def drive(folder: Path, server: Served, trace: str, seconds: float, times: Any) -> dict[str, dict[str, Any]]:
    """All policies through the trace at once."""
    async with AsyncExitStack() as stack:
        boards: dict[str, Board] = {}
        timed: dict[str, Timed] = {}
        for policy in NAMES:
            link = await stack.enter_async_context(link_to(server.address, trace, direction="up"))
            setup = write_setup(folder, policy, f"127.0.0.1:{link.port}", times)
            boards[policy] = await stack.enter_async_context(board_of(folder / "models", setup))
            manager = boards[policy].models._manager  # what it calls is timed from outside, so that no flight pays
            timed[policy] = Timed(manager._policy)
            manager._policy = timed[policy]  # type: ignore[assignment]
        await film(list(boards.values()), seconds)
    return {policy: flight_row(boards[policy], timed[policy]) for policy in NAMES}


def flight_row(board: Board, timed: Timed) -> dict[str, Any]:
    """What became of a board's frames."""
    account = board.models.account.summary()
    return {
        "tasks": account["tasks"],
        "completion": account["completion"],
        "qos": round(account["qos_utility"], 1),
        "late": account["fates"]["late"],
        "cloud": account["fates"]["done-cloud"],
        "decision_p50_us": round(float(np.percentile(timed.took_us, 50))),
        "decision_p99_us": round(float(np.percentile(timed.took_us, 99))),
    }


def day_of(setup: OffloadSetup, link: Link, seconds: float, seed: int) -> Day:
    """The drive's frames as a simulated day."""
    frames = round(seconds * RATE_HZ)
    generator = np.random.default_rng(seed)
    late_ns = generator.exponential(LATE_NS, frames).astype(np.int64)
    created_ns = np.repeat(np.arange(frames) * round(1e9 / RATE_HZ) + late_ns, len(MODELS))
    count = len(created_ns)
    edge, server = (
        np.array([lognormal_factor(z, spread) for z in generator.standard_normal(count).tolist()])
        for spread in (setup.spread.edge, setup.spread.cloud)
    )
    return Day(
        kinds=tuple(setup.kinds[name] for name in MODELS),
        created_ns=created_ns,
        kind=np.tile(np.arange(len(MODELS)), frames),
        source=np.zeros(count, np.int64),
        box=np.zeros(count, np.int64),
        size_bytes=np.full(count, UPLOAD_BYTES),
        edge_factor=edge,
        server_factor=server,
        links=(link,),
        duration_ns=round(seconds * 1e9),
    )


def forecast(setup: OffloadSetup, policy: str, link: Link, seconds: float) -> dict[str, Any]:
    """Median and range over seeds."""
    rows = []
    for seed in range(SEEDS):
        day = day_of(setup, link, seconds, seed)
        scores = score(day, simulate(day, POLICIES[policy]))
        fates = scores.fates
        rows.append((scores.completion, scores.qos_utility, fates[Fate.LATE.value], fates[Fate.DONE_CLOUD.value]))
    completion, qos, late, cloud = (list(column) for column in zip(*rows, strict=True))
    return {
        "completion": round(statistics.median(completion), 4),
        "completion_range": [round(min(completion), 4), round(max(completion), 4)],
        "qos": round(statistics.median(qos), 1),
        "late": statistics.median(late),
        "cloud": statistics.median(cloud),
    }


def print_table(results: dict[str, Any]) -> None:
    """One row for each policy, flight and forecast side by side."""
    print(
        f"{'':<8}{'completion %':>22}{'':>16}{'QoS':>13}{'late':>11}{'in the cloud':>15}{'decision us':>14}\n"
        f"{'policy':<8}{'flown':>8}{'forecast':>10}{'(20 seeds)':>14}{'off':>6}"
        f"{'flown':>7}{'fc.':>6}{'flown':>6}{'fc.':>5}{'flown':>9}{'fc.':>6}{'p50':>8}{'p99':>6}"
    )
    for policy, row in results["policies"].items():
        flown, seen = row["flown"], row["forecast"]
        low, high = (100 * value for value in seen["completion_range"])
        print(
            f"{policy:<8}{100 * flown['completion']:>8.1f}{100 * seen['completion']:>10.1f}"
            f"{f'{low:.1f}..{high:.1f}':>14}"
            f"{100 * (flown['completion'] - seen['completion']):>+6.1f}{flown['qos']:>7}{seen['qos']:>6}"
            f"{flown['late']:>6}{seen['late']:>5.0f}{flown['cloud']:>9}{seen['cloud']:>6.0f}"
            f"{flown['decision_p50_us']:>8}{flown['decision_p99_us']:>6}"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=70.0)
    parser.add_argument("--trace", default=TRACE)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print("command: python tests/benchmarks/bench_offload_live.py")
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder / "models")
        write_models(folder / "served", SERVED_PRODUCTS)
        with Served(folder / "served") as server:
            times = asyncio.run(measured_times(folder, server))
            flown = asyncio.run(drive(folder, server, args.trace, args.seconds, times))
            server.terminate()
        link = link_from_text(args.trace)
        setups = {policy: write_setup(folder, policy, server.address, times) for policy in NAMES}
    policies = {
        policy: {"flown": flown[policy], "forecast": forecast(setups[policy], policy, link, args.seconds)}
        for policy in NAMES
    }
    results = {
        "load_before": round(os.getloadavg()[0], 1),
        "seconds": args.seconds,
        "times": times,
        "policies": policies,
    }
    for model, row in times.items():
        print(f"{model:<8}" + "  ".join(f"{key} {value:.2f}" for key, value in row.items()))
    print_table(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
