"""The report of `tercel simulate`: whole in itself, safe, the same twice, and true to the runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.fleets import read_fleets
from offload.policies import make_policy
from offload.scenario import SECOND_NS, Day
from offload.scores import held_by
from offload.simulator import FATES, Run, simulate
from offload.tasks import Fate
from tercel.report.offload_charts import comparison_panel, is_best, short
from tercel.report.offload_gantt import STRETCH_NS, TICK_NS, choose_stretches, gantt_of, stacked
from tercel.report.offload_material import bin_edges_ns, link_line, timeline_of, windows_of
from tercel.report.offload_report import write_offload_report
from tercel.report.offload_run import SimulationOptions, SimulationRun, run_simulation
from tercel.report.offload_workload import KIND_COLOURS

FLEETS = Path(__file__).parents[2] / "launch" / "fleets"
EVIL = "<img src=x onerror=alert(1)>"
VOID = {"meta", "img", "input", "br", "link"}


def fleet_file(folder: Path, *, seconds: float = 30, name: str = "W") -> Path:
    (folder / "dems.yaml").write_text((FLEETS / "dems.yaml").read_text())
    link = "link: {model: gilbert_elliott, rate_mbps: 4, bad_mbps: 0, good_s: 4, bad_s: 2, rtt_ms: 50}"
    slow = "slowdowns: [{from_s: 5, to_s: 15, factor: 2}]"
    text = (
        f'include: dems.yaml\n{link}\nworkloads:\n  "{name}": {{drones: 4, drones_per_box: 2, duration_s: {seconds}, '
    )
    (folder / "fleet.yaml").write_text(text + f"kinds: [HV, MD, CD], {slow}}}\n")
    return folder / "fleet.yaml"


def simulation(folder: Path, path: Path, *policies: str, **given: Any) -> SimulationRun:
    policies = policies or ("edf_ec", "dems", "cloud_only")
    options = SimulationOptions(path, policies=policies, report=folder / "out.html", command="tercel simulate", **given)
    return run_simulation(options)


def page(folder: Path, run: SimulationRun) -> str:
    write_offload_report(folder / "out.html", run)
    return (folder / "out.html").read_text(encoding="utf-8")


def gantt_data(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="gantt">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


class Checker(HTMLParser):
    """Every tag is closed, and nothing is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "onerror")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_is_sound_html_that_loads_nothing_and_names_no_folder(tmp_path: Path) -> None:
    html = page(tmp_path, simulation(tmp_path, fleet_file(tmp_path), seeds=(0, 1)))
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert checker.addresses == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert str(tmp_path) not in html
    assert "default-src 'none'" in html


def test_names_from_the_file_are_escaped_everywhere(tmp_path: Path) -> None:
    html = page(tmp_path, simulation(tmp_path, fleet_file(tmp_path, name=EVIL)))
    checker = Checker()
    checker.feed(html)
    assert checker.addresses == []
    assert EVIL not in html
    assert gantt_data(html)["workloads"][0]["name"] == EVIL


