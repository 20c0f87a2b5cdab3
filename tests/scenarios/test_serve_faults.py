"""A board and its server on real sockets, while one of them, or the link, fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from offload.executors import TaskTooLate
from offload.link import ConstantLink
from offload.link_proxy import LinkProxy
from offload.server.engine import Engine
from offload.server.models import TensorSpec
from offload.server.servicer import InferenceServicer
from offload.tasks import Task
from offload.wire import messages as pb
from offload.wire.service import add_GRPCInferenceServiceServicer_to_server
from tests.scenarios.serving import CLOCK, Client, Relay, Served, client_of, kind_of
from tests.unit import onnx_files

X = np.ones((1, 4), np.float32)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    onnx_files.doubling(folder / "twice.onnx")
    onnx_files.slow(folder / "slow.onnx", products=20)
    onnx_files.picking(folder / "pick.onnx")
    return folder


@pytest.mark.parametrize("stream", [True, False])
def test_many_requests_under_way_get_their_own_answers(models: Path, stream: bool) -> None:
    async def main(address: str) -> None:
        async with client_of(address, stream=stream) as client:
            kind = kind_of("twice", 5000)
            rows = [np.full((1, 4), value, np.float32) for value in range(100)]
            asked = [client.executor.run(Task(0, kind, CLOCK.now_ns), kind.options[0], row) for row in rows]
            for row, ran in zip(rows, await asyncio.gather(*asked), strict=True):
                assert np.array_equal(ran.outputs["y"], 2 * row)
                assert ran.upload_bytes == row.nbytes
                assert ran.server_ns > 0
                assert ran.rtt_ns > 0
            client.ended = [(0.0, "done")] * 100

    with Served(models) as server:
        asyncio.run(main(server.address))
        assert server.terminate()["twice"]["done"] == 100


@pytest.mark.parametrize("stream", [True, False])
def test_a_server_killed_and_restarted_is_used_again_and_nothing_counts_twice(models: Path, stream: bool) -> None:
    async def main(first: Served) -> None:
        async with client_of(first.address, stream=stream) as client:
            kind = kind_of("twice", 300)
            running = asyncio.ensure_future(client.stream_of(kind, X, 0.01, 60))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(first.kill)
            killed_s = time.monotonic()
            await asyncio.sleep(1)
            second = await asyncio.to_thread(Served, models, listen=first.address)
            back_s = time.monotonic()
            with second:
                while "done" not in client.fates(back_s):
                    assert time.monotonic() < back_s + 2, client.fates(killed_s)
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.3)
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                await asyncio.sleep(0.4)  # those under way end
            down = [fate for at_s, fate in client.ended if killed_s + 0.1 < at_s < back_s - 0.2]
            assert set(down) <= {"unavailable", "connection lost"}
            assert len(down) > 20
            assert client.overrun_s < 0.2
            assert client.executor.counts.connections == 2
            assert client.executor.counts.duplicate == client.executor.counts.unknown == 0

    with Served(models) as server:
        asyncio.run(main(server))


@pytest.mark.parametrize(("stream", "cut_for_s"), [(True, 10), (False, 5)])
def test_a_link_that_is_cut_keeps_nobody_waiting_and_is_in_use_two_seconds_after_its_return(
    models: Path, stream: bool, cut_for_s: float
) -> None:
    async def main(address: str) -> None:
        async with Relay(address) as link, client_of(link.address, stream=stream) as client:
            kind = kind_of("twice", 300)
            running = asyncio.ensure_future(client.stream_of(kind, X, 0.02, cut_for_s + 4))
            await asyncio.sleep(1)
            link.cut()
            cut_s = time.monotonic()
            await asyncio.sleep(cut_for_s)
            link.mend()
            mended_s = time.monotonic()
            await running
            assert set(client.fates(0)[:20]) == {"done"}
            during = [fate for at_s, fate in client.ended if cut_s + 0.1 < at_s < mended_s]
            assert set(during) <= {"late", "connection lost", "unavailable"}
            assert during.count("unavailable") > 50  # told at once, once the loss was noticed
            first_s = next(at_s for at_s, fate in client.ended if at_s > mended_s and fate == "done")
            assert first_s - mended_s < 2
            assert set(client.fates(first_s)) <= {"done", "unavailable"}
            assert client.fates(first_s).count("done") > 20
            assert client.overrun_s < 0.2

    with Served(models) as server:
        asyncio.run(main(server.address))


@pytest.mark.parametrize("stream", [True, False])
def test_an_upload_that_takes_longer_than_a_silence_may_is_no_lost_connection(tmp_path: Path, stream: bool) -> None:
    large = np.ones((1, 1_000_000), np.float32)  # 3 s at 10.7 Mbit/s, during which no ping is answered
    onnx_files.doubling(tmp_path / "twice.onnx", (1, large.size))
    slow = ConstantLink(rate_bps=10_700_000, round_trip_ns=20_000_000)

    async def main(address: str) -> None:
        host, port = address.rsplit(":", 1)
        async with (
            LinkProxy(slow, host, int(port)) as link,
            client_of(f"127.0.0.1:{link.port}", stream=stream, silence_s=0.5) as client,
        ):
            assert await client.run(kind_of("twice", 15_000), {"x": large}) == "done"
            assert await client.run(kind_of("twice", 700), {"x": large}) == "late"  # and its bytes are still under way
            assert await client.run(kind_of("twice", 15_000), {"x": large}) == "done"
            assert client.executor.counts.connections == 1

    with Served(tmp_path) as server:
        asyncio.run(main(server.address))


@pytest.mark.parametrize("stream", [True, False])
def test_patient_tasks_are_lost_when_the_link_is_and_not_cancelled(models: Path, stream: bool) -> None:
    async def main(address: str) -> None:
        async with Relay(address) as link, client_of(link.address, stream=stream) as client:
            assert await client.run(kind_of("twice", 1000), X) == "done"
            link.cut()
            running = [asyncio.ensure_future(client.run(kind_of("twice", 30_000), {"x": X})) for _ in range(5)]
            unknown = asyncio.ensure_future(client.run(kind_of("slow", 30_000), np.ones((1, 1), np.float32)))
            assert await asyncio.wait_for(asyncio.gather(*running, unknown), 5) == ["connection lost"] * 6

    with Served(models) as server:
        asyncio.run(main(server.address))


def test_a_task_taken_back_frees_its_place_in_the_servers_queue(models: Path) -> None:
    async def main(address: str, stream: bool) -> None:
        async with client_of(address, stream=stream) as client:
            kind = kind_of("slow", 30_000)
            one = np.ones((1, 1), np.float32)
            asked = [
                asyncio.ensure_future(client.executor.run(Task(0, kind, CLOCK.now_ns), kind.options[0], one))
                for _ in range(8)
            ]
            await asyncio.sleep(0.05)
            for task in asked[2:]:
                task.cancel()
            ended = await asyncio.gather(*asked, return_exceptions=True)
            assert [isinstance(one, asyncio.CancelledError) for one in ended] == [False] * 2 + [True] * 6
            assert client.executor.counts.cancelled == 6
            await asyncio.sleep(0.3)
            assert client.executor.counts.unknown == client.executor.counts.duplicate == 0
            client.ended = [(0.0, "done")] * 2

    with Served(models, "--threads", 1) as server:
        for stream in (True, False):
            asyncio.run(main(server.address, stream))
        account = server.terminate()["slow"]
    assert account["cancelled"] >= 10  # one may have been running already, each time
    assert account["runs"] <= 6


def test_a_model_that_fails_in_mid_run_loses_those_tasks_only(models: Path) -> None:
    async def main(address: str) -> None:
        async with client_of(address) as client:
            kind = kind_of("pick", 5000)
            fates = [await client.run(kind, np.array([number], np.int64)) for number in (1, 99, 2, -50, 3)]
            assert fates == ["done", "the model failed at the server"] * 2 + ["done"]
            wrong = [
                (kind_of("missing", 1000), X, "the server has no such model"),
                (kind_of("twice", 1000), X[:, :2], "the server does not take these tensors"),
                (kind_of("twice", 1000), {"z": X}, "the server does not take these tensors"),
            ]
            for kind, payload, reason in wrong:
                assert await client.run(kind, payload) == reason

    with Served(models) as server:
        asyncio.run(main(server.address))
        assert server.terminate()["pick"]["failed"] == 2


def test_a_drain_finishes_what_is_admitted_and_refuses_what_is_new(models: Path) -> None:
    async def main(server: Served) -> None:
        async with client_of(server.address) as client:
            kind, one = kind_of("slow", 10_000), np.ones((1, 1), np.float32)
            admitted = [asyncio.ensure_future(client.run(kind, one)) for _ in range(5)]
            await asyncio.sleep(0.1)
            server.process.terminate()
            await asyncio.to_thread(server.said, "draining")
            assert await client.run(kind_of("twice", 1000), X) in ("the server drains", "unavailable")
            assert await asyncio.gather(*admitted) == ["done"] * 5
            await asyncio.to_thread(server.process.wait, 10)
            assert server.process.returncode == 0

    with Served(models, "--threads", 1) as server:
        asyncio.run(main(server))


def test_the_link_carries_what_the_codec_makes_of_a_tensor(models: Path) -> None:
    async def main(address: str) -> None:
        async with client_of(address, codec="zlib") as client:
            kind, zeros = kind_of("twice", 5000), np.zeros((500, 4), np.float32)
            ran = await client.executor.run(Task(0, kind, CLOCK.now_ns), kind.options[0], zeros)
            client.ended = [(0.0, "done")]
            assert ran.upload_bytes < zeros.nbytes / 20
            assert np.array_equal(ran.outputs["y"], zeros)

    with Served(models) as server:
        asyncio.run(main(server.address))


# --- servers of the test's own making ------------------------------------------------------------------------------


class SlowingModel:
    """y = x after took_s, which the test changes."""

    name, batchable, batched = "m", False, False
    inputs = outputs = (TensorSpec("x", "FP32", (1, 4)),)

    def __init__(self) -> None:
        self.took_s = 0.01
        self.took_ns = {1: 10_000_000}

    def check(self, tensors: Any) -> None:
        pass

    def run_joined(self, requests: Any) -> Any:
        time.sleep(self.took_s)
        return [{"y": request["x"]} for request in requests]


async def with_server(servicer: Any, use: Callable[[str], Awaitable[None]]) -> None:
    server = grpc.aio.server()
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        await use(f"127.0.0.1:{port}")
    finally:
        await server.stop(None)


def test_a_cloud_ten_times_slower_refuses_instead_of_being_late_and_is_back_when_it_is_fast_again() -> None:
    model = SlowingModel()
    engine = Engine(threads=1)
    engine.put_model(model)  # type: ignore[arg-type]

    async def use(address: str) -> None:
        async with client_of(address) as client:
            kind = kind_of("m", 80)
            await client.stream_of(kind, X, 0.03, 1)
            assert client.fates().count("done") > 0.8 * len(client.ended)
            model.took_s = 0.1
            slow_s = time.monotonic()
            await client.stream_of(kind, X, 0.03, 4)
            late = client.fates(slow_s).count("late")
            refused = client.fates(slow_s).count("refused by the server")
            assert late < 15  # those admitted before it showed, then those that try whether it still is
            assert refused > 80
            model.took_s = 0.01
            fast_s = time.monotonic()
            await client.stream_of(kind, X, 0.03, 6)
            assert "done" in client.fates(fast_s)
            first_s = next(at_s for at_s, fate in client.ended if at_s > fast_s and fate == "done")
            assert first_s < fast_s + 2
            assert client.fates(fast_s + 4.5).count("done") > 0.8 * len(client.fates(fast_s + 4.5))
            assert client.overrun_s < 0.05

    async def main() -> None:
        try:
            await with_server(InferenceServicer(engine), use)
        finally:
            engine.close()

    asyncio.run(main())


class Scripted(InferenceServicer):
    """A server whose stream answers as the test's script says."""

    def __init__(self, script: Callable[[Any, Any], Awaitable[None]], extensions: tuple[str, ...] = ()) -> None:
        super().__init__(Engine(threads=1))
        self._script = script
        self._named = extensions

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(name="scripted", extensions=self._named)

    async def ModelStreamInfer(self, requests: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await self._script(request, context)


def answer_to(request: Any, value: float, request_id: str | None = None) -> Any:
    reply = pb.ModelStreamInferResponse()
    response = reply.infer_response
    response.id = request.id if request_id is None else request_id
    response.outputs.add(name="y", datatype="FP32", shape=(1,))
    response.raw_output_contents.append(np.float32(value).tobytes())
    return reply


def value_of(request: Any) -> float:
    return float(np.frombuffer(request.raw_input_contents[0], np.float32)[0])


async def ask_values(client: Client, values: range, deadline_ms: float = 3000) -> list[float]:
    kind = kind_of("m", deadline_ms)
    asked = [
        client.executor.run(Task(v, kind, CLOCK.now_ns), kind.options[0], {"x": np.array([v], np.float32)})
        for v in values
    ]
    ran = await asyncio.gather(*asked)
    client.ended += [(0.0, "done")] * len(ran)
    return [float(one.outputs["y"][0]) for one in ran]


def test_answers_that_come_twice_in_any_order_or_to_nothing_are_counted_and_survived() -> None:
    held: list[Any] = []

    async def script(request: Any, context: Any) -> None:
        held.append(request)
        if len(held) == 10:
            for one in np.random.default_rng(0).permutation(10):
                await context.write(answer_to(held[one], value_of(held[one]) * 2))
                await context.write(answer_to(held[one], -1))  # a second one, and wrong
                await context.write(answer_to(held[one], -1, request_id="nobody"))
            held.clear()

    async def use(address: str) -> None:
        async with client_of(address) as client:
            for start in (0, 10):
                values = range(start, start + 10)
                assert await ask_values(client, values) == [2 * value for value in values]
            await asyncio.sleep(0.1)
            counts = client.executor.counts
            assert (counts.sent, counts.received, counts.duplicate, counts.unknown) == (20, 20, 20, 20)
            assert counts.lost == counts.stale == 0

    asyncio.run(with_server(Scripted(script), use))


@pytest.mark.parametrize("cancels", [True, False])
def test_an_answer_to_a_task_that_was_taken_back_is_stale_and_changes_nothing(cancels: bool) -> None:
    seen: list[Any] = []

    async def script(request: Any, context: Any) -> None:
        seen.append(request)
        if "tercel_cancel" not in request.parameters and value_of(request) >= 0:
            await context.write(answer_to(request, value_of(request)))

    async def use(address: str) -> None:
        async with client_of(address) as client:
            kind = kind_of("m", 300)
            payload = {"x": np.array([-1], np.float32)}
            taken_back = asyncio.ensure_future(
                client.executor.run(Task(0, kind, CLOCK.now_ns), kind.options[0], payload)
            )
            late = asyncio.ensure_future(client.executor.run(Task(1, kind, CLOCK.now_ns), kind.options[0], payload))
            await asyncio.sleep(0.1)
            taken_back.cancel()
            with pytest.raises(TaskTooLate) as too_late:
                await late
            assert too_late.value.sent
            client.ended.append((0.0, "late"))
            await asyncio.sleep(0.1)
            ids = [request.id for request in seen if "tercel_cancel" not in request.parameters]
            cancelled = [request.id for request in seen if "tercel_cancel" in request.parameters]
            assert cancelled == (ids if cancels else [])
            late_ids.extend(ids)
            assert await ask_values(client, range(5, 6)) == [5]
            await asyncio.sleep(0.1)
            counts = client.executor.counts
            assert (counts.cancelled, counts.expired, counts.received) == (1, 1, 1)
            assert (counts.stale, counts.duplicate, counts.unknown) == (2, 0, 0)

    late_ids: list[str] = []

    class Late(Scripted):
        async def ModelStreamInfer(self, requests: Any, context: Any) -> None:
            while (request := await context.read()) is not grpc.aio.EOF:
                for request_id in late_ids:
                    await context.write(answer_to(request, 7, request_id))
                await self._script(request, context)

    servicer = Late(script, ("tercel_cancel",) if cancels else ())
    asyncio.run(with_server(servicer, use))


def test_answers_that_cannot_be_read_are_lost_tasks() -> None:
    async def script(request: Any, context: Any) -> None:
        reply = answer_to(request, 1)
        value = value_of(request)
        if value == 0:
            reply.infer_response.raw_output_contents[0] = b"\0" * 3
        elif value == 1:
            reply.infer_response.outputs[0].shape[:] = [1 << 40]
        elif value == 2:
            reply.error_message = "out of luck"
        await context.write(reply)

    async def use(address: str) -> None:
        async with client_of(address) as client:
            kind = kind_of("m", 1000)
            fates = [await client.run(kind, {"x": np.array([value], np.float32)}) for value in range(4)]
            assert fates == ["no answer of use"] * 3 + ["done"]
            assert client.executor.counts.lost == 3

    asyncio.run(with_server(Scripted(script), use))


def test_a_server_without_the_stream_is_asked_by_unary_calls() -> None:
    class Plain(InferenceServicer):
        async def ModelStreamInfer(self, requests: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no stream here")

    engine = Engine(threads=1)
    engine.put_model(SlowingModel())  # type: ignore[arg-type]

    async def use(address: str) -> None:
        async with client_of(address) as client:
            kind = kind_of("m", 1000)
            await asyncio.sleep(1)
            assert [await client.run(kind, X) for _ in range(3)] == ["done"] * 3

    asyncio.run(with_server(Plain(engine), use))
    engine.close()


def test_nobody_waits_for_a_server_that_takes_everything_and_answers_nothing() -> None:
    async def script(request: Any, context: Any) -> None:
        pass

    async def use(address: str) -> None:
        async with client_of(address) as client:
            assert [await client.run(kind_of("m", 100), {"x": X}) for _ in range(3)] == ["late"] * 3
            assert client.overrun_s < 0.05

    asyncio.run(with_server(Scripted(script), use))
