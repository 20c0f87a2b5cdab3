"""The catalog of detectors, and fetching one from a server that is well, cut off, wrong, endless or not there."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from perception.download import ATTEMPTS, download
from perception.model_card import read_card
from perception.model_catalog import CATALOG, model_file, read_catalog
from tercel.cli import main
from tercel.core.errors import UserError

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A file server on this machine whose faults the test sets; `asked` holds the Range of each request."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.knows_range = True
        self.says_length = True
        self.cuts: list[int] = []
        """After how many bytes the next answers break off."""
        self.status = 200
        self.leads_to = ""
        self.length = ""
        """What is said instead of the true length."""
        self.asked: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/model.onnx"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        if self.leads_to:
            request.send_response(302)
            request.send_header("Location", self.leads_to)
            request.end_headers()
            return
        if self.status != 200:
            request.send_error(self.status)
            return
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.knows_range else 0
        if begin >= len(self.content):
            request.send_error(416)
            return
        body = self.content[begin:]
        request.send_response(206 if begin else 200)
        if begin:
            request.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        if self.says_length:
            request.send_header("Content-Length", self.length or str(len(body)))
        request.end_headers()
        if self.cuts:
            body = body[: self.cuts.pop(0)]
        request.wfile.write(body)
        request.close_connection = True

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def fetch(server: Server, target: Path, **options: Any) -> str:
    return download(server.url, target, **{"sha256": SHA256, "pause_s": 0.0, "timeout_s": 5.0} | options)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_whole_and_checked(server: Server, tmp_path: Path) -> None:
    shares: list[float] = []
    assert fetch(server, tmp_path / "deep" / "model.onnx", progress=shares.append) == SHA256
    assert (tmp_path / "deep" / "model.onnx").read_bytes() == CONTENT
    assert leftovers(tmp_path / "deep") == ["model.onnx"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_connection_that_is_cut_is_taken_up_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 50_000]
    assert fetch(server, tmp_path / "model.onnx") == SHA256
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_what_came_before_it_was_given_up_is_used_by_the_next_call(server: Server, tmp_path: Path) -> None:
    server.cuts = [10_000] * ATTEMPTS
    with pytest.raises(UserError, match="40000 bytes are kept: call it again"):
        fetch(server, tmp_path / "model.onnx")
    assert leftovers(tmp_path) == [f"model.onnx.{SHA256[:12]}.part"]
    assert fetch(server, tmp_path / "model.onnx") == SHA256
    assert server.asked[-1] == "bytes=40000-"
    assert (tmp_path / "model.onnx").read_bytes() == CONTENT


def test_a_server_that_knows_no_range_is_asked_for_all_of_it(server: Server, tmp_path: Path) -> None:
    server.knows_range = False
    server.cuts = [300_000]
    assert fetch(server, tmp_path / "model.onnx") == SHA256
    assert (tmp_path / "model.onnx").read_bytes() == CONTENT
    server.says_length = False
    assert fetch(server, tmp_path / "again.onnx") == SHA256


def test_parts_of_another_file_do_not_stay(server: Server, tmp_path: Path) -> None:
    part = tmp_path / f"model.onnx.{SHA256[:12]}.part"
    part.write_bytes(b"x" * (len(CONTENT) + 5))
    assert fetch(server, tmp_path / "model.onnx") == SHA256
    part.write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="it was removed"):
        fetch(server, tmp_path / "other.onnx", sha256="0" * 64)
    part.rename(tmp_path / f"third.onnx.{SHA256[:12]}.part")
    with pytest.raises(UserError, match="checksum"):
        fetch(server, tmp_path / "third.onnx")
    assert leftovers(tmp_path) == ["model.onnx"]


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(UserError, match=f"not {SHA256[:12]}"):
        fetch(server, tmp_path / "model.onnx")
    assert leftovers(tmp_path) == []


def test_a_file_nobody_can_vouch_for_is_kept_only_if_one_says_so(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"its checksum is {SHA256}.*--unverified"):
        fetch(server, tmp_path / "model.onnx", sha256=None)
    assert leftovers(tmp_path) == []
    server.cuts = [1000]  # parts of unknown files are not put together
    assert fetch(server, tmp_path / "model.onnx", sha256=None, keep_unverified=True) == SHA256
    assert server.asked == [None, None, None]


def test_a_file_that_is_too_large_is_not_taken(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at most 1000 are expected"):
        fetch(server, tmp_path / "model.onnx", max_bytes=1000)
    server.says_length = False
    with pytest.raises(UserError, match="more than the 1000 bytes"):
        fetch(server, tmp_path / "model.onnx", max_bytes=1000)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_that_refuses_is_named(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(UserError, match=f"the server answers {status}") as error:
        fetch(server, tmp_path / "model.onnx")
    assert "\n" not in str(error.value)
    assert leftovers(tmp_path) == []


def test_without_a_network_there_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/model.onnx"
        with pytest.raises(UserError, match="cannot be reached.*check the network"):
            download(url, tmp_path / "model.onnx", sha256=SHA256)
    with pytest.raises(UserError, match="cannot be reached"):
        download("https://no-such-host.invalid/model.onnx", tmp_path / "model.onnx", sha256=SHA256)


def test_a_server_that_falls_silent_is_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/model.onnx"
        with pytest.raises(UserError, match="cut off|cannot be reached"):
            download(url, tmp_path / "model.onnx", sha256=SHA256, timeout_s=0.05, pause_s=0.0)


@pytest.mark.parametrize("url", ["http://example.com/a.onnx", "file:///etc/hosts", "ftp://127.0.0.1/a.onnx", "a.onnx"])
def test_only_https_is_fetched(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="only https is fetched"):
        download(url, tmp_path / "a.onnx", sha256=SHA256)


def test_no_redirect_leads_off_https(server: Server, tmp_path: Path) -> None:
    for target in ("http://example.com/a.onnx", "file:///etc/hosts", "ftp://example.com/a"):
        server.leads_to = target
        with pytest.raises(UserError, match="only https is fetched|the server answers 302"):
            fetch(server, tmp_path / "model.onnx")
    assert leftovers(tmp_path) == []


def test_a_redirect_to_no_address_is_one_line(server: Server, tmp_path: Path) -> None:
    server.leads_to = "https://[bad/"
    with pytest.raises(UserError, match="leads to an address that is none"):
        fetch(server, tmp_path / "model.onnx")


def test_a_length_that_is_no_number_is_not_believed(server: Server, tmp_path: Path) -> None:
    for length in ("\xb2", "9" * 5000, "-5"):
        server.length = length
        assert fetch(server, tmp_path / "model.onnx") == SHA256
        (tmp_path / "model.onnx").unlink()


# --- the catalog and its commands ------------------------------------------------------------------------------------


def test_every_entry_of_our_catalog_is_https_pinned_and_licensed() -> None:
    catalog = read_catalog()
    assert {"yolox-nano", "yolox-tiny", "yolox-s", "nanodet-plus-m-416", "rtdetr-r18"} <= set(catalog)
    for model in catalog.values():
        assert model.url.startswith("https://")
        assert model.source.startswith("https://")
        assert model.sha256 is not None
        assert model.licence.startswith(("Apache-2.0", "BSD-3-Clause", "MIT"))
        assert model.evidence
    assert len({model.file for model in catalog.values()}) == len(catalog)


def test_the_models_of_the_tests_are_those_of_the_catalog(shared_data: Path) -> None:
    catalog = read_catalog()
    for name in ("fastestdet_352", "nanodet_m_320", "nanodet_m_416", "yolox_nano_416"):
        model = catalog[name.replace("_", "-")]
        data = (shared_data / "models" / f"{name}.onnx").read_bytes()
        assert (model.file, model.sha256, model.size_bytes) == (
            f"{name}.onnx", hashlib.sha256(data).hexdigest(), len(data),
        )  # fmt: skip


def catalog_of(path: Path, url: str, **changes: Any) -> Path:
    row = {
        "name": "tiny", "file": "tiny.onnx", "url": url, "source": "https://example.com", "licence": "MIT",
        "head": "yolox", "input": [64, 96], "classes": "coco", "sha256": SHA256, "size_bytes": len(CONTENT),
    }  # fmt: skip
    path.write_text(json.dumps({"models": [row | changes]}))  # JSON is YAML
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pulled models go in this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tercel" / "models"


def test_a_model_is_pulled_with_its_card_and_then_known_by_name(
    server: Server, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = catalog_of(tmp_path / "catalog.yaml", server.url)
    pull = ["models", "--catalog", str(catalog), "pull", "tiny"]
    assert main([*pull, "--json", str(tmp_path / "pulled.json")]) == 0
    said = capsys.readouterr().out
    assert f"sha256: {SHA256} (verified)" in said
    assert "licence: MIT" in said
    pulled = json.loads((tmp_path / "pulled.json").read_text())
    assert pulled["path"] == str(home / "tiny.onnx")
    card = read_card(home / "tiny.yaml")
    assert (card.head, card.input_size, card.sha256, card.licence) == ("yolox", (64, 96), SHA256, "MIT")
    assert main(pull) == 0
    assert "already there" in capsys.readouterr().out
    assert len(server.asked) == 1
    assert main(["models", "--catalog", str(catalog), "list", "--json", str(tmp_path / "list.json")]) == 0
    assert "pulled" in capsys.readouterr().out
    rows = json.loads((tmp_path / "list.json").read_text())
    assert [row["where"] for row in rows if row["name"] == "tiny"] == ["pulled"]
    monkeypatch.setattr("perception.model_catalog.CATALOG", catalog)
    assert model_file("tiny") == home / "tiny.onnx"


def test_a_model_goes_where_one_says(server: Server, tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path / "catalog.yaml", server.url)
    assert main(["models", "--catalog", str(catalog), "pull", "tiny", "--to", str(tmp_path / "here")]) == 0
    assert leftovers(tmp_path / "here") == ["tiny.onnx", "tiny.yaml"]


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["models", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("tercel models: ")
    assert said.count("\n") == 1
    return said


def test_what_the_user_can_mend_is_one_line(
    server: Server, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "did you mean 'yolox-nano'" in refused(capsys, "pull", "yolox-nanno")
    unknown = catalog_of(tmp_path / "unknown.yaml", server.url, sha256=None)
    assert f"its checksum is {SHA256}" in refused(capsys, "--catalog", unknown, "pull", "tiny")
    assert main(["models", "--catalog", str(unknown), "pull", "tiny", "--unverified"]) == 0
    assert "NOT verified" in capsys.readouterr().out
    (home / "tiny.onnx").write_bytes(b"another file")
    good = catalog_of(tmp_path / "good.yaml", server.url)
    assert "is there already and is not tiny" in refused(capsys, "--catalog", good, "pull", "tiny")
    assert (home / "tiny.onnx").read_bytes() == b"another file"
    assert "no such catalog" in refused(capsys, "--catalog", tmp_path / "no.yaml", "list")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"file": "../tiny.onnx"}, "plain name"),
        ({"file": "tiny.pkl"}, "plain name"),
        ({"sha256": "abc"}, "64 hex digits"),
        ({"size_bytes": 1 << 40}, "size_bytes"),
        ({"classes": "cocoo"}, "did you mean 'coco'"),
        ({"head": "yolo9000"}, "head"),
        ({"input": [640]}, "input"),
        ({"licens": "MIT"}, "did you mean 'licence'"),
        ({"licence": 7}, "licence"),
    ],
)
def test_a_catalog_with_a_mistake_is_refused_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], reason: str
) -> None:
    path = catalog_of(tmp_path / "catalog.yaml", "https://example.com/a.onnx", **changes)
    said = refused(capsys, "--catalog", path, "list")
    assert "catalog.yaml: tiny: " in said
    assert reason in said


@pytest.mark.parametrize("text", ["models: 7", "[1, 2]", "models: [a]", "models: [{", "\x00"])
def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "catalog.yaml").write_text(text)
    assert "catalog.yaml" in refused(capsys, "--catalog", tmp_path / "catalog.yaml", "list")


def test_our_catalog_ships_with_the_package() -> None:
    import perception

    assert CATALOG.parent.parent == Path(perception.__file__).parent
    setup = (Path(__file__).resolve().parents[2] / "setup.py").read_text()
    assert '"models/*.yaml"' in setup
    assert '"models/*.onnx"' in setup
