"""The clairvoyant bound: utility that no policy can pass, even one that knows all arrivals, durations and links.

One box is two machines: `lanes` equal lanes on an axis of time, and the uplink, one upload after another, on an axis of
bytes (what the link can carry from the run's start on; a slow link is a slow axis). An option occupies a stretch of
either or both. With a price for each moment of a lane and each byte of the link, every task buys its best option by
itself, and

    sum over tasks of max(0, gain - least price of a start in time)  +  the price of all that there is to sell

bounds what any schedule earns, whatever the prices are (Lagrangian duality; nothing rests on the solver or the grid).
The best prices are the duals of the linear program over start times of Sousa and Wolsey (Mathematical Programming 54,
1992), solved piece by piece with HiGHS. The departure: starts are continuous and only capacity is gathered into cells
of grid_ms, in which a price is constant; the cheapest start then lies where the run begins or ends at a cell's border
or at a limit of its window, so those columns are the whole program and nothing is rounded. A coarse grid costs
tightness only.

Relaxed besides: a run may be handed from lane to lane; head and tail of a split option are placed independently; cold
starts never happen. `achieved` is the worth of a schedule that does exist (`offload.bound_schedule`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.bound_schedule import Run, clairvoyant_schedule
from offload.bound_ways import Prices, Requests, Ways, cheapest, find_ways, place, possible_starts, reach
from offload.scenario import SECOND_NS, Day
from tercel.core.errors import UserError, require

Array = NDArray[Any]

MS_NS = 1_000_000
PIECE_NS = 10 * SECOND_NS
PIECE_TASKS = 400


@dataclass(frozen=True)
class Bound:
    """The best utility that can be had lies in [achieved, utility].

    edge, cloud, split: how many tasks are done where in the schedule that achieves it; left: the others; edge_utility,
    cloud_utility: what it earns where (split runs count as cloud). method: how the bound was found.
    """

    utility: float
    achieved: float
    edge: int
    cloud: int
    split: int
    left: int
    edge_utility: float
    cloud_utility: float
    method: str

    @property
    def gap(self) -> float:
        """How far the bound may be from the optimum, as a fraction of the bound."""
        return (self.utility - self.achieved) / self.utility if self.utility > 0 else 0.0


def upper_bound(
    day: Day,
    *,
    box: int | None = None,
    grid_ms: float = 50.0,
    schedule: bool = True,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Bound:
    """Bound the QoS utility of a day, of one box or of all, summed.

    grid_ms: of prices; finer is tighter and slower. schedule: also look for one that comes near, which takes longer
    than the bound; without it `achieved` is the 0 of doing nothing. progress: is told the fraction that is done.

    Raises UserError for a grid outside 1..1000 ms and where scipy is missing.
    """
    if not 1 <= grid_ms <= 1000:
        raise UserError(f"grid_ms {grid_ms:g}: choose 1 to 1000")
    boxes = list(range(len(day.links))) if box is None else [box]
    total, tasks, runs = 0.0, 0, []
    for position, one in enumerate(boxes):
        ways = find_ways(day, one)
        prices = best_prices(
            ways,
            round(grid_ms * MS_NS),
            progress=lambda solved, position=position: progress((position + solved / 2) / len(boxes)),  # type: ignore[misc]
        )
        total += priced_bound(ways, prices)
        if schedule:
            runs += clairvoyant_schedule(day, one, ways, prices)
        tasks += ways.tasks
        progress((position + 1) / len(boxes))
    return _summed(day, tasks, total, runs, f"Lagrangian dual of the start-time LP, prices in cells of {grid_ms:g} ms")


def _summed(day: Day, tasks: int, utility: float, runs: list[Run], method: str) -> Bound:
    places = [day.kinds[day.kind[run.row]].options[run.option].place for run in runs]
    in_time = [run.utility > 0 for run in runs]
    count = {
        place: sum(in_time_ for at, in_time_ in zip(places, in_time, strict=True) if at == place)
        for place in ("edge", "cloud", "split")
    }
    on_edge = sum(run.utility for run, at in zip(runs, places, strict=True) if at == "edge")
    remote = sum(run.utility for run, at in zip(runs, places, strict=True) if at != "edge")
    return Bound(
        utility,
        on_edge + remote,
        **count,
        left=tasks - sum(count.values()),
        edge_utility=on_edge,
        cloud_utility=remote,
        method=method,
    )


def priced_bound(ways: Ways, prices: Prices) -> float:
    """The bound that non-negative prices give: what tasks gain beyond them, and the price of all there is to sell."""
    if min(prices.lane.min(initial=0.0), prices.link.min(initial=0.0)) < 0:
        raise ValueError("a price is negative")
    surplus = np.zeros(ways.tasks)
    lane_price = cheapest(ways.lane, prices.lane_edges_ns, prices.lane)
    link_price = cheapest(ways.link, prices.link_edges_bytes, prices.link)
    np.maximum.at(surplus, ways.task, ways.gain - lane_price - link_price)
    sold = ways.lanes * float(prices.lane @ np.diff(prices.lane_edges_ns))
    return float(surplus.sum()) + sold + float(prices.link @ np.diff(prices.link_edges_bytes))


def best_prices(
    ways: Ways, grid_ns: int, *, piece_ns: int = PIECE_NS, progress: Callable[[float], None] = lambda _fraction: None
) -> Prices:
    """The duals of the start-time program, solved in pieces of time.

    Each piece sees its past at the prices that stand and some of its future free, to be solved again by the next.
    """
    cells = -(-ways.end_ns // grid_ns)
    lane_edges_ns = np.arange(cells + 1, dtype=np.float64) * grid_ns
    prices = Prices(lane_edges_ns, np.zeros(cells), ways.carried(lane_edges_ns), np.zeros(cells))
    reach_ns = int((ways.deadline_ns - ways.created_ns).max(initial=0))
    rate = max(1, ways.tasks) / max(1, ways.end_ns)
    piece = max(1, min(piece_ns, max(reach_ns, int(PIECE_TASKS / rate))) // grid_ns)
    ahead = -(-2 * reach_ns // grid_ns)
    for begin in range(0, cells, piece):
        end = min(cells, begin + piece + ahead)
        near = (ways.deadline_ns > begin * grid_ns) & (ways.created_ns < end * grid_ns)
        _solve_piece(ways.select(near[ways.task]), prices, begin, end)
        progress(min(1.0, (begin + piece) / cells))
    return prices


def _solve_piece(ways: Ways, prices: Prices, begin: int, end: int) -> None:
    """Set the prices of the cells from begin to end to the best for these ways, those of the other cells given."""
    if not len(ways.task):
        return
    optimize = require("scipy.optimize", extra="simulate")
    columns = _Columns(ways)
    columns.add(ways.lane, prices.lane_edges_ns, prices.lane, begin, end, float(ways.lanes))
    columns.add(ways.link, prices.link_edges_bytes, prices.link, begin, end, 1.0)
    for method in ("highs-ds", "highs-ipm"):
        solved = optimize.linprog(**columns.program(), method=method)
        if solved.status == 0:
            break
    else:
        raise RuntimeError(f"HiGHS: {solved.message}")
    duals = np.maximum(0.0, -solved.ineqlin.marginals[columns.tasks :])
    for price, edges in ((prices.lane, prices.lane_edges_ns), (prices.link, prices.link_edges_bytes)):
        width = np.diff(edges)[begin:end]
        price[begin:end] = np.divide(duals[: end - begin], width, out=np.zeros(end - begin), where=width > 0)
        duals = duals[end - begin :]


class _Columns:
    """The start-time program as it is put together. Rows: each task at most once; each cell of the lanes; of the link.

    Columns: starts on a lane, then starts of uploads. A split option's upload neither counts as its task nor earns
    anything: its head does, and an equation ties the two.
    """

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        names, self._task_row = np.unique(ways.task, return_inverse=True)
        self.tasks = len(names)
        self._split = ways.lane.used & ways.link.used
        self._way = np.zeros(0, np.int64)
        self._gain = np.zeros(0)
        self._limits = np.ones(self.tasks)
        self._entries: list[tuple[Array, Array, Array]] = []
        self._heads = 0

    def add(self, requests: Requests, edges: Array, price: Array, begin: int, end: int, limit: float) -> None:
        """The starts on one axis; what they cover beyond the cells from begin to end is paid for."""
        way, start = possible_starts(requests, edges)
        cell, column, part = place(way, start, requests, edges)
        inside = (cell >= begin) & (cell < end)
        cost = (price * np.diff(edges))[cell[~inside]] * part[~inside]
        follows = self._split[way] & (self._heads > 0)
        gain = np.where(follows, 0.0, self._ways.gain[way])
        shift, row = len(self._way), len(self._limits)
        leads = np.flatnonzero(~follows)
        self._entries.append((self._task_row[way[leads]], shift + leads, np.ones(len(leads))))
        self._entries.append((row + cell[inside] - begin, shift + column[inside], part[inside]))
        self._gain = np.concatenate([self._gain, gain - np.bincount(column[~inside], cost, minlength=len(way))])
        self._limits = np.concatenate([self._limits, np.full(end - begin, limit)])
        self._way = np.concatenate([self._way, way])
        self._heads = self._heads or len(way)

    def program(self) -> dict[str, Any]:
        """The arguments of scipy.optimize.linprog."""
        sparse = require("scipy.sparse", extra="simulate")
        rows, columns, parts = (np.concatenate(entries) for entries in zip(*self._entries, strict=True))
        program = {
            "c": -self._gain,
            "A_ub": sparse.csr_matrix((parts, (rows, columns)), (len(self._limits), len(self._way))),
            "b_ub": self._limits,
        }
        tied = np.flatnonzero(self._split[self._way])
        if len(tied):
            splits, row = np.unique(self._way[tied], return_inverse=True)
            sign = np.where(tied < self._heads, 1.0, -1.0)
            program["A_eq"] = sparse.csr_matrix((sign, (row, tied)), (len(splits), len(self._way)))
            program["b_eq"] = np.zeros(len(splits))
        return program


def qoe_bound(day: Day, *, box: int | None = None) -> float:
    """An upper bound on the sum of QoE bonuses: one for each box, kind and window of creation that can meet its target.

    A window can if enough of its tasks could be done in time, each on a box of its own.
    """
    total = 0.0
    for one in range(len(day.links)) if box is None else [box]:
        rows = np.flatnonzero(day.box == one)
        able = reach(day, one)
        window = day.created_ns[rows] // day.window_ns
        for index, kind in enumerate(day.kinds):
            mine = day.kind[rows] == index
            windows, position = np.unique(window[mine], return_inverse=True)
            wanted = np.bincount(position, minlength=len(windows))
            possible = np.bincount(position, weights=able[mine], minlength=len(windows))
            total += kind.qoe_bonus * int((possible >= kind.qoe_target * wanted - 1e-9).sum())
    return total
