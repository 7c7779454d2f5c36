# make demo          train, score and use a small model; the first call also installs everything
# make test          ruff, mypy and all tests
# make fast          the quick tests
# make lint          ruff and mypy
# make walkthrough   execute docs/walkthrough.ipynb again
# make reference     API reference in build/reference
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test fast lint walkthrough reference clean

demo: $(INSTALLED)
	$(BIN)/python -m lightning_modules.tools.demo

# One process more than cores, up to 8: some tests mostly wait. One thread per process: threads
# that compete for a core slow each other down tenfold. Compiled modules are stored, also where the
# environment forbids it: tests start hundreds of processes.
WORKERS = $(shell $(BIN)/python -c 'import os; print(min(8, 1 + os.cpu_count()))')
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup

test: lint
	$(PYTEST)

# Left out before they are collected: their imports alone take several seconds per worker.
SLOW_TO_IMPORT := tests/reference tests/slurm tests/webapp/test_browser.py tests/webapp/test_server.py tests/training/test_sweeps.py

fast: $(INSTALLED)
	$(PYTEST) -m "not slow" $(SLOW_TO_IMPORT:%=--ignore %)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

walkthrough: $(INSTALLED)
	$(BIN)/jupyter execute --inplace docs/walkthrough.ipynb

reference: $(INSTALLED)
	$(BIN)/pdoc --docformat google --math -o build/reference lightning_modules datamodules

# uv, if installed, takes seconds where pip takes minutes.
$(INSTALLED): pyproject.toml .ci/constraints.txt .ci/no-deps.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11 to 3.13 is required, $(PYTHON) is $$($(PYTHON) -V): make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python $(PYTHON) .venv && \
		uv pip install --quiet --python $(BIN)/python --constraint .ci/constraints.txt --editable '.[dev]' && \
		uv pip install --quiet --python $(BIN)/python --no-deps --requirement .ci/no-deps.txt; \
	else \
		echo "Installing with pip into .venv: about 7 GB, 4 to 17 minutes. If uv is installed, it is used and is faster." && \
		$(PYTHON) -m venv .venv && \
		$(BIN)/python -m pip install --constraint .ci/constraints.txt --editable '.[dev]' && \
		$(BIN)/python -m pip install --quiet --no-deps --requirement .ci/no-deps.txt; \
	fi
	@touch $@

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache
