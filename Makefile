# Every verb is one command; the logic is in Python (deploy/cli.py). `make` alone lists them.
# Verbs are named like folders (server, nginx, ..) nowhere, and all are phony all the same.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS := deploy/requirements
RUN := $(BIN)/python -m deploy.cli
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate pyproject.toml

.PHONY: help up scale resources status stats logs restart down train bench test check lock clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(BIN)/.runtime ## [N=1] [HTTP_PORT=80] [LOCUST_PORT=8089]: all it takes to answer a prediction
	@$(RUN) up

scale: $(BIN)/.runtime ## N=3: change the number of replicas; no request fails meanwhile
	@$(RUN) scale

resources: $(BIN)/.runtime ## CPUS=1: hold each replica to whole CPUs, with as many workers
	@$(RUN) resources

status: $(BIN)/.runtime ## what runs, with which model
	@$(RUN) status

stats: $(BIN)/.runtime ## CPU and memory, shared and private, of each program
	@$(RUN) stats

logs: $(BIN)/.runtime ## [S=server|nginx|locust|all]: what a service printed
	@$(RUN) logs

restart: $(BIN)/.runtime ## every replica anew, one after another
	@$(RUN) restart

down: $(BIN)/.runtime ## stop everything
	@$(RUN) down

train: $(BIN)/.runtime ## [COVERTYPE_PATH=file.csv.gz]: fit, check, log, register, set @champion
	@$(RUN) train

bench: $(BIN)/.runtime ## the cost of one prediction on one worker, against a bare loop; needs wrk
	@$(BIN)/python -m deploy.bench

test: $(BIN)/.development ## all tests; PYTEST= for options, as PYTEST="-m 'not e2e'"
	@$(BIN)/python -m pytest $(PYTEST)

check: $(BIN)/.development ## linters and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

lock: $(BIN)/.development ## pin every dependency anew, for every platform and Python; the smaller locks follow the largest
	@$(LOCK) --upgrade --extra train --extra local --extra dev -o $(LOCKS)/dev.txt
	@$(LOCK) --constraint $(LOCKS)/dev.txt --extra train --extra local -o $(LOCKS)/local.txt
	@$(LOCK) --constraint $(LOCKS)/dev.txt -o $(LOCKS)/server.txt

clean: $(BIN)/.runtime ## [YES=1]: stop everything and delete var/: registry, models, logs
	@$(RUN) clean

# --- the environment: made on first use, and again when a lock file changes ------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Forkcast needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1). Try: make up PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "error: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(BIN)/.runtime: $(BIN)/python $(LOCKS)/local.txt
	@echo "installing the packages of $(LOCKS)/local.txt into $(VENV) (a minute or two, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCKS)/local.txt
	@touch $@

$(BIN)/.development: $(BIN)/.runtime $(LOCKS)/dev.txt
	@echo "installing the packages of $(LOCKS)/dev.txt into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCKS)/dev.txt
	@touch $@
