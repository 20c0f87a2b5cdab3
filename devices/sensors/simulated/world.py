"""Procedural worlds: recordings of a ground vehicle or a drone with every sensor and the truth of everything.

    for topic, log_time_ns, message in generate(WorldConfig("street", seed=7)): ...

Same config, same messages, byte for byte: every random number comes from PCG64 streams keyed by the seed, and what
could differ between machines in the last bit is rounded before it leaves. Generation streams: ten minutes take no more
memory than ten seconds.

Conventions
- Time begins at EPOCH_NS. Sweep k ends at k / lidar_rate_hz, k = 1, 2, ..., and image k is taken at k / camera_rate_hz,
  so that at equal rates they share their stamps.
- A sweep's stamp is its END, when its last column fires: time_offset_s is in (-1/rate, 0]. The sensor turns clockwise
  from straight behind; each point is in the sensor frame at the point's own time. Log time is the stamp everywhere.
- Frames: "world" x east, y north, z up, the ground z = 0; "base_link", "lidar", "imu" x forward, y left, z up;
  "camera" is optical: x right, y down, z forward. /tf_static holds base_link -> lidar, camera, imu, once.
- /truth/odometry: world_T_base_link with body velocities, at 50 Hz and at the stamp of every sweep and image.
- /truth/tracks_3d, at every sweep's stamp: every person, car and truck (a tractor too) within 60 m of the LiDAR,
  moving or parked, hidden or not, where it is at the stamp. The score is 1 if the sweep has 5 returns from it or more,
  else 0. A moving object's returns were measured up to 1/rate before the stamp (straight ahead: half of that), when it
  was elsewhere.
- /truth/tracks_2d, at every image: the box around the visible pixels of each object with at least 24 of them, if they
  fill a tenth of its projected 3D box. Pixel (row, column) covers column..column + 1; its middle is image point
  (column, row).
- /truth/depth is exact depth along the optical axis in mm (0: none, or beyond 65.5 m); /camera/depth is what a
  stereo camera would report. Ids are stable for an object's life in the world; those of both truths are the same.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated import inertial, truth
from devices.sensors.simulated.lidar import Lidar, sweep
from devices.sensors.simulated.motion import states_at, stream
from devices.sensors.simulated.orchard import Orchard
from devices.sensors.simulated.render import Camera, render
from devices.sensors.simulated.scene import Scene
from devices.sensors.simulated.street import Street
from tercel.core.geometry import from_rotation_translation
from tercel.core.messages import CameraInfo, CompressedImage, Imu, Message, NavSatFix, PointCloud, Transforms

Array = NDArray[Any]
Event = tuple[str, int, Message]

WORLDS: tuple[str, ...] = ("street", "orchard")
EPOCH_NS = 1_700_000_000_000_000_000
TRUTH_RATE_HZ = 50.0
TRUTH_REACH_M = 60.0
DEFAULT_COLUMNS = {16: 900, 64: 1800}

# How the sensors are mounted: translation in base_link (m) and pitch down (rad); elevations of the outer beams (deg).
_MOUNTS = {
    "street": {"lidar": ((0.0, 0.0, 1.9), 0.0), "camera": ((0.45, 0.0, 1.55), 0.03), "imu": ((-0.25, 0.1, 0.55), 0.0)},
    "orchard": {
        "lidar": ((0.0, 0.0, 0.15), 0.0),
        "camera": ((0.18, 0.0, -0.04), 0.33),
        "imu": ((0.02, 0.0, 0.03), 0.0),
    },
}
_BEAMS_DEG = {
    ("street", 16): (-15.0, 15.0),
    ("street", 64): (-24.8, 2.0),
    ("orchard", 16): (-30.0, 7.5),
    ("orchard", 64): (-40.0, 10.0),
}
_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
_LIDAR_NOISE, _IMU_NOISE, _GPS_NOISE, _DEPTH_NOISE = 1, 2, 3, 4


@dataclass(frozen=True)
class WorldConfig:
    """What to generate.

    name: one of WORLDS. lidar_beams: 16 or 64. lidar_columns: azimuth steps of a sweep; 0 takes 900 for 16 beams, 1800
    for 64. A rate of 0 leaves the camera or GPS out. range_step_m: ranges and coordinates are multiples of it.
    """

    name: str = "street"
    seed: int = 0
    duration_s: float = 20.0
    lidar_beams: int = 16
    lidar_columns: int = 0
    lidar_rate_hz: float = 10.0
    camera_width_px: int = 640
    camera_height_px: int = 480
    camera_rate_hz: float = 10.0
    imu_rate_hz: float = 200.0
    gps_rate_hz: float = 5.0
    range_step_m: float = 2.0**-8
    jpeg_quality: int = 90
    include_depth: bool = True

    def __post_init__(self) -> None:
        if self.name not in WORLDS:
            raise ValueError(f"name is {self.name!r}, not one of {', '.join(WORLDS)}")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed is {self.seed}, not a whole number from 0 up")
        if self.lidar_beams not in DEFAULT_COLUMNS:
            raise ValueError(f"lidar_beams is {self.lidar_beams}, not 16 or 64")
        if self.lidar_columns != 0 and not 64 <= self.lidar_columns <= 4096:
            raise ValueError(f"lidar_columns is {self.lidar_columns}, not 0 or in 64..4096")
        for field, low, high in (
            ("duration_s", 0.1, 36_000.0),
            ("lidar_rate_hz", 1.0, 50.0),
            ("imu_rate_hz", 10.0, 1000.0),
            ("camera_width_px", 32, 4096),
            ("camera_height_px", 32, 4096),
            ("range_step_m", 1e-4, 0.1),
            ("jpeg_quality", 1, 100),
        ):
            if not low <= getattr(self, field) <= high:
                raise ValueError(f"{field} is {getattr(self, field)}, not in {low}..{high}")
        for field, high in (("camera_rate_hz", 60.0), ("gps_rate_hz", 20.0)):
            value = getattr(self, field)
            if value != 0 and not 0.1 <= value <= high:
                raise ValueError(f"{field} is {value}, not 0 or in 0.1..{high}")


def generate(config: WorldConfig) -> Iterator[Event]:
    """Yield (topic, log_time_ns, message) in the order of log time. The module's docstring says what each one means."""
    scene = make_scene(config.name, config.seed)
    mounts = {name: base_T_sensor(config.name, name) for name in ("lidar", "camera", "imu")}
    streams = [_static(mounts), _odometry(config, scene), _imu(config, scene, mounts["imu"])]
    streams += [_gps(config, scene)] if config.gps_rate_hz else []
    streams += [_lidar(config, scene, mounts["lidar"])]
    streams += [_camera(config, scene, mounts["camera"])] if config.camera_rate_hz else []
    return heapq.merge(*streams, key=itemgetter(1))


