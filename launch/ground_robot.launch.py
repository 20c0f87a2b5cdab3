"""A ground robot with a LiDAR and a camera: where am I, and one set of tracks from both sensors.

    ros2 launch tercel ground_robot.launch.py [model:=detector.onnx] cloud:=/velodyne_points image:=/front/image_raw \\
        camera_info:=/front/camera_info

/tf_static must connect both sensors' frames. What tercel.launch.py takes, this takes too.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import SetRemap
from launch_ros.substitutions import FindPackageShare

TOPICS = {"cloud": "lidar/points", "image": "camera/image", "camera_info": "camera/camera_info"}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` calls."""
    source = PathJoinSubstitution([FindPackageShare("tercel"), "launch", "tercel.launch.py"])
    graph = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(source), launch_arguments={"graph": "fusion"}.items()
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("model", default_value="tercel-nano", description="an ONNX file or a model"),
            *(DeclareLaunchArgument(name, default_value=topic) for name, topic in TOPICS.items()),
            GroupAction([*(SetRemap(topic, LaunchConfiguration(name)) for name, topic in TOPICS.items()), graph]),
        ]
    )
