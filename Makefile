# Everything is set up by itself, in .venv, from this checkout alone: `make demo`, `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test slow fuzz fuzz-long breakages mutants lint types chat models check bench bench-long clean

demo: $(VENV)/.run  ## two peers in two processes greet each other
	$(BIN)/trishake demo

# One more than there are cores: many tests wait for other processes.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

test: $(VENV)/.dev  ## the tests, in under two minutes
	$(BIN)/pytest -q -n $(WORKERS) --dist worksteal

slow: $(VENV)/.dev  ## the long tests
	$(BIN)/pytest -q -m slow -n auto --dist worksteal

FUZZ_SECONDS ?= 60
PARSERS ?=

fuzz: $(VENV)/.fuzz  ## each parser for a minute, guided by coverage; or PARSERS="preface verdict"
	$(BIN)/python -m tests.fuzz.coverage_guided --seconds $(FUZZ_SECONDS) $(PARSERS)

fuzz-long: $(VENV)/.dev  ## a million mutated inputs for each parser, or for PARSERS, and a table
	$(BIN)/python -m tests.fuzz $(PARSERS)

breakages: $(VENV)/.dev  ## the library broken in one place at a time, and the test that notices, in three minutes
	$(BIN)/python -m tests.breakages

mutants: $(VENV)/.mutation  ## break the core in a thousand places, and see a test go red each time
	$(BIN)/python tests/mutants.py

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

chat: $(VENV)/.run  ## the example: a room of three, scripted
	$(BIN)/python examples/smoke.py

models:  ## every state of the models of the protocol, in a minute; in need of spin and gcc
	$(PYTHON) protocol/models/check.py

check: test lint types demo chat models  ## all that CI runs

bench: $(VENV)/.bench  ## a first look, in about two minutes
	$(BIN)/python benchmarks/run.py --short --runs 3 --peers tls,trishake,trishake-peer,noise,tcp,limit-primitives

bench-long: $(VENV)/.bench  ## everything, in half an hour; writes and draws docs/benchmarks.{json,png,svg}
	$(BIN)/python benchmarks/run.py --runs 5 --json docs/benchmarks.json --plot docs/benchmarks

clean:
	rm -rf $(VENV) mutants

$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/.fuzz: pyproject.toml $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	touch $@

$(VENV)/.mutation: pyproject.toml $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[mutation]'
	touch $@

$(VENV)/.bench: pyproject.toml $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@