def make_scene(name: str, seed: int) -> Scene:
    """A world without sensors, for benchmarks and viewers."""
    return Street(seed) if name == "street" else Orchard(seed)


def make_lidar(config: WorldConfig) -> Lidar:
    """The LiDAR of a config."""
    low, high = _BEAMS_DEG[config.name, config.lidar_beams]
    return Lidar(
        elevations_rad=np.radians(np.linspace(low, high, config.lidar_beams)),
        columns=config.lidar_columns or DEFAULT_COLUMNS[config.lidar_beams],
        period_s=1.0 / config.lidar_rate_hz,
        base_T_lidar=base_T_sensor(config.name, "lidar"),
        range_step_m=config.range_step_m,
    )


def base_T_sensor(world: str, sensor: str) -> Array:
    """base_T_sensor (4, 4)."""
    translation, pitch = _MOUNTS[world][sensor]
    cos, sin = math.cos(pitch), math.sin(pitch)
    rotation = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
    return from_rotation_translation(rotation @ _OPTICAL if sensor == "camera" else rotation, np.array(translation))


def _stamps(rate_hz: float, duration_s: float, first: int) -> Iterator[int]:
    """Stamps of samples first, first + 1, ... up to and including the world's end."""
    for k in range(first, math.floor(duration_s * rate_hz + 1e-6) + 1):
        yield EPOCH_NS + round(k * 1e9 / rate_hz)


def _seconds(stamp_ns: int) -> float:
    return (stamp_ns - EPOCH_NS) / 1e9


def _blocks(stamps: Iterator[int], size: int = 256) -> Iterator[list[int]]:
    """Ascending stamps without repeats, in lists."""
    unique = (stamp for stamp, _ in groupby(stamps))
    while block := list(islice(unique, size)):
        yield block


def _static(mounts: dict[str, Array]) -> Iterator[Event]:
    names = tuple(mounts)
    message = Transforms(
        stamp_ns=EPOCH_NS,
        frame_id="",
        parents=("base_link",) * len(names),
        children=names,
        parent_T_child=np.stack([mounts[name] for name in names]),
    )
    yield "/tf_static", EPOCH_NS, message


def _odometry(config: WorldConfig, scene: Scene) -> Iterator[Event]:
    grids = [_stamps(TRUTH_RATE_HZ, config.duration_s, 0), _stamps(config.lidar_rate_hz, config.duration_s, 1)]
    grids += [_stamps(config.camera_rate_hz, config.duration_s, 1)] if config.camera_rate_hz else []
    for block in _blocks(heapq.merge(*grids)):
        for message in truth.odometry(scene.trajectory, block, EPOCH_NS):
            yield "/truth/odometry", message.stamp_ns, message


