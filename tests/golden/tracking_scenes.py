"""Small seeded sequences in the benchmarks' own file formats, with all that their evaluation treats specially.

Frames without truth or without tracks, identities that break, swap and come back, boxes reported twice (so that two
assignments are equally good), sequences without tracks or without truth, truth that is flagged, hidden or of a similar
class, small boxes and regions that were not labelled. tracking_evaluation_renew.py has TrackEval score them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FRAMES = 40
OBJECTS = 7
MOT_SEQUENCES = ("busy", "doubled", "trackless", "truthless")
KITTI_SEQUENCES = ("0000", "0001", "0002")


def walk(seed: int, grid_px: float) -> tuple[Array, Array]:
    """Truth and tracks: frame from 0, id, x, y, width, height. Both are rounded to grid_px; each id once in a frame."""
    rng = np.random.default_rng(seed)
    start, velocity = 250.0 * rng.random((OBJECTS, 2)), 8.0 * rng.random((OBJECTS, 2)) - 4.0
    sizes = 20.0 + 50.0 * rng.random((OBJECTS, 2))
    names = np.arange(OBJECTS) + 1
    truth, tracks = [], []
    for frame in range(FRAMES):
        boxes = np.hstack([start + frame * velocity, sizes])
        seen = rng.random(OBJECTS) < 0.9
        truth += [(frame, thing + 1, *boxes[thing]) for thing in np.flatnonzero(seen) if frame % 13 != 5]
        if rng.random() < 0.3:
            a, b = (OBJECTS * rng.random(2)).astype(int)
            names[[a, b]] = names[[b, a]]
        if rng.random() < 0.3:
            names[int(OBJECTS * rng.random())] = names.max() + 1
        noisy = boxes + 14.0 * rng.random((OBJECTS, 4)) - 7.0
        found = rng.random(OBJECTS) < 0.8
        tracks += [(frame, names[thing], *noisy[thing]) for thing in np.flatnonzero(found) if frame % 11 != 7]
        twice = rng.random(OBJECTS) < 0.2
        tracks += [(frame, 500 + thing, *noisy[thing]) for thing in np.flatnonzero(found & twice) if frame % 11 != 7]
        tracks.append((frame, 900 + frame // 4, *(250.0 * rng.random(2)), *(20.0 + 60.0 * rng.random(2))))
    return tuple(  # type: ignore[return-value]
        np.column_stack([rows[:, :2], np.round(rows[:, 2:] / grid_px) * grid_px])
        for rows in (np.array(truth), np.array(tracks)[np.argsort([row[0] for row in tracks], kind="stable")])
    )


def write_mot(root: Path, *, classes: bool) -> None:
    """root/truth/NAME/{gt/gt.txt,seqinfo.ini} and root/tracks/NAME.txt. classes: in the nine columns of MOT16."""
    for seed, name in enumerate(MOT_SEQUENCES):
        truth, tracks = walk(seed, 5.0 if name == "doubled" else 0.125)
        rng = np.random.default_rng(100 + seed)
        flags = (rng.random(len(truth)) < 0.85) & (name != "truthless")
        kinds = np.array([1, 1, 1, 1, 6, 7, 8])[truth[:, 1].astype(int) - 1]
        folder = root / "truth" / name
        tail = [f"{kind},0.5" if classes else "-1.5,16.25,0.5" for kind in kinds]
        _write(
            folder / "gt" / "gt.txt",
            [f"{_mot(row)},{int(flag)},{end}" for row, flag, end in zip(truth, flags, tail, strict=True)],
        )
        _write(
            folder / "seqinfo.ini",
            ["[Sequence]", f"name={name}", "frameRate=20", f"seqLength={FRAMES}", "imWidth=640", "imHeight=480"],
        )
        shown = tracks[:0] if name == "trackless" else tracks
        _write(root / "tracks" / f"{name}.txt", [f"{_mot(row)},1,-1,-1,-1" for row in shown])


def write_kitti(root: Path) -> None:
    """root/truth/label_02/NAME.txt with a seqmap beside label_02, and root/tracks/NAME.txt."""
    kinds = np.array(["Car", "Car", "Van", "Pedestrian", "Pedestrian", "Person", "Cyclist"])
    for seed, name in enumerate(KITTI_SEQUENCES):
        truth, tracks = walk(10 + seed, 5.0 if seed == 1 else 0.125)
        rng = np.random.default_rng(200 + seed)
        truncated, occluded = (rng.random(len(truth)) < 0.1).astype(int), (4.0 * rng.random(len(truth))).astype(int)
        lines = [
            _kitti(row, kinds[int(row[1]) - 1], f"{cut} {hidden} 0.5")
            for row, cut, hidden in zip(truth, truncated, occluded, strict=True)
        ]
        regions = [(frame, -1, *(250.0 * rng.random(2)), 80.0, 60.0) for frame in range(0, FRAMES, 2)]
        lines += [_kitti(np.array(row), "DontCare", "-1 -1 -10") for row in regions]
        _write(root / "truth" / "label_02" / f"{name}.txt", lines)
        shown = tracks[:0] if seed == 2 else tracks
        kind_of = np.array(["Car", "Pedestrian"])[(shown[:, 1].astype(int) % 5 > 2).astype(int)]
        rows = [f"{_kitti(row, kind, '-1 -1 -10')} 1" for row, kind in zip(shown, kind_of, strict=True)]
        _write(root / "tracks" / f"{name}.txt", rows)
    seqmap = [f"{name} empty 000000 {FRAMES:06}" for name in KITTI_SEQUENCES]
    _write(root / "truth" / "evaluate_tracking.seqmap.training", seqmap)


def _mot(row: Array) -> str:
    return f"{int(row[0]) + 1},{int(row[1])}," + ",".join(f"{value:.3f}" for value in row[2:])


def _kitti(row: Array, kind: str, state: str) -> str:
    corners = [*row[2:4], *(row[2:4] + row[4:6])]
    box = " ".join(f"{value:.3f}" for value in corners)
    return f"{int(row[0])} {int(row[1])} {kind} {state} {box} 1.5 1.6 4.2 1.0 1.7 20.0 0.1"


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
