"""Offload files: the networks of one board, the ways to run each, the policy, the link and the server, read from YAML.

    policy: tercel
    lanes: 1                                   # networks that the board runs at once
    models:                                    # by the names that the graph's components use
      detector: {deadline_ms: 400, benefit: 1, edge: {ms: 150, cost: 0.02},
                 cloud: {ms: 130, cost: 0.2, upload_bytes: 40000}}
    spread: {edge: 0.05, cloud: 0.2}           # standard deviations over means
    link: {model: constant, rate_mbps: 20, rtt_ms: 40}
    server: {address: 127.0.0.1:8001}

Words and numbers are those of fleet files (`offload.fleets`). A model's benefit holds for those of its ways that name
none. Cloud times, all in, were taken on `link`; a replay runs over it, too, and a flight does not look at it.
upload_bytes is what goes up for one tensor, after the codec. Files named under `server` lie where the offload file
does. Every mistake is a UserError that names the file, the place in it and the mend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from offload.fleets import MAX_LANES
from offload.kinds import KindAt, KindSpec, Spread, make_kind
from offload.link import Link, link_from_text, load_link
from offload.policies import POLICIES
from offload.remote_access import RemoteAccess
from offload.server.security import read_token
from offload.settings import MAX_FILE_BYTES, read_settings
from offload.tasks import TaskKind
from offload.wire.addresses import split_address
from tercel.core.component import config_from_mapping
from tercel.core.errors import UserError, nearest_hint


@dataclass(frozen=True)
class ServerSpec:
    """An inference server. mode: one stream for all requests, or unary calls; the rest as in RemoteAccess."""

    address: str
    mode: Literal["stream", "unary"] = "stream"
    codec: Literal["none", "zlib", "jpeg"] = "none"
    tls: bool = False
    server_ca: str = ""
    certificate: str = ""
    key: str = ""
    token_file: str = ""


@dataclass(frozen=True)
class OffloadSetup:
    """What an offload file says. kinds: by model; server: None if the board is alone; folder: where its files lie."""

    name: str
    folder: Path
    policy: str
    kinds: Mapping[str, TaskKind]
    link: Link
    spread: Spread
    lanes: int
    window_ns: int
    server: ServerSpec | None

    def access(self) -> RemoteAccess:
        """What the server wants to see; reads the files. Raises UserError."""
        server = self.server or ServerSpec("")
        return RemoteAccess(
            tls=server.tls,
            server_ca=self._pem("server_ca", server.server_ca),
            certificate=self._pem("certificate", server.certificate),
            key=self._pem("key", server.key),
            token=read_token(self.folder / server.token_file) if server.token_file else None,
        )

    def _pem(self, key: str, name: str) -> bytes | None:
        if not name:
            return None
        path = self.folder / name
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES)
        except OSError as error:
            raise UserError(f"{self.name}: server: {key}: {path}: {error.strerror}; check the path") from None
        if b"-----BEGIN" not in data:
            raise UserError(f"{self.name}: server: {key}: {path} is no PEM file; convert it with openssl")
        return data


def read_setup(path: Path, *, link: str | None = None, seed: int = 0) -> OffloadSetup:
    """Read and check an offload file. link: instead of the file's for a replay, as `link_from_text` wants it; seed: of
    a link that is drawn. Raises UserError.
    """
    content = read_settings(path, _KNOWN, what="offload file", folder="launch/offload")
    head: _Head = config_from_mapping(_Head, {key: content[key] for key in _SCALARS & content.keys()}, where=str(path))
    spread: Spread = config_from_mapping(Spread, _mapping(content, "spread", path), where=f"{path}: spread")
    settings = _mapping(content, "link", path)
    try:
        profiled = load_link(settings, seed)
    except UserError as error:
        raise UserError(f"{path}: link: {error}") from None
    models = _mapping(content, "models", path)
    if not models:
        raise UserError(f"{path}: models is empty: name at least one")
    kinds = {name: _task_kind(path, name, value, spread, profiled) for name, value in models.items()}
    return OffloadSetup(
        name=path.name,
        folder=path.parent,
        policy=head.policy,
        kinds=kinds,
        link=profiled if link is None else link_from_text(link, seed),
        spread=spread,
        lanes=head.lanes,
        window_ns=round(head.window_s * 1e9),
        server=_server(path, content),
    )


@dataclass(frozen=True)
class _Head:
    """The file's scalars."""

    policy: str = "tercel"
    lanes: int = 1
    window_s: float = 20.0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"there is no policy {self.policy!r}; {nearest_hint(self.policy, POLICIES)}")
        if not (1 <= self.lanes <= MAX_LANES and 1 <= self.window_s <= 3600):
            raise ValueError(f"lanes must be in 1..{MAX_LANES}, window_s in 1..3600")


@dataclass(frozen=True)
class _ModelSpec(KindSpec):
    """A network. benefit: of those of its ways that name none themselves."""

    benefit: float = 1.0
    options: tuple[dict[str, Any], ...] = field(default=())


_SCALARS = {"policy", "lanes", "window_s"}
_KNOWN = (*sorted(_SCALARS), "models", "spread", "link", "server")


def _task_kind(path: Path, name: str, value: Any, spread: Spread, link: Link) -> TaskKind:
    where = f"{path}: models: {name}"
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: a mapping is wanted, not {str(value)[:80]!r}")
    spec: _ModelSpec = config_from_mapping(_ModelSpec, value, where=where)
    kind = KindSpec(
        deadline_ms=spec.deadline_ms,
        edge=_way(spec.edge, spec.benefit, where),
        cloud=_way(spec.cloud, spec.benefit, where),
        options=tuple(_way(option, spec.benefit, where) for option in spec.options),
        qoe_bonus=spec.qoe_bonus,
        qoe_target=spec.qoe_target,
    )
    for place, option in (("cloud", kind.cloud), *((str(one.get("place")), one) for one in kind.options)):
        if option and place != "edge" and not option.get("upload_bytes"):
            raise UserError(f"{where}: {place}: say upload_bytes, what goes up the link for one tensor")
    return make_kind(KindAt(name, kind, link, where), spread, 0)


def _way(value: Any, benefit: float, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: a way to run it is a mapping, not {str(value)[:80]!r}")
    return {"benefit": benefit, **value} if value else {}


def _server(path: Path, content: Mapping[str, Any]) -> ServerSpec | None:
    value = _mapping(content, "server", path)
    if not value:
        return None
    server: ServerSpec = config_from_mapping(ServerSpec, value, where=f"{path}: server")
    try:
        split_address(server.address, "address")
    except UserError as error:
        raise UserError(f"{path}: server: {error}") from None
    return server


def _mapping(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: {key}: a mapping is wanted, not {str(value)[:80]!r}")
    return value