def test_the_same_run_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    path = fleet_file(tmp_path)
    first, second, other = (page(tmp_path, simulation(tmp_path, path, seeds=(seed,))) for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_the_page_says_how_it_was_made(tmp_path: Path) -> None:
    html = page(tmp_path, simulation(tmp_path, fleet_file(tmp_path), seeds=(2, 3), estimates="mean"))
    for words in (
        "fleet.yaml",
        "seeds 2 to 3",
        "mean times",
        "gilbert_elliott, rate_mbps 4",
        '<code class="command">tercel simulate</code>',
        "10th to 90th percentile over seeds",
        "4 W while a lane works",
        "4 drones · 2 boxes · 30 s",
    ):
        assert words in html, words


def test_every_number_of_the_summary_is_in_the_page_and_every_fate_in_the_account(tmp_path: Path) -> None:
    run = simulation(tmp_path, fleet_file(tmp_path))
    html = page(tmp_path, run)
    for policy, result in run.results["W"].items():
        assert f"{result.median('qos_utility'):,.0f}" in html
        for reason, count in result.reasons().items():
            assert f"{reason} {count:,}" in html, (policy, reason)
    raw = re.search(r"<pre tabindex=0>(.*?)</pre>", html, re.DOTALL)
    assert raw is not None
    assert json.loads(raw.group(1).replace("&quot;", '"')) == json.loads(json.dumps(run.summary()))


def test_what_was_not_kept_for_a_report_cannot_be_drawn_and_what_was_is_the_first_seed(tmp_path: Path) -> None:
    path = fleet_file(tmp_path)
    without = run_simulation(SimulationOptions(path, policies=("edf",)))
    assert without.shown == {}
    shown = simulation(tmp_path, path, seeds=(7, 8)).shown["W"]
    assert np.array_equal(shown.day.created_ns, read_fleets(path)["W"].day(7).created_ns)


@pytest.mark.parametrize("seconds", [1, 3, 6, 7.5])
def test_a_day_shorter_than_a_stretch_is_drawn_too(tmp_path: Path, seconds: float) -> None:
    run = simulation(tmp_path, fleet_file(tmp_path, seconds=seconds))
    (workload,) = gantt_data(page(tmp_path, run))["workloads"]
    assert [stretch["from_ms"] for stretch in workload["stretches"]] == [0]
    ids = {task[0] for task in workload["stretches"][0]["tasks"][0]}
    day = run.shown["W"].day
    assert ids == set(np.flatnonzero((day.box == 0) & (day.created_ns < STRETCH_NS)).tolist())


def test_one_policy_alone_is_a_report_too(tmp_path: Path) -> None:
    html = page(tmp_path, simulation(tmp_path, fleet_file(tmp_path), "gems"))
    assert "gems did" in html


def test_twelve_policies_and_six_workloads_stay_below_six_megabytes(tmp_path: Path) -> None:
    """The days of DEMS cut to a minute, for the page has six stretches of a day however long it is."""
    text = (FLEETS / "dems.yaml").read_text()
    (tmp_path / "f.yaml").write_text(re.sub(r"(drones: \d)", r"\1, duration_s: 60", text))
    html = page(tmp_path, run_simulation(SimulationOptions(tmp_path / "f.yaml", report=tmp_path / "out.html")))
    assert len(gantt_data(html)["workloads"]) == 6
    assert len(html) < 6_000_000


def test_the_style_has_a_colour_for_each_kind_that_the_page_counts_on() -> None:
    style = (Path(__file__).parents[2] / "tercel" / "report" / "offload.css").read_text()
    script = (Path(__file__).parents[2] / "tercel" / "report" / "offload.js").read_text()
    assert [int(n) for n in re.findall(r"\.kind-(\d) \{", style)] == list(range(KIND_COLOURS))
    assert f"one.kind % {KIND_COLOURS}" in script
    assert all(f".fate-{index} " in style for index in range(len(FATES)))


# --- Gantt charts ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def days() -> dict[str, tuple[Day, dict[str, Run]]]:
    """Two days under three policies: one with outages, one with ways to split and two lanes."""
    outages = read_fleets(FLEETS / "outages.yaml")["3D-A long"]
    variants = read_fleets(FLEETS / "variants.yaml")["2D"]
    made = {}
    for name, workload, lanes in (("outages", outages, 1), ("variants", variants, 2)):
        day = replace(workload, fleet=replace(workload.fleet, duration_ns=60 * SECOND_NS, lanes=lanes)).day(1)
        runs = {
            policy: simulate(day, lambda context, policy=policy: make_policy(policy, context))
            for policy in ("edf_ec", "gems", "hpf")
        }
        made[name] = (day, runs)
    return made


@pytest.mark.parametrize("name", ["outages", "variants"])
def test_in_a_chart_no_two_tasks_are_in_one_place_at_once(
    days: dict[str, tuple[Day, dict[str, Run]]], name: str
) -> None:
    day, runs = days[name]
    for run in runs.values():
        held = held_by(day, run)
        for from_ns in (0, 17 * SECOND_NS, 54 * SECOND_NS):
            spans: dict[tuple[str, int], list[tuple[int, int]]] = {}
            for task in gantt_of(day, run, held, 0, from_ns, {}):
                _, _, _, _, created, _, ended, lane, lane_from, lane_to, up_from, up_to, aloft = task
                assert created <= ended
                if lane >= 0:
                    assert lane < day.lanes
                    assert created <= lane_from < lane_to
                    spans.setdefault(("lane", lane), []).append((lane_from, lane_to))
                if up_to > up_from:
                    assert max(created, lane_to if lane >= 0 else created) <= up_from
                    spans.setdefault(("uplink", 0), []).append((up_from, up_to))
                if aloft >= 0:
                    assert up_to <= ended
                    spans.setdefault(("aloft", aloft), []).append((up_to, ended))
            assert ("lane", 0) in spans
            for of_place in spans.values():
                assert all(first[1] <= second[0] + 1 for first, second in pairwise(sorted(of_place)))


def test_a_chart_tells_each_task_as_the_run_did(days: dict[str, tuple[Day, dict[str, Run]]]) -> None:
    day, runs = days["outages"]
    run, from_ns = runs["gems"], 20 * SECOND_NS
    reasons = {reason: index for index, reason in enumerate(sorted(set(run.reasons) - {""}))}
    tasks = {task[0]: task for task in gantt_of(day, run, held_by(day, run), 0, from_ns, reasons)}
    made = np.flatnonzero((day.created_ns >= from_ns) & (day.created_ns < from_ns + STRETCH_NS))
    assert set(made.tolist()) <= set(tasks)
    for row, (_, kind, fate, reason, created, deadline, ended, *_) in tasks.items():
        assert kind == day.kind[row]
        assert fate == run.fate[row]
        assert reason == reasons.get(run.reasons[row], -1)
        assert created * TICK_NS == pytest.approx(day.created_ns[row] - from_ns, abs=TICK_NS)
        assert (deadline - created) * TICK_NS == pytest.approx(day.kinds[kind].deadline_ns, abs=TICK_NS)
        assert ended * TICK_NS == pytest.approx(run.ended_ns[row] - from_ns, abs=TICK_NS)


def test_the_stretch_that_tells_most_is_where_policies_differ(days: dict[str, tuple[Day, dict[str, Run]]]) -> None:
    day, runs = days["outages"]
    base = runs["gems"]
    even = replace(base, utility=np.ones(len(base.utility)), fate=np.zeros(len(base.fate), np.int8))
    inside = (day.created_ns >= 31 * SECOND_NS) & (day.created_ns < 36 * SECOND_NS)
    other = replace(even, utility=np.where(inside, -5.0, 1.0))
    starts_ns, first = choose_stretches(day, [even, other], 0)
    assert starts_ns[first] <= 31 * SECOND_NS
    assert starts_ns[first] + STRETCH_NS >= 36 * SECOND_NS
    assert all(later - earlier >= STRETCH_NS for earlier, later in pairwise(starts_ns))
    assert 1 <= len(starts_ns) <= 6
    assert starts_ns[-1] + STRETCH_NS <= day.duration_ns


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=30))
def test_stacked_spans_use_as_many_rows_as_there_are_at_once(parts: list[tuple[int, int]]) -> None:
    spans = sorted((begin, begin + length) for begin, length in parts)
    rows = stacked(spans)
    at_once = max((sum(a <= begin < b for a, b in spans) for begin, _ in spans), default=0)
    assert len(set(rows)) == at_once
    for row in set(rows):
        mine = [span for span, at in zip(spans, rows, strict=True) if at == row]
        assert all(first[1] <= second[0] for first, second in pairwise(mine))


