"""The dashboard's server: a page, its scripts and style, and what they ask for. It only answers GET, changing nothing.

| path | answer |
| --- | --- |
| / | the page, or the one that asks for the token |
| /events | Server-Sent Events: "tick" ten times a second where something changed, "tables" once a second |
| /camera?topic=NAME | the newest picture of a camera (dashboard_camera) |
| /map[?cloud=NAME] | the map (dashboard_map) |
| /login | a cookie for who knows the token |

A client never holds up anything: each gets the newest state when it can take it, and what it missed is not kept. A
connection that takes nothing for ten seconds is closed; beyond MAX_CLIENTS streams or MAX_CONNECTIONS in all, new ones
are refused.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import ssl
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tercel.core.errors import UserError
from tercel.report.dashboard_access import COOKIE, Access, is_foreign
from tercel.report.dashboard_state import DashboardState

MAX_CLIENTS = 16
MAX_CONNECTIONS = 64
_TICK_S = 0.1
_TABLES_EVERY = 10
_TIMEOUT_S = 10.0
_SEND_BUFFER_BYTES = 1 << 16  # little lies between us and a slow client, so that what it gets is new

_FILES = {
    "/": ("dashboard.html", "text/html; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/dashboard_map.js": ("dashboard_map.js", "text/javascript; charset=utf-8"),
    "/dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "/dashboard_login.js": ("dashboard_login.js", "text/javascript; charset=utf-8"),
}
_OPEN = ("/dashboard.css", "/dashboard_login.js")  # what the page that asks for the token is made of
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass
class _News:
    """The newest events, written once for all clients."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    events: dict[str, tuple[int, bytes]] = field(default_factory=dict)  # by name: number, bytes
    is_over: bool = False
    clients: int = 0

    def put(self, name: str, content: Any) -> None:
        """Take the place of the last event of that name, unless it said the same."""
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))
        data = f"event: {name}\ndata: {text}\n\n".encode()
        with self.changed:
            number, known = self.events.get(name, (0, b""))
            if data != known:
                self.events[name] = (number + 1, data)
                self.changed.notify_all()

    def wait(self, seen: dict[str, int], timeout_s: float) -> bytes | None:
        """The events newer than what was seen, which is noted; a comment if there are none; None at the end."""
        with self.changed:
            self.changed.wait_for(lambda: self.is_over or self._unseen(seen), timeout_s)
            if self.is_over:
                return None
            fresh = self._unseen(seen)
            seen.update({name: self.events[name][0] for name in fresh})
            return b"".join(self.events[name][1] for name in fresh) or b": still here\n\n"

    def _unseen(self, seen: dict[str, int]) -> list[str]:
        return [name for name, (number, _) in self.events.items() if number != seen.get(name)]


@dataclass(frozen=True)
class _Site:
    """What every connection needs."""

    state: DashboardState
    news: _News
    access: Access
    is_secure: bool
    files: dict[str, tuple[bytes, str]] = field(
        default_factory=lambda: {path: (_read(name), kind) for path, (name, kind) in _FILES.items()}
    )
    login: bytes = field(default_factory=lambda: _read("dashboard_login.html"))


