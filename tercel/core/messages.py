"""Typed messages: frozen dataclasses over numpy arrays, structure-of-arrays.

`stamp_ns` is when the sensor captured, in integer nanoseconds, never when we processed. `frame_id` is the frame that
the numbers are expressed in. Arrays are checked for shape and cast to the stated dtype when a message is made; a
wrong shape is a programmer's mistake and raises ValueError. Values are not checked here: NaN is legal in a message,
and each component says which values it can use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RADIATIONS = ("ultrasound", "infrared")
BATTERY_STATUSES = ("unknown", "charging", "discharging", "not charging", "full")


@dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """What every message has: a capture time and a frame."""

    stamp_ns: int
    frame_id: str

    def _shape(self, name: str, dtype: Any, *shape: int | None) -> None:
        """Cast the named array to dtype (no copy where it already fits) and check its shape; None is any length."""
        array = getattr(self, name)
        if type(array) is not np.ndarray or array.dtype != dtype:
            with np.errstate(over="ignore", invalid="ignore"):  # too large for float32 is inf: for components to judge
                array = np.asarray(array, dtype=dtype)
        # Where all lengths are known, one comparison: trackers make messages thousands of times a second.
        if array.shape != shape and (
            len(array.shape) != len(shape)
            or any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True))
        ):
            raise ValueError(f"{type(self).__name__}.{name} has shape {array.shape}, not {shape}")
        object.__setattr__(self, name, array)


@dataclass(frozen=True, kw_only=True, eq=False)
class Image(Message):
    """One image. pixels: (H, W) or (H, W, C), in the dtype that the encoding names.

    encoding: a ROS name: bgr8, rgb8, bgra8, rgba8, mono8, mono16, 16UC1 (depth in mm), 32FC1 (depth in m). What a
    camera sends raw (bayer_rggb8, uyvy, nv12, rgb16, ...) hosts make bgr8 for ports of type Image.
    """

    pixels: Array
    encoding: str

    def __post_init__(self) -> None:
        if self.pixels.ndim not in (2, 3):
            raise ValueError(f"Image.pixels has shape {self.pixels.shape}, not (H, W) or (H, W, C)")


@dataclass(frozen=True, kw_only=True, eq=False)
class CompressedImage(Message):
    """One image as a JPEG or PNG file in memory; hosts decode it for ports of type Image.

    format: as ROS's compressed image transport writes it: "jpeg", "png", "bgr8; jpeg compressed bgr8",
    "16UC1; png compressed" (depth in mm). data: (bytes,) uint8.
    """

    format: str
    data: Array

    def __post_init__(self) -> None:
        self._shape("data", np.uint8, None)


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraInfo(Message):
    """A camera's calibration, as ROS names it.

    intrinsics (3, 3) float64, distortion (D,) float64, rectification (3, 3), projection (3, 4).
    """

    width_px: int
    height_px: int
    intrinsics: Array
    distortion_model: str
    distortion: Array
    rectification: Array
    projection: Array

    def __post_init__(self) -> None:
        self._shape("intrinsics", np.float64, 3, 3)
        self._shape("distortion", np.float64, None)
        self._shape("rectification", np.float64, 3, 3)
        self._shape("projection", np.float64, 3, 4)


@dataclass(frozen=True, kw_only=True, eq=False)
class PointCloud(Message):
    """A LiDAR sweep. points_m (N, 3) float32; the rest (N,) or None where the sensor does not say.

    intensity float32 in 0..1 where the sensor is calibrated; ring uint16; time_offset_s float32: when the point was
    measured, relative to stamp_ns (negative is before it).
    """

    points_m: Array
    intensity: Array | None = None
    ring: Array | None = None
    time_offset_s: Array | None = None

    def __post_init__(self) -> None:
        self._shape("points_m", np.float32, None, 3)
        for name, dtype in (("intensity", np.float32), ("ring", np.uint16), ("time_offset_s", np.float32)):
            if getattr(self, name) is not None:
                self._shape(name, dtype, len(self.points_m))


@dataclass(frozen=True, kw_only=True, eq=False)
class Imu(Message):
    """Body rates and specific force in frame_id. Both (3,) float64."""

    angular_velocity_radps: Array
    linear_acceleration_mps2: Array

    def __post_init__(self) -> None:
        self._shape("angular_velocity_radps", np.float64, 3)
        self._shape("linear_acceleration_mps2", np.float64, 3)


@dataclass(frozen=True, kw_only=True, eq=False)
class NavSatFix(Message):
    """A satellite position, WGS 84."""

    latitude_deg: float
    longitude_deg: float
    altitude_m: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Range(Message):
    """One distance along x of frame_id, within a cone. -inf: something closer than can be measured; inf: nothing.

    radiation: "ultrasound" or "infrared" (lasers too). field_of_view_rad: the cone's full angle.
    """

    range_m: float
    min_range_m: float
    max_range_m: float
    field_of_view_rad: float
    radiation: str = "infrared"

    def __post_init__(self) -> None:
        if self.radiation not in RADIATIONS:
            raise ValueError(f"Range.radiation is {self.radiation!r}, not one of {', '.join(RADIATIONS)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class BatteryState(Message):
    """A battery. NaN where it does not measure; current_a is negative while it discharges.

    charge_fraction: 0 to 1 of capacity_ah. status: "unknown", "charging", "discharging", "not charging" or "full".
    cell_voltages_v (N,) float32, empty where single cells are not measured.
    """

    voltage_v: float
    current_a: float = math.nan
    charge_ah: float = math.nan
    capacity_ah: float = math.nan
    charge_fraction: float = math.nan
    temperature_c: float = math.nan
    status: str = "unknown"
    is_present: bool = True
    cell_voltages_v: Array = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        if self.status not in BATTERY_STATUSES:
            raise ValueError(f"BatteryState.status is {self.status!r}, not one of {', '.join(BATTERY_STATUSES)}")
        self._shape("cell_voltages_v", np.float32, None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Odometry(Message):
    """The pose of child_frame_id in frame_id at stamp_ns.

    frame_T_child (4, 4) float64. covariance (6, 6) float64 or None if unknown, in the order x y z rx ry rz (m, rad),
    as nav_msgs/Odometry has it. Velocities (3,) float64 in the child frame, or None if unknown.
    """

    child_frame_id: str
    frame_T_child: Array
    covariance: Array | None = None
    linear_velocity_mps: Array | None = None
    angular_velocity_radps: Array | None = None

    def __post_init__(self) -> None:
        self._shape("frame_T_child", np.float64, 4, 4)
        if self.covariance is not None:
            self._shape("covariance", np.float64, 6, 6)
        for name in ("linear_velocity_mps", "angular_velocity_radps"):
            if getattr(self, name) is not None:
                self._shape(name, np.float64, 3)


@dataclass(frozen=True, kw_only=True, eq=False)
class Transforms(Message):
    """Named transforms: parent_T_child[i] (4, 4) float64 maps points of children[i] into parents[i].

    frame_id is unused and empty: each transform names its own frames.
    """

    parents: tuple[str, ...]
    children: tuple[str, ...]
    parent_T_child: Array

    def __post_init__(self) -> None:
        self._shape("parent_T_child", np.float64, len(self.parents), 4, 4)
        if len(self.parents) != len(self.children):
            raise ValueError(f"Transforms has {len(self.parents)} parents and {len(self.children)} children")


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections2D(Message):
    """Boxes in an image, in original-image pixels.

    boxes_xyxy_px (N, 4) float32; scores (N,) float32; labels (N,) int32, indices into class_names.
    """

    boxes_xyxy_px: Array
    scores: Array
    labels: Array
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        self._shape("boxes_xyxy_px", np.float32, None, 4)
        self._shape("scores", np.float32, len(self.boxes_xyxy_px))
        self._shape("labels", np.int32, len(self.boxes_xyxy_px))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks2D(Detections2D):
    """Boxes with an identity. ids (N,) int64, -1 where there is none; velocities_px_per_s (N, 2) float32 of the box
    centre, NaN where unknown; ages_s (N,) float32, time since the track began, NaN where unknown.

    None where the source does not tell: covariances (N, 4, 4) float64 of centre and velocity (x, y, vx, vy; px, s);
    unseen_s (N,) float32, time since the last detection.
    """

    ids: Array
    velocities_px_per_s: Array
    ages_s: Array
    covariances: Array | None = None
    unseen_s: Array | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._shape("ids", np.int64, len(self.boxes_xyxy_px))
        self._shape("velocities_px_per_s", np.float32, len(self.boxes_xyxy_px), 2)
        self._shape("ages_s", np.float32, len(self.boxes_xyxy_px))
        if self.covariances is not None:
            self._shape("covariances", np.float64, len(self.boxes_xyxy_px), 4, 4)
        if self.unseen_s is not None:
            self._shape("unseen_s", np.float32, len(self.boxes_xyxy_px))


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections3D(Message):
    """Upright boxes in frame_id (x forward, y left, z up).

    centers_m (N, 3) float64, the middle of the box; sizes_m (N, 3) float64: length, width, height; yaws_rad (N,)
    float64 about z, 0 along x; scores (N,) float32; labels (N,) int32, indices into class_names.
    """

    centers_m: Array
    sizes_m: Array
    yaws_rad: Array
    scores: Array
    labels: Array
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        self._shape("centers_m", np.float64, None, 3)
        n = len(self.centers_m)
        self._shape("sizes_m", np.float64, n, 3)
        self._shape("yaws_rad", np.float64, n)
        self._shape("scores", np.float32, n)
        self._shape("labels", np.int32, n)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks3D(Detections3D):
    """Boxes with an identity. ids (N,) int64, -1 where there is none; velocities_mps (N, 3) float64 in frame_id, NaN
    where unknown; ages_s (N,) float32, time since the track began, NaN where unknown.

    None where the source does not tell: covariances (N, 6, 6) float64 of centre and velocity (x, y, z, vx, vy, vz; m,
    s); unseen_s (N,) float32, time since the last detection.
    """

    ids: Array
    velocities_mps: Array
    ages_s: Array
    covariances: Array | None = None
    unseen_s: Array | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        n = len(self.centers_m)
        self._shape("ids", np.int64, n)
        self._shape("velocities_mps", np.float64, n, 3)
        self._shape("ages_s", np.float32, n)
        if self.covariances is not None:
            self._shape("covariances", np.float64, n, 6, 6)
        if self.unseen_s is not None:
            self._shape("unseen_s", np.float32, n)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions(Message):
    """Where tracks will be: K hypotheses for each of N tracks, at H times after stamp_ns, in the D coordinates of
    frame_id (x, y in px; x, y, z in m).

    ids (N,) int64; horizons_s (H,) float64, ascending; positions (N, K, H, D) float64 of the box's centre; covariances
    (N, K, H, D, D) float64; mode_probabilities (N, K) float64, each row sums to 1.
    """

    ids: Array
    horizons_s: Array
    positions: Array
    covariances: Array
    mode_probabilities: Array

    def __post_init__(self) -> None:
        self._shape("ids", np.int64, None)
        self._shape("horizons_s", np.float64, None)
        n, h = len(self.ids), len(self.horizons_s)
        self._shape("positions", np.float64, n, None, h, None)
        k, d = self.positions.shape[1], self.positions.shape[3]
        self._shape("covariances", np.float64, n, k, h, d, d)
        self._shape("mode_probabilities", np.float64, n, k)


@dataclass(frozen=True, kw_only=True, eq=False)
class NextLook(Message):
    """When the next frame has to be looked at for the tracks of stamp_ns to stay within their error budgets.

    due_ns: a stamp of the same clock; reason: which limit comes first; critical_id: the track that sets it, -1 if none.
    """

    due_ns: int
    reason: str
    critical_id: int = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoteTracks(Message):
    """What another robot says that it tracks. stamp_ns: when it reached us, by OUR clock; frame_id: that of the tracks,
    which both robots know.

    robot: its name. tracks: its message, whose stamp_ns is by ITS clock. sent_ns: when it sent this, by its clock; None
    if unknown. exchange_ns (4,) int64, or None where there was none: of a request and its answer, when we sent (our
    clock), they received, they answered (theirs), we received (ours).
    """

    robot: str
    tracks: Tracks3D
    sent_ns: int | None = None
    exchange_ns: Array | None = None

    def __post_init__(self) -> None:
        if self.exchange_ns is not None:
            self._shape("exchange_ns", np.int64, 4)
