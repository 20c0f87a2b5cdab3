"""Mixed precision: the layers that pay in integers become integers, those that would not, or would err, stay in float.

For each convolution the error of quantizing it alone (perception.quantize.sensitivity) and the milliseconds that it
gains here (both networks' operators, as the backend runs them) are measured. Convolutions are ranked by gain for
error; those without gain stay in float. Then ever shorter heads of the ranking are built and measured whole, because
a float layer amid integer ones also costs a conversion on either side, which no sum of single layers knows: the
fastest one whose accuracy is within the budget is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perception.quantize.graph import Graph
from perception.quantize.plan import Layout, unit_end
from perception.quantize.verify import UnitTime

SHARES = (1.0, 0.85, 0.7, 0.5, 0.3)
"""Heads of the ranking that are tried, as parts of it."""
_ERROR_FLOOR = 1e-7


@dataclass(frozen=True)
class LayerChoice:
    """What was measured of one convolution, and whether it became integers."""

    name: str
    error: float
    gain_ms: float
    quantized: bool


def ranking(errors: Mapping[str, float], times: Sequence[UnitTime]) -> list[str]:
    """Convolutions that gain time, by gain for error, best first; of equals in the order of `errors`."""
    gains = gains_ms(errors, times)
    paying = [name for name in errors if gains[name] > 0.0]
    return sorted(paying, key=lambda name: -gains[name] / max(errors[name], _ERROR_FLOOR))


def gains_ms(errors: Mapping[str, float], times: Sequence[UnitTime]) -> dict[str, float]:
    """Milliseconds that each of the convolutions gains; 0 for one that no operator was found for."""
    by_name = {row.name: row.float_ms - row.quantized_ms for row in times}
    return {name: by_name.get(name, 0.0) for name in errors}


def heads(ranked: Sequence[str]) -> list[list[str]]:
    """The heads of a ranking that are tried, longest first."""
    lengths = dict.fromkeys(max(1, round(share * len(ranked))) for share in SHARES) if ranked else {}
    return [list(ranked[:length]) for length in lengths]


def bridged(graph: Graph, layout: Layout, chosen: Sequence[str], allowed: Mapping[str, float]) -> list[str]:
    """The chosen convolutions and those that lie alone between two chosen ones and err little.

    allowed: errors of all convolutions that may be taken. A float layer there would cost two conversions.
    """
    taken = set(chosen)
    limit = max((allowed[name] for name in chosen), default=0.0)
    makers = {unit_end(graph, node, layout): node.name for node in graph.convolutions()}
    readers: dict[str, list[Any]] = {}
    for node in graph.convolutions():
        readers.setdefault(node.input[0], []).append(node.name)
    for node in graph.convolutions():
        after = readers.get(unit_end(graph, node, layout), [])
        before = makers.get(node.input[0])
        if node.name in allowed and allowed[node.name] <= limit and before in taken and set(after) & taken:
            taken.add(node.name)
    return [name for name in allowed if name in taken]
