"""A camera alone: boxes and tracks in its image.

    ros2 launch tercel camera.launch.py [model:=detector.onnx] image:=/camera/image_raw

What tercel.launch.py takes, this takes too.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import SetRemap
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` calls."""
    source = PathJoinSubstitution([FindPackageShare("tercel"), "launch", "tercel.launch.py"])
    graph = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(source), launch_arguments={"graph": "camera"}.items()
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("model", default_value="tercel-nano", description="an ONNX file or a model"),
            DeclareLaunchArgument("image", default_value="camera/image", description="the camera's topic"),
            GroupAction([SetRemap("camera/image", LaunchConfiguration("image")), graph]),
        ]
    )
