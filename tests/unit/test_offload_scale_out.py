"""A fleet over replicas that are objects here: deadlines, deaths, refusals, and an account in which all ends once."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.scale_out.process import parse_replicas
from offload.scale_out.replica import Encoded, Replica, ReplicaOptions
from offload.server.engine import Refused
from offload.wire import messages as pb
from offload.wire.tensors import get_tensors, put_tensors
from tercel.core.errors import UserError
from tests.unit import onnx_files

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray, about itself
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'tercel[ray]'"
)
TOKEN = "a-token-of-tests-0123456789"  # noqa: S105


def request_of(model: str = "double", **parameters: int) -> Any:
    request = pb.ModelInferRequest(model_name=model, id="7")
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    put_tensors(request.inputs, request.raw_input_contents, {"x": np.ones((1, 4), np.float32)}, "none")
    return request


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx_files.doubling(tmp_path / "double.onnx")
    return tmp_path


# --- a replica -----------------------------------------------------------------------------------------------------


def test_a_replica_answers_bytes_with_bytes_and_says_who_it_is(folder: Path) -> None:
    async def main() -> None:
        replica = Replica(ReplicaOptions(str(folder)))
        status, data = await replica.infer(request_of().SerializeToString(), 10**10)
        assert status == "OK"
        response = pb.ModelInferResponse.FromString(data)
        outputs = get_tensors(response.outputs, response.raw_output_contents)
        assert outputs["y"].tolist() == [[2, 2, 2, 2]]
        assert response.parameters["tercel_replica"].string_param == replica.name
        assert await replica.infer(request_of("missing").SerializeToString(), None) == (
            "NOT_FOUND",
            "no such model or version",
        )
        assert (await replica.infer(request_of().SerializeToString(), 0))[0] == "RESOURCE_EXHAUSTED"
        assert await replica.infer(b"\xff\xff", None) == ("INVALID_ARGUMENT", "the message cannot be read")

    asyncio.run(main())


def test_a_replica_without_models_does_not_start_and_one_that_loses_them_is_not_healthy(folder: Path) -> None:
    async def main() -> None:
        replica = Replica(ReplicaOptions(str(folder)))
        await replica.check_health()
        (folder / "double.onnx").unlink()
        with pytest.raises(RuntimeError, match="no model can be served"):
            await healthy_until_now(replica)

    asyncio.run(main())
    with pytest.raises(UserError, match="no model in it can be served"):
        Replica(ReplicaOptions(str(folder)))
    (folder / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"broken\.onnx: not a model"):
        Replica(ReplicaOptions(str(folder)))


async def healthy_until_now(replica: Replica) -> None:
    for _ in range(100):
        await replica.check_health()
        await asyncio.sleep(0.02)


class ProxyContext:
    """What Ray's proxies hand to a method."""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self.metadata = metadata
        self.code: Any = None
        self.details = ""

    def invocation_metadata(self) -> Any:
        return self.metadata

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


async def served(*requests: bytes) -> Any:
    for request in requests:
        yield request


@pytest.mark.parametrize("given_token", [None, "Bearer another-token-0123456789", f"Bearer {TOKEN}x", TOKEN])
def test_behind_rays_proxies_each_replica_asks_for_the_token(folder: Path, given_token: str | None) -> None:
    (folder / "token").write_text(TOKEN)

    async def main() -> None:
        replica: Any = Replica(ReplicaOptions(str(folder), token_file=str(folder / "token")))
        data = request_of().SerializeToString()
        known = ProxyContext(("authorization", f"Bearer {TOKEN}"))
        assert len((await replica.ModelInfer(data, known)).SerializeToString()) > 0
        assert known.code is None
        stranger = ProxyContext(*([("authorization", given_token)] if given_token else []))
        assert await replica.ModelInfer(data, stranger) == Encoded(b"")
        assert stranger.code.name == "UNAUTHENTICATED"
        assert [one async for one in replica.ModelStreamInfer(served(data), stranger)] == [Encoded(b"")]

    asyncio.run(main())


