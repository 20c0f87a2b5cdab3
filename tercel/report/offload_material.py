"""What the report of `tercel simulate` draws of one day: timelines of each policy, the link, windows that count."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.scenario import Day
from offload.scores import Held
from offload.simulator import FATES, Run
from offload.tasks import Fate
from tercel.report.drawing import nice_step

Array = NDArray[Any]

_MOST_BINS = 100
_LINK_SAMPLES = 300
_UNDONE = [FATES.index(fate) for fate in (Fate.LATE, Fate.DROPPED)]


@dataclass(frozen=True, eq=False)
class Timeline:
    """One policy over the day, (B,) each: utility of what was created in a bin, a second; the share of it done in
    time, NaN where nothing was created; the share of the lanes' time that was used.
    """

    utility_per_s: Array
    completion: Array
    edge_busy: Array


@dataclass(frozen=True, eq=False)
class LinkLine:
    """One box's link over the day, (M,) each: mean rate from a time to the next, round trip at that time."""

    times_s: Array
    rate_mbps: Array
    rtt_ms: Array


def bin_edges_ns(day: Day) -> Array:
    """(B+1,) round times from 0 to the end of the day, the last bin perhaps shorter."""
    end_s = day.duration_ns / 1e9
    step_s = nice_step(end_s, _MOST_BINS)
    edges_s = np.append(np.arange(0.0, end_s - 1e-9 * step_s, step_s), end_s)
    return np.rint(edges_s * 1e9).astype(np.int64)


def timeline_of(day: Day, run: Run, held: Held, edges_ns: Array) -> Timeline:
    """What a policy did over the day."""
    width_s = np.diff(edges_ns) / 1e9
    earned = np.histogram(day.created_ns, edges_ns, weights=run.utility)[0]
    made = np.histogram(day.created_ns, edges_ns)[0]
    done = np.histogram(day.created_ns[~np.isin(run.fate, _UNDONE)], edges_ns)[0]
    used_s = np.diff([np.clip(edge - held.lane_from_ns, 0, held.lane_ns).sum() for edge in edges_ns.tolist()]) / 1e9
    return Timeline(
        utility_per_s=earned / width_s,
        completion=np.divide(done, made, out=np.full(len(made), np.nan), where=made > 0),
        edge_busy=used_s / (width_s * day.lanes * len(day.links)),
    )


def link_line(day: Day, box: int) -> LinkLine:
    """What a box's link could carry, and its round trip."""
    edges_ns = np.linspace(0, day.duration_ns, _LINK_SAMPLES + 1).astype(np.int64).tolist()
    link = day.links[box]
    carried = [link.capacity_bytes(begin, end) for begin, end in pairwise(edges_ns)]
    return LinkLine(
        times_s=np.array(edges_ns) / 1e9,
        rate_mbps=np.array(carried) * 8e3 / np.maximum(1, np.diff(edges_ns)),
        rtt_ms=np.array([link.rtt_ns(at) for at in edges_ns[:-1]]) / 1e6,
    )


def windows_of(day: Day, kind: int) -> int:
    """In how many windows, box by box, tasks of a kind were created."""
    rows = day.kind == kind
    cells = day.created_ns[rows] // day.window_ns * len(day.links) + day.box[rows]
    return len(np.unique(cells))
