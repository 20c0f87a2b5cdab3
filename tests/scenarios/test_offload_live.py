"""Board, recorded link and server on real sockets: the manager in flight, while one of the three fails."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from offload.tasks import Fate
from tests.scenarios.offload_live import alone, board_of, film, link_to, share, write_models, write_network, write_setup
from tests.scenarios.serving import Served


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return write_models(tmp_path / "models")


@pytest.fixture
def trace(shared_data: Path) -> Path:
    """A drive's uplink: 3 to 9 Mbit/s in its first 16 seconds, 2 in the next two, then up to 13."""
    return shared_data / "net_traces" / "lte_mahimahi" / "Verizon-LTE-short.up.gz"


def test_tasks_are_done_at_both_places_and_both_sides_books_agree(models: Path, trace: Path, tmp_path: Path) -> None:
    async def main(server: Served) -> int:
        async with link_to(server.address, trace) as link:
            setup = write_setup(tmp_path, address=f"127.0.0.1:{link.port}")
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
