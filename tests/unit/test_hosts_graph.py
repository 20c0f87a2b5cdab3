from __future__ import annotations

from pathlib import Path

import pytest

from tercel.core.errors import UserError
from tercel.core.messages import Imu, PointCloud
from tercel.hosts.graph import bind, graph_files, load_graph, pick_graph
from tercel.hosts.recording import RecordingWriter, open_recording
from tests.unit.test_hosts_recording import cloud, imu, write_two_topics

GOOD = """
components:
  smoother:
    component: tests.unit.toy_components.Smoother
    inputs: {imu: /imu}
    outputs: {pose: /pose}
    config: {scale: 2.0}
  joiner:
    component: tests.unit.toy_components.Joiner
    inputs: {cloud: /points, pose: /pose}
    outputs: {moved: /moved}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    return path


def test_a_graph_knows_what_it_writes_and_what_it_needs(tmp_path: Path) -> None:
    graph = load_graph(write(tmp_path, GOOD))
    assert list(graph.written()) == ["/pose", "/moved"]
    assert graph.needed() == {"/imu": Imu, "/points": PointCloud}
    assert graph.nodes[0].config.scale == 2.0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("scale: 2.0", "scal: 2.0", r"toy.yaml: smoother: config: unknown key 'scal'; did you mean 'scale'\?"),
        ("    inputs: {imu: /imu}", "    input: {imu: /imu}", "unknown key 'input'; did you mean 'inputs'"),
        ("{imu: /imu}", "{imo: /imu}", "unknown key 'imo'; did you mean 'imu'"),
        ("{imu: /imu}", "{}", "input 'imu' has no topic"),
        ("{imu: /imu}", "{imu: imu}", "a topic begins with '/'"),
        ("toy_components.Smoother", "toy_components.Smother", "has no component 'Smother'; did you mean 'Smoother'"),
        ("tests.unit.toy_components.Smoother", "no_such_module.Thing", "No module named 'no_such_module'"),
        ("tests.unit.toy_components.Smoother", "pathlib.Path", "pathlib has no component 'Path'"),
        ("{moved: /moved}", "{moved: /pose}", "/pose is written by smoother.pose and by joiner.moved"),
        ("cloud: /points, pose: /pose", "cloud: /pose, pose: /pose", "reads PointCloud but /pose carries Odometry"),
        ("cloud: /points", "cloud: /moved", "joiner reads and writes /moved"),
        ("{pose: /pose}", "{pose: /tf}", "/tf is written by the host"),
        ("scale: 2.0", "scale: 'no'", "scale: float is wanted, not 'no'"),
        ("scale: 2.0", "refuse_every: 2.5", "refuse_every: int is wanted, not 2.5"),
        ("scale: 2.0", "refuse_every: true", "refuse_every: int is wanted, not True"),
        ("scale: 2.0", "refuse_every: 99999999999999999999", "int is wanted"),
        ("tests.unit.toy_components.Smoother", ".foo.Bar", "component .foo.Bar"),
        ("tests.unit.toy_components.Smoother", "tercel.core.component.Component", "has no component 'Component'"),
        (GOOD, "[" * 4000, "nested too deep"),
        (GOOD, "components: 2001-99-99", "is not YAML"),
        ("components:", "component:", "unknown key 'component'; did you mean 'components'"),
        (GOOD, "components: {}", "components is empty"),
        ("  smoother:", "  smo other/:", "component name 'smo other/': letters, digits and underscores are wanted"),
        (GOOD, "- a\n- b", "a mapping is wanted"),
        (GOOD, "a: [1, 2", "is not YAML"),
        (GOOD, "", "a mapping is wanted"),
    ],
)
def test_every_mistake_in_a_graph_is_one_line_with_the_mend(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError, match=words) as caught:
        load_graph(write(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_a_missing_graph_names_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'lidar'"):
        load_graph(tmp_path / "lidr")


def test_topics_are_bound_by_name_by_type_and_by_remapping(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap", count=2)
    recording = open_recording(tmp_path / "r.mcap")
    graph = load_graph(write(tmp_path, GOOD))
    assert bind(graph, recording, {}) == {"/imu": "/imu", "/points": "/cloud"}
    assert bind(graph, recording, {"/points": "/cloud"})["/points"] == "/cloud"
    with pytest.raises(UserError, match="the recording has no such PointCloud topic"):
        bind(graph, recording, {"/points": "/imu"})
    with pytest.raises(UserError, match="did you mean '/points'"):
        bind(graph, recording, {"/point": "/cloud"})


def test_truth_and_depth_are_never_taken_for_sensor_topics_unless_told(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r.mcap") as writer:
        for topic in ("/truth/cloud", "/depth/cloud", "/front/cloud"):
            writer.write(topic, 10, cloud(10, 3))
        writer.write("/imu", 10, imu(10))
    recording = open_recording(tmp_path / "r.mcap")
    graph = load_graph(write(tmp_path, GOOD))
    assert bind(graph, recording, {})["/points"] == "/front/cloud"
    assert bind(graph, recording, {"/points": "/truth/cloud"})["/points"] == "/truth/cloud"


def test_two_topics_that_could_serve_are_named_and_left_to_the_user(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r.mcap") as writer:
        for topic in ("/left/cloud", "/right/cloud"):
            writer.write(topic, 10, cloud(10, 3))
        writer.write("/imu", 10, imu(10))
    with pytest.raises(UserError, match="several: /left/cloud, /right/cloud; say --remap /points:=NAME"):
        bind(load_graph(write(tmp_path, GOOD)), open_recording(tmp_path / "r.mcap"), {})


def test_a_recording_without_a_usable_topic_is_a_one_line_error(tmp_path: Path, shared_data: Path) -> None:
    recording = open_recording(shared_data / "bags" / "nav2_turtlebot.mcap")
    with pytest.raises(UserError, match="no graph of the suite can use nav2_turtlebot.mcap: it has geometry_msgs"):
        pick_graph(recording, {})


def test_every_graph_of_the_suite_loads() -> None:
    names = ["camera", "camera_lidar", "camera_temporal", "fusion", "lidar", "lidar_inertial"]
    assert [path.stem for path in graph_files()] == names
    for path in graph_files():
        assert load_graph(path).nodes


def test_a_graph_asks_for_the_models_it_names(tmp_path: Path) -> None:
    graph = load_graph(write(tmp_path, GOOD + "models: {detector: null}\n"))
    with pytest.raises(UserError, match="needs a model for 'detector': --model detector=FILE.onnx"):
        graph.model_files({})
    with pytest.raises(UserError, match="no model at"):
        graph.model_files({"detector": tmp_path / "missing.onnx"})
    with pytest.raises(UserError, match="did you mean 'detector'"):
        graph.model_files({"detectr": tmp_path})
