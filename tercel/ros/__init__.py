"""ROS 2: message conversion and hosts. Only this package may import rclpy."""
