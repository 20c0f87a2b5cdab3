"""The verbs `tercel run`, a graph at work in real time, and `tercel play`, a recording in its place."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercel.core.errors import UserError
from tercel.ros.transport import DISTRIBUTIONS, KINDS, Identity
from tercel.terminal import BACKENDS, add_verb, parse_pairs, printable, require_writable, write_json


def _add_wire(parser: argparse.ArgumentParser, node: str) -> None:
    """The options of everything that is a node on a wire."""
    wire = parser.add_argument_group("the wire")
    wire.add_argument("--transport", choices=KINDS, default="zenoh", help="default zenoh, as rmw_zenoh speaks it")
    wire.add_argument("--domain", type=int, metavar="N", help="the ROS domain (default: ROS_DOMAIN_ID, else 0)")
    wire.add_argument("--node", default=None, metavar="NAME", help=f"the node's name (default: {node})")
    wire.add_argument("--namespace", default="/", metavar="/NS", help="before node and topics, but /tf and the like")
    wire.add_argument("--distribution", choices=DISTRIBUTIONS, default="jazzy", help="whose wire (default jazzy)")
    wire.add_argument("--config", type=Path, metavar="FILE", help="the transport's own: zenoh JSON5, Cyclone XML")


def _identity(args: argparse.Namespace, node: str) -> Identity:
    identity = Identity(node=args.node or node, namespace=args.namespace, distribution=args.distribution)
    return identity if args.domain is None else replace(identity, domain=args.domain)


def _say(line: str) -> None:
    print(printable(line), flush=True)


# --- run -----------------------------------------------------------------------------------------------------------


def add_run(verbs: Any) -> None:
    """Declare `tercel run`."""
    parser = add_verb(
        verbs,
        "run",
        _run,
        "Run a graph of components live, as a node that ROS 2 sees.",
        "  tercel run lidar                                         # a graph of the suite, over zenoh\n"
        "  tercel run camera --model yolox_nano.onnx --remap /camera/image:=/front/image_raw\n"
        "  tercel run my_graph.yaml --transport dds --domain 7 --namespace /robot1\n"
        "  tercel run camera --model yolox_nano.onnx --offload launch/offload/board_and_server.yaml\n"
        "  tercel run lidar_odometry --remap /cloud:=/velodyne_points --set map_voxel_m=0.3    # one component\n"
        "  tercel run lidar --transport local --play drive.mcap      # a recording in real time, in this process\n"
        "Ends at an interrupt (or SIGTERM), with the account of all messages. Exit code 1 if a component failed.\n",
    )
    parser.add_argument("graph", help="a graph file, the name of one, a component's name or its module.Class")
    _add_wire(parser, "tercel, or a lone component's")
    parser.add_argument(
        "--model", action="append", default=[], metavar="[NAME=]FILE", help="an ONNX model for the graph"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads for networks (default 2)")
    parser.add_argument(
        "--backend", choices=BACKENDS, default=BACKENDS[0], help="what runs them; auto: the faster (%(default)s)"
    )
    parser.add_argument("--offload", type=Path, metavar="FILE", help="networks run where the offload manager decides")
    parser.add_argument("--remap", action="append", default=[], metavar="TOPIC:=OTHER", help="another name for a topic")
    parser.add_argument(
        "--set", action="append", default=[], metavar="COMPONENT.FIELD=VALUE", help="a setting of a component"
    )
    parser.add_argument("--sim-time", action="store_true", help="time is what /clock says")
    parser.add_argument("--duration", type=float, metavar="S", help="end after this (default: when interrupted)")
    parser.add_argument("--play", type=Path, metavar="RECORDING", help="feed the graph from a recording, then end")
    parser.add_argument("--rate", type=float, default=1.0, metavar="R", help="with --play: 0.5 is half as fast (1)")
    parser.add_argument("--record", type=Path, metavar="OUT.mcap", help="record what comes in and goes out")
    parser.add_argument(
        "--record-dir",
        type=Path,
        default=Path("recordings"),
        metavar="DIR",
        help="for the services start_recording and save_map (default recordings)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the account here")


def _run(args: argparse.Namespace) -> int:
    from tercel.hosts.graph_choice import find_graph
    from tercel.hosts.live_run import LiveOptions, run_live
    from tercel.report.summary import component_rows, counter_lines

    if args.threads < 1 or (args.duration is not None and not 0 < args.duration <= 1e9):
        raise UserError("--threads begins at 1 and --duration above 0")
    if args.transport == "local" and args.play is None:
        raise UserError("--transport local reaches nobody outside: add --play RECORDING, or say --transport zenoh")
    if args.rate != 1.0 and args.play is None:
        raise UserError("--rate goes with --play; add it")
    if args.play is not None and args.sim_time:
        raise UserError("--play has its own time: leave --sim-time out")
    for path in (args.json, args.record):
        if path is not None:
            require_writable(path)
    graph = _with_settings(find_graph(args.graph), args.set)
    options = LiveOptions(
        graph=graph,
        transport=args.transport,
        identity=_identity(args, graph.name if graph.name == graph.nodes[0].name else "tercel"),
        config=args.config,
        models=parse_pairs(args.model, "=", "--model", default_key="detector"),
        threads=args.threads,
        backend=args.backend,
        offload=args.offload,
        remap=parse_pairs(args.remap, ":=", "--remap"),
        sim_time=args.sim_time,
        duration_s=args.duration,
        play=args.play,
        rate=args.rate,
        record=args.record,
        record_dir=args.record_dir,
    )
    summary = run_live(options, _say)
    components = summary["components"]
    lines = [*component_rows(_timed(components)), *counter_lines(components), *_ends(summary)]
    print("\n".join(printable(line) for line in lines))
    if args.json:  # last: where it cannot be written, the account was told at least
        write_json(args.json, summary)
    return 1 if any(row["failed"] for row in components.values()) else 0


def _timed(components: dict[str, Any]) -> dict[str, Any]:
    """Rows as the table of a replay has them: its latency is the time that a call took."""
    return {name: row | {"latency_ms": row["took_ms"]} for name, row in components.items()}


def _ends(summary: dict[str, Any]) -> list[str]:
    """The lines below the table."""
    lines = []
    for name, row in summary["components"].items():
        if row["failed"]:
            lines.append(f"failed: {name}: {row['failed']}")
        lines += [f"restarted: {name}, {count} times: {reason}" for reason, count in row["restarts"].items()]
    for reason, count in {**summary["problems"], **summary["undecodable"]}.items():
        lines.append(f"problem: {reason} ({count})")
    if "offload" in summary:
        from tercel.report.offloading import offload_line

        lines.append(offload_line(summary["offload"]))
    if "play" in summary:
        lines += _play_lines(summary["play"])
    lines.append(f"{summary['duration_s']:.1f} s on {summary['transport']}")
    return lines


def _with_settings(graph: Any, texts: list[str]) -> Any:
    """The graph with the settings of --set; values are written as in a graph file."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from tercel.ros.parameters import apply

    changes = {}
    for name, text in parse_pairs(texts, "=", "--set").items():
        try:
            changes[name] = YAML(typ="safe", pure=True).load(text)
        except (YAMLError, ValueError):
            raise UserError(f"--set {name}={text}: that is no value") from None
    return apply(graph, changes) if changes else graph


