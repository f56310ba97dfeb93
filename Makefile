# Everything that the targets need they install into .venv; only Python >= 3.11 and make must be there.
# PYTHON=python3.12 picks another interpreter, PORT=5011 another port for `run`.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help run demo speech test check fmt bench

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUN) ## Start one instance with its own Redis, ready for a node and a browser
	@$(PY) manage.py migrate --verbosity 0
	@set -e; $(if $(PORT),export LINGUASCHED__SERVER__PORT=$(PORT);) \
	address=$$($(PY) manage.py config server.host server.port); set -- $$address; \
	echo "sessions  ws://$$1:$$2/ws/session"; \
	echo "nodes     ws://$$1:$$2/ws/node"; \
	echo "ready?    http://$$1:$$2/readyz"; \
	echo "admin     http://$$1:$$2/admin/"; \
	exec $(PY) -m daphne --verbosity 0 -b $$1 -p $$2 linguasched.asgi:application

demo: $(RUN) ## Watch the main job end to end: two instances, two nodes, four sessions
	@$(PY) manage.py demo

speech: $(RUN) ## Add what the speech engine of the reference node takes from PyPI
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-speech.txt

test: $(DEV) ## Run all tests, on real Redis servers
	@$(PY) -m pytest

check: $(DEV) ## Check format, lint, types and layers (seconds)
	@$(PY) -m ruff format --check --quiet . || { echo "run 'make fmt'"; exit 1; }
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-logo

fmt: $(DEV) ## Format, and repair what ruff can repair
	@$(PY) -m ruff check --quiet --fix . || true
	@$(PY) -m ruff format .

bench: $(DEV) ## Measure decision cost, throughput and latency
	@$(PY) -m tests.load.bench

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another one with PYTHON=...")'
	@$(PYTHON) -m venv $(VENV)

$(RUN): requirements.txt | $(PY)
	@echo "installing requirements.txt into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(DEV): requirements-dev.txt requirements.txt | $(PY)
	@echo "installing requirements-dev.txt into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(RUN)
