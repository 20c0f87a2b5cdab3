from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tercel.core.component import Component, Input, Output, config_from_mapping, on
from tercel.core.errors import UserError, nearest_hint, require
from tercel.core.messages import Detections3D, Imu, Odometry, PointCloud


@dataclass(frozen=True)
class Settings:
    voxel_size_m: float = 1.0
    sizes_m: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.voxel_size_m <= 0:
            raise ValueError(f"voxel_size_m {self.voxel_size_m} must be above 0")


class Parts(Component):
    Config = Settings
    cloud = Input(PointCloud)
    odometry = Input(Odometry)
    imu = Input(Imu, queue="all")
    boxes = Output(Detections3D)

    @on(cloud, odometry, tolerance_ms=20)
    def step(self, cloud: PointCloud, odometry: Odometry) -> dict[str, Detections3D]:
        return {}

    @on(imu)
    def inertia(self, imu: Imu) -> dict[str, Detections3D]:
        return {}


def test_ports_and_handlers_are_visible_in_the_class() -> None:
    assert {name: port.message_type for name, port in Parts.inputs.items()} == {
        "cloud": PointCloud,
        "odometry": Odometry,
        "imu": Imu,
    }
    assert list(Parts.outputs) == ["boxes"]
    paired, single = Parts.handlers
    assert (paired.inputs, paired.tolerance_ns) == (("cloud", "odometry"), 20_000_000)
    assert single.inputs == ("imu",)


def test_an_input_without_a_handler_is_a_programmers_mistake() -> None:
    with pytest.raises(TypeError, match="every input needs exactly one handler"):

        class Deaf(Component):
            Config = Settings
            cloud = Input(PointCloud)


def test_an_unknown_config_key_names_the_nearest_known_one() -> None:
    with pytest.raises(UserError, match=r"graph.yaml: unknown key 'voxel_sice_m'; did you mean 'voxel_size_m'\?"):
        config_from_mapping(Settings, {"voxel_sice_m": 2}, where="graph.yaml")


def test_a_config_value_out_of_range_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="must be above 0"):
        config_from_mapping(Settings, {"voxel_size_m": -1.0}, where="graph.yaml")


def test_lists_of_a_graph_file_become_tuples() -> None:
    assert config_from_mapping(Settings, {"sizes_m": [1.0, 2.0]}, where="g").sizes_m == (1.0, 2.0)


def test_a_missing_extra_says_how_to_install_it() -> None:
    with pytest.raises(UserError, match=r"pip install 'tercel\[train\]'"):
        require("a_module_that_is_not_there", extra="train")


def test_a_hint_lists_what_is_known_when_nothing_is_near() -> None:
    assert nearest_hint("zzz", ["b", "a"]) == "known: a, b"


def test_a_message_with_a_wrong_shape_is_a_programmers_mistake() -> None:
    with pytest.raises(ValueError, match=r"PointCloud.points_m has shape \(5, 2\)"):
        PointCloud(stamp_ns=0, frame_id="lidar", points_m=np.zeros((5, 2)))
    with pytest.raises(ValueError, match="intensity"):
        PointCloud(stamp_ns=0, frame_id="lidar", points_m=np.zeros((5, 3)), intensity=np.zeros(4))


def test_a_cloud_keeps_a_view_of_the_points_it_is_given() -> None:
    buffer = np.zeros((5, 4), np.float32)
    cloud = PointCloud(stamp_ns=0, frame_id="lidar", points_m=buffer[:, :3])
    assert np.shares_memory(cloud.points_m, buffer)
