"""The `tercel` command. It parses, calls and prints; the work is elsewhere, and is imported when it is needed.

Exit codes: 0 done, 1 the run failed or was interrupted, 2 the user's mistake (one line says the mend).
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import tercel
from tercel.cli_dashboard import add_dashboard
from tercel.cli_detect import add_detect, add_evaluate_detection, add_models
from tercel.cli_link import add_link_proxy
from tercel.cli_live import add_play, add_run
from tercel.cli_merge import add_merge
from tercel.cli_quantize import add_quantize
from tercel.cli_registration import add_evaluate_odometry, add_evaluate_registration, add_odometry, add_register
from tercel.cli_serve import add_export, add_serve
from tercel.cli_simulate import add_simulate
from tercel.cli_tracking import add_evaluate_tracking, add_track
from tercel.cli_view import add_view
from tercel.core.errors import UserError, nearest_hint
from tercel.terminal import BACKENDS, Progress, add_verb, parse_pairs, printable, typed_settings, write_json

_LIVE = (add_run, add_play, add_dashboard, add_view)
_DETECTORS = (add_detect, add_models, add_quantize)
_REGISTRATION = (add_odometry, add_register, add_merge)
_OFFLOAD = (add_simulate, add_serve, add_link_proxy, add_export)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the console script's entry point."""
    # numpy, not yet imported, spreads small products over all cores: slower where they are busy, and other last bits
    # on another number of cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        print(f"tercel {args.verb}: {printable(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"tercel {args.verb}: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"tercel {args.verb}: interrupted; what was written so far is kept", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tercel", description=tercel.__doc__)
    parser.add_argument("--version", action="version", version=f"tercel {tercel.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in (
        _add_replay,
        _add_info,
        _add_import,
        _add_world,
        add_track,
        _add_evaluate,
        *_REGISTRATION,
        *_DETECTORS,
        *_LIVE,
        *_OFFLOAD,
    ):
        add(verbs)
    return parser


# --- evaluate ------------------------------------------------------------------------------------------------------


def _add_evaluate(verbs: Any) -> None:
    summary = "Hold results against truth: tracks, detections, trajectories or registration."
    parser = verbs.add_parser("evaluate", help=summary, description=summary)
    whats = parser.add_subparsers(dest="what", required=True, metavar="tracking|detection|odometry|registration")
    evaluations = (add_evaluate_tracking, add_evaluate_detection, add_evaluate_odometry, add_evaluate_registration)
    for add in evaluations:
        add(whats)


# --- replay --------------------------------------------------------------------------------------------------------


def _add_replay(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "replay",
        _replay,
        "Run a recording through a graph of components.",
        "  tercel replay drive.mcap\n"
        "  tercel replay drive.mcap --graph launch/graphs/camera_lidar.yaml --model yolox_nano.onnx\n"
        "  tercel replay bag_folder --remap /lidar/points:=/velodyne_points --out out/bag --json numbers.json\n"
        "  tercel replay drive.mcap --charge board/summary.json     # with the timings that board had\n"
        "  tercel replay drive.mcap --graph camera --model yolox_nano.onnx \\\n"
        "      --offload launch/offload/board_and_server.yaml --trace lte.up.gz     # board and server, over a link\n",
    )
    parser.add_argument("recording", type=Path, help="an MCAP file, a rosbag2 folder or a ROS 1 bag")
    parser.add_argument("--graph", metavar="FILE", help="a graph file or the name of one (default: picked)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: out/NAME)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the summary here")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn at random (default 0)")
    parser.add_argument(
        "--model", action="append", default=[], metavar="[NAME=]FILE", help="an ONNX model for the graph"
    )
    parser.add_argument(
        "--remap", action="append", default=[], metavar="TOPIC:=RECORDED", help="feed TOPIC from RECORDED"
    )
    parser.add_argument(
        "--charge",
        default="none",
        metavar="none|measured|FILE",
        help="virtual time that work takes: none, what it takes here, or a board's summary.json (default none)",
    )
    parser.add_argument(
        "--offload", type=Path, metavar="FILE", help="networks run where the offload manager decides, in FILE's times"
    )
    parser.add_argument("--trace", metavar="T", help="with --offload: another link (see tercel link-proxy --help)")
    parser.add_argument("--threads", type=int, default=2, help="threads for networks (default 2)")
    parser.add_argument(
        "--backend", choices=BACKENDS, default=BACKENDS[0], help="what runs them; auto: the faster (%(default)s)"
    )
    parser.add_argument("--no-report", action="store_true", help="leave report.html out")


