"""Fleet files: the ones that ship, what they share, and every way to write one wrongly."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offload.fleets import read_fleets
from offload.link import ConstantLink, TraceLink
from offload.policies import make_policy
from offload.settings import MAX_FILE_BYTES
from offload.simulator import FATES, simulate
from tercel.core.errors import UserError

FLEETS = Path(__file__).parents[2] / "launch" / "fleets"
SHIPPED = sorted(path.name for path in FLEETS.glob("*.yaml"))

KINDS = (
    "kinds:\n  A: {deadline_ms: 500, edge: {ms: 100, benefit: 10, cost: 1}, cloud: {ms: 300, benefit: 10, cost: 2}}\n"
)
LINK = "link: {model: constant, rate_mbps: 50, rtt_ms: 30}\n"
WORKLOAD = "workloads:\n  W: {drones: 1, duration_s: 5, kinds: [A]}\n"


def write(tmp_path: Path, text: str, name: str = "f.yaml") -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def refused(path: Path, words: str, **given: Any) -> None:
    """One line that names the file and says what is wrong."""
    with pytest.raises(UserError, match=words) as caught:
        read_fleets(path, **given)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


# --- what ships ------------------------------------------------------------------------------------------------------


def test_the_fleets_that_the_design_names_are_there() -> None:
    assert {"dems", "variability", "outages", "thermal", "fleet80", "variants", "people"} <= {
        name.removesuffix(".yaml") for name in SHIPPED
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_every_fleet_file_loads_and_each_of_its_workloads_can_be_simulated(name: str) -> None:
    for workload in read_fleets(FLEETS / name).values():
        fleet = workload.fleet
        drones = min(fleet.drones, 2 * fleet.drones_per_box)
        short = replace(workload, fleet=replace(fleet, drones=drones, duration_ns=5 * 10**9))
        day = short.day(seed=3)
        assert len(day.created_ns) == drones * len(fleet.kinds) * 5 * 10**9 // fleet.period_ns
        run = simulate(day, lambda context: make_policy("edf_ec", context))
        assert len(run.fate) == len(day.created_ns)
        assert (run.fate < FATES.index("late")).any()


def test_the_large_fleet_has_144_000_tasks_on_twenty_boxes_of_four() -> None:
    (workload,) = read_fleets(FLEETS / "fleet80.yaml").values()
    day = workload.day(0)
    assert len(day.created_ns) == 144_000
    assert len(day.links) == 20
    assert all(len(np.unique(day.source[day.box == box])) == 4 for box in range(20))


def test_no_kind_is_written_in_two_fleet_files() -> None:
    seen: dict[str, str] = {}
    for name in SHIPPED:
        for kind in re.findall(
            r"^  (\w+): *\{?deadline_ms|^  (\w+):\n    deadline_ms", (FLEETS / name).read_text(), re.MULTILINE
        ):
            text = kind[0] or kind[1]
            assert text not in seen, f"{text} stands in {seen.get(text)} and in {name}"
            seen[text] = name
    assert {"HV", "DEO", "vest"} <= set(seen)


def test_the_kinds_of_the_paper_have_its_numbers() -> None:
    """DEMS, arXiv 2412.20860, table 1: deadline, edge, cloud, benefit, costs, bonus."""
    table = {
        "HV": (650, 174, 398, 125, 1, 25, 100),
        "DEV": (750, 172, 429, 100, 1, 26, 120),
        "MD": (850, 142, 589, 75, 1, 15, 130),
        "BP": (900, 244, 542, 40, 2, 43, 140),
        "CD": (1000, 563, 878, 175, 4, 152, 150),
        "DEO": (950, 739, 832, 250, 6, 210, 160),
    }
    kinds = read_fleets(FLEETS / "dems.yaml")["4D-A"].fleet.kinds
    for kind in kinds:
        assert kind.edge is not None
        assert kind.cloud is not None
        numbers = (kind.deadline_ns / 1e6, kind.edge.expected_ns / 1e6, kind.cloud.expected_ns / 1e6)
        costs = (kind.edge.benefit, kind.edge.cost, kind.cloud.cost, kind.qoe_bonus)
        assert (*numbers, *costs) == table[kind.name]
    assert len(kinds) == 6


def test_people_carry_a_box_each_and_their_drones_are_linked_to_it() -> None:
    day = read_fleets(FLEETS / "people.yaml")["10 people in pairs"].day(0)
    assert len(day.links) == 10
    assert all(
        np.unique(day.source[day.box == person]).tolist() == [2 * person, 2 * person + 1] for person in range(10)
    )
    assert day.created_ns[0] % 10**9 != 0


def test_the_variants_offer_every_place_and_each_of_their_ways_can_be_in_time() -> None:
    kinds = read_fleets(FLEETS / "variants.yaml")["1D"].fleet.kinds
    for kind in kinds:
        assert {option.place for option in kind.options} == {"edge", "cloud", "split"}
        assert all(option.quantile_ns(1.645) < kind.deadline_ns for option in kind.options)
        assert len({(option.place, option.name) for option in kind.options}) == len(kind.options)


# --- include ---------------------------------------------------------------------------------------------------------


def test_an_including_file_has_the_kinds_spread_and_link_of_the_other(tmp_path: Path) -> None:
    write(tmp_path, KINDS + LINK + "spread: {edge: 0.3, cloud: 0.2}\n", "base.yaml")
    (workload,) = read_fleets(write(tmp_path, "include: base.yaml\n" + WORKLOAD)).values()
    (kind,) = workload.fleet.kinds
    assert [option.edge_spread for option in kind.options] == [0.3, 0.0]
    assert [option.remote_spread for option in kind.options] == [0.0, 0.2]
    assert workload.day(0).links == (ConstantLink(50_000_000, 30_000_000),)


def test_an_included_kind_keeps_the_link_on_which_its_cloud_time_was_taken(tmp_path: Path) -> None:
    """29,000 bytes on average: 300 - 30 - 4.64 ms are the server's, whatever link the day has."""
    write(tmp_path, KINDS + LINK, "base.yaml")
    other = "link: {model: constant, rate_mbps: 1, rtt_ms: 200}\n"
    (workload,) = read_fleets(write(tmp_path, "include: base.yaml\n" + other + WORKLOAD)).values()
    cloud = workload.fleet.kinds[0].cloud
    assert cloud is not None
    assert cloud.server_ns == 265_360_000
    assert workload.day(0).links == (ConstantLink(1_000_000, 200_000_000),)


