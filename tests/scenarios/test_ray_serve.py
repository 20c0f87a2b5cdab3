"""`tercel serve --ray`: replicas in processes of their own behind one port, one of them killed under load; its end.

Ray takes ten seconds and more to start: one for all tests but the last two, which share another.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import onnxruntime as ort
import pytest

from offload.remote_access import RemoteAccess
from offload.wire import messages as pb
from offload.wire.service import InferenceStub
from offload.wire.tensors import put_tensors
from tests.scenarios.dashboard_serving import until
from tests.scenarios.ray_serving import Cluster, RayServed, command_of, descendants_of, proxied, running_cluster
from tests.scenarios.serving import SERVE, client_of, kind_of
from tests.unit import onnx_files

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'tercel[ray]'"
)

ACCESS = RemoteAccess(token="a-token-of-tests-0123456789")  # noqa: S106
ONE = np.ones((1, 1), np.float32)
X = np.ones((1, 4), np.float32)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    onnx_files.doubling(folder / "double.onnx")
    onnx_files.slow(folder / "slow.onnx", products=8)
    onnx_files.slow(folder / "long.onnx", products=60)
    return folder


@pytest.fixture(scope="session")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secrets") / "token"
    path.write_text(f"{ACCESS.token}\n")
    return path


@pytest.fixture(scope="session")
def server(models: Path, token_file: Path) -> Iterator[RayServed]:
    with RayServed(models, "--replicas", "2:2", "--token-file", token_file, "--metrics", "127.0.0.1:0") as served:
        served.said("replica: ")
        yield served


def request_of(model: str, timeout_ms: int = 5000, **tensors: Any) -> Any:
    request = pb.ModelInferRequest(model_name=model, id="1")
    request.parameters["timeout"].int64_param = timeout_ms * 1000
    put_tensors(request.inputs, request.raw_input_contents, tensors, "none")
    return request


def replica_of(stub: InferenceStub, model: str = "double") -> str:
    """Ask once; which replica has answered."""
    response = stub.ModelInfer(request_of(model, x=X), timeout=10, metadata=ACCESS.metadata)
    assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [2, 2, 2, 2]
    return str(response.parameters["tercel_replica"].string_param)


def status_of(call: Any, *arguments: Any, metadata: Any = ACCESS.metadata, timeout: float = 10) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, timeout=timeout, metadata=metadata)
    return error.value.code().name, error.value.details()


# --- the entry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_real_detector_sees_the_same_through_ray_as_here(
    server: RayServed, models: Path, shared_data: Path, stream: bool
) -> None:
    path = models / "detector.onnx"
    if not path.exists():  # also how a new model reaches the replicas: each looks at the folder
        (models / "new").write_bytes((shared_data / "models" / "nanodet_m_320.onnx").read_bytes())
        (models / "new").rename(path)
    server.said("model: detector")
    photograph = min((shared_data / "img_aerial_cars").glob("*.jpg"))
    image = cv2.resize(cv2.imread(str(photograph)), (320, 320)).astype(np.float32)
    tensor = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(None, {session.get_inputs()[0].name: tensor}), strict=True))

    async def main() -> None:
        async with client_of(server.address, access=ACCESS, stream=stream) as client:
            # The other replica may see the new file a look later; until then it says so, which is counted.
            while await client.run(kind_of("detector", 20_000), tensor) != "done":
                await asyncio.sleep(0.2)
            (outputs,) = client.outputs
            assert list(outputs) == names
            for name, output in outputs.items():
                np.testing.assert_allclose(output, expected[name], rtol=1e-4, atol=1e-5)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_both_replicas_answer_behind_one_port_and_say_what_they_serve(server: RayServed) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = InferenceStub(channel)
        answered = Counter(replica_of(stub) for _ in range(60))
        assert len(answered) == 2
        assert until(lambda: server.replicas() == set(answered))  # said when it is next looked
        assert min(answered.values()) >= 10
        ready = pb.ServerReadyRequest()
        assert stub.ServerReady(ready, timeout=5, metadata=ACCESS.metadata).ready
        about = stub.ModelMetadata(pb.ModelMetadataRequest(name="double"), timeout=5, metadata=ACCESS.metadata)
        assert [(one.name, one.datatype, list(one.shape)) for one in about.inputs] == [("x", "FP32", [-1, 4])]
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=5, metadata=ACCESS.metadata)
        assert {"double", "slow", "long"} <= {row.name for row in index.models if row.state == "READY"}


def test_a_refusal_says_why_as_the_plain_server_does(server: RayServed) -> None:
    with grpc.insecure_channel(server.address) as channel:
        ask = InferenceStub(channel).ModelInfer
        assert status_of(ask, request_of("missing", x=X)) == ("NOT_FOUND", "no such model or version")
        assert status_of(ask, request_of("double", x=X.astype(np.float64)))[0] == "INVALID_ARGUMENT"
        # Ray's own way to the replica may take the 20 ms, too: then the deadline passes in the queue.
        hurried = [status_of(ask, request_of("long", 20, x=ONE)) for _ in range(10)]
        assert ("RESOURCE_EXHAUSTED", "would not be done in time") in hurried
        assert {status for status, _ in hurried} <= {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
        assert status_of(ask, request_of("double", x=X), metadata=())[0] == "UNAUTHENTICATED"
        wrong = (("authorization", "Bearer another-token-0123456789"),)
        assert status_of(ask, request_of("double", x=X), metadata=wrong)[0] == "UNAUTHENTICATED"


def test_only_loopback_reaches_it_and_what_ray_opens_beyond_asks_for_its_token(server: RayServed) -> None:
    pids = {server.process.pid, *server.descendants()}
    beyond = {port: address for address, port in listening(pids) if not address.endswith("0100007F")}
    assert int(server.address.rpartition(":")[2]) in {port for _, port in listening(pids)} - set(beyond)
    assert len(beyond) <= 2  # one of each replica
    for port in beyond:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            handle = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            assert status_of(handle, b"", metadata=())[0] == "UNAUTHENTICATED"


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """Address (hexadecimal, as the kernel shows it) and port of each TCP port that these processes listen on."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(str(link.readlink()))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    mine = [row[1].split(":") for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    return {(address, int(port, 16)) for address, port in mine}


