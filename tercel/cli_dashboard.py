"""The verb `tercel dashboard`: a web page with what a robot sees and does, live or from a recording."""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercel.core.errors import UserError
from tercel.ros.transport import DISTRIBUTIONS, KINDS, Identity, open_transport
from tercel.terminal import add_verb, printable


def add_dashboard(verbs: Any) -> None:
    """Declare `tercel dashboard`."""
    parser = add_verb(
        verbs,
        "dashboard",
        _dashboard,
        "Show camera, map, rates, offload decisions and alarms on a web page that changes nothing.",
        "  tercel dashboard                          # what is published over zenoh; http://127.0.0.1:8088/\n"
        "  tercel dashboard --transport dds --domain 7 --port 9000\n"
        "  tercel dashboard drive.mcap               # a recording, over and over\n"
        "  head -c 24 /dev/urandom | base64 | tr +/ -_ > token\n"
        "  tercel dashboard --listen 0.0.0.0 --token-file token --tls robot.pem robot.key     # for a tablet\n",
    )
    parser.add_argument("recording", nargs="?", type=Path, help="play this instead of listening to a transport")
    parser.add_argument("--rate", type=float, metavar="R", help="of a recording: 2 is twice as fast (default 1)")
    parser.add_argument("--transport", choices=[k for k in KINDS if k != "local"], help="what is listened to (zenoh)")
    parser.add_argument("--domain", type=int, metavar="N", help="default: ROS_DOMAIN_ID, or 0")
    parser.add_argument("--distribution", choices=DISTRIBUTIONS, default="jazzy", help="whose wire (default jazzy)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the transport's own (zenoh JSON5, Cyclone XML)")
    parser.add_argument("--listen", default="127.0.0.1", metavar="ADDR", help="address of the page (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8088, help="default 8088; 0: any free one")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the page asks for the token that it holds")
    parser.add_argument("--tls", type=Path, nargs=2, metavar=("CERT", "KEY"), help="the page over HTTPS (PEM)")


def _dashboard(args: argparse.Namespace) -> int:
    from tercel.report.dashboard_access import make_access
    from tercel.report.dashboard_server import DashboardServer
    from tercel.report.dashboard_state import DashboardState

    if args.recording is not None and (args.transport or args.config or args.domain is not None):
        raise UserError("a recording or a transport: leave one of them out")
    if args.recording is None and args.rate is not None:
        raise UserError("--rate goes with a recording; name one")
    if not 0 <= args.port <= 65535:
        raise UserError(f"--port {args.port}: 0 to 65535 is wanted")
    access = make_access(args.listen, args.token_file)
    with contextlib.ExitStack() as stack:
        identity = Identity("tercel_dashboard", distribution=args.distribution)
        identity = identity if args.domain is None else replace(identity, domain=args.domain)
        kind = args.transport or "zenoh"
        state = DashboardState(str(args.recording.name) if args.recording else f"{kind}, domain {identity.domain}")
        feed = stack.enter_context(_feed(args, kind, identity, state, stack))
        server = stack.enter_context(
            DashboardServer(state, args.listen, args.port, access, tuple(args.tls) if args.tls else None)
        )
        _say(f"dashboard: {server.url}")
        if access.token and not args.tls and args.listen != "127.0.0.1":
            _say("without --tls the token and all pictures can be read by anybody on this network")
        _until_interrupted(server.check, feed.check)
    return 0


def _feed(args: argparse.Namespace, kind: Any, identity: Identity, state: Any, stack: contextlib.ExitStack) -> Any:
    from tercel.hosts.recording import open_recording
    from tercel.report.dashboard_feed import Feed, RecordingFeed

    if args.recording is not None:
        return RecordingFeed(
            open_recording(args.recording), state, rate=1.0 if args.rate is None else args.rate, say=_say
        )
    transport = stack.enter_context(open_transport(kind, identity, config=args.config, say=_say))
    return Feed(transport, state, say=_say)


def _until_interrupted(*checks: Callable[[], None]) -> None:
    """Return at SIGINT or SIGTERM; until then check that all is well."""
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()

    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stop.wait(0.5):
            for check in checks:
                check()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    print(printable(line), flush=True)
