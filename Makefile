# Everything a newcomer or a contributor needs. `make` alone lists the targets.
SHELL := /bin/bash
BIN := .venv/bin
# Sandboxes need root on Linux; on macOS nothing does.
SUDO := $(shell [ "$$(uname)" != Linux ] || [ "$$(id -u)" = 0 ] || echo sudo)
CODE := src tests examples bench
# Where `make quick` looks for tests. Some others would do, but to load all of the tests takes longer than to run these.
PURE := tests/core tests/aio tests/engine tests/integrity tests/advice tests/agent tests/seam

.DEFAULT_GOAL := help
.PHONY: help setup demo test quick pure programs lint types arrows unit faults fuzz matrix matrix-snapshots format docs lock protos init clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install everything this repository needs (Python packages into .venv, system packages by apt)
	@tools/setup

demo: setup ## Run the main job end to end: an unmodified Modal app builds, runs in a sandbox and writes a video
	$(SUDO) $(BIN)/python examples/diffusion/demo.py

test: setup programs lint types arrows unit ## Check everything: style, types, layers, and all tests

quick: ## Check style, types, layers, and the tests of the pure parts: in about a minute, without root
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint types arrows pure

pure: ## Run the tests of the pure parts that start no process (tests/quick.py chooses them)
	$(BIN)/pytest -m quick --numprocesses 2 --quiet $(PURE)

programs: ## Install what some tests need and no server does (by apt)
	@tools/setup-tests

lint: ## Check style and formatting
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: ## Check types, strictly
	$(BIN)/mypy

arrows: ## Check that the layers import each other in one direction only
	$(BIN)/lint-imports

unit: ## Run all tests in two workers (with real sandboxes, so as root)
	$(SUDO) $(BIN)/pytest --numprocesses 2 --durations 25

faults: ## Storms under thousands of inputs: what is killed, frozen, full or away (STOKER_SEED chooses which; up to an hour)
	$(SUDO) STOKER_FAULTS=long STOKER_SEED=$${STOKER_SEED:-1} $(BIN)/pytest tests/faults -k 'kill_server or freeze or not every_result'

fuzz: ## Send nonsense to the RPC port and to containers' sockets for some minutes (STOKER_SEED chooses which), and print what it costs
	STOKER_FUZZ_SECONDS=$${STOKER_FUZZ_SECONDS:-15} $(BIN)/pytest tests/fuzz --capture no --timeout 1200

matrix: ## Run a core app with every supported version of the client, and check libraries of which private parts are used
	$(SUDO) $(BIN)/pytest -m 'matrix or not matrix' tests/matrix tests/test_private_parts.py

matrix-snapshots: ## Save and restore programs with all kinds of libraries; writes the table of docs/snapshots.md
	$(SUDO) $(BIN)/python -m tests.snapshots.matrix $(if $(ONLY),--only $(ONLY))

format: ## Put all code into its standard form
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: ## Write the generated pages of docs/ anew
	$(BIN)/stoker settings > docs/settings.md.new && mv docs/settings.md.new docs/settings.md
	$(BIN)/python -m stoker.protocol.compatibility > docs/compatibility.md.new && mv docs/compatibility.md.new docs/compatibility.md

lock: ## Write requirements/*.txt anew: the exact versions that are tested
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-header --no-annotate \
		--no-emit-index-url --group dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-header --no-annotate \
		--no-emit-index-url -c requirements/dev.txt pyproject.toml -o requirements/server.txt

# An old generator, in an environment of its own: what it makes works with every protobuf that the client allows.
protos: ## Generate the messages between the control plane and nodes anew (src/stoker/nodes/v1)
	$(BIN)/uv run --isolated --no-project --python '>=3.10,<3.13' --with 'grpcio-tools==1.62.3' --with 'setuptools<81' \
		python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src src/stoker/nodes/v1/node.proto

init: ## Build the first process of sandboxes anew (src/stoker/runtime/init), for both kinds of processors
	src/stoker/runtime/init/build src/stoker/runtime/init

clean: ## Remove what the targets above made, except .venv (stops the demo's server if it was kept)
	-[ ! -d .stoker/demo ] || $(SUDO) $(BIN)/stoker down --data .stoker/demo 2>/dev/null
	$(SUDO) rm -rf .stoker build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
