"""The protocol behind Ray Serve's own gRPC proxies: `grpc_servicer_functions: [offload.scale_out.proxy:add_service]`.

They run on every node that has a replica, open their port on every address, in clear, and ask for nothing: keep them
inside a cluster's network. See launch/cloud. A Ray that carries streams (2.60 does) gives all of one stream to one
replica; with one that does not the stream is left out, and our client turns to unary calls by itself.
"""

from __future__ import annotations

from typing import Any

from offload.wire.service import SERVICE, STREAM, UNARY
from tercel.core.errors import require


def add_service(servicer: Any, server: Any) -> None:
    """Register the methods at a proxy's server, which forwards them; their messages stay bytes until a replica."""
    grpc = require("grpc", extra="ray")
    handlers = {method: grpc.unary_unary_rpc_method_handler(getattr(servicer, method)) for method in UNARY}
    if hasattr(require("ray.serve.grpc_util", extra="ray"), "gRPCInputStream"):
        handlers[STREAM] = grpc.stream_stream_rpc_method_handler(getattr(servicer, STREAM))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