def test_behind_rays_proxies_a_stream_answers_each_of_its_requests(folder: Path) -> None:
    async def main() -> None:
        replica = Replica(ReplicaOptions(str(folder)))
        requests = []
        for number in range(300):
            request = request_of("double" if number % 3 else "missing")
            request.id = str(number)
            requests.append(request.SerializeToString())
        answers = [one async for one in replica.ModelStreamInfer(served(*requests), ProxyContext())]
        messages = [pb.ModelStreamInferResponse.FromString(one.SerializeToString()) for one in answers]
        assert sorted(int(one.infer_response.id) for one in messages) == list(range(300))
        assert all(bool(one.error_message) == (int(one.infer_response.id) % 3 == 0) for one in messages)

    asyncio.run(main())


# --- a fleet -------------------------------------------------------------------------------------------------------


class Sent:
    """A response of Ray's: awaitable, and can be cancelled."""

    def __init__(self, work: Awaitable[Any]) -> None:
        self._work = asyncio.ensure_future(work)
        self.cancelled = False

    def __await__(self) -> Any:
        return self._work.__await__()

    def cancel(self) -> None:
        self.cancelled = True
        self._work.cancel()


class Handle:
    """Of a deployment: each call of infer takes the next of these behaviours, and then the last."""

    def __init__(self, *behaviours: Callable[[bytes, int], Awaitable[Any]]) -> None:
        self._behaviours = list(behaviours)
        self.sent: list[Sent] = []

    @property
    def infer(self) -> Handle:
        return self

    @property
    def describe(self) -> Handle:
        return self

    def remote(self, data: bytes, timeout_ns: int) -> Sent:
        behaviour = self._behaviours.pop(0) if len(self._behaviours) > 1 else self._behaviours[0]
        self.sent.append(Sent(behaviour(data, timeout_ns)))
        return self.sent[-1]


def answer_of(data: bytes) -> bytes:
    response = pb.ModelInferResponse(id=pb.ModelInferRequest.FromString(data).id)
    response.parameters["tercel_replica"].string_param = "1@here"
    return bytes(response.SerializeToString())


async def answers(data: bytes, _: int) -> Any:
    await asyncio.sleep(0)
    return "OK", answer_of(data)


async def dies(*_: Any) -> Any:
    from ray.exceptions import ActorDiedError

    raise ActorDiedError


async def is_full(*_: Any) -> Any:
    from ray.serve.exceptions import BackPressureError

    raise BackPressureError(num_queued_requests=1, max_queued_requests=1)


async def hangs(*_: Any) -> Any:
    await asyncio.sleep(60)


async def fails(*_: Any) -> Any:
    from ray.exceptions import RaySystemError

    raise RaySystemError("gone")


async def refuses(*_: Any) -> Any:
    return "RESOURCE_EXHAUSTED", "would not be done in time"


async def expires(*_: Any) -> Any:
    return "DEADLINE_EXCEEDED", "deadline passed in the queue"


def fleet_of(*behaviours: Any, limit: int = 100) -> Any:
    from offload.scale_out.fleet import Fleet

    return Fleet(Handle(*behaviours), limit=limit)


@needs_ray
@pytest.mark.parametrize(
    ("behaviours", "outcome", "retried"),
    [
        ((answers,), "done", 0),
        ((dies, answers), "done", 1),
        ((dies, dies), "INTERNAL: the replica died", 1),
        ((dies, refuses), "RESOURCE_EXHAUSTED: would not be done in time", 1),
        ((is_full,), "RESOURCE_EXHAUSTED: the queue is full", 0),
        ((expires,), "DEADLINE_EXCEEDED: deadline passed in the queue", 0),
        ((hangs,), "DEADLINE_EXCEEDED: deadline passed in the queue", 0),
        ((fails,), "INTERNAL: no replica answers", 0),
    ],
)
def test_each_fate_of_a_request_is_told_and_counted_once(behaviours: Any, outcome: str, retried: int) -> None:
    async def main() -> None:
        fleet = fleet_of(*behaviours)
        try:
            response = await fleet.infer(request_of(), 50_000_000)
            assert response.id == "7"
            told = "done"
        except Refused as refusal:
            told = f"{refusal.status}: {refusal.reason}"
        assert told == outcome
        assert fleet.retried == retried
        (account,) = fleet.accounts.values()
        assert account.received == 1
        assert account.under_way == 0
        assert account.done == (told == "done")
        assert account.expired == told.startswith("DEADLINE")
        assert sum(account.failed.values()) == told.startswith("INTERNAL")

    asyncio.run(main())


