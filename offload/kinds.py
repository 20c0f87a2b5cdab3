"""Kinds of task as YAML states them: times in milliseconds, taken on a link that is stated, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offload.link import Link
from offload.settings import config
from offload.tasks import Option, TaskKind
from tercel.core.errors import UserError

MS_NS = 1_000_000


@dataclass(frozen=True)
class OptionSpec:
    """One way to run a kind. ms: from start to result, all in; head_ms: the board's part where the rest is remote."""

    ms: float
    benefit: float
    cost: float
    place: str = ""
    head_ms: float = 0.0
    upload_bytes: int = 0
    name: str = ""


@dataclass(frozen=True)
class KindSpec:
    """A kind of task; see TaskKind."""

    deadline_ms: float
    edge: dict[str, Any] = field(default_factory=dict)
    cloud: dict[str, Any] = field(default_factory=dict)
    options: tuple[dict[str, Any], ...] = ()
    qoe_bonus: float = 0.0
    qoe_target: float = 0.9


@dataclass(frozen=True)
class Spread:
    """Standard deviations over means of the times on the board and of the server."""

    edge: float = 0.0
    cloud: float = 0.05


@dataclass(frozen=True)
class KindAt:
    """A kind, where it stands, and the link on which its cloud times were taken."""

    name: str
    spec: KindSpec
    profiled: Link
    where: str


def make_kind(kind: KindAt, spread: Spread, mean_bytes: int) -> TaskKind:
    """The kind. mean_bytes: of inputs where options do not say what goes up the link. Raises UserError."""
    spec, where = kind.spec, kind.where
    for place, value in (("edge", spec.edge), ("cloud", spec.cloud)):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: {place}: a mapping is wanted, not {str(value)[:80]!r}")
    given = [dict(value) | {"place": place} for place, value in (("edge", spec.edge), ("cloud", spec.cloud)) if value]
    options = [config(OptionSpec, value, f"{where}: {value['place']}") for value in given]
    options += [config(OptionSpec, value, f"{where}: options") for value in spec.options]
    try:
        return TaskKind(
            name=kind.name,
            deadline_ns=round(spec.deadline_ms * MS_NS),
            options=tuple(_option(option, spread, kind.profiled, mean_bytes) for option in options),
            qoe_bonus=spec.qoe_bonus,
            qoe_target=spec.qoe_target,
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _option(spec: OptionSpec, spread: Spread, link: Link, mean_bytes: int) -> Option:
    """What the server takes is what the link does not, of a cloud time taken on that link."""
    if spec.place not in ("edge", "cloud", "split"):
        raise ValueError(f"place is edge, cloud or split, not {spec.place!r}")
    if not 0 < spec.ms <= 3.6e6 or not 0 <= spec.head_ms < spec.ms:
        raise ValueError(f"ms {spec.ms} must be above 0 and head_ms {spec.head_ms} a part of it")
    expected_ns = round(spec.ms * MS_NS)
    edge_ns = expected_ns if spec.place == "edge" else round(spec.head_ms * MS_NS)
    server_ns = 0
    if spec.place != "edge":
        upload_ns = link.sent_ns(0, spec.upload_bytes or mean_bytes)
        network_ns = link.rtt_ns(0) + (expected_ns if upload_ns is None else upload_ns)
        server_ns = expected_ns - edge_ns - network_ns
        if server_ns <= 0:
            raise ValueError(f"{spec.place}: the link alone takes {network_ns / MS_NS:.0f} of its {spec.ms:g} ms")
    return Option(
        place=spec.place,  # type: ignore[arg-type]  # checked above
        benefit=spec.benefit,
        cost=spec.cost,
        expected_ns=expected_ns,
        edge_ns=edge_ns,
        server_ns=server_ns,
        upload_bytes=spec.upload_bytes,
        edge_spread=spread.edge if edge_ns else 0.0,
        remote_spread=spread.cloud if server_ns else 0.0,
        name=spec.name,
    )
