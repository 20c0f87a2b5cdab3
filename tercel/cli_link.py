"""The verb `tercel link-proxy`: a real client and server over a recorded link."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tercel.core.errors import UserError
from tercel.terminal import add_verb, require_writable, write_json


def add_link_proxy(verbs: Any) -> None:
    """Declare `tercel link-proxy`."""
    parser = add_verb(
        verbs,
        "link-proxy",
        _link_proxy,
        "Carry TCP connections as a link would that was recorded or is modelled: its rate, outages and round trip.",
        "  tercel link-proxy --listen 127.0.0.1:9000 --to 127.0.0.1:8001 --trace ATT-LTE-driving.up.gz\n"
        "  tercel link-proxy --listen 9000 --to 8001 --trace constant:rate_mbps=5,rtt_ms=40 --direction up\n"
        "  tercel link-proxy --listen 9000 --to 8001 --trace 5G-production-dataset.zip::B_2020.02.13_13.03.24.csv\n"
        "links:\n"
        "  PATH[,scale=1][,rtt_ms=50][,direction=down]    mahimahi, CSV (time_s,bandwidth_mbps[,rtt_ms][,loss]) or\n"
        "                                                 UCC 5G; any may be gzipped, or ARCHIVE.zip::MEMBER\n"
        "  constant:rate_mbps=R[,rtt_ms=50][,loss=0]\n"
        "  ramp:rate_mbps=R[,rtt_ms=50][,extra_rtt_ms=400][,period_s=300][,ramp_s=60][,hold_s=60]\n"
        "  gilbert_elliott:rate_mbps=R[,bad_mbps=0][,good_s=30][,bad_s=3][,rtt_ms=50][,bad_rtt_ms][,duration_s=3600]\n",
    )
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="[HOST:]PORT", help="default: any free port")
    parser.add_argument("--to", required=True, metavar="[HOST:]PORT", help="the real server")
    parser.add_argument("--trace", required=True, metavar="T", help="the link, see below")
    parser.add_argument(
        "--direction",
        choices=("up", "both"),
        default="both",
        help="what the link's rate holds for (both); else no limit",
    )
    parser.add_argument("--seed", type=int, default=0, help="of gilbert_elliott (0)")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="seconds into the link (0)")
    parser.add_argument("--duration", type=float, metavar="S", help="stop after this (default: when interrupted)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the statistics here")


def _link_proxy(args: argparse.Namespace) -> int:
    from offload.link import link_from_text

    if args.json:
        require_writable(args.json)
    for option in ("start", "duration"):
        value = getattr(args, option)
        if value is not None and not 0 <= value <= 1e6:
            raise UserError(f"--{option} {value}: seconds of 0 to 1000000 are wanted")
    listen, target = _address("--listen", args.listen, 0), _address("--to", args.to, 1)
    summary = asyncio.run(_run(args, link_from_text(args.trace, args.seed), listen, target))
    if args.json:
        write_json(args.json, summary)
    print("\n".join(_table(summary)))
    return 0


def _address(option: str, text: str, low_port: int) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and low_port <= int(port[:6]) <= 65535):
        raise UserError(f"{option} {text}: HOST:PORT with a port of {low_port} to 65535 is wanted")
    return host.strip("[]") or "127.0.0.1", int(port)


async def _run(args: argparse.Namespace, link: Any, listen: tuple[str, int], target: tuple[str, int]) -> dict[str, Any]:
    from offload.link_proxy import LinkProxy

    start_ns = round(args.start * 1e9)
    proxy = LinkProxy(link, *target, host=listen[0], port=listen[1], direction=args.direction, start_ns=start_ns)
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(proxy)
        except OSError as error:
            raise UserError(f"--listen {args.listen}: {error.strerror or error}; name another address") from None
        print(f"listening on {proxy.host}:{proxy.port}, to {target[0]}:{target[1]} over {args.trace}", flush=True)
        await _interrupted(args.duration)
        ended_ns = proxy.now_ns
    return proxy.statistics.summary() | {
        "duration_s": (ended_ns - start_ns) / 1e9,
        "link_bytes": link.capacity_bytes(start_ns, ended_ns),
    }


async def _interrupted(timeout_s: float | None) -> None:
    """Return at an interrupt, or after so many seconds."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(stop.wait(), timeout_s)


def _table(summary: dict[str, Any]) -> Iterable[str]:
    yield (
        f"connections {summary['connections']}, refused {summary['refused']}, reset {summary['resets']}, "
        f"in {summary['duration_s']:.1f} s; the link could have carried {summary['link_bytes'] / 1e6:.3f} MB"
    )
    yield f"{'':6}{'MB':>12}{'Mbit/s':>10}{'wait mean ms':>14}{'max ms':>10}"
    for name in ("up", "down"):
        way = summary[name]
        mbps = 8e-6 * way["bytes"] / max(summary["duration_s"], 1e-9)
        yield f"{name:6}{way['bytes'] / 1e6:12.3f}{mbps:10.3f}{way['wait_mean_ms']:14.1f}{way['wait_max_ms']:10.1f}"
