"""One file over HTTPS: resumed where it was cut off, bounded, and kept only if its checksum is the expected one.

Bytes go to FILE.SHA256.part beside the file, which gets its name when it is whole and verified. Plain HTTP is spoken to
this machine alone, and no redirect leads from HTTPS to HTTP.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tercel.core.errors import UserError

Progress = Callable[[float], None]

MAX_BYTES = 1 << 30
TIMEOUT_S = 30.0
ATTEMPTS = 4
_NUMBER = re.compile(r"[0-9]{1,18}")  # not isdigit(): what a server sends may hold other scripts' digits
_BLOCK_BYTES = 1 << 16
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class CutOff(Exception):
    """The connection ended before the file did."""


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None,
    max_bytes: int = MAX_BYTES,
    keep_unverified: bool = False,
    timeout_s: float = TIMEOUT_S,
    pause_s: float = 1.0,
    progress: Progress = lambda _fraction: None,
) -> str:
    """Fetch url into target and return the file's SHA-256 in hex.

    sha256: what it must be; None: unknown, then it is kept only if keep_unverified. max_bytes: the file's size where it
    is known. A connection that is cut off is taken up again, at most ATTEMPTS in all with pause_s between them; what
    has come by then is kept for another call, unless no checksum could tell whether the parts belong together.

    Raises UserError, in one line, if there is no network or no such file, it is too large, is cut off again and again,
    or is not the expected one; OSError if it cannot be written.
    """
    _check_url(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{(sha256 or 'unverified')[:12]}.part")
    if sha256 is None:
        part.unlink(missing_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch(url, part, max_bytes, timeout_s, progress)
            break
        except CutOff as cut:
            if attempt == ATTEMPTS:
                raise UserError(_cut_line(url, part, cut, resumable=sha256 is not None)) from None
            if sha256 is None:
                part.unlink(missing_ok=True)
            time.sleep(pause_s)
    found = _sha256_of(part)
    if sha256 is not None and found != sha256.lower():
        part.unlink()
        raise UserError(
            f"{url}: the file has the checksum {found[:12]}..., not {sha256[:12]}...; it was removed: try again, or "
            "look whether upstream has changed it"
        )
    if sha256 is None and not keep_unverified:
        part.unlink()
        raise UserError(
            f"{url}: its checksum is {found}, but nothing is known to hold it against, so the file was removed; "
            "say --unverified to keep it"
        )
    part.replace(target)
    return found


def _fetch(url: str, part: Path, max_bytes: int, timeout_s: float, progress: Progress) -> None:
    """Append what is missing of the file to part. Raises CutOff where the connection ends early, UserError else."""
    have = part.stat().st_size if part.exists() else 0
    try:
        with _opener(url).open(_request(url, have), timeout=timeout_s) as answer:
            begin = _begin(answer, have)
            total = _announced(answer, begin)
            if total is not None and total > max_bytes:
                part.unlink(missing_ok=True)
                raise UserError(f"{url}: has {total} bytes where at most {max_bytes} are expected; not fetched")
            with part.open("r+b" if begin else "wb") as file:
                file.seek(begin)
                file.truncate()
                received = _copy(answer, file, begin, total, max_bytes, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # the part is as long as the file, or longer: another file's
            part.unlink()
            raise CutOff("the server has no more of it") from None
        raise UserError(f"{url}: the server answers {error.code} {error.reason}; the file may have moved") from None
    except (http.client.HTTPException, ConnectionResetError, TimeoutError) as error:
        raise CutOff(type(error).__name__) from None
    except urllib.error.URLError as error:
        raise UserError(f"{url}: cannot be reached ({error.reason}); check the network") from None
    except ValueError:  # of urllib, from the address that a redirect names
        raise UserError(f"{url}: leads to an address that is none; the file may have moved") from None
    if received > max_bytes:
        part.unlink(missing_ok=True)
        raise UserError(f"{url}: has more than the {max_bytes} bytes that are expected; what had come was removed")
    if total is not None and received < total:
        raise CutOff("the connection was closed")


def _copy(
    answer: http.client.HTTPResponse, file: IO[bytes], begin: int, total: int | None, max_bytes: int, progress: Progress
) -> int:
    """How long the file is now; copying stops where it is longer than allowed."""
    received = begin
    while received <= max_bytes and (block := answer.read(_BLOCK_BYTES)):
        file.write(block)
        received += len(block)
        progress(received / max(total or max_bytes, 1))
    return received


def _begin(answer: http.client.HTTPResponse, have: int) -> int:
    """Where the answer's bytes belong: 0 from a server that does not know Range."""
    if answer.status != 206:
        return 0
    kind, _, span = answer.headers.get("Content-Range", "").partition(" ")
    first = span.partition("-")[0]
    if kind != "bytes" or not _NUMBER.fullmatch(first) or int(first) != have:
        raise CutOff("the server sends another part than the one asked for")
    return have


def _announced(answer: http.client.HTTPResponse, begin: int) -> int | None:
    """The whole file's length as the server says it."""
    length = answer.headers.get("Content-Length", "")
    return begin + int(length) if _NUMBER.fullmatch(length) else None


def _request(url: str, have: int) -> urllib.request.Request:
    headers = {"User-Agent": "tercel", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    return urllib.request.Request(url, headers=headers)  # noqa: S310 - _check_url has seen it


def _opener(url: str) -> urllib.request.OpenerDirector:
    handlers: list[Any] = [_SafeRedirects()]
    if urlsplit(url).hostname in _LOOPBACK:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_url(newurl, came_from=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_url(url: str, came_from: str | None = None) -> None:
    """Raises UserError for anything but HTTPS, or HTTP to this machine."""
    parts = urlsplit(url)
    local = parts.hostname in _LOOPBACK and (came_from is None or urlsplit(came_from).hostname in _LOOPBACK)
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        where = f"{came_from} leads to {url}" if came_from else url
        raise UserError(f"{where}: only https is fetched; correct the url")


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _cut_line(url: str, part: Path, cut: CutOff, *, resumable: bool) -> str:
    have = part.stat().st_size if part.exists() else 0
    if resumable and have:
        return f"{url}: cut off {ATTEMPTS} times ({cut}); {have} bytes are kept: call it again to go on from there"
    part.unlink(missing_ok=True)
    return f"{url}: cut off {ATTEMPTS} times ({cut}); try again later"
