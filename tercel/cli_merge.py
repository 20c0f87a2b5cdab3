"""The verb `tercel merge`: two recordings in one frame."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from tercel.terminal import Progress, add_verb, printable, require_writable, write_json


def add_merge(verbs: Any) -> None:
    """Declare `tercel merge A B`."""
    parser = add_verb(
        verbs,
        "merge",
        _merge,
        "Put two recordings into one frame by the places that both saw, close their loops, and draw them.",
        "  tercel merge monday.mcap tuesday.mcap -o out/both\n"
        "  tercel merge drone1.mcap drone2.mcap -o out/both --topic /velodyne_points --json both.json\n"
        "  tercel merge scans_a/ scans_b/ --rate-hz 10 -o out/both     (folders of .bin, .ply or .pcd)\n"
        "OUT gets merged.json (A_T_B, covariance, loops, confidence), a.txt and b.txt (TUM, both in A's frame),\n"
        "merged.ply (A blue, B orange) and report.html. Recordings that do not overlap are not merged: exit code 1.\n",
    )
    parser.add_argument("first", type=Path, metavar="A", help="a recording, or a folder of clouds; its frame stays")
    parser.add_argument("second", type=Path, metavar="B", help="another")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for what is made")
    parser.add_argument(
        "--topic", metavar="NAME", help="of the clouds (default: the LiDAR's that is most likely meant)"
    )
    parser.add_argument("--rate-hz", type=float, default=10.0, metavar="HZ", help="of a folder's scans (default 10)")
    parser.add_argument("--voxel-m", type=float, default=0.3, metavar="M", help="grid that thins merged.ply (0.3)")
    parser.add_argument("--min-loops", type=int, default=3, metavar="N", help="so many must agree (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers of merged.json here")


def _merge(args: argparse.Namespace) -> int:
    from tercel.report.merge_report import write_merge_report
    from tercel.report.merge_run import MergeOptions, run_merge

    options = MergeOptions(
        first=args.first,
        second=args.second,
        out=args.output,
        topic=args.topic,
        rate_hz=args.rate_hz,
        voxel_m=args.voxel_m,
        min_loops=args.min_loops,
        command=_command(args),
    )
    if args.json:
        require_writable(args.json)
    progress = Progress("merge")
    try:
        run = run_merge(options, progress)
    finally:
        progress.done()
    if args.json:
        write_json(args.json, run.summary())
    write_merge_report(args.output / "report.html", run)
    for line in run.table().splitlines():
        print(printable(line))
    print(printable(f"html: {args.output / 'report.html'}"))
    if run.merged.status != "merged":
        print(printable(f"tercel merge: not merged: {run.merged.reason}"), file=sys.stderr)
        return 1
    return 0


def _command(args: argparse.Namespace) -> str:
    """The command that does this again, without the folders that differ from machine to machine."""
    words = ["tercel", "merge", args.first.resolve().name, args.second.resolve().name]
    words += ["--topic", args.topic] if args.topic else []
    words += ["--rate-hz", f"{args.rate_hz:g}"] if args.rate_hz != 10.0 else []
    words += ["--min-loops", str(args.min_loops)] if args.min_loops != 3 else []
    return shlex.join([*words, "-o", args.output.name])