def _replay(args: argparse.Namespace) -> int:
    from tercel.report.run import ReplayOptions, run_replay

    if args.threads < 1 or args.seed < 0:
        raise UserError("--threads begins at 1 and --seed at 0")
    if args.trace and not args.offload:
        raise UserError("--trace goes with --offload; add it")
    options = ReplayOptions(
        recording=args.recording,
        graph=args.graph,
        out=args.out or Path("out") / args.recording.stem,
        seed=args.seed,
        models=parse_pairs(args.model, "=", "--model", default_key="detector"),
        remap=parse_pairs(args.remap, ":=", "--remap"),
        charge=args.charge,
        threads=args.threads,
        backend=args.backend,
        report=not args.no_report,
        command=_command(args),
        offload=args.offload,
        trace=args.trace,
    )
    progress = Progress("replay")
    summary, table = run_replay(options, print, progress)
    if args.json:
        write_json(args.json, summary)
    print(table)
    for name in ("result.mcap", "summary.json", "report.html"):
        if (options.out / name).exists():
            print(f"{name.split('.')[0]}: {options.out / name}")
    return 0 if any(row["count"] for row in summary["components"].values()) else 1


def _command(args: argparse.Namespace) -> str:
    """The command that makes this report again, without the folders that differ from machine to machine."""
    words = ["tercel", "replay", args.recording.name]
    words += ["--graph", Path(args.graph).name] if args.graph else []
    words += [word for model in args.model for word in ("--model", Path(model).name)]
    words += [word for pair in args.remap for word in ("--remap", pair)]
    words += ["--charge", Path(args.charge).name] if args.charge != "none" else []
    words += ["--backend", args.backend] if args.backend != BACKENDS[0] else []
    words += ["--offload", args.offload.name] if args.offload else []
    words += ["--trace", Path(args.trace).name] if args.trace else []
    words += ["--seed", str(args.seed)] if args.seed else []
    return shlex.join(words)


# --- info ----------------------------------------------------------------------------------------------------------


def _add_info(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "info",
        _info,
        "List a recording's topics, rates, duration and frames.",
        "  tercel info drive.mcap\n  tercel info bag_folder --json info.json\n",
    )
    parser.add_argument("recording", type=Path, help="an MCAP file, a rosbag2 folder or a ROS 1 bag")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")


def _info(args: argparse.Namespace) -> int:
    from tercel.report.info import describe, info_table

    info = describe(args.recording)
    if args.json:
        write_json(args.json, info)
    print(info_table(info))
    return 0


# --- import --------------------------------------------------------------------------------------------------------


def _add_import(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "import",
        _import,
        "Turn recorded files into an MCAP recording, with calibration and ground truth.",
        "  tercel import --list\n"
        "  tercel import kitti-raw 2011_09_26_drive_0052_sync -o drive52.mcap\n"
        "  tercel import kitti-tracking KITTI/tracking --set sequence=0000 -o drive5.mcap\n"
        "  tercel import video flight.mp4 -o flight.mcap\n",
    )
    parser.add_argument("format", nargs="?", help="see --list")
    parser.add_argument("source", nargs="?", type=Path, help="the folder or file to import")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.mcap")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of the format")
    _add_compression(parser)
    parser.add_argument("--list", action="store_true", help="list the formats and their options")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the counts here")


