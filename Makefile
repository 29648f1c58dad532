# Everything sets itself up: the first call makes a virtual environment, later ones reuse it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
LOG    := 2>&1 | { grep -v "is ignored: it is neither a file nor a directory" || true; }

.DEFAULT_GOAL := help
.PHONY: help demo test faults lint format docs bench fuzz coverage clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"routerd needs Python 3.11 or later, this is {sys.version.split()[0]}; say PYTHON=/path/to/python3.11")'
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing routerd and what the demo needs (the first time this downloads torch)"
	@set -o pipefail; $(PIP) -e '.[demo]' $(LOG)
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt tests/references.txt | $(BIN)/python
	@echo "installing routerd and what the tests need (the first time this downloads torch)"
	@set -o pipefail; $(PIP) -e '.[test,references,peers]' $(LOG)
	@set -o pipefail; $(PIP) --no-deps -r tests/references.txt $(LOG)
	@touch $@ $(VENV)/.demo

SHELL := /bin/bash

demo: $(VENV)/.demo ## run the main job on real prices: one daemon, one table, one policy change
	@$(BIN)/python -m engines.demo

test: $(VENV)/.test ## run all tests
	@$(BIN)/python -m pytest

faults: $(VENV)/.test ## do random faults to a loaded daemon, FAULT_SECONDS=60 of each kind; FAULT_SEED=… repeats a run
	@FAULT_SECONDS=$(or $(FAULT_SECONDS),60) $(BIN)/python -m pytest tests/faults -s

lint: $(VENV)/.test ## style, types and YAML
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/yamllint --strict policies config .github

format: $(VENV)/.test ## rewrite the code in the house style
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

docs: $(VENV)/.test ## regenerate the generated pages
	@$(BIN)/python docs/generate_flags.py
	@$(BIN)/python docs/generate_workloads.py

bench: $(VENV)/.test ## measure and print the figures beside their targets
	@$(BIN)/python -m benchmarks.startup
	@$(BIN)/python -m benchmarks.decide
	@$(BIN)/python -m benchmarks.run_overhead
	@$(BIN)/python -m benchmarks.load
	@$(BIN)/python -m benchmarks.batching
	@$(BIN)/python -m benchmarks.hybrid
	@$(BIN)/python -m benchmarks.workloads
	@$(BIN)/python -m benchmarks.backends

fuzz: $(VENV)/.test ## try generated frames, tasks and policies for SECONDS (120) in all, beyond what the tests do
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),120)

coverage: $(VENV)/.test ## run all tests with coverage
	@$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered

clean: ## remove the environment, the demo's state and caches
	@rm -rf $(VENV) .demo .fuzz .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
