from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.executors import Ran, TaskLost, TaskTooLate, nothing_heard
from offload.models import OTHER_OUTPUTS, LookHint, OffloadedModels, ReportedRemote, live_models
from offload.policies import POLICIES
from offload.profiled import profiled_models
from offload.setup import OffloadSetup, read_setup
from offload.tasks import Fate, Option, Outcome, Task
from tercel.core.clock import VirtualClock, run_virtual
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import NextLook

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = """
policy: tercel
models:
  a: {deadline_ms: 300, benefit: 2, edge: {ms: 100, cost: 0.1}, cloud: {ms: 120, cost: 0.5, upload_bytes: 40000}}
  b: {deadline_ms: 500, edge: {ms: 200, cost: 0.1}, cloud: {ms: 120, benefit: 3, cost: 0.5, upload_bytes: 40000}}
spread: {edge: 0.1, cloud: 0.3}
link: {model: constant, rate_mbps: 10, rtt_ms: 40}
server: {address: "127.0.0.1:8001", mode: unary}
"""
START_NS = 1_700_000_000_000_000_000
MS = 1_000_000


class Board:
    """Doubles its input; its spec is its name."""

    async def infer(self, model: str, tensor: np.ndarray, *, deadline_ns: int | None = None) -> list[np.ndarray]:
        if np.isnan(tensor).any():
            raise Rejected("model run failed")
        return [2 * tensor, tensor]

    def spec(self, model: str) -> str:
        return model


def setup_of(tmp_path: Path, text: str = FILE, **options: Any) -> OffloadSetup:
    path = tmp_path / "offload.yaml"
    path.write_text(text)
    return read_setup(path, **options)


def flown(setup: OffloadSetup, calls: list[tuple[int, str, int | None]], seed: int = 0, **options: Any) -> Any:
    """Ask for (at ms, model, deadline ms or None) on a virtual clock; returns (ended ms, answer or reason) and the
    account."""
    clock = VirtualClock(START_NS)
    models = profiled_models(setup, clock, Board(), seed, **options)

    async def ask(at_ms: int, model: str, deadline_ms: int | None) -> tuple[float, Any]:
        at_ns = START_NS + at_ms * MS
        await clock.sleep_until_ns(at_ns)
        deadline_ns = None if deadline_ms is None else at_ns + deadline_ms * MS
        try:
            answer: Any = await models.infer(model, np.array([at_ms], np.float32), deadline_ns=deadline_ns)
        except Rejected as rejection:
            answer = str(rejection)
        return (clock.now_ns - START_NS) / MS, answer

    async def main() -> list[tuple[float, Any]]:
        ended = await asyncio.gather(*(ask(*call) for call in calls))
        await models.close()
        return list(ended)

    return run_virtual(main(), clock), models.account.summary()


# --- offload files -------------------------------------------------------------------------------------------------


