"""Board, recorded link and server on real sockets: the manager in flight, while one of the three fails."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from offload.manager import CLOSED
from offload.tasks import Fate, Outcome
from offload.wire import messages as pb
from tests.scenarios.offload_live import (
    MODELS,
    SIDE,
    alone,
    board_of,
    film,
    link_to,
    share,
    write_models,
    write_network,
    write_setup,
)
from tests.scenarios.serving import Served
from tests.scenarios.test_serve_faults import Scripted, answer_to, with_server
from tests.scenarios.test_serve_strangers import TOKEN, Papers


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return write_models(tmp_path / "models")


@pytest.fixture
def trace(shared_data: Path) -> Path:
    """A drive's uplink: 3 to 9 Mbit/s in its first 16 seconds, 2 in the next two, then up to 13."""
    return shared_data / "net_traces" / "lte_mahimahi" / "Verizon-LTE-short.up.gz"


@pytest.mark.parametrize("mode", ["stream", "unary"])
def test_tasks_are_done_at_both_places_and_both_sides_books_agree(
    models: Path, trace: Path, tmp_path: Path, mode: str
) -> None:
    async def main(server: Served) -> int:
        async with link_to(server.address, trace) as link:
            setup = write_setup(tmp_path, address=f"127.0.0.1:{link.port}", mode=mode)
            async with board_of(models, setup) as board, alone(models, tmp_path) as edf:
                await film([board, edf], 6)
                settled = board.outcomes[10:]  # the first frames find a board that knows nothing yet
                assert share(settled, Fate.DONE_EDGE) > 0.2
                assert share(settled, Fate.DONE_CLOUD) > 0.2
                assert share(settled) > 0.85
                assert share(settled) > share(edf.outcomes) + 0.15
                await asyncio.sleep(0.7)  # what is late is still on its way
                assert board.said == []
                return board.models.remote.counts.sent  # type: ignore[union-attr]

    with Served(models) as server:
        sent = asyncio.run(main(server))
        account = server.terminate()
        assert sum(row["received"] for row in account.values()) == sent


def test_a_server_killed_and_restarted_costs_no_more_than_what_it_did(
    models: Path, trace: Path, tmp_path: Path
) -> None:
    async def main(first: Served) -> None:
        async with link_to(first.address, trace) as link:
            setup = write_setup(tmp_path, address=f"127.0.0.1:{link.port}")
            async with board_of(models, setup) as board, alone(models, tmp_path) as edf:
                filming = asyncio.ensure_future(film([board, edf], 11))
                await asyncio.sleep(2.5)
                killed_s = time.time()
                await asyncio.to_thread(first.kill)
                await asyncio.sleep(3)
                second = await asyncio.to_thread(Served, models, listen=first.address)
                back_s = time.time()
                with second:
                    await filming
                    await asyncio.sleep(0.7)
            assert board.first_s(Fate.DONE_CLOUD, back_s) < back_s + 2
            assert share(board.between(back_s + 2, back_s + 9), Fate.DONE_CLOUD) > 0.2
            done, done_alone = (sum(o.on_time for o in one.between(killed_s, back_s - 0.5)) for one in (board, edf))
            assert done >= done_alone - 2  # those that the server had when it died
            assert [line.split(": ")[1].split(";")[0] for line in board.said] in (
                ["connection lost", "answers again"],
                ["unavailable", "answers again"],
            )

    with Served(models) as server:
        asyncio.run(main(server))


START_NS = 12 * 10**9
"""Where in the trace the drive begins, so that the link comes back at its best, not in a dip of its own."""


