"""One live run from end to end: join the wire, run the graph until it is told to end, and account for it. What
`tercel run` calls."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import tercel
from tercel.core.errors import UserError
from tercel.hosts.graph import Graph
from tercel.hosts.live import LiveHost
from tercel.hosts.networks import open_models
from tercel.hosts.play import Player
from tercel.hosts.recorder import Recorder
from tercel.hosts.recording import open_recording
from tercel.ros.host_services import offer_node
from tercel.ros.parameter_services import offload_policy, use_sim_time
from tercel.ros.transport import Identity, Kind, open_transport

if TYPE_CHECKING:
    from perception.runtime import Backend

Say = Callable[[str], None]
LINE_EVERY_S = 5.0
DRAIN_WITHIN_S = 60.0
DISCOVERY_S = 1.0


@dataclass(frozen=True)
class LiveOptions:
    """What the user asked for. models, remap as on the command line; play: a recording to feed the graph with."""

    graph: Graph
    transport: Kind
    identity: Identity
    config: Path | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    threads: int = 2
    backend: Backend = "onnxruntime"
    offload: Path | None = None
    remap: Mapping[str, str] = field(default_factory=dict)
    sim_time: bool = False
    duration_s: float | None = None
    play: Path | None = None
    rate: float = 1.0
    record: Path | None = None
    record_dir: Path = Path("recordings")


def run_live(options: LiveOptions, say: Say) -> dict[str, Any]:
    """Run until the recording that is played has ended, the time is over, an interrupt, or until somebody shuts the
    node down. Returns the summary.

    Raises UserError for anything that the user can mend.
    """
    identity = options.identity
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(until_interrupted())
        models, hear = open_models(
            options.graph, options.models, options.threads, options.offload, stack, say, options.backend
        )
        transport = stack.enter_context(open_transport(options.transport, identity, config=options.config, say=say))
        player = _player(options, stack, say)
        host = LiveHost(
            options.graph,
            transport,
            models=models,
            remap=options.remap,
            namespace=identity.namespace,
            use_sim_time=options.sim_time,
            now_ns=player.now_ns if player else time.time_ns,
            say=say,
            name=identity.node,
            on_output=hear,
        )
        recorder = _recorder(options, host, stack, say)
        host.start()
        stack.callback(host.stop)
        own = [use_sim_time(options.sim_time), *([offload_policy(models)] if options.offload else [])]
        node = f"{identity.namespace.rstrip('/')}/{identity.node}"
        services = offer_node(
            host, transport, node, record_dir=options.record_dir, own=own, on_shutdown=stop.set, say=say
        )
        stack.callback(services.close)
        services.begin()
        topics = ", ".join(host.status()["topics"]) or "nothing"
        say(f"{options.graph.name} runs as {node} on {options.transport}, domain {identity.domain}; it reads {topics}")
        began_s = time.monotonic()
        if player is not None:
            _play(player, host, stop, options, say)
        else:
            _wait(host, stop, options.duration_s, say)
        wall_s = time.monotonic() - began_s
        host.stop()
        if recorder is not None:
            say(f"recording: {recorder.path}: {recorder.close().line()}")
        return _summary(options, host, player, wall_s)


def _recorder(options: LiveOptions, host: LiveHost, stack: contextlib.ExitStack, say: Say) -> Recorder | None:
    if options.record is None:
        return None
    try:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        recorder = Recorder(options.record, say=say)
    except OSError as error:  # a full disk does not say which file
        raise UserError(f"--record {options.record}: {error.strerror or error}") from None
    stack.callback(recorder.close)
    stack.callback(host.add_tap(recorder.add))
    return recorder


@contextlib.contextmanager
def until_interrupted() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, once; a second one interrupts as usual."""
    stop = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def interrupt(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, interrupt)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _player(options: LiveOptions, stack: contextlib.ExitStack, say: Say) -> Player | None:
    if options.play is None:
        return None
    identity = replace(options.identity, node=f"{options.identity.node}_player")
    transport = stack.enter_context(open_transport(options.transport, identity, config=options.config, say=say))
    recording = open_recording(options.play)
    remap = options.remap
    wanted = {name: remap.get(name, name) for name in options.graph.needed()}
    topics = [name for name in recording.topics if name in wanted]
    if not topics:
        have = ", ".join(sorted(recording.topics)) or "none"
        raise UserError(f"{options.play} has none of {', '.join(sorted(wanted))} (its topics: {have})")
    return Player(
        recording,
        transport,
        topics=topics,
        remap={name: wanted[name] for name in topics},
        namespace=options.identity.namespace,
        rate=options.rate,
        say=say,
    )


def _play(player: Player, host: LiveHost, stop: threading.Event, options: LiveOptions, say: Say) -> None:
    """Feed the host from the recording, in a thread of its own, until one of them ends."""
    if options.transport != "local":
        stop.wait(DISCOVERY_S)  # the two nodes find each other
    ended = threading.Event()
    failures: list[Exception] = []

    def play() -> None:
        try:
            player.play(stop)
        except Exception as error:  # told by the main thread, after the host has stopped
            failures.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=play, name="tercel-player", daemon=True)
    thread.start()
    _wait(host, ended, options.duration_s, say)
    is_whole = ended.is_set() and not stop.is_set()
    stop.set()
    thread.join()
    if is_whole:
        time.sleep(0.2 if options.transport != "local" else 0.0)  # what is under way on the wire
        host.wait_idle(DRAIN_WITHIN_S)
    if failures:
        raise failures[0]


def _wait(host: LiveHost, ended: threading.Event, duration_s: float | None, say: Say) -> None:
    """Say how it goes every few seconds, until the end."""
    began_s = time.monotonic()
    ends_s = float("inf") if duration_s is None else began_s + duration_s
    next_s = began_s + LINE_EVERY_S
    while not ended.wait(max(0.0, min(next_s, ends_s) - time.monotonic())):
        now_s = time.monotonic()
        if now_s >= ends_s:
            return
        if now_s >= next_s:
            next_s += LINE_EVERY_S
            say(progress_line(host.status()))


def progress_line(status: Mapping[str, Any]) -> str:
    """How it goes, in a line: rate and latency of each component, and what was lost."""
    parts = []
    for name, row in status["components"].items():
        if row["failed"]:
            parts.append(f"{name} FAILED")
            continue
        p50_ms = row["latency_ms"]["p50"]
        latency = f" {p50_ms:.0f} ms" if row["calls"] and abs(p50_ms) < 60_000 else ""
        parts.append(f"{name} {row['rate_hz']:.1f} Hz{latency}")
    rows = status["components"].values()
    lost = ", ".join(f"{sum(row[key] for row in rows)} {key}" for key in ("dropped", "rejected"))
    return f"{status['duration_s']:6.0f} s  {', '.join(parts)}; {lost}"


def _summary(options: LiveOptions, host: LiveHost, player: Player | None, wall_s: float) -> dict[str, Any]:
    """What `--json` writes; components have the names that the summary of a replay has, too."""
    status = host.status()
    for row in status["components"].values():
        row["count"] = row["calls"]
        row["rate_hz"] = round(row["calls"] / wall_s, 2) if wall_s else 0.0
    del status["lately"]
    return {
        "tercel": tercel.__version__,
        "transport": options.transport,
        **status,
        **({"play": player.summary()} if player else {}),
    }
