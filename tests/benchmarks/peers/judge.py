"""TrackEval's numbers for folders of tracks, to hold our evaluator against. Belongs to the peers' environment.

python judge.py TRUTH TRACKS --trackers TRACKER ... --frames NAME=COUNT ...

TRUTH/NAME/gt/gt.txt and TRACKS/TRACKER/NAME.txt are MOTChallenge files. Printed is JSON: of each tracker, the measures
of all sequences together, ratios as fractions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import trackeval


def judge(truth: Path, tracks: Path, trackers: list[str], frames: dict[str, int]) -> dict[str, dict[str, float]]:
    """HOTA, CLEAR and identity of some folders under tracks."""
    quiet = {"PRINT_CONFIG": False}
    dataset = trackeval.datasets.MotChallenge2DBox(
        {
            **quiet, "BENCHMARK": "MOT15", "GT_FOLDER": str(truth), "TRACKERS_FOLDER": str(tracks),
            "TRACKERS_TO_EVAL": trackers, "TRACKER_SUB_FOLDER": "", "SKIP_SPLIT_FOL": True, "SEQ_INFO": frames,
        }
    )  # fmt: skip
    evaluator = trackeval.Evaluator(
        {
            **quiet, "PRINT_RESULTS": False, "OUTPUT_SUMMARY": False, "OUTPUT_DETAILED": False, "PLOT_CURVES": False,
            "TIME_PROGRESS": False, "DISPLAY_LESS_PROGRESS": True, "BREAK_ON_ERROR": True, "LOG_ON_ERROR": None,
        }
    )  # fmt: skip
    metrics = [trackeval.metrics.HOTA(), trackeval.metrics.CLEAR(quiet), trackeval.metrics.Identity(quiet)]
    results, _ = evaluator.evaluate([dataset], metrics)
    answer = {}
    for tracker in trackers:
        parts: dict[str, Any] = results["MotChallenge2DBox"][tracker]["COMBINED_SEQ"]["pedestrian"]
        answer[tracker] = {
            key: float(np.mean(value)) for part in ("HOTA", "CLEAR", "Identity") for key, value in parts[part].items()
        }
    return answer


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=Path)
    parser.add_argument("tracks", type=Path)
    parser.add_argument("--trackers", nargs="+", required=True)
    parser.add_argument("--frames", nargs="+", required=True, metavar="NAME=COUNT")
    options = parser.parse_args()
    frames = {name: int(count) for name, count in (item.rsplit("=", 1) for item in options.frames)}
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        answer = judge(options.truth, options.tracks, options.trackers, frames)
    json.dump(answer, answers)


if __name__ == "__main__":
    main()
