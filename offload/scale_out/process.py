"""`tercel serve --ray`: one gRPC port, with the certificates, tokens and limits of the plain server, before a fleet."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from offload.scale_out.cluster import replicas
from offload.scale_out.fleet import Fleet
from offload.scale_out.replica import ReplicaOptions
from offload.scale_out.servicer import FleetServicer
from offload.server.folder import ModelFolder
from offload.server.metrics import MetricsServer
from offload.server.process import DRAIN_S, LOOK_S, WRITE_S, ServeOptions, channel_options
from offload.server.security import add_port, check_exposure, token_interceptor
from offload.wire.addresses import is_loopback, split_address
from offload.wire.service import add_GRPCInferenceServiceServicer_to_server
from tercel.core.errors import UserError, require


def parse_replicas(text: str) -> tuple[int, int]:
    """MIN:MAX, or N for N:N. Raises UserError."""
    least, colon, most = text.partition(":")
    most = most if colon else least
    if not least.isdecimal() or not most.isdecimal():
        raise UserError(f"--replicas {text}: write MIN:MAX, such as 1:4")
    return int(least), int(most)


def serve_replicated(
    options: ServeOptions, counts: tuple[int, int], address: str | None, say: Callable[[str], None]
) -> Fleet:
    """Serve until SIGTERM or SIGINT, then drain and put Ray away; returns the fleet with its account.

    counts: replicas at least and at most. address: of a running Ray; None: one is started here. say: gets lines for the
    log. options.threads is of each replica. Raises UserError.
    """
    host, port = split_address(options.listen, "--listen")
    check_exposure(host, options.access)
    settings = ReplicaOptions(
        str(options.models.resolve()),
        counts,
        options.threads,
        options.queue_limit,
        target=2.0 * options.threads,
    )
    if address is None:
        ModelFolder(options.models)  # a word about a wrong folder now, and not after Ray has started
        say("ray: starting")
    with replicas(settings, address) as handle:
        say(f"ray: {counts[0]} to {counts[1]} replicas")
        fleet = Fleet(handle, limit=2 * options.queue_limit * counts[1])
        asyncio.run(_serve(options, f"[{host}]" if ":" in host else host, port, fleet, say))
        return fleet


async def _serve(options: ServeOptions, host: str, port: int, fleet: Fleet, say: Callable[[str], None]) -> None:
    await fleet.refresh()
    for name in fleet.models:
        say(f"model: {name}")
    server = _server(options, fleet)
    bound = add_port(server, f"{host}:{port}", options.access)
    metrics = _metrics(options.metrics, fleet)
    try:
        await server.start()
        say(f"listening: {host.strip('[]')}:{bound}")
        if metrics is not None:
            say(f"metrics: http://127.0.0.1:{metrics.port}/metrics")
        await _until_stopped(fleet, say)
        say("draining")
        try:
            await asyncio.wait_for(fleet.drain(), DRAIN_S)
        except asyncio.TimeoutError:
            say(f"draining: some requests are not done after {DRAIN_S:g} s and are broken off")
        await server.stop(WRITE_S)
    finally:
        if metrics is not None:
            metrics.close()
    for name, answered in sorted(fleet.answered.items()):
        say(f"replica: {name} answered {answered}")
    say(f"retried: {fleet.retried}")


def _server(options: ServeOptions, fleet: Fleet) -> Any:
    aio = require("grpc.aio", extra="offload")
    interceptors = [token_interceptor(options.access.token)] if options.access.token else []
    server = aio.server(interceptors=interceptors, options=channel_options(options.max_message_bytes))
    add_GRPCInferenceServiceServicer_to_server(FleetServicer(fleet), server)
    return server


def _metrics(address: str | None, fleet: Any) -> MetricsServer | None:
    if address is None:
        return None
    host, port = split_address(address, "--metrics")
    if not is_loopback(host):
        raise UserError(f"--metrics {host} is reached from outside and asks for no token; use 127.0.0.1 and a proxy")
    return MetricsServer(host, port, fleet, lambda: fleet.problems)


async def _until_stopped(fleet: Fleet, say: Callable[[str], None]) -> None:
    """Ask what is served, until a signal comes."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    known: set[str] = set()
    while not stopped.is_set():
        served = set(fleet.models)
        await fleet.refresh()
        for name in sorted(set(fleet.models) ^ served):
            say(f"model: {name}{'' if name in fleet.models else ' is gone'}")
        for name in sorted(set(fleet.answered) - known):
            say(f"replica: {name}")
        known = set(fleet.answered)
        try:
            await asyncio.wait_for(stopped.wait(), LOOK_S)
        except asyncio.TimeoutError:
            continue
