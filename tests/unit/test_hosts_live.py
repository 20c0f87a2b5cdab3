from __future__ import annotations

from pathlib import Path

from tercel.ros import convert
from tests.unit.live_hosts import hosting
from tests.unit.test_hosts_graph import GOOD
from tests.unit.test_hosts_recording import cloud, imu


def test_what_comes_in_as_bytes_goes_through_the_graph_and_out_as_bytes(tmp_path: Path) -> None:
    with hosting(tmp_path, GOOD) as (host, peer, _):
        poses = peer.hear("/pose", "nav_msgs/msg/Odometry")
        moved = peer.hear("/moved", "sensor_msgs/msg/PointCloud2")
        for i in range(1, 11):
            peer.publish("/imu", imu(i * 10**7))
            peer.publish("/points", cloud(i * 10**7 + 5, 3))
            assert host.wait_idle(5)
        account = host.stop()
    assert len(poses) == len(moved) == 10
    assert account.components["joiner"]["inputs"]["cloud"]["processed"] == 10
    assert account.components["joiner"]["dropped"] == 0
    ros = convert.STORE.deserialize_cdr(moved[-1], "sensor_msgs/msg/PointCloud2")
    assert convert.from_ros(ros, "sensor_msgs/msg/PointCloud2").stamp_ns == 10**8 + 5
