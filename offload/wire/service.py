"""The protocol's methods: a client's stub, and a servicer's registration at a gRPC server. No generated code."""

from __future__ import annotations

from typing import Any

from offload.wire import messages as pb
from tercel.core.errors import require

SERVICE = "inference.GRPCInferenceService"

UNARY = {
    "ServerLive": (pb.ServerLiveRequest, pb.ServerLiveResponse),
    "ServerReady": (pb.ServerReadyRequest, pb.ServerReadyResponse),
    "ModelReady": (pb.ModelReadyRequest, pb.ModelReadyResponse),
    "ServerMetadata": (pb.ServerMetadataRequest, pb.ServerMetadataResponse),
    "ModelMetadata": (pb.ModelMetadataRequest, pb.ModelMetadataResponse),
    "ModelInfer": (pb.ModelInferRequest, pb.ModelInferResponse),
    "RepositoryIndex": (pb.RepositoryIndexRequest, pb.RepositoryIndexResponse),
}
STREAM = "ModelStreamInfer"


class InferenceStub:
    """The methods as callables on a channel, grpc's or grpc.aio's; each is an attribute of its public name."""

    ServerLive: Any
    ServerReady: Any
    ModelReady: Any
    ServerMetadata: Any
    ModelMetadata: Any
    ModelInfer: Any
    RepositoryIndex: Any

    def __init__(self, channel: Any) -> None:
        for method, (request, response) in UNARY.items():
            call = channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            setattr(self, method, call)
        self.ModelStreamInfer = channel.stream_stream(
            f"/{SERVICE}/{STREAM}",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )


def add_GRPCInferenceServiceServicer_to_server(servicer: Any, server: Any) -> None:
    """Register a servicer's methods. The name and arguments are those of generated code, which hosts expect."""
    grpc = require("grpc", extra="offload")
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method),
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )
        for method, (request, response) in UNARY.items()
    }
    handlers[STREAM] = grpc.stream_stream_rpc_method_handler(
        servicer.ModelStreamInfer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelStreamInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    register = getattr(server, "add_registered_method_handlers", None)
    if register is not None:  # since grpcio 1.64, a faster way to find a method
        register(SERVICE, handlers)
