"""rmw_zenoh's wire against examples from its documentation, its hash, and zenoh's own serializer."""

from __future__ import annotations

import contextlib
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zenoh import ZBytes, ext

from tercel.core.errors import Rejected, UserError
from tercel.ros import rmw_zenoh as wire
from tercel.ros.transport import COMMAND, DISTRIBUTIONS, LATCHED, RELIABLE, SENSOR, Identity, QoS
from tercel.ros.zenoh_config import FILE_VARIABLES, OVERRIDE_VARIABLE, load_config

FIXTURES: dict[str, Any] = json.loads((Path(__file__).parent / "rmw_zenoh_fixtures.json").read_text())
KEYS = [(distribution, case) for distribution, cases in FIXTURES.items() for case in cases["keys"]]
TOKENS = [(distribution, case) for distribution, cases in FIXTURES.items() for case in cases["tokens"]]

names = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=20)
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
qualities = st.builds(QoS, reliable=st.booleans(), depth=st.integers(0, 2**31), transient_local=st.booleans())


def test_every_distribution_has_fixtures() -> None:
    assert FIXTURES.keys() == set(DISTRIBUTIONS)
    assert all(cases["keys"] and cases["tokens"] and cases["source"] for cases in FIXTURES.values())


@pytest.mark.parametrize(("distribution", "case"), KEYS)
def test_a_data_key_equals_the_documented_one(distribution: str, case: dict[str, Any]) -> None:
    assert wire.data_key(case["domain"], case["name"], case["type"], distribution) == case["key"]


@pytest.mark.parametrize(("_distribution", "case"), TOKENS)
def test_a_documented_token_is_read_and_written_again(_distribution: str, case: dict[str, Any]) -> None:
    entity = wire.read_token(case["token"])
    assert (entity.kind, entity.node_name, entity.enclave) == (case["kind"], case["node"], "/")
    if "name" in case:
        assert entity.endpoint is not None
        assert (entity.endpoint.name, wire.ros_type(entity.endpoint.dds_type)) == (case["name"], case["type"])
        assert entity.endpoint.qos == QoS(reliable=True, depth=case["depth"])
    else:
        assert entity.endpoint is None
    assert wire.token(entity) == case["token"]


@pytest.mark.parametrize(("_distribution", "case"), TOKENS)
def test_a_gid_equals_that_of_rmw_zenohs_own_hash(_distribution: str, case: dict[str, Any]) -> None:
    assert wire.gid(case["token"]).hex() == case["gid"]


@pytest.mark.parametrize(
    ("qos", "text"),
    [
        (QoS(reliable=True, depth=42), "::,:,:,:,,"),  # rmw_zenoh's default: all left out
        (QoS(reliable=True, depth=7), "::,7:,:,:,,"),
        (SENSOR, "2::,5:,:,:,,"),
        (RELIABLE, "::,10:,:,:,,"),
        (COMMAND, "::,1000:,:,:,,"),
        (LATCHED, ":1:,1:,:,:,,"),
    ],
)
def test_a_qos_leaves_out_what_is_rmw_zenohs_default(qos: QoS, text: str) -> None:
    assert wire.qos_text(qos) == text
    assert wire.read_qos(text) == qos


def test_a_qos_whose_defaults_are_written_out_reads_the_same() -> None:
    assert wire.read_qos("1:2:1,10:,:,:1,,") == QoS(reliable=True, depth=10)
    assert wire.read_qos("2:1:2,:9223372036,854775807:,:3,1,2") == QoS(False, 42, transient_local=True)


@given(
    domain=st.integers(0, 232), session=st.from_regex("[1-9a-f][0-9a-f]{0,31}", fullmatch=True),
    ids=st.tuples(st.integers(0, 2**31), st.integers(0, 2**31)), kind=st.sampled_from(wire.KINDS[1:]),
    namespace=st.one_of(st.just("/"), paths), node=names, name=paths, qos=qualities,
)  # fmt: skip
def test_any_token_comes_back_as_it_was(
    domain: int, session: str, ids: tuple[int, int], kind: str, namespace: str, node: str, name: str, qos: QoS
) -> None:
    endpoint = wire.Endpoint(name, wire.dds_type("sensor_msgs/msg/Image"), wire.NO_HASH, qos)
    entity = wire.Entity(domain, session, str(ids[0]), str(ids[1]), kind, namespace, node, endpoint=endpoint)
    text = wire.token(entity)
    assert wire.read_token(text) == entity
    assert text.count("/") == 12  # whatever the names: every '/' in them is mangled
    assert len(wire.gid(text)) == 16


def test_further_parts_of_a_token_as_rolling_may_add_are_ignored() -> None:
    text = TOKENS[-1][1]["token"]
    assert wire.read_token(f"{text}/cuda") == wire.read_token(text)


@given(st.one_of(st.text(max_size=200), st.text("@ros2_lv/0123NMPSC%:,abc", max_size=200)))
def test_no_text_is_more_than_rejected(text: str) -> None:
    for candidate in (text, f"@ros2_lv/0/1/2/3/MP/%/%/n/{text}", f"@ros2_lv/0/1/2/3/MP/%/%/n/%t/type/hash/{text}"):
        with contextlib.suppress(Rejected):
            wire.read_token(candidate)


