# Requires Python 3.11 or later, make, and a package index that pip can reach.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO := $(BIN)/saccade demo --out demo
# One test process per core; more threads in each process would only wait for one another.
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest -n auto --dist=worksteal

# Python keeps compiled modules, also where the environment forbids it: the tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install browser demo test soak test-fast test-gpu coverage lint bench bench-gpu gpu docs clean

help:
	@echo "make install    create .venv with all dependencies, at the tested versions"
	@echo "make demo       run the first experiment; report, leaderboard and results are written to demo/"
	@echo "make test       check style, types and imports, then run all tests"
	@echo "make test-fast  run the tests that need no browser, no cluster, no other process and little time"
	@echo "make soak       run the tests that make test leaves out: hostile input, all examples: about half an hour"
	@echo "make coverage   run all tests and list the lines and branches that none of them reaches"
	@echo "make lint       check style, types and imports"
	@echo "make browser    find Chromium for the page tests, or install it"
	@echo "make docs       run the notebooks and build the documentation site in build/site"
	@echo "make bench      run the benchmarks; results are written to benchmarks/results/"
	@echo "make test-gpu   run the tests of the GPU kernels on a GPU"
	@echo "make bench-gpu  run the benchmarks of the gates on a GPU"
	@echo "make clean      remove everything that the other targets write, except .venv"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "saccade requires Python 3.11 or later, and '$(PYTHON)' is not; try: make install PYTHON=python3.12"; exit 1; }
	@echo "install: all dependencies into .venv (PyTorch is large: minutes, several GB)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $(INSTALLED)

# Without a stamp file: a browser can be removed again, and finding one takes a second.
browser: install
	@sh tests/support/install_browser.sh $(BIN)/python

demo: install
	@echo "demo: which attention finds the white patch, and what a pretrained network sees: $(DEMO)"
	@$(DEMO)

test: install browser lint
	@echo "test: all tests, and the examples in docstrings"
	@$(PYTEST) -m 'not soak'

soak: install
	@echo "soak: hundreds of hostile command lines and files, and every example that make test leaves out"
	@$(PYTEST) -m soak

test-fast: install
	@echo "test-fast: the tests without the markers slow, browser, ray and process"
	@$(PYTEST) -m 'not slow and not browser and not ray and not process and not soak'

coverage: install browser
	@echo "coverage: all tests, and the lines and branches that none of them reaches"
	@$(PYTEST) --cov

lint: install
	@echo "lint: style (ruff), types (mypy) and imports between packages (import-linter)"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy --num-workers auto
	@$(BIN)/lint-imports

bench: install
	@echo "bench: speed compared with textbook implementations, into benchmarks/results/ (two hours)"
	@$(BIN)/python benchmarks/mechanisms.py --repeats 21
	@$(BIN)/python benchmarks/mechanisms.py --repeats 15 --layout channels_last
	@$(BIN)/python benchmarks/mechanisms.py --repeats 15 --allocator default
	@$(BIN)/python benchmarks/pairwise.py
	@$(BIN)/python benchmarks/whole_networks.py
	@$(BIN)/python benchmarks/whole_networks.py --memory
	@$(BIN)/python benchmarks/pipeline.py
	@$(BIN)/python benchmarks/waiting.py

# Both need a GPU, and fail in one sentence where there is none.
gpu: install
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { \
	  echo "PyTorch finds no CUDA GPU here"; exit 1; }

test-gpu: gpu
	@echo "test-gpu: the kernels on the GPU"
	@$(BIN)/pytest tests/ops/test_triton_gates.py tests/ops/test_triton_kernels.py

bench-gpu: gpu
	@echo "bench-gpu: speed of the gates in two types and layouts, into benchmarks/results/"
	@for layout in contiguous channels_last; do for dtype in float32 bfloat16; do \
	  $(BIN)/python benchmarks/mechanisms.py --dtype $$dtype --layout $$layout \
	    --out benchmarks/results/mechanisms-cuda-$$dtype-$$layout.json || exit 1; done; done

docs: install
	@echo "docs: the site, into build/site; runs the notebooks, a few minutes"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	@echo "clean: the demo, builds and caches"
	@rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
