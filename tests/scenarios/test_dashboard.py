"""The dashboard's server on real sockets, and the command as a process."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tercel.cli_dashboard import add_dashboard
from tercel.core.errors import UserError
from tercel.report.dashboard_blob import split_blob
from tercel.report.dashboard_server import MAX_CLIENTS, MAX_CONNECTIONS, DashboardServer
from tercel.report.dashboard_state import DashboardState
from tests.scenarios.dashboard_serving import CLOSED, OPEN, TOKEN, Robot, Stream, count_of, until


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
    for path in (
        "/../../etc/passwd",
        "/%00",
        "//[",
        "/map?" + "a=1&" * 9,
        "/dashboard_server.py",
        "/camera",
        "/camera?topic=" + "x" * 5000,
        "//x",
    ):
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
        for _ in range(12):
            began_s = time.monotonic()
            stream.next("tick")
            gaps.append(time.monotonic() - began_s)
        assert max(gaps) < 1.0
        counts = [count_of(stream.next("tables")) for _ in range(2)]
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


def test_a_state_that_fails_does_not_leave_a_page_that_looks_alive(
    server: DashboardServer, state: DashboardState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_now_ns: int) -> None:
        raise ZeroDivisionError

    server.check()
    monkeypatch.setattr(state, "tick", fail)

    def is_told() -> bool:
        try:
            server.check()
        except ZeroDivisionError:
            return True
        return False

    until(is_told)


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
    words = [sys.executable, "-m", "tercel.cli", "dashboard", *map(str, arguments)]
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
    parser = argparse.ArgumentParser()
    add_dashboard(parser.add_subparsers(dest="verb"))
    args = parser.parse_args(["dashboard", *arguments])
    with pytest.raises(UserError, match=words):
        args.run(args)


def test_a_port_that_is_taken_is_said(state: DashboardState, server: DashboardServer) -> None:
    with pytest.raises(UserError, match=r"cannot be opened .*--port"):
        DashboardServer(state, "127.0.0.1", server.port, OPEN)


@pytest.mark.parametrize("kind", ["zenoh", "dds"])
def test_it_shows_what_other_processes_publish(kind: str, world: Path) -> None:
    """`tercel play` in one process, the dashboard in another: pictures, points and the path come over the wire."""
    pytest.importorskip(f"tercel.ros.{kind}")
    domain = random.SystemRandom().randrange(1, 100)
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