@pytest.mark.parametrize(
    "text",
    [
        "@ros2_lv/x/a/0/0/NN/%/%/listener",  # a domain that is no number
        "@ros2_lv/2/a/0/0/XX/%/%/listener",  # a kind that nobody knows
        "@ros2_lv/2/a/0/0/NN/%/%",  # too short
        "@ros2_lv/2/a/0/0/NN//%/listener",  # an empty part
        "@ros2_lv/2/a/0/0/NN/%/%/\x1b[2Jn",  # what a terminal would obey
        "@ros2_lv/2/a/0/1/MP/%/%/talker",  # a publisher of nothing
        "@ros2_lv/2/a/0/1/MP/%/%/talker/%chatter/type/hash/::",  # a QoS that is cut off
        "@ros2_lv/2/a/0/1/MP/%/%/talker/%chatter/type/hash/::,x:,:,:,,",  # a depth that is no number
        "@ros2_lv/2/a/0/0/NN/%/%/" + "n" * 5000,  # without end
    ],
)
def test_a_token_of_another_form_is_rejected(text: str) -> None:
    with pytest.raises(Rejected):
        wire.read_token(text)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1), st.binary(min_size=16, max_size=16))
def test_an_attachment_equals_what_zenohs_serializer_makes(sequence: int, stamp_ns: int, gid: bytes) -> None:
    ours = wire.attachment(sequence, stamp_ns, gid)
    theirs = b"".join(ext.z_serialize(part).to_bytes() for part in (ext.Int64(sequence), ext.Int64(stamp_ns), gid))
    assert ours == theirs
    assert len(ours) == 33
    assert wire.read_attachment(ours) == wire.Attachment(sequence, stamp_ns, gid)
    assert ext.z_deserialize(bytes, ZBytes(ours[16:])) == gid


def test_an_attachment_is_laid_out_as_documented() -> None:
    gid = bytes(range(16))
    assert wire.attachment(1, 0x0102030405060708, gid) == bytes.fromhex("0100000000000000080706050403020110") + gid


@given(st.binary(max_size=80))
def test_any_other_attachment_is_rejected(data: bytes) -> None:
    if len(data) == 33 and data[16] == 16:
        return
    with pytest.raises(Rejected):
        wire.read_attachment(data)


def test_the_attachment_of_old_releases_is_named() -> None:
    """rmw_zenoh 0.2.3 and before put a name before each part: sequence_number, source_timestamp, source_gid."""
    parts = ("sequence_number", ext.Int64(1), "source_timestamp", ext.Int64(2), "source_gid", bytes(16))
    with pytest.raises(Rejected, match="0.2.4"):
        wire.read_attachment(b"".join(ext.z_serialize(part).to_bytes() for part in parts))


def test_an_unknown_distribution_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match="humble"):
        Identity(node="n", distribution="ardent")


def test_without_a_file_nothing_listens_but_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*FILE_VARIABLES, OVERRIDE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    config = load_config(None)
    assert json.loads(config.get_json("listen/endpoints")) == ["tcp/127.0.0.1:0"]
    assert json.loads(config.get_json("connect/endpoints")) == ["tcp/127.0.0.1:7447"]
    assert json.loads(config.get_json("scouting/multicast/interface")) == "lo"
    assert json.loads(config.get_json("scouting/multicast/ttl")) == 0
    assert json.loads(config.get_json("timestamping/enabled")) is True  # transient local is nothing without it


def test_a_file_comes_before_the_environments_file_and_single_settings_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("given", "session", "plain"):
        (tmp_path / f"{name}.json5").write_text(f'{{ mode: "client", id: "{name.encode().hex()}" }}')
    monkeypatch.setenv("ZENOH_CONFIG_URI", str(tmp_path / "plain.json5"))
    assert json.loads(load_config(None).get_json("id")) == b"plain".hex()
    monkeypatch.setenv("ZENOH_SESSION_CONFIG_URI", f"file://{tmp_path}/session.json5")
    assert json.loads(load_config(None).get_json("id")) == b"session".hex()
    monkeypatch.setenv("ZENOH_CONFIG_OVERRIDE", 'mode="peer";scouting/multicast/enabled=false')
    config = load_config(tmp_path / "given.json5")
    assert json.loads(config.get_json("id")) == b"given".hex()
    assert json.loads(config.get_json("mode")) == "peer"
    assert json.loads(config.get_json("scouting/multicast/enabled")) is False


@pytest.mark.parametrize("text", ["{ mode: ", '{ mode: "king" }'])
def test_a_wrong_configuration_is_a_users_mistake_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json5"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(path)
    assert "bad.json5" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_wrong_single_setting_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="nowhere.json5"):
        load_config(tmp_path / "nowhere.json5")
    monkeypatch.setenv("ZENOH_CONFIG_OVERRIDE", "mode=peer")
    with pytest.raises(UserError, match="ZENOH_CONFIG_OVERRIDE"):
        load_config(None)