# --- over the day ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["edf_ec", "gems", "hpf"])
def test_the_bins_of_a_timeline_add_up_to_the_day(days: dict[str, tuple[Day, dict[str, Run]]], policy: str) -> None:
    for day, runs in days.values():
        run = runs[policy]
        held = held_by(day, run)
        edges_ns = bin_edges_ns(day)
        line = timeline_of(day, run, held, edges_ns)
        width_s = np.diff(edges_ns) / 1e9
        assert edges_ns[0] == 0
        assert edges_ns[-1] == day.duration_ns
        assert (line.utility_per_s * width_s).sum() == pytest.approx(run.utility.sum())
        made = np.histogram(day.created_ns, edges_ns)[0]
        done = (run.fate < FATES.index(Fate.LATE)).sum()
        assert (np.nan_to_num(line.completion) * made).sum() == pytest.approx(done)
        begun = (held.lane_ns > 0) & (held.lane_from_ns < day.duration_ns)
        inside_s = (np.minimum(held.lane_to_ns, day.duration_ns) - held.lane_from_ns)[begun].sum() / 1e9
        assert (line.edge_busy * width_s).sum() * day.lanes == pytest.approx(inside_s)
        assert (line.edge_busy <= 1 + 1e-9).all()


def test_a_bin_in_which_nothing_was_created_has_no_completion(days: dict[str, tuple[Day, dict[str, Run]]]) -> None:
    day, runs = days["outages"]
    first_ns = int(day.created_ns[0])
    line = timeline_of(day, runs["hpf"], held_by(day, runs["hpf"]), np.array([0, first_ns, day.duration_ns]))
    assert np.isnan(line.completion[0])
    assert 0 < line.completion[1] < 1


