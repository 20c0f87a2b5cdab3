"""The numbers of a summary as sentences and tables. Every key of the summary may be missing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tercel.report.drawing import esc, number

Summary = Mapping[str, Any]

_LABELS = {
    "poses": "poses", "truth_poses": "true poses", "path_m": "path (m)",
    "ate_rmse_m": "absolute trajectory error, RMSE (m)", "ate_max_m": "absolute trajectory error, largest (m)",
    "rpe_percent": "relative error, translation (%)", "rpe_deg_per_m": "relative error, rotation (°/m)",
    "tracks": "tracks", "mean_length_s": "mean length (s)", "longest_s": "longest (s)", "at_once_max": "most at once",
    "within_m": "compared within (m)", "truth_boxes": "true boxes", "recall": "recall",
    "centre_error_m": "mean error of the centre (m)", "mean_iou": "mean overlap (IoU)",
    "id_switches": "identity switches", "replay_s": "replay took (s)", "real_time_factor": "real-time factor",
    "peak_rss_mb": "peak memory (MB)", "report_s": "report took (s)",
}  # fmt: skip


def section(summary: Summary, *keys: str) -> dict[str, Any]:
    """A nested mapping of the summary, empty where it is missing or is something else."""
    value: Any = summary
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def value_text(value: Any) -> str:
    """One value as people read it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value, 3 if abs(value) < 100 else 1)
    return esc(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, css: str = "") -> str:
    """A table of HTML cells whose first column heads the rows."""
    heads = "".join(f"<th scope=col>{name}</th>" for name in head)
    body = "".join(
        f"<tr><th scope=row>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return (
        f'<div class="wide" tabindex="0"><table class="{css}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


# --- what was lost ---------------------------------------------------------------------------------------------------


def losses(summary: Summary) -> tuple[list[tuple[str, str, str, int]], list[tuple[str, str, str, int]]]:
    """What was dropped and what was rejected: (component, port, reason, count), in the summary's order."""
    dropped, rejected = [], []
    for name, row in section(summary, "components").items():
        for port, account in section(row, "inputs").items():
            dropped += [(name, port, reason, n) for reason, n in section(account, "dropped").items() if n]
            rejected += [(name, port, reason, n) for reason, n in section(account, "rejected").items() if n]
    return dropped, rejected


def lost_html(summary: Summary) -> str:
    """What was dropped and why, in sentences; it says so plainly when nothing was."""
    dropped, rejected = losses(summary)
    undecodable = [(reason, n) for reason, n in section(summary, "recording", "rejected").items() if n]
    processed = sum(
        section(row, "inputs").get(port, {}).get("processed", 0)
        for row in section(summary, "components").values()
        for port in section(row, "inputs")
    )
    if not section(summary, "components"):
        return "<p>The summary names no components.</p>"
    if not (dropped or rejected or undecodable):
        return (
            f'<p class="good">Nothing was dropped and nothing was rejected: all {processed:,} messages that reached '
            "an input were processed.</p>"
        )
    lines = [
        f"<li><b>{n:,}</b> dropped at <code>{esc(name)}.{esc(port)}</code>: {esc(reason)}</li>"
        for name, port, reason, n in dropped
    ]
    lines += [
        f"<li><b>{n:,}</b> rejected by <code>{esc(name)}.{esc(port)}</code>: {esc(reason)}</li>"
        for name, port, reason, n in rejected
    ]
    lines += [f"<li><b>{n:,}</b> unusable in the recording: {esc(reason)}</li>" for reason, n in undecodable]
    plain = "" if dropped else "<p>Nothing was dropped.</p>"
    return f'<p>{processed:,} messages were processed.</p>{plain}<ul class="lost">{"".join(lines)}</ul>'


def counted_html(summary: Summary) -> str:
    """What components have counted themselves, such as what became of every detection; empty if none has."""
    lines = []
    for name, row in section(summary, "components").items():
        counters = {what: n for what, n in section(row, "counters").items() if isinstance(n, int)}
        if counters:
            whole = next(iter(counters.values()))  # the first one is the sum of the others
            parts = [f"<b>{n:,}</b> {esc(what)}{_share(n, whole)}" for what, n in counters.items()]
            lines.append(f"<li><code>{esc(name)}</code>: {parts[0]}: {', '.join(parts[1:])}</li>")
    return f'<ul class="lost">{"".join(lines)}</ul>' if lines else ""


def _share(n: int, whole: int) -> str:
    return f" ({100 * n / whole:.1f} %)" if 0 < n < whole else ""


def _figure(summary: Summary, part: str, key: str) -> float | None:
    """One number of the summary, if it is there and is one."""
    value = section(summary, part).get(key)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def verdict(summary: Summary) -> str:
    """The run in one sentence."""
    dropped, rejected = losses(summary)
    parts = []
    factor = _figure(summary, "wall", "real_time_factor")
    if factor:
        parts.append(f"{number(factor, 1)} times real time")
    if section(summary, "components"):
        counts = ((sum(n for *_, n in rows), word) for rows, word in ((dropped, "dropped"), (rejected, "rejected")))
        lost = [f"{count:,} {word}" for count, word in counts if count]
        parts.append(" and ".join(lost) if lost else "nothing dropped")
    error_m, path_m = _figure(summary, "odometry", "ate_rmse_m"), _figure(summary, "odometry", "path_m")
    if error_m is not None:
        over = "" if path_m is None else f" over {path_m:.0f}\u00a0m"
        parts.append(f"odometry within {error_m:.2f}\u00a0m of the truth (ATE){over}")
    for key, what in (("tracking_3d", "tracks in space"), ("tracking_2d", "tracks in the image")):
        tracks = _figure(summary, key, "tracks")
        if tracks is not None:
            parts.append(f"{tracks:,.0f} {what}")
    sentence = ", ".join(parts)
    return sentence[:1].upper() + sentence[1:] + "." if sentence else "The summary holds no numbers."


def tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """The few numbers that stand at the top: (value, what it is, tone)."""
    dropped, rejected = losses(summary)
    result = []
    factor = _figure(summary, "wall", "real_time_factor")
    if factor:
        result.append((f"{number(factor, 1)}×", "real time", "good" if factor >= 1 else "bad"))
    if section(summary, "components"):
        for rows, word in ((dropped, "dropped"), (rejected, "rejected")):
            count = sum(n for *_, n in rows)
            result.append((f"{count:,}", word, "bad" if count else "good"))
    for part, key, pattern, what in (
        ("odometry", "ate_rmse_m", "{:.2f} m", "trajectory error (ATE)"),
        ("odometry", "rpe_percent", "{:.2f} %", "relative error (RPE)"),
        ("tracking_3d", "tracks", "{:,.0f}", "tracks in space"),
        ("tracking_3d", "recall", "{:.1%}", "of true objects tracked"),
        ("tracking_2d", "tracks", "{:,.0f}", "tracks in the image"),
        ("tracking_2d", "recall", "{:.1%}", "of true boxes tracked"),
        ("wall", "peak_rss_mb", "{:,.0f} MB", "peak memory"),
    ):
        value = _figure(summary, part, key)
        if value is not None:
            result.append((pattern.format(value), what, ""))
    return result


# --- tables ----------------------------------------------------------------------------------------------------------


def component_table(summary: Summary) -> str:
    """One row for each component: what it did, what it lost, how long it took."""
    components = section(summary, "components")
    if not components:
        return '<p class="quiet">The summary names no components.</p>'
    slowest = max((section(row, "latency_ms").get("max", 0.0) for row in components.values()), default=0.0)
    rows = []
    for name, row in components.items():
        latency = section(row, "latency_ms")
        rows.append(
            [
                f"<code>{esc(name)}</code>",
                value_text(row.get("count")),
                _with_unit(row.get("rate_hz"), 1),
                _reasons(row, "dropped"),
                _reasons(row, "rejected"),
                *(_with_unit(latency.get(key), 2) for key in ("p50", "p90", "p99", "max")),
                _latency_bar(latency, slowest),
            ]
        )
    head = ("Component", "Calls", "Rate Hz", "Dropped", "Rejected", "p50 ms", "p90", "p99", "max", "Latency")
    return table(head, rows, css="components")


def _with_unit(value: Any, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, (int, float)) else "–"


def _reasons(row: Mapping[str, Any], key: str) -> str:
    """The count of all ports, with the reasons under it."""
    reasons: dict[str, int] = {}
    for account in section(row, "inputs").values():
        for reason, n in section(account, key).items():
            reasons[reason] = reasons.get(reason, 0) + n
    total = sum(reasons.values())
    if not total:
        return "0"
    listed = "".join(f"<small>{esc(reason)}: {n:,}</small>" for reason, n in reasons.items() if n)
    return f'<span class="bad">{total:,}</span>{listed}'


def _latency_bar(latency: Mapping[str, Any], slowest: float) -> str:
    """Up to p50 full, up to p99 pale, a stroke at the maximum; all bars of the table to one scale."""
    if not latency or slowest <= 0:
        return "–"
    p50, p99, top = (f"{100 * latency.get(key, 0.0) / slowest:.1f}" for key in ("p50", "p99", "max"))
    words = esc(f"median {latency.get('p50', 0):.2f} ms, 99 % within {latency.get('p99', 0):.2f} ms")
    return (
        f'<span class="bar" role="img" aria-label="{words}"><i class="p99" style="width:{p99}%"></i>'
        f'<i class="p50" style="width:{p50}%"></i><i class="max" style="left:{top}%"></i></span>'
    )


def topic_table(summary: Summary) -> str:
    """The recording's topics; the ones that fed the graph are marked."""
    topics = section(summary, "recording", "topics")
    if not topics:
        return '<p class="quiet">The recording has no topics.</p>'
    used = set(section(summary, "sources").values())
    rows = [
        [
            f"<code>{esc(name)}</code>",
            f"<code>{esc(row.get('type', '–'))}</code>",
            value_text(row.get("count")),
            _with_unit(row.get("rate_hz"), 2),
            "yes" if name in used else "",
        ]
        for name, row in topics.items()
    ]
    return table(("Topic", "Type", "Messages", "Rate Hz", "Used"), rows, css="topics")


def number_tables(summary: Summary) -> str:
    """Odometry, tracking and wall times: every number that the summary has about them."""
    titles = {
        "odometry": "Odometry", "tracking_3d": "Tracks in space", "tracking_2d": "Tracks in the image",
        "offload": "Offloading", "wall": "This run",
    }  # fmt: skip
    blocks = []
    for key, title in titles.items():
        rows = [
            f"<tr><th scope=row>{esc(_LABELS.get(name, name.replace('_', ' ')))}</th><td>{value_text(value)}</td></tr>"
            for name, value in section(summary, key).items()
            if not isinstance(value, (Mapping, list, tuple))
        ]
        if rows:
            blocks.append(f"<section><h3>{title}</h3><table><tbody>{''.join(rows)}</tbody></table></section>")
    return f'<div class="numbers">{"".join(blocks)}</div>' if blocks else ""


def raw_summary(summary: Summary) -> str:
    """The whole summary, folded up."""
    text = esc(json.dumps(summary, indent=2, default=str))
    return f"<details><summary>summary.json</summary><pre tabindex=0>{text}</pre></details>"
