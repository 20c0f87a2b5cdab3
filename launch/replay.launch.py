"""A recording played into a graph, at its own pace, with its own clock.

    ros2 launch tercel replay.launch.py recording:=drive.mcap graph:=lidar rate:=0.5

Ends two seconds after the recording does. What tercel.launch.py takes, this takes too.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription, Shutdown, TimerAction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import ExecutableInPackage, FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` calls."""
    graph = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([FindPackageShare("tercel"), "launch", "tercel.launch.py"])),
        launch_arguments={"use_sim_time": "true"}.items(),
    )
    command = [ExecutableInPackage(package="tercel", executable="tercel"), "play", LaunchConfiguration("recording")]
    command += ["--transport", "ros2", "--clock", "--rate", LaunchConfiguration("rate")]
    end = TimerAction(period=2.0, actions=[Shutdown(reason="the recording has ended")])
    return LaunchDescription(
        [
            DeclareLaunchArgument("recording", description="an MCAP file, a rosbag2 folder or a ROS 1 bag"),
            DeclareLaunchArgument("rate", default_value="1.0", description="how many times as fast as recorded"),
            graph,
            ExecuteProcess(cmd=command, output="screen", on_exit=[end]),
        ]
    )
