# make demo      the whole way once, on real Breakout, in about ten minutes on two cores
# make test      the tests, against the installed package, without those marked `slow`
# make test-all  all of them
# make check     the linters and the type checker
# make format    rewrites the code in the house format
# make bench     measures storage, loading, training, labelling, and what labelling and recording cost an environment

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := setup.cfg pyproject.toml constraints.txt README.md $(shell find lapa lapa_plugins envs checkpoints/pretrained -type f -not -name '*.pyc')

.PHONY: demo test test-all check format bench clean

demo: $(VENV)/.installed
	$(BIN)/lapa demo

# One thread for each of two processes: the models of the tests are so small that more threads cost time.
test: $(VENV)/.tested
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-all: $(VENV)/.tested
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

check: $(VENV)/.checked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.checked
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python scripts/benchmark.py
	$(BIN)/python scripts/benchmark_envs.py

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Not editable: what runs is the package as users get it.
$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	$(PIP) .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(PIP) ".[test]"
	touch $@

$(VENV)/.checked: $(VENV)/.installed
	$(PIP) ".[dev]"
	touch $@