def test_an_offload_file_says_where_networks_run_and_over_what(tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    a, b = setup.kinds["a"], setup.kinds["b"]
    assert (a.deadline_ns, b.deadline_ns) == (300 * MS, 500 * MS)
    assert (a.edge.benefit, a.cloud.benefit, b.edge.benefit, b.cloud.benefit) == (2, 2, 1, 3)  # type: ignore[union-attr]
    # 120 ms all in, of which the link took 40 ms and 40,000 bytes at 10 Mbit/s: 32 ms.
    assert a.cloud.server_ns == 48 * MS  # type: ignore[union-attr]
    assert (setup.lanes, setup.window_ns, setup.server and setup.server.mode) == (1, 20 * 10**9, "unary")
    assert setup_of(tmp_path, link="constant:rate_mbps=1,rtt_ms=7").link.rtt_ns(0) == 7 * MS


def test_the_offload_files_of_the_suite_are_sound() -> None:
    files = sorted((REPOSITORY / "launch" / "offload").glob("*.yaml"))
    assert files
    for path in files:
        assert read_setup(path).kinds


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("policy: tercel", "policy: tercell", "there is no policy 'tercell'; did you mean 'tercel'?"),
        ("policy: tercel", "lanes: 0", "lanes must be in 1..64"),
        ("policy: tercel", "polcy: tercel", "unknown key 'polcy'; did you mean 'policy'?"),
        ("deadline_ms: 300", "deadline: 300", "models: a: unknown key 'deadline'; did you mean 'deadline_ms'?"),
        ("cost: 0.5, upload_bytes: 40000", "cost: 0.5", "models: a: cloud: say upload_bytes"),
        ("cloud: {ms: 120", "cloud: {ms: 60", "models: a: cloud: the link alone takes 72 of its 60 ms"),
        ("edge: {ms: 100, cost: 0.1}", "edge: [100]", "models: a: a way to run it is a mapping, not "),
        ("deadline_ms: 300, benefit: 2", "deadline_ms: -1", "models: a: a: the deadline must be above 0"),
        ("model: constant", "model: konstant", "link: link model 'konstant' is unknown"),
        ("127.0.0.1:8001", "nowhere", "server: address nowhere: write HOST:PORT"),
        ("mode: unary", "mode: pigeon", "server: mode: "),
        ("spread: {edge: 0.1, cloud: 0.3}", "spread: 3", "spread: a mapping is wanted, not '3'"),
        ("spread: {edge: 0.1, cloud: 0.3}", "spread: &x [*x]", "more than 20000 values"),
        ("models:", "models: }", "no YAML"),
    ],
)
def test_a_mistake_in_an_offload_file_is_one_line_with_the_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        setup_of(tmp_path, FILE.replace(old, new, 1))
    assert said in str(error.value)
    assert "offload.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_papers_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    for words, said in (
        ("tls: true, server_ca: none.pem", "No such file"),
        ("tls: true, server_ca: offload.yaml", "is no PEM file"),
        ("token_file: none", "No such file"),
        ("server_ca: ca.pem", "TLS is off"),
    ):
        (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----")
        setup = setup_of(tmp_path, FILE.replace("mode: unary", words))
        with pytest.raises(UserError, match=said):
            setup.access()


# --- calls as tasks ------------------------------------------------------------------------------------------------


def test_an_answer_is_the_networks_own_and_comes_when_the_file_says(tmp_path: Path) -> None:
    quiet = FILE.replace("{edge: 0.1, cloud: 0.3}", "{edge: 0, cloud: 0}")
    ended, account = flown(setup_of(tmp_path, quiet), [(0, "a", None), (1000, "b", None)])
    assert [at_ms for at_ms, _ in ended] == [100, 1120]  # b is worth more in the cloud
    assert [[float(output[0]) for output in outputs] for _, outputs in ended] == [[0, 0], [2000, 1000]]
    assert account["fates"] == {"done-edge": 1, "done-cloud": 1, "done-split": 0, "late": 0, "dropped": 0}
    ended, account = flown(setup_of(tmp_path, quiet.replace("tercel", "cloud_only")), [(0, "a", None)])
    assert ended[0][0] == 120
    assert account["upload_bytes"] == 40_000


def test_the_link_begins_with_the_run_whatever_the_date(tmp_path: Path) -> None:
    text = FILE.replace("{edge: 0.1, cloud: 0.3}", "{edge: 0, cloud: 0}").replace("tercel", "cloud_only")
    ramp = "ramp:rate_mbps=10,rtt_ms=40,extra_rtt_ms=100,period_s=20,ramp_s=5,hold_s=5"
    setup = setup_of(tmp_path, text, link=ramp)  # quiet for 5 s, then slower by 20 ms each second
    ended, _ = flown(setup, [(0, "b", None), (7500, "b", None)])
    assert ended[0][0] == 120
    assert ended[1][0] == pytest.approx(7500 + 120 + 50, abs=1)


def test_a_components_deadline_comes_before_the_kinds(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, FILE.replace("{edge: 0.1, cloud: 0.3}", "{edge: 0, cloud: 0}"))
    ended, account = flown(setup, [(0, "a", 90), (1000, "a", 110)])
    assert isinstance(ended[0][1], str)
    assert ended[1] == (1100, ended[1][1])
    assert account["fates"]["done-edge"] == 1
    assert account["tasks"] == 2


@pytest.mark.parametrize("policy", POLICIES)
def test_a_frame_whose_deadline_has_passed_is_dropped_and_counted_by_every_policy(tmp_path: Path, policy: str) -> None:
    setup = setup_of(tmp_path, FILE.replace("tercel", policy))
    ended, account = flown(setup, [(0, "a", 0), (10, "b", -500), (2000, "a", None)])
    assert isinstance(ended[0][1], str)
    assert isinstance(ended[1][1], str)
    assert isinstance(ended[2][1], list)
    assert account["fates"]["dropped"] == 2
    assert sum(account["reasons"].values()) == 2


def test_a_network_that_fails_is_a_dropped_task_with_its_reason(tmp_path: Path) -> None:
    for policy in ("edf", "cloud_only"):
        clock = VirtualClock(START_NS)
        models = profiled_models(setup_of(tmp_path, FILE.replace("tercel", policy)), clock, Board(), 0)
        with pytest.raises(Rejected, match="model run failed"):
            run_virtual(models.infer("a", np.array([np.nan], np.float32)), clock)
        assert models.account.summary()["reasons"] == {"model run failed": 1}


def test_a_model_that_the_file_does_not_name_is_the_users_mistake(tmp_path: Path) -> None:
    clock = VirtualClock(START_NS)
    models = profiled_models(setup_of(tmp_path), clock, Board(), 0)
    assert models.spec("a") == "a"
    with pytest.raises(UserError, match="names no model 'aa'; did you mean 'a'?"):
        run_virtual(models.infer("aa", np.zeros(1, np.float32)), clock)


CALLS = st.lists(
    st.tuples(st.integers(0, 3000), st.sampled_from("ab"), st.one_of(st.none(), st.integers(-50, 800))), max_size=40
)


@settings(max_examples=25, deadline=None)
@given(calls=CALLS, policy=st.sampled_from(sorted(POLICIES)), seed=st.integers(0, 3))
def test_everything_asked_ends_once_and_two_runs_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, calls: list[Any], policy: str, seed: int
) -> None:
    setup = replace(setup_of(tmp_path_factory.getbasetemp()), policy=policy)
    ended, account = flown(setup, calls, seed)
    reasons = Counter(answer for _, answer in ended if isinstance(answer, str))
    assert account["reasons"] == dict(reasons)
    assert account["tasks"] == len(calls) == sum(account["fates"].values())
    assert account["completion"] == pytest.approx((len(calls) - reasons.total()) / max(1, len(calls)), abs=1e-6)
    for name in "ab":
        of_model = account["models"].get(name, {"tasks": 0})
        assert of_model["tasks"] == sum(model == name for _, model, _ in calls)
    for (at_ms, model, deadline_ms), (ended_ms, answer) in zip(calls, ended, strict=True):
        if not isinstance(answer, str):
            assert float(answer[1][0]) == at_ms
            wanted_ms = {"a": 300, "b": 500}[model] if deadline_ms is None else deadline_ms
            assert at_ms < ended_ms <= at_ms + wanted_ms
    again, account_again = flown(setup, calls, seed)
    assert [(at, str(answer)) for at, answer in again] == [(at, str(answer)) for at, answer in ended]
    assert account_again == account


