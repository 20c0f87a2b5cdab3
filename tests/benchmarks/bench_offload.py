"""Offloading policies over fleets and links: utility, quality of experience, share of the clairvoyant bound, speed.

python tests/benchmarks/bench_offload.py [--json FILE] [--seeds 20] [--bound-seeds 5] [--duration-s 60] [--quick]

Workloads 2D-P to 4D-A of launch/fleets/dems.yaml on the link that they were profiled on, on one whose round trip rises
and falls by 400 ms in a minute, and on recorded uplinks (TERCEL_DATA, default ../shared/data; without them those rows
are left out); 80 drones on 20 boards on two of them, with fewer seeds. Every policy meets the same drawn days; figures
are medians over seeds, in brackets the 10th and 90th percentile. "of bound" is over the first --bound-seeds days: no
policy, even one that knew all, can reach more than 1. All policies take expected times at their 95th percentile; a
table of its own shows what means do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from offload.bound import upper_bound  # noqa: E402
from offload.fleets import Workload, read_fleets  # noqa: E402
from offload.policies import POLICIES  # noqa: E402
from offload.scores import score  # noqa: E402
from offload.simulator import simulate  # noqa: E402

FLEETS = REPOSITORY / "launch" / "fleets"
DATA = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
MAHIMAHI = DATA / "net_traces" / "lte_mahimahi"
UPLINKS = {
    "T-Mobile LTE": "TMobile-LTE-short.up.gz",
    "Verizon LTE": "Verizon-LTE-short.up.gz",
    "AT&T LTE": "ATT-LTE-driving.up.gz",
    "Verizon EVDO": "Verizon-EVDO-driving.up.gz",
}
WORKLOADS = ("2D-P", "3D-P", "4D-P", "2D-A", "3D-A", "4D-A")
VARYING = {
    "model": "ramp",
    "rate_mbps": 50,
    "rtt_ms": 30,
    "extra_rtt_ms": 400,
    "period_s": 60,
    "ramp_s": 12,
    "hold_s": 12,
}
LARGE = "80D-A"
CHOSEN = ("edf_ec", "dem", "dems", "dems_a", "gems", "tercel")
P95 = 1.645


@dataclass(frozen=True)
class Case:
    """One drawn day and how policies are to meet it."""

    link: str
    workload: str
    seed: int
    duration_s: float
    bound: bool
    deviate: float | None = P95
    policies: tuple[str, ...] = tuple(POLICIES)


def workload_on(link: str, name: str) -> Workload:
    """A workload on a link of the tables."""
    path = FLEETS / ("fleet80.yaml" if name == LARGE else "dems.yaml")
    if link == "quiet":
        return read_fleets(path)[name]
    if link == "round trip varies":
        return read_fleets(path, VARYING)[name]
    return read_fleets(path, {"trace": str(MAHIMAHI / UPLINKS[link])})[name]


def run_case(case: Case) -> tuple[Case, dict[str, tuple[float, float, float]], float]:
    """(QoS, QoE, completion) of each policy on the day, and the bound (NaN if it was not asked for)."""
    workload = workload_on(case.link, case.workload)
    workload = replace(workload, fleet=replace(workload.fleet, duration_ns=round(case.duration_s * 1e9)))
    day = workload.day(case.seed)
    found = {}
    for name in case.policies:
        scores = score(day, simulate(day, POLICIES[name], deviate=case.deviate))
        found[name] = (scores.qos_utility, scores.qoe_utility, scores.completion)
    return case, found, upper_bound(day, schedule=False).utility if case.bound else float("nan")


def gather(cases: list[Case], workers: int) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """(link, workload) -> policy -> (seeds, 4) of QoS, QoE, completion, share of the bound."""
    rows: dict[tuple[str, str], dict[str, list[tuple[float, ...]]]] = {}
    began_s = time.monotonic()
    with ProcessPoolExecutor(workers) as pool:
        for number, (case, found, bound) in enumerate(pool.map(run_case, cases)):
            for name, (qos, qoe, completion) in found.items():
                row = rows.setdefault((case.link, case.workload), {}).setdefault(name, [])
                row.append((qos, qoe, completion, qos / bound))
            if sys.stderr.isatty():
                print(f"\r{number + 1}/{len(cases)} {time.monotonic() - began_s:.0f} s", end="", file=sys.stderr)
    return {cell: {name: np.array(values) for name, values in row.items()} for cell, row in rows.items()}


def print_cell(cell: tuple[str, str], row: dict[str, np.ndarray]) -> None:
    """One table: a line a policy."""
    print(f"\n{cell[1]}, {cell[0]}")
    print(f"  {'':10} {'QoS':>28} {'QoE':>22} {'done %':>7} {'of bound':>9}")
    for name, values in row.items():
        (low_qos, low_qoe), (high_qos, high_qoe) = np.percentile(values[:, :2], [10, 90], axis=0)
        qos, qoe, completion = np.median(values[:, :3], axis=0)
        bound = np.nanmedian(values[:, 3]) if np.isfinite(values[:, 3]).any() else float("nan")
        qos_text = f"{qos:,.0f} ({low_qos:,.0f}..{high_qos:,.0f})"
        qoe_text = f"{qoe:,.0f} ({low_qoe:,.0f}..{high_qoe:,.0f})"
        print(f"  {name:10} {qos_text:>28} {qoe_text:>22} {100 * completion:7.1f} {bound:9.3f}")


def medians(rows: dict[tuple[str, str], dict[str, np.ndarray]], column: int) -> dict[tuple[str, str], dict[str, float]]:
    """The median over seeds of one column."""
    return {
        cell: {
            name: float(np.nanmedian(v[:, column])) if np.isfinite(v[:, column]).any() else float("nan")
            for name, v in row.items()
        }
        for cell, row in rows.items()
    }


def print_goals(rows: dict[tuple[str, str], dict[str, np.ndarray]]) -> dict[str, Any]:
    """What was wanted, beside what came out."""
    qos, qoe, bound = (medians(rows, column) for column in (0, 1, 3))
    quiet = [cell for cell in rows if cell[0] == "quiet" and cell[1] != LARGE]
    traced = [cell for cell in rows if cell[0] in UPLINKS]
    varied = [cell for cell in rows if cell[0] != "quiet"]
    goals: dict[str, Any] = {}

    def goal(text: str, values: dict[tuple[str, str], float], wanted: float) -> None:
        if not values:
            return
        listed = ", ".join(f"{cell[1]} {cell[0]} {value:.3f}" for cell, value in values.items() if value < wanted)
        middle = float(np.median(list(values.values())))
        met = sum(value >= wanted for value in values.values())
        goals[text] = {"wanted": wanted, "median": middle, "least": min(values.values()), "met": f"{met}/{len(values)}"}
        least = min(values.values())
        print(f"  {text}: wanted {wanted:g}; median {middle:.3f}, least {least:.3f}, {met}/{len(values)} met")
        if listed:
            print(f"      below: {listed}")

    def ratio(table: dict[tuple[str, str], dict[str, float]], cells: list, over: str, under: str) -> dict:
        return {c: table[c][over] / table[c][under] if table[c][under] > 0 else float("inf") for c in cells}

    def best_other(table: dict[tuple[str, str], dict[str, float]], cells: list) -> dict:
        others = {c: max(v for n, v in table[c].items() if n != "tercel") for c in cells}
        return {c: table[c]["tercel"] / others[c] if others[c] > 0 else float("inf") for c in cells}

    print("\nGoals")
    goal("dems over the weakest policy, quiet", {c: qos[c]["dems"] / min(qos[c].values()) for c in quiet}, 2.0)
    goal("dems over edf_ec, quiet", ratio(qos, quiet, "dems", "edf_ec"), 1.0)
    goal("dems_a over dems, variable", ratio(qos, varied, "dems_a", "dems"), 1.1)
    goal("gems over dems in QoE, recorded links", ratio(qoe, traced, "gems", "dems"), 1.25)
    goal("tercel over the best other in QoS", best_other(qos, list(rows)), 0.99)
    goal("tercel over the best other in QoE", best_other(qoe, list(rows)), 0.99)
    goal("tercel of the bound, P, quiet", {c: bound[c]["tercel"] for c in quiet if c[1].endswith("P")}, 0.97)
    goal("tercel of the bound, A, quiet", {c: bound[c]["tercel"] for c in quiet if c[1].endswith("A")}, 0.94)
    goal("tercel of the bound, recorded links", {c: bound[c]["tercel"] for c in traced}, 0.85)
    goal("tercel over dems_a in QoS, recorded links", ratio(qos, traced, "tercel", "dems_a"), 1.2)
    goal("tercel over gems in QoS, recorded links", ratio(qos, traced, "tercel", "gems"), 1.2)
    goal("tercel over gems in QoE, recorded links", ratio(qoe, traced, "tercel", "gems"), 1.2)
    return goals


def print_means(duration_s: float, seeds: int, workers: int) -> dict[str, Any]:
    """Means against 95th percentiles, in shares of the bound on the quiet link."""
    names = ("edf_ec", "dem", "dems", "dems_a", "tercel")
    print(f"\nExpected times as means and as 95th percentiles, quiet link, share of the bound ({seeds} days)")
    print(f"  {'':6}" + "".join(f"{name:>18}" for name in names))
    table: dict[str, Any] = {}
    cases = [
        Case("quiet", workload, seed, duration_s, True, deviate, names)
        for workload in WORKLOADS
        for deviate in (None, P95)
        for seed in range(seeds)
    ]
    shares: dict[tuple[str, float | None, str], list[float]] = {}
    with ProcessPoolExecutor(workers) as pool:
        for case, found, bound in pool.map(run_case, cases):
            for name, values in found.items():
                shares.setdefault((case.workload, case.deviate, name), []).append(values[0] / bound)
    for workload in WORKLOADS:
        line = f"  {workload:6}"
        for name in names:
            mean, high = (float(np.median(shares[workload, deviate, name])) for deviate in (None, P95))
            table.setdefault(workload, {})[name] = {"mean": mean, "p95": high}
            line += f"{mean:10.3f} /{high:6.3f}"
        print(line)
    return table


def print_speed() -> dict[str, float]:
    """80 drones, 300 s, 144,000 tasks, on one core."""
    workload = next(iter(read_fleets(FLEETS / "fleet80.yaml").values()))
    day = workload.day(0)
    print(f"\n{workload.fleet.drones} drones, {len(day.kind):,} tasks, {workload.fleet.boxes} boards, one process")
    seconds = {}
    for name in ("edf_ec", "dems", "dems_a", "gems", "tercel"):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        simulate(day, POLICIES[name])
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        seconds[name] = wall_s
        print(f"  {name:10} {wall_s:6.1f} s ({cpu_s:.1f} s of CPU); {cpu_s / len(day.kind) * 1e6:.0f} us a task")
    return seconds


def main() -> int:
    """Print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--bound-seeds", type=int, default=5)
    parser.add_argument("--duration-s", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="two seeds of 40 s: a look, not a measurement")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.bound_seeds, args.duration_s = 2, 1, 40.0
    speed = print_speed()
    means = print_means(args.duration_s, args.bound_seeds, args.workers)
    links = ["quiet", "round trip varies", *(name for name, file in UPLINKS.items() if (MAHIMAHI / file).exists())]
    cases = [
        Case(link, workload, seed, args.duration_s, seed < args.bound_seeds)
        for link in links
        for workload in WORKLOADS
        for seed in range(args.seeds)
    ]
    large = [link for link in links if link in ("quiet", "T-Mobile LTE")]
    cases += [
        Case(link, LARGE, seed, args.duration_s, seed < 1, policies=CHOSEN)
        for link in large
        for seed in range(max(1, args.seeds // 6))
    ]
    rows = gather(cases, args.workers)
    for cell, row in rows.items():
        print_cell(cell, row)
    goals = print_goals(rows)
    if args.json:
        cells = {
            f"{workload}, {link}": {
                name: dict(zip(("qos", "qoe", "completion", "of_bound"), map(float, middle), strict=True))
                for name, values in row.items()
                for middle in [
                    [medians({(link, workload): {name: values}}, column)[link, workload][name] for column in range(4)]
                ]
            }
            for (link, workload), row in rows.items()
        }
        content = {"cells": cells, "goals": goals, "means": means, "fleet80_s": speed}
        args.json.write_text(json.dumps(content, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
