"""Where a zenoh session's configuration comes from, and ours where nobody gives one.

As rmw_zenoh: a file named by ZENOH_SESSION_CONFIG_URI, then single settings of ZENOH_CONFIG_OVERRIDE
('key=value;key=value'). A file given to us directly comes before the environment's.

Ours is rmw_zenoh's own default (peer, router on this machine at port 7447 if there is one, listening on loopback
alone, gossip) and two things more:

- Peers on this machine find each other without a router, by scouting on loopback.
- Shared memory is off. It halves latency and CPU of images (bench_zenoh.py), but with zenoh 1.10 a reader keeps the
  memory of each sender that ever was, 18 MB a restart, until it ends itself. A file may switch it on:
  transport: { shared_memory: { enabled: true } }.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlparse

import zenoh

from tercel.core.errors import UserError

FILE_VARIABLES = ("ZENOH_SESSION_CONFIG_URI", "ZENOH_CONFIG_URI")
OVERRIDE_VARIABLE = "ZENOH_CONFIG_OVERRIDE"

DEFAULT = """{
  mode: "peer",
  connect: { endpoints: ["tcp/127.0.0.1:7447"], timeout_ms: -1, exit_on_failure: false },
  listen: { endpoints: ["tcp/127.0.0.1:0"] },
  scouting: {
    multicast: { enabled: true, interface: "lo", ttl: 0, autoconnect: { peer: ["router", "peer"] } },
    gossip: { enabled: true },
  },
  timestamping: { enabled: true },
  queries_default_timeout: 60000,
  transport: {
    link: { rx: { max_message_size: 268435456 } },
    shared_memory: { enabled: false },
  },
}"""


def load_config(path: Path | None) -> zenoh.Config:
    """The configuration of a session. Raises UserError for a file that is missing or wrong."""
    path = path or _path_of_environment()
    try:
        config: zenoh.Config = zenoh.Config.from_json5(DEFAULT) if path is None else zenoh.Config.from_file(path)
    except zenoh.ZError as error:
        raise UserError(f"{path}: not a zenoh configuration: {_one_line(error)}") from None
    for setting in filter(None, os.environ.get(OVERRIDE_VARIABLE, "").split(";")):
        key, _, value = setting.partition("=")
        try:
            config.insert_json5(key.strip(), value)
        except zenoh.ZError as error:
            raise UserError(f"{OVERRIDE_VARIABLE}: {setting!r}: {_one_line(error)}") from None
    return config


def _path_of_environment() -> Path | None:
    for variable in FILE_VARIABLES:
        text = os.environ.get(variable, "")
        if text:
            url = urlparse(text)
            return Path(unquote(url.path) if url.scheme == "file" else text)
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