# --- hints ---------------------------------------------------------------------------------------------------------


def test_a_frame_before_the_time_of_the_next_look_weighs_less() -> None:
    hint = LookHint(0.25)
    assert hint("a", 5) == 1.0
    hint.heard(NextLook(stamp_ns=5, frame_id="camera", due_ns=100, reason="error budget"))
    assert [hint("a", now_ns) for now_ns in (6, 99, 100, 200)] == [0.25, 0.25, 1.0, 1.0]
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="must be in 0..1"):
            LookHint(weight)


def test_under_load_a_hinted_frame_yields_to_an_unhinted_one(tmp_path: Path) -> None:
    """Two cameras ask at once for a board that has time for one of them, and there is no cloud."""
    alone = "{deadline_ms: 200, edge: {ms: 150, cost: 0.1}}"
    models = f"models:\n  a: {alone}\n  b: {alone}\n"
    setup = setup_of(tmp_path, models + "link: {model: constant, rate_mbps: 10}")
    calls = [(at_ms, model, None) for at_ms in range(0, 5000, 500) for model in "ab"]
    for early in "ab":
        weights = {early: 0.3}
        _, account = flown(setup, calls, hint=lambda model, _now_ns, weights=weights: weights.get(model, 1.0))
        other = "b" if early == "a" else "a"
        assert account["models"][other]["done-edge"] == 10
        assert account["models"][early]["done-edge"] == 0


