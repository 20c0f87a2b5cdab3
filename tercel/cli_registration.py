"""The verbs `tercel odometry`, `tercel register` and `tercel evaluate odometry|registration`: clouds to poses."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from tercel.terminal import Progress, add_verb, parse_pairs, printable, require_writable, write_json

# --- odometry --------------------------------------------------------------------------------------------------------


def add_odometry(verbs: Any) -> None:
    """Declare `tercel odometry RECORDING`."""
    parser = add_verb(
        verbs,
        "odometry",
        _odometry,
        "Follow a LiDAR through a recording: poses with covariance and health, every scan accounted for.",
        "  tercel odometry drive.mcap -o traj.txt\n"
        "  tercel odometry drive.mcap --inertial --report out/drive --json out/drive.json\n"
        "  tercel odometry rosbag2_folder --topic /velodyne_points --set max_range_m=80 -o traj.txt\n"
        "  tercel odometry KITTI/sequences/00/velodyne --format kitti -o 00.txt\n",
    )
    parser.add_argument(
        "recording", type=Path, help="an MCAP file, a rosbag2 folder, a ROS 1 bag, or a folder of .bin, .ply, .pcd"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="TRAJ", help="gets the poses of the sensor")
    parser.add_argument("--format", choices=("tum", "kitti"), default="tum", help="of TRAJ (default tum)")
    parser.add_argument("--inertial", action="store_true", help="with the recording's IMU")
    parser.add_argument("--topic", metavar="NAME", help="of the clouds (default: the one with most of them)")
    parser.add_argument("--rate-hz", type=float, default=10.0, metavar="HZ", help="of a folder's scans (default 10)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the odometry")
    _add_outputs(parser, "odometry.html: from above with covariance, heights, errors, health")


def _odometry(args: argparse.Namespace) -> int:
    from tercel.report.odometry_run import OdometryOptions, run_odometry

    page = _checked_outputs(args, "odometry.html", args.recording)
    options = OdometryOptions(
        recording=args.recording,
        out=args.output,
        format=args.format,
        inertial=args.inertial,
        settings=parse_pairs(args.set, "=", "--set"),
        topic=args.topic,
        rate_hz=args.rate_hz,
        report=page is not None,
        command=_odometry_command(args),
    )
    progress = Progress("odometry")
    try:
        run = run_odometry(options, progress)
    finally:
        progress.done()
    if args.json:
        write_json(args.json, run.summary())
    _print_lines(run.table())
    if args.output and len(run.poses):
        print(printable(f"trajectory: {args.output}"))
    if page is not None and len(run.poses):
        from tercel.report.odometry_report import write_odometry_report

        write_odometry_report(page, run)
        print(printable(f"html: {page}"))
    return 0 if len(run.poses) else 1


def _odometry_command(args: argparse.Namespace) -> str:
    """The command that does this again, without the folders that differ from machine to machine."""
    words = ["tercel", "odometry", args.recording.resolve().name]
    words += ["--inertial"] if args.inertial else []
    words += ["--topic", args.topic] if args.topic else []
    words += ["--rate-hz", f"{args.rate_hz:g}"] if args.rate_hz != 10.0 else []
    words += [word for setting in args.set for word in ("--set", setting)]
    words += ["-o", args.output.name, "--format", args.format] if args.output else []
    return shlex.join(words)


# --- register --------------------------------------------------------------------------------------------------------


def add_register(verbs: Any) -> None:
    """Declare `tercel register TARGET SOURCE`."""
    parser = add_verb(
        verbs,
        "register",
        _register,
        "Align two clouds: the transform, whether to believe it, its covariance, and what it leaves open.",
        "  tercel register target.ply source.ply --json pair.json --report out/pair\n"
        "  tercel register map.pcd scan.bin --map --guess guess.txt     # near it: fine alignment only\n"
        "  tercel register first.bin second.bin --distant         # 10 to 50 m apart, little overlap\n"
        "clouds: .ply, .pcd, .bin (KITTI), .pcd.bin (nuScenes), .npy (N, 3 or more); exit code 1: they do not fit\n",
    )
    parser.add_argument("target", type=Path, help="the cloud that stays")
    parser.add_argument("source", type=Path, help="the cloud that is moved onto it")
    how = parser.add_mutually_exclusive_group()
    for method, words in (
        ("global", "from anywhere (default without --guess)"),
        ("local", "from the guess, or from where it is (default with --guess)"),
        ("distant", "for scans far apart, with little overlap"),
    ):
        how.add_argument(f"--{method}", dest="method", action="store_const", const=method, help=words)
    parser.add_argument("--guess", type=Path, metavar="FILE", help="4x4 target_T_source, as text or our own JSON")
    parser.add_argument("--map", action="store_true", help="the target is a map: it was not seen from one place")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random (default 0)")
    _add_outputs(parser, "register.html: the clouds before and after, from above and from the side")


def _register(args: argparse.Namespace) -> int:
    from tercel.core.errors import UserError
    from tercel.report.register_run import RegisterOptions, run_register

    if args.seed < 0:
        raise UserError("--seed begins at 0")
    inputs = [args.target, args.source, *([args.guess] if args.guess else [])]
    page = _checked_outputs(args, "register.html", *inputs)
    options = RegisterOptions(
        args.target, args.source, args.method, args.guess, args.seed, args.map, _register_command(args)
    )
    run = run_register(options)
    if args.json:
        write_json(args.json, run.summary())
    _print_lines(run.table())
    if page is not None:
        from tercel.report.register_report import write_register_report

        write_register_report(page, run)
        print(printable(f"html: {page}"))
    return 0 if run.converged else 1


def _register_command(args: argparse.Namespace) -> str:
    words = ["tercel", "register", args.target.name, args.source.name]
    words += [f"--{args.method}"] if args.method else []
    words += ["--guess", args.guess.name] if args.guess else []
    words += ["--map"] if args.map else []
    words += ["--seed", str(args.seed)] if args.seed else []
    return shlex.join(words)


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
    _print_lines(run.table())
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


# --- evaluate registration -------------------------------------------------------------------------------------------


def add_evaluate_registration(whats: Any) -> None:
    """Declare `tercel evaluate registration RECORDING...`."""
    parser = add_verb(
        whats,
        "registration",
        _evaluate_registration,
        "Register pairs of scans 5 to 50 m apart, drawn from recordings with truth: recall and errors by distance.",
        "  tercel evaluate registration drive.mcap --report out/recall\n"
        "  tercel evaluate registration street.mcap orchard.mcap --method distant --method global --json recall.json\n"
        "  tercel evaluate registration drive.mcap --pairs 50 --seed 3\n"
        "a pair is right if it is less than 2 m and 5 degrees off; sources are turned by any yaw and tilted a little\n",
    )
    parser.add_argument("recordings", nargs="+", type=Path, metavar="RECORDING", help="with clouds and /truth/odometry")
    parser.add_argument(
        "--method", action="append", metavar="M", help="distant (default), learned or global; several are compared"
    )
    parser.add_argument("--pairs", type=int, default=20, metavar="N", help="at most, of each distance (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing of pairs (default 0)")
    parser.add_argument("--topic", metavar="NAME", help="of the clouds (default: the one with most of them)")
    _add_outputs(parser, "registration.html: recall over distance, every pair's error over its confidence")


def _evaluate_registration(args: argparse.Namespace) -> int:
    from tercel.core.errors import UserError
    from tercel.report.evaluate_registration import RegistrationOptions, run_registration

    if args.seed < 0:
        raise UserError("--seed begins at 0")
    page = _checked_outputs(args, "registration.html", *args.recordings)
    options = RegistrationOptions(
        recordings=args.recordings,
        methods=list(dict.fromkeys(args.method or ["distant"])),
        per_bin=args.pairs,
        seed=args.seed,
        topic=args.topic,
        command=_evaluate_registration_command(args),
    )
    progress = Progress("evaluate")
    try:
        run = run_registration(options, progress)
    finally:
        progress.done()
    if args.json:
        write_json(args.json, run.summary())
    _print_lines(run.table())
    if page is not None:
        from tercel.report.registration_report import write_registration_report

        write_registration_report(page, run)
        print(printable(f"html: {page}"))
    return 0


def _evaluate_registration_command(args: argparse.Namespace) -> str:
    words = ["tercel", "evaluate", "registration", *(path.name for path in args.recordings)]
    words += [word for method in args.method or [] for word in ("--method", method)]
    words += ["--pairs", str(args.pairs), "--seed", str(args.seed)]
    words += ["--topic", args.topic] if args.topic else []
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


def _print_lines(text: str) -> None:
    """A table whose names may come from outside."""
    print("\n".join(map(printable, text.split("\n"))))
