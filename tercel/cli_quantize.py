"""The verb `tercel quantize`: a detector's network in integers, verified against the original."""

from __future__ import annotations

import argparse
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercel.core.errors import UserError, require
from tercel.terminal import Progress, add_verb, printable, require_writable, write_json


def add_quantize(verbs: Any) -> None:
    """Declare `tercel quantize MODEL`."""
    parser = add_verb(
        verbs,
        "quantize",
        _quantize,
        "Make a detector's ONNX file smaller and faster, and refuse to call it done if it is slower or broken.",
        "  tercel quantize yolox_nano.onnx --calibration images/train --labels coco256 -o yolox_nano_int8.onnx\n"
        "  tercel quantize nanodet.onnx --calibration images --method mixed --report out -o int8.onnx\n"
        "  tercel quantize nanodet.onnx --method squant --verify images -o small.onnx     # weights only, no data\n"
        "  tercel quantize nanodet.onnx --method ant --bits 4 --verify images -o study.onnx\n"
        "methods:\n"
        "  static  weights and activations in 8 bits, ranges from the calibration images\n"
        "  squant  weights only, without data (arXiv 2202.07471); with --calibration, activations as in static\n"
        "  mixed   each layer in the precision that pays here and that the accuracy budget allows\n"
        "  qat     training with rounding, for Tercel's own detector (wants the extra `train`), then static\n"
        "  ant     weights in number formats chosen by error (arXiv 2208.14286), written as floats: a study\n"
        "Exit code 1: the result is slower than the float model, or loses too much; it is not kept.\n",
    )
    parser.add_argument("model", type=Path, help="a float32 ONNX detector")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.onnx")
    parser.add_argument("--calibration", nargs="+", default=[], metavar="IMAGES", help="files, folders or patterns")
    parser.add_argument("--labels", type=Path, metavar="DATA", help="labelled images: verify by AP against them")
    parser.add_argument("--split", default="evaluate", help="of the labelled images (default evaluate)")
    parser.add_argument(
        "--verify", nargs="+", default=[], metavar="IMAGES", help="verify by agreement on these (default: kept back)"
    )
    parser.add_argument("--method", choices=("static", "squant", "mixed", "qat", "ant"), default="static")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=8, help="of weights (4: squant and ant)")
    parser.add_argument(
        "--target",
        choices=("avx2", "vnni", "arm"),
        default="avx2",
        help="avx2 (default) is safe everywhere: 7-bit weights where 8 would saturate; vnni, arm: 8 bits",
    )
    parser.add_argument(
        "--ranges", choices=("mse", "percentile", "minmax"), default="mse", help="of activations (default mse)"
    )
    parser.add_argument(
        "--layout",
        choices=("auto", "fused", "stepwise"),
        default="auto",
        help="where quantizers stand: fused for OpenVINO and TensorRT, stepwise for onnxruntime (default: the faster)",
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "onnxruntime", "openvino"),
        default="auto",
        help="which to measure in (default: all that are installed; the faster counts)",
    )
    parser.add_argument("--max-ap-loss", type=float, default=1.0, metavar="POINTS", help="may be lost (default 1.0)")
    parser.add_argument("--images", type=int, default=256, metavar="N", help="most images of either kind (default 256)")
    parser.add_argument("--threads", type=int, default=1, help="of one run (default 1)")
    parser.add_argument("--training-minutes", type=float, default=10.0, metavar="M", help="qat: its time (default 10)")
    parser.add_argument("--keep-anyway", action="store_true", help="keep a file that is slower or broken")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.html and summary.json here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")


def _quantize(args: argparse.Namespace) -> int:
    require("onnx", extra="quantize")
    from perception.quantize.images import calibration_files, held_out
    from perception.quantize.procedure import calibration_warnings, gather, keep, run

    _check(args)
    progress = Progress("quantize")
    settings = _settings(args)
    calibration = calibration_files(args.calibration, args.images) if args.calibration else None
    verification = calibration_files(args.verify, args.images) if args.verify else None
    if calibration is not None and not (args.labels or args.verify):
        calibration, verification = held_out(calibration)
    source = _trained(args) if args.method == "qat" else args.model
    try:
        images, truth = _verification(args, source, verification)
        # What training gave is quantized; what it is held against is always the model that the user named.
        material = replace(gather(source, calibration, images, truth, settings), source=args.model)
        warnings = calibration_warnings(material, calibration) if calibration is not None else []
        for warning in warnings:
            print(f"warning: {printable(warning)}")
        outcome = run(material, settings, print)
    finally:
        progress.done()
    outcome.warnings += warnings
    kept = outcome.done or args.keep_anyway
    summary = outcome.summary | {
        "done": outcome.done,
        "kept": kept,
        "reasons": outcome.reasons,
        "blame": outcome.blame,
        "warnings": outcome.warnings,
        "command": _command(args),
    }
    if kept:
        keep(outcome, args.model, args.output)
    if args.report:
        from tercel.report.quantize_report import write_quantize_report

        args.report.mkdir(parents=True, exist_ok=True)
        write_json(args.report / "summary.json", _without_nan(summary))
        write_quantize_report(args.report / "report.html", outcome, summary)
    if args.json:
        write_json(args.json, _without_nan(summary))
    _print(outcome, summary, args)
    return 0 if outcome.done else 1


