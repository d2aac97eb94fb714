# Two commands do everything on a machine with only Python 3.11+ and make:
#   make run    install into .venv, then find a mixture on the embedded corpus (BUDGET=64 proxies)
#   make test   install, then lint, types and tests
# And for those who doubt that a search survives anything (about an hour; ARGS="--list" shows the cases):
#   make torture
# Hundreds of random sets of constraints through everything that makes mixtures (ARGS="--sets 20"):
#   make feasibility
PYTHON ?= python3
BUDGET ?= 64
BIN := .venv/bin

.PHONY: run test lint types tests torture feasibility clean

run: .venv/.installed
	$(BIN)/regmix-active run --budget $(BUDGET) --verify

test: lint types tests

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed
	$(BIN)/mypy

# Two processes of tests, one thread in each: more threads only get in the way of the tests' own worker processes.
tests: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

torture: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture $(ARGS)

feasibility: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.feasibility $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "regmix-active needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing into .venv (a minute or two) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
