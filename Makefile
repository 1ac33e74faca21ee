# Needs Python 3.11 or later, make, and a package index that pip can reach.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO := $(BIN)/saccade compare white-patch --out demo

.PHONY: help install demo test lint bench clean

help:
	@echo "make install   a virtual environment in .venv with everything, at the tested versions"
	@echo "make demo      the first experiment: its report, leaderboard and results in demo/"
	@echo "make test      style, types and all tests"
	@echo "make lint      style and types alone"
	@echo "make bench     the benchmarks, with results in benchmarks/results/"
	@echo "make clean     remove what the others wrote, but for .venv"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "saccade needs Python 3.11 or later, and '$(PYTHON)' is not; try: make install PYTHON=python3.12"; exit 1; }
	@echo "install: everything into .venv (PyTorch is large: minutes, several GB)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $(INSTALLED)

demo: install
	@echo "demo: which attention finds the white patch? $(DEMO)"
	@$(DEMO)

test: install lint
	@echo "test: all tests and the examples in docstrings, one process per core"
	@# More threads in each process would only make them wait for one another.
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest -n auto --dist=worksteal

lint: install
	@echo "lint: style (ruff) and types (mypy)"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: install
	@echo "bench: speed against textbook versions, into benchmarks/results/"
	@$(BIN)/python benchmarks/mechanisms.py

clean:
	@echo "clean: the demo, builds and caches"
	@rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
