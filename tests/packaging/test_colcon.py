"""colcon builds the repository as a ROS 2 package, by copies and by links, with the setuptools of each distribution.

Run by `.ci/run`; installs colcon into environments of its own. No ROS is needed for that, nor is any installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tercel.ros.executables import COMPONENTS, GRAPH

REPOSITORY = Path(__file__).resolve().parents[2]
COLCON = ("colcon-core", "colcon-ros", "colcon-python-setup-py", "colcon-bash", "colcon-library-path")
# Humble's (Ubuntu 22.04), Jazzy's (24.04), and the newest that colcon takes.
SETUPTOOLS = {"humble": "setuptools==59.6.0", "jazzy": "setuptools==68.1.2", "newest": "setuptools<80"}


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(
        [str(c) for c in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with colcon, and nothing of ours."""
    environment = tmp_path_factory.mktemp("colcon")
    run(sys.executable, "-m", "venv", environment, folder=environment)
    run(environment / "bin" / "pip", "install", "--quiet", *COLCON, folder=environment)
    return environment / "bin"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with what git knows of the repository, as a clone has it."""
    workspace = tmp_path_factory.mktemp("workspace")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", folder=REPOSITORY)
    for name in filter(None, listed.split("\0")):
        source, copy = REPOSITORY / name, workspace / "src" / "tercel" / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    return workspace


@pytest.mark.parametrize("linked", [False, True], ids=["copies", "links"])
@pytest.mark.parametrize("distribution", SETUPTOOLS)
def test_a_workspace_with_the_repository_builds_and_runs(
    distribution: str, linked: bool, tools: Path, sources: Path, tmp_path: Path
) -> None:
    run(tools / "pip", "install", "--quiet", SETUPTOOLS[distribution], folder=tmp_path)
    options = ["--symlink-install"] if linked else []
    bases = [f"--{name}-base={tmp_path / name}" for name in ("build", "install")]
    said = run(tools / "colcon", "--log-base", tmp_path / "log", "build", *bases, *options, folder=sources)
    assert "Finished <<< tercel" in said

    prefix = tmp_path / "install" / "tercel"
    assert {path.name for path in (prefix / "lib" / "tercel").iterdir()} == {"tercel", GRAPH, *COMPONENTS}
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "tercel").is_file()
    for path in (REPOSITORY / "launch").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            built = prefix / "share" / "tercel" / "launch" / path.relative_to(REPOSITORY / "launch")
            assert built.read_bytes() == path.read_bytes()
            assert built.is_symlink() == linked

    setup = f". '{tmp_path / 'install' / 'setup.bash'}' && '{sys.executable}'"
    code = "import tercel, tercel.hosts.graph as g; print(tercel.__file__); print(len(g.graph_files()))"
    sourced = run("bash", "-c", f"{setup} -c '{code}'", folder=tmp_path)
    imported, graphs = sourced.splitlines()[-2:]
    assert Path(imported).is_relative_to(tmp_path), "not the sources that this test itself comes from"
    assert int(graphs) == len(list((REPOSITORY / "launch" / "graphs").glob("*.yaml")))
    # By the interpreter of this test, which has what the suite needs; the script names that of colcon.
    said = run("bash", "-c", f"{setup} '{prefix / 'lib' / 'tercel' / GRAPH}' --params lidar", folder=tmp_path)
    assert "/**/tercel:" in said
