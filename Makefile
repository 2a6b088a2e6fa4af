# Each verb runs one Python command (deploy/cli.py, deploy/scaling). `make` without a verb lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS := deploy/requirements
RUN := $(BIN)/python -m deploy.cli
LAB := $(BIN)/python -m deploy.scaling
# Verbs that start replicas on this machine need Linux. On other systems they print an error, without installing packages.
ifeq ($(shell uname -s),Linux)
RUNTIME := $(BIN)/.runtime
ENGINES := $(BIN)/.engines
else
RUNTIME := $(BIN)/.cli
ENGINES := $(BIN)/.cli
endif
# pip's warnings are shown only if it fails.
INSTALL = install() { printed=$$($(BIN)/python -m pip install --quiet --disable-pip-version-check -r "$$1" 2>&1) || { printf '%s\n' "$$printed" >&2; exit 1; }; }; install
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate

.PHONY: help up up-full monitoring scale resources status stats logs restart down build publish
.PHONY: train compile promote rollback load compare min-resources max-users plan report clean-results
.PHONY: bench bench-engines test test-slow check audit lock clean
.DEFAULT_GOAL := help
# Without .pyc files, every command would compile the code again, and pytest would rewrite its assertions again.
unexport PYTHONDONTWRITEBYTECODE

help: $(BIN)/python
	@$(BIN)/python -m deploy.help

up: $(BIN)/.cli
	@$(RUN) up

up-full: $(BIN)/.cli
	@$(RUN) up-full

monitoring: $(BIN)/.cli
	@$(RUN) monitoring

scale: $(BIN)/.cli
	@$(RUN) scale

resources: $(BIN)/.cli
	@$(RUN) resources

status: $(BIN)/.cli
	@$(RUN) status

stats: $(BIN)/.cli
	@$(RUN) stats

logs: $(BIN)/.cli
	@$(RUN) logs

restart: $(BIN)/.cli
	@$(RUN) restart

down: $(BIN)/.cli
	@$(RUN) down

build: $(BIN)/.cli
	@$(RUN) build

publish: $(BIN)/.cli
	@$(RUN) publish

train: $(BIN)/.cli
	@$(RUN) train

compile: $(BIN)/.cli
	@$(RUN) compile

promote: $(BIN)/.cli
	@$(RUN) promote

rollback: $(BIN)/.cli
	@$(RUN) rollback

load: $(BIN)/.scaling
	@$(LAB) load

compare: $(BIN)/.scaling
	@$(LAB) compare

min-resources: $(BIN)/.scaling
	@$(LAB) min-resources

max-users: $(BIN)/.scaling
	@$(LAB) max-users

plan: $(BIN)/.scaling
	@$(LAB) plan

report: $(BIN)/.scaling
	@$(LAB) report

bench: $(RUNTIME)
	@$(BIN)/python -m deploy.bench

bench-engines: $(ENGINES)
	@$(BIN)/python -W ignore -m deploy.bench engines

test: $(BIN)/.development
	@$(BIN)/python -m pytest --numprocesses auto --dist loadgroup --no-loadscope-reorder -m "not slow" $(PYTEST)

test-slow: $(BIN)/.development
	@$(BIN)/python -m pytest -m slow $(PYTEST)

