"""The demo recording is what its script makes, byte for byte, and the catalog knows it (renew: make demo-recording)."""

from __future__ import annotations

import filecmp
import hashlib
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "datasets" / "demo" / "demo.mcap"
MAX_BYTES = 8_000_000


def test_the_demo_recording_is_remade_byte_for_byte(tmp_path: Path) -> None:
    tercel = Path(sys.executable).parent / "tercel"
    script = REPOSITORY / "datasets" / "demo" / "remake.sh"
    subprocess.run(["sh", script, tercel, tmp_path / "demo.mcap"], check=True, capture_output=True)
    assert filecmp.cmp(
        tmp_path / "demo.mcap", DEMO, shallow=False
    )  # with ==, pytest would look for the difference for hours


def test_the_demo_recording_is_small_and_in_the_catalog() -> None:
    assert DEMO.stat().st_size <= MAX_BYTES
    catalog = YAML(typ="safe", pure=True).load((REPOSITORY / "datasets" / "catalog.yaml").read_text(encoding="utf-8"))
    (entry,) = [row for row in catalog["recordings"] if row["name"] == "demo"]
    assert entry["sha256"] == hashlib.sha256(DEMO.read_bytes()).hexdigest()
