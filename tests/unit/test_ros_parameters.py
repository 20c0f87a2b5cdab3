"""Parameters of graphs: what is declared, what is taken, what is refused, and files of them."""

from __future__ import annotations

import importlib
import math
import pkgutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

import perception
import registration
import tracking
from tercel.core.component import Component
from tercel.core.errors import UserError
from tercel.hosts.graph import Graph, Node, graph_files, load_graph
from tercel.ros.config_texts import field_texts
from tercel.ros.parameter_files import graph_with_file, parameter_file, read_parameter_file
from tercel.ros.parameters import MOST, Kind, Parameter, apply, declare, names, values


@dataclass(frozen=True)
class LookConfig:
    """How to look. name: not this one, for it is no sentence of its own

    near_m, far_m: nearer and farther points
    are not looked at. share: of them, at least.
    """

    near_m: float = 0.5
    far_m: float = 80.0
    share: float = 0.5
    patience: int = 3  # so many looks
    best_score: float = math.inf
    is_shy: bool = False
    """Look away when
    looked at."""
    name: str = "eye"
    mode: Literal["keen", "lazy"] = "keen"
    deadline_ms: float | None = None
    classes: tuple[str, ...] = ()
    weights: tuple[float, ...] = (1.0, 2.0)
    cell_m: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.near_m < self.far_m:
            raise ValueError(f"near_m is {self.near_m}; it must be above 0 and below far_m")
        if not self.far_m < 100.0 * self.cell_m * 100.0:
            raise ValueError("far_m must be below ten thousand cells")
        if not 0.25 <= self.share <= 1.0:
            raise ValueError(f"share must be in 0.25..1, not {self.share}")
        if not 1 <= self.patience <= 7:
            raise ValueError(f"patience must be in 1..7, not {self.patience}")


class Looker(Component):
    """A component with every type of setting."""

    Config = LookConfig
    live_settings = frozenset({"share", "name"})


def graph_of(*names_of_nodes: str, config: LookConfig | None = None) -> Graph:
    return Graph("test", tuple(Node(name, Looker, config or LookConfig(), {}, {}) for name in names_of_nodes), {})


def declared(graph: Graph) -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in declare(graph)}


def suite_components() -> list[type[Component]]:
    for package in (perception, registration, tracking):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found = []
    waiting = [Component]
    while waiting:
        for component in waiting.pop().__subclasses__():
            waiting.append(component)
            if component.__module__.split(".")[0] in ("perception", "registration", "tracking"):
                found.append(component)
    return found


# --- declared --------------------------------------------------------------------------------------------------------


def test_every_field_of_every_component_has_a_description_and_a_type_that_ros_has() -> None:
    components = suite_components()
    assert len({c.__name__ for c in components}) > 10
    for component in components:
        texts = field_texts(component.Config)
        graph = Graph("one", (Node("one", component, component.Config(), {}, {}),), {})
        parameters = declared(graph)
        for field in fields(component.Config):
            assert len(texts.get(field.name, "")) > 8, f"{component.Config.__name__}.{field.name} is not described"
            assert field.name in parameters, f"{component.Config.__name__}.{field.name} has no ROS type"


def test_names_carry_the_component_where_there_are_several() -> None:
    assert "near_m" in names(graph_of("eye"))
    assert {"left.near_m", "right.near_m"} <= names(graph_of("left", "right")).keys()


def test_types_and_values_are_the_configs() -> None:
    kinds = values(graph_of("eye"))
    assert kinds["near_m"] == (Kind.DOUBLE, 0.5)
    assert kinds["patience"] == (Kind.INTEGER, 3)
    assert kinds["is_shy"] == (Kind.BOOL, False)
    assert kinds["name"] == (Kind.STRING, "eye")
    assert kinds["deadline_ms"] == (Kind.DOUBLE, None)
    assert kinds["classes"] == (Kind.STRING_ARRAY, ())
    assert kinds["weights"] == (Kind.DOUBLE_ARRAY, (1.0, 2.0))
    told = declared(graph_of("eye"))
    assert told["mode"].choices == ("keen", "lazy")
    assert told["deadline_ms"].is_optional
    assert not told["near_m"].is_optional
    assert {name for name, parameter in told.items() if parameter.is_live} == {"share", "name"}


def test_a_whole_number_in_a_graph_file_is_a_float_where_a_float_is_meant() -> None:
    kind, value = values(graph_of("eye", config=LookConfig(far_m=70)))["far_m"]
    assert (kind, value) == (Kind.DOUBLE, 70.0)
    assert isinstance(value, float)


