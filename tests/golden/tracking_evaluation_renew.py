"""Renew tracking_evaluation.json: TrackEval's numbers for the seeded sequences of tracking_scenes.py.

In an environment of its own (TrackEval wants scipy and more): pip install trackeval==1.3.0, then
python tests/golden/tracking_evaluation_renew.py
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import trackeval

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.golden import tracking_scenes  # noqa: E402

GOLDEN = Path(__file__).with_name("tracking_evaluation.json")
QUIET = dict.fromkeys(("PRINT_RESULTS", "PRINT_CONFIG", "TIME_PROGRESS", "OUTPUT_SUMMARY", "OUTPUT_DETAILED"), False)


def main() -> None:
    """Write the file."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("mot15", "mot17", "mot20", "kitti"):
            root = Path(folder) / name
            if name == "kitti":
                tracking_scenes.write_kitti(root)
            else:
                tracking_scenes.write_mot(root, classes=name != "mot15")
            for case, numbers in scored(dataset(name, root)).items():
                lines.append(f'"{name}/{case}": {json.dumps(numbers, sort_keys=True)}')
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def dataset(name: str, root: Path) -> Any:
    """TrackEval's reader and preprocessing for one format."""
    settings = {
        "GT_FOLDER": str(root / "truth"), "TRACKERS_FOLDER": str(root / "tracks"), "TRACKERS_TO_EVAL": ["."],
        "TRACKER_SUB_FOLDER": "", "PRINT_CONFIG": False,
    }  # fmt: skip
    if name == "kitti":
        return trackeval.datasets.Kitti2DBox(settings)
    lengths = dict.fromkeys(tracking_scenes.MOT_SEQUENCES)
    more = {"BENCHMARK": name.upper(), "SKIP_SPLIT_FOL": True, "SEQ_INFO": lengths}
    return trackeval.datasets.MotChallenge2DBox(settings | more)


def scored(data: Any) -> dict[str, dict[str, Any]]:
    """By "class/sequence": TrackEval's numbers by their names; HOTA's are lists over the thresholds."""
    metrics = [trackeval.metrics.HOTA(), *(getattr(trackeval.metrics, m)({"PRINT_CONFIG": False}) for m in METRICS)]
    evaluator = trackeval.Evaluator(QUIET | {"PLOT_CURVES": False, "LOG_ON_ERROR": None})
    with contextlib.redirect_stdout(io.StringIO()):
        output, _ = evaluator.evaluate([data], metrics)
    ((sequences,),) = (list(trackers.values()) for trackers in output.values())
    return {
        f"{class_name}/{sequence}": {key: rounded(value) for part in parts.values() for key, value in part.items()}
        for sequence, classes in sequences.items()
        for class_name, parts in classes.items()
    }


def rounded(value: Any) -> Any:
    """Twelve digits, as Python's own numbers."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    return [round(v, 12) for v in plain] if isinstance(plain, list) else round(plain, 12)


METRICS = ("CLEAR", "Identity")

if __name__ == "__main__":
    main()
