"""The verb `tercel simulate`: fleets of drones under offloading policies, before anything flies."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import Any

from tercel.terminal import Progress, add_verb, printable, write_json


def add_simulate(verbs: Any) -> None:
    """Declare `tercel simulate FLEETS`."""
    parser = add_verb(
        verbs,
        "simulate",
        _simulate,
        "Simulate fleets under offloading policies: what is done in time, what it earns, and what becomes of the rest.",
        "  tercel simulate launch/fleets/dems.yaml\n"
        "  tercel simulate launch/fleets/dems.yaml --workload 4D-A --policy dems gems --seeds 20 --json out.json\n"
        "  tercel simulate launch/fleets/variability.yaml --bound --report out.html\n"
        "  tercel simulate launch/fleets/dems.yaml --trace ATT-LTE-driving.up.gz,rtt_ms=60\n"
        "  tercel simulate launch/fleets/dems.yaml --trace gilbert_elliott:rate_mbps=20,good_s=30,bad_s=3\n",
    )
    parser.add_argument("fleets", type=Path, help="a fleet file: kinds of task, workloads and their link")
    parser.add_argument(
        "--workload", nargs="+", action="extend", default=[], metavar="W", help="of the file (default: all)"
    )
    parser.add_argument("--policy", nargs="+", action="extend", default=[], metavar="P", help="default: all")
    parser.add_argument("--trace", metavar="T", help="a recorded link, or MODEL:key=value,..., instead of the file's")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is drawn at random (default 0)")
    seeds.add_argument("--seeds", type=int, metavar="N", help="so many days, with the seeds 0 to N-1")
    parser.add_argument(
        "--estimates",
        choices=("mean", "p95"),
        default="p95",
        help="the times that published policies expect: 95th percentiles (default), or means; tercel makes its own",
    )
    parser.add_argument("--bound", action="store_true", help="also find the utility that nobody can pass; slow")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="comparison, timelines, Gantt charts, account")


def _simulate(args: argparse.Namespace) -> int:
    from tercel.report.offload_run import SimulationOptions, run_simulation

    options = SimulationOptions(
        fleets=args.fleets,
        workloads=args.workload,
        policies=args.policy,
        trace=args.trace,
        seeds=(args.seed,) if args.seeds is None else range(args.seeds),
        estimates=args.estimates,
        bound=args.bound,
        report=args.report,
        json=args.json,
        command=_command(args),
    )
    began_s = time.monotonic()
    progress = Progress("simulate")
    try:
        run = run_simulation(options, progress)
    finally:
        progress.done()
    took_s = time.monotonic() - began_s
    if args.json:
        write_json(args.json, run.summary())
    print(run.table())
    tasks = sum(sum(s.tasks for s in result.scores) for results in run.results.values() for result in results.values())
    print(f"\n{tasks:,} tasks in {took_s:.1f} s{', bounds included' if args.bound else ''}")
    if args.report:
        from tercel.report.offload_report import write_offload_report

        write_offload_report(args.report, run)
        print(printable(f"html: {args.report}"))
    return 0


def _command(args: argparse.Namespace) -> str:
    """The command that does this again, without the folders that differ from machine to machine."""
    words = ["tercel", "simulate", args.fleets.name]
    words += ["--workload", *args.workload] if args.workload else []
    words += ["--policy", *args.policy] if args.policy else []
    if args.trace:
        source, comma, rest = args.trace.partition(",")
        words += ["--trace", Path(source).name + comma + rest]
    words += ["--seed", str(args.seed)] if args.seeds is None else ["--seeds", str(args.seeds)]
    words += ["--estimates", args.estimates]
    words += ["--bound"] if args.bound else []
    return shlex.join(words)