def test_descriptions_come_from_docstrings_comments_and_texts_below() -> None:
    told = declared(graph_of("eye"))
    assert told["near_m"].description == told["far_m"].description == "nearer and farther points are not looked at."
    assert told["share"].description == "of them, at least."
    assert told["patience"].description == "so many looks"
    assert told["is_shy"].description == "Look away when looked at."
    assert told["mode"].description == ""


def test_ranges_are_those_that_the_config_checks() -> None:
    told = declared(graph_of("eye"))
    assert told["share"].bounds == (0.25, 1.0)
    assert told["patience"].bounds == (1, 7)
    assert told["near_m"].bounds is not None
    assert told["near_m"].bounds[0] == 0.0


def test_a_limit_that_hangs_on_another_field_is_no_range() -> None:
    told = declared(graph_of("eye"))
    assert told["near_m"].bounds is not None
    assert told["near_m"].bounds[1] > 1e9  # far_m's present value is no limit of near_m
    assert told["far_m"].bounds is None  # near_m below, cell_m above


def test_an_infinite_default_has_no_range_and_may_stay() -> None:
    graph = graph_of("eye")
    assert declared(graph)["best_score"].bounds is None
    assert apply(graph, {"best_score": 0.5, "share": 0.6}).nodes[0].config.best_score == 0.5
    assert apply(apply(graph, {"best_score": 0.5}), {"best_score": math.inf}) == graph


@pytest.mark.parametrize("path", graph_files(), ids=lambda path: path.stem)
def test_what_is_within_a_range_is_taken_and_what_is_outside_is_not(path: Path) -> None:
    graph = load_graph(path)
    bounded = 0
    for parameter in declare(graph):
        low, high = parameter.bounds or (-MOST, MOST)
        for edge, limit, sign in ((low, -MOST, -1), (high, MOST, 1)):
            if edge == limit:
                continue
            bounded += 1
            step = sign * (1 if parameter.kind is Kind.INTEGER else 1e-6 * max(1.0, abs(edge)))
            with pytest.raises(UserError):
                apply(graph, {parameter.name: edge + step})
            inside = edge if parameter.kind is Kind.INTEGER else edge - step
            apply(graph, {parameter.name: inside})
    assert bounded > 20


# --- new values ------------------------------------------------------------------------------------------------------


def test_a_change_makes_another_graph_and_leaves_the_first() -> None:
    graph = graph_of("left", "right")
    changed = apply(graph, {"left.near_m": 1, "right.classes": ["car", "bus"], "left.deadline_ms": 50.0})
    assert changed.nodes[0].config == LookConfig(near_m=1.0, deadline_ms=50.0)
    assert isinstance(changed.nodes[0].config.near_m, float)
    assert changed.nodes[1].config == LookConfig(classes=("car", "bus"))
    assert graph == graph_of("left", "right")
    assert apply(changed, {"left.deadline_ms": None}).nodes[0].config.deadline_ms is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("near_m", "much", "near_m"),
        ("near_m", True, "near_m"),
        ("cell_m", False, "cell_m"),
        ("weights", (True, 2.0), "weights"),
        ("near_m", math.nan, "NaN"),
        ("weights", (1.0, math.nan), "NaN"),
        ("near_m", -1.0, "above 0"),
        ("near_m", 90.0, "below far_m"),
        ("near_m", None, "near_m"),
        ("far_m", math.inf, "far_m"),
        ("share", 1e300, "share"),
        ("patience", 2.5, "patience"),
        ("patience", 2**40, "patience"),
        ("is_shy", 1, "is_shy"),
        ("name", 5, "name"),
        ("mode", "brisk", "mode"),
        ("classes", (1, 2), "classes"),
        ("classes", "car", "classes"),
        ("weights", ("a",), "weights"),
        ("nere_m", 1.0, "did you mean 'near_m'|near_m"),
        ("eye.near_m", 1.0, "no parameter"),
        ("", 1.0, "no parameter"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line_and_changes_nothing(name: str, value: object, reason: str) -> None:
    graph = graph_of("eye")
    with pytest.raises(UserError, match=reason) as error:
        apply(graph, {"share": 0.9, name: value})
    assert "\n" not in str(error.value)
    assert graph == graph_of("eye")


def test_a_hint_does_not_list_a_hundred_names() -> None:
    graph = load_graph(next(path for path in graph_files() if path.stem == "fusion"))
    with pytest.raises(UserError, match=r"no parameter 'x'; there are \d\d: ros2 param list$"):
        apply(graph, {"x": 1.0})
    with pytest.raises(UserError, match="did you mean 'odometry.match_m'"):
        apply(graph, {"odometry.mach_m": 1.0})


@given(near=st.floats(), far=st.floats(), share=st.one_of(st.floats(), st.integers(), st.text(), st.none()))
def test_every_set_is_taken_whole_or_refused(near: float, far: float, share: object) -> None:
    graph = graph_of("eye")
    try:
        config = apply(graph, {"near_m": near, "far_m": far, "share": share}).nodes[0].config
    except UserError:
        return
    assert (config.near_m, config.far_m, config.share) == (near, far, share)
    assert 0.0 < config.near_m < config.far_m


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", graph_files(), ids=lambda path: path.stem)
def test_a_graphs_parameter_file_reads_back_as_the_same_graph(path: Path, tmp_path: Path) -> None:
    graph = load_graph(path)
    file = tmp_path / "parameters.yaml"
    file.write_text(parameter_file(graph, "/robot/tercel"))
    changes = read_parameter_file(file, "/robot/tercel")
    assert apply(graph, changes) == graph
    assert changes == {
        n: list(v) if isinstance(v, tuple) else v for n, (_, v) in values(graph).items() if v not in (None, ())
    }
    assert read_parameter_file(file, "/other/tercel") == {}


def test_a_changed_graph_reads_back_over_the_first(tmp_path: Path) -> None:
    graph = graph_of("left", "right")
    odd = LookConfig(1e-6, 8.5e3, 0.3, 7, 1e9, True, 'a "b"\n: # c', "lazy", 1e-9, ("on", "1.0", "ü"), (1e9, -0.0), 1e6)
    changed = Graph("test", (graph.nodes[0], Node("right", Looker, odd, {}, {})), {})
    file = tmp_path / "parameters.yaml"
    file.write_text(parameter_file(changed))
    assert apply(graph, read_parameter_file(file)) == changed


def test_yaml_1_1_as_ros_reads_it_finds_the_same_types(tmp_path: Path) -> None:
    odd = LookConfig(near_m=1e-6, far_m=1e-5, name="no", weights=(1e22, 1e-7))
    text = parameter_file(graph_of("eye", config=odd))
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)  # type: ignore[assignment]
    read = yaml.load(text)["/tercel"]["ros__parameters"]
    assert read["near_m"] == 1e-6
    assert isinstance(read["near_m"], float)
    assert read["name"] == "no"
    assert read["weights"] == [1e22, 1e-7]
    assert all(isinstance(weight, float) for weight in read["weights"])
    assert read["is_shy"] is False


