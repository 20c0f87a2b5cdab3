"""The verbs `tercel track`, detections to tracks, and `tercel evaluate tracking`, tracks held against truth."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from tercel.terminal import Progress, add_verb, parse_pairs, printable, require_writable, write_json

# --- track ---------------------------------------------------------------------------------------------------------


def add_track(verbs: Any) -> None:
    """Declare `tercel track DETECTIONS`."""
    parser = add_verb(
        verbs,
        "track",
        _track,
        "Track the detections of MOTChallenge and KITTI files, and account for each of them.",
        "  tercel track MOT15/train -o out/tercel --report out/tercel.html\n"
        "  tercel track MOT15/train/TUD-Campus --tracker sort --set max_age_frames=3 -o out/sort --json sort.json\n"
        "  tercel track my_detections.txt --rate-hz 25 -o out/mine --video out/mine.webm\n"
        "  tercel track KITTI/det3d_pointrcnn --tracker ab3dmot --poses KITTI/training --classes Car -o out/kitti\n"
        "formats, seen from the files or forced by --format; any file may be gzipped:\n"
        "  mot      frame,id,x,y,width,height,score,...    (MOTChallenge; seqinfo.ini or --rate-hz tells the rate)\n"
        "  kitti    frame id class truncated occluded alpha x1 y1 x2 y2 h w l x y z ry [score]    (labels, results)\n"
        "  kitti2d  frame,x1,y1,x2,y2,score    (RRC; one class for each file, named by its folder or by --classes)\n"
        "  kitti3d  frame,type,x1,y1,x2,y2,score,h,w,l,x,y,z,ry,alpha    (PointRCNN)\n",
    )
    parser.add_argument("detections", type=Path, help="a file, a sequence's folder or a folder of either")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="gets SEQUENCE.txt of each")
    parser.add_argument(
        "--tracker",
        metavar="NAME",
        help="tercel, sort, bytetrack or ocsort; in space tercel3d or ab3dmot (default: tercel or tercel3d)",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the tracker")
    parser.add_argument(
        "--format", metavar="NAME", help="mot, kitti, kitti2d or kitti3d (default: seen from the files)"
    )
    parser.add_argument("--rate-hz", type=float, metavar="HZ", help="frames a second (default: seqinfo.ini; KITTI 10)")
    parser.add_argument(
        "--classes", type=_names, default=[], metavar="A,B", help="default: all; each is tracked by itself"
    )
    parser.add_argument("--sequences", type=_names, default=[], metavar="A,B", help="default: all")
    parser.add_argument(
        "--poses", type=Path, metavar="DIR", help="KITTI's folder with oxts and calib: the camera's way"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE.html", help="tracks as moving pictures, timelines, account"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="the sequences' images, for report and video")
    parser.add_argument("--follow-images", action="store_true", help="read the camera's motion off the images (tercel)")
    parser.add_argument("--video", type=Path, metavar="FILE.webm", help="one sequence's tracks as a video (or .mp4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the account here")


def _track(args: argparse.Namespace) -> int:
    from tercel.report.tracking_run import TrackOptions, run_tracking

    options = TrackOptions(
        detections=args.detections,
        out=args.output,
        tracker=args.tracker,
        kind=args.format,
        rate_hz=args.rate_hz,
        settings=parse_pairs(args.set, "=", "--set"),
        classes=args.classes,
        sequences=args.sequences,
        poses=args.poses,
        images=args.images,
        follow_images=args.follow_images,
        report=args.report,
        video=args.video,
        json=args.json,
        command=_command(args),
    )
    problems: list[str] = []
    progress = Progress("track")
    try:
        run = run_tracking(options, problems, progress)
    finally:
        progress.done()
        for problem in problems:
            print(f"skipped: {printable(problem)}", file=sys.stderr)
    if args.json:
        write_json(args.json, run.summary())
    print(run.table())
    print(f"tracks: {printable(str(args.output))}")
    for path in _pictures(run):
        print(printable(f"{path.suffix.strip('.')}: {path}"))
    return 0 if run.total.used else 1


def _pictures(run: Any) -> list[Path]:
    """Write the report and the video that were asked for; returns their files."""
    options, written = run.options, []
    if options.report is not None:
        from tercel.report.track_report import write_track_report

        write_track_report(options.report, run)
        written.append(options.report)
    if options.video is not None:
        from tercel.report.track_video import write_video

        progress = Progress("video")
        try:
            name, tracked = next(iter(run.tracked.items()))
            write_video(options.video, tracked, run.images.get(name, {}), progress)
        finally:
            progress.done()
        written.append(options.video)
    return written


def _command(args: argparse.Namespace) -> str:
    """The command that makes these tracks again, without the folders that differ from machine to machine."""
    words = ["tercel", "track", args.detections.resolve().name]
    words += ["--tracker", args.tracker] if args.tracker else []
    words += [word for setting in args.set for word in ("--set", setting)]
    words += ["--format", args.format] if args.format else []
    words += ["--rate-hz", f"{args.rate_hz:g}"] if args.rate_hz else []
    words += ["--classes", ",".join(args.classes)] if args.classes else []
    words += ["--sequences", ",".join(args.sequences)] if args.sequences else []
    words += ["--poses", args.poses.name] if args.poses else []
    words += ["--images", args.images.name, "--follow-images"] if args.images and args.follow_images else []
    return shlex.join([*words, "-o", args.output.name])


# --- evaluate ------------------------------------------------------------------------------------------------------


def add_evaluate_tracking(whats: Any) -> None:
    """Declare `tercel evaluate tracking`."""
    parser = add_verb(
        whats,
        "tracking",
        _evaluate_tracking,
        "Hold tracks against truth: HOTA, CLEAR MOT and identity, as TrackEval counts them.",
        "  tercel evaluate tracking --truth MOT15/train --tracks out/sort --json scores.json\n"
        "  tercel evaluate tracking --truth KITTI/tracking/training --tracks out/kitti --classes car\n"
        "  tercel evaluate tracking --truth KITTI/tracking/training --tracks out/kitti --metric 3d --min-iou 0.5\n",
    )
    parser.add_argument(
        "--truth", type=Path, required=True, metavar="DIR", help="SEQUENCE/gt/gt.txt (MOTChallenge) or label_02 (KITTI)"
    )
    parser.add_argument("--tracks", type=Path, required=True, metavar="DIR", help="one SEQUENCE.txt for each sequence")
    parser.add_argument("--format", metavar="NAME", help="mot15, mot17, mot20 or kitti (default: seen from the truth)")
    parser.add_argument("--classes", type=_names, default=[], metavar="A,B", help="default: those that the tracks have")
    parser.add_argument("--sequences", type=_names, default=[], metavar="A,B", help="default: all that have truth")
    parser.add_argument(
        "--metric", choices=("2d", "3d"), default="2d", help="image boxes, or KITTI's boxes in space (sAMOTA)"
    )
    parser.add_argument(
        "--min-iou", type=float, default=0.25, metavar="IOU", help="3d: overlap from which on a box is found (0.25)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _evaluate_tracking(args: argparse.Namespace) -> int:
    from tercel.report.tracking_scores import text_report
    from tracking.evaluation.folders import check_min_iou, evaluate_folders, evaluate_folders_3d, read_folders

    check_min_iou(args.min_iou)
    if args.json:
        require_writable(args.json)
    problems: list[str] = []
    progress = Progress("evaluate")
    try:
        folders = read_folders(
            args.truth, args.tracks, format_name=args.format, sequences=args.sequences, problems=problems
        )
        scores = (
            evaluate_folders_3d(folders, classes=args.classes, min_iou=args.min_iou, progress=progress)
            if args.metric == "3d"
            else evaluate_folders(folders, classes=args.classes, progress=progress)
        )
    finally:
        progress.done()
        for problem in problems:
            print(f"skipped: {printable(problem)}", file=sys.stderr)
    if args.json:
        write_json(args.json, scores.summary() | {"problems": problems})
    print(text_report(scores))
    return 0
