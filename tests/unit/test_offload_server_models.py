"""Served models: loading, the watched folder, Triton's repository, who may connect, and the metrics."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from offload.server.account import Account
from offload.server.engine import Engine
from offload.server.folder import ModelFolder
from offload.server.metrics import MetricsServer
from offload.server.models import BATCH_ROWS, TensorSpec, load_model
from offload.server.security import Access, check_exposure, read_access, read_token
from offload.server.triton import export_triton
from tercel.core.errors import Rejected, UserError
from tests.unit import onnx_files

# --- models --------------------------------------------------------------------------------------------------------


def test_a_model_tells_its_tensors_and_runs(tmp_path: Path) -> None:
    path = onnx_files.doubling(tmp_path / "twice.onnx")
    model = load_model("twice", path)
    assert model.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert model.outputs == (TensorSpec("y", "FP32", (-1, 4)),)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(model.run({"x": x})["y"], 2 * x)
    assert set(model.took_ns) == {1, BATCH_ROWS}


def test_joined_requests_give_what_they_give_alone(tmp_path: Path) -> None:
    model = load_model("twice", onnx_files.doubling(tmp_path / "m.onnx"))
    rng = np.random.default_rng(0)
    requests = [{"x": rng.random((rows, 4), dtype=np.float32)} for rows in (1, 3, 2)]
    for request, outputs in zip(requests, model.run_joined(requests), strict=True):
        assert np.array_equal(outputs["y"], model.run(request)["y"])


def test_a_model_that_mixes_rows_is_not_joined(tmp_path: Path) -> None:
    """y = x / sum(x) depends on what else is in the batch; so does an output without rows."""
    x, y = onnx_files.value_info("x", ("n", 4)), onnx_files.value_info("y", ("n", 4))
    nodes = [onnx_files.node("ReduceSum", ["x"], "s"), onnx_files.node("Div", ["x", "s"], "y")]
    (tmp_path / "m.onnx").write_bytes(onnx_files.model(nodes, [x], [y]))
    assert not load_model("m", tmp_path / "m.onnx").batchable
    total = onnx_files.value_info("s", (1, 1))
    (tmp_path / "s.onnx").write_bytes(onnx_files.model(nodes[:1], [x], [total]))
    assert not load_model("s", tmp_path / "s.onnx").batchable
    assert not load_model("f", onnx_files.identity(tmp_path / "f.onnx", (1, 4))).batchable


def test_tensors_that_the_model_does_not_take_are_rejected(tmp_path: Path) -> None:
    model = load_model("m", onnx_files.identity(tmp_path / "m.onnx"))
    good = np.zeros((3, 4), np.float32)
    model.check({"x": good})
    for tensors, words in [
        ({}, "names"),
        ({"z": good}, "names"),
        ({"x": good, "z": good}, "names"),
        ({"x": good.astype(np.float64)}, "datatype"),
        ({"x": good[0]}, "shape"),
        ({"x": good[:, :3]}, "shape"),
    ]:
        with pytest.raises(Rejected, match=words):
            model.check(tensors)


def test_a_model_that_fails_on_some_numbers_says_so_and_goes_on(tmp_path: Path) -> None:
    model = load_model("m", onnx_files.picking(tmp_path / "m.onnx"))
    with pytest.raises(Rejected, match="model run failed"):
        model.run({"x": np.array([7])})
    assert model.run({"x": np.array([3, 1])})["y"].tolist() == [3, 1]


@pytest.mark.parametrize("name", ["fastestdet_352", "nanodet_m_320", "yolox_nano_416"])
def test_a_real_detector_gives_what_onnxruntime_gives(shared_data: Path, name: str) -> None:
    import onnxruntime as ort

    path = shared_data / "models" / f"{name}.onnx"
    model = load_model(name, path)
    (spec,) = model.inputs
    x = np.random.default_rng(1).random(tuple(max(side, 1) for side in spec.shape), dtype=np.float32)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {spec.name: x})
    for ours, theirs in zip(model.run({spec.name: x}).values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("data", [b"", b"<html>", onnx_files.varint(5) * 40])
def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(UserError, match=r"m\.onnx: not a model that onnxruntime can load") as error:
        load_model("m", tmp_path / "m.onnx")
    assert "\n" not in str(error.value)


def test_a_checksum_beside_the_file_must_match(tmp_path: Path) -> None:
    path = onnx_files.identity(tmp_path / "m.onnx")
    listed = tmp_path / "m.onnx.sha256"
    listed.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest().upper()}  m.onnx\n")
    assert load_model("m", path).name == "m"
    for wrong in ("", "0" * 64):
        listed.write_text(wrong)
        with pytest.raises(UserError, match="is not the file that m.onnx.sha256 speaks of"):
            load_model("m", path)


# --- the folder ----------------------------------------------------------------------------------------------------


def touch(path: Path, at_s: int) -> None:
    os.utime(path, (at_s, at_s))


def test_a_folder_is_watched_and_a_broken_file_leaves_the_old_model(tmp_path: Path) -> None:
    onnx_files.identity(tmp_path / "a.onnx")
    (tmp_path / "b" / "1").mkdir(parents=True)
    onnx_files.identity(tmp_path / "b" / "1" / "model.onnx")
    (tmp_path / "notes.txt").write_text("not a model")
    folder = ModelFolder(tmp_path)
    assert [change.name for change in folder.look(settle=False)] == ["a", "b"]
    assert folder.look() == []

    onnx_files.doubling(tmp_path / "a.onnx")
    touch(tmp_path / "a.onnx", 1)
    assert folder.look() == []  # it may still be written
    (change,) = folder.look()
    assert change.model is not None
    assert change.model.run({"x": np.ones((1, 4), np.float32)})["y"][0, 0] == 2

    (tmp_path / "a.onnx").write_bytes(b"broken")
    assert folder.look() == folder.look() == []
    assert "not a model" in folder.problems["a"]
    assert folder.look() == []

    onnx_files.identity(tmp_path / "a.onnx")
    touch(tmp_path / "a.onnx", 3)
    folder.look()
    assert [change.name for change in folder.look()] == ["a"]
    assert folder.problems == {}

    (tmp_path / "a.onnx").unlink()
    assert [(change.name, change.model) for change in folder.look()] == [("a", None)]


def test_a_file_that_keeps_growing_is_not_read(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    for size in range(1, 5):
        (tmp_path / "m.onnx").write_bytes(b"x" * size)
        assert folder.look() == []
    assert folder.problems == {}


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        ModelFolder(tmp_path / "models")


# --- Triton --------------------------------------------------------------------------------------------------------

NUMBER, FLAG, TEXT, MESSAGE, ENUM = 5, 8, 9, 11, 14


def triton_config() -> Any:
    """ModelConfig, as far as we write it, with the names and types of Triton's own; nothing else parses."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    types = [
        "INVALID",
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
    ]
    enum = file.enum_type.add(name="DataType")
    for number, name in enumerate([*types, "FP64", "STRING", "BF16"]):
        enum.value.add(name=f"TYPE_{name}", number=number)
    action = file.enum_type.add(name="TimeoutAction")
    action.value.add(name="REJECT", number=0)
    action.value.add(name="DELAY", number=1)
    shapes: dict[str, list[tuple[str, int, str, bool]]] = {
        "Reshape": [("shape", 3, "", True)],
        "Input": [("name", TEXT, "", False), ("data_type", ENUM, "DataType", False), ("dims", 3, "", True),
                  ("reshape", MESSAGE, "Reshape", False)],
        "Queue": [("timeout_action", ENUM, "TimeoutAction", False), ("default_timeout_microseconds", 4, "", False),
                  ("allow_timeout_override", FLAG, "", False), ("max_queue_size", 13, "", False)],
        "Batching": [("max_queue_delay_microseconds", 4, "", False), ("default_queue_policy", MESSAGE, "Queue", False)],
        "ModelConfig": [("name", TEXT, "", False), ("backend", TEXT, "", False), ("max_batch_size", NUMBER, "", False),
                        ("input", MESSAGE, "Input", True), ("output", MESSAGE, "Input", True),
                        ("dynamic_batching", MESSAGE, "Batching", False)],
    }  # fmt: skip
    for message, fields in shapes.items():
        entry = file.message_type.add(name=message)
        for number, (name, kind, of, repeated) in enumerate(fields, 1):
            one = entry.field.add(name=name, number=number, type=kind, label=3 if repeated else 1)  # type: ignore[arg-type]
            if of:
                one.type_name = f".inference.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def test_tritons_repository_parses_and_says_what_the_models_say(tmp_path: Path, shared_data: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    onnx_files.doubling(models / "rows.onnx")
    onnx_files.picking(models / 'quote"d.onnx')
    (models / "nano.onnx").symlink_to(shared_data / "models" / "nanodet_m_320.onnx")
    names = export_triton(models, tmp_path / "repo")
    assert names == ["nano", 'quote"d', "rows"]
    configs = {}
    for name in names:
        text = (tmp_path / "repo" / name / "config.pbtxt").read_text()
        configs[name] = text_format.Parse(text, triton_config()())
        copied = (tmp_path / "repo" / name / "1" / "model.onnx").read_bytes()
        assert copied == (models / f"{name}.onnx").read_bytes()
        assert configs[name].name == name
        assert configs[name].backend == "onnxruntime"
    rows, nano = configs["rows"], configs["nano"]
    assert rows.max_batch_size == BATCH_ROWS
    assert list(rows.input[0].dims) == [4]
    assert rows.dynamic_batching.default_queue_policy.allow_timeout_override
    assert nano.max_batch_size == 0
    assert not nano.HasField("dynamic_batching")
    assert [(one.name, list(one.dims), one.data_type) for one in nano.input] == [("image", [1, 3, 320, 320], 11)]
    assert len(nano.output) == 6


