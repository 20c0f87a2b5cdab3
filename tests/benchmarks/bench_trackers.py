"""Our trackers in images beside those of others, in one run: frames/s, HOTA, MOTA and IDF1 on the same detections.

Data: MOT15-train with public detections, from the folder that TERCEL_DATA names, and simulated streams of 50, 100 and
1000 objects (tests/benchmarks/peers/streams.py). Peers, each with its defaults and with settings chosen for the data
(peers/settings.py): the box trackers of roboflow's `trackers`, norfair and boxmot, and SORT on filterpy. They run in
.venv-peers, which `make .venv-peers/stamp` makes; without it, ours are measured alone.

One thread, and only update calls are timed, in CPU seconds, which others on the machine disturb less. The first round
is everybody's and gives the scores; in the others, ours and the fastest peers take turns. frames/s are those of the
median run.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is loaded

import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable  # noqa: E402
from itertools import zip_longest  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.benchmarks.peers.contest import Contest, Entry, Worker, judged  # noqa: E402
from tests.benchmarks.peers.settings import MOT15_HALVES, OURS, PEERS  # noqa: E402
from tests.benchmarks.peers.streams import Stream, mot15_streams, simulated_stream, write_detections  # noqa: E402

GOALS = {"fastest": 8.0, "filterpy": 20.0, "above sort": 3.0}
OWN = "tercel"
FILTERPY, AUTHORS = "filterpy SORT", "SORT, authors'"
CONTENDERS = 3  # the fastest peers, which run again in every round
COLUMNS = ("HOTA", "MOTA", "IDF1")
ABOVE: dict[str, tuple[str, ...]] = {"all": (), **MOT15_HALVES}
LIMITS_S = {"1000 objects": 15.0}

DATA: dict[str, Callable[[], list[Stream]]] = {
    "mot15": lambda: mot15_streams(data_folder() / "mot15"),
    "50 objects": lambda: [simulated_stream(50, 250, seed=11)],
    "100 objects": lambda: [simulated_stream(100, 150, seed=11)],
    "1000 objects": lambda: [simulated_stream(1000, 40, seed=11)],
}


def data_folder() -> Path:
    """The folder of real recordings."""
    return Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))


def entries_for(data: str, sort_py: Path | None, with_peers: bool) -> list[Entry]:
    """All trackers with the settings that apply to a set of data."""
    kinds = ("default", "mot15" if data == "mot15" else "simulated")
    tables = ((OURS, True), (PEERS if with_peers else {}, False))
    entries = [
        Entry(tracker, kind, settings[kind], ours)
        for table, ours in tables
        for tracker, settings in table.items()
        for kind in kinds
        if kind in settings
    ]
    if sort_py and with_peers:
        entries.append(Entry(AUTHORS, "default", {"path": str(sort_py.resolve())}, False))
    return entries


def compete(contest: Contest, entries: list[Entry], rounds: int) -> None:
    """Everybody once, then ours and the fastest peers in turns."""
    contest.detections.parent.mkdir(parents=True, exist_ok=True)
    write_detections(contest.detections, list(contest.streams))
    for index, entry in enumerate(entries):
        if sys.stderr.isatty():
            print(f"\r{contest.name}: {index + 1} of {len(entries)}, {entry.name:40}", end="\r", file=sys.stderr)
        contest.run(entry)
    ours = [entry for entry in entries if entry.ours]
    for _ in range(rounds - 1):
        for pair in zip_longest(rivals(entries), ours):
            for entry in pair:
                if entry is not None:
                    contest.run(entry)


def rivals(entries: list[Entry]) -> list[Entry]:
    """The fastest peers, and SORT on filterpy in any case."""
    peers = sorted((e for e in entries if not e.ours and not e.problem), key=lambda e: -e.frames_per_s)
    return peers[:CONTENDERS] + [entry for entry in peers[CONTENDERS:] if entry.tracker == FILTERPY]


def table(data: str, entries: list[Entry]) -> str:
    """One row for each entry, the highest HOTA first, ours marked; of MOT15, HOTA on both halves too."""
    halves = MOT15_HALVES if data == "mot15" else {}
    width = max(len(entry.name) for entry in entries) + 2
    titles = [f"{title:>9}" for title in ("frames/s", *COLUMNS, "IDSW", *halves)]
    lines = [" ".join([" " * width, *titles])]
    for entry in sorted(entries, key=lambda e: -e.measure("HOTA") if e.scores else 1.0):
        values = [entry.frames_per_s, *(entry.measure(key) for key in (*COLUMNS, "IDSW"))]
        values += [entry.measure("HOTA", names) for names in halves.values()]
        places = [0, 2, 2, 2, 0, *(2 for _ in halves)]
        cells = [f"{value:9.{digits}f}" for value, digits in zip(values, places, strict=True)]
        lines.append(
            " ".join([f"{'* ' if entry.ours else '  '}{entry.name}".ljust(width), *cells, entry.problem]).rstrip()
        )
    return "\n".join(lines)


def goals(own: Entry, entries: list[Entry]) -> dict[str, Any]:
    """How one of ours stands against the peers, each at its fastest and at its best; empty without peers."""
    peers = [entry for entry in entries if not entry.ours and entry.frames_per_s]
    filterpy = [entry.frames_per_s for entry in peers if entry.tracker == FILTERPY]
    others = [entry for entry in peers if entry.tracker not in (FILTERPY, AUTHORS)]
    scored = [entry for entry in peers if entry.scores]
    if not (filterpy and others and scored):
        return {}
    fastest = max(others, key=lambda e: e.frames_per_s)
    best = max(scored, key=lambda e: e.measure("HOTA"))
    return {
        "tracker": own.name, "hota": own.measure("HOTA"), "best": best.name, "best_hota": best.measure("HOTA"),
        "fastest": fastest.name, "times_fastest": own.frames_per_s / fastest.frames_per_s,
        "times_filterpy": own.frames_per_s / max(filterpy),
    }  # fmt: skip


def verdict(found: dict[str, Any]) -> str:
    """The goals beside what was measured."""
    lines = [f"{found['tracker']}:"]
    for key, who in (("fastest", f"the fastest peer, {found['fastest']}"), ("filterpy", FILTERPY)):
        times, goal = found[f"times_{key}"], GOALS[key]
        lines.append(f"  {times:.1f}x {who} (goal {goal:.0f}x: {'met' if times >= goal else 'NOT MET'})")
    met = "met" if found["hota"] >= found["best_hota"] else "NOT MET"
    lines.append(
        f"  HOTA {found['hota']:.2f}, the best peer's {found['best_hota']:.2f}, {found['best']} (goal, no lower: {met})"
    )
    return "\n".join(lines)


def above_sort(entries: list[Entry]) -> str:
    """How far our own tracker's HOTA is above that of SORT as published, on MOT15's halves."""
    named = {entry.name: entry for entry in entries}
    own, plain = named[f"{OWN} (mot15)"], named["sort (default)"]
    gains = {title: own.measure("HOTA", names) - plain.measure("HOTA", names) for title, names in ABOVE.items()}
    met = "met" if min(gains.values()) >= GOALS["above sort"] else "NOT MET"
    said = ", ".join(f"{title} {gain:+.2f}" for title, gain in gains.items())
    return f"HOTA of {own.name} above {plain.name}: {said} (goal +{GOALS['above sort']:.0f}: {met})"


def largest_difference(contest: Contest, entries: list[Entry], python: Path) -> float | None:
    """Between our evaluator and TrackEval over some entries, in percent points; none if TrackEval cannot be asked."""
    theirs = judged(python, contest, entries)
    pairs = [(e.measure(key), 100.0 * theirs[e.name][key]) for e in entries if e.name in theirs for key in COLUMNS]
    return max((abs(a - b) for a, b in pairs), default=None)


def main() -> None:
    """Run the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there")
    parser.add_argument("--only", choices=DATA, nargs="+", default=list(DATA), help="some of the data")
    parser.add_argument("--rounds", type=int, default=3, help="runs of ours and of the fastest peers")
    parser.add_argument(
        "--peers", metavar="DIR", type=Path, default=REPOSITORY / ".venv-peers", help="their environment"
    )
    parser.add_argument("--sort-py", metavar="FILE", type=Path, help="a copy of SORT's own program, to be run beside")
    options = parser.parse_args()
    print("$ python tests/benchmarks/bench_trackers.py", *sys.argv[1:])
    python = options.peers / "bin" / "python"
    with_peers = (options.peers / "stamp").exists()
    if not with_peers:
        print(f"no peers in {options.peers} (make .venv-peers/stamp): ours alone")
    worker = Worker(python) if with_peers else None
    numbers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            if name == "mot15" and not (data_folder() / "mot15").is_dir():
                print(f"\nmot15: not in {data_folder()}, left out (TERCEL_DATA names the folder)")
                continue
            contest = Contest(name, DATA[name](), Path(folder) / name, worker, LIMITS_S.get(name, 120.0))
            entries = entries_for(name, options.sort_py, with_peers)
            compete(contest, entries, options.rounds)
            numbers[name] = report(contest, entries, python if with_peers else None)
    if worker:
        worker.close()
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


def report(contest: Contest, entries: list[Entry], python: Path | None) -> dict[str, Any]:
    """Print a set's table and goals, and give its numbers."""
    print(f"\n{contest.name}, * ours\n{table(contest.name, entries)}", flush=True)
    stands = [found for entry in entries if entry.tracker == OWN and (found := goals(entry, entries))]
    for found in stands:
        print(verdict(found))
    if contest.name == "mot15":
        print(above_sort(entries))
    ranked = sorted((e for e in entries if e.scores), key=lambda e: -e.measure("HOTA"))
    judging = [next((e for e in ranked if e.ours == ours), None) for ours in (True, False)]
    difference = largest_difference(contest, [e for e in judging if e], python) if python else None
    if difference is not None:
        print(f"TrackEval on the best of ours and of theirs: {difference:.4f} percent points apart at most", flush=True)
    rows = {
        entry.name: {
            "ours": entry.ours, "settings": entry.settings, "frames_per_s": entry.frames_per_s, "runs_s": entry.runs_s,
            "problem": entry.problem, "scores": entry.total().summary() if entry.scores else None,
        }
        for entry in entries
    }  # fmt: skip
    return {"trackers": rows, "goals": stands, "trackeval_difference": difference}


if __name__ == "__main__":
    main()
