"""The verbs `tercel serve`, models behind the Open Inference Protocol, and `tercel export`, models for others."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

from tercel.core.errors import UserError
from tercel.terminal import add_verb, printable, write_json

# --- serve ---------------------------------------------------------------------------------------------------------


def add_serve(verbs: Any) -> None:
    """Declare `tercel serve`."""
    parser = add_verb(
        verbs,
        "serve",
        _serve,
        "Serve ONNX models over the Open Inference Protocol (gRPC), refusing what would be late.",
        "  tercel serve --models models\n"
        "  tercel serve --models models --listen 0.0.0.0:8001 --tls server.pem server.key --token-file token\n"
        "  tercel serve --models models --listen [::]:8001 --tls server.pem server.key --client-ca ca.pem\n"
        "models/ holds NAME.onnx or NAME/1/model.onnx, each with a .sha256 beside it if wanted, and is watched: a new\n"
        "file is served as soon as it is whole, a broken one is reported and leaves the old one in place.\n"
        "SIGTERM: what is admitted is finished, what is new is refused.\n"
        "\n"
        "replicas behind one port, on this machine or on the nodes of a Ray cluster (pip install 'tercel[ray]'):\n"
        "  tercel serve --ray --models models --replicas 1:4\n"
        "  ray start --head; ray start --address HEAD:6379      # on the first node; on each other one\n"
        "  tercel serve --ray --address auto --models /srv/models --replicas 2:16\n"
        "Tercel and the folder of models must be on every node, under the same path. launch/cloud has more.\n",
    )
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="NAME.onnx or NAME/1/model.onnx")
    parser.add_argument(
        "--listen", default="127.0.0.1:8001", metavar="HOST:PORT", help="default 127.0.0.1:8001; port 0: any free one"
    )
    parser.add_argument("--tls", type=Path, nargs=2, metavar=("CERT", "KEY"), help="the server's certificate (PEM)")
    parser.add_argument("--client-ca", type=Path, metavar="CA", help="clients need a certificate of this one (PEM)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="clients need the token that it holds")
    parser.add_argument(
        "--metrics", metavar="HOST:PORT", help="Prometheus and health over HTTP, on loopback (default: none)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="models that run at once (default: cores; with --ray 1 a replica)"
    )
    parser.add_argument("--queue", type=int, default=128, metavar="N", help="requests that wait at most (default 128)")
    parser.add_argument("--max-message-mb", type=int, default=64, metavar="N", help="larger ones are refused (64)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the account here at the end")
    parser.add_argument("--ray", action="store_true", help="as replicas in Ray, behind this one port")
    parser.add_argument("--replicas", metavar="MIN:MAX", help="with --ray: as many as the load asks for (default 1:1)")
    parser.add_argument(
        "--address", metavar="auto|HOST:PORT", help="with --ray: of a Ray that runs (default: start one)"
    )


def _serve(args: argparse.Namespace) -> int:
    from offload.server.process import ServeOptions, serve
    from offload.server.security import read_access

    if not args.ray and (args.replicas or args.address):
        raise UserError("--replicas and --address go with --ray; add it")
    threads = (1 if args.ray else os.cpu_count() or 1) if args.threads is None else args.threads
    if threads < 1 or args.queue < 1 or not 1 <= args.max_message_mb <= 1024:
        raise UserError("--threads and --queue begin at 1, --max-message-mb is in 1..1024")
    options = ServeOptions(
        models=args.models,
        listen=args.listen,
        metrics=args.metrics,
        access=read_access(tls=args.tls and tuple(args.tls), client_ca=args.client_ca, token_file=args.token_file),
        threads=threads,
        queue_limit=args.queue,
        max_message_bytes=args.max_message_mb << 20,
    )
    if args.ray:
        from offload.scale_out.process import parse_replicas, serve_replicated

        accounts = serve_replicated(options, parse_replicas(args.replicas or "1:1"), args.address, _say).accounts
    else:
        accounts = asyncio.run(serve(options, _say)).accounts
    rows = {name: account.summary() for name, account in sorted(accounts.items())}
    if args.json:
        write_json(args.json, rows)
    print(f"{'model':<24}" + "".join(f"{outcome:>11}" for outcome in _OUTCOMES))
    for name, row in rows.items():
        print(f"{printable(name):<24}" + "".join(f"{row[outcome]:>11}" for outcome in _OUTCOMES))
    return 0


def _say(line: str) -> None:
    print(printable(line), flush=True)


_OUTCOMES = ("received", "done", "refused", "cancelled", "expired", "failed")

# --- export --------------------------------------------------------------------------------------------------------


def add_export(verbs: Any) -> None:
    """Declare `tercel export WHAT`."""
    parser = add_verb(
        verbs,
        "export",
        _export,
        "Write a folder of ONNX models as the model repository of another server.",
        "  tercel export triton --models models -o repository\n"
        "  tritonserver --model-repository=repository      # then: the same clients, on its gRPC port 8001\n",
    )
    parser.add_argument("target", choices=("triton",), help="whose repository")
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="NAME.onnx or NAME/1/model.onnx")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="REPO", help="a new or empty folder")


def _export(args: argparse.Namespace) -> int:
    from offload.server.triton import export_triton

    for name in export_triton(args.models, args.output):
        print(printable(f"model: {args.output / name}"))
    return 0
