"""The dashboard's server on real sockets, and its page in a real headless Chromium."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from tercel.report.dashboard_access import Access
from tercel.report.dashboard_blob import split_blob
from tercel.report.dashboard_server import MAX_CLIENTS, MAX_CONNECTIONS, DashboardServer
from tercel.report.dashboard_state import DashboardState
from tercel.ros.diagnostics import DIAGNOSTICS_TYPE
from tests.scenarios import dashboard_robot as robot

TOKEN = "a-token-of-some-length"  # noqa: S105 (nobody else's)
OPEN = Access(None, frozenset({"localhost"}))
CLOSED = Access(TOKEN, frozenset({"localhost"}))
# The command, whether or not the roof has hung it up yet.
COMMAND = (
    "import argparse, sys; from tercel.cli_dashboard import add_dashboard; from tercel.core.errors import UserError\n"
    "p = argparse.ArgumentParser(); add_dashboard(p.add_subparsers(dest='verb', required=True))\n"
    "a = p.parse_args(['dashboard', *sys.argv[1:]])\n"
    "try: sys.exit(a.run(a))\n"
    "except UserError as error: print(error, file=sys.stderr); sys.exit(2)\n"
)


class Robot:
    """Drives the made-up drive into a state at ten steps a second until it is told to stop."""

    def __init__(self, state: DashboardState) -> None:
        self.state = state
        self.rows: list[robot.Row] = [
            robot.component("detector", "CameraDetector", 10.0, lost=2),
            robot.component("tracker_2d", "Tracker2D", 10.0),
        ]
        self.fates = {"done-edge": 10, "done-cloud": 20, "late": 0}
        self.silent: set[str] = set()
        self.class_name = "car"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._drive, daemon=True)
        self._thread.start()

    def _drive(self) -> None:
        step = 0
        while not self._ended.wait(0.1):
            wall_ns, now_ns = time.time_ns(), time.monotonic_ns()
            for topic, ros_type, data in robot.drive(step, wall_ns - 5_000_000, class_name=self.class_name):
                if topic not in self.silent:
                    self.state.receive(topic, ros_type, data, now_ns, wall_ns)
            if step % 5 == 0:
                self.fates["done-cloud"] += 3
                data = robot.diagnostics([*self.rows, robot.offload(self.fates)], wall_ns)
                self.state.receive("/diagnostics", DIAGNOSTICS_TYPE, data, now_ns, wall_ns)
            step += 1

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=5)


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


def ask(
    server: DashboardServer, path: str, *, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


class Stream:
    """Reads Server-Sent Events, as a browser does."""

    def __init__(
        self, port: int, headers: dict[str, str] | None = None, receive_buffer_bytes: int | None = None
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        if receive_buffer_bytes is not None:
            self._connection.sock = socket.socket()
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            self._connection.sock.settimeout(5)
            self._connection.sock.connect(("127.0.0.1", port))
        self._connection.request("GET", "/events", headers=headers or {})
        self._answer = self._connection.getresponse()
        self.status = self._answer.status

    def next(self, name: str) -> Any:
        """The content of the next event of that name."""
        while True:
            lines = []
            while (line := self._answer.readline().decode().rstrip("\n")) != "":
                lines.append(line)
            if f"event: {name}" in lines:
                return json.loads(next(line for line in lines if line.startswith("data: "))[6:])

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def until(what: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    """Wait until something is true, and give it back. Fails with the last value otherwise."""
    end_s = time.monotonic() + within_s
    while not (value := what()):
        assert time.monotonic() < end_s, f"still {value!r} after {within_s} s"
        time.sleep(0.05)
    return value


# --- the server ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_nothing_but_get_is_answered(server: DashboardServer, method: str) -> None:
    status, _, _ = ask(server, "/", method=method)
    assert status == 501


@pytest.mark.parametrize("path", ["/", "/dashboard.js", "/dashboard.css", "/camera?topic=x", "/map", "/nothing"])
def test_every_answer_forbids_scripts_frames_and_readers_from_elsewhere(server: DashboardServer, path: str) -> None:
    _, headers, _ = ask(server, path)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


def test_a_strange_host_or_a_page_of_another_site_gets_nothing(server: DashboardServer) -> None:
    assert ask(server, "/map", headers={"Host": "evil.example:8088"})[0] == 421
    assert ask(server, "/map", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"})[0] == 403
    assert ask(server, "/map", headers={"Host": f"localhost:{server.port}"})[0] == 200


def test_strange_paths_and_requests_are_survived(server: DashboardServer) -> None:
    for path in ("/../../etc/passwd", "/%00", "/dashboard_server.py", "/camera", "/camera?topic=" + "x" * 5000, "//x"):
        assert ask(server, path)[0] in (400, 404)
    for garbage in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\xff" * 100_000, b"GET / HTTP/1.1\r\nHost: [\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as stream, contextlib.suppress(OSError):
            stream.sendall(garbage)
            stream.shutdown(socket.SHUT_WR)
            stream.recv(100)
    assert ask(server, "/")[0] == 200


def test_with_a_token_everything_wants_it_the_stream_too(state: DashboardState) -> None:
    with DashboardServer(state, "127.0.0.1", 0, CLOSED) as server:
        for path in ("/events", "/map", "/camera?topic=x", "/dashboard.js", "/dashboard_map.js", "/login", "/nothing"):
            assert ask(server, path)[0] == 401, path
            assert ask(server, path, headers={"Authorization": "Bearer wrong"})[0] == 401, path
        status, _, page = ask(server, "/")
        assert status == 401
        assert b'type="password"' in page
        assert b"dashboard.js" not in page
        status, headers, _ = ask(server, "/login", headers={"Authorization": f"Bearer {TOKEN}"})
        assert status == 200
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        known = {"Cookie": cookie.split(";")[0]}
        assert ask(server, "/map", headers=known)[0] == 200
        stream = Stream(server.port, known)
        assert stream.status == 200
        assert "topics" in stream.next("tables")
        stream.close()


def test_a_client_that_does_not_read_holds_up_nobody(server: DashboardServer, driving: Robot) -> None:
    deaf = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    for connection in deaf:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for index in range(190):  # tables of some tens of kB, so that the deaf ones are soon full
        driving.state.receive(f"/{index:03d}" + "x" * 200, "std_msgs/msg/String", b"", time.monotonic_ns(), 0)
    stream = Stream(server.port)
    try:
        gaps = []
        for _ in range(30):
            began_s = time.monotonic()
            stream.next("tick")
            gaps.append(time.monotonic() - began_s)
        assert max(gaps) < 1.0
        counts = [count_of(stream.next("tables")) for _ in range(4)]
        assert counts == sorted(set(counts))
    finally:
        stream.close()
        for connection in deaf:
            connection.close()


def test_a_slow_client_misses_what_is_old(state: DashboardState) -> None:
    """It reads nothing for six seconds: of the tables of that time it gets what lay in the wires, then the present."""
    for index in range(190):
        state.receive(f"/{index:03d}" + "x" * 200, "std_msgs/msg/String", b"", time.monotonic_ns(), 0)
    machine = Robot(state)
    try:
        with DashboardServer(state, "127.0.0.1", 0, OPEN) as server:
            stream = Stream(server.port, receive_buffer_bytes=4096)
            stream.next("tables")
            time.sleep(6.0)
            now = count_of(state.tables(time.monotonic_ns()))
            read = 1
            while count_of(stream.next("tables")) < now:
                read += 1
            assert read <= 4, "all six were kept for it"
            stream.close()
    finally:
        machine.stop()


def count_of(tables: dict[str, Any], topic: str = "/odometry") -> int:
    """How many messages of a topic have come."""
    return int(next((row["count"] for row in tables["topics"] if row["name"] == topic), 0))


def test_streams_beyond_the_limit_are_refused_and_their_places_come_back(server: DashboardServer) -> None:
    streams = [Stream(server.port) for _ in range(MAX_CLIENTS)]
    try:
        assert {stream.status for stream in streams} == {200}
        assert Stream(server.port).status == 503
        assert ask(server, "/map")[0] == 200
    finally:
        for stream in streams:
            stream.close()
    again = until(lambda: (s := Stream(server.port)).status == 200 and s)
    again.close()


def test_connections_beyond_the_limit_are_refused_and_their_places_come_back(server: DashboardServer) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MAX_CONNECTIONS)]

    def answers() -> bool:
        try:
            return ask(server, "/map")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    try:
        until(lambda: not answers())
    finally:
        for connection in idle:
            connection.close()
    until(answers)


def test_over_tls_a_silent_client_holds_up_nobody_and_the_cookie_is_secure(
    state: DashboardState, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(files[0])
    certificate.private_key_pem.write_to_path(files[1])
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with DashboardServer(state, "127.0.0.1", 0, CLOSED, files) as server:
        assert server.url.startswith("https://")
        with socket.create_connection(("127.0.0.1", server.port)):  # never says hello
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=5, context=context)
            connection.request("GET", "/login", headers={"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            assert answer.status == 200
            assert "Secure" in (answer.getheader("Set-Cookie") or "")
            connection.close()


# --- the command -----------------------------------------------------------------------------------------------------


def dashboard(*arguments: object, **settings: Any) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


@contextlib.contextmanager
def running(*arguments: object) -> Iterator[int]:
    """The command as a process of its own; gives the port, and checks that it ends cleanly."""
    process = dashboard(*arguments, "--port", 0)
    try:
        assert process.stdout is not None
        said = ""
        while not (found := re.search(r"dashboard: https?://[^:]+:(\d+)/", said)):
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            said += line
        yield int(found[1])
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.communicate()


def blob_at(port: int, path: str) -> tuple[dict[str, Any], bytes] | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return split_blob(body) if answer.status == 200 else None


def test_a_recording_plays_over_and_over(world: Path) -> None:
    with running(world, "--rate", 3) as port:
        head, jpeg = until(lambda: blob_at(port, "/camera?topic=/camera/image"))
        assert jpeg[:2] == b"\xff\xd8"
        assert head["boxes"], "the world's true tracks"
        drawn = until(lambda: (got := blob_at(port, "/map")) and got[0]["points"] > 500 and got[0]["path"] > 3 and got)
        assert drawn[0]["notes"] == []
        stream = Stream(port)
        progress = []
        while count_of(stream.next("tables"), "/truth/odometry") <= 2 * 151:  # it holds 151
            progress.append(stream.next("tables")["progress"])
        stream.close()
        assert {row["of_s"] for row in progress} == {3.0}
        assert all(0 <= row["at_s"] <= 3.0 for row in progress)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen", "0.0.0.0"], "--token-file"),  # noqa: S104 (it is refused)
        (["nothing.mcap"], "no recording at"),
        (["--rate", "2"], "--rate goes with a recording"),
        (["--port", "70000"], "0 to 65535"),
        (["x.mcap", "--transport", "zenoh"], "leave one of them out"),
        (["--domain", "999"], "0 to 232"),
    ],
)
def test_a_mistake_is_one_line_with_the_mend(arguments: list[str], words: str) -> None:
    process = dashboard(*arguments)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert words in error
    assert len(error.splitlines()) == 1


def test_a_port_that_is_taken_is_said(state: DashboardState, server: DashboardServer) -> None:
    from tercel.core.errors import UserError

    with pytest.raises(UserError, match=r"cannot be opened .*--port"):
        DashboardServer(state, "127.0.0.1", server.port, OPEN)


@pytest.mark.parametrize("kind", ["zenoh"])
def test_it_shows_what_other_processes_publish(kind: str, world: Path) -> None:
    """`tercel play` in one process, the dashboard in another: pictures, points and the path come over the wire."""
    domain = random.SystemRandom().randrange(1, 232)
    words = [sys.executable, "-m", "tercel.cli", "play", str(world), "--transport", kind, "--domain", str(domain)]
    player = subprocess.Popen([*words, "--loop"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        with running("--transport", kind, "--domain", domain) as port:
            got = until(lambda: blob_at(port, "/camera?topic=/camera/image"), within_s=20)
            assert got[1][:2] == b"\xff\xd8"
            drawn = until(
                lambda: (got := blob_at(port, "/map")) and got[0]["points"] > 500 and got[0]["path"] > 3 and got,
                within_s=20,
            )
            assert drawn[0]["notes"] == []
    finally:
        player.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            player.communicate(timeout=10)
        player.kill()


# --- the page --------------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATH_RGB = (255, 209, 102)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--window-size=1280,900",
)  # fmt: skip


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
    browser.delete_all_cookies()
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
    assert sum(os.path.getsize(file) for file in files) < 60_000  # noqa: PTH202
    text = "".join(file.read_text() for file in files).replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in text
    assert "https:" not in text
    assert "innerHTML" not in text
