"""Trackers side by side on the same detections: ours in this process, peers in one of their own environment."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.peers.streams import Stream
from tracking.evaluation.preprocessing import mot_overlaps
from tracking.evaluation.scores import Scores, score
from tracking.files import BoxSequence, detections_2d, from_tracks_2d, read_mot, write_mot
from tracking.presets import make_tracker_2d

HERE = Path(__file__).resolve().parent


@dataclass(eq=False)
class Entry:
    """One tracker with one setting on one set of data, and what was measured of it."""

    tracker: str
    setting: str
    settings: dict[str, Any]
    ours: bool
    runs_s: list[float] = field(default_factory=list)
    frames: int = 0
    scores: dict[str, Scores] = field(default_factory=dict)  # by sequence; empty where it did not finish in time
    problem: str = ""

    @property
    def name(self) -> str:
        return f"{self.tracker} ({self.setting})"

    @property
    def frames_per_s(self) -> float:
        """Of the median run; 0 where it failed."""
        return self.frames / median(self.runs_s) if self.runs_s else 0.0

    def total(self, sequences: Collection[str] = ()) -> Scores:
        """The scores of some of the sequences, or of all, together."""
        return sum((self.scores[name] for name in sequences or self.scores), Scores())

    def measure(self, key: str, sequences: Collection[str] = ()) -> float:
        """A ratio in percent, or a count, over some of the sequences or all; nan without scores."""
        if not self.scores:
            return math.nan
        value = self.total(sequences).summary()[key]
        return 100.0 * value if isinstance(value, float) else float(value)


class Worker:
    """run_peer.py in the peers' environment, answering one request after another."""

    def __init__(self, python: Path) -> None:
        command: list[str | Path] = [python, "-W", "ignore", HERE / "run_peer.py", "--serve"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its answer; {"error": ...} where the peer failed."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        try:
            requests.write(json.dumps(request) + "\n")
            requests.flush()
        except BrokenPipeError:
            pass
        line = answers.readline()
        return json.loads(line) if line else {"error": "the peers' process ended"}

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


@dataclass(eq=False)
class Contest:
    """One set of data, its files under `folder`, and the peers' process, if there is one."""

    name: str
    streams: Sequence[Stream]
    folder: Path
    worker: Worker | None
    limit_s: float = 60.0

    @property
    def detections(self) -> Path:
        return self.folder / "detections.npz"

    def tracks_of(self, entry: Entry) -> Path:
        """The folder of an entry's result files."""
        return self.folder / "tracks" / entry.name

    def run(self, entry: Entry) -> None:
        """Once more over all the data; the first time, with scores."""
        answer = self._run_ours(entry) if entry.ours else self._ask_peer(entry)
        if "error" in answer:
            entry.problem = answer["error"]
            return
        entry.frames = answer["frames"]
        entry.runs_s.append(answer["seconds"])
        if not answer["finished"]:
            entry.problem = f"stopped after {self.limit_s:.0f} s"
        elif not entry.scores:
            entry.scores = self.score(entry)

    def _ask_peer(self, entry: Entry) -> dict[str, Any]:
        if self.worker is None:
            return {"error": "no environment"}
        return self.worker.ask(
            {
                "peer": entry.tracker, "settings": entry.settings, "detections": str(self.detections),
                "results": str(self.tracks_of(entry)), "limit_s": self.limit_s,
            }
        )  # fmt: skip

    def _run_ours(self, entry: Entry) -> dict[str, Any]:
        """As run_peer.py does: only the step is timed, messages are made before and read after."""
        seconds = 0.0
        for stream in self.streams:
            tracker = make_tracker_2d(entry.tracker, frame_period_s=1.0 / stream.rate_hz, **entry.settings)
            outputs: list[Any] = []
            gc.collect()
            for message in detections_2d(stream.detections, stream.frames, stream.rate_hz):
                start = time.process_time()
                output = tracker.step(message)
                seconds += time.process_time() - start
                outputs.append(output["tracks"])
            write_mot(self.tracks_of(entry) / f"{stream.name}.txt", from_tracks_2d(stream.frames, outputs))
        return {"frames": sum(stream.length for stream in self.streams), "seconds": seconds, "finished": True}

    def score(self, entry: Entry) -> dict[str, Scores]:
        """Ours and theirs by the same files and the same evaluator."""
        folder = self.tracks_of(entry)
        return {
            stream.name: score(mot_overlaps(stream.truth, read_tracks(folder / f"{stream.name}.txt"), stream.frames))
            for stream in self.streams
        }


def read_tracks(path: Path) -> BoxSequence:
    """The tracks of a result file, which may be empty."""
    if path.stat().st_size:
        return read_mot(path, [])
    return from_tracks_2d([], [])


def judged(python: Path, contest: Contest, entries: Sequence[Entry]) -> dict[str, dict[str, float]]:
    """TrackEval's measures of these entries, by name; empty where it cannot be asked."""
    truth = contest.folder / "truth"
    for stream in contest.streams:
        write_mot(truth / stream.name / "gt" / "gt.txt", stream.truth)
    lengths = [f"{stream.name}={stream.length}" for stream in contest.streams]
    names = [entry.name for entry in entries]
    command: list[str | Path] = [python, "-W", "ignore", HERE / "judge.py", truth, contest.folder / "tracks"]
    command += ["--trackers", *names, "--frames", *lengths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}  # it greets, too