def test_the_link_is_drawn_as_it_is() -> None:
    day = read_fleets(FLEETS / "variability.yaml")["2D-P"].day(0)
    line = link_line(day, 0)
    assert line.rate_mbps == pytest.approx(50.0)
    assert line.rtt_ms.min() == 30.0
    assert line.rtt_ms.max() == 430.0
    assert len(line.times_s) == len(line.rate_mbps) + 1 == len(line.rtt_ms) + 1


def test_windows_are_counted_box_by_box() -> None:
    workload = read_fleets(FLEETS / "people.yaml")["10 people alone"]
    assert windows_of(workload.day(0), 0) == 10 * 15


# --- comparison ------------------------------------------------------------------------------------------------------


def test_a_dot_stands_where_its_median_is_between_the_ends_of_its_scale(tmp_path: Path) -> None:
    run = simulation(tmp_path, fleet_file(tmp_path), seeds=(0, 1, 2))
    panel = comparison_panel(run.results, "qos_utility", "QoS")
    dots = [re.search(r'<circle class="dot (\w+)" cx="([\d.]+)" cy="([\d.]+)"', shape) for shape in panel.shapes]
    places = [(found.group(1), float(found.group(2)), float(found.group(3))) for found in dots if found]
    medians = [result.median("qos_utility") or 0.0 for result in run.results["W"].values()]
    assert np.argsort([x for _, x, _ in places]).tolist() == np.argsort(medians).tolist()
    assert [css == "best" for css, _, _ in places] == [median >= 0.99 * max(medians) for median in medians]
    (x0, x1), (m0, m1) = (sorted([places[0][1], places[1][1]]), sorted(medians[:2]))
    x2 = x0 + (x1 - x0) * (medians[2] - m0) / (m1 - m0)
    assert places[2][1] == pytest.approx(x2, abs=1.0), "the scale is linear"


def test_among_negative_utilities_the_least_bad_is_best(tmp_path: Path) -> None:
    run = simulation(tmp_path, fleet_file(tmp_path))
    results = run.results["W"]
    for result, utility in zip(results.values(), (-300.0, -100.0, -100.5), strict=True):
        result.scores[:] = [replace(result.scores[0], qos_utility=utility)]
    assert [is_best(results, policy, "qos_utility") for policy in results] == [False, True, True]
    assert comparison_panel(run.results, "qos_utility", "QoS").shapes


SHORT = [(0, "0"), (0.25, "0.25"), (12.3, "12"), (999, "999"), (1500, "1.5k"), (-250_000, "-250k"), (2.5e6, "2.5M")]


@pytest.mark.parametrize(("value", "words"), SHORT)
def test_numbers_on_scales_are_short(value: float, words: str) -> None:
    assert short(value) == words
