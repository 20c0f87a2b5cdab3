"""`tercel serve --ray`: one gRPC port, with the certificates, tokens and limits of the plain server, before a fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from offload.scale_out.cluster import replicas
from offload.scale_out.fleet import Fleet
from offload.scale_out.replica import ReplicaOptions
from offload.scale_out.servicer import FleetServicer
from offload.server.folder import ModelFolder
from offload.server.process import LOOK_S, ServeOptions, channel_options, metrics_server, stop_signals, wind_down
from offload.server.security import add_port, check_exposure, token_interceptor
from offload.wire.addresses import split_address
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
    metrics = metrics_server(options.metrics, fleet, lambda: fleet.problems)
    try:
        await server.start()
        say(f"listening: {host.strip('[]')}:{bound}")
        if metrics is not None:
            say(f"metrics: http://127.0.0.1:{metrics.port}/metrics")
        await _until_stopped(fleet, say)
        await wind_down(server, fleet.drain(), say)
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


async def _until_stopped(fleet: Fleet, say: Callable[[str], None]) -> None:
    """Ask what is served, until a signal comes."""
    stopped = stop_signals()
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