check: $(BIN)/.development
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/python -m deploy.checks.imports
	@$(BIN)/python -m deploy.checks.links
	@$(BIN)/hadolint deploy/images/Dockerfile
	@test ! -x $(BIN)/shellcheck || $(BIN)/shellcheck $$(git ls-files '*.sh' '*.envsh') .ci/run
	@if command -v promtool >/dev/null; then \
	  promtool check config deploy/monitoring/prometheus.yml >/dev/null && promtool test rules deploy/monitoring/rules_test.yml >/dev/null; else \
	  echo "not checked: the rules of Prometheus, because promtool is missing (the tests check them in its image)"; fi
	@$(BIN)/python -m deploy.checks.kubernetes
	@if docker compose version >/dev/null 2>&1; then docker compose config --quiet; else \
	  echo "not checked: docker-compose.yml, because docker compose is missing"; fi
	@if docker stack config --help >/dev/null 2>&1; then MODEL_URI=models:/any/1 MLFLOW_TRACKING_URI=http://any \
	  docker stack config $(addprefix -c ,deploy/swarm/stack.yml $(filter-out %/stack.yml,$(wildcard deploy/swarm/*.yml))) >/dev/null; else \
	  echo "not checked: deploy/swarm, because docker stack is missing"; fi

audit: $(BIN)/.development
	@$(BIN)/python -m deploy.checks.audit

lock: $(BIN)/.development
	@$(LOCK) pyproject.toml --upgrade --extra registry --extra onnx --group cli --group lab --group scaling --group local --group container --group dev -o $(LOCKS)/dev.txt
	@$(LOCK) -c $(LOCKS)/dev.txt pyproject.toml --extra registry --group cli --group lab --group scaling --group local -o $(LOCKS)/local.txt
	@$(LOCK) -c $(LOCKS)/dev.txt pyproject.toml --extra registry --group container -o $(LOCKS)/model.txt
	@$(LOCK) -c $(LOCKS)/dev.txt pyproject.toml --group container -o $(LOCKS)/server.txt
	@$(LOCK) -c $(LOCKS)/dev.txt --group lab --group container -o $(LOCKS)/locust.txt
	@$(LOCK) -c $(LOCKS)/dev.txt --group cli -o $(LOCKS)/cli.txt
	@$(LOCK) -c $(LOCKS)/dev.txt --group cli --group scaling -o $(LOCKS)/scaling.txt
	@$(LOCK) -c $(LOCKS)/dev.txt --group image -o $(LOCKS)/image.txt
	@$(LOCK) -c $(LOCKS)/dev.txt pyproject.toml --extra onnx -o $(LOCKS)/onnx.txt
	@$(LOCK) -c $(LOCKS)/dev.txt pyproject.toml --extra parquet -o $(LOCKS)/parquet.txt
	@$(LOCK) -c $(LOCKS)/dev.txt pyproject.toml --extra onnx --group engines -o $(LOCKS)/engines.txt

clean-results: $(BIN)/.scaling
	@$(LAB) clean-results

clean: $(BIN)/.cli
	@$(RUN) clean

# --- the virtual environment: created on first use, updated when a lock file changes ------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Forkcast needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1). Try: make up PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "error: $(PYTHON) cannot create virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }

# The packages of the verbs. Containers have the other packages in their images.
$(BIN)/.cli: $(BIN)/python $(LOCKS)/cli.txt
	@$(INSTALL) $(LOCKS)/cli.txt
	@touch $@

# The packages with which the scaling lab computes and draws, in addition to those of the verbs.
$(BIN)/.scaling: $(BIN)/.cli $(LOCKS)/scaling.txt
	@echo "installing the packages of $(LOCKS)/scaling.txt into $(VENV)"
	@$(INSTALL) $(LOCKS)/scaling.txt
	@touch $@

# The packages of the local backend. deploy/backends/choice.py runs this target if they are missing.
$(BIN)/.runtime: $(BIN)/.cli $(LOCKS)/local.txt
	@echo "installing the packages of $(LOCKS)/local.txt into $(VENV) (a minute or two, once)"
	@$(INSTALL) $(LOCKS)/local.txt
	@touch $@

# The engines that `make bench-engines` compares.
$(BIN)/.engines: $(BIN)/.runtime $(LOCKS)/engines.txt
	@$(INSTALL) $(LOCKS)/engines.txt
	@touch $@

# The engine onnx for the local backend: make .venv/bin/.onnx. For containers: make up EXTRAS=onnx.
$(BIN)/.onnx: $(BIN)/.runtime $(LOCKS)/onnx.txt
	@$(INSTALL) $(LOCKS)/onnx.txt
	@touch $@

$(BIN)/.development: $(BIN)/.runtime $(LOCKS)/dev.txt
	@echo "installing the packages of $(LOCKS)/dev.txt into $(VENV)"
	@$(INSTALL) $(LOCKS)/dev.txt
	@touch $@
