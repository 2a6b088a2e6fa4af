# Every verb is one command; the logic is in Python (deploy/cli.py). `make` alone lists them.
# Verbs are named like folders (server, nginx, ..) nowhere, and all are phony all the same.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS := deploy/requirements
RUN := $(BIN)/python -m deploy.cli
LAB := $(BIN)/python -m deploy.scaling
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate

.PHONY: help up up-full monitoring scale resources status stats logs restart down build publish
.PHONY: train compile promote rollback load compare min-resources max-users plan report clean-results
.PHONY: bench bench-engines test check audit lock clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(BIN)/.cli ## [N=1] [HTTP_PORT=80] [LOCUST_PORT=8089]: all it takes to answer a prediction
	@$(RUN) up

up-full: $(BIN)/.cli ## [MLFLOW_PORT=5000] [DATABASE_URL=] [S3_ENDPOINT_URL= S3_BUCKET=]: that, with a registry of its own: MLflow, a database, an object store
	@$(RUN) up-full

monitoring: $(BIN)/.cli ## [PROMETHEUS_PORT=9090] [GRAFANA_PORT=3000]: watch the stack that is up: Prometheus with its alerts, Grafana with a dashboard
	@$(RUN) monitoring

scale: $(BIN)/.cli ## N=3: change the number of replicas; no request fails meanwhile
	@$(RUN) scale

resources: $(BIN)/.cli ## CPUS=1 [MEMORY=1G]: what each replica may use, with as many workers as CPUs
	@$(RUN) resources

status: $(BIN)/.cli ## what runs, with which model
	@$(RUN) status

stats: $(BIN)/.cli ## CPU and memory of each container or program
	@$(RUN) stats

logs: $(BIN)/.cli ## [S=server|nginx|locust|mlflow|prometheus|..|all]: what a service printed
	@$(RUN) logs

restart: $(BIN)/.cli ## every replica anew, one after another
	@$(RUN) restart

down: $(BIN)/.cli ## stop everything
	@$(RUN) down

build: $(BIN)/.cli ## the images, for this machine
	@$(RUN) build

publish: $(BIN)/.cli ## IMAGE=registry/name TAG=v1: the images for amd64 and arm64, built and pushed
	@$(RUN) publish

train: $(BIN)/.cli ## [COVERTYPE_PATH=file.csv.gz] [FOREST=large]: fit, check, log, register, set @champion
	@$(RUN) train

compile: $(BIN)/.cli ## MODEL_URI=models:/name@alias [DATA=rows.csv]: a compiled form for a model trained elsewhere, as a new version
	@$(RUN) compile

promote: $(BIN)/.cli ## VERSION=2 [FORCE=1]: move the alias to another version and every replica with it; no request fails meanwhile
	@$(RUN) promote

rollback: $(BIN)/.cli ## back to the version before
	@$(RUN) rollback

load: $(BIN)/.scaling ## [PROFILE=quick|medium|load|stress] [USERS=] [SPAWN_RATE=] [RUN_TIME=5m]: one test of the stack that is up
	@$(LAB) load

compare: $(BIN)/.scaling ## [CPUS=1] [MEMORY=1G] [WORKERS="1 2 4"] [TOPOLOGIES="1x1/1G:2 .."] [USERS=10000] [RESUME=results/..]: one replica or many
	@$(LAB) compare

min-resources: $(BIN)/.scaling ## USERS=2000: the least CPU, then memory, that holds them
	@$(LAB) min-resources

max-users: $(BIN)/.scaling ## [TOPOLOGIES=] [USERS=10000]: the most users that the stack which is up holds
	@$(LAB) max-users

plan: $(BIN)/.scaling ## USERS=1000000: replicas and CPUs for them, projected from what was measured
	@$(LAB) plan

report: $(BIN)/.scaling ## [RESULTS=results/..]: the report of the newest results, again
	@$(LAB) report

