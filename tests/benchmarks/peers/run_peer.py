"""Runs a tracker of others over recorded detections, on one thread, and times its own update calls and nothing else.

Belongs to the peers' environment (make .venv-peers/stamp), not to ours: no module of ours is imported.

python run_peer.py --peer "filterpy SORT" --detections FILE.npz --results DIR [--set max_age=3 ...] [--limit-s 20]
python run_peer.py --serve     # requests as JSON lines on stdin, answers on stdout: the start is paid once

FILE.npz holds of each sequence NAME: NAME/frames (N,) int, counted from 1, ascending; NAME/boxes (N, 4) x1 y1 x2 y2;
NAME/scores (N,); NAME/shape (3,): frames, width and height in px; NAME/rate_hz (1,). Written are MOTChallenge files
DIR/NAME.txt. The answer has the frames done and the CPU seconds they took, of all threads: on a shared machine the wall
clock also measures the others. Detections are put into the form that the peer wants, and its answers read, while the
clock stands.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is loaded

import argparse  # noqa: E402
import contextlib  # noqa: E402
import gc  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import types  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402
from unittest import mock  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Sequence:
    """The detections of one sequence; boxes and scores of frame i + 1 at index i."""

    name: str
    boxes: list[Array]
    scores: list[Array]
    width_px: int
    height_px: int
    rate_hz: float


@dataclass(frozen=True)
class Adapter:
    """A fresh tracker: `update` alone is timed, of what `prepare` makes; `read` gives ids (M,) and boxes (M, 4)."""

    prepare: Callable[[int, Array, Array], Any]  # of frame, boxes (N, 4) and scores (N,)
    update: Callable[[Any], Any]
    read: Callable[[Any], tuple[Array, Array]]


def filterpy_sort(sequence: Sequence, **settings: Any) -> Adapter:
    """SORT with filterpy's filters. min_score: detections below are not given to it, as its users do."""
    from filterpy_sort import FilterpySort

    min_score = settings.pop("min_score", 0.0)
    tracker = FilterpySort(**settings)
    return Adapter(
        lambda frame, boxes, scores: boxes[scores >= min_score], tracker.update, lambda rows: (rows[:, 4], rows[:, :4])
    )


def sort_authors(sequence: Sequence, *, path: str, **settings: Any) -> Adapter:
    """SORT by its authors' own program, of which path names a copy; what it imports to draw is left out."""
    import filterpy.kalman  # noqa: F401  (before matplotlib is hidden)

    drawing = ("matplotlib", "matplotlib.pyplot", "matplotlib.patches", "skimage")
    spec = importlib.util.spec_from_file_location("sort_authors", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in drawing}):
        spec.loader.exec_module(module)
    tracker = module.Sort(**settings)
    return Adapter(
        lambda frame, boxes, scores: np.column_stack([boxes, scores]),
        tracker.update,
        lambda rows: (rows[:, 4], rows[:, :4]),
    )


def roboflow(name: str) -> Callable[..., Adapter]:
    """A tracker of the package `trackers`. It is told the frame rate."""

    def make(sequence: Sequence, **settings: Any) -> Adapter:
        import supervision
        import trackers

        tracker = getattr(trackers, name)(frame_rate=sequence.rate_hz, **settings)

        def prepare(frame: int, boxes: Array, scores: Array) -> Any:
            return supervision.Detections(xyxy=boxes, confidence=scores, class_id=np.zeros(len(boxes), dtype=int))

        def read(found: Any) -> tuple[Array, Array]:
            known = found.tracker_id >= 0
            return found.tracker_id[known], found.xyxy[known]

        return Adapter(prepare, tracker.update, read)

    return make


def norfair(sequence: Sequence, **settings: Any) -> Adapter:
    """Norfair on boxes by IoU. It returns objects that were not seen too; matched_only leaves them out."""
    from norfair import Detection, Tracker

    matched_only, min_score = settings.pop("matched_only", False), settings.pop("min_score", 0.0)
    tracker = Tracker(distance_function="iou", **settings)
    now = 0

    def prepare(frame: int, boxes: Array, scores: Array) -> Any:
        nonlocal now
        now = frame
        return [
            Detection(points=box.reshape(2, 2), scores=np.full(2, score), data=frame)
            for box, score in zip(boxes, scores, strict=True)
            if score >= min_score
        ]

    def read(objects: Any) -> tuple[Array, Array]:
        shown = [item for item in objects if not matched_only or item.last_detection.data == now]
        ids = np.array([item.id for item in shown], dtype=int)
        return ids, np.array([item.estimate.reshape(4) for item in shown]).reshape(-1, 4)

    return Adapter(prepare, tracker.update, read)