@needs_ray
def test_the_sooner_of_the_calls_deadline_and_the_requests_own_counts() -> None:
    seen: list[int] = []

    async def notes(data: bytes, timeout_ns: int) -> Any:
        seen.append(timeout_ns)
        return "OK", answer_of(data)

    async def main() -> None:
        fleet = fleet_of(notes)
        await fleet.infer(request_of(timeout=1000), 10**9)
        await fleet.infer(request_of(timeout=2_000_000), 10**9)
        await fleet.infer(request_of(), None)

    asyncio.run(main())
    assert 0 < seen[0] <= 1_000_000
    assert 1_000_000 < seen[1] <= 10**9
    assert 59 * 10**9 < seen[2] <= 60 * 10**9


@needs_ray
def test_who_gives_up_takes_the_request_back_from_its_replica() -> None:
    async def main() -> None:
        fleet = fleet_of(hangs)
        asking = asyncio.ensure_future(fleet.infer(request_of(), 10**10))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        with pytest.raises(Refused):
            await fleet.infer(request_of(), 10_000_000)
        assert [sent.cancelled for sent in fleet._run.sent] == [True, True]
        (account,) = fleet.accounts.values()
        assert (account.cancelled, account.expired, account.under_way) == (1, 1, 0)

    asyncio.run(main())


@needs_ray
@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([answers, dies, is_full, hangs, fails, refuses, expires]), st.booleans()), max_size=30
    ),
    st.integers(1, 10),
)
def test_whatever_happens_every_request_ends_once(fates: list[tuple[Any, bool]], limit: int) -> None:
    async def main() -> None:
        fleet = fleet_of(*[behaviour for behaviour, _ in fates], answers, limit=limit)
        asking = [asyncio.ensure_future(fleet.infer(request_of(), 20_000_000)) for _ in fates]
        await asyncio.sleep(0)
        for task, (_, given_up) in zip(asking, fates, strict=True):
            if given_up:
                task.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(one, (Refused, asyncio.CancelledError, pb.ModelInferResponse)) for one in ended)
        await asyncio.wait_for(fleet.drain(), 1)
        with pytest.raises(Refused, match="the server drains"):
            await fleet.infer(request_of(), 10**9)
        (account,) = fleet.accounts.values()
        assert account.received == len(fates) + 1
        assert account.under_way == 0
        assert account.done == sum(isinstance(one, pb.ModelInferResponse) for one in ended)
        assert account.done == fleet.answered.total()
        assert account.cancelled == sum(isinstance(one, asyncio.CancelledError) for one in ended)

    asyncio.run(main())


# --- a cluster -----------------------------------------------------------------------------------------------------


@needs_ray
def test_a_cluster_that_is_too_small_is_named() -> None:
    from offload.scale_out.cluster import _run

    class SmallRay:
        def cluster_resources(self) -> dict[str, float]:
            return {"CPU": 4.0}

    with pytest.raises(UserError, match="the cluster has 4 CPUs, and the replicas need 18"):
        _run(SmallRay(), ReplicaOptions("/models", (9, 12), threads=2), joined=True)


def test_numbers_of_replicas() -> None:
    assert parse_replicas("1:4") == (1, 4)
    assert parse_replicas("3") == (3, 3)
    for text in ("", ":", "1:", ":2", "1:x", "-1:2", "1:2:3"):
        with pytest.raises(UserError, match="write MIN:MAX"):
            parse_replicas(text)