bench: $(BIN)/.runtime ## [QUICK=1] [ENGINE=] [WORKERS="1 2 4"] [CONNECTIONS="1 64 512"] [BENCH_SECONDS=6] [DATA=rows.csv]: the cost of a prediction
	@$(BIN)/python -m deploy.bench

bench-engines: $(BIN)/.engines ## [COVERTYPE_PATH=file.csv.gz]: one forest on every engine that could compute it; minutes
	@$(BIN)/python -W ignore -m deploy.bench.engines

test: $(BIN)/.development ## all tests; PYTEST= for options, as PYTEST="-m 'not e2e'"
	@$(BIN)/python -m pytest --numprocesses logical --dist worksteal $(PYTEST)

check: $(BIN)/.development ## linters, types, and the configuration files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/python -m deploy.checks.imports
	@$(BIN)/hadolint deploy/images/Dockerfile
	@test ! -x $(BIN)/shellcheck || $(BIN)/shellcheck $$(git ls-files '*.sh' '*.envsh') .ci/run
	@if command -v promtool >/dev/null; then \
	  promtool check config deploy/monitoring/prometheus.yml >/dev/null && promtool test rules deploy/monitoring/rules_test.yml >/dev/null; else \
	  echo "the rules of Prometheus were not checked: there is no promtool here; the tests do it in its image"; fi
	@$(BIN)/python -m deploy.checks.kubernetes
	@if docker compose version >/dev/null 2>&1; then docker compose config --quiet; else \
	  echo "docker-compose.yml was not checked: there is no docker compose here"; fi
	@if docker stack config --help >/dev/null 2>&1; then MODEL_URI=models:/any/1 MLFLOW_TRACKING_URI=http://any \
	  docker stack config $(addprefix -c ,deploy/swarm/stack.yml $(filter-out %/stack.yml,$(wildcard deploy/swarm/*.yml))) >/dev/null; else \
	  echo "deploy/swarm was not checked: there is no docker stack here"; fi

audit: $(BIN)/.development ## known holes in the pinned packages; says so where no database of them can be reached
	@$(BIN)/python -m deploy.checks.audit

lock: $(BIN)/.development ## pin every dependency anew, for every platform and Python; the smaller locks follow the largest
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

clean-results: $(BIN)/.scaling ## delete what the lab and the benches measured
	@$(LAB) clean-results

clean: $(BIN)/.cli ## [YES=1]: stop everything and delete its data: registry, models, logs
	@$(RUN) clean

# --- the environment: made on first use, and again when a lock file changes ------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Forkcast needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1). Try: make up PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "error: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }

# What the verbs themselves need; containers bring the rest along.
$(BIN)/.cli: $(BIN)/python $(LOCKS)/cli.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCKS)/cli.txt
	@touch $@

# What the scaling lab computes and draws with, where containers bring the rest.
$(BIN)/.scaling: $(BIN)/.cli $(LOCKS)/scaling.txt
	@echo "installing the packages of $(LOCKS)/scaling.txt into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCKS)/scaling.txt
	@touch $@

# What the local backend runs. Asked for by deploy/backends/choice.py where it is missing.
$(BIN)/.runtime: $(BIN)/.cli $(LOCKS)/local.txt
	@echo "installing the packages of $(LOCKS)/local.txt into $(VENV) (a minute or two, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCKS)/local.txt
	@touch $@

# What the engine forest is compared with.
$(BIN)/.engines: $(BIN)/.runtime $(LOCKS)/engines.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCKS)/engines.txt
	@touch $@

# The engine onnx, locally: make .venv/bin/.onnx. In containers: make up EXTRAS=onnx.
$(BIN)/.onnx: $(BIN)/.runtime $(LOCKS)/onnx.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCKS)/onnx.txt
	@touch $@

$(BIN)/.development: $(BIN)/.runtime $(LOCKS)/dev.txt
	@echo "installing the packages of $(LOCKS)/dev.txt into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCKS)/dev.txt
	@touch $@
