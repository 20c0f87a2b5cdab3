"""RIHS01: the hash of a ROS type's description, as ROS 2 (Iron and later) writes it into keys and endpoint data."""

from __future__ import annotations

from tercel.ros.convert import STORE


def type_hash(ros_type: str) -> str:
    """ "RIHS01_" and 64 hex digits for "sensor_msgs/msg/Image" or "std_srvs/srv/Trigger". KeyError for an unknown type."""
    return STORE.hash_rihs01(ros_type)
