"""The verbs around detectors: `tercel detect`, `tercel models`, `tercel evaluate detection`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from tercel.core.errors import UserError
from tercel.terminal import BACKENDS, Progress, add_verb, printable, require_writable, write_json

_LISTED = 20

# --- detect --------------------------------------------------------------------------------------------------------


def add_detect(verbs: Any) -> None:
    """Declare `tercel detect MODEL IMAGES... --out DIR`."""
    parser = add_verb(
        verbs,
        "detect",
        _detect,
        "Find objects in images: pictures with boxes, COCO JSON and a page that shows them.",
        "  tercel detect tercel-nano photos/ --out out/found\n"
        "  tercel detect yolox_nano.onnx 'flight/*.jpg' street.png --score 0.5 --classes person,car --out out/found\n",
    )
    parser.add_argument("model", help="an ONNX file, or the name of a shipped or pulled model (tercel models list)")
    parser.add_argument("images", nargs="+", help="files, folders or patterns of JPEG, PNG, BMP and WebP images")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets detections.json, images/, HTML")
    parser.add_argument("--score", type=float, default=0.3, metavar="S", help="lowest score given out (default 0.3)")
    parser.add_argument("--classes", type=_names, default=(), metavar="A,B", help="default: all that the model knows")
    _add_runtime(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")


def _detect(args: argparse.Namespace) -> int:
    from tercel.report.detect_report import write_detect_report
    from tercel.report.detect_run import DetectOptions, run_detect

    if not 0.0 <= args.score <= 1.0:
        raise UserError(f"--score {args.score} must be in 0..1")
    _check_threads(args.threads)
    if args.json:
        require_writable(args.json)
    options = DetectOptions(
        model=args.model,
        images=args.images,
        out=args.out,
        score=args.score,
        classes=args.classes,
        threads=args.threads,
        backend=args.backend,
        command=_detect_command(args),
        json=args.json,
    )
    progress = Progress("detect")
    try:
        run = run_detect(options, progress)
    finally:
        progress.done()
    for name, reason in run.skipped[:_LISTED]:
        print(printable(f"skipped: {name}: {reason}"), file=sys.stderr)
    if len(run.skipped) > _LISTED:
        print(f"skipped: {len(run.skipped) - _LISTED} more", file=sys.stderr)
    write_json(args.out / "detections.json", run.detections())
    write_detect_report(args.out / "detections.html", run)
    if args.json:
        write_json(args.json, run.summary())
    print(_printable_lines(run.table()))
    print(printable(f"json: {args.out / 'detections.json'}"))
    print(printable(f"html: {args.out / 'detections.html'}"))
    return 0 if run.seen else 1


def _detect_command(args: argparse.Namespace) -> str:
    """The command that does this again, without the folders that differ from machine to machine."""
    words = ["tercel", "detect", Path(args.model).name, *(Path(image).name for image in args.images[:5])]
    words += ["--score", f"{args.score:g}"] if args.score != 0.3 else []
    words += ["--classes", ",".join(args.classes)] if args.classes else []
    return shlex.join([*words, "--out", args.out.name])


# --- models --------------------------------------------------------------------------------------------------------


def add_models(verbs: Any) -> None:
    """Declare `tercel models list` and `tercel models pull NAME`."""
    parser = add_verb(
        verbs,
        "models",
        _list_models,
        "List the detectors that are known by name, and fetch one.",
        "  tercel models list\n  tercel models pull yolox-nano\n  tercel models pull rtdetr-r18 --to models/\n",
    )
    parser.add_argument("--catalog", type=Path, metavar="FILE", help="another catalog (default: Tercel's own)")
    whats = parser.add_subparsers(dest="what", required=True, metavar="list|pull")
    listing = add_verb(whats, "list", _list_models, "List the catalog and what is here.", "  tercel models list\n")
    listing.add_argument("--json", type=Path, metavar="FILE", help="also write the list here")
    pulling = add_verb(
        whats,
        "pull",
        _pull_model,
        "Fetch a model from where it is published, and keep it if its checksum holds.",
        "  tercel models pull yolox-nano\n",
    )
    pulling.add_argument("name", help="see tercel models list")
    pulling.add_argument("--to", type=Path, metavar="DIR", help="default: where tercel detect NAME looks for it")
    pulling.add_argument("--unverified", action="store_true", help="keep a file whose checksum nobody has published")
    pulling.add_argument("--json", type=Path, metavar="FILE", help="also write name, path and sha256 here")


def _list_models(args: argparse.Namespace) -> int:
    from perception.model_catalog import pulled_folder, read_catalog, shipped_models

    catalog, folder = read_catalog(args.catalog), pulled_folder()
    rows: list[dict[str, Any]] = [
        {"name": name, "where": "shipped", "licence": "Apache-2.0", "size_bytes": path.stat().st_size}
        for name, path in shipped_models().items()
    ]
    for model in catalog.values():
        facts = {key: getattr(model, key) for key in ("licence", "head", "url", "sha256", "size_bytes")}
        here = (folder / model.file).is_file()
        height, width = model.input
        rows.append({"name": model.name, "where": "pulled" if here else "", "input": f"{height}x{width}", **facts})
    if args.json:
        write_json(args.json, rows)
    print(f"{'name':<20}{'here':<9}{'MB':>6}  {'input':<9}{'head':<14}{'checked':<9}licence")
    for row in rows:
        size = "?" if row["size_bytes"] is None else f"{row['size_bytes'] / 1e6:.1f}"
        checked = "" if row["where"] == "shipped" else "yes" if row["sha256"] else "no"
        print(
            printable(
                f"{row['name']:<20}{row['where'] or '-':<9}{size:>6}  {row.get('input', ''):<9}"
                f"{row.get('head', ''):<14}{checked:<9}{row['licence']}"
            )
        )
    return 0


def _pull_model(args: argparse.Namespace) -> int:
    from perception.model_catalog import pull, pulled_folder, read_catalog

    catalog = read_catalog(args.catalog)
    progress = Progress("pull")
    try:
        path, sha256, fetched = pull(
            args.name, catalog, args.to or pulled_folder(), keep_unverified=args.unverified, progress=progress
        )
    finally:
        progress.done()
    model = catalog[args.name]
    if args.json:
        write_json(args.json, {"name": args.name, "path": str(path), "sha256": sha256, "licence": model.licence})
    how = "verified" if model.sha256 else "NOT verified: nobody has published its checksum"
    print(printable(f"{'fetched' if fetched else 'already there'}: {path}"))
    print(f"sha256: {sha256} ({how})")
    print(printable(f"licence: {model.licence}, {model.source}"))
    return 0


# --- evaluate detection --------------------------------------------------------------------------------------------


def add_evaluate_detection(whats: Any) -> None:
    """Declare `tercel evaluate detection`."""
    parser = add_verb(
        whats,
        "detection",
        _evaluate,
        "Hold detectors against labelled images: COCO AP by pycocotools, by class and size, latency and CPU time.",
        "  tercel evaluate detection --model tercel-nano --data img_coco256 --report out/scores\n"
        "  tercel evaluate detection --model a.onnx --model b.onnx --data street.mcap --json scores.json\n"
        "data: a folder in YOLO's layout, COCO JSON with its images, KITTI object frames, or a recording of `tercel "
        "world`\n",
    )
    parser.add_argument(
        "--model", action="append", required=True, metavar="M", help="a file or a name; several are compared"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="D", help="labelled images")
    parser.add_argument(
        "--split", default="evaluate", metavar="S", help="evaluate (default), train or all; see datasets/catalog.yaml"
    )
    parser.add_argument("--classes", choices=("coco", "tercel"), help="compare in these (default: what all have)")
    _add_runtime(parser)
    parser.add_argument("--report", type=Path, metavar="DIR", help="gets detection.html: table, curves, sizes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")


def _evaluate(args: argparse.Namespace) -> int:
    from tercel.report.detection_run import EvaluationOptions, run_evaluation

    _check_threads(args.threads)
    page = args.report / "detection.html" if args.report else None
    for path in (args.json, page):
        if path is not None:
            require_writable(path)
    options = EvaluationOptions(
        models=args.model,
        data=args.data,
        split=args.split,
        classes=args.classes,
        threads=args.threads,
        backend=args.backend,
        command=_evaluate_command(args),
    )
    progress = Progress("evaluate")
    try:
        run = run_evaluation(options, progress)
    finally:
        progress.done()
    for problem in run.problems[:_LISTED]:
        print(printable(f"skipped: {problem}"), file=sys.stderr)
    if args.json:
        write_json(args.json, run.summary())
    print(_printable_lines(run.table()))
    if page is not None:
        from tercel.report.detection_report import write_detection_report

        write_detection_report(page, run)
        print(printable(f"html: {page}"))
    return 0 if all(candidate.answered for candidate in run.candidates) else 1


def _evaluate_command(args: argparse.Namespace) -> str:
    """The command that does this again, without the folders that differ from machine to machine."""
    words = ["tercel", "evaluate", "detection"]
    words += [word for model in args.model for word in ("--model", Path(model).name)]
    words += ["--data", args.data.resolve().name]
    words += ["--split", args.split] if args.split != "evaluate" else []
    words += ["--classes", args.classes] if args.classes else []
    words += ["--backend", args.backend] if args.backend != "onnxruntime" else []
    return shlex.join([*words, "--threads", str(args.threads)])


# --- what they share -----------------------------------------------------------------------------------------------


def _add_runtime(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="threads for the network (default 1)")
    parser.add_argument("--backend", choices=BACKENDS, default="onnxruntime", help="what runs it (default onnxruntime)")


def _check_threads(threads: int) -> None:
    if not 1 <= threads <= 256:
        raise UserError(f"--threads {threads} must be in 1..256")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _printable_lines(text: str) -> str:
    """A table whose names may come from outside."""
    return "\n".join(map(printable, text.split("\n")))