def test_a_bad_model_or_a_used_folder_stops_the_export(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    with pytest.raises(UserError, match=r"there is no NAME\.onnx"):
        export_triton(models, tmp_path / "repo")
    onnx_files.identity(models / "good.onnx")
    (models / "bad.onnx").write_bytes(b"broken")
    with pytest.raises(UserError, match="bad.onnx"):
        export_triton(models, tmp_path / "repo")
    assert not (tmp_path / "repo").exists()
    (models / "bad.onnx").unlink()
    export_triton(models, tmp_path / "repo")
    with pytest.raises(UserError, match="is there already"):
        export_triton(models, tmp_path / "repo")


def test_hidden_files_are_no_models_and_no_name_leads_out_of_the_repository(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for hidden in (".copying.onnx", "...onnx", "._good.onnx", ".trash/1/model.onnx"):
        (models / hidden).parent.mkdir(parents=True, exist_ok=True)
        onnx_files.identity(models / hidden)
    onnx_files.identity(models / "good.onnx")
    assert export_triton(models, tmp_path / "out" / "repo") == ["good"]
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"repo/good/1/model.onnx", "repo/good/config.pbtxt"}


def test_a_model_whose_weights_lie_beside_it_is_not_exported_without_them(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "weights").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    elsewhere = onnx_files.field(13, onnx_files.field(1, "location") + onnx_files.field(2, "weights"))
    weights = b"".join(onnx_files.field(number, value) for number, value in ((1, 4), (2, onnx_files.FLOAT), (8, "w")))
    x, y = onnx_files.value_info("x", ("n", 4)), onnx_files.value_info("y", ("n", 4))
    adds = onnx_files.node("Add", ["x", "w"], "y")
    constant = weights + elsewhere + onnx_files.field(14, 1)
    (models / "m.onnx").write_bytes(onnx_files.model([adds], [x], [y], [constant]))
    model = load_model("m", models / "m.onnx")
    assert model.run({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[1, 2, 3, 4]]
    with pytest.raises(UserError, match=r"m\.onnx: its weights lie in another file"):
        export_triton(models, tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


# --- who may connect -----------------------------------------------------------------------------------------------


def test_beyond_loopback_tls_and_a_way_to_tell_clients_are_wanted() -> None:
    check_exposure("127.0.0.1", Access())
    for access in (Access(), Access(token="t" * 16)):
        with pytest.raises(UserError, match="add --tls CERT KEY"):
            check_exposure("0.0.0.0", access)  # noqa: S104
    with pytest.raises(UserError, match="add --token-file FILE or --client-ca CA"):
        check_exposure("robot.example", Access(certificate=b"c", key=b"k"))
    check_exposure("::", Access(certificate=b"c", key=b"k", token="t" * 16))
    check_exposure("::", Access(certificate=b"c", key=b"k", client_ca=b"a"))


def test_tokens_and_certificates_are_checked_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("  0123456789abcdef\n")
    assert read_token(path) == "0123456789abcdef"
    for wrong in ("", "short", "0123456789 abcdef", "0123456789\nabcdef", "0123456789äbcdef"):
        path.write_text(wrong)
        with pytest.raises(UserError, match="a token has 16 or more"):
            read_token(path)
    with pytest.raises(UserError, match="No such file"):
        read_access(token_file=tmp_path / "missing")
    with pytest.raises(UserError, match="is no PEM file"):
        read_access(tls=(path, path))
    with pytest.raises(UserError, match="wants --tls"):
        read_access(client_ca=path)


# --- metrics -------------------------------------------------------------------------------------------------------


def fetched(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_metrics_are_the_account_in_prometheus_form(tmp_path: Path) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    engine = Engine(threads=1)
    metrics = MetricsServer("127.0.0.1", 0, engine, lambda: {"bad": "broken"})
    try:
        assert fetched(metrics.port, "/v2/health/live")[0] == 200
        assert fetched(metrics.port, "/v2/health/ready")[0] == 503
        assert fetched(metrics.port, "/else")[0] == 404
        engine.put_model(load_model("m", onnx_files.identity(tmp_path / "m.onnx")))
        account = Account(received=10, done=4, refused=Counter({"the queue is full": 2}), cancelled=1, expired=3)
        for took_ns in (500_000, 3_000_000, 7_000_000_000):
            account.computed.add(took_ns)
        engine.accounts["m"] = account
        assert fetched(metrics.port, "/v2/health/ready")[0] == 200
        _, text = fetched(metrics.port, "/metrics")
        samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert samples["tercel_requests_received_total", "m"] == 10
        assert samples["tercel_requests_ended_total", "m", "refused", "the queue is full"] == 2
        ended = sum(value for key, value in samples.items() if key[0] == "tercel_requests_ended_total")
        assert ended == 10
        assert samples["tercel_run_seconds_bucket", "0.001", "m"] == 1
        assert samples["tercel_run_seconds_bucket", "0.005", "m"] == 2
        assert samples["tercel_run_seconds_bucket", "+Inf", "m"] == samples["tercel_run_seconds_count", "m"] == 3
        assert samples["tercel_run_seconds_sum", "m"] == pytest.approx(7.0035)
        assert samples["tercel_model_problems",] == 1
        engine.draining = True
        assert fetched(metrics.port, "/v2/health/ready")[0] == 503
        with pytest.raises(UserError, match="name another port"):
            MetricsServer("127.0.0.1", metrics.port, engine)
    finally:
        metrics.close()
        engine.close()