def boxmot(name: str) -> Callable[..., Adapter]:
    """A tracker of boxmot that works on boxes alone. Their float32 rows are x1 y1 x2 y2 score class."""

    def make(sequence: Sequence, **settings: Any) -> Adapter:
        _without_torch()
        import boxmot

        tracker = getattr(boxmot, name)(**settings)
        image = np.zeros((sequence.height_px, sequence.width_px, 3), dtype=np.uint8)  # its size is looked at

        def prepare(frame: int, boxes: Array, scores: Array) -> Array:
            return np.column_stack([boxes, scores, np.zeros(len(boxes))]).astype(np.float32)

        def read(rows: Array) -> tuple[Array, Array]:
            rows = np.asarray(rows).reshape(-1, 8)
            return rows[:, 4].astype(int), rows[:, :4]

        return Adapter(prepare, lambda rows: tracker.update(rows, image), read)

    return make


def _without_torch() -> None:
    """Stands in for two modules that boxmot imports, and its trackers of boxes never use: torch to tell its tensors
    from arrays, gdown to fetch weights."""
    for name in ("torch", "gdown"):
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
    sys.modules["torch"].__dict__.setdefault("Tensor", type("Tensor", (), {}))


PEERS: dict[str, Callable[..., Adapter]] = {
    "filterpy SORT": filterpy_sort,
    "SORT, authors'": sort_authors,
    "roboflow SORT": roboflow("SORTTracker"),
    "roboflow ByteTrack": roboflow("ByteTrackTracker"),
    "roboflow OC-SORT": roboflow("OCSORTTracker"),
    "roboflow C-BIoU": roboflow("CBIoUTracker"),
    "norfair": norfair,
    "boxmot ByteTrack": boxmot("ByteTrack"),
    "boxmot OC-SORT": boxmot("OcSort"),
    "boxmot SFSORT": boxmot("SFSORT"),
}


def read_sequences(path: Path) -> Iterator[Sequence]:
    """The sequences of a file of detections."""
    with np.load(path, allow_pickle=False) as file:
        names = sorted({key.split("/")[0] for key in file.files})
        for name in names:
            frames, shape = file[f"{name}/frames"], file[f"{name}/shape"]
            splits = np.searchsorted(frames, np.arange(2, shape[0] + 1))
            yield Sequence(
                name=name,
                boxes=np.split(file[f"{name}/boxes"], splits),
                scores=np.split(file[f"{name}/scores"], splits),
                width_px=int(shape[1]),
                height_px=int(shape[2]),
                rate_hz=float(file[f"{name}/rate_hz"][0]),
            )


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Track all sequences: {peer, settings, detections, results, limit_s} to {frames, seconds, finished}.

    After limit_s seconds of update calls the rest is left out, and no results are written.
    """
    make, settings = PEERS[request["peer"]], request.get("settings", {})
    limit_s, frames, seconds = request.get("limit_s", np.inf), 0, 0.0
    for sequence in read_sequences(Path(request["detections"])):
        adapter = make(sequence, **settings)
        lines: list[str] = []
        gc.collect()
        for frame, (boxes, scores) in enumerate(zip(sequence.boxes, sequence.scores, strict=True), 1):
            prepared = adapter.prepare(frame, boxes, scores)
            start = time.process_time()
            output = adapter.update(prepared)
            seconds += time.process_time() - start
            frames += 1
            lines += mot_lines(frame, *adapter.read(output))
            if seconds > limit_s:
                return {"frames": frames, "seconds": seconds, "finished": False}
        path = Path(request["results"]) / f"{sequence.name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))
    return {"frames": frames, "seconds": seconds, "finished": True}


def mot_lines(frame: int, ids: Array, boxes: Array) -> list[str]:
    """Lines of a MOTChallenge result file."""
    corners, sizes = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    rows = zip(ids.tolist(), corners.tolist(), sizes.tolist(), strict=True)
    return [f"{frame},{int(i)},{x:.3f},{y:.3f},{w:.3f},{h:.3f},1,-1,-1,-1\n" for i, (x, y), (w, h) in rows]


def serve() -> None:
    """Answer requests until stdin ends. What a peer prints goes to stderr."""
    import cv2

    cv2.setNumThreads(1)
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            try:
                answer = run(json.loads(line))
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--peer", choices=PEERS)
    parser.add_argument("--detections", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--limit-s", type=float, default=float("inf"))
    options = parser.parse_args()
    if options.serve:
        return serve()
    if not (options.peer and options.detections and options.results):
        parser.error("--peer, --detections and --results are wanted")
    settings = {key: json.loads(value) for key, value in (item.split("=", 1) for item in options.settings)}
    print(json.dumps(run({**vars(options), "settings": settings})))
    return None


if __name__ == "__main__":
    main()
