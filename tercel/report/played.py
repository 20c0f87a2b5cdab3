"""A recording that plays in real time on a transport inside this process, for those who watch it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from tercel.hosts.play import Player
from tercel.hosts.recording import Recording
from tercel.ros.local import LocalTransport
from tercel.ros.transport import MAX_DOMAIN, Identity


class Played:
    """Plays once begun. `transport` is the watchers' node. A context manager. rate: 2 is twice as fast.

    Raises UserError for another rate than 0.01 to 1000, and where there is nothing to play.
    """

    def __init__(self, recording: Recording, node: str, *, rate: float, say: Callable[[str], None]) -> None:
        domain = os.getpid() % (MAX_DOMAIN + 1)
        self._sender = LocalTransport(Identity(node="recording", domain=domain), say=say)
        self.transport = LocalTransport(Identity(node=node, domain=domain), say=say)
        self.player = Player(recording, self._sender, rate=rate, say=say)
        self._span_s = (recording.end_ns - recording.start_ns) / 1e9
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    def begin(
        self, *, rounds: int | None, progress: Callable[[float, float], None] = lambda _at_s, _of_s: None
    ) -> None:
        """Start to play; another call does nothing. rounds: how often; None: for ever. progress: how far of what."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._play, args=(rounds, progress), name="played", daemon=True)
            self._thread.start()

    def _play(self, rounds: int | None, progress: Callable[[float, float], None]) -> None:
        try:
            self.player.play(
                self._ended, rounds=rounds, progress=lambda share: progress(share * self._span_s, self._span_s)
            )
        except Exception as error:
            self._failure = error

    @property
    def is_over(self) -> bool:
        """Whether it has begun and come to its end."""
        return self._thread is not None and not self._thread.is_alive()

    def check(self) -> None:
        """Raises what has ended the playing, if something has."""
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Played:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        self._sender.close()
        self.transport.close()
