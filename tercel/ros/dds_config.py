"""Where Cyclone DDS finds its peers: our default, a file, or CYCLONEDDS_URI; and one domain for all who share it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from cyclonedds.core import DDSException
from cyclonedds.domain import Domain

from tercel.core.errors import UserError

# This machine alone, by unicast: launch/dds/cyclonedds.xml says the same with its reasons, and how to open it.
DEFAULT = """<CycloneDDS><Domain Id="any">
<General>
  <Interfaces><NetworkInterface name="lo" multicast="false"/></Interfaces><AllowMulticast>false</AllowMulticast>
  <MaxMessageSize>65500B</MaxMessageSize><FragmentSize>64000B</FragmentSize>
</General>
<Discovery>
  <ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>60</MaxAutoParticipantIndex>
  <Peers><Peer address="127.0.0.1"/></Peers>
</Discovery>
<Internal>
  <SocketReceiveBufferSize min="default" max="16MB"/><Watermarks><WhcHigh>16MB</WhcHigh></Watermarks>
</Internal>
</Domain></CycloneDDS>"""

# Cyclone has one configuration for each domain of a process; the first who joins decides.
_DOMAINS: dict[int, tuple[Domain, str, int]] = {}  # domain: itself, its configuration, how many use it
_LOCK = threading.Lock()


def read_config(path: Path | None) -> str:
    """The configuration in force, as Cyclone takes it: XML, or a list of files as CYCLONEDDS_URI holds it.

    Raises UserError if the file cannot be read.
    """
    if path is None:
        return os.environ.get("CYCLONEDDS_URI") or DEFAULT
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the Cyclone DDS configuration cannot be read: {error}") from None


def join_domain(number: int, config: str) -> None:
    """Open a domain, or share the one that is open. Raises UserError for a configuration that Cyclone refuses."""
    with _LOCK:
        if number in _DOMAINS:
            domain, its_config, users = _DOMAINS[number]
            if its_config != config:
                raise UserError(f"DDS domain {number} is open in this process with another configuration")
            _DOMAINS[number] = domain, config, users + 1
            return
        try:
            opened = Domain(number, config.encode("ascii", "xmlcharrefreplace").decode())
        except DDSException as error:
            raise UserError(f"Cyclone DDS refuses its configuration: {error}") from None
        _DOMAINS[number] = opened, config, 1


def leave_domain(number: int) -> None:
    """The opposite of join_domain; who leaves last closes it."""
    with _LOCK:
        domain, config, users = _DOMAINS.pop(number)
        if users > 1:
            _DOMAINS[number] = domain, config, users - 1
        else:
            delete(domain)


def delete(entity: Any) -> None:
    """Delete a DDS entity now, and not when the last reference to it goes. Twice is the same as once."""
    entity.__del__()
