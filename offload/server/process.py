"""`tercel serve`: an engine, its servicer on a gRPC port, a watched model folder and metrics, until SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offload.server.engine import Engine
from offload.server.folder import ModelFolder
from offload.server.metrics import MetricsServer
from offload.server.security import Access, add_port, check_exposure, token_interceptor
from offload.server.servicer import InferenceServicer
from offload.wire.addresses import is_loopback, split_address
from offload.wire.service import add_GRPCInferenceServiceServicer_to_server
from tercel.core.errors import UserError, require

LOOK_S = 1.0
"""Between two looks at the model folder."""
DRAIN_S = 10.0
"""What is admitted may take so long after SIGTERM."""
WRITE_S = 0.5
"""After that, for the last answers to be written."""
LIMITING = (1, 84)
"""The first gRPC that refuses a message beyond the limit when it is announced. Those before it keep what comes of it in
memory until its end, and refuse it then."""


@dataclass(frozen=True)
class ServeOptions:
    """What `tercel serve` was asked for. metrics: HOST:PORT on loopback, or None."""

    models: Path
    listen: str = "127.0.0.1:8001"
    metrics: str | None = None
    access: Access = field(default_factory=Access)
    threads: int = 2
    queue_limit: int = 128
    max_message_bytes: int = 64 << 20


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """gRPC's limits: a message that announces more is refused before anything is allocated (see LIMITING); peers that
    are gone or never finish a handshake are let go; clients may ping once in half a second."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.max_concurrent_streams", 256),
        ("grpc.server_handshake_timeout_ms", 5_000),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 500),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),
    ]


async def serve(options: ServeOptions, say: Callable[[str], None]) -> Engine:
    """Serve until SIGTERM or SIGINT, then drain; returns the engine with its account. say: gets lines for the log.

    Raises UserError.
    """
    host, port = split_address(options.listen, "--listen")
    check_exposure(host, options.access)
    folder = ModelFolder(options.models)
    engine = Engine(threads=options.threads, queue_limit=options.queue_limit)
    metrics: MetricsServer | None = None
    try:
        look(folder, engine, say, settle=False)
        if not engine.models:
            raise UserError(f"{options.models}: no model in it can be served; put NAME.onnx there")
        server = _server(options, engine, folder)
        bound = add_port(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", options.access)
        metrics = metrics_server(options.metrics, engine, lambda: dict(folder.problems))
        await server.start()
        gc.freeze()  # a collection over all that lives for ever, which takes tens of milliseconds, would make many late
        say(f"listening: {host}:{bound}")
        version = require("grpc", extra="offload").__version__
        if tuple(int(part) for part in version.split(".")[:2]) < LIMITING and not is_loopback(host):
            say(f"grpcio {version} keeps messages beyond --max-message-mb in memory to their end: update it to 1.84")
        if metrics is not None:
            say(f"metrics: http://{options.metrics and options.metrics.rpartition(':')[0]}:{metrics.port}/metrics")
        await _until_stopped(folder, engine, say)
        await wind_down(server, engine.drain(), say)
    finally:
        if metrics is not None:
            metrics.close()
        engine.close()
    return engine


def look(folder: ModelFolder, engine: Engine, say: Callable[[str], None], *, settle: bool) -> None:
    """Look at the folder in the calling thread and put into the engine what is new."""
    known = dict(folder.problems)
    _apply(folder.look(settle=settle), folder, known, engine, say)


def _apply(changes: list[Any], folder: ModelFolder, known: dict[str, str], engine: Engine, say: Any) -> None:
    for change in changes:
        if change.model is not None:
            engine.put_model(change.model)
            say(f"model: {change.name}, {'batched' if change.model.batched else 'one by one'}")
        elif change.name in engine.models:
            engine.remove_model(change.name)
            say(f"model: {change.name} is gone")
    for name, problem in folder.problems.items():
        if known.get(name) != problem:
            say(f"not served: {problem}" + ("; the one before goes on" if name in engine.models else ""))


def _server(options: ServeOptions, engine: Engine, folder: ModelFolder) -> Any:
    aio = require("grpc.aio", extra="offload")
    interceptors = [token_interceptor(options.access.token)] if options.access.token else []
    server = aio.server(interceptors=interceptors, options=channel_options(options.max_message_bytes))
    servicer = InferenceServicer(engine, lambda: dict(folder.problems))
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    return server


async def wind_down(server: Any, drained: Awaitable[None], say: Callable[[str], None]) -> None:
    """Finish what is admitted, as long as that may take, and close the port."""
    say("draining")
    try:
        await asyncio.wait_for(drained, DRAIN_S)
    except asyncio.TimeoutError:
        say(f"draining: some requests are not done after {DRAIN_S:g} s and are broken off")
    await server.stop(WRITE_S)


def metrics_server(address: str | None, engine: Any, problems: Callable[[], dict[str, str]]) -> MetricsServer | None:
    """Metrics of an engine, or of what has an account like it, if wanted. Raises UserError beyond loopback."""
    if address is None:
        return None
    host, port = split_address(address, "--metrics")
    if not is_loopback(host):
        raise UserError(f"--metrics {host} is reached from outside and asks for no token; use 127.0.0.1 and a proxy")
    return MetricsServer(host, port, engine, problems)


def stop_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


async def _until_stopped(folder: ModelFolder, engine: Engine, say: Callable[[str], None]) -> None:
    """Watch the folder until a signal comes."""
    loop = asyncio.get_running_loop()
    stopped = stop_signals()
    while not stopped.is_set():
        known = dict(folder.problems)
        changes = await loop.run_in_executor(None, folder.look)
        _apply(changes, folder, known, engine, say)
        try:
            await asyncio.wait_for(stopped.wait(), LOOK_S)
        except asyncio.TimeoutError:
            continue