def test_the_including_file_may_add_kinds_but_not_change_them(tmp_path: Path) -> None:
    write(tmp_path, KINDS + LINK, "base.yaml")
    more = KINDS.replace("A:", "B:") + "workloads: {W: {drones: 1, kinds: [A, B]}}\n"
    kinds = read_fleets(write(tmp_path, "include: base.yaml\n" + more))["W"].fleet.kinds
    assert [kind.name for kind in kinds] == ["A", "B"]
    refused(write(tmp_path, "include: base.yaml\n" + KINDS + WORKLOAD), r"kinds: A: stands already in base\.yaml")


@pytest.mark.parametrize("name", ["../base.yaml", "/etc/passwd", "sub/base.yaml", "..", ".", "", "3", "[a]", '"a\\0b"'])
def test_a_file_includes_only_what_lies_beside_it(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    (inner / "sub").mkdir(parents=True)
    for folder in (tmp_path, inner / "sub"):
        write(folder, KINDS + LINK, "base.yaml")
    refused(write(inner, f"include: {name}\n" + WORKLOAD), ": include: ")


def test_a_symbolic_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "base.yaml").symlink_to(write(tmp_path, KINDS + LINK, "base.yaml"))
    refused(write(inner, "include: base.yaml\n" + WORKLOAD), "leads out of its folder")


