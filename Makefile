# Every target sets up what it needs in .venv, once; nothing else has to be run first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q -c constraints.txt
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test test-slow test-mutants lint docs zoo bench check-core release-check clean

demo: $(VENV)/.ready-demo
	$(BIN)/taut demo

# A device without hardware is registered with torch for good: its tests have processes of their own.
test: $(VENV)/.ready-test
	$(PYTEST) -q -n 2 --dist worksteal --ignore tests/mutants --ignore tests/unit/device
	$(PYTEST) -q -n 2 --dist worksteal tests/unit/device

test-slow: $(VENV)/.ready-test
	$(PYTEST) -q -m "slow and not gpu"

# One term of the source after the other is altered; some check must notice.
test-mutants: $(VENV)/.ready-test
	$(PYTEST) -q -n 2 tests/mutants

lint: $(VENV)/.ready-test $(VENV)/.ready-lint
	$(BIN)/ruff format --check src tests experiments examples scripts
	$(BIN)/ruff check src tests experiments examples scripts
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# The pages of docs/ and of the packages as a site in site/; a warning is an error.
docs: $(VENV)/.ready-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Prove every certificate of zoo/ again from its files alone.
zoo: $(VENV)/.ready-test
	$(BIN)/python -m experiments.zoo

bench: $(VENV)/.ready-bench
	$(BIN)/python -m experiments.speed

# The wheel in an environment of its own, with the core dependencies alone.
check-core:
	$(PYTHON) scripts/check_core_install.py

# The sdist and the wheel in dist/: metadata, README, and the demo from the installed wheel.
release-check: $(VENV)/.ready-release
	$(BIN)/python scripts/release.py

# Commands, training and reports, without the tools of tests, lint, docs and benchmarks.
$(VENV)/.ready-demo: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'taut needs Python 3.11 or later; pass one with PYTHON=...')"
	@echo "Setting up $(VENV) with PyTorch: some minutes, once."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q "pip>=25.1"
	@$(PIP) -e '.[cli]'
	@touch $@

# Each dependency group of pyproject.toml: test, lint, docs, bench, release.
$(VENV)/.ready-%: $(VENV)/.ready-demo
	@$(PIP) -e '.[cli]' --group $*
	@touch $@

clean:
	rm -rf $(VENV) site dist .pytest_cache .ruff_cache .hypothesis
