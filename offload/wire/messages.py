"""Message classes of the protocol, built at import from the committed descriptor.

Not protoc's Python code: that refuses a protobuf older than the one it was made with. And in a pool of their own, so
that tritonclient, whose messages have the same names, can live in the same process.
"""

from __future__ import annotations

import base64
from typing import Any

from offload.wire.descriptor import BASE64
from tercel.core.errors import require

_pools = require("google.protobuf.descriptor_pool", extra="offload")
_descriptors = require("google.protobuf.descriptor_pb2", extra="offload")
_factory = require("google.protobuf.message_factory", extra="offload")
_message = require("google.protobuf.message", extra="offload")

POOL = _pools.DescriptorPool()
for _file in _descriptors.FileDescriptorSet.FromString(base64.b64decode(BASE64)).file:
    POOL.AddSerializedFile(_file.SerializeToString())

DecodeError: type[Exception] = _message.DecodeError


def _class(name: str) -> Any:
    return _factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


ServerLiveRequest = _class("ServerLiveRequest")
ServerLiveResponse = _class("ServerLiveResponse")
ServerReadyRequest = _class("ServerReadyRequest")
ServerReadyResponse = _class("ServerReadyResponse")
ModelReadyRequest = _class("ModelReadyRequest")
ModelReadyResponse = _class("ModelReadyResponse")
ServerMetadataRequest = _class("ServerMetadataRequest")
ServerMetadataResponse = _class("ServerMetadataResponse")
ModelMetadataRequest = _class("ModelMetadataRequest")
ModelMetadataResponse = _class("ModelMetadataResponse")
ModelInferRequest = _class("ModelInferRequest")
ModelInferResponse = _class("ModelInferResponse")
ModelStreamInferResponse = _class("ModelStreamInferResponse")
RepositoryIndexRequest = _class("RepositoryIndexRequest")
RepositoryIndexResponse = _class("RepositoryIndexResponse")