# --- play ----------------------------------------------------------------------------------------------------------


def add_play(verbs: Any) -> None:
    """Declare `tercel play`."""
    parser = add_verb(
        verbs,
        "play",
        _play,
        "Play a recording onto the wire, as `ros2 bag play` does: the bytes as recorded, at their times.",
        "  tercel play drive.mcap\n"
        "  tercel play bag_folder --rate 0.5 --loop --clock --transport dds\n"
        "  tercel play drive.mcap --topics /lidar/points /tf_static --remap /lidar/points:=/velodyne_points\n",
    )
    parser.add_argument("recording", type=Path, help="an MCAP file, a rosbag2 folder or a ROS 1 bag")
    _add_wire(parser, "tercel_player")
    parser.add_argument("--rate", type=float, default=1.0, metavar="R", help="0.5 is half as fast (default 1)")
    parser.add_argument("--loop", action="store_true", help="begin again at the end, until interrupted")
    parser.add_argument("--clock", action="store_true", help="publish /clock, for nodes with simulated time")
    parser.add_argument("--topics", nargs="+", default=[], metavar="TOPIC", help="only these (default: all)")
    parser.add_argument("--remap", action="append", default=[], metavar="TOPIC:=OTHER", help="another name for a topic")
    parser.add_argument(
        "--delay", type=float, default=1.0, metavar="S", help="so long before the first message, for others to join (1)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the account here")


def _play(args: argparse.Namespace) -> int:
    from tercel.hosts.live_run import until_interrupted
    from tercel.hosts.play import Player
    from tercel.hosts.recording import open_recording
    from tercel.ros.transport import open_transport
    from tercel.terminal import Progress

    if args.transport == "local":
        raise UserError("--transport local reaches nobody outside: see tercel run --play, or say --transport zenoh")
    if not 0 <= args.delay <= 3600:
        raise UserError(f"--delay {args.delay}: 0 to 3600 seconds are wanted")
    if args.json:
        require_writable(args.json)
    recording = open_recording(args.recording)
    progress = Progress("play")
    with (
        until_interrupted() as stop,
        open_transport(args.transport, _identity(args, "tercel_player"), config=args.config, say=_say) as transport,
    ):
        player = Player(
            recording,
            transport,
            topics=args.topics,
            remap=parse_pairs(args.remap, ":=", "--remap"),
            namespace=args.namespace,
            rate=args.rate,
            clock=args.clock,
            say=_say,
        )
        stop.wait(args.delay)
        player.play(stop, rounds=None if args.loop else 1, progress=progress)
        progress.done()
    summary = player.summary()
    print("\n".join(printable(line) for line in _play_lines(summary)))
    if args.json:
        write_json(args.json, summary)
    return 0


def _play_lines(summary: dict[str, Any]) -> list[str]:
    late = summary["late_ms"]
    lines = [f"{topic:<28}{count:>8}" for topic, count in summary["sent"].items()]
    lines += [f"rejected: {reason} ({count})" for reason, count in summary["rejected"].items()]
    lines += [f"problem: {problem}" for problem in summary["problems"]]
    return [*lines, f"played {summary['recording']} in {summary['wall_s']:.1f} s; {_late_line(late)}"]


def _late_line(late_ms: dict[str, float]) -> str:
    """How late messages were sent."""
    return f"late by p50 {late_ms['p50']:.2f} ms, p99 {late_ms['p99']:.1f} ms, {late_ms['max']:.1f} ms at most"