def test_a_file_that_includes_itself_or_another_that_includes_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path, "include: f.yaml\n" + WORKLOAD), "an included file includes none itself")
    refused(write(tmp_path, "include: none.yaml\n" + WORKLOAD), r"no file none\.yaml lies beside it")


# --- links -----------------------------------------------------------------------------------------------------------


def test_a_link_from_the_command_line_replaces_all_and_is_named_without_its_folder(tmp_path: Path) -> None:
    trace = tmp_path / "drive.up"
    trace.write_text("".join(f"{ms}\n" for ms in range(1, 200_000, 3)))
    workloads = read_fleets(FLEETS / "outages.yaml", f"{trace},scale=2")
    assert {workload.link_words for workload in workloads.values()} == {"drive.up,scale=2"}
    day = next(iter(read_fleets(FLEETS / "people.yaml", str(trace)).values())).day(2)
    links = [link for link in day.links if isinstance(link, TraceLink)]
    assert len(links) == 10
    assert len({link.offset_ns for link in links}) == 10, "each box stands at another place of the trace"
    assert len({id(link.trace) for link in links}) == 1, "the file is read once"


def test_two_seeds_meet_different_states_of_a_random_link() -> None:
    workload = read_fleets(FLEETS / "outages.yaml")["3D-A long"]
    rates = [
        [link.capacity_bytes(at, at + 10**9) for at in range(0, 300 * 10**9, 10**9)]
        for link in (workload.day(seed).links[0] for seed in (1, 1, 2))
    ]
    assert rates[0] == rates[1]
    assert rates[0] != rates[2]


# --- mistakes --------------------------------------------------------------------------------------------------------

VALID = KINDS + LINK + WORKLOAD
BOMB = "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in pairwise("abcdefgh"))

TEXTS = {
    "no YAML": (": : :\n\t- {", "no YAML"),
    "YAML that is a list": ("- 1\n- 2\n", "a mapping is wanted"),
    "an empty file": ("", "a mapping is wanted"),
    "a key twice": (KINDS + VALID, "no YAML"),
    "a date that is none": ("kinds: 2001-99-99\n", "no YAML"),
    "an unknown key": (VALID + "wrokloads: {}\n", "did you mean 'workloads'"),
    "no kinds": (LINK + WORKLOAD, "kinds: a mapping is wanted"),
    "no link": (KINDS + WORKLOAD, "link: a mapping is wanted"),
    "no workloads": (KINDS + LINK, "workloads: a mapping is wanted"),
    "a kind that is no mapping": ("kinds: {A: 3}\n" + LINK + WORKLOAD, "kinds: A: a mapping is wanted"),
    "no way at all": ("kinds: {A: {deadline_ms: 500}}\n" + LINK + WORKLOAD, "there must be an option"),
    "a spread of 3": (VALID + "spread: {edge: 3}\n", "spreads 3"),
    "a heap of aliases": ("a: &a [x, x, x, x, x, x, x, x, x]\n" + BOMB + "kinds: *h\n", "more than"),
    "an alias of itself": ("kinds: &k {A: *k}\n", "more than|no YAML"),
    "too deep": ("[" * 5000, "no YAML|nested too deeply"),
    "too long": ("#" * (MAX_FILE_BYTES + 1), "larger than"),
}
CHANGES = {
    "a key that is a number": ("  W:", "  1:", "is no text"),
    "an unknown link": ("model: constant", "model: tcp", "link model 'tcp' is unknown"),
    "a link that says too little": ("rate_mbps: 50, ", "", "wants rate_mbps"),
    "an edge that is no mapping": ("edge: {ms: 100, benefit: 10, cost: 1}", "edge: 3", "edge: a mapping is wanted"),
    "an unknown kind": ("[A]", "[AA]", "no kind is called 'AA'; did you mean 'A'"),
    "a kind twice": ("[A]", "[A, A]", "each once"),
    "no kind": ("[A]", "[]", "kinds must be named"),
    "an option's unknown key": ("cost: 1", "cots: 1", "did you mean 'cost'"),
    "a way to nowhere": ("cost: 2}", "cost: 2}, options: [{place: moon, ms: 1, benefit: 1, cost: 1}]", "not 'moon'"),
    "NaN": ("ms: 100", "ms: .nan", "ms nan"),
    "a deadline of NaN": ("500", ".nan", "kinds: A: "),
    "infinity": ("benefit: 10", "benefit: .inf", "benefit"),
    "a cloud faster than its link": ("300", "20", "the link alone takes 35 of its 20 ms"),
    "a negative cost": ("cost: 1", "cost: -1", "cost -1"),
    "zero drones": ("drones: 1", "drones: 0", "give drones, at least 1"),
    "fewer drones than none": ("drones: 1", "drones: -1", "fewer than none"),
    "half a drone": ("drones: 1", "drones: 1.5", "int is wanted"),
    "drones and people": ("drones: 1", "drones: 1, people: 2, drones_per_person: 1", "or else both"),
    "people without drones": ("drones: 1", "people: 2", "or else both"),
    "a huge day": ("duration_s: 5", "duration_s: 1.0e+9", "0..86400"),
    "a day of NaN": ("duration_s: 5", "duration_s: .nan", "0..86400"),
    "a day without a task": ("duration_s: 5", "duration_s: 0.5", "at least one period_ms"),
    "too many tasks": ("drones: 1", "drones: 100000000", "shorten the day"),
    "a thousand lanes": ("drones: 1", "drones: 1, lanes: 1000", "lanes must be in"),
    "a size upside down": ("drones: 1", "drones: 1, size_bytes: [9, 3]", "size_bytes is"),
    "a slow-down that ends first": (
        "[A]",
        "[A], slowdowns: [{from_s: 9, to_s: 3, factor: 2}]",
        "from_s must be before",
    ),
    "a missing trace": ("[A]", "[A], link: {trace: /no/such}", "W: .*no such trace"),
}


