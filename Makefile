# Two commands: `make demo` shows the suite at work, `make test` checks it. Each sets up all that it needs in .venv.
# A Python other than the first of 3.12, 3.11, 3.10 that is found: make demo PYTHON=/path/to/python3

PYTHON ?= $(shell for p in python3.12 python3.11 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
OUT ?= out

.PHONY: demo test lint bench clean demo-recording

demo: .venv/run.stamp
	$(BIN)/tercel replay datasets/demo/demo.mcap --out $(OUT)/demo

# Unit tests share two cores; scenarios, which keep real time, have both for themselves. In processes of their own: the
# native threads of one half (OpenVINO, onnxruntime) stay out of the other (zenoh, DDS, sockets).
test: .venv/test.stamp
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/unit tests/golden
	$(BIN)/python -m pytest tests/scenarios tests/ros

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Without the peers, as offline, bench measures our trackers alone, and says so.
bench: .venv/bench.stamp
	@$(MAKE) --no-print-directory .venv-peers/stamp || echo "The peers of tests/benchmarks/peers could not be installed"
	$(BIN)/python tests/benchmarks/run_all.py --json $(OUT)/bench.json

# Remakes the demo recording, byte for byte.
demo-recording: .venv/run.stamp
	sh datasets/demo/remake.sh $(BIN)/tercel datasets/demo/demo.mcap

.venv/run.stamp: setup.py setup.cfg pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/test.stamp: setup.py setup.cfg pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch .venv/run.stamp $@

.venv/bench.stamp: setup.py setup.cfg pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,bench]'
	@$(BIN)/python -c 'import open3d' 2>/dev/null || { \
		echo "Installing libusb-1.0-0, without which Open3D cannot be loaded"; \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq libusb-1.0-0; \
	} || echo "Open3D cannot be loaded: benchmarks that have it as a peer will fail"
	@touch .venv/run.stamp .venv/test.stamp $@

# Trackers of others, whose dependencies exclude ours and one another: see peers.txt.
.venv-peers/stamp: $(addprefix tests/benchmarks/peers/,requirements.txt peers.txt) | .venv/bin/pip
	@rm -f $@
	$(BIN)/python -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check --requirement tests/benchmarks/peers/requirements.txt
	.venv-peers/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement tests/benchmarks/peers/peers.txt
	@touch $@

# Debian and Ubuntu keep venv in a package of its own.
.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "Tercel needs Python 3.10 to 3.12: sudo apt-get install python3 python3-venv"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		echo "Installing python3-venv (it is missing here)"; \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv .venv-peers build dist $(OUT) *.egg-info