def _import(args: argparse.Namespace) -> int:
    from devices.sensors.recorded import FORMATS

    if args.list:
        for name, importer in FORMATS.items():
            print(f"{name:<16} {importer.summary}")
            for key, option in importer.options.items():
                print(f"{'':<16}   --set {key}={option.default}  {option.help}")
        return 0
    if args.format is None or args.source is None or args.output is None:
        raise UserError("a format, a source and -o OUT.mcap are wanted: tercel import kitti-raw FOLDER -o out.mcap")
    if args.format not in FORMATS:
        raise UserError(f"unknown format {args.format!r}; {nearest_hint(args.format, FORMATS)}")
    _check_output(args.output, args.source)
    importer = FORMATS[args.format]
    options = importer.parse_options(parse_pairs(args.set, "=", "--set"))
    problems: list[str] = []
    messages = importer.read(args.source, problems=problems, **options)
    counts = _write_recording(args.output, messages, args.compression, "import")
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    if args.json:
        write_json(args.json, {"output": args.output.name, "counts": counts, "problems": problems})
    return _print_counts(args.output, counts)


def _check_output(output: Path, source: Path | None = None) -> None:
    if output.suffix != ".mcap":
        raise UserError(f"-o {output}: the name of a recording ends in .mcap")
    if source is not None and output.exists() and output.samefile(source):
        raise UserError(f"-o {output} would be written over the source")


def _write_recording(output: Path, messages: Iterable[Any], compression: Any, label: str) -> dict[str, int]:
    """Write (topic, log time, message) rows; a failed or empty import leaves no file behind."""
    from tercel.hosts.recording import RecordingWriter

    counts: dict[str, int] = {}
    progress = Progress(label)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    try:
        with RecordingWriter(partial, compression=compression) as writer:
            for topic, log_time_ns, message in messages:
                writer.write(topic, log_time_ns, message)
                counts[topic] = counts.get(topic, 0) + 1
                progress.count(sum(counts.values()))
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        progress.done()
    partial.replace(output)
    return counts


def _print_counts(output: Path, counts: dict[str, int]) -> int:
    for topic, count in sorted(counts.items()):
        print(f"{topic:<28}{count:>8}")
    print(f"recording: {output} ({output.stat().st_size / 1e6:.1f} MB)")
    return 0


# --- world ---------------------------------------------------------------------------------------------------------


def _add_world(verbs: Any) -> None:
    parser = add_verb(
        verbs,
        "world",
        _world,
        "Make a recording of a procedural world, with ground truth for everything.",
        "  tercel world street --seed 7 -o street.mcap\n"
        "  tercel world orchard --seed 1 --set lidar_beams=64 --set duration_s=60 -o orchard.mcap\n",
    )
    parser.add_argument("name", help="street or orchard")
    parser.add_argument("--seed", type=int, required=True, help="same seed, same bytes")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mcap")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="a setting, see WorldConfig")
    _add_compression(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the counts here")


def _world(args: argparse.Namespace) -> int:
    from devices.sensors.simulated.world import WORLDS, WorldConfig, generate
    from tercel.core.component import config_from_mapping

    if args.name not in WORLDS:
        raise UserError(f"unknown world {args.name!r}; {nearest_hint(args.name, WORLDS)}")
    _check_output(args.output)
    defaults = {f.name: f.default for f in fields(WorldConfig) if f.name not in ("name", "seed")}
    options = typed_settings(parse_pairs(args.set, "=", "--set"), defaults, "--set")
    config = config_from_mapping(WorldConfig, {"name": args.name, "seed": args.seed, **options}, where="world")
    counts = _write_recording(args.output, generate(config), args.compression, "world")
    if args.json:
        write_json(args.json, {"output": args.output.name, "counts": counts})
    return _print_counts(args.output, counts)


def _add_compression(parser: argparse.ArgumentParser) -> None:
    choices = ("none", "lz4", "zstd")
    parser.add_argument("--compression", choices=choices, default="zstd", help="of the chunks (default zstd)")


if __name__ == "__main__":
    sys.exit(main())