@pytest.mark.parametrize("mistake", TEXTS)
def test_a_file_that_is_no_fleet_file_is_refused_in_one_line(tmp_path: Path, mistake: str) -> None:
    text, words = TEXTS[mistake]
    refused(write(tmp_path, text), words)


@pytest.mark.parametrize("mistake", CHANGES)
def test_a_mistake_is_one_line_that_names_the_file_and_the_mend(tmp_path: Path, mistake: str) -> None:
    old, new, words = CHANGES[mistake]
    assert old in VALID
    refused(write(tmp_path, VALID.replace(old, new)), words)


def test_what_the_mistakes_start_from_is_right(tmp_path: Path) -> None:
    assert list(read_fleets(write(tmp_path, VALID))) == ["W"]


def test_a_file_that_is_missing_a_folder_or_endless_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.yaml", "fleet files lie in launch/fleets")
    refused(tmp_path, "directory")
    refused(Path("/dev/zero"), "larger than")
    (tmp_path / "latin.yaml").write_bytes(b"kinds: \xff\xfe\n")
    refused(tmp_path / "latin.yaml", "no YAML")


values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.sampled_from(["A", "", "constant"]), st.just([]),
    st.lists(st.integers(-1, 2), max_size=2), st.just({}), st.just({"ms": 1}),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_in_a_value_a_fleet_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    from ruamel.yaml import YAML

    content: Any = YAML(typ="safe", pure=True).load(KINDS + LINK + "spread: {edge: 0.1}\n" + WORKLOAD)
    node = content
    while True:
        key = data.draw(st.sampled_from(sorted(node)))
        if not isinstance(node[key], dict) or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(values)
    with (tmp_path / "f.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(content, file)
    try:
        workloads = read_fleets(tmp_path / "f.yaml")
    except UserError as error:
        assert "f.yaml" in str(error)
    else:
        assert all(workload.fleet.drones >= 1 for workload in workloads.values())
