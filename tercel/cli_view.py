"""The verb `tercel view`: what a robot publishes, or a recording, for Foxglove to look at."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercel.core.errors import UserError
from tercel.ros.transport import DISTRIBUTIONS, KINDS, Identity, Kind, open_transport
from tercel.terminal import add_verb, printable, require_writable, write_json

_LAST_S = 1.0


def add_view(verbs: Any) -> None:
    """Declare `tercel view`."""
    parser = add_verb(
        verbs,
        "view",
        _view,
        "Serve what is published to Foxglove: images, clouds, boxes, tracks and plots. It changes nothing.",
        "  tercel view                               # what is published over zenoh\n"
        "  tercel view --transport dds --domain 7 --port 9000\n"
        "  tercel view drive.mcap --rate 0.5 --loop  # a recording; it begins when somebody looks\n"
        "  head -c 24 /dev/urandom | base64 | tr +/ -_ > token\n"
        "  tercel view --listen 0.0.0.0 --token-file token --tls robot.pem robot.key    # for other machines\n"
        "Then, in Foxglove: Open connection, Foxglove WebSocket, ws://127.0.0.1:8765 (where there is a token:\n"
        "wss://robot:8765/?token=TOKEN), and import the layout launch/view/tercel.foxglove.json. Ends at an interrupt\n"
        "(or SIGTERM), with the account of what was shown.\n",
    )
    parser.add_argument("recording", nargs="?", type=Path, help="play this instead of listening to a transport")
    parser.add_argument("--rate", type=float, metavar="R", help="of a recording: 0.5 is half as fast (default 1)")
    parser.add_argument("--loop", action="store_true", help="begin a recording again at its end, until interrupted")
    parser.add_argument("--transport", choices=KINDS, help="what is listened to (default zenoh)")
    parser.add_argument("--domain", type=int, metavar="N", help="the ROS domain (default: ROS_DOMAIN_ID, else 0)")
    parser.add_argument("--distribution", choices=DISTRIBUTIONS, default="jazzy", help="whose wire (default jazzy)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the transport's own: zenoh JSON5, Cyclone XML")
    parser.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS", help="where Foxglove connects (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8765, help="default 8765; 0: any free one")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="viewers need the token that it holds")
    parser.add_argument("--tls", type=Path, nargs=2, metavar=("CERT", "KEY"), help="wss:// instead of ws:// (PEM)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the account here")


def _view(args: argparse.Namespace) -> int:
    from tercel.hosts.live_run import until_interrupted
    from tercel.report.dashboard_access import make_access
    from tercel.report.dashboard_server import tls_context
    from tercel.report.view_account import account_lines, summarize
    from tercel.report.view_door import Door

    _check(args)
    access = make_access(args.listen, args.token_file)
    began_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(until_interrupted())
        feed, is_over, source = stack.enter_context(_feed(args))
        tls = tls_context(*args.tls) if args.tls else None
        with Door(args.listen, args.port, access, feed.server, tls) as door:
            _say(f"view: {source} at {door.url}{'/?token=...' if access.token else ''}")
            if access.token and not tls and args.listen != "127.0.0.1":
                _say("without --tls the token and all data can be read by anybody on this network")
            while not stop.wait(0.1) and not is_over():
                feed.check()
            if not stop.is_set():
                stop.wait(_LAST_S)  # the last messages are still on their way
            feed.stop()
    summary = summarize(feed, door, source, time.monotonic() - began_s)
    if args.json:
        write_json(args.json, summary)
    print("\n".join(printable(line) for line in account_lines(summary)))
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.recording is not None and (args.transport not in (None, "local") or args.config or args.domain is not None):
        raise UserError("a recording or a transport: leave one of them out")
    if args.recording is None and (args.rate is not None or args.loop):
        raise UserError("--rate and --loop go with a recording; name one")
    if args.recording is None and args.transport == "local":
        raise UserError("--transport local reaches nobody outside: name a recording, or say --transport zenoh")
    if not 0 <= args.port <= 65535:
        raise UserError(f"--port {args.port}: 0 to 65535 is wanted")
    if args.json:
        require_writable(args.json)


@contextlib.contextmanager
def _feed(args: argparse.Namespace) -> Iterator[tuple[Any, Callable[[], bool], str]]:
    """What is shown, whether it has come to its end, and what to call it."""
    from tercel.report.view_feed import ViewFeed

    if args.recording is None:
        identity = Identity("tercel_view", distribution=args.distribution)
        identity = identity if args.domain is None else replace(identity, domain=args.domain)
        kind: Kind = args.transport or "zenoh"
        source = f"{kind}, domain {identity.domain}"
        with (
            open_transport(kind, identity, config=args.config, say=_say) as transport,
            ViewFeed(transport, f"tercel view: {source}", say=_say) as feed,
        ):
            yield feed, lambda: False, source
        return
    from tercel.hosts.recording import open_recording
    from tercel.report.played import Played

    recording = open_recording(args.recording)
    rounds = None if args.loop else 1
    with (
        Played(recording, "tercel_view", rate=1.0 if args.rate is None else args.rate, say=_say) as played,
        ViewFeed(played.transport, args.recording.name, wall_ns=played.player.now_ns, say=_say) as feed,
    ):

        def is_over() -> bool:
            played.check()
            if feed.watched.is_set():
                played.begin(rounds=rounds)
            return played.is_over

        yield feed, is_over, args.recording.name


def _say(line: str) -> None:
    print(printable(line), flush=True)
