"""The dashboard's page in a real headless Chromium. Skipped where there is none."""

from __future__ import annotations

import base64
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel.report.dashboard_server import MAX_CLIENTS, DashboardServer
from tercel.report.dashboard_state import DashboardState
from tests.scenarios import dashboard_robot as robot
from tests.scenarios.dashboard_serving import CLOSED, OPEN, TOKEN, Robot, Stream, until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATH_RGB = (255, 209, 102)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--window-size=1280,900",
)  # fmt: skip


@pytest.fixture
def state() -> DashboardState:
    return DashboardState("a test")


@pytest.fixture
def driving(state: DashboardState) -> Iterator[Robot]:
    machine = Robot(state)
    yield machine
    machine.stop()


@pytest.fixture
def server(state: DashboardState) -> Iterator[DashboardServer]:
    with DashboardServer(state, "127.0.0.1", 0, OPEN) as serving:
        yield serving


class Page:
    """A tab of a real browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, server: DashboardServer) -> None:
        self.driver.get(server.url)

    def text(self, selector: str) -> str:
        """The text of everything that fits, as a person sees it."""
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText).join('\\n')"
        return str(self.driver.execute_script(script, selector))

    def shows(self, selector: str, words: str, *, within_s: float = 10.0) -> None:
        until(lambda: words in self.text(selector) or None, within_s=within_s)

    def pixels(self, selector: str) -> np.ndarray:
        """RGB (H, W, 3) of a canvas."""
        script = (
            "const c = document.querySelector(arguments[0]);"
            "const o = new OffscreenCanvas(c.width, c.height).getContext('2d', {willReadFrequently: true});"
            "o.drawImage(c, 0, 0); const d = o.getImageData(0, 0, c.width, c.height);"
            "return [c.width, c.height, btoa(d.data.reduce((s, v) => s + String.fromCharCode(v), ''))]"
        )
        width, height, data = self.driver.execute_script(script, selector)
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[:, :, :3].astype(int)

    def complaints(self) -> list[str]:
        """What the console said that is no advice, since this was last asked."""
        return [row["message"] for row in self.driver.get_log("browser") if row["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium with its driver here (apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = CHROMIUM
    driver = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    browser.execute_cdp_cmd("Network.clearBrowserCookies", {})  # those of all ports
    browser.get_log("browser")
    yield Page(browser)
    browser.get("about:blank")


def test_the_page_shows_camera_map_rates_components_and_offload_decisions(
    server: DashboardServer, driving: Robot, page: Page
) -> None:
    page.open(server)
    page.shows("#verdict", "No alarms")
    page.shows("#topics tbody", "/camera/image")
    until(lambda: re.search(r"/camera/image\s+Image\s+(9\.\d|10\.\d)", page.text("#topics tbody")))
    page.shows("#components tbody", "detector")
    assert re.search(
        r"detector robot\s*● ok\s*10\.0\s*10\.0\s*12\.5\s*31\.0\s*8\.3\s*2", page.text("#components tbody")
    )
    until(lambda: int(page.text(".fates .cloud b").split()[0]) >= 26)
    assert page.text(".fates .edge b").split()[0] == "10"
    assert "policy tercel" in page.text(".policies")
    assert page.text("#link").startswith("live")

    until(lambda: page.pixels("#camera canvas").std() > 20)
    seen = page.pixels("#camera canvas")
    red = (seen[..., 0] > 170) & (seen[..., 1] < 80) & (seen[..., 2] < 80)
    green = (seen[..., 1] > 120) & (seen[..., 0] < 110) & (seen[..., 2] < 110)
    assert red.sum() > 500, "the square"
    assert green.sum() > 5000, "the ground"
    until(lambda: (page.pixels("#map canvas") == PATH_RGB).all(axis=2).sum() > 20)
    assert (page.pixels("#map canvas").max(axis=2) > 120).sum() > 500, "the sweep"
    page.shows("#camera [data-part=note]", "/camera/image · boxes: /tracks_2d")
    page.shows("#map [data-part=note]", "/odometry · /lidar/points · /tracks_3d")
    assert page.complaints() == []


def test_the_box_is_drawn_around_what_was_found(server: DashboardServer, driving: Robot, page: Page) -> None:
    page.open(server)
    page.shows("#camera [data-part=note]", "boxes: /tracks_2d")
    time.sleep(0.5)
    seen = page.pixels("#camera canvas")
    red = (seen[..., 0] > 190) & (seen[..., 1] < 70) & (seen[..., 2] < 70)
    rows, columns = np.nonzero(red)
    scale = min(seen.shape[1] / robot.WIDTH_PX, seen.shape[0] / robot.HEIGHT_PX)
    assert np.ptp(columns) == pytest.approx(40 * scale, abs=6)
    assert np.ptp(rows) == pytest.approx(40 * scale, abs=6)
    beside = seen[rows.min() + 20 : rows.max() - 20, columns.min() - 4 : columns.min() + 4]
    hue_of_track_7 = 7 * 137.508 % 360
    assert 235 < hue_of_track_7 < 250, "blue: told from red, ground and sky"
    is_line = (beside[..., 2] > 180) & (beside[..., 2] - beside[..., 1] > 80)
    assert is_line.any(axis=1).mean() > 0.9, "a blue line along the square's left side"


def test_alarms_appear_with_since_when_and_go(server: DashboardServer, driving: Robot, page: Page) -> None:
    page.open(server)
    page.shows("#verdict", "No alarms")
    driving.rows[0] = robot.component("detector", "CameraDetector", 0.0, level=2, message="failed: ValueError: no")
    page.shows("#verdict", "1 alarm")
    page.shows("#verdict", "failed: ValueError: no")
    assert "error" in page.driver.find_element("id", "verdict").get_attribute("class")
    assert re.search(
        r"✖ error\s+robot: detector\s*failed: ValueError: no\s+since \d\d:\d\d:\d\d", page.text("#alarms ul")
    )
    assert re.search(r"detector robot\s*✖ error", page.text("#components tbody"))
    driving.silent.add("/camera/image")
    page.shows("#alarms ul", "/camera/image")
    page.shows("#camera .old", "s old")
    assert "stale" in page.driver.find_element("css selector", "#camera .screen").get_attribute("class")
    driving.rows[0] = robot.component("detector", "CameraDetector", 10.0)
    driving.silent.clear()
    page.shows("#verdict", "No alarms")
    page.shows("#alarms ul.past", "failed: ValueError: no")
    until(lambda: "stale" not in page.driver.find_element("css selector", "#camera .screen").get_attribute("class"))
    assert page.complaints() == []


def test_text_from_the_wire_stays_text(server: DashboardServer, driving: Robot, page: Page) -> None:
    evil = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
    driving.class_name = evil
    driving.rows = [
        robot.component(evil, evil, 1.0, level=2, message=evil),
        (1, evil, evil, {evil: evil, "component": evil, "received": evil}),
        (0, evil + "2", "", {"policy": evil, f"fates.{evil}": 3}),
    ]
    for name in (f"/{evil}", "/\u202eabc", "/a\nb", "/" + "y" * 250):
        driving.state.receive(name, evil, b"", time.monotonic_ns(), time.time_ns())
    ros_type, data = robot.data_of(robot.picture(0, time.time_ns()))
    driving.state.receive("/camera/" + evil, ros_type, data, time.monotonic_ns(), time.time_ns())
    page.open(server)
    for where in ("#topics tbody", "#components tbody", "#alarms ul", "#verdict", ".policies", ".fates"):
        page.shows(where, "<script>window.hacked=1")
    options = page.driver.execute_script("return [...document.querySelectorAll('#camera option')].map((o) => o.value)")
    assert options == ["/camera/" + evil, "/camera/image"]
    time.sleep(1.0)
    assert page.driver.execute_script("return window.hacked") is None
    assert page.driver.execute_script("return document.querySelectorAll('main script, main img').length") == 0
    assert page.complaints() == []


def test_another_camera_can_be_chosen(server: DashboardServer, driving: Robot, page: Page) -> None:
    page.open(server)
    page.shows("#camera [data-part=note]", "/camera/image")
    ros_type, data = robot.data_of(robot.picture(0, time.time_ns()))
    black = data.replace(bytes([200, 120, 40]), bytes(3)).replace(bytes([40, 160, 60]), bytes(3))
    driving.state.receive("/rear/image", ros_type, black, time.monotonic_ns(), time.time_ns())
    until(lambda: not page.driver.execute_script("return document.querySelector('#camera select').hidden"))
    page.driver.execute_script(
        "const s = document.querySelector('#camera select');"
        "s.value = '/rear/image'; s.dispatchEvent(new Event('change'))"
    )
    until(lambda: (page.pixels("#camera canvas")[..., 1] > 120).sum() == 0)
    page.shows("#camera [data-part=note]", "/rear/image")


def test_before_anything_comes_the_page_says_so_and_complains_of_nothing(server: DashboardServer, page: Page) -> None:
    page.open(server)
    page.shows("#verdict", "Nothing has come yet")
    page.shows("#camera", "No camera picture yet")
    page.shows("#offload", "No offload manager reports")
    assert page.complaints() == []


def test_the_page_asks_for_the_token_once(state: DashboardState, driving: Robot, page: Page) -> None:
    with DashboardServer(state, "127.0.0.1", 0, CLOSED) as server:
        page.open(server)
        field = page.driver.find_element("id", "token")
        field.send_keys("not the token\n")
        page.shows("[role=status]", "printable")
        field.clear()
        field.send_keys("not-the-token-but-long-enough\n")
        page.shows("[role=status]", "not the token")
        field.clear()
        field.send_keys(TOKEN + "\n")
        page.shows("#verdict", "No alarms")
        page.shows("#camera [data-part=note]", "/camera/image")
        assert page.driver.execute_script("return document.cookie") == "", "no script can read it"
        page.complaints()  # a browser tells each 401
        page.driver.refresh()
        page.shows("#verdict", "No alarms")
        assert page.complaints() == []


def test_after_a_restart_of_the_server_the_page_is_live_again(
    state: DashboardState, driving: Robot, page: Page
) -> None:
    with DashboardServer(state, "127.0.0.1", 0, OPEN) as server:
        page.open(server)
        page.shows("#link", "live")
        port = server.port
    page.shows("#link", "no connection")
    assert page.driver.execute_script("return document.body.className") == "lost"
    with DashboardServer(state, "127.0.0.1", port, OPEN):
        page.shows("#link", "live", within_s=15)
        before = page.text("#topics tbody")
        until(lambda: page.text("#topics tbody") != before)
        until(lambda: page.pixels("#camera canvas").std() > 20)


def test_a_page_too_many_says_so_and_comes_to_life_when_another_is_closed(
    server: DashboardServer, driving: Robot, page: Page
) -> None:
    others = [Stream(server.port) for _ in range(MAX_CLIENTS)]
    try:
        page.open(server)
        page.shows("#link", "too many pages")
    finally:
        for other in others:
            other.close()
    page.shows("#link", "live")
    page.shows("#verdict", "No alarms")


def test_a_page_whose_token_is_no_longer_known_asks_for_the_new_one(
    state: DashboardState, driving: Robot, page: Page
) -> None:
    with DashboardServer(state, "127.0.0.1", 0, OPEN) as server:
        page.open(server)
        page.shows("#link", "live")
        port = server.port
    with DashboardServer(state, "127.0.0.1", port, CLOSED):
        until(lambda: page.driver.find_elements("id", "token"), within_s=15)


def test_what_changes_never_moves_the_page(server: DashboardServer, state: DashboardState, page: Page) -> None:
    """The places of all panels are the same with nothing, and with thirty topics and alarms."""
    places = (
        "return [...document.querySelectorAll('.card, .screen, .scroll')].map((e) => e.getBoundingClientRect())"
        ".map((r) => [r.x, r.y, r.width, r.height].map(Math.round))"
    )
    page.open(server)
    page.shows("#verdict", "Nothing has come yet")
    empty = page.driver.execute_script(places)
    machine = Robot(state)
    try:
        for index in range(30):
            state.receive(f"/sensor_{index}", "std_msgs/msg/String", b"", time.monotonic_ns(), 0)
        machine.rows[0] = robot.component("detector", "CameraDetector", 0.0, level=2, message="failed: " + "very " * 30)
        page.shows("#verdict", "1 alarm")
        page.shows("#topics tbody", "/sensor_29")
        assert page.driver.execute_script(places) == empty
    finally:
        machine.stop()


def test_on_a_narrow_tablet_nothing_is_cut_off_at_the_side(server: DashboardServer, driving: Robot, page: Page) -> None:
    driving.state.receive("/" + "a_long_name/" * 12, "std_msgs/msg/String", b"", time.monotonic_ns(), 0)
    try:
        for width in (1180, 820, 600, 360):
            page.driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
            )
            page.open(server)
            page.shows("#topics tbody", "/camera/image")
            assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_is_small_and_asks_nobody_else(server: DashboardServer) -> None:
    folder = Path(sys.modules[DashboardServer.__module__].__file__ or "").parent
    files = [*folder.glob("dashboard*.html"), *folder.glob("dashboard*.css"), *folder.glob("dashboard*.js")]
    assert len(files) == 6
    assert sum(file.stat().st_size for file in files) < 60_000
    text = "".join(file.read_text() for file in files).replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in text
    assert "https:" not in text
    assert "innerHTML" not in text
