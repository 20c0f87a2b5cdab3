"""`tercel link-proxy` as a user meets it: bytes through it, its account, and its mistakes in one line."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tercel.cli import main

CONTENT = bytes(range(250)) * 200


def command(*words: str) -> int:
    return main(["link-proxy", *words])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_command_carries_bytes_until_interrupted_and_counts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, answers = free_port(), []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def use() -> None:
        try:
            for _ in range(1000):
                try:
                    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.01)
            with connection:
                connection.sendall(CONTENT)
                connection.shutdown(socket.SHUT_WR)
                answers.append(b"".join(iter(lambda: connection.recv(1 << 16), b"")))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    threads = [threading.Thread(target=serve, daemon=True), threading.Thread(target=use)]
    for thread in threads:
        thread.start()
    out = tmp_path / "link.json"
    target = str(server.getsockname()[1])
    trace = "constant:rate_mbps=2,rtt_ms=20"
    assert command("--listen", str(port), "--to", target, "--trace", trace, "--json", str(out)) == 0
    threads[1].join()
    server.close()
    assert answers == [CONTENT]
    summary = json.loads(out.read_text())
    assert (summary["connections"], summary["up"]["bytes"], summary["down"]["bytes"]) == (1, len(CONTENT), len(CONTENT))
    assert summary["link_bytes"] == pytest.approx(250_000 * summary["duration_s"])
    assert 0.2 <= summary["duration_s"] < 20
    printed = capsys.readouterr().out
    assert f"listening on 127.0.0.1:{port}" in printed
    assert "connections 1, refused 0, reset 0" in printed


def test_the_command_ends_by_itself_after_its_duration(shared_data: Path) -> None:
    trace = str(shared_data / "net_traces/lte_mahimahi/Verizon-LTE-short.up.gz")
    began_s = time.perf_counter()
    assert command("--to", "1", "--trace", trace, "--duration", "0.3") == 0
    assert 0.3 <= time.perf_counter() - began_s < 10


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (["--to", "nowhere"], "HOST:PORT"),
        (["--to", "127.0.0.1:0"], "port of 1 to 65535"),
        (["--to", "1", "--listen", "127.0.0.1:99999"], "port of 0 to 65535"),
        (["--to", "1", "--listen", "203.0.113.7:9000"], "name another address"),
        (["--to", "1", "--duration", "-1"], "--duration"),
        (["--to", "1", "--start", "nan"], "--start"),
        (["--to", "1", "--trace", "constnat:rate_mbps=1"], "did you mean 'constant'"),
        (["--to", "1", "--json", "/dev/null/x"], "cannot be written"),
    ],
)
def test_a_wrong_option_is_one_line_with_the_mend(
    words: list[str], mend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--trace", "constant:rate_mbps=1", *words) == 2
    line = capsys.readouterr().err
    assert mend in line
    assert line.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert command("--to", "1", "--trace", "constant:rate_mbps=1", "--listen", port) == 2
    assert "name another address" in capsys.readouterr().err
