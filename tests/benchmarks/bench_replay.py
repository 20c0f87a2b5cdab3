"""Whole replays: how fast a real drive goes through its whole graph, and whether memory stays flat for ten minutes.

    python tests/benchmarks/bench_replay.py [--minutes 10] [--json FILE]

The camera-and-LiDAR drive (KITTI 0052) comes from TERCEL_DATA, else from ../shared/data beside the repository, and runs
with YOLOX-nano through odometry, obstacles, detector and both trackers. For memory, a simulated street with a 16-beam
LiDAR and a camera is written and replayed in a process of its own; its resident memory is sampled at every sweep, and
the slope is that of a least-squares line through the second half (the first half fills maps and caches).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
RUNS = 3


def tercel(*arguments: object) -> None:
    """Run one command in a process of its own."""
    command = [sys.executable, "-m", "tercel.cli", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def camera_lidar_drive(folder: Path) -> dict[str, Any]:
    """Median wall time of the whole graph on KITTI drive 0052."""
    unpack = [sys.executable, DATA / "unpack.py", folder, "--only", "kitti_drive0052"]
    subprocess.run(unpack, check=True, stdout=subprocess.DEVNULL)
    recording = folder / "drive52.mcap"
    tercel("import", "kitti-raw", folder / "kitti_drive0052", "-o", recording)
    walls, summary = [], {}
    for _ in range(RUNS):
        model = DATA / "models" / "yolox_nano_416.onnx"
        tercel("replay", recording, "--model", model, "--out", folder / "out", "--no-report")
        summary = json.loads((folder / "out" / "summary.json").read_text())
        walls.append(summary["wall"]["replay_s"])
    wall_s, duration_s = statistics.median(walls), summary["recording"]["duration_s"]
    return {
        "recording_s": duration_s,
        "replay_s": wall_s,
        "real_time_factor": round(duration_s / wall_s, 2),
        "peak_rss_mb": summary["wall"]["peak_rss_mb"],
        "p50_ms": {name: row["latency_ms"]["p50"] for name, row in summary["components"].items()},
    }


def resident_mb(pid: int) -> float | None:
    """Resident memory of a process; None when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    rows = [line.split()[1] for line in lines if line.startswith("VmRSS")]
    return int(rows[0]) / 1024 if rows else None


def memory_over_time(folder: Path, minutes: float) -> dict[str, Any]:
    """Slope of resident memory while a long simulated recording is replayed."""
    recording = folder / "long.mcap"
    camera = {"camera_width_px": 160, "camera_height_px": 120, "camera_rate_hz": 2, "include_depth": False}
    settings = {"duration_s": minutes * 60, "lidar_columns": 360, **camera}
    began_s = time.perf_counter()
    tercel("world", "street", "--seed", 11, "-o", recording, *(f"--set={k}={v}" for k, v in settings.items()))
    generated_s = time.perf_counter() - began_s
    command = [
        sys.executable,
        "-m",
        "tercel.cli",
        "replay",
        str(recording),
        "--out",
        str(folder / "long"),
        "--no-report",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    samples: list[tuple[float, float]] = []
    result = folder / "long" / "result.mcap"

    def sample() -> None:
        began_s = time.perf_counter()
        while process.poll() is None:
            size_mb = resident_mb(process.pid)
            if size_mb is not None and result.exists():
                samples.append((time.perf_counter() - began_s, size_mb))
            time.sleep(0.1)

    watcher = threading.Thread(target=sample)
    watcher.start()
    code = process.wait()
    watcher.join()
    assert code == 0, "the replay failed"
    summary = json.loads((folder / "long" / "summary.json").read_text())
    replay_s = summary["wall"]["replay_s"]
    # The samples begin with the replay; what follows it, the evaluation, holds all tracks and is not part of the slope.
    times_s, sizes_mb = np.array([row for row in samples if row[0] < samples[0][0] + 0.97 * replay_s]).T
    half = times_s > times_s[0] + replay_s / 2
    minutes_of_recording = (times_s[half] - times_s[0]) / replay_s * minutes
    slope = np.polyfit(minutes_of_recording, sizes_mb[half], 1)[0]
    return {
        "minutes": minutes,
        "file_mb": round(recording.stat().st_size / 1e6, 1),
        "generated_s": round(generated_s, 1),
        "replay_s": replay_s,
        "real_time_factor": summary["wall"]["real_time_factor"],
        "rss_first_mb": round(float(sizes_mb[0]), 1),
        "rss_half_mb": round(float(sizes_mb[half][0]), 1),
        "rss_last_mb": round(float(sizes_mb[-1]), 1),
        "rss_with_evaluation_mb": round(max(size_mb for _, size_mb in samples), 1),
        "slope_mb_per_minute": round(float(slope), 3),
        "odometry": summary.get("odometry", {}),
    }


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print("command: python tests/benchmarks/bench_replay.py")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if (DATA / "unpack.py").exists():
            row = results["camera_lidar_drive"] = camera_lidar_drive(folder)
            times = f"{row['recording_s']:.1f} s in {row['replay_s']:.2f} s: {row['real_time_factor']}x real time"
            print(f"camera and LiDAR, whole graph: {times}, {row['peak_rss_mb']:.0f} MB")
            print("  p50 ms: " + ", ".join(f"{k} {v}" for k, v in row["p50_ms"].items()))
        else:
            print(f"no real recordings at {DATA}: set TERCEL_DATA")
        row = results["memory"] = memory_over_time(folder, args.minutes)
        print(f"{row['minutes']:.0f} simulated minutes, {row['file_mb']} MB, made in {row['generated_s']} s")
        print(f"  replayed in {row['replay_s']:.0f} s: {row['real_time_factor']}x real time")
        sizes = ", ".join(f"{name} {row[f'rss_{name}_mb']}" for name in ("first", "half", "last", "with_evaluation"))
        print(f"  resident MB: {sizes}")
        print(f"  slope of the second half: {row['slope_mb_per_minute']} MB per minute of recording")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
