"""Launch files, executables and package metadata name only what there is.

Names are read from the launch files' syntax, so that this needs no ROS; where ROS's own launch can be imported, the
files build and run their descriptions as well (the package of that name on PyPI is another one).
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import runpy
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import setuptools

import tercel
from tercel.core.errors import UserError
from tercel.hosts.graph import graph_files, load_graph
from tercel.hosts.graph_choice import find_graph
from tercel.hosts.outputs import is_hidden
from tercel.ros.executables import COMPONENTS, GRAPH
from tercel.ros.node import OWN_PARAMETERS, WHICH_GRAPH, main, only, parameter_text
from tercel.ros.parameter_files import read_parameter_file
from tercel.ros.parameters import apply, values
from tercel.ros.transport import Identity

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / "launch"
FILES = sorted(LAUNCH.glob("*.launch.py"))
GRAPHS = [*graph_files(), *sorted((LAUNCH / "robots").glob("*.yaml"))]
DOMAINS = ("tercel", "perception", "registration", "tracking", "offload", "devices")

launch_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
graph_file = pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)


def package_xml() -> ET.Element:
    return ET.parse(REPOSITORY / "package.xml").getroot()  # noqa: S314 (our own file)


@pytest.fixture
def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py says."""
    said: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", said.update)
    monkeypatch.chdir(REPOSITORY)
    runpy.run_path("setup.py")
    return said


def calls(path: Path, function: str) -> Iterator[ast.Call]:
    """The calls of a function in a launch file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
            yield node


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def literal(node: ast.AST) -> Any:
    return node.value if isinstance(node, ast.Constant) else None


def words(node: ast.AST) -> list[str]:
    return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def declared_arguments(path: Path) -> set[str]:
    """The arguments that a launch file declares; those of a file that it includes are its own, too."""
    names = {literal(call.args[0]) for call in calls(path, "DeclareLaunchArgument")}
    names |= {key for key in getattr(load_names(path), "TOPICS", {}) if isinstance(key, str)}
    return {name for name in names if name} | (
        set() if path.name == "tercel.launch.py" else declared_arguments(LAUNCH / "tercel.launch.py")
    )


def load_names(path: Path) -> Any:
    """The constants of a launch file, without running what it imports."""
    found = type("Names", (), {})
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                setattr(found, statement.targets[0].id, ast.literal_eval(statement.value))
            except ValueError:
                continue
    return found


# --- executables ---------------------------------------------------------------------------------------------------


def component_classes() -> set[str]:
    """module.Class of every class of the suite that is a component, by its bases' names."""
    bases: dict[str, set[str]] = {"Component": set()}
    modules: dict[str, str] = {}
    for domain in DOMAINS:
        for path in (REPOSITORY / domain).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    bases.setdefault(node.name, set()).update(b.id for b in node.bases if isinstance(b, ast.Name))
                    modules[node.name] = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)

    def is_component(name: str) -> bool:
        return name == "Component" or any(is_component(base) for base in bases.get(name, ()))

    return {f"{modules[name]}.{name}" for name in modules if name != "Component" and is_component(name)}


def test_every_component_has_one_executable() -> None:
    found = component_classes()
    assert len(found) > 15
    assert found == set(COMPONENTS.values())
    assert len(set(COMPONENTS.values())) == len(COMPONENTS)


def test_an_executable_starts_with_the_name_that_it_was_called_by(setup_arguments: dict[str, Any]) -> None:
    scripts = dict(entry.split(" = ") for entry in setup_arguments["entry_points"]["console_scripts"])
    assert set(scripts) == {"tercel", GRAPH, *COMPONENTS}
    for target in scripts.values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_executable_names_a_component_and_a_valid_node(name: str) -> None:
    graph = find_graph(name)
    assert Identity(name, domain=0).node == graph.nodes[0].name == name


