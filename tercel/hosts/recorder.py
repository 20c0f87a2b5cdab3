"""Recording what a live host sees: the bytes of every message, to MCAP, while it works.

    recordings = Recordings(host, Path("recordings"), say=print)
    path = recordings.start()
    ...
    path, account = recordings.stop()

Messages wait in a queue of bounded bytes for a thread that writes them, so that neither a component nor a transport
ever waits for a disk; what finds no room is dropped, counted and told. Whatever was written more than about a second
ago survives a kill. Latched topics (/tf_static) are remembered from the host's start on, and stand first in each file.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from tercel.core.errors import UserError
from tercel.hosts.recording import RecordingWriter
from tercel.ros.transport import Data

Tap = Callable[[str, str, Data, int], None]

MAX_WAITING_BYTES = 64 << 20
FLUSH_EVERY_S = 1.0
LATCHED_TOPICS = ("/tf_static",)
MAX_LATCHED_BYTES = 1 << 20
MAX_FILES_OF_ONE_SECOND = 100
QUEUE_FULL = "the disk is too slow"
NOT_WRITTEN = "the file cannot be written"


class Tapped(Protocol):
    """What is recorded: a LiveHost."""

    def add_tap(self, tap: Tap) -> Callable[[], None]:
        """See LiveHost."""
        ...

    def now_ns(self) -> int:
        """The robot's time."""
        ...


@dataclass(frozen=True)
class _Waiting:
    topic: str
    ros_type: str
    data: Data
    log_time_ns: int


@dataclass
class RecordingAccount:
    """received = written + dropped, once the recording has ended. written: by topic, what has surely reached the file.

    failed: why the file could not be written any more.
    """

    received: int = 0
    written: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    written_bytes: int = 0
    failed: str | None = None

    def line(self) -> str:
        """For people."""
        text = f"{self.written.total()} messages on {len(self.written)} topics, {self.written_bytes / 1e6:.1f} MB"
        lost = ", ".join(f"{count} dropped: {reason}" for reason, count in sorted(self.dropped.items()))
        return f"{text}; {lost}" if lost else text


