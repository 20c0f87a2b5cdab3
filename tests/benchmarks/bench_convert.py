"""Conversion: the suite's messages to ROS 2's CDR bytes and back, against rosbags alone and mcap-ros2-support.

    python tests/benchmarks/bench_convert.py [--json FILE]

Ours is the whole way: numpy arrays to bytes, and bytes to numpy arrays (views where the layout allows; of a cloud the
time of each point is computed). The peers get it easier: rosbags' columns are its codec alone, from and to its own
objects; mcap-ros2-support's likewise, from and to its own. "read": every array is also summed to its last byte.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from tercel.core.messages import Detections2D, Image, Message, PointCloud, Tracks3D
from tercel.ros import convert

RUNS = 300
GOALS_MS = {"VGA image": 0.2, "120 k points": 2.0, "100 boxes": 0.3, "100 tracks in 3D": 0.3}


def messages() -> dict[str, Message]:
    """What is converted: of the size that robots send."""
    rng = np.random.default_rng(0)
    head: dict[str, Any] = {"stamp_ns": 1_700_000_000_123_456_789, "frame_id": "base_link"}
    n, points = 100, 120_000
    found: dict[str, Any] = {
        "scores": rng.uniform(size=n), "labels": rng.integers(0, 3, n), "class_names": ("car", "person", "bicycle")
    }  # fmt: skip
    return {
        "VGA image": Image(**head, pixels=rng.integers(0, 255, (480, 640, 3), dtype=np.uint8), encoding="bgr8"),
        "120 k points": PointCloud(
            **head, points_m=rng.normal(size=(points, 3)), intensity=rng.uniform(size=points),
            ring=rng.integers(0, 64, points), time_offset_s=rng.uniform(-0.1, 0, points),
        ),
        "100 boxes": Detections2D(**head, boxes_xyxy_px=rng.uniform(0, 100, (n, 4)), **found),
        "100 tracks in 3D": Tracks3D(
            **head, centers_m=rng.normal(size=(n, 3)), sizes_m=rng.uniform(1, 4, (n, 3)),
            yaws_rad=rng.uniform(-3, 3, n), ids=np.arange(n), velocities_mps=np.zeros((n, 3)),
            ages_s=np.zeros(n), **found,
        ),
    }  # fmt: skip


def median_ms(call: Callable[[], Any]) -> float:
    """The median time of a call."""
    call()
    times = []
    for _ in range(RUNS):
        began_ns = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - began_ns)
    return statistics.median(times) * 1e-6


def touched(message: Message) -> None:
    """Read every array of a message to its last byte."""
    for field in fields(message):
        value = getattr(message, field.name)
        if isinstance(value, np.ndarray):
            value.sum()


def peer_ms(ros_type: str, data: bytes) -> tuple[float, float] | None:
    """mcap-ros2-support's time to write and to read the same message, or None where it is not installed."""
    try:
        from mcap_ros2._dynamic import generate_dynamic, serialize_dynamic
    except ImportError:
        return None
    schema, _ = convert.STORE.generate_msgdef(ros_type, ros_version=2)
    name = ros_type.replace("/msg/", "/")
    decode = generate_dynamic(name, schema)[name]
    encode = serialize_dynamic(name, schema)[name]
    message = decode(data)
    assert encode(message)[4:] == data[4:]
    return median_ms(lambda: encode(message)), median_ms(lambda: decode(data))


def measure(message: Message) -> dict[str, float | None]:
    """All columns of one row, in ms."""
    ros_type, view = convert.encode(message)
    data = bytes(view)
    ros = convert.STORE.deserialize_cdr(data, ros_type)
    peer = peer_ms(ros_type, data)
    return {
        "out_ms": median_ms(lambda: convert.encode(message)),
        "in_ms": median_ms(lambda: convert.decode(ros_type, data)),
        "in_and_read_ms": median_ms(lambda: touched(convert.decode(ros_type, data))),
        "rosbags_out_ms": median_ms(lambda: convert.STORE.serialize_cdr(ros, ros_type)),
        "rosbags_in_ms": median_ms(lambda: convert.STORE.deserialize_cdr(data, ros_type)),
        "mcap_ros2_out_ms": peer and peer[0],
        "mcap_ros2_in_ms": peer and peer[1],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print("command: python tests/benchmarks/bench_convert.py")
    print(f"ms, medians of {RUNS}; out: arrays to CDR bytes, in: bytes to arrays")
    heads = ("out", "in", "in, read", "goal", "rosbags out", "in", "mcap_ros2 out", "in")
    widths = (9, 9, 9, 6, 13, 9, 15, 9)
    print(f"{'message':<18}" + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    results = {}
    for name, message in messages().items():
        row = measure(message)
        results[name] = {key: None if value is None else round(value, 4) for key, value in row.items()}
        results[name]["goal_ms"] = GOALS_MS[name]
        numbers = list(row.values())
        numbers.insert(3, GOALS_MS[name])
        shown = ["-" if number is None else f"{number:.3g}" for number in numbers]
        print(f"{name:<18}" + "".join(f"{text:>{width}}" for text, width in zip(shown, widths, strict=True)))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
