"""What the tests of the registration commands share: a way to run them, and recordings."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from tercel.cli import main

HOSTILE = "<script>alert(1)</script>\"&'.mcap"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


class Page(HTMLParser):
    """The tags of a page, and what it would load from elsewhere."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith(("data:", "#")):
                self.loads.append(value)


def write_street(path: Path) -> Path:
    """Twenty metres of a street with truth, 16 beams, sweeps bent by the drive."""
    settings = (
        "duration_s=4",
        "lidar_rate_hz=4",
        "lidar_columns=450",
        "camera_rate_hz=0",
        "imu_rate_hz=100",
        "gps_rate_hz=0",
    )
    options = [word for setting in settings for word in ("--set", setting)]
    assert run("world", "street", "--seed", 5, *options, "-o", path, "--compression", "none") == 0
    return path