def _without_nan(value: Any) -> Any:
    """The same with null for numbers that are none, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(args: argparse.Namespace) -> None:
    if args.output.suffix != ".onnx":
        raise UserError(f"-o {args.output}: the name of a model ends in .onnx")
    require_writable(args.output)
    if args.json:
        require_writable(args.json)
    if args.output.exists() and args.model.exists() and args.output.samefile(args.model):
        raise UserError(f"-o {args.output} would be written over the model; name another file")
    if args.threads < 1 or args.images < 1 or not args.max_ap_loss > 0.0 or not args.training_minutes > 0.0:
        raise UserError("--threads and --images begin at 1, --max-ap-loss and --training-minutes above 0")
    if args.bits == 4 and args.method not in ("squant", "ant"):
        raise UserError("--bits 4 is for weights only: --method squant or ant")
    if args.labels and args.verify:
        raise UserError("--labels and --verify both say what to verify with; give one")
    if args.method in ("static", "mixed", "qat") and not args.calibration:
        raise UserError(f"--method {args.method} needs images: --calibration FOLDER")
    if not (args.calibration or args.labels or args.verify):
        raise UserError("nothing to verify with: give --labels DATA or --verify IMAGES")


def _settings(args: argparse.Namespace) -> Any:
    from perception.quantize.candidates import Settings
    from perception.quantize.plan import LAYOUTS
    from perception.quantize.timing import BACKENDS

    return Settings(
        method=args.method,
        bits=args.bits,
        target=args.target,
        ranges=args.ranges,
        layouts=LAYOUTS if args.layout == "auto" else (args.layout,),
        backends=BACKENDS if args.backend == "auto" else (args.backend,),
        max_ap_loss=args.max_ap_loss,
        threads=args.threads,
    )


def _trained(args: argparse.Namespace) -> Path:
    """The float model after training with rounding. It belongs to the training, which alone knows the network."""
    require("torch", extra="train")
    from perception.train import qat

    trained: Path = qat.run_on_file(args.model, images=args.calibration, budget_min=args.training_minutes, report=print)
    return trained


def _verification(args: argparse.Namespace, source: Path, files: Any) -> tuple[list[Any], list[Any] | None]:
    """Images to verify with, and their truth if they are labelled."""
    from perception.quantize.images import labelled_images
    from perception.quantize.procedure import detector_of

    if args.labels:
        from perception.labelled import load_labelled

        return labelled_images(load_labelled(args.labels, split=args.split), detector_of(source), args.images)
    images = list(files.read())
    if not images:
        first = next(iter(files.problems.values()), "none was given")
        raise UserError(f"no image to verify with could be read ({first})")
    return images, None


def _print(outcome: Any, summary: dict[str, Any], args: argparse.Namespace) -> None:
    accuracy, sizes = summary["accuracy"], summary["bytes"]
    print(f"{'ms, one image':<16}" + "".join(f"{backend:>14}" for backend in summary["latency_ms"]))
    names = dict.fromkeys(name for row in summary["latency_ms"].values() for name in row)
    for name in sorted(names, key=lambda name: name != "float"):
        cells = "".join(f"{row[name]:>14.2f}" for row in summary["latency_ms"].values())
        print(f"{name:<16}{cells}")
    print(
        f"speed: {summary['speedup']:.2f} times the float model ({summary['quantized_ms']:.2f} ms in "
        f"{summary['backend']['quantized']}, {summary['float_ms']:.2f} ms in {summary['backend']['float']})"
    )
    print(
        f"accuracy ({accuracy['measure']}, {summary['images']} images): AP {accuracy['ap_quantized']:.3f}, float "
        f"{accuracy['ap_float']:.3f}; AP50 {accuracy['ap50_quantized']:.3f}, float {accuracy['ap50_float']:.3f}"
    )
    print(f"size: {sizes['quantized'] / 1e6:.2f} MB, float {sizes['float'] / 1e6:.2f} MB")
    for reason in outcome.reasons:
        print(f"not done: {printable(reason)}")
    for line in outcome.blame:
        print(f"  to blame: {printable(line)}")
    if summary["kept"]:
        print(f"model: {args.output}")
    else:
        print("nothing is kept; try --method mixed, or --keep-anyway to have the file all the same")
    if args.report:
        print(f"report: {args.report / 'report.html'}")


def _command(args: argparse.Namespace) -> str:
    """The command that makes this report again, without the folders that differ from machine to machine."""
    words = ["tercel", "quantize", args.model.name, "--method", args.method]
    words += [word for path in args.calibration[:1] for word in ("--calibration", Path(path).name)]
    words += ["--labels", args.labels.name] if args.labels else []
    words += ["--bits", "4"] if args.bits == 4 else []
    words += ["--target", args.target] if args.target != "avx2" else []
    return shlex.join([*words, "-o", args.output.name])