def _imu(config: WorldConfig, scene: Scene, base_T_imu: Array) -> Iterator[Event]:
    rng = stream(config.seed, WORLDS.index(config.name), _IMU_NOISE)
    noise = inertial.ImuNoise()
    bias = inertial.draw_bias(rng, noise)
    for block in _blocks(_stamps(config.imu_rate_hz, config.duration_s, 0)):
        times = (np.array(block, dtype=np.int64) - EPOCH_NS) / 1e9
        rates, force = inertial.readings(scene.trajectory, times, base_T_imu, bias, noise, rng)
        for i, stamp in enumerate(block):
            message = Imu(
                stamp_ns=stamp, frame_id="imu", angular_velocity_radps=rates[i], linear_acceleration_mps2=force[i]
            )
            yield "/imu/data", stamp, message


def _gps(config: WorldConfig, scene: Scene) -> Iterator[Event]:
    rng = stream(config.seed, WORLDS.index(config.name), _GPS_NOISE)
    for stamp in _stamps(config.gps_rate_hz, config.duration_s, 1):
        position = scene.trajectory.position(np.array([_seconds(stamp)]))[0]
        latitude, longitude, altitude = inertial.geodetic(position + rng.standard_normal(3) * [0.6, 0.6, 1.2])
        yield (
            "/gps/fix",
            stamp,
            NavSatFix(
                stamp_ns=stamp,
                frame_id="base_link",
                latitude_deg=latitude,
                longitude_deg=longitude,
                altitude_m=altitude,
            ),
        )


def _lidar(config: WorldConfig, scene: Scene, base_T_lidar: Array) -> Iterator[Event]:
    lidar = make_lidar(config)
    rng = stream(config.seed, WORLDS.index(config.name), _LIDAR_NOISE)
    for stamp in _stamps(config.lidar_rate_hz, config.duration_s, 1):
        time_s = _seconds(stamp)
        snapshot = scene.snapshot(time_s)
        result = sweep(lidar, scene.trajectory, snapshot.primitives, time_s, rng)
        cloud = PointCloud(
            stamp_ns=stamp,
            frame_id="lidar",
            points_m=result.points_m,
            intensity=result.intensity,
            ring=result.ring,
            time_offset_s=result.time_offset_s,
        )
        yield "/lidar/points", stamp, cloud
        sensor = (states_at(scene.trajectory, np.array([time_s])).world_T_base[0] @ base_T_lidar)[:3, 3]
        yield "/truth/tracks_3d", stamp, truth.tracks_3d(snapshot.objects, sensor, TRUTH_REACH_M, result.owner, stamp)


def _camera(config: WorldConfig, scene: Scene, base_T_camera: Array) -> Iterator[Event]:
    camera = Camera.with_width(config.camera_width_px, config.camera_height_px)
    rng = stream(config.seed, WORLDS.index(config.name), _DEPTH_NOISE)
    focal_px = float(camera.intrinsics[0, 0])
    for stamp in _stamps(config.camera_rate_hz, config.duration_s, 1):
        time_s = _seconds(stamp)
        snapshot = scene.snapshot(time_s)
        world_T_camera = states_at(scene.trajectory, np.array([time_s])).world_T_base[0] @ base_T_camera
        view = render(camera, world_T_camera, scene, snapshot.primitives)
        jpeg = [cv2.IMWRITE_JPEG_QUALITY, config.jpeg_quality]
        yield "/camera/image", stamp, _encoded(stamp, "bgr8; jpeg compressed bgr8", ".jpg", view.bgr, jpeg)
        yield "/camera/camera_info", stamp, _camera_info(stamp, camera)
        boxes = truth.tracks_2d(snapshot.objects, view.owner, world_T_camera, camera.intrinsics, stamp)
        yield "/truth/tracks_2d", stamp, boxes
        if config.include_depth:
            png = [cv2.IMWRITE_PNG_COMPRESSION, 6]
            noisy = truth.noisy_depth_mm(view.depth_m, focal_px, rng)
            yield "/camera/depth", stamp, _encoded(stamp, "16UC1; png compressed", ".png", noisy, png)
            exact = truth.depth_mm(view.depth_m)
            yield "/truth/depth", stamp, _encoded(stamp, "16UC1; png compressed", ".png", exact, png)


def _encoded(stamp_ns: int, kind: str, suffix: str, pixels: Array, options: list[int]) -> CompressedImage:
    done, data = cv2.imencode(suffix, pixels, options)
    if not done:
        raise ValueError(f"OpenCV could not encode a {suffix} file")
    return CompressedImage(stamp_ns=stamp_ns, frame_id="camera", format=kind, data=data.ravel())


def _camera_info(stamp_ns: int, camera: Camera) -> CameraInfo:
    return CameraInfo(
        stamp_ns=stamp_ns,
        frame_id="camera",
        width_px=camera.size_px[0],
        height_px=camera.size_px[1],
        intrinsics=camera.intrinsics,
        distortion_model="plumb_bob",
        distortion=np.zeros(5),
        rectification=np.eye(3),
        projection=np.concatenate([camera.intrinsics, np.zeros((3, 1))], axis=1),
    )
