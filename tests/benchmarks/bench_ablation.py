"""What each part of our image tracker is worth: HOTA, on halves, of the whole and of the whole without one part.

python tests/benchmarks/bench_ablation.py [--json FILE]

- mot15: public detections; settings were chosen on the half "tuned on".
- kitti: RRC cars and pedestrians, 21 sequences, default settings; nothing was tuned on them, but the row on the
  camera's motion is why that part is there. The rotation of the camera is from GPS and IMU.
- sdd: the drone's view; annotations with noise of 5 % of a box's scale, a tenth missing (seeded), 30 Hz. There are
  no published detections for it: these numbers are our own, and simulated in that part.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from forecast_data import HALVES, data_folder, world_T_lidar  # noqa: E402
from sampling_data import Stream, read_stream  # noqa: E402

from devices.sensors.recorded.kitti_calibration import read_single_file  # noqa: E402
from tests.benchmarks.peers.settings import MOT15_HALVES, OURS  # noqa: E402
from tracking.camera_motion import rotation_affine  # noqa: E402
from tracking.components import Tracker2D  # noqa: E402
from tracking.evaluation.scores import Scores  # noqa: E402
from tracking.files import from_tracks_2d  # noqa: E402
from tracking.presets import make_tracker_2d  # noqa: E402

Array = NDArray[Any]
Affines = Mapping[int, Array]

SETTINGS: dict[str, dict[str, Any]] = {
    "mot15": OURS["tercel"]["mot15"],
    "kitti": {},
    "sdd": {},
}
PARTS: dict[str, dict[str, float]] = {
    "heights compared": {"height_power": 0.0},
    "direction": {"direction_weight": 0.0},
    "second try with grown boxes": {"reach": 0.0},
    "report between filter and detection": {"shown_place_gain": 0.0, "shown_size_gain": 0.0},
}


@dataclass(frozen=True, eq=False)
class Recording:
    """A stream with the camera's motion before each frame, where it is known."""

    stream: Stream
    affines: Affines


def run(recording: Recording, tracker: Tracker2D, moved: bool = False) -> Scores:
    """The scores of one tracker on one recording."""
    outputs: list[Any] = []
    for index, message in enumerate(recording.stream.detections):
        affine = recording.affines.get(index) if moved else None
        outputs.append(tracker.track(message, affine)["tracks"])
    return recording.stream.score(from_tracks_2d(range(len(outputs)), outputs))


def kitti_affines(name: str) -> Affines:
    """The camera's rotation between frames, of KITTI's GPS and IMU, by frame."""
    calibration = read_single_file(data_folder() / "kitti_tracking" / "calib" / f"{name}.txt")
    lidar_T_camera = calibration.links({2: "camera"})[-1][2]
    orientations = (world_T_lidar(name) @ lidar_T_camera)[:, :3, :3]
    intrinsics = calibration.intrinsics(2)
    return {
        index: rotation_affine(intrinsics, before, now, intrinsics[:2, 2])
        for index, (before, now) in enumerate(pairwise(orientations), start=1)
    }


def recordings(data: str, names: tuple[str, ...]) -> list[Recording]:
    """One half of a data set."""
    return [Recording(read_stream(data, name), kitti_affines(name) if data == "kitti" else {}) for name in names]


def table(data: str, halves: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, float]]:
    """Rows of HOTA by half and over all, printed as they come."""
    settings = SETTINGS[data]
    rows: dict[str, tuple[str, dict[str, Any], bool]] = {
        name: (name, {}, False) for name in ("sort", "bytetrack", "ocsort")
    }
    rows["tercel, defaults"] = ("tercel", {}, False)
    if settings:
        rows["tercel, settings for this data"] = ("tercel", settings, False)
    if data == "kitti":
        rows["tercel, camera's rotation taken out"] = ("tercel", settings, True)
    if data != "sdd":
        rows |= {f"  without {part}": ("tercel", {**settings, **without}, False) for part, without in PARTS.items()}
        rows["  with noise by score (power 2)"] = ("tercel", {**settings, "score_noise_power": 2.0}, False)
    loaded = {half: recordings(data, names) for half, names in halves.items()}
    print(f"\n{data:40} " + " ".join(f"{half:>9}" for half in halves) + f" {'all':>9} {'AssA':>6} {'IDSW':>6}")
    result = {}
    for title, (name, options, moved) in rows.items():
        scores = {
            half: [run(r, make_tracker_2d(name, frame_period_s=period_s(r.stream), **options), moved) for r in of_half]
            for half, of_half in loaded.items()
        }
        halves_hota = {half: 100.0 * combined(of_half)["HOTA"] for half, of_half in scores.items()}
        every = combined([s for of_half in scores.values() for s in of_half])
        result[title.strip()] = {**halves_hota, "all": 100.0 * every["HOTA"], "IDSW": every["IDSW"]}
        values = " ".join(f"{value:9.2f}" for value in (*halves_hota.values(), 100.0 * every["HOTA"]))
        print(f"{title:40} {values} {100.0 * every['AssA']:6.2f} {every['IDSW']:6d}", flush=True)
    return result


def combined(scores: list[Scores]) -> dict[str, Any]:
    """The measures of several recordings together."""
    return reduce(add, scores, Scores()).summary()


def period_s(stream: Stream) -> float:
    """Between the frames of a recording."""
    return (stream.detections[1].stamp_ns - stream.detections[0].stamp_ns) * 1e-9


def main() -> None:
    """Run the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there")
    options = parser.parse_args()
    print("$ python tests/benchmarks/bench_ablation.py")
    results = {
        "mot15": table("mot15", MOT15_HALVES), "kitti": table("kitti", HALVES["kitti"]),
        "sdd": table("sdd", HALVES["sdd"]),
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