def test_while_the_link_is_cut_the_board_does_what_it_can_alone_and_two_seconds_later_all_is_well(
    models: Path, trace: Path, tmp_path: Path
) -> None:
    async def main(server: Served) -> int:
        async with link_to(server.address, trace, start_ns=START_NS) as link:
            setup = write_setup(tmp_path, address=f"127.0.0.1:{link.port}")
            async with board_of(models, setup) as board, alone(models, tmp_path) as edf:
                filming = asyncio.ensure_future(film([board, edf], 18))
                await asyncio.sleep(3)
                link.cut()
                cut_s = time.time()
                await asyncio.sleep(10)
                link.restore()
                back_s = time.time()
                await filming
                await asyncio.sleep(0.7)
                counts = board.models.remote.counts  # type: ignore[union-attr]
            assert share(board.between(0, cut_s - 0.5), Fate.DONE_CLOUD) > 0.2
            during = board.between(cut_s, back_s - 0.5)
            assert not any(outcome.fate is Fate.DONE_CLOUD for outcome in during)
            assert share(during) >= 0.95 * share(edf.between(cut_s, back_s - 0.5))
            assert share(board.between(cut_s + 2, back_s - 0.5), Fate.LATE) < 0.1  # nothing is sent into the void
            assert board.first_s(Fate.DONE_CLOUD, back_s) < back_s + 2
            assert share(board.between(back_s + 2, back_s + 9)) > 0.8
            assert len(board.said) == 2
            return counts.sent

    with Served(models) as server:
        sent = asyncio.run(main(server))
        received = sum(row["received"] for row in server.terminate().values())
        assert received <= sent  # what had gone up in the moment of the cut never came


SERVED = 60
"""Products of matrices: about 40 ms on a core of 2020."""


def server_ms(outcomes: list[Outcome]) -> list[float]:
    """What the server took for each task that it did in time."""
    return [one.timing.server_ns / 1e6 for one in outcomes if one.fate is Fate.DONE_CLOUD and one.timing]


def test_a_cloud_that_becomes_ten_times_slower_is_left_and_taken_up_again(
    models: Path, trace: Path, tmp_path: Path
) -> None:
    def replace_networks(server: Served, products: int) -> float:
        """Put slower or faster networks in the server's folder; returns when it has them."""
        loaded = sum(line.startswith("model: ") for line in server.lines)
        for name in MODELS:
            write_network(tmp_path / "fresh.onnx", products).replace(tmp_path / "served" / f"{name}.onnx")
        ends_s = time.monotonic() + 30
        while sum(line.startswith("model: ") for line in server.lines) < loaded + len(MODELS):
            assert time.monotonic() < ends_s, server.lines
            time.sleep(0.02)
        return time.time()

    async def main(server: Served) -> int:
        async with link_to(server.address, trace) as link:
            setup = write_setup(tmp_path, address=f"127.0.0.1:{link.port}")
            async with board_of(models, setup) as board, alone(models, tmp_path) as edf:
                await film([board], 2)
                slow_s = await asyncio.to_thread(replace_networks, server, 10 * SERVED)
                await film([board, edf], 6)
                fast_s = await asyncio.to_thread(replace_networks, server, SERVED)
                await film([board], 6)
                await asyncio.sleep(0.9)
            during = board.between(slow_s, fast_s)
            before_ms, during_ms = (server_ms(outcomes) for outcomes in (board.between(0, slow_s), during))
            assert before_ms
            assert not during_ms or min(during_ms) > 4 * min(before_ms)  # it was slow indeed
            assert share(during) >= 0.95 * share(edf.outcomes)
            assert share(during, Fate.LATE) < 0.2
            assert board.first_s(Fate.DONE_CLOUD, fast_s) < fast_s + 3
            assert share(board.between(fast_s + 3, fast_s + 9)) > 0.85
            assert board.said == []
            return board.models.remote.counts.sent  # type: ignore[union-attr]

    write_models(tmp_path / "served", SERVED)
    with Served(tmp_path / "served") as server:
        sent = asyncio.run(main(server))
        assert sum(row["received"] for row in server.terminate().values()) == sent


def test_a_board_that_lands_with_tasks_under_way_accounts_for_them(models: Path, tmp_path: Path) -> None:
    async def main(address: str) -> None:
        async with link_to(address, "constant:rate_mbps=20,rtt_ms=400") as link:
            setup = write_setup(tmp_path, policy="cloud_only", address=f"127.0.0.1:{link.port}")
            async with board_of(models, setup) as board:
                await film([board], 1)
                looks = [asyncio.ensure_future(board.look(model, 7)) for model in MODELS]
                await asyncio.sleep(0.1)
                await board.models.close()
                await asyncio.gather(*looks)
        assert board.models.account.summary()["reasons"][CLOSED] == 2
        assert board.models.remote.counts.cancelled == 2  # type: ignore[union-attr]

    with Served(models) as server:
        asyncio.run(main(server.address))
        server.terminate()


