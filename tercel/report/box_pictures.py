"""Boxes drawn into images, and images with boxes over them as panels of a report."""

from __future__ import annotations

import colorsys
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tercel.core.messages import Detections2D, Tracks2D
from tercel.report.camera_view import draw_boxes_2d
from tercel.report.drawing import Panel, data_uri, esc, hue_of_class

Array = NDArray[Any]

SHOWN_SIDE_PX = 960
_QUALITY = 72
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_boxes(bgr: Array, found: Detections2D) -> Array:
    """A copy of the image (H, W, 3) uint8 with boxes, class names and scores, in lines that fit its size."""
    drawn: Array = bgr.copy()
    unit = max(min(bgr.shape[:2]) / 600.0, 0.5)
    thickness = max(1, round(2 * unit))
    order = np.argsort(found.scores, kind="stable")  # the best last, on top
    for row in order.tolist():
        x1, y1, x2, y2 = np.rint(found.boxes_xyxy_px[row]).astype(int).tolist()
        name = found.class_names[int(found.labels[row])]
        colour = _colour(name)
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA)
        text = f"{name} {float(found.scores[row]):.2f}".encode("ascii", "replace").decode()  # all that its font knows
        (width, height), below = cv2.getTextSize(text, _FONT, 0.5 * unit, max(1, round(unit)))
        top = y1 - height - below if y1 >= height + below else y1
        left = max(0, min(x1, bgr.shape[1] - width))
        cv2.rectangle(drawn, (left, top), (left + width, top + height + below), colour, cv2.FILLED)
        ink = (0, 0, 0)
        cv2.putText(drawn, text, (left, top + height), _FONT, 0.5 * unit, ink, max(1, round(unit)), cv2.LINE_AA)
    return drawn


def small_jpeg(bgr: Array, side_px: int = SHOWN_SIDE_PX) -> bytes:
    """The image as a JPEG whose longer side is at most side_px."""
    scale = side_px / max(bgr.shape[:2])
    if scale < 1.0:
        size = max(1, round(bgr.shape[1] * scale)), max(1, round(bgr.shape[0] * scale))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])


def box_panel(jpeg: bytes, size_px: tuple[int, int], found: Detections2D, label: str) -> str:
    """HTML of an image with the boxes over it. size_px: (width, height) of the image that the boxes are in."""
    panel = Panel(*size_px, label, "camera")
    count = len(found.scores)
    unknown = Tracks2D(
        stamp_ns=found.stamp_ns,
        frame_id=found.frame_id,
        boxes_xyxy_px=found.boxes_xyxy_px,
        scores=found.scores,
        labels=found.labels,
        class_names=found.class_names,
        ids=np.full(count, -1),
        velocities_px_per_s=np.full((count, 2), np.nan),
        ages_s=np.full(count, np.nan),
    )
    draw_boxes_2d(panel, unknown)
    return panel.html(background=f'<img src="{data_uri("jpeg", jpeg)}" alt="{esc(label)}" loading="lazy">')


def _colour(name: str) -> tuple[int, int, int]:
    """BGR of a class: the hue that the reports give it, light enough for black letters."""
    red, green, blue = colorsys.hls_to_rgb(int(hue_of_class(name)) / 360.0, 0.65, 0.9)
    return round(255 * blue), round(255 * green), round(255 * red)
