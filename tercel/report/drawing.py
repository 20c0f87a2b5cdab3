"""The few things that every picture of the report is made of: panels of SVG shapes with HTML labels, axes, a PNG.

A panel scales with the page. Its lines keep their width (vector-effect) and its labels their size, because they are
HTML laid over the SVG in percent. Colours are classes of page.css; a track has its own hue, in the variable --h.
"""

from __future__ import annotations

import base64
import html
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def esc(text: object) -> str:
    """Text from outside, safe in HTML text and attributes."""
    return html.escape(str(text), quote=True)


def number(value: float, digits: int = 1) -> str:
    """A number without trailing zeros, so that the page stays small: 12, 3.4."""
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def hue_of_id(identity: int) -> str:
    """The hue of a track in degrees: multiples of the golden angle, so that neighbouring ids differ most."""
    return number(identity * 137.508 % 360.0, 0)


def hue_of_class(name: str) -> str:
    """The hue of a detection without an id."""
    return str(zlib.crc32(name.encode()) % 360)


@dataclass
class Panel:
    """A picture `width` by `height` units; `label` says in words what it shows."""

    width: float
    height: float
    label: str
    kind: str = ""
    shapes: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def line(self, points: Array, css: str, *, hue: str | None = None, closed: bool = False) -> None:
        """A polyline through points (N, 2)."""
        end = "z" if closed else ""
        self.shapes.append(f'<path class="{css}"{_hue(hue)} d="{_path_data(points)}{end}"/>')

    def segments(self, lines: Sequence[Array], css: str, *, hue: str | None = None, title: str = "") -> None:
        """Several polylines as one shape. title is shown where the pointer rests on it."""
        data = "".join(_path_data(points) for points in lines)
        self.shapes.append(f'<path class="{css}"{_hue(hue)} d="{data}">{_title(title)}</path>')

    def rectangle(
        self, x: float, y: float, width: float, height: float, css: str, *, hue: str | None = None, title: str = ""
    ) -> None:
        """A box by its upper left corner."""
        self.shapes.append(
            f'<rect class="{css}"{_hue(hue)} x="{number(x)}" y="{number(y)}" width="{number(width)}" '
            f'height="{number(height)}">{_title(title)}</rect>'
        )

    def circle(self, x: float, y: float, radius: float, css: str) -> None:
        """A circle by its centre."""
        self.shapes.append(f'<circle class="{css}" cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"/>')

    def text(self, x: float, y: float, content: str, css: str, *, hue: str | None = None) -> None:
        """A label at a point of the panel; css says on which side of it. `content` is HTML: escape what is foreign."""
        style = f"left:{number(100 * x / self.width, 2)}%;top:{number(100 * y / self.height, 2)}%"
        style += "" if hue is None else f";--h:{hue}"
        self.texts.append(f'<span class="{css}" style="{style}">{content}</span>')

    def html(self, *, background: str = "") -> str:
        """The panel; background is HTML that lies under the shapes, such as an image."""
        size = f"{number(self.width)} {number(self.height)}"
        return (
            f'<div class="panel {self.kind}" style="--ratio:{number(self.width / self.height, 4)}">'
            f'{background}<svg viewBox="0 0 {size}" preserveAspectRatio="none" role="img" '
            f'aria-label="{esc(self.label)}">{"".join(self.shapes)}</svg>'
            f'<div class="labels" aria-hidden="true">{"".join(self.texts)}</div></div>'
        )


def _hue(hue: str | None) -> str:
    return "" if hue is None else f' style="--h:{hue}"'


def _title(text: str) -> str:
    return f"<title>{esc(text)}</title>" if text else ""


def _path_data(points: Array) -> str:
    pairs = [f"{number(x)} {number(y)}" for x, y in np.asarray(points, dtype=np.float64).tolist()]
    return "M" + "L".join(pairs)


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that divides a span into at most `most` parts."""
    raw = max(span, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * (1 - 1e-9))


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round values from low to high, most + 1 of them at the utmost."""
    step = nice_step(high - low, most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


@dataclass(frozen=True)
class Axes:
    """A rectangle of a panel (in its units) that shows x_range by y_range; y points up."""

    left: float
    top: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def place(self, points: Array) -> Array:
        """Panel coordinates (N, 2) of values (N, 2)."""
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        x = self.left + (points[:, 0] - x0) / (x1 - x0) * self.width
        y = self.top + self.height - (points[:, 1] - y0) / (y1 - y0) * self.height
        return np.stack([x, y], axis=1)

    def draw(self, panel: Panel, *, x_unit: str, y_unit: str, x_most: int = 8, y_most: int = 6) -> None:
        """Grid lines with their values; the unit stands at the last one."""
        right, bottom = self.left + self.width, self.top + self.height
        x_ticks, y_ticks = ticks(*self.x_range, x_most), ticks(*self.y_range, y_most)
        for value in x_ticks:
            x = float(self.place(np.array([[value, self.y_range[0]]]))[0, 0])
            panel.line(np.array([[x, self.top], [x, bottom]]), "grid")
            panel.text(x, bottom, number(value, 3) + (f" {x_unit}" if value == x_ticks[-1] else ""), "tick below")
        for value in y_ticks:
            y = float(self.place(np.array([[self.x_range[0], value]]))[0, 1])
            panel.line(np.array([[self.left, y], [right, y]]), "grid")
            panel.text(self.left, y, number(value, 3) + (f" {y_unit}" if value == y_ticks[-1] else ""), "tick before")


def uncrowded(places: Array, sizes: Array, order: Sequence[int]) -> list[int]:
    """Which labels, tried in this order, do not cover one that came before.

    places (N, 2) and sizes (N, 2): their lower left corners, width and height.
    """
    low = places - sizes * np.array([0.0, 1.0])
    high = low + sizes
    kept: list[int] = []
    for label in order:
        others = np.array(kept, dtype=int)
        if not ((low[others] < high[label]) & (high[others] > low[label])).all(axis=1).any():
            kept.append(label)
    return kept


def thin(points: Array, most: int) -> Array:
    """At most about `most` of the points (N, ...), evenly spread, the last one among them."""
    if len(points) <= most:
        return points
    kept: Array = points[np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))]
    return kept


def data_uri(kind: str, data: bytes) -> str:
    """A picture that needs no file."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def palette_png(indices: Array, palette: Array) -> bytes:
    """A PNG of palette indices (H, W) uint8 below 16. palette (P, 4) uint8 RGBA, P at most 16.

    Four bits a pixel (PNG specification, colour type 3): a quarter of what OpenCV's RGBA takes.
    """
    height, width = indices.shape
    padded = np.zeros((height, width + width % 2), dtype=np.uint8)
    padded[:, :width] = indices
    packed = padded[:, 0::2] << 4 | padded[:, 1::2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), packed], axis=1)  # filter type 0 before each row
    header = struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", palette[:, :3].tobytes()),
        (b"tRNS", palette[:, 3].tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 5)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