def _read(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()


class DashboardServer:
    """Serves a state at HOST:PORT until it is closed. A context manager. tls: certificate and key (PEM), or None.

    Raises UserError if the port cannot be opened or the certificate does not fit.
    """

    def __init__(
        self, state: DashboardState, host: str, port: int, access: Access, tls: tuple[Path, Path] | None = None
    ) -> None:
        self._state = state
        self._news = _News()
        self._ended = threading.Event()
        self._failure: Exception | None = None
        context = tls_context(*tls) if tls else None
        site = _Site(state, self._news, access, is_secure=context is not None)
        try:
            self._server = _Server(host, port, site, context)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{host}:{port} cannot be opened ({reason}): choose another --port or --listen") from None
        self.port: int = self._server.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if context else 'http'}://{shown}:{self.port}/"
        self._threads = [
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True),
            threading.Thread(target=self._tick, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _tick(self) -> None:
        count = 0
        try:
            while not self._ended.wait(_TICK_S):
                now_ns = time.monotonic_ns()
                self._news.put("tick", self._state.tick(now_ns))
                if count % _TABLES_EVERY == 0:
                    self._news.put("tables", self._state.tables(now_ns))
                count += 1
        except Exception as error:
            self._failure = error

    def check(self) -> None:
        """Raises what has ended the ticking, if something has: a page that stands still must not look alive."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End all streams and let go of the port."""
        self._ended.set()
        with self._news.changed:
            self._news.is_over = True
            self._news.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def __enter__(self) -> DashboardServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, host: str, port: int, site: _Site, context: ssl.SSLContext | None) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.site = site
        self._context = context
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """As HTTPServer, but without asking a name server for our name: in the field it would wait for none."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for the connection, if there is a place for one."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread to be had
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """TLS is spoken here, in the connection's own thread, so that one who is silent holds up nobody."""
        try:
            request.settimeout(_TIMEOUT_S)
            request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            if self._context is not None:
                try:
                    request = self._context.wrap_socket(request, server_side=True)
                except (OSError, ssl.SSLError):
                    self.shutdown_request(request)
                    return
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is no error; all else is told, with its traceback."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tercel", ""
    timeout = _TIMEOUT_S
    server: _Server

    @property
    def site(self) -> _Site:
        """What the server serves."""
        return self.server.site

    def do_GET(self) -> None:  # the name that http.server looks for
        """Answer one request."""
        if self.site.news.is_over:  # a connection that was kept open outlives the server's port
            self.close_connection = True
            return None
        try:
            url = urlsplit(self.path)
            query = parse_qs(url.query, max_num_fields=4)
        except ValueError:
            return self._say(400, "that is no address of a page")
        if not self.site.access.knows_host(self.headers.get("Host")):
            self._say(421, "this name is not ours: open the page by its IP address or as localhost")
        elif is_foreign(self.headers):
            self._say(403, "pages of other sites get nothing here")
        elif not self.site.access.knows_token(self.headers):
            if url.path == "/":
                self._answer(401, self.site.login, "text/html; charset=utf-8")
            elif url.path in _OPEN:
                self._answer(200, *self.site.files[url.path])
            else:
                self._say(401, "a token is wanted")
        elif url.path in self.site.files:
            self._answer(200, *self.site.files[url.path])
        else:
            self._live(url.path, query)
        return None

    def _live(self, path: str, query: dict[str, list[str]]) -> None:
        now_ns = time.monotonic_ns()
        if path == "/events":
            self._stream()
        elif path == "/camera":
            picture = self.site.state.camera(query.get("topic", [""])[0], now_ns)
            if picture is None:
                self._say(404, "no such camera")
            else:
                self._answer(200, picture, "application/octet-stream")
        elif path == "/map":
            self._answer(200, self.site.state.map(query.get("cloud", [None])[0], now_ns), "application/octet-stream")
        elif path == "/login":
            secure = "; Secure" if self.site.is_secure else ""
            cookie = f"{COOKIE}={self.site.access.cookie()}; HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000{secure}"
            self._answer(200, b"welcome\n", "text/plain; charset=utf-8", {"Set-Cookie": cookie})
        else:
            self._say(404, "no such page")

    def _stream(self) -> None:
        news = self.site.news
        with news.changed:
            is_full = news.clients >= MAX_CLIENTS
            news.clients += not is_full
        if is_full:
            self._say(503, "too many pages look at this dashboard: close one")
            return
        try:
            self.close_connection = True
            self._head(200, "text/event-stream", {"Connection": "close"})
            self.wfile.write(b"retry: 1000\n\n")
            seen: dict[str, int] = {}
            while (data := news.wait(seen, 1.0)) is not None:
                self.wfile.write(data)
        except OSError:  # gone, or too slow
            pass
        finally:
            with news.changed:
                news.clients -= 1

    def _say(self, code: int, text: str) -> None:
        self._answer(code, f"{text}\n".encode(), "text/plain; charset=utf-8")

    def _answer(self, code: int, body: bytes, kind: str, extra: dict[str, str] | None = None) -> None:
        with contextlib.suppress(OSError):
            self._head(code, kind, {"Content-Length": str(len(body)), **(extra or {})})
            self.wfile.write(body)

    def _head(self, code: int, kind: str, extra: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, **extra, **_SECURITY}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name that http.server calls)
        """Requests are not logged: there are ten a second."""


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's TLS of two PEM files. Raises UserError if they do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UserError(
            f"--tls {certificate} {key}: {getattr(error, 'reason', None) or error}; check the files"
        ) from None
    return context
