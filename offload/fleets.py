"""Fleet files: kinds of task, workloads, the link and the mishaps of a simulated day, read from YAML and checked.

    include: dems.yaml      # its kinds, spread and link, so that no number is written twice; beside this file only
    kinds:
      HV: {deadline_ms: 650, qoe_bonus: 100, edge: {ms: 174, benefit: 125, cost: 1}, cloud: {ms: 398, ...}}
      # further ways to run one: options: [{place: split, ms: 300, head_ms: 60, upload_bytes: 9000, ...}, ...]
    spread: {edge: 0.0, cloud: 0.05}
    link: {model: constant, rate_mbps: 50, rtt_ms: 30}   # on which cloud times were taken, and the workloads' default
    workloads:
      2D-P: {drones: 2, kinds: [HV, DEV, MD, BP]}
      ten walkers: {people: 10, drones_per_person: 2, kinds: [HV, DEV]}    # each person carries the box of their drones

A kind's cloud times were taken on the link of the file that it stands in; the including file's own link and spread, if
any, are those of the day. Every mistake is a UserError that names the file, the place in it and the mend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from offload.kinds import KindAt, KindSpec, Spread, make_kind
from offload.link import Link, TraceLink, link_from_text, load_link
from offload.scenario import ColdStarts, Day, Fleet, Slowdown, draw_day
from offload.settings import config, located, mapping, read_settings
from offload.tasks import TaskKind
from tercel.core.errors import UserError, nearest_hint

MAX_TASKS = 5_000_000
MAX_LANES = 64
_KNOWN = ("include", "kinds", "spread", "link", "workloads")


@dataclass(frozen=True)
class WorkloadSpec:
    """A fleet: so many drones, or so many people with drones_per_person each.

    drones_per_box: those that share a board (0: all, or a person's); link: another one than the file's.
    """

    kinds: tuple[str, ...]
    drones: int = 0
    people: int = 0
    drones_per_person: int = 0
    drones_per_box: int = 0
    duration_s: float = 300.0
    period_ms: float = 1000.0
    jitter_ms: float = 0.0
    size_bytes: tuple[int, ...] = (14_000, 44_000)
    lanes: int = 1
    window_s: float = 20.0
    link: dict[str, Any] = field(default_factory=dict)
    slowdowns: tuple[dict[str, Any], ...] = ()
    cold_start_ms: float = 0.0
    cold_keep_s: float = 60.0

    def __post_init__(self) -> None:
        self._check_fleet()
        if not (0 < self.duration_s <= 86_400 and 1 <= self.period_ms <= 1e6 and 0 <= self.jitter_ms <= self.period_ms):
            raise ValueError("duration_s must be in 0..86400, period_ms in 1..1000000, jitter_ms in 0..period_ms")
        if self.duration_s * 1e3 < self.period_ms:
            raise ValueError("duration_s must be at least one period_ms, or there is no task")
        if len(self.size_bytes) != 2 or not 1 <= self.size_bytes[0] <= self.size_bytes[1] <= 1 << 30:
            raise ValueError(f"size_bytes is [least, greatest], not {list(self.size_bytes)}")
        if not (1 <= self.window_s <= 3600 and self.cold_start_ms >= 0 and self.cold_keep_s > 0):
            raise ValueError("window_s must be in 1..3600, cold_start_ms at least 0, cold_keep_s above 0")
        tasks = self.flying * len(self.kinds) * self.duration_s * 1e3 / self.period_ms
        if not tasks <= MAX_TASKS:
            raise ValueError(f"{tasks:.0f} tasks are more than {MAX_TASKS}; shorten the day")

    def _check_fleet(self) -> None:
        if min(self.drones, self.people, self.drones_per_person, self.drones_per_box) < 0:
            raise ValueError("drones and people cannot be fewer than none")
        if not 1 <= self.lanes <= MAX_LANES:
            raise ValueError(f"lanes must be in 1..{MAX_LANES}")
        if (self.people > 0) != (self.drones_per_person > 0) or (self.drones > 0) == (self.people > 0):
            raise ValueError("give drones, at least 1, or else both people and drones_per_person")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds must be named, each once")

    @property
    def flying(self) -> int:
        """How many drones there are."""
        return self.drones or self.people * self.drones_per_person

    @property
    def sharing(self) -> int:
        """How many drones share a board."""
        return self.drones_per_box or self.drones_per_person or self.drones


@dataclass(frozen=True)
class SlowdownSpec:
    """See Slowdown."""

    from_s: float
    to_s: float
    factor: float

    def __post_init__(self) -> None:
        if not (0 <= self.from_s < self.to_s <= 86_400 and 0.1 <= self.factor <= 100):
            raise ValueError("from_s must be before to_s, factor in 0.1..100")


@dataclass(frozen=True)
class Workload:
    """A named fleet and the link that its boxes have: settings as in the file or as on the command line, or a link.

    link_words: the link for people, without folders.
    """

    name: str
    fleet: Fleet
    link: Mapping[str, Any] | str | Link
    link_words: str = ""

    def day(self, seed: int) -> Day:
        """Draw a day; each box stands at another place of the link's trace."""
        links = [self._link(seed, box) for box in range(self.fleet.boxes)]
        return draw_day(self.fleet, links, seed)

    def _link(self, seed: int, box: int) -> Link:
        offset_ns = (seed * 37 + box * 61) * 1_000_000_000  # two days, or two boxes, seldom meet the same part
        if isinstance(self.link, TraceLink):
            return replace(self.link, offset_ns=offset_ns)
        return _make_link(self.link, seed=seed * 1000 + box, offset_ns=offset_ns)


def _make_link(link: Mapping[str, Any] | str | Link, seed: int = 0, offset_ns: int = 0) -> Link:
    if isinstance(link, str):
        return link_from_text(link, seed, offset_ns)
    return load_link(link, seed, offset_ns) if isinstance(link, Mapping) else link


def read_fleets(path: Path, link: Mapping[str, Any] | str | None = None) -> dict[str, Workload]:
    """The workloads of a fleet file, by name. link: instead of those in the file, as settings or as `link_from_text`
    wants it. Raises UserError.
    """
    file = _read_file(path)
    common = None if link is None else _read_once(link)
    workloads = {}
    for name, value in mapping(file.content.get("workloads"), f"{path}: workloads").items():
        where = f"{path}: workloads: {name}"
        spec = config(WorkloadSpec, value, where)
        for kind in spec.kinds:
            if kind not in file.kinds:
                raise UserError(f"{where}: no kind is called {kind!r}; {nearest_hint(kind, file.kinds)}")
        mean_bytes = sum(spec.size_bytes) // 2
        kinds = tuple(make_kind(file.kinds[kind], file.spread, mean_bytes) for kind in spec.kinds)
        chosen = link or spec.link or file.link
        own = common or located(where, _read_once, chosen)
        workloads[name] = Workload(name, _fleet(spec, kinds, where), own, _words(chosen))
    return workloads


def _words(link: Mapping[str, Any] | str) -> str:
    if isinstance(link, str):
        source, comma, rest = link.partition(",")
        return Path(source).name + comma + rest
    named = [Path(str(value)).name if key == "trace" else str(value) for key, value in link.items() if key in _NAMES]
    return ", ".join([*named, *(f"{key} {value}" for key, value in link.items() if key not in _NAMES)])


_NAMES = ("model", "trace")


def _read_once(link: Mapping[str, Any] | str) -> Mapping[str, Any] | str | Link:
    """The settings, checked; of a trace, which would have to be read for each box, the link."""
    made = _make_link(link)
    return made if isinstance(made, TraceLink) else link


@dataclass(frozen=True)
class _File:
    """A fleet file with what it includes."""

    content: Mapping[str, Any]
    kinds: dict[str, KindAt]
    spread: Spread
    link: Mapping[str, Any]


def _read_file(path: Path, *, is_included: bool = False) -> _File:
    content = read_settings(path, _KNOWN, what="fleet file", folder="launch/fleets")
    base = None
    if "include" in content:
        if is_included:
            raise UserError(f"{path}: an included file includes none itself; name that one where it is wanted")
        base = _read_file(_beside(path, content["include"]), is_included=True)
    link = mapping(content.get("link", base.link if base else None), f"{path}: link")
    spread = base.spread if base and "spread" not in content else content.get("spread", {})
    given = mapping(content.get("kinds"), f"{path}: kinds") if "kinds" in content or base is None else {}
    profiled = located(f"{path}: link", load_link, link)
    kinds = dict(base.kinds) if base else {}
    for name, value in given.items():
        where = f"{path}: kinds: {name}"
        if name in kinds:
            raise UserError(f"{where}: stands already in {content['include']}; give one of them another name")
        kinds[name] = KindAt(name, config(KindSpec, value, where), profiled, where)
    if not isinstance(spread, Spread):
        spread = config(Spread, spread, f"{path}: spread")
    return _File(content, kinds, spread, link)


def _beside(path: Path, name: Any) -> Path:
    """The included file, which must lie in the same folder, links followed."""
    if not isinstance(name, str) or name != Path(name).name or name in ("", "..") or "\0" in name:
        raise UserError(f"{path}: include: the name of a file beside it is wanted, not {str(name)[:80]!r}")
    found = path.parent / name
    if found.resolve().parent != path.parent.resolve():
        raise UserError(f"{path}: include: {name} leads out of its folder; copy it there")
    if not found.is_file():
        raise UserError(f"{path}: include: no file {name} lies beside it")
    return found


def _fleet(spec: WorkloadSpec, kinds: tuple[TaskKind, ...], where: str) -> Fleet:
    slowdowns = [config(SlowdownSpec, value, f"{where}: slowdowns") for value in spec.slowdowns]
    return Fleet(
        kinds=kinds,
        drones=spec.flying,
        drones_per_box=spec.sharing,
        duration_ns=round(spec.duration_s * 1e9),
        period_ns=round(spec.period_ms * 1e6),
        jitter_ns=round(spec.jitter_ms * 1e6),
        size_bytes=(spec.size_bytes[0], spec.size_bytes[1]),
        lanes=spec.lanes,
        slowdowns=tuple(Slowdown(round(s.from_s * 1e9), round(s.to_s * 1e9), s.factor) for s in slowdowns),
        cold=ColdStarts(round(spec.cold_start_ms * 1e6), round(spec.cold_keep_s * 1e9)) if spec.cold_start_ms else None,
        window_ns=round(spec.window_s * 1e9),
    )