@pytest.mark.parametrize(
    ("pattern", "is_ours"),
    [
        ("/robot/tercel", True),
        ("robot/tercel", True),
        ("/**", True),
        ("/*/tercel", True),
        ("/**/tercel", True),
        ("/robot/*", True),
        ("/*", False),
        ("/tercel", False),
        ("tercel", False),
        ("/other/tercel", False),
        ("/robot/tercel2", False),
        ("/robot.tercel", False),
    ],
)
def test_node_names_and_wildcards_are_those_of_ros(tmp_path: Path, pattern: str, is_ours: bool) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"'{pattern}': {{ros__parameters: {{eye: {{near_m: 1.5}}, 'eye.far_m': 9.0}}}}\n")
    wanted = {"eye.near_m": 1.5, "eye.far_m": 9.0} if is_ours else {}
    assert read_parameter_file(file, "/robot/tercel") == wanted


def test_nested_namespaces_are_read_and_later_entries_win(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    ours, others = "tercel: {ros__parameters: {b: 3}}", "other: {ros__parameters: {b: 4}}"
    file.write_text(f"/**: {{ros__parameters: {{a: 1, b: 2}}}}\nrobot: {{{ours}, {others}}}\n")
    assert read_parameter_file(file, "/robot/tercel") == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "a: [",
        "a: 1",
        "/tercel: {parameters: {a: {b: 1}}}",
        "/tercel: {ros__parameters: [1]}",
        "\0",
        "{" * 1000,
    ],
)
def test_a_file_that_is_no_parameter_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_parameter_file(file)
    assert "\n" not in str(error.value)


def test_a_file_sets_a_graphs_components_and_leaves_the_hosts_own_to_the_host(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("/**: {ros__parameters: {use_sim_time: true, offload: {policy: edf}, left: {near_m: 2}}}")
    graph, own = graph_with_file(graph_of("left", "right"), file)
    assert graph.nodes[0].config == LookConfig(near_m=2.0)
    assert own == {"use_sim_time": True, "offload.policy": "edf"}
    file.write_text("/**: {ros__parameters: {left: {nere_m: 2}}}")
    with pytest.raises(UserError, match=r"p\.yaml: no parameter 'left\.nere_m'; did you mean 'left\.near_m'"):
        graph_with_file(graph_of("left", "right"), file)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no parameter file"):
        read_parameter_file(tmp_path / "none.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(UserError, match="larger"):
        read_parameter_file(tmp_path / "huge.yaml")
