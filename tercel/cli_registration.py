"""The verbs `tercel odometry`, `tercel register` and `tercel evaluate odometry|registration`: clouds to poses."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from tercel.terminal import add_verb, printable, require_writable, write_json

# --- evaluate odometry -----------------------------------------------------------------------------------------------


def add_evaluate_odometry(whats: Any) -> None:
    """Declare `tercel evaluate odometry ESTIMATE TRUTH`."""
    parser = add_verb(
        whats,
        "odometry",
        _evaluate_odometry,
        "Hold a trajectory against the true one: absolute (ATE) and relative errors (RPE), as evo counts them.",
        "  tercel evaluate odometry traj.txt truth.txt --align --json errors.json\n"
        "  tercel evaluate odometry orb_slam.txt.gz truth.txt.gz --align --scale --report out/errors\n"
        "  tercel evaluate odometry KITTI_00_ORB.txt KITTI_00_gt.txt --delta 100\n"
        "formats, seen from the number of columns; any file may be gzipped:\n"
        "  TUM      t x y z qx qy qz qw    (seconds; poses are paired by their stamps)\n"
        "  KITTI    twelve numbers, three rows of a matrix    (paired row by row)\n",
    )
    parser.add_argument("estimate", type=Path, help="the trajectory to judge")
    parser.add_argument("truth", type=Path, help="the true one")
    parser.add_argument("--align", action="store_true", help="lay the estimate over the truth as a whole (Umeyama)")
    parser.add_argument("--scale", action="store_true", help="with --align: scale it, too (one camera)")
    parser.add_argument("--delta", type=float, default=10.0, metavar="D", help="RPE: how far apart poses are (10)")
    parser.add_argument("--unit", choices=("m", "frames"), default="m", help="of --delta (default m, along the truth)")
    parser.add_argument("--tolerance", type=float, default=0.01, metavar="S", help="stamps of one pose (0.01 s)")
    parser.add_argument("--times", type=Path, metavar="FILE", help="a KITTI file's stamps, one a line, in seconds")
    _add_outputs(parser, "odometry.html: from above, height, errors over time")


def _evaluate_odometry(args: argparse.Namespace) -> int:
    from tercel.report.evaluate_odometry import EvaluateOptions, run_evaluation
    from tercel.report.odometry_scores import Measure

    page = _checked_outputs(args, "odometry.html", args.estimate, args.truth)
    options = EvaluateOptions(
        estimate=args.estimate,
        truth=args.truth,
        measure=Measure(args.align, args.scale, args.delta, args.unit),
        tolerance_s=args.tolerance,
        times=args.times,
        command=_evaluate_odometry_command(args),
    )
    run = run_evaluation(options)
    if args.json:
        write_json(args.json, run.summary())
    print("\n".join(map(printable, run.table().split("\n"))))
    if page is not None:
        from tercel.report.odometry_report import write_evaluation_report

        write_evaluation_report(page, run)
        print(printable(f"html: {page}"))
    return 0


def _evaluate_odometry_command(args: argparse.Namespace) -> str:
    words = ["tercel", "evaluate", "odometry", args.estimate.name, args.truth.name]
    words += ["--align"] if args.align else []
    words += ["--scale"] if args.scale else []
    words += ["--delta", f"{args.delta:g}", "--unit", args.unit]
    words += ["--times", args.times.name] if args.times else []
    return shlex.join(words)


# --- what they share -------------------------------------------------------------------------------------------------


def _add_outputs(parser: argparse.ArgumentParser, page: str) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    parser.add_argument("--report", type=Path, metavar="DIR", help=f"gets {page}")


def _checked_outputs(args: argparse.Namespace, page_name: str, *inputs: Path) -> Path | None:
    """The page's path, if one is wanted. Raises UserError if an output is an input or cannot be written."""
    from tercel.core.errors import UserError

    page: Path | None = args.report / page_name if args.report else None
    for path in (args.json, page, getattr(args, "output", None)):
        if path is None:
            continue
        require_writable(path)
        if any(path.exists() and source.exists() and path.samefile(source) for source in inputs):
            raise UserError(f"{path} would be written over an input; name another place")
    return page
