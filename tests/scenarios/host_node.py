"""A robot's process: a graph of the suite as a managed node, led by its services until it is shut down.

python tests/scenarios/host_node.py KIND DOMAIN CONFIG RECORD_DIR GRAPH
"""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path

from tercel.hosts.graph import load_graph
from tercel.hosts.live import LiveHost
from tercel.ros.host_services import offer_node
from tercel.ros.parameter_services import use_sim_time
from tercel.ros.transport import Identity, open_transport


def main(kind: str, domain: str, config: str, record_dir: str, graph: str) -> None:
    """Offer all that a node has, and wait."""
    over = threading.Event()
    identity = Identity("tercel", "/robot1", int(domain))
    say = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    file = Path(config) if config else None
    with open_transport(kind, identity, config=file, say=say) as transport:  # type: ignore[arg-type]
        host = LiveHost(load_graph(Path(graph)), transport, namespace="/robot1", say=say)
        node = offer_node(
            host,
            transport,
            "/robot1/tercel",
            record_dir=Path(record_dir),
            own=(use_sim_time(False),),
            on_shutdown=over.set,
            say=say,
        )
        with contextlib.closing(node):
            over.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
