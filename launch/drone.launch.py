"""A drone with a camera: it looks only as often as its tracks need, and predicts where they go.

    ros2 launch tercel drone.launch.py [model:=detector.onnx] namespace:=drone1 image:=/drone1/camera/image_raw

What tercel.launch.py takes, this takes too; offload:=FILE lets its network run on a server when the link allows.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import SetRemap
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` calls."""
    share = FindPackageShare("tercel")
    graph = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([share, "launch", "tercel.launch.py"])),
        launch_arguments={"graph": PathJoinSubstitution([share, "launch", "robots", "drone.yaml"])}.items(),
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("model", default_value="tercel-nano", description="an ONNX file or a model"),
            DeclareLaunchArgument("namespace", default_value="drone1", description="the drone's name"),
            DeclareLaunchArgument("image", default_value="camera/image", description="the camera's topic"),
            GroupAction([SetRemap("camera/image", LaunchConfiguration("image")), graph]),
        ]
    )
