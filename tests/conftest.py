"""Where the tests find real recordings: TERCEL_DATA, else shared/data beside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings; its README says what lies there."""
    path = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (path / "SHA256SUMS").is_file():
        pytest.skip(f"no real recordings at {path} (set TERCEL_DATA)")
    return path


@pytest.fixture(scope="session")
def unpacked_data(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LiDAR recordings in KITTI's own file layouts."""
    dest = tmp_path_factory.mktemp("unpacked")
    subprocess.run([sys.executable, str(shared_data / "unpack.py"), str(dest)], check=True, capture_output=True)
    return dest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason that tests were skipped for."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])
    )
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} skipped: {reason}")