@pytest.mark.parametrize("stream", [True, False])
def test_each_replica_admits_by_deadline_at_three_times_what_both_can_do(server: RayServed, stream: bool) -> None:
    async def main() -> None:
        async with client_of(server.address, access=ACCESS, stream=stream) as client:
            began_s = time.perf_counter()
            await asyncio.gather(*(client.run(kind_of("long", 30_000), ONE) for _ in range(12)))
            each_s = (time.perf_counter() - began_s) / 12
            assert client.fates() == ["done"] * 12
            asked = await client.stream_of(kind_of("long", 12e3 * each_s), ONE, each_s / 3, 3)
            fates = Counter(client.fates()[12:])
            assert fates.total() == asked
            assert fates["refused by the server"] > 0.3 * asked
            assert fates["done"] > 0.15 * asked
            assert fates["done"] + fates["refused by the server"] > 0.8 * asked  # the rest: late, on a busy machine

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_cancelled_leaves_the_queues_of_the_replicas(server: RayServed, stream: bool) -> None:
    async def main() -> None:
        async with client_of(server.address, access=ACCESS, stream=stream) as client:
            began_s = time.perf_counter()
            assert await client.run(kind_of("long", 30_000), ONE) == "done"
            each_s = time.perf_counter() - began_s
            waiting = [asyncio.ensure_future(client.run(kind_of("long", 60_000), ONE)) for _ in range(40)]
            await asyncio.sleep(0.3)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            began_s = time.perf_counter()
            assert await client.run(kind_of("long", 60_000), ONE) == "done"
            assert time.perf_counter() - began_s < 10 * each_s  # and not behind twenty others
            assert client.executor.counts.cancelled >= 30  # the others were quick

    asyncio.run(asyncio.wait_for(main(), 120))


@pytest.mark.parametrize("stream", [True, False])
def test_what_a_killed_replica_was_at_is_given_to_another_and_a_new_one_comes(server: RayServed, stream: bool) -> None:
    async def main() -> None:
        async with client_of(server.address, access=ACCESS, stream=stream) as client:
            running = asyncio.ensure_future(client.stream_of(kind_of("double", 5000), {"x": X}, 0.05, 6))
            await asyncio.sleep(1)
            before = alive_names(server.replicas())
            assert len(before) == 2
            busy = [asyncio.ensure_future(client.run(kind_of("long", 30_000), ONE)) for _ in range(6)]
            await asyncio.sleep(0.15)
            os.kill(alive(before).pop(), signal.SIGKILL)
            await asyncio.gather(*busy)
            asked = await running + len(busy)
            assert Counter(client.fates()) == {"done": asked}
            assert not alive_names(before) >= before
        ends_s = time.monotonic() + 60
        while not alive_names(server.replicas()) - before:
            assert time.monotonic() < ends_s, "no new replica"
            await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(main(), 120))
    with grpc.insecure_channel(server.address) as channel:
        stub = InferenceStub(channel)
        assert {replica_of(stub) for _ in range(60)} == alive_names(server.replicas())


def alive_names(names: set[str]) -> set[str]:
    return {name for name in names if Path(f"/proc/{name.partition('@')[0]}").exists()}


def alive(names: set[str]) -> set[int]:
    return {int(name.partition("@")[0]) for name in alive_names(names)}


