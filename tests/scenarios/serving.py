"""Servers in processes of their own, a link that can be cut, and a client's tasks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from offload.executors import TaskLost, TaskTooLate, WallClock
from offload.remote import RemoteExecutor
from offload.tasks import Option, Task, TaskKind

CLOCK = WallClock()
SERVE = "import sys; from tercel.cli import main; sys.exit(main(['serve', *sys.argv[1:]]))"


class Served:
    """`tercel serve` in a process. address: where it listens; lines: what it has said so far."""

    def __init__(self, models: Path, *options: object, listen: str = "127.0.0.1:0") -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._account = Path(self._folder.name) / "account.json"
        words = ["--models", models, "--listen", listen, "--json", self._account, *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address = self.said("listening: ")

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def said(self, prefix: str, timeout_s: float = 30) -> str:
        """The rest of the first line that begins so; waits for it."""
        ends_s = time.monotonic() + timeout_s
        while time.monotonic() < ends_s:
            for line in list(self.lines):
                if line.startswith(prefix):
                    return line.removeprefix(prefix).strip()
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.01)
        raise AssertionError(f"no line {prefix!r} in {''.join(self.lines)}")

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> dict[str, Any]:
        """SIGTERM; the account, by model, in which everything must have ended."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, "".join(self.lines)
        rows: dict[str, Any] = json.loads(self._account.read_text())
        for row in rows.values():
            ended = sum(row[outcome] for outcome in ("done", "refused", "cancelled", "expired", "failed"))
            assert row["received"] == ended, row
        return rows

    def resident_bytes(self) -> int:
        """Memory that it holds."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self._folder.cleanup()


class Relay:
    """A link: a TCP port that passes bytes on, and while it is cut neither bytes nor new connections nor their ends."""

    def __init__(self, target: str) -> None:
        self._host, port = target.rsplit(":", 1)
        self._port = int(port)
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""

    def cut(self) -> None:
        """From now on nothing comes through."""
        self._whole.clear()

    def mend(self) -> None:
        """It comes through again."""
        self._whole.set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            for pair in ((reader, far_writer), (far_reader, writer)):
                task = asyncio.ensure_future(self._pass_on(*pair))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        await self._whole.wait()
        writer.close()


def kind_of(model: str, deadline_ms: float) -> TaskKind:
    return TaskKind(model, int(deadline_ms * 1e6), (Option("cloud", 1.0, 0.0, 1_000_000),))


class Client:
    """Sends tasks to an executor and keeps what became of each: "done", the reason it was lost for, or "late"."""

    def __init__(self, executor: RemoteExecutor) -> None:
        self.executor = executor
        self.ended: list[tuple[float, str]] = []
        self.overrun_s = 0.0
        self.outputs: list[Any] = []

    async def run(self, kind: TaskKind, payload: Any) -> str:
        task = Task(len(self.ended), kind, CLOCK.now_ns)
        try:
            self.outputs.append((await self.executor.run(task, kind.options[0], payload)).outputs)
            fate = "done"
        except TaskLost as lost:
            fate = lost.reason
        except TaskTooLate:
            fate = "late"
        self.overrun_s = max(self.overrun_s, (CLOCK.now_ns - task.deadline_ns) / 1e9)
        self.ended.append((time.monotonic(), fate))
        return fate

    async def stream_of(self, kind: TaskKind, payload: Any, every_s: float, for_s: float) -> int:
        """A task each so many seconds, without waiting for the one before; returns how many."""
        ends_s = time.monotonic() + for_s
        tasks = []
        while time.monotonic() < ends_s:
            tasks.append(asyncio.ensure_future(self.run(kind, payload)))
            await asyncio.sleep(every_s)
        await asyncio.gather(*tasks)
        return len(tasks)

    def fates(self, after_s: float = 0.0) -> list[str]:
        return [fate for at_s, fate in self.ended if at_s >= after_s]

    def check_counts(self) -> None:
        """Everything that was sent has ended, once."""
        counts = self.executor.counts
        assert counts.sent == counts.received + counts.refused + counts.lost + counts.expired + counts.cancelled
        assert counts.received == self.fates().count("done")
        assert counts.sent + counts.unsent - counts.cancelled == len(self.ended)


@contextlib.asynccontextmanager
async def client_of(address: str, **options: Any) -> AsyncIterator[Client]:
    """A connected client."""
    async with RemoteExecutor(address, CLOCK, **options) as executor:
        client = Client(executor)
        yield client
        client.check_counts()
