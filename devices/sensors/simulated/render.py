"""Draw a pinhole camera's picture, with the depth and the identity of every pixel.

One ray per pixel finds what is seen; a second one from there towards the sun finds shadows. Light is the sun's, by the
cosine of its incidence, and the sky's, by how far the surface looks up; distance fades into haze. Colours are mixed
directly in display space. Like the ray caster, everything per pixel in float32 is + - * / sqrt or a look-up, so the
picture is the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.materials import albedo, gloss
from devices.sensors.simulated.primitives import Primitives, bounding_corners
from devices.sensors.simulated.raycast import GROUND, MISS, Hits, Rays, cast, cast_shadow, owners, surface
from devices.sensors.simulated.scene import Look, Scene
from devices.sensors.simulated.texture import smooth_speckle
from devices.sensors.simulated.windows import BOX_EDGES, SHADOW_EDGES, Windows, box_distance, pinhole_windows
from tercel.core.geometry import inverse

Array = NDArray[Any]

VIEW_M = 260.0
SHADOW_VIEW_M = 90.0  # farther away shadows are not cast
HAZE_BGR = np.array([0.90, 0.86, 0.80], dtype=np.float32)
ZENITH_BGR = np.array([0.80, 0.56, 0.34], dtype=np.float32)
CLOUD_BGR = np.array([0.97, 0.96, 0.95], dtype=np.float32)
HILL_BGR = np.array([0.55, 0.52, 0.42], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera without distortion: (width, height) px, intrinsics (3, 3). Pixel middles are whole numbers."""

    size_px: tuple[int, int]
    intrinsics: Array

    @classmethod
    def with_width(cls, width_px: int, height_px: int) -> Camera:
        """A camera that sees 80 degrees across, looking through the picture's middle."""
        focal = width_px / (2 * np.tan(np.radians(40.0)))
        intrinsics = np.array([[focal, 0, (width_px - 1) / 2], [0, focal, (height_px - 1) / 2], [0, 0, 1]])
        return cls((width_px, height_px), intrinsics)

    def rays(self) -> tuple[Array, Array, Array]:
        """x, y, z (H, W) float64 of each pixel's unit direction, x right, y down, z forward."""
        width, height = self.size_px
        fx, fy, cx, cy = self.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]
        x = ((np.arange(width) - cx) / fx)[None, :]
        y = ((np.arange(height) - cy) / fy)[:, None]
        z = 1.0 / np.sqrt(1.0 + x * x + y * y)
        return x * z, y * z, z


@dataclass(frozen=True, eq=False)
class View:
    """bgr (H, W, 3) uint8; depth_m (H, W) float32 along the optical axis, inf where there is only sky; owner (H, W)
    int64, the id of the object that is seen, NO_OWNER elsewhere."""

    bgr: Array
    depth_m: Array
    owner: Array


def render(camera: Camera, world_T_camera: Array, scene: Scene, primitives: Primitives) -> View:
    """What the camera sees at the primitives' reference time."""
    rays, forward = camera_rays(camera, world_T_camera)
    windows = image_windows(camera, world_T_camera, primitives)
    hits = cast(rays, primitives, windows, max_range_m=VIEW_M)
    bgr = np.empty((*hits.range_m.shape, 3), dtype=np.float32)
    _paint_sky(bgr, hits, rays, scene.look)
    lit, albedo_bgr, normals, shine = _surfaces(rays, hits, scene, primitives)
    shade = _shadows(camera, world_T_camera, rays, hits, primitives, lit, scene.look)
    _paint_surfaces(bgr, hits, albedo_bgr, normals, shine, shade, scene.look)
    pixels = (np.clip(bgr, 0.0, 1.0) * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)
    return View(pixels, hits.range_m * forward, owners(hits, primitives))


