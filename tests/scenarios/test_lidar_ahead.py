"""A graph that looks ahead: obstacles are searched in the sweeps that are due, and tracks are predicted.

It is no graph of the suite, or it would be picked for every LiDAR recording; it shows how one is wired.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.scenarios.conftest import replay

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "datasets" / "demo" / "demo.mcap"
GRAPH = REPOSITORY / "tests" / "scenarios" / "lidar_ahead.yaml"


def with_budget(folder: Path, budget_m: float) -> Path:
    """The graph with another error budget."""
    content = YAML(typ="safe", pure=True).load(GRAPH.read_text(encoding="utf-8"))
    content["components"]["sampling"]["config"] = {"error_budget": budget_m, "smoothing": 1.0}
    path = folder / f"ahead_{budget_m}.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)
    return path


def sweeps(summary: dict[str, Any]) -> tuple[int, int, dict[str, int]]:
    """Received by the gate, passed on to the detector, and held back by reason."""
    port = summary["components"]["gate"]["inputs"]["cloud"]
    assert port["received"] == port["processed"] + sum(port["dropped"].values()) + sum(port["rejected"].values())
    passed = summary["components"]["obstacles"]["inputs"]["cloud"]["received"]
    assert passed == port["processed"]
    return port["received"], passed, port["rejected"]


def test_a_larger_budget_needs_fewer_looks_and_every_sweep_is_accounted_for(tmp_path: Path) -> None:
    counts = []
    for budget_m in (0.1, 20.0):
        summary = replay(DEMO, tmp_path / str(budget_m), "--graph", with_budget(tmp_path, budget_m))
        received, passed, reasons = sweeps(summary)
        components = summary["components"]
        assert components["odometry"]["inputs"]["cloud"]["processed"] == received
        looks = components["tracker_3d"]["outputs"]["tracks"]["count"]
        assert components["predictor"]["outputs"]["predictions"]["count"] == looks == passed
        counts.append((received, passed, reasons))
    assert counts[0][1] == counts[0][0]
    assert counts[1][1] < counts[1][0] / 2
    assert set(counts[1][2]) == {"no look is due yet"}


def test_it_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    graph = with_budget(tmp_path, 2.0)
    results = []
    for name in ("first", "second"):
        replay(DEMO, tmp_path / name, "--graph", graph)
        results.append((tmp_path / name / "result.mcap").read_bytes())
    assert results[0] == results[1]
