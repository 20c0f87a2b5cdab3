"""summary.json: one mapping that holds every number of a replay.

Wall times stand under the keys `latency_ms` and `wall` and nowhere else: without them (`without_wall_times`), two
replays of the same recording, graph and seed give the same summary.
"""

from __future__ import annotations

import resource
import textwrap
from collections.abc import Mapping
from typing import Any

import tercel
from tercel.hosts.graph import Graph
from tercel.hosts.live_account import quantiles
from tercel.hosts.recording import Recording
from tercel.hosts.replay import NodeAccount, ReplayAccount

WALL_KEYS = ("latency_ms", "wall")


def summarise(
    recording: Recording, graph: Graph, sources: Mapping[str, str], account: ReplayAccount, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The summary but for what is compared with truth. options: what else the run was told (graph reason, seed...)."""
    duration_s = (recording.end_ns - recording.start_ns) / 1e9
    return {
        "tercel": tercel.__version__,
        "recording": {
            "name": recording.path.name,
            "duration_s": round(duration_s, 6),
            "topics": topic_rows(recording),
            "problems": list(recording.problems),
            "rejected": dict(sorted((recording.rejected + account.undecodable).items())),
        },
        "graph": graph.name,
        **options,
        "sources": dict(sorted(sources.items())),
        "components": {
            node.name: _component(node.inputs, node.outputs, account.nodes[node.name], duration_s)
            for node in graph.nodes
        },
        "wall": {
            "replay_s": round(account.wall_s, 3),
            "real_time_factor": round(duration_s / account.wall_s, 3) if account.wall_s else 0.0,
            "decode_ms": quantiles(account.decode_ms),
            "peak_rss_mb": peak_rss_mb(),
        },
    }


def peak_rss_mb() -> float:
    """The most memory that this process has held, MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def topic_rows(recording: Recording) -> dict[str, dict[str, Any]]:
    """Type, count and rate of each topic."""
    duration_s = (recording.end_ns - recording.start_ns) / 1e9
    return {
        topic.name: {
            "type": topic.ros_type,
            "count": topic.count,
            "rate_hz": round((topic.count - 1) / duration_s, 2) if duration_s > 0 and topic.count > 1 else 0.0,
        }
        for topic in recording.topics.values()
    }


def _component(
    inputs: Mapping[str, str], outputs: Mapping[str, str], account: NodeAccount, duration_s: float
) -> dict[str, Any]:
    rows = {
        port: {
            "topic": inputs[port],
            "received": counts.received,
            "processed": counts.processed,
            "dropped": dict(sorted(counts.dropped.items())),
            "rejected": dict(sorted(counts.rejected.items())),
        }
        for port, counts in account.ports.items()
    }
    return {
        "count": len(account.took_ms),
        "rate_hz": round(len(account.took_ms) / duration_s, 2) if duration_s > 0 else 0.0,
        "dropped": sum(counts.dropped.total() for counts in account.ports.values()),
        "rejected": sum(counts.rejected.total() for counts in account.ports.values()),
        "restarts": account.restarts,
        **({"counters": dict(account.counters)} if account.counters else {}),
        "inputs": rows,
        "outputs": {port: {"topic": topic, "count": account.outputs[port]} for port, topic in outputs.items()},
        "latency_ms": quantiles(account.took_ms),
        "age_ms": quantiles(account.age_ms),
    }


def without_wall_times(summary: Any) -> Any:
    """The summary without the keys that differ from run to run."""
    if isinstance(summary, Mapping):
        return {key: without_wall_times(value) for key, value in summary.items() if key not in WALL_KEYS}
    return summary


def component_rows(components: Mapping[str, Any]) -> list[str]:
    """The table of components, as all hosts show it: how many calls, how often, what was lost, how long a call took."""
    columns = ("count", "rate Hz", "dropped", "rejected", "p50 ms", "p90", "p99", "max")
    lines = [f"{'component':<18}" + "".join(f"{name:>9}" for name in columns)]
    for name, row in components.items():
        ms = row["latency_ms"]
        lines.append(
            f"{name:<18}{row['count']:>9}{row['rate_hz']:>9.1f}{row['dropped']:>9}{row['rejected']:>9}"
            f"{ms['p50']:>9.2f}{ms['p90']:>9.2f}{ms['p99']:>9.2f}{ms['max']:>9.2f}"
        )
    return lines


def counter_lines(components: Mapping[str, Any]) -> list[str]:
    """What the components have counted themselves."""
    lines: list[str] = []
    for name, row in components.items():
        counted = ", ".join(f"{count} {what}" for what, count in row.get("counters", {}).items())
        lines += textwrap.wrap(f"{name}: {counted}", width=100, subsequent_indent="    ") if counted else []
    return lines


def table(summary: Mapping[str, Any]) -> str:
    """The numbers as people read them in a terminal."""
    lines = component_rows(summary["components"])
    for title in ("odometry", "tracking_3d", "tracking_2d"):
        numbers = "  ".join(f"{key} {value}" for key, value in summary.get(title, {}).items())
        lines += textwrap.wrap(f"{title}: {numbers}", width=100, subsequent_indent="    ") if numbers else []
    lines += counter_lines(summary["components"])
    lines += [
        f"restarted: {name}, {row['restarts']} times: the clock of its input was set back"
        for name, row in summary["components"].items()
        if row["restarts"]
    ]
    lines += [f"problem: {problem}" for problem in summary["recording"]["problems"]]
    lines += [f"rejected: {reason} ({n})" for reason, n in summary["recording"]["rejected"].items()]
    wall = summary["wall"]
    lines.append(
        f"{summary['recording']['duration_s']:.1f} s of recording in {wall['replay_s']:.1f} s: "
        f"{wall['real_time_factor']:.1f}x real time, {wall['peak_rss_mb']:.0f} MB at most"
    )
    return "\n".join(lines)