def camera_rays(camera: Camera, world_T_camera: Array) -> tuple[Rays, Array]:
    """Rays in the world's axes, and the forward part (H, W) float32 of each unit direction."""
    x, y, z = camera.rays()
    rotation = world_T_camera[:3, :3]
    directions = tuple(
        (rotation[k, 0] * x + rotation[k, 1] * y + rotation[k, 2] * z).astype(np.float32) for k in range(3)
    )
    width = camera.size_px[0]
    ox, oy, oz = (np.full(width, world_T_camera[k, 3]) for k in range(3))
    return Rays((ox, oy, oz), (directions[0], directions[1], directions[2]), np.zeros(width)), z.astype(np.float32)


def image_windows(camera: Camera, world_T_camera: Array, primitives: Primitives) -> Windows:
    """Windows of everything within sight."""
    near, chosen, distance = _in_front(world_T_camera, primitives, VIEW_M)
    corners = bounding_corners(near, np.zeros(1))[:, 0]
    return pinhole_windows(
        corners, BOX_EDGES, distance, inverse(world_T_camera), camera.intrinsics, camera.size_px, chosen
    )


def _in_front(world_T_camera: Array, primitives: Primitives, reach_m: float) -> tuple[Primitives, Array, Array]:
    """Primitives within reach and not wholly behind the camera, their indices, and their distances."""
    distance = box_distance(primitives, world_T_camera[None, :3, 3], np.zeros(1))[:, 0]
    radius = np.sqrt((primitives.half_m.astype(np.float64) ** 2).sum(axis=1))
    depth = (primitives.centers_m - world_T_camera[:3, 3]) @ world_T_camera[:3, 2]
    chosen = np.flatnonzero((distance < reach_m) & (depth > -radius))
    return primitives.take(chosen), chosen, distance[chosen]


def _surfaces(rays: Rays, hits: Hits, scene: Scene, primitives: Primitives) -> tuple[Array, Array, Array, Array]:
    """Which pixels face the sun (H, W), and for all of them albedo (H, W, 3), normal (H, W, 3) and shine (H, W)."""
    shape = hits.range_m.shape
    color = np.zeros((*shape, 3), dtype=np.float32)
    normals = np.zeros((*shape, 3), dtype=np.float32)
    shine = np.zeros(shape, dtype=np.float32)
    rows, columns = np.nonzero(hits.primitive >= 0)
    local, normal = surface(rays, hits, primitives, rows, columns)
    distance = hits.range_m[rows, columns]
    seen = hits.primitive[rows, columns]
    color[rows, columns] = albedo(primitives, seen, local, distance)
    shine[rows, columns] = gloss(primitives, seen)
    normals[rows, columns] = normal
    rows, columns = np.nonzero(hits.primitive == GROUND)
    distance = hits.range_m[rows, columns]
    x, y = (
        rays.origins_m[k][columns] + distance * rays.directions[k][rows, columns].astype(np.float64) for k in (0, 1)
    )
    color[rows, columns] = scene.ground_bgr(x, y, distance)
    normals[rows, columns, 2] = 1.0
    sun = scene.look.sun.astype(np.float32)
    facing = normals[..., 0] * sun[0] + normals[..., 1] * sun[1] + normals[..., 2] * sun[2]
    return facing > 0.02, color, normals, shine


def _shadows(
    camera: Camera, world_T_camera: Array, rays: Rays, hits: Hits, primitives: Primitives, lit: Array, look: Look
) -> Array:
    """Pixels (H, W) bool that something keeps the sun from."""
    lit = lit & (hits.range_m < SHADOW_VIEW_M)
    close, chosen, distance = _in_front_shadows(world_T_camera, primitives, look)
    corners = bounding_corners(close, np.zeros(1))[:, 0]
    drop = np.maximum(corners[..., 2:3], 0.0) / look.sun[2]
    points = np.concatenate([corners, corners - drop * look.sun], axis=1)
    windows = pinhole_windows(
        points, SHADOW_EDGES, distance, inverse(world_T_camera), camera.intrinsics, camera.size_px, chosen
    )
    reach = np.where(np.isfinite(hits.range_m), hits.range_m * np.float32(0.9995) - np.float32(0.01), np.float32(0.0))
    base = np.array([rays.origins_m[k][0] for k in range(3)])
    ox, oy, oz = (base[k] + (reach * rays.directions[k]).astype(np.float64) for k in range(3))
    sun = look.sun.astype(np.float32)
    towards_sun = Rays((ox, oy, oz), (sun[0], sun[1], sun[2]), np.zeros(camera.size_px[0]))
    return cast_shadow(towards_sun, primitives, windows, lit)


