"""A graph of the suite as ROS 2 nodes.

    ros2 launch tercel tercel.launch.py graph:=lidar
    ros2 launch tercel tercel.launch.py graph:=camera model:=detector.onnx namespace:=robot1 composition:=nodes

composition:=process runs the whole graph in one process, where messages pass without copies; composition:=nodes starts
one process for each component. Every setting of a component is a ROS parameter: see `ros2 param describe`, or write
a file of them, `ros2 run tercel graph_host --params lidar > lidar.yaml`, and say params_file:=lidar.yaml.
"""

from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = [
    DeclareLaunchArgument("graph", default_value="lidar", description="a name of launch/graphs, or a graph file"),
    DeclareLaunchArgument(
        "composition", default_value="process", choices=["process", "nodes"], description="one process, or one a node"
    ),
    DeclareLaunchArgument("model", default_value="", description="ONNX file or model, not the graph's own"),
    DeclareLaunchArgument("offload", default_value="", description="where networks may run: a file of launch/offload"),
    DeclareLaunchArgument("params_file", default_value="", description="a file of ROS parameters"),
    DeclareLaunchArgument("namespace", default_value="", description="put before every topic but /tf and the like"),
    DeclareLaunchArgument("use_sim_time", default_value="false", description="time comes from /clock"),
    DeclareLaunchArgument("autostart", default_value="true", description="configure and activate at once"),
    DeclareLaunchArgument("record_dir", default_value="recordings", description="where recordings and maps go"),
]


def _text(name: str) -> ParameterValue:
    return ParameterValue(LaunchConfiguration(name), value_type=str)


def _nodes(context: LaunchContext) -> list[Node]:
    """One node, or one for each component that the graph file names."""
    chosen = {name: LaunchConfiguration(name).perform(context) for name in ("graph", "composition", "params_file")}
    share = Path(get_package_share_directory("tercel"))
    is_file = chosen["graph"].endswith((".yaml", ".yml"))
    graph = Path(chosen["graph"]) if is_file else share / "launch" / "graphs" / f"{chosen['graph']}.yaml"
    for path in (graph, Path(chosen["params_file"])):
        if not path.exists():
            raise RuntimeError(f"no file at {path}")
    components = yaml.safe_load(graph.read_text())["components"] if chosen["composition"] == "nodes" else {}
    parameters = {
        "graph": str(graph.resolve()),
        "models.detector": _text("model"),
        "offload.file": _text("offload"),
        "record_dir": _text("record_dir"),
        "autostart": LaunchConfiguration("autostart"),
        "use_sim_time": LaunchConfiguration("use_sim_time"),
    }
    files = [chosen["params_file"]] if chosen["params_file"] else []
    return [
        Node(
            package="tercel",
            executable="graph_host",
            name=component or "tercel",
            parameters=[parameters | {"component": component}, *files],
            output="screen",
        )
        for component in components or ("",)
    ]


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` calls."""
    nodes = [PushRosNamespace(LaunchConfiguration("namespace")), OpaqueFunction(function=_nodes)]
    return LaunchDescription([*ARGUMENTS, GroupAction(nodes)])
