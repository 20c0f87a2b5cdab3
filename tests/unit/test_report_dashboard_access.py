"""Who may see the dashboard."""

from __future__ import annotations

import socket
from email.message import Message
from pathlib import Path

import pytest

from tercel.core.errors import UserError
from tercel.report.dashboard_access import COOKIE, Access, is_foreign, make_access

TOKEN = "a-token-of-some-length"  # noqa: S105 (nobody else's)


def headers(**values: str) -> Message:
    message = Message()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8088", "localhost:8088", "localhost", "[::1]:8088", "LOCALHOST:1", "192.168.1.7:8088"]
)
def test_addresses_and_localhost_are_ours(host: str) -> None:
    assert make_access("127.0.0.1", None).knows_host(host)


@pytest.mark.parametrize(
    "host", [None, "", "evil.example:8088", "127.0.0.1.evil.example", "localhost.evil.example:8088", ":8088"]
)
def test_any_other_name_may_be_somebody_elses(host: str | None) -> None:
    assert not make_access("127.0.0.1", None).knows_host(host)


def test_beyond_loopback_this_machine_may_be_called_by_its_name(token_file: Path) -> None:
    name = socket.gethostname()
    assert make_access("0.0.0.0", token_file).knows_host(f"{name}:8088")  # noqa: S104 (nothing is opened)
    assert not make_access("127.0.0.1", None).knows_host(f"{name}:8088")


def test_beyond_loopback_a_token_is_wanted(token_file: Path) -> None:
    with pytest.raises(UserError, match="--token-file"):
        make_access("0.0.0.0", None)  # noqa: S104
    assert make_access("0.0.0.0", token_file).token == TOKEN  # noqa: S104


def test_the_token_is_known_by_header_or_by_the_cookie_made_of_it() -> None:
    access = Access(TOKEN, frozenset())
    assert access.knows_token(headers(Authorization=f"Bearer {TOKEN}"))
    assert access.knows_token(headers(Cookie=f"other={{1:2}}; ;={COOKIE}; {COOKIE}={access.cookie()}"))
    assert TOKEN not in access.cookie()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer Ünïcode"},
        {"Cookie": f"{COOKIE}={TOKEN}"},
        {"Cookie": f"{COOKIE}="},
        {"Cookie": f"{COOKIE}=" + Access("another-token-altogether", frozenset()).cookie()},
        {"Cookie": "\x00\xff;;;==="},
    ],
)
def test_anything_else_is_not_the_token(given: dict[str, str]) -> None:
    assert not Access(TOKEN, frozenset()).knows_token(headers(**given))


def test_without_a_token_nobody_is_asked() -> None:
    assert Access(None, frozenset()).knows_token(headers())


def test_pages_of_other_sites_are_told_by_what_the_browser_says() -> None:
    assert is_foreign(headers(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors"))
    assert is_foreign(headers(Sec_Fetch_Site="same-site", Sec_Fetch_Mode="no-cors"))
    assert not is_foreign(headers(Sec_Fetch_Site="same-origin"))
    assert not is_foreign(headers(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate"))  # a link was followed
    assert not is_foreign(headers())