def _in_front_shadows(world_T_camera: Array, primitives: Primitives, look: Look) -> tuple[Primitives, Array, Array]:
    """Primitives whose shadows may be in sight: like _in_front, with room for the shadow's length."""
    distance = box_distance(primitives, world_T_camera[None, :3, 3], np.zeros(1))[:, 0]
    top = primitives.centers_m[:, 2] + primitives.half_m[:, 2]
    length = np.sqrt((primitives.half_m.astype(np.float64) ** 2).sum(axis=1)) + top / look.sun[2]
    depth = (primitives.centers_m - world_T_camera[:3, 3]) @ world_T_camera[:3, 2]
    chosen = np.flatnonzero((distance < SHADOW_VIEW_M + length) & (depth > -length) & (top > 0.2))
    return primitives.take(chosen), chosen, distance[chosen]


def _paint_sky(bgr: Array, hits: Hits, rays: Rays, look: Look) -> None:
    """Haze at the horizon, blue above, thin clouds, and hills in the distance."""
    rows, columns = np.nonzero(hits.primitive == MISS)
    dx, dy, dz = (axis[rows, columns] for axis in rays.directions)
    height = np.maximum(dz, np.float32(0.0))
    blend = (height / (height + np.float32(0.28)))[:, None] * np.float32(1.35)
    color = HAZE_BGR + (ZENITH_BGR - HAZE_BGR) * np.minimum(blend, np.float32(1.0))
    above = height + np.float32(0.06)
    cloud = smooth_speckle(dx / above, dy / above, 3.0) * np.float32(0.6) + smooth_speckle(
        dx / above, dy / above, 11.0
    ) * np.float32(0.4)
    cover = np.clip((cloud - np.float32(0.52)) * np.float32(3.0), 0.0, 0.75) * np.minimum(
        height * np.float32(6.0), np.float32(1)
    )
    color += (CLOUD_BGR - color) * cover[:, None]
    azimuth = np.arctan2(dy.astype(np.float64), dx.astype(np.float64))
    ridge = look.hills_rad * (0.6 + 0.25 * np.sin(3 * azimuth + 1.0) + 0.15 * np.sin(11 * azimuth))
    hills = dz < ridge.astype(np.float32)
    color[hills] = HILL_BGR + (HAZE_BGR - HILL_BGR) * np.float32(0.45)
    bgr[rows, columns] = color


def _paint_surfaces(
    bgr: Array, hits: Hits, albedo_bgr: Array, normals: Array, shine: Array, shade: Array, look: Look
) -> None:
    """Sun, sky and haze on every surface."""
    solid = hits.primitive != MISS
    sun = look.sun.astype(np.float32)
    n = normals[solid]
    facing = np.maximum(n[:, 0] * sun[0] + n[:, 1] * sun[1] + n[:, 2] * sun[2], np.float32(0.0))
    sunlight = facing * np.where(shade[solid], np.float32(0.0), np.float32(1.0))
    sky = np.float32(0.42) + np.float32(0.16) * n[:, 2]
    warm = np.array([0.78, 0.88, 0.94], dtype=np.float32)
    cool = np.array([1.12, 1.02, 0.94], dtype=np.float32)
    light = sky[:, None] * cool + sunlight[:, None] * warm
    color = albedo_bgr[solid] * light
    color += (shine[solid] * (np.float32(0.35) + np.float32(0.65) * sunlight))[:, None] * ZENITH_BGR
    distance = hits.range_m[solid] / np.float32(look.haze_m)
    clear = np.float32(1.0) / (np.float32(1.0) + distance * distance)
    bgr[solid] = HAZE_BGR + (color - HAZE_BGR) * clear[:, None]