# --- a server that answers strangely -------------------------------------------------------------------------------


class Strange(Scripted):
    """Knows the two models by name, so that the board can send it a bare tensor."""

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        return pb.ModelMetadataResponse(
            name=request.name, inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 10000]}]
        )


def test_answers_twice_out_of_order_and_to_what_was_given_up_count_once(models: Path, tmp_path: Path) -> None:
    """The server holds four requests back, answers them in reverse, each twice, and every fifth when it is too late."""
    held: list[Any] = []
    answered = 0

    async def script(request: Any, context: Any) -> None:
        nonlocal answered
        value = float(np.frombuffer(request.raw_input_contents[0], np.float32).sum())
        held.append((request, value))
        if len(held) == 3:
            for one, sum_of in reversed(held):
                answered += 1
                if answered % 5 == 0:
                    late.append((one, sum_of))
                    continue
                for _ in range(2):
                    await context.write(square(one, sum_of))
                await context.write(square(one, sum_of, "nobody"))
            held.clear()
        for one, sum_of in late[:-1]:
            await context.write(square(one, sum_of))
            late.remove((one, sum_of))

    def square(request: Any, sum_of: float, request_id: str | None = None) -> Any:
        reply = answer_to(request, SIDE * sum_of, request_id)
        reply.infer_response.outputs[0].shape[:] = [1, 1]
        return reply

    late: list[Any] = []

    async def use(address: str) -> None:
        setup = write_setup(tmp_path, policy="cloud_only", address=address)
        async with board_of(models, setup, strange=True) as board:
            await film([board], 6)
        counts = board.models.remote.counts  # type: ignore[union-attr]
        assert counts.duplicate > 5
        assert counts.stale > 0
        assert counts.unknown > 5
        assert counts.expired > 0
        assert share(board.outcomes, Fate.DONE_CLOUD) > 0.4
        assert share(board.outcomes, Fate.DONE_CLOUD, Fate.LATE, Fate.DROPPED) == 1.0

    asyncio.run(with_server(Strange(script), use))


# --- who is not let in ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["a wrong token", "an expired certificate", "a foreign authority"])
def test_a_board_that_is_not_let_in_goes_on_alone_and_says_so_once(models: Path, tmp_path: Path, fault: str) -> None:
    papers = Papers(tmp_path)
    (tmp_path / "mine").write_text(TOKEN[:-1] + "!" if fault == "a wrong token" else TOKEN)
    authority = trustme.CA() if fault == "a foreign authority" else papers.ca
    authority.cert_pem.write_to_path(str(tmp_path / "trusted.pem"))
    if fault == "an expired certificate":
        yesterday = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
        expired = papers.ca.issue_cert("127.0.0.1", not_after=yesterday)
        papers.certificate.write_bytes(b"".join(one.bytes() for one in expired.cert_chain_pems))
        expired.private_key_pem.write_to_path(str(papers.key))

    async def main(address: str) -> None:
        setup = write_setup(tmp_path, address=address, tls=True, server_ca="trusted.pem", token_file="mine")  # noqa: S106
        async with board_of(models, setup) as board, alone(models, tmp_path) as edf:
            await film([board, edf], 4)
        assert share(board.outcomes, Fate.DONE_CLOUD, Fate.LATE) < 0.1
        assert share(board.outcomes) >= 0.95 * share(edf.outcomes)
        why = "not let in" if fault == "a wrong token" else "unavailable"
        assert board.said == [f"server {address}: {why}; the board goes on alone"]
        assert board.models.remote.counts.sent == 0  # type: ignore[union-attr]

    with Served(models, "--tls", papers.certificate, papers.key, "--token-file", papers.token) as server:
        asyncio.run(main(server.address))
        assert all(row["received"] == 0 for row in server.terminate().values())