# --- in flight -----------------------------------------------------------------------------------------------------


def test_outputs_that_a_server_names_come_in_the_models_order(tmp_path: Path) -> None:
    class Server:
        on_upload = staticmethod(nothing_heard)

        def __init__(self) -> None:
            self.outputs: Any = {"z": np.zeros(1), "y": np.ones(1)}

        async def run(self, task: Task, option: Option, payload: Any) -> Ran:
            return Ran(self.outputs)

    async def main() -> None:
        setup = setup_of(tmp_path, FILE.replace("tercel", "cloud_only"))
        server = Server()
        clock = VirtualClock(START_NS)
        models = OffloadedModels(setup, clock, Server(), server, Board(), output_names={"a": ("y", "z")})
        assert [float(one[0]) for one in await models.infer("a", np.zeros(1))] == [1, 0]
        assert [float(one[0]) for one in await models.infer("b", np.zeros(1))] == [0, 1]
        server.outputs = {"y": np.ones(1)}
        with pytest.raises(Rejected, match=OTHER_OUTPUTS):
            await models.infer("a", np.zeros(1))

    asyncio.run(main())


def test_the_board_says_once_that_the_server_is_gone_and_once_that_it_answers_again(tmp_path: Path) -> None:
    class Server:
        on_upload = staticmethod(nothing_heard)
        fault: Exception | None = None

        async def run(self, task: Task, option: Option, payload: Any) -> Ran:
            if self.fault is not None:
                raise self.fault
            return Ran()

    said: list[str] = []
    server = Server()
    reported = ReportedRemote(server, "s:1", said.append)  # type: ignore[arg-type]
    kind = setup_of(tmp_path).kinds["a"]

    async def run(fault: Exception | None) -> None:
        server.fault = fault
        task = Task(0, kind, 0)
        try:
            await reported.run(task, kind.options[1], None)
        except (TaskLost, TaskTooLate) as error:
            assert error is fault

    async def main() -> None:
        for _ in range(3):
            for reason in ("refused by the server", "connection lost", "unavailable", "unavailable"):
                await run(TaskLost(reason))
            await run(TaskTooLate())
            await run(None)

    asyncio.run(main())
    lost, back = "server s:1: connection lost; the board goes on alone", "server s:1: answers again"
    assert said == [lost, back] * 3
    assert reported.lost == {"refused by the server": 3, "connection lost": 3, "unavailable": 6}


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "cloud_only"])
def test_a_board_without_a_server_flies_alone_whatever_its_file_says_of_the_cloud(tmp_path: Path, policy: str) -> None:
    outcomes: list[Outcome] = []

    async def main() -> None:
        setup = replace(setup_of(tmp_path, FILE.replace("tercel", policy)), server=None)
        infer = lambda _model, tensor: [2 * tensor, tensor]  # noqa: E731
        async with live_models(setup, Board(), infer, on_outcome=outcomes.append) as models:
            assert float((await models.infer("a", np.ones(1)))[0][0]) == 2

    asyncio.run(main())
    assert [outcome.fate for outcome in outcomes] == [Fate.DONE_EDGE]


def test_a_model_that_only_a_server_could_run_wants_one(tmp_path: Path) -> None:
    text = FILE.replace("edge: {ms: 100, cost: 0.1}, ", "").replace("edge: {ms: 200, cost: 0.1}, ", "")

    async def main() -> None:
        async with live_models(replace(setup_of(tmp_path, text), server=None), Board(), lambda _model, tensor: tensor):
            pass

    with pytest.raises(UserError, match="models: a: runs at a server only"):
        asyncio.run(main())
