"""What `tercel info` says of a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tercel.core.errors import Rejected
from tercel.core.messages import Odometry, Transforms
from tercel.hosts.recording import Recording, open_recording
from tercel.report.summary import topic_rows


def describe(path: Path) -> dict[str, Any]:
    """Name, duration, topics (type, count, rate, the suite's type, frame) and problems of a recording."""
    recording = open_recording(path)
    topics = topic_rows(recording)
    for name, row in topics.items():
        kind = recording.topics[name].message_type
        row["message"] = None if kind is None else kind.__name__
        row["frame"] = _first_frame(recording, name) if kind is not None else None
    return {
        "name": path.name,
        "bytes": path.stat().st_size
        if path.is_file()
        else sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        "start_ns": recording.start_ns,
        "duration_s": round((recording.end_ns - recording.start_ns) / 1e9, 6),
        "topics": topics,
        "problems": list(recording.problems),
        "rejected": dict(sorted(recording.rejected.items())),
    }


def _first_frame(recording: Recording, topic: str) -> str | None:
    """The frame of the topic's first message that decodes."""
    for recorded in recording.messages([topic]):
        try:
            message = recording.decode(recorded)
        except Rejected:
            continue
        if isinstance(message, Transforms):
            pairs = sorted({f"{p} -> {c}" for p, c in zip(message.parents, message.children, strict=True)})
            return ", ".join(pairs)
        if isinstance(message, Odometry) and message.child_frame_id:
            return f"{message.frame_id} -> {message.child_frame_id}"
        return message.frame_id
    return None


def info_table(info: dict[str, Any]) -> str:
    """The description as people read it in a terminal."""
    lines = [f"{info['name']}: {info['duration_s']:.2f} s, {info['bytes'] / 1e6:.1f} MB, {len(info['topics'])} topics"]
    width = max([len(name) for name in info["topics"]] + [5])
    lines.append(f"{'topic':<{width}}  {'type':<38}{'count':>8}{'Hz':>8}  frame")
    lines.extend(
        f"{name:<{width}}  {row['type']:<38}{row['count']:>8}{row['rate_hz']:>8.1f}  {row['frame'] or ''}".rstrip()
        for name, row in info["topics"].items()
    )
    lines.extend(f"problem: {problem}" for problem in info["problems"])
    lines.extend(f"rejected: {reason} ({count})" for reason, count in info["rejected"].items())
    return "\n".join(lines)
