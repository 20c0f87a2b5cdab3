"""`tercel simulate`: the table, the JSON, and what it says to mistakes."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offload.fleets import read_fleets
from offload.policies import POLICIES, make_policy
from offload.scores import score
from offload.simulator import simulate
from tercel.cli_simulate import add_simulate
from tercel.core.errors import UserError
from tercel.report.offload_run import INTERVAL, SimulationOptions, run_simulation

FLEETS = Path(__file__).parents[2] / "launch" / "fleets"
SMALL = """\
include: dems.yaml
workloads:
  two: {drones: 2, duration_s: 20, kinds: [HV, MD, DEO]}
  "one <b>": {drones: 1, duration_s: 20, kinds: [CD]}
"""


@pytest.fixture
def fleets(tmp_path: Path) -> Path:
    """Two short days."""
    (tmp_path / "dems.yaml").write_text((FLEETS / "dems.yaml").read_text())
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser(prog="tercel")
    add_simulate(parser.add_subparsers(dest="verb"))
    args = parser.parse_args(["simulate", *(str(argument) for argument in arguments)])
    return int(args.run(args))


def simulated(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """Run the command; the numbers that it wrote."""
    assert run(*arguments, "--json", tmp_path / "out.json") == 0
    numbers: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    return numbers


def refused(*arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_every_workload_is_run_under_every_policy_unless_some_are_named(fleets: Path, tmp_path: Path) -> None:
    numbers = simulated(tmp_path, fleets)
    assert list(numbers) == ["two", "one <b>"]
    assert all(list(policies) == list(POLICIES) for policies in numbers.values())
    some = simulated(tmp_path, fleets, "--workload", "one <b>", "--policy", "gems", "edf", "--policy", "gems")
    assert {name: list(policies) for name, policies in some.items()} == {"one <b>": ["gems", "edf"]}
    assert some["one <b>"]["edf"] == numbers["one <b>"]["edf"], "a policy's numbers do not depend on the others'"


def test_the_json_has_what_was_promised_and_every_task_once(fleets: Path, tmp_path: Path) -> None:
    for policies in simulated(tmp_path, fleets, "--seeds", 3).values():
        for numbers in policies.values():
            promised = {"completion", "qos_utility", "qoe_utility", "of_bound", "energy_j", "seeds", "kinds", "fates"}
            assert promised | {"reasons", "interval", "intervals", "tasks"} <= set(numbers)
            assert numbers["seeds"] == 3
            assert numbers["interval"] == INTERVAL
            assert numbers["of_bound"] is None
            assert sum(numbers["fates"].values()) == numbers["tasks"]
            assert sum(numbers["reasons"].values()) == numbers["fates"]["late"] + numbers["fates"]["dropped"]
            for metric, (low, high) in numbers["intervals"].items():
                assert low <= numbers[metric] <= high


@pytest.mark.parametrize("estimates", ["mean", "p95"])
def test_the_figures_are_medians_of_the_scores_of_single_days(fleets: Path, tmp_path: Path, estimates: str) -> None:
    numbers = simulated(tmp_path, fleets, "--policy", "dems", "--seeds", 4, "--estimates", estimates)["two"]["dems"]
    workload = read_fleets(fleets)["two"]
    deviate = {"mean": None, "p95": 1.645}[estimates]
    scores = []
    for seed in range(4):
        day = workload.day(seed)
        scores.append(score(day, simulate(day, lambda context: make_policy("dems", context), deviate=deviate)))
    utilities = sorted(s.qos_utility for s in scores)
    assert numbers["qos_utility"] == pytest.approx((utilities[1] + utilities[2]) / 2)
    assert numbers["intervals"]["qos_utility"] == pytest.approx(np.percentile(utilities, [10, 90]).tolist())
    assert numbers["fates"]["dropped"] == sum(s.fates["dropped"] for s in scores)
    assert numbers["kinds"]["HV"]["completion"] == pytest.approx(
        np.median([s.kinds["HV"]["completion"] for s in scores]), abs=1e-6
    )


def test_one_seed_writes_the_same_bytes_twice_and_another_seed_others(fleets: Path, tmp_path: Path) -> None:
    texts = []
    for seed in (4, 4, 5):
        simulated(tmp_path, fleets, "--seed", seed)
        texts.append((tmp_path / "out.json").read_bytes())
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_with_a_bound_no_policy_is_better_than_the_best_that_is_possible(fleets: Path, tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    numbers = simulated(tmp_path, fleets, "--bound", "--policy", "edf_ec", "dem", "hpf")
    for policies in numbers.values():
        for of_policy in policies.values():
            assert 0 <= of_policy["of_bound"] <= 1
            assert 0 <= of_policy["qoe_of_bound"] <= 1
        assert policies["dem"]["of_bound"] > 0.5


def test_another_link_changes_what_is_done_in_the_cloud(fleets: Path, tmp_path: Path) -> None:
    numbers = [
        simulated(tmp_path, fleets, "--policy", "cloud_only", *more)["two"]["cloud_only"]
        for more in ((), ("--trace", "constant:rate_mbps=0"), ("--trace", "constant:rate_mbps=50,rtt_ms=30"))
    ]
    assert numbers[0]["completion"] > 0.9
    assert numbers[1]["completion"] == 0
    assert numbers[2] == numbers[0]


def test_the_table_has_a_line_for_each_policy_and_dashes_for_what_is_not_known(
    fleets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fleets, "--policy", "edf", "dem", "--workload", "two", "--seeds", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("two: 120 tasks, link constant, rate_mbps 50, rtt_ms 30; medians of 2 seeds")
    heads = ("done %", "QoS utility", "QoE utility", "total", "of bound %", "energy J", "late", "dropped")
    assert re.split(r" {2,}", lines[1].strip()) == list(heads)
    assert [line.split()[0] for line in lines[2:4]] == ["edf", "dem"]
    assert len({len(line) for line in lines[1:4]}) == 1, "columns stand under each other"
    assert all(" - " in line for line in lines[2:4])
    assert re.fullmatch(r"480 tasks in [\d.]+ s", lines[-1])


def test_progress_only_ever_rises_to_one(fleets: Path) -> None:
    seen: list[float] = []
    run_simulation(SimulationOptions(fleets, seeds=(0, 1), policies=("edf", "sjf")), seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert all(0 <= share <= 1 for share in seen)


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_told_with_the_nearest_that_is_known(fleets: Path) -> None:
    assert "did you mean 'gems'" in refused(fleets, "--policy", "gemz")
    assert "did you mean 'two'" in refused(fleets, "--workload", "tow")
    assert "link model 'slow' is unknown" in refused(fleets, "--trace", "slow:rate_mbps=3")


def test_files_that_are_missing_are_told(fleets: Path, tmp_path: Path) -> None:
    assert "launch/fleets" in refused(tmp_path / "none.yaml")
    assert "no such trace" in refused(fleets, "--trace", tmp_path / "none.up")
    (tmp_path / "bad.yaml").write_text("\tno: [yaml")
    assert "no YAML" in refused(tmp_path / "bad.yaml")


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_what_cannot_be_written_is_told_before_the_work(fleets: Path, tmp_path: Path, option: str) -> None:
    assert "is a folder" in refused(fleets, option, tmp_path)
    assert "is a file, not a folder" in refused(fleets, option, fleets / "out")
    one = tmp_path / "one"
    assert "two names" in refused(fleets, "--json", one, "--report", tmp_path / "." / "one")
    assert not one.exists()


@pytest.mark.parametrize(
    "seeds", [("--seed", -1), ("--seed", 2**40), ("--seeds", 0), ("--seeds", -3), ("--seeds", 5000)]
)
def test_seeds_have_limits(fleets: Path, seeds: tuple[str, int]) -> None:
    assert "1 to 1000 seeds are wanted" in refused(fleets, *seeds)


@pytest.mark.parametrize("words", [("--seed", "1", "--seeds", "2"), ("--estimates", "p50"), ("--seed", "x")])
def test_what_argparse_can_tell_is_told_by_it(fleets: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(fleets, *words)
    assert caught.value.code == 2


def test_a_workload_that_earns_nothing_still_has_its_numbers(tmp_path: Path) -> None:
    """A kind that is never worth its cost, on a link that is down, with a bound of nothing."""
    (tmp_path / "f.yaml").write_text(
        "kinds: {K: {deadline_ms: 300, cloud: {ms: 200, benefit: 1, cost: 9}}}\n"
        "link: {model: constant, rate_mbps: 50, rtt_ms: 30}\n"
        "workloads: {W: {drones: 1, duration_s: 5, kinds: [K], link: {model: constant, rate_mbps: 0}}}\n"
    )
    pytest.importorskip("scipy")
    report = tmp_path / "out.html"
    for policy, numbers in simulated(tmp_path, tmp_path / "f.yaml", "--bound", "--report", report)["W"].items():
        assert numbers["completion"] == 0, policy
        assert numbers["of_bound"] is None, policy
    assert report.stat().st_size > 10_000
