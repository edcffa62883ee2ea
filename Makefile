# `make demo` and `make test` set up what they need; nothing else has to be run first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
SITE := $(VENV)/.site
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test test-slow lint docs bench clean

demo: $(READY)
	$(BIN)/taut demo

test: $(READY)
	$(PYTEST) -q -n 2

test-slow: $(READY)
	$(PYTEST) -q -m "slow and not gpu"

lint: $(READY)
	$(BIN)/ruff format --check src tests benchmarks examples scripts
	$(BIN)/ruff check src tests benchmarks examples scripts
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# The pages of docs/ and of the packages as a site in site/; a warning is an error.
docs: $(SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(PEERS)
	$(BIN)/python -m benchmarks.speed

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'taut needs Python 3.11 or later; pass one with PYTHON=...')"
	@echo "Setting up $(VENV) with PyTorch and the tools of the tests: some minutes, once."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q "pip>=25.1"
	@$(BIN)/python -m pip install -q -c constraints.txt -e . --group dev
	@touch $@

$(PEERS): $(READY)
	@$(BIN)/python -m pip install -q -c constraints.txt --group bench
	@touch $@

$(SITE): $(READY)
	@$(BIN)/python -m pip install -q -c constraints.txt --group docs
	@touch $@

clean:
	rm -rf $(VENV) site .pytest_cache .ruff_cache .hypothesis
