"""Clouds (and IMU) to poses, maps and relative transforms."""
