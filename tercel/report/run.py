"""One replay from end to end: open, wire, run, evaluate, report. What `tercel replay` calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tercel.core.component import Models
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Message, Transforms
from tercel.hosts.charge import Charge, charge_measured, charge_nothing, charge_profile
from tercel.hosts.graph import Graph, bind, graph_files, load_graph, pick_graph
from tercel.hosts.networks import load_networks
from tercel.hosts.outputs import visible
from tercel.hosts.recording import Recording, RecordingWriter, open_recording
from tercel.hosts.replay import replay
from tercel.report.evaluate import evaluate
from tercel.report.offloading import Offloading, offload_line
from tercel.report.summary import peak_rss_mb, summarise, table

if TYPE_CHECKING:
    from perception.runtime import Backend

# Small chunks, so that a killed replay has lost a second or two of results, not a minute.
RESULT_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class ReplayOptions:
    """What the user asked for. models and remap as on the command line; charge: none, measured or a file.

    offload: where networks run in what time, and over which link; trace: another link.
    """

    recording: Path
    graph: str | None
    out: Path
    seed: int
    models: Mapping[str, str]
    remap: Mapping[str, str]
    charge: str
    threads: int
    report: bool
    command: str
    offload: Path | None = None
    trace: str | None = None
    backend: Backend = "onnxruntime"


def run_replay(options: ReplayOptions, say: Callable[[str], None], progress: Any) -> tuple[dict[str, Any], str]:
    """Replay, write result.mcap, summary.json and report.html into options.out; returns the summary and its table.

    Raises UserError for anything that the user can mend.
    """
    recording = open_recording(options.recording, verify=True)
    result_path = options.out / "result.mcap"
    if result_path.exists() and result_path.samefile(options.recording):
        raise UserError(f"{result_path} would be written over the recording itself: say --out ANOTHER_FOLDER")
    if not any(topic.count for topic in recording.topics.values()):
        raise UserError(f"{options.recording} has no ROS 2 messages: nothing to replay")
    graph, reason = _choose_graph(options, recording)
    sources = bind(graph, recording, options.remap)
    say(f"graph: {graph.name} ({reason})")
    models = _open_models(graph, options, say)
    charge = _choose_charge(options, graph)
    offloading = _offload(graph, models, recording, options)

    options.out.mkdir(parents=True, exist_ok=True)
    with RecordingWriter(result_path, chunk_bytes=RESULT_CHUNK_BYTES) as writer:
        _copy_static_transforms(recording, writer)
        account = replay(
            recording,
            graph,
            sources,
            models=offloading.models if offloading else models,
            sink=offloading.listening(_sink(writer)) if offloading else _sink(writer),
            charge=charge,
            progress=progress,
            clock=offloading.clock if offloading else None,
        )
    progress.done()

    told = {"graph_reason": reason, "charge": options.charge, "seed": options.seed, "command": options.command}
    summary = summarise(recording, graph, sources, account, told)
    summary.update({"offload": offloading.summary()} if offloading else {})
    result = open_recording(result_path)
    summary.update(evaluate(recording, result))
    summary["wall"]["peak_rss_mb"] = peak_rss_mb()
    _write_summary(options.out, summary)
    if options.report:
        from tercel.report.html import write_report

        began_s = time.perf_counter()
        write_report(options.out / "report.html", recording, result, summary)
        summary["wall"]["peak_rss_mb"] = peak_rss_mb()
        summary["wall"]["report_s"] = round(time.perf_counter() - began_s, 3)
        _write_summary(options.out, summary)
    return summary, "\n".join([table(summary), *([offload_line(summary["offload"])] if offloading else [])])


def _write_summary(out: Path, summary: Mapping[str, Any]) -> None:
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _choose_graph(options: ReplayOptions, recording: Recording) -> tuple[Graph, str]:
    if options.graph is None:
        graph = pick_graph(recording, options.remap)
        return graph, f"picked: the recording has {', '.join(sorted(graph.needed()))}"
    named = {path.stem: path for path in graph_files()}
    return load_graph(named.get(options.graph, Path(options.graph))), "as told"


def _open_models(graph: Graph, options: ReplayOptions, say: Callable[[str], None]) -> Models | None:
    networks = load_networks(graph, options.models, options.threads, options.backend, say)
    if not networks:
        return None
    from perception.runtime import LocalModels

    return LocalModels(networks)


def _offload(graph: Graph, models: Any, recording: Recording, options: ReplayOptions) -> Offloading | None:
    if options.offload is None:
        return None
    if models is None:
        raise UserError(f"graph {graph.name} runs no networks: leave --offload out, or say --graph camera")
    if options.charge != "none":
        raise UserError(f"--offload charges networks by {options.offload.name}: leave --charge out")
    return Offloading(options.offload, options.trace, graph, models, recording.start_ns, options.seed)


def _choose_charge(options: ReplayOptions, graph: Graph) -> Charge:
    if options.charge == "none":
        return charge_nothing
    if options.charge == "measured":
        return charge_measured
    return charge_profile(Path(options.charge), options.seed, [node.name for node in graph.nodes])


def _sink(writer: RecordingWriter) -> Callable[[str, int, Message], None]:
    """Write every output that others see."""

    def write(topic: str, now_ns: int, message: Message) -> None:
        for name, shown in visible(topic, message):
            writer.write(name, now_ns, shown)

    return write


def _copy_static_transforms(recording: Recording, writer: RecordingWriter) -> None:
    topic = recording.topics.get("/tf_static")
    if topic is None or topic.message_type is not Transforms:
        return
    for recorded in recording.messages(["/tf_static"]):
        try:
            writer.write("/tf_static", recorded.log_time_ns, recording.decode(recorded))
        except Rejected:
            continue  # the replay itself does not need it; a viewer shows the frames it has
