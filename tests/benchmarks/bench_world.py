"""How fast the simulated worlds are: rays a second of the ray caster, and how long one second of a recording takes.

python tests/benchmarks/bench_world.py [--json FILE] [--repeats 7]

One process, numpy alone. The shortest and the median of several runs, each over five moments of a drive or flight.
"casting" is windows and intersections; a sweep adds noise, intensity and truth, a picture shadows, paint and truth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from devices.sensors.simulated.lidar import cast_sweep, sweep  # noqa: E402
from devices.sensors.simulated.motion import states_at, stream  # noqa: E402
from devices.sensors.simulated.raycast import cast  # noqa: E402
from devices.sensors.simulated.render import VIEW_M, Camera, camera_rays, image_windows, render  # noqa: E402
from devices.sensors.simulated.world import WORLDS, WorldConfig, base_T_sensor, generate, make_lidar, make_scene  # noqa: E402

MOMENTS_S = (6.0, 13.0, 21.0, 34.0, 55.0)


def seconds(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Shortest and median duration."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times), statistics.median(times)


def bench_world(name: str, repeats: int) -> dict[str, dict[str, float]]:
    """Rays and seconds of each kind of work in one world."""
    scene = make_scene(name, 1)
    lidar = make_lidar(WorldConfig(name=name, lidar_beams=64))
    camera = Camera.with_width(640, 480)
    snapshots = [scene.snapshot(t).primitives for t in MOMENTS_S]
    poses = states_at(scene.trajectory, np.array(MOMENTS_S)).world_T_base @ base_T_sensor(name, "camera")
    rng = stream(0)

    def cast_sweeps() -> None:
        for t, primitives in zip(MOMENTS_S, snapshots, strict=True):
            cast_sweep(lidar, scene.trajectory, primitives, t)

    def sweeps() -> None:
        for t, primitives in zip(MOMENTS_S, snapshots, strict=True):
            sweep(lidar, scene.trajectory, primitives, t, rng)

    def cast_pictures() -> None:
        for pose, primitives in zip(poses, snapshots, strict=True):
            rays, _ = camera_rays(camera, pose)
            cast(rays, primitives, image_windows(camera, pose, primitives), max_range_m=VIEW_M)

    def pictures() -> None:
        for pose, primitives in zip(poses, snapshots, strict=True):
            render(camera, pose, scene, primitives)

    lidar_rays, pixels = 64 * lidar.columns * len(MOMENTS_S), 640 * 480 * len(MOMENTS_S)
    result = {}
    for label, rays, call in (
        ("lidar 64 beams, casting", lidar_rays, cast_sweeps),
        ("lidar 64 beams, whole sweep", lidar_rays, sweeps),
        ("camera 640x480, casting", pixels, cast_pictures),
        ("camera 640x480, whole picture", pixels, pictures),
    ):
        least, median = seconds(call, repeats)
        result[label] = {
            "rays": rays / len(MOMENTS_S),
            "ms_min": 1e3 * least / len(MOMENTS_S),
            "ms_median": 1e3 * median / len(MOMENTS_S),
            "mrays_per_s_max": rays / least / 1e6,
            "mrays_per_s_median": rays / median / 1e6,
        }
    return result


def bench_recording(name: str, repeats: int) -> dict[str, float]:
    """How many seconds of world a second makes: 320x240 at 5 Hz with depth, 16 x 512 LiDAR at 10 Hz."""
    config = WorldConfig(
        name=name, duration_s=4.0, lidar_columns=512, camera_width_px=320, camera_height_px=240, camera_rate_hz=5.0
    )
    least, median = seconds(lambda: sum(1 for _ in generate(config)), repeats)
    return {"times_real_time_max": config.duration_s / least, "times_real_time_median": config.duration_s / median}


def main() -> None:
    """Print the table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    print(f"python tests/benchmarks/bench_world.py --repeats {options.repeats}")
    numbers: dict[str, object] = {}
    for name in WORLDS:
        table = bench_world(name, options.repeats)
        recording = bench_recording(name, max(2, options.repeats // 2))
        numbers[name] = {**table, "recording 320x240 5 Hz, 16 x 512 10 Hz": recording}
        print(f"\n{name:30s} {'rays':>8s} {'ms, min':>9s} {'ms, median':>11s} {'Mrays/s, best':>14s} {'median':>8s}")
        for label, row in table.items():
            print(
                f"{label:30s} {row['rays']:8.0f} {row['ms_min']:9.1f} {row['ms_median']:11.1f} "
                f"{row['mrays_per_s_max']:14.2f} {row['mrays_per_s_median']:8.2f}"
            )
        print(
            f"a recording, 320x240 5 Hz with depth, 16 x 512 10 Hz: "
            f"{recording['times_real_time_max']:.1f} times real time, {recording['times_real_time_median']:.1f} median"
        )
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
