"""The named trackers of boxes in images, for the command line and for comparisons."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tercel.core.errors import UserError, nearest_hint
from tracking.bytetrack import ByteTrackConfig
from tracking.components import ByteTrack, OcSort, Sort, Tracker2D
from tracking.image_tracker import Tracker2DConfig
from tracking.ocsort import OcSortConfig
from tracking.sort import SortConfig

TRACKERS_2D = {
    "tercel": (Tracker2D, Tracker2DConfig),
    "sort": (Sort, SortConfig),
    "bytetrack": (ByteTrack, ByteTrackConfig),
    "ocsort": (OcSort, OcSortConfig),
}


def make_tracker_2d(name: str, *, frame_period_s: float | None = None, **settings: Any) -> Tracker2D:
    """A tracker component by name, with some of its settings.

    frame_period_s is for those that count in frames; the others do without.
    Raises UserError for an unknown name or setting.
    """
    if name not in TRACKERS_2D:
        raise UserError(f"unknown tracker {name!r}; {nearest_hint(name, TRACKERS_2D)}")
    component, config = TRACKERS_2D[name]
    known = [field.name for field in fields(config)]
    if frame_period_s is not None and "frame_period_s" in known:
        settings = {"frame_period_s": frame_period_s, **settings}
    for key in settings:
        if key not in known:
            raise UserError(f"{name} has no setting {key!r}; {nearest_hint(key, known)}")
    return component(config(**settings))
