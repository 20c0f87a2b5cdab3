"""Who is let in: judged by the HTTP request alone."""

from __future__ import annotations

import pytest

from tercel.report.dashboard_access import Access
from tercel.report.view_door import Refused, is_foreign_origin, judge

TOKEN = "a-token-of-some-length"  # noqa: S105 (nobody else's)
OPEN = Access(None, frozenset({"localhost"}))
CLOSED = Access(TOKEN, frozenset({"localhost", "robot.local"}))


def request(target: str = "/", **headers: str) -> bytes:
    wanted = {"Host": "127.0.0.1:8765", "Upgrade": "websocket", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return "\r\n".join([f"GET {target} HTTP/1.1", *(f"{k}: {v}" for k, v in wanted.items()), "", ""]).encode()


@pytest.mark.parametrize(
    ("origin", "is_foreign"),
    [
        (None, False),
        ("https://app.foxglove.dev", False),
        ("https://foxglove.dev", False),
        ("file://", False),
        ("http://localhost:8080", False),
        ("http://127.0.0.1:8080", False),
        ("http://[::1]:8080", False),
        ("http://app.foxglove.dev", True),
        ("https://foxglove.dev.evil.example", True),
        ("https://evilfoxglove.dev", True),
        ("https://127.0.0.1.evil.example", True),
        ("http://192.168.1.5:8080", True),
        ("null", True),
        ("https://[", True),
        ("https:", True),
        ("", True),
    ],
)
def test_only_foxglove_and_this_machine_may_open_a_socket_without_a_token(origin: str | None, is_foreign: bool) -> None:
    assert is_foreign_origin(origin) is is_foreign


def test_the_token_counts_where_there_is_one_and_not_where_the_page_comes_from() -> None:
    judge(request(f"/?token={TOKEN}", Origin="https://evil.example"), CLOSED)
    judge(request(f"/any/path?a=1&token={TOKEN}", Host="robot.local:8765"), CLOSED)
    judge(request(Authorization=f"Bearer {TOKEN}"), CLOSED)
    for wrong in (request(), request(f"/?token={TOKEN}x"), request("/?token="), request("/?token=\u00e4%ff")):
        with pytest.raises(Refused) as refused:
            judge(wrong, CLOSED)
        assert refused.value.status[:3] in ("400", "401")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request(Host="evil.example"), "421"),
        (request(Upgrade="h2c"), "426"),
        (request().replace(b"GET", b"POST"), "426"),
        (b"\r\n\r\n", "400"),
        (b"GET\r\n\r\n", "400"),
        (b"GET / HTTP/1.1 more\r\n\r\n", "400"),
        (b"\xff\xfe / HTTP/1.1\r\n\r\n", "400"),
        (request("//["), "400"),
        (request("/?" + "a=1&" * 17), "400"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", "400"),
        (b"GET / HTTP/1.1\r\n\r\n", "421"),
    ],
)
def test_odd_requests_are_refused_with_their_reason(head: bytes, status: str) -> None:
    with pytest.raises(Refused) as refused:
        judge(head, OPEN)
    assert refused.value.status.startswith(status)