@pytest.mark.parametrize("name", [GRAPH, "lidar_odometry"])
def test_without_rclpy_an_executable_says_in_one_line_what_to_do(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("rclpy"):
        pytest.skip("rclpy is installed")
    assert main([f"/somewhere/lib/tercel/{name}", "--ros-args", "-r", "__ns:=/robot1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{name}: rclpy")
    assert error.count("\n") == 1


def test_an_executable_of_another_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lidar_odometri"]) == 2
    assert "did you mean 'lidar_odometry'?" in capsys.readouterr().err


# --- launch files --------------------------------------------------------------------------------------------------


def test_the_launch_files_are_these() -> None:
    names = ["camera", "drone", "ground_robot", "replay", "tercel"]
    assert [path.name.split(".")[0] for path in FILES] == names
    assert not (LAUNCH / "__init__.py").exists(), "it would shadow ROS's own launch"


@launch_file
def test_every_executable_of_a_launch_file_exists(path: Path) -> None:
    named = [keywords(call) for function in ("Node", "ExecutableInPackage") for call in calls(path, function)]
    for entry in named:
        assert literal(entry["package"]) == "tercel"
        assert literal(entry["executable"]) in {"tercel", GRAPH, *COMPONENTS}
    includes_the_graph = "tercel.launch.py" in words(ast.parse(path.read_text()))
    assert named or includes_the_graph


@launch_file
def test_every_file_that_a_launch_file_names_is_installed(path: Path, setup_arguments: dict[str, Any]) -> None:
    installed = {f"{folder}/{Path(file).name}" for folder, files in setup_arguments["data_files"] for file in files}
    assert f"share/tercel/launch/{path.name}" in installed
    for call in calls(path, "PathJoinSubstitution"):
        parts = words(call)
        where = [part for part in parts if part != "tercel"]  # FindPackageShare("tercel")
        assert f"share/tercel/{'/'.join(where)}" in installed


@launch_file
def test_every_argument_that_a_launch_file_reads_or_passes_on_is_declared(path: Path) -> None:
    known = declared_arguments(path)
    read = {literal(call.args[0]) for call in calls(path, "LaunchConfiguration")} - {None}
    read |= {literal(call.args[0]) for call in calls(path, "_text")} - {None}
    assert read <= known
    for call in calls(path, "IncludeLaunchDescription"):
        passed = [n for n in ast.walk(keywords(call)["launch_arguments"]) if isinstance(n, ast.Dict)]
        assert {literal(key) for mapping in passed for key in mapping.keys if key} <= known


@launch_file
def test_every_graph_and_topic_that_a_launch_file_names_exists(path: Path) -> None:
    graphs = {p.stem: load_graph(p) for p in GRAPHS}
    chosen = [
        value.value
        for call in calls(path, "IncludeLaunchDescription")
        for mapping in ast.walk(keywords(call)["launch_arguments"])
        if isinstance(mapping, ast.Dict)
        for key, value in zip(mapping.keys, mapping.values, strict=True)
        if key is not None and literal(key) == "graph" and isinstance(value, ast.Constant)
    ]
    chosen += [
        Path(word).stem
        for call in calls(path, "PathJoinSubstitution")
        for word in words(call)
        if word.endswith(".yaml")
    ]
    for name in chosen:
        assert name in graphs
    remapped = [literal(call.args[0]) for call in calls(path, "SetRemap")]
    topics = {name for name in remapped if name} | set(getattr(load_names(path), "TOPICS", {}).values())
    for topic in topics:
        assert any(f"/{topic}" in graphs[name].needed() for name in chosen)


def test_the_parameters_that_the_launch_file_sets_are_those_that_the_node_declares() -> None:
    path = LAUNCH / "tercel.launch.py"
    (mapping,) = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Dict) and len(n.keys) > 3)
    named = {literal(key) for key in mapping.keys if key}
    models = {f"models.{name}" for graph in GRAPHS for name in load_graph(graph).models}
    assert named - models - {"use_sim_time"} | {"component"} == {*OWN_PARAMETERS, *WHICH_GRAPH}
    assert models <= named


@launch_file
def test_a_launch_file_builds_its_description_with_the_real_launch(path: Path) -> None:
    pytest.importorskip("launch_ros", reason="ROS 2's launch_ros is not there", exc_type=ImportError)
    from launch import LaunchContext, LaunchDescription

    description = runpy.run_path(str(path))["generate_launch_description"]()
    assert isinstance(description, LaunchDescription)
    declared = {argument.name for argument in description.get_launch_arguments()}
    local = {literal(call.args[0]) for call in calls(path, "DeclareLaunchArgument")} - {None}
    assert local <= declared
    assert description.visit(LaunchContext())


# --- graphs and their parameters -----------------------------------------------------------------------------------


@graph_file
def test_each_component_of_a_graph_can_be_a_node_of_its_own(path: Path) -> None:
    graph = load_graph(path)
    alone = [only(graph, node.name) for node in graph.nodes]
    written = {topic for one in alone for topic in one.written()}
    for one in alone:
        assert not any(is_hidden(topic) for topic in {**one.needed(), **one.written()})
        for topic in one.needed():
            assert topic in written or topic in graph.needed(), "an inner topic has to be on the wire now"
    assert {name for one in alone for name in one.models} == set(graph.models)


def test_a_component_that_the_graph_does_not_have_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'odometry'"):
        only(load_graph(LAUNCH / "graphs" / "lidar.yaml"), "odometri")


@graph_file
def test_a_parameter_file_of_a_graph_gives_the_same_graph_whole_and_in_parts(path: Path, tmp_path: Path) -> None:
    graph = load_graph(path)
    file = tmp_path / "parameters.yaml"
    file.write_text(parameter_text(graph))
    whole = read_parameter_file(file, "/robot1/tercel")
    written = {name for name, (_kind, value) in values(graph).items() if value not in (None, ())}
    assert set(whole) == written
    assert apply(graph, whole) == graph
    for node in graph.nodes:
        one = only(graph, node.name)
        assert apply(one, read_parameter_file(file, f"/{node.name}")) == one


def test_a_parameter_file_is_printed_without_ros(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([GRAPH, "--params", "lidar"]) == 0
    assert capsys.readouterr().out == parameter_text(find_graph("lidar"))
    assert main(["tracker_3d", "--params"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "/**/tracker_3d:"


# --- package metadata ----------------------------------------------------------------------------------------------


def test_package_xml_and_setup_py_say_the_same(setup_arguments: dict[str, Any]) -> None:
    root = package_xml()
    assert root.findtext("name") == setup_arguments["name"] == "tercel"
    assert root.findtext("version") == setup_arguments["version"] == tercel.__version__
    assert root.findtext("export/build_type") == "ament_python"
    placed = dict(setup_arguments["data_files"])
    assert placed["share/ament_index/resource_index/packages"] == ["resource/tercel"]
    assert placed["share/tercel"] == ["package.xml"]


def test_package_xml_names_every_ros_package_that_launch_files_and_nodes_import() -> None:
    depends = {e.text for e in package_xml().iter("exec_depend")}
    imported = set()
    for path in [*FILES, *(REPOSITORY / "tercel" / "ros").glob("node*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    assert {"rclpy", "rcl_interfaces", "launch", "launch_ros", "ament_index_python"} <= imported & depends
    assert "launch" not in (REPOSITORY / "setup.cfg").read_text().split(), "PyPI's launch is another package"