class Recorder:
    """Writes one file, in a thread of its own. `add` may be called from any thread and never waits for the disk.

    first: what is written before all else. Raises OSError if the file cannot be begun.
    """

    def __init__(
        self,
        path: Path,
        *,
        first: Iterable[tuple[str, str, Data, int]] = (),
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.path = path
        self.account = RecordingAccount()
        self._say = say
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._unsure: Counter[str] = Counter()  # written, but not flushed yet
        self._unsure_bytes = 0
        self._ending = False
        self._changed = threading.Condition()
        self._writer = RecordingWriter(path)
        try:
            self._writer.flush()
        except OSError:
            self._writer.abandon()
            raise
        for message in first:
            self.add(*message)
        self._thread = threading.Thread(target=self._run, name="tercel-recorder", daemon=True)
        self._thread.start()

    def add(self, topic: str, ros_type: str, data: Data, now_ns: int) -> None:
        """Take a message in, or drop it; it is counted either way. Its bytes are kept, not copied.

        Once the recording is being closed, nothing belongs to it any more.
        """
        with self._changed:
            if self._ending:
                return
            self.account.received += 1
            if self.account.failed is not None:
                self.account.dropped[NOT_WRITTEN] += 1
                return
            if self._waiting_bytes + len(data) > self._max_waiting_bytes:
                self.account.dropped[QUEUE_FULL] += 1
                is_news = self.account.dropped[QUEUE_FULL] == 1
            else:
                self._waiting.append(_Waiting(topic, ros_type, data, now_ns))
                self._waiting_bytes += len(data)
                self._changed.notify()
                return
        if is_news:
            self._say(f"recording {self.path.name}: {QUEUE_FULL}, messages are dropped and counted")

    def close(self) -> RecordingAccount:
        """Write what waits, and the index. May be called again."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join()
        return self.account

    # --- the recorder's thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._write_until_end()
            self._writer.close()
            self._count_written()
        except Exception as error:  # whatever it is: what waits must be accounted for, and nobody wait for this thread
            self._fail(error)

    def _write_until_end(self) -> None:
        flushed_s = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ending, FLUSH_EVERY_S)
                message = self._waiting.popleft() if self._waiting else None
                if message is None and self._ending:
                    return
                if message is not None:
                    self._waiting_bytes -= len(message.data)
                    self._unsure[message.topic] += 1
                    self._unsure_bytes += len(message.data)
            if message is not None:
                self._write(message)
            if self._unsure and time.monotonic() - flushed_s > FLUSH_EVERY_S:
                self._writer.flush()
                self._count_written()
                flushed_s = time.monotonic()

    def _write(self, message: _Waiting) -> None:
        try:
            self._writer.write_raw(message.topic, message.ros_type, message.log_time_ns, message.data)
        except ValueError as error:  # another type than before on this topic
            with self._changed:
                self._unsure[message.topic] -= 1
                self._unsure_bytes -= len(message.data)
                self.account.dropped[str(error)] += 1
                is_news = self.account.dropped[str(error)] == 1
            if is_news:
                self._say(f"recording {self.path.name}: {error}: dropped and counted")

    def _count_written(self) -> None:
        with self._changed:
            self.account.written.update(+self._unsure)
            self.account.written_bytes += self._unsure_bytes
            self._unsure, self._unsure_bytes = Counter(), 0

    def _fail(self, error: Exception) -> None:
        self._writer.abandon()
        reason = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
        with self._changed:
            self.account.failed = reason
            lost = len(self._waiting) + self._unsure.total()
            if lost:
                self.account.dropped[NOT_WRITTEN] += lost
            self._waiting.clear()
            self._unsure.clear()
        self._say(f"recording {self.path.name} has ended early: {reason}")


class Recordings:
    """The recordings of one host, one at a time, in one folder.

    Files are called after the robot's time: tercel_20260131_235959.mcap. say: told in one line what goes wrong.
    """

    def __init__(
        self,
        host: Tapped,
        folder: Path,
        *,
        say: Callable[[str], None] = lambda _line: None,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self.folder = folder
        self._host = host
        self._say = say
        self._max_waiting_bytes = max_waiting_bytes
        self._lock = threading.Lock()
        self._recorder: Recorder | None = None
        self._latched: dict[tuple[str, str, bytes], None] = {}
        self._latched_bytes = 0
        self._end_tap = host.add_tap(self._tap)

    @property
    def path(self) -> Path | None:
        """The file that is written now."""
        recorder = self._recorder
        return recorder.path if recorder else None

    def start(self) -> Path:
        """Begin a file. Raises UserError if one is written already, or if none can be."""
        with self._lock:
            if self._recorder is not None:
                raise UserError(f"recording already, to {self._recorder.path}; stop that first")
            now_ns = self._host.now_ns()
            first = [(topic, ros_type, data, now_ns) for topic, ros_type, data in self._latched]
            try:
                path = new_file(self.folder, now_ns, ".mcap")
                try:
                    self._recorder = Recorder(
                        path, first=first, max_waiting_bytes=self._max_waiting_bytes, say=self._say
                    )
                except OSError:
                    path.unlink(missing_ok=True)
                    raise
            except OSError as error:
                raise UserError(f"no recording in {self.folder}: {error.strerror or error}") from None
            return path

    def stop(self) -> tuple[Path, RecordingAccount]:
        """End the file. Raises UserError if none is written. account.failed says if it had ended before."""
        with self._lock:
            recorder, self._recorder = self._recorder, None
        if recorder is None:
            raise UserError("no recording is running")
        return recorder.path, recorder.close()

    def close(self) -> None:
        """End the file, if one is written, and record nothing more."""
        self._end_tap()
        if self._recorder is not None:
            self.stop()

    def _tap(self, topic: str, ros_type: str, data: Data, now_ns: int) -> None:
        if topic not in LATCHED_TOPICS:
            recorder = self._recorder
            if recorder is not None:
                recorder.add(topic, ros_type, data, now_ns)
            return
        with self._lock:
            self._remember(topic, ros_type, bytes(data))
            if self._recorder is not None:
                self._recorder.add(topic, ros_type, data, now_ns)

    def _remember(self, topic: str, ros_type: str, data: bytes) -> None:
        """Keep what is latched: several publishers share the topic, so all that is not the same, up to a limit."""
        key = topic, ros_type, data
        if key not in self._latched and self._latched_bytes + len(data) <= MAX_LATCHED_BYTES:
            self._latched[key] = None
            self._latched_bytes += len(data)


def new_file(folder: Path, now_ns: int, suffix: str) -> Path:
    """A new, empty file in a folder, which is made if need be, named after a time. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"tercel_{datetime.fromtimestamp(now_ns // 10**9, timezone.utc):%Y%m%d_%H%M%S}"
    for number in range(1, MAX_FILES_OF_ONE_SECOND + 1):
        path = folder / (f"{name}{suffix}" if number == 1 else f"{name}_{number}{suffix}")
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(17, f"there are {MAX_FILES_OF_ONE_SECOND} files of {name} already")
