"""The wheel: what is in it, what it installs, how large that is and how fast it starts. Run by `.ci/run`; minutes."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MAX_INSTALL_MB = 400
MAX_IMPORT_S = 0.3


def run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPOSITORY)
    (path,) = folder.glob("tercel-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel and no extras."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", environment)
    run(environment / "bin" / "pip", "install", "--quiet", wheel)
    return environment / "bin"


def test_the_wheel_holds_the_six_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name and ".data" not in name}
    assert top == {"tercel", "perception", "registration", "tracking", "offload", "devices"}
    assert not [name for name in names if name.endswith((".mcap", ".onnx")) and "tests" in name]


def test_the_wheel_carries_the_launch_files_and_the_reports_assets(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for path in (REPOSITORY / "launch").glob("*/*"):
        assert any(name.endswith(f"share/tercel/launch/{path.parent.name}/{path.name}") for name in names)
    assets = {path.name for path in (REPOSITORY / "tercel" / "report").iterdir() if path.suffix in (".css", ".js")}
    assert assets <= {Path(name).name for name in names}


def test_the_runtime_install_is_small(installed: Path) -> None:
    (site,) = (installed.parent / "lib").glob("python*/site-packages")
    own_tools = {"pip", "setuptools", "pkg_resources", "_distutils_hack"}
    total = sum(
        path.stat().st_size
        for path in site.rglob("*")
        if path.is_file() and path.relative_to(site).parts[0].split("-")[0] not in own_tools
    )
    megabytes = total / 1e6
    print(f"runtime install: {megabytes:.0f} MB")
    assert megabytes < MAX_INSTALL_MB
    packages = {path.name for path in site.iterdir()}
    assert not packages & {"torch", "open3d", "scipy", "filterpy"}


def test_tercel_imports_quickly(installed: Path) -> None:
    code = "import time; t = time.perf_counter(); import tercel, tercel.cli; print(time.perf_counter() - t)"
    seconds = sorted(float(run(installed / "python", "-c", code)) for _ in range(5))
    print(f"import tercel: {seconds[2]:.3f} s")
    assert seconds[2] < MAX_IMPORT_S


def test_the_installed_command_makes_and_replays_a_world(installed: Path, tmp_path: Path) -> None:
    world = tmp_path / "world.mcap"
    run(installed / "tercel", "world", "street", "--seed", "1", "--set", "duration_s=2", "-o", world)
    out = run(installed / "tercel", "replay", world, "--out", tmp_path / "out")
    assert "graph: fusion" in out  # and so with the detector that the wheel brings
    assert (tmp_path / "out" / "report.html").is_file()
