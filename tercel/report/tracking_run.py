"""Tracking of files from end to end: find, read, track, write, account. What `tercel track` calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tercel
from tercel.core.errors import UserError
from tercel.report.tracking_account import Account, account_of, text_table
from tercel.report.tracking_camera import FOLLOWING, Sight
from tercel.report.tracking_input import Source, check_classes, find_sources, load
from tercel.report.tracking_space import read_poses
from tercel.report.tracking_steps import (
    TRACKERS_3D,
    Tracked,
    check_settings,
    in_space,
    settings_of,
    stepped_frames,
    track,
)
from tercel.terminal import printable, require_writable
from tracking.files import write_kitti, write_mot
from tracking.presets import TRACKERS_2D

Progress = Callable[[float], None]


@dataclass(frozen=True)
class TrackOptions:
    """What the user asked for. tracker None: our own, in space where the detections are. settings: as written."""

    detections: Path
    out: Path
    tracker: str | None = None
    kind: str | None = None
    rate_hz: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    classes: Sequence[str] = ()
    sequences: Sequence[str] = ()
    poses: Path | None = None
    images: Path | None = None
    follow_images: bool = False
    report: Path | None = None
    video: Path | None = None
    json: Path | None = None
    command: str = ""


@dataclass(frozen=True, eq=False)
class TrackRun:
    """What was done. images: the files of each sequence by frame, of those that have some. tracked: the sequences, only
    where a report or a video wants them. notes: a line each.
    """

    options: TrackOptions
    tracker: str
    settings: dict[str, Any]
    images: dict[str, dict[int, Path]]
    accounts: dict[str, Account]
    tracked: dict[str, Tracked]
    notes: list[str]
    problems: list[str]

    @property
    def total(self) -> Account:
        """All sequences together."""
        return sum(self.accounts.values(), Account())

    def summary(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "tercel": tercel.__version__,
            "command": self.options.command,
            "tracker": self.tracker,
            "settings": self.settings,
            "all": self.total.summary(),
            "sequences": {name: account.summary() for name, account in self.accounts.items()},
            "notes": self.notes,
            "problems": self.problems,
        }

    def table(self) -> str:
        """For a terminal."""
        return "\n".join([text_table(self.accounts), *(f"note: {printable(note)}" for note in self.notes)])


def run_tracking(options: TrackOptions, problems: list[str], progress: Progress = lambda _fraction: None) -> TrackRun:
    """Track every sequence and write OUT/SEQUENCE.txt, in the format of the detections.

    Lines that cannot be read are appended to problems. Raises UserError for anything that the user can mend; before
    the first file is written for all that can be known by then.
    """
    sources = find_sources(
        options.detections,
        kind=options.kind,
        rate_hz=options.rate_hz,
        sequences=options.sequences,
        classes=options.classes,
    )
    check_classes(sources, options.classes)
    tracker = options.tracker or ("tercel3d" if all(source.kind == "kitti3d" for source in sources) else "tercel")
    settings = settings_of(tracker, options.settings)
    for source in sources:
        check_settings(tracker, settings, source)
    notes = _check(options, sources, tracker)
    run = TrackRun(options, tracker, settings, _find_images(options, sources), {}, {}, notes, problems)
    keep = options.report is not None or options.video is not None
    for index, source in enumerate(sources):
        tracked = _track_one(run, source, _part(progress, index, len(sources)))
        _write(options.out, tracked)
        run.accounts[source.name] = account_of(tracked)
        if keep:
            run.tracked[source.name] = tracked
    return run


def _part(progress: Progress, index: int, count: int) -> Progress:
    """The progress of one of several sequences as that of them all."""
    return lambda share: progress((index + min(share, 1.0)) / count)


def _track_one(run: TrackRun, source: Source, progress: Progress) -> Tracked:
    options = run.options
    loaded = load(source, options.classes, run.problems)
    run.notes.extend(loaded.notes)
    steps = max(1, len(stepped_frames(loaded, run.settings)))
    sight = _sight(run, source)
    tracked = track(run.tracker, run.settings, loaded, sight, lambda frames: progress(frames / steps))
    if source.kind == "mot" and len(np.unique(tracked.tracks.labels)) > 1:
        run.notes.append(f"{source.name}: MOTChallenge's results name no class; each track has one all the same")
    if len(loaded.boxes) and not len(tracked.tracks):
        slow = (
            f"at {source.rate_hz:g} Hz a track must outlive {1.0 / source.rate_hz:.2g} s: --set max_tentative_age_s=..."
        )
        run.notes.append(f"{source.name}: no track was confirmed; {slow}")
    if tracked.unmoved > 1:  # in the first frame it is never known
        run.notes.append(f"{source.name}: the camera's motion is not known in {tracked.unmoved} of {steps} frames")
    return tracked


def _sight(run: TrackRun, source: Source) -> Sight:
    """What the options tell of the camera of one sequence."""
    options = run.options
    if options.poses is not None:
        poses, intrinsics = read_poses(options.poses, source.name, run.problems)
        return Sight(poses, intrinsics)
    return Sight(images=run.images.get(source.name, {}) if options.follow_images else None)


def _write(out: Path, tracked: Tracked) -> None:
    """Whole or not at all, so that what an interrupted run has left is sound."""
    source = tracked.loaded.source
    path, partial = out / f"{source.name}.txt", out / f"{source.name}.txt.partial"
    try:
        (write_mot if source.kind == "mot" else write_kitti)(partial, tracked.tracks)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check(options: TrackOptions, sources: Sequence[Source], tracker: str) -> list[str]:
    """Raises UserError for options that do not go together; returns what people should know."""
    kinds = sorted({source.kind for source in sources})
    if in_space(tracker) and not set(kinds) <= {"kitti", "kitti3d"}:
        raise UserError(
            f"{tracker} tracks boxes in space, {kinds[0]} has none; say --tracker {' or '.join(TRACKERS_2D)}"
        )
    if options.poses is not None and not (in_space(tracker) or tracker == FOLLOWING):
        raise UserError(f"--poses is for {', '.join([FOLLOWING, *TRACKERS_3D])}, not for {tracker}")
    if options.follow_images and (tracker != FOLLOWING or options.images is None or options.poses is not None):
        raise UserError(f"--follow-images is for {FOLLOWING}, with --images and without --poses")
    if options.poses is not None and not options.poses.is_dir():
        raise UserError(f"--poses {options.poses} is no folder; KITTI's with oxts and calib in it is wanted")
    if options.video is not None and len(sources) > 1:
        raise UserError(f"--video shows one sequence, not {len(sources)}; say --sequences {sources[0].name}")
    if options.video is not None:
        from tercel.report.track_video import check_video  # OpenCV takes a while to load

        check_video(options.video)
    _check_overwriting(options, sources)
    notes = []
    if tracker == "tercel3d" and kinds == ["kitti3d"]:
        notes.append("the settings are those for PointRCNN's scores, by class; --set overrides them")
    if in_space(tracker) and options.poses is None:
        notes.append("no --poses: the camera's frame is taken for the world, as if it stood still")
    ours = {f"{source.name}.txt" for source in sources}
    others = sorted(path.name for path in options.out.glob("*.txt") if path.name not in ours)
    if others:
        notes.append(f"{options.out} holds other files too, {others[0]} among them: they are not of this run")
    return notes


def _find_images(options: TrackOptions, sources: Sequence[Source]) -> dict[str, dict[int, Path]]:
    """The images of each sequence. Raises UserError if --images has not one of them, or nobody looks at it."""
    folder = options.images
    if folder is None:
        return {}
    from tercel.report.track_images import find_images

    if options.report is None and options.video is None and not options.follow_images:
        raise UserError("--images is for --report, --video and --follow-images; say one of them")
    found = {source.name: find_images(folder, source.name, alone=len(sources) == 1) for source in sources}
    if not any(found.values()):
        name = sources[0].name
        raise UserError(f"--images {folder} has no images of {name}; {name}/img1/000001.jpg and so on is wanted")
    return {name: images for name, images in found.items() if images}


def _check_overwriting(options: TrackOptions, sources: Sequence[Source]) -> None:
    """Raises UserError if an output is an input, the same as another output or not to be written, or OUT no folder."""
    if options.out.exists() and not options.out.is_dir():
        raise UserError(
            f"-o {options.out} is a file; a folder is wanted, which gets one SEQUENCE.txt for each sequence"
        )
    inputs = {file.resolve() for source in sources for _, file in source.files}
    outputs = [options.out / f"{source.name}.txt" for source in sources]
    outputs += [path for path in (options.json, options.report, options.video) if path is not None]
    for path in outputs:
        if path.resolve() in inputs or any(path.exists() and path.samefile(file) for file in inputs):
            raise UserError(f"{path} would be written over the detections; name another place")
    folder = next((path for path in outputs if path.is_dir()), None)
    if folder is not None:
        raise UserError(f"{folder} is a folder; the name of a file is wanted")
    for path in outputs:
        require_writable(path)
    resolved = [path.resolve() for path in outputs]
    twice = next((path for path in outputs if resolved.count(path.resolve()) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is named for two outputs")
