# Needs python3 ≥ 3.11 with venv, and nothing else; everything it makes stands in .venv and the guests' folder.
# Every target may be called first on a fresh machine.

.DEFAULT_GOAL := help
.PHONY: help setup guests lock prove runners run test lint bench image

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
JOBS ?= auto
IMAGE ?= toolgate:dev

# The first interpreter that is new enough and can make environments.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

help:
	@echo 'make run    set up what is missing, then serve on 127.0.0.1:8080'
	@echo 'make setup  the environment in .venv and the WASM guests'
	@echo 'make test   every test (JOBS=N for the number of processes)'
	@echo 'make lint   ruff and mypy'
	@echo 'make runners  the runner images on the Docker engine (BASE=IMAGE, else made of Debian packages)'
	@echo 'make prove  hostile code in every sandbox, kills, tampering, failing disks (half an hour)'
	@echo 'make bench  the benchmark: prints a table, writes bench-results.json'
	@echo 'make lock   requirements.lock anew, from pyproject.toml'
	@echo 'make image  the container image (IMAGE=NAME, BASE=IMAGE)'

setup: $(INSTALLED) guests

$(INSTALLED): requirements.lock pyproject.toml
	@test -n '$(PYTHON)' || { echo 'make: no python3 >= 3.11 with the venv module found' \
		'(Debian: apt-get install python3-venv); name one with PYTHON=...' >&2; exit 1; }
	@echo '── environment: $(VENV), by $(PYTHON)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo '── dependencies: requirements.lock, every file checked by its hash'
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar off --require-hashes -r requirements.lock
	@echo '── toolgate itself'
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Looks for itself whether anything is to be built; that takes well under a second.
guests: $(INSTALLED)
	@$(BIN)/python -m sandboxes.guests >/dev/null

# On the engine that DOCKER_HOST names, else this machine's; their ids go to images.json in the guests' folder.
runners: $(INSTALLED)
	@BASE='$(BASE)' $(BIN)/python -m sandboxes.images

# Pins everything with its hashes, and names no registry. Needs uv.
lock:
	@uv pip compile pyproject.toml --group dev --universal --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --quiet --output-file requirements.lock

run: setup
	@exec $(BIN)/toolgate serve

test: setup
	@$(BIN)/python -m pytest -n $(JOBS)

lint: $(INSTALLED)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy --strict

bench: setup
	@$(BIN)/python -m bench.run

# The long proofs, each a table of its own: hostile code, a worker taken over, what is left behind, a policy that changes
# all the time, a gateway killed under load, a ledger tampered with, a disk that fails, gateways told to stop, clients that
# drip or leave, keys raced over two gateways, a Redis that fails, backends that flap. Quiet machine, root, a Docker
# engine, redis-server and `make runners` for all of it.
prove: setup
	@$(BIN)/python -m prove.hostile_suite
	@$(BIN)/python -m prove.siege
	@$(BIN)/python -m prove.lifecycle
	@$(BIN)/python -m prove.abuse
	@$(BIN)/python -m prove.reload
	@$(BIN)/python -m prove.kills
	@$(BIN)/python -m prove.tamper
	@$(BIN)/python -m prove.faults
	@$(BIN)/python -m prove.drains
	@$(BIN)/python -m prove.crowd
	@$(BIN)/python -m prove.claims
	@$(BIN)/python -m prove.redis_away
	@$(BIN)/python -m prove.redis_gateways
	@$(BIN)/python -m prove.replicas
	@$(BIN)/python -m prove.flapping

# BASE: another base than the one the Dockerfile names. BUILD: more options of `docker build`.
image:
	docker build $(if $(BASE),--build-arg BASE='$(BASE)') $(BUILD) --tag '$(IMAGE)' .
