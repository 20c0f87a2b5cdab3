"""The servicer before clients that mean ill: what they announce, and what they never read, costs little."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest

from offload.scale_out.servicer import FleetServicer
from offload.server.engine import Engine, Refused
from offload.server.models import load_model
from offload.server.servicer import STREAM_LIMIT, InferenceServicer
from offload.wire import messages as pb
from offload.wire.tensors import put_tensors
from tests.unit import onnx_files

MS = 1_000_000


def coded_request(shape: list[int], datatype: str = "FP32", name: str = "x") -> Any:
    """One whose zlib contents are damaged, so that decoding them would be seen in the refusal."""
    request = pb.ModelInferRequest(model_name="m", id="1")
    entry = request.inputs.add(name=name, datatype=datatype, shape=shape)
    entry.parameters["tercel_codec"].string_param = "zlib"
    request.raw_input_contents.append(b"damaged")
    return request


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (coded_request([1 << 26]), "input shape is not the model's"),
        (coded_request([1 << 20, 5]), "input shape is not the model's"),
        (coded_request([1, 4], "FP64"), "input datatype is not the model's"),
        (coded_request([1, 4], "NONSENSE"), "input datatype is not the model's"),
        (coded_request([1, 4], name="z"), "input names are not the model's"),
        (coded_request([1, 4]), "zlib contents are damaged"),
    ],
)
def test_contents_that_are_coded_are_decoded_only_if_the_model_takes_what_they_announce(
    tmp_path: Path, request_: Any, reason: str
) -> None:
    async def main() -> None:
        engine = Engine(threads=1)
        engine.put_model(load_model("m", onnx_files.identity(tmp_path / "m.onnx")))
        with pytest.raises(Refused) as refusal:
            InferenceServicer(engine).submit(request_, None)
        assert (refusal.value.status, refusal.value.reason) == ("INVALID_ARGUMENT", reason)
        engine.close()

    asyncio.run(main())


class DeafClient:
    """Asks, takes back, asks again, and reads nothing: a write to it never ends."""

    def __init__(self, pairs: int) -> None:
        self.left = 2 * pairs
        self.read_ = 0

    async def read(self) -> Any:
        await asyncio.sleep(0)
        if self.left == 0:
            return grpc.aio.EOF
        self.left -= 1
        self.read_ += 1
        request = pb.ModelInferRequest(model_name="m", id=str(self.left // 2))
        if self.left % 2 == 0:
            request.parameters["tercel_cancel"].bool_param = True
            return request
        request.parameters["tercel_ack"].bool_param = True
        put_tensors(request.inputs, request.raw_input_contents, {"x": np.zeros((1, 4), np.float32)})
        return request

    async def write(self, _response: Any) -> None:
        await asyncio.get_running_loop().create_future()


def test_a_client_that_takes_all_back_and_reads_nothing_is_not_read_for_ever(tmp_path: Path) -> None:
    model: Any = load_model("m", onnx_files.identity(tmp_path / "m.onnx"))
    gate = threading.Event()
    model.took_ns = {1: MS}
    model.run_joined = lambda requests: gate.wait(10) and requests

    async def main() -> tuple[int, int]:
        engine = Engine(threads=1)
        engine.put_model(model)
        read = await read_of_deaf_client(InferenceServicer(engine))
        gate.set()
        await asyncio.wait_for(engine.drain(), 5)
        engine.close()
        assert engine.accounts["m"].under_way == 0
        return read, engine.accounts["m"].received

    read, received = asyncio.run(main())
    assert STREAM_LIMIT // 2 <= received <= STREAM_LIMIT + 1
    assert read <= 2 * STREAM_LIMIT + 2


class StuckFleet:
    """Takes requests, and has no answer to any."""

    async def infer(self, _request: Any, _timeout_ns: int | None) -> Any:
        await asyncio.get_running_loop().create_future()


def test_nor_is_it_before_replicas() -> None:
    fleet: Any = StuckFleet()
    assert asyncio.run(read_of_deaf_client(FleetServicer(fleet))) <= 2 * STREAM_LIMIT + 2


async def read_of_deaf_client(servicer: InferenceServicer) -> int:
    """How many messages are read of a client that sends four times as many requests as a stream may have."""
    client = DeafClient(pairs=4 * STREAM_LIMIT)
    stream = asyncio.ensure_future(servicer.ModelStreamInfer(client, client))
    seen = -1
    while seen != client.read_:
        seen = client.read_
        await asyncio.sleep(0.2)
    stream.cancel()
    await asyncio.gather(stream, return_exceptions=True)
    return client.read_