def test_at_the_end_everything_is_accounted_for_once_and_nothing_is_left(server: RayServed) -> None:
    port = server.said("metrics: http://127.0.0.1:").removesuffix("/metrics")
    text = str(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read(), "utf-8")
    assert 'tercel_requests_ended_total{model="double",outcome="done",reason=""}' in text
    folders = {Path(word) for pid in server.descendants() for word in command_of(pid) if "/tercel-ray-" in word}
    started = server.descendants()
    assert len(started) >= 5  # of Ray: its two servers, a controller, two replicas
    rows = server.terminate()  # in which everything has ended
    done = sum(row["done"] for row in rows.values())
    answered = [line.split() for line in server.lines if line.startswith("replica: ") and " answered " in line]
    assert sum(int(words[3]) for words in answered) == done
    assert len(answered) == 4  # two, and two in place of those that were killed
    assert int(server.said("retried: ")) >= 2  # of the requests that were under way when they were killed
    assert all(row["failed"] == 0 for row in rows.values())
    assert 30 <= rows["long"]["cancelled"] <= 80  # what had come to the server by then
    gone_by_s = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < gone_by_s, [command_of(pid) for pid in started]
        time.sleep(0.1)
    assert folders
    for folder in folders:
        (place,) = [part for part in (folder, *folder.parents) if part.name.startswith("tercel-ray-")][-1:]
        assert not place.exists()


def test_a_wrong_command_is_one_line_and_starts_nothing(models: Path, tmp_path: Path) -> None:
    for options, words in [
        (["--models", tmp_path / "missing", "--ray"], "no such folder"),
        (["--models", models, "--ray", "--replicas", "4:2"], "write MIN:MAX"),
        (["--models", models, "--ray", "--replicas", "few"], "write MIN:MAX"),
        (["--models", models, "--ray", "--listen", "0.0.0.0:8001"], "add --tls"),
        (["--models", models, "--replicas", "1:2"], "go with --ray"),
    ]:
        command = [sys.executable, "-c", SERVE, *map(str, options)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 2
        assert words in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
        assert "ray: starting" not in ended.stdout


def test_stopped_while_ray_starts_it_leaves_nothing(models: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", SERVE, "--models", str(models), "--ray", "--listen", "127.0.0.1:0"]
        environment = {**os.environ, "TMPDIR": folder}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ends_s = time.monotonic() + 60
        while not any("raylet" in command_of(pid)[0] for pid in descendants_of(process.pid)):
            assert time.monotonic() < ends_s
            time.sleep(0.05)
        started = descendants_of(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) != 0
        assert list(Path(folder).iterdir()) == []
        assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


# --- a Ray that is there already -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as one:
        yield one


def test_rays_own_proxy_serves_what_the_manifest_says(cluster: Cluster, models: Path, token_file: Path) -> None:
    with proxied(cluster, models, token_file) as address:
        with grpc.insecure_channel(address) as channel:
            stub = InferenceStub(channel)
            answered = set()
            ends_s = time.monotonic() + 60
            while len(answered) < 2:
                assert time.monotonic() < ends_s, "no second replica"
                with contextlib.suppress(grpc.RpcError):  # until the first is there
                    answered.add(replica_of(stub))
            ask = stub.ModelInfer
            assert status_of(ask, request_of("missing", x=X)) == ("NOT_FOUND", "no such model or version")
            assert status_of(ask, request_of("long", 20, x=ONE)) == ("RESOURCE_EXHAUSTED", "would not be done in time")
            assert status_of(ask, request_of("double", x=X), metadata=())[0] == "UNAUTHENTICATED"
        asyncio.run(asyncio.wait_for(both_ways(address), 60))


async def both_ways(address: str) -> None:
    """Unary calls and a stream through Ray's proxy; a replica killed under unary load."""
    async with client_of(address, access=ACCESS, stream=True) as client:
        for _ in range(20):
            await client.run(kind_of("double", 10_000), {"x": X})
        assert Counter(client.fates()) == {"done": 20}
        assert client.executor.connected
    async with client_of(address, access=ACCESS, stream=False) as client:
        running = asyncio.ensure_future(client.stream_of(kind_of("slow", 3000), ONE, 0.05, 4))
        await asyncio.sleep(1)
        async with grpc.aio.insecure_channel(address) as channel:
            response = await InferenceStub(channel).ModelInfer(request_of("double", x=X), metadata=ACCESS.metadata)
        os.kill(int(response.parameters["tercel_replica"].string_param.partition("@")[0]), signal.SIGKILL)
        asked = await running
        fates = Counter(client.fates())
        assert fates.total() == asked
        assert fates["done"] > 0.8 * asked


def test_a_ray_that_runs_is_joined_and_left_running(
    cluster: Cluster, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    with RayServed(models, "--address", cluster.address, "--replicas", "1:2") as served:
        asyncio.run(asyncio.wait_for(more_replicas_come_with_the_load(served), 90))
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(30) == 0
        assert served.said("retried: ") == "0"
        assert not alive(served.replicas())
    assert cluster.process.poll() is None


async def more_replicas_come_with_the_load(served: RayServed) -> None:
    """From one replica to two."""
    async with client_of(served.address) as client:
        ends_s = time.monotonic() + 60
        while len(served.replicas()) < 2:
            assert time.monotonic() < ends_s, "no second replica"
            await asyncio.gather(*(client.run(kind_of("slow", 5000), ONE) for _ in range(12)))
        assert client.fates().count("done") > 0
