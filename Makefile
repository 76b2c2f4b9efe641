# One command per task; `make help` lists them. Every task sets up what it needs, so a fresh clone can start anywhere.
# Another interpreter: `make setup PYTHON=python3.13`. Another folder for it: `make test VENV=/some/where`.

VENV ?= .venv
PYTHON ?=
PYTEST_ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
HUB_VENV ?= .venv-hub
HUB_STAMP := $(HUB_VENV)/.set-up

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help setup hub-server demo test test-slow check format wheel clean

# Where tests/hub_server finds the server, and that it must: without these they would skip.
test test-slow: export HUB_SERVER_PYTHON = $(abspath $(HUB_VENV)/bin/python)
test test-slow: export HUB_SERVER_REQUIRED = 1

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with everything that the other tasks need (nothing to do when it is up to date)

hub-server: $(HUB_STAMP)  ## make .venv-hub with olah, the Hub server that the tests read from (seconds, 113 MB)

demo: $(STAMP)  ## erase a concept from the embedded pipeline and draw before and after
	$(BIN)/diffusers-erasure demo

test: $(STAMP) $(HUB_STAMP)  ## run the tests, all but the slow ones (PYTEST_ARGS="-k name" to choose)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: $(STAMP) $(HUB_STAMP)  ## run the slow tests only
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

check: $(STAMP)  ## lint, format, strict types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## put the code into its format and mend what the linter can mend
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

wheel: $(STAMP)  ## build the wheel, install it alone, and try what is in it
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python .ci/check_wheel.py dist

clean:  ## remove what was built (not .venv, .venv-hub)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# torch first: a build for this machine that is already at hand (CPU, some CUDA) then stays, whatever the rest asks for.
$(STAMP): pyproject.toml constraints.txt
	@set -eu; \
	if [ ! -x $(BIN)/python ]; then \
	    found=; \
	    for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python); do \
	        if $$candidate -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	        then found=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "error: no Python that fits was found; Python 3.11 or newer with its venv module is needed;" \
	            "install one (on Debian: python3 and python3-venv) or name it: make setup PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	    echo "Making $(VENV) with $$($$found --version)"; \
	    $$found -m venv $(VENV); \
	fi
	$(BIN)/python -m pip install --quiet -c constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $(STAMP)

# A program that the tests start, not a dependency: its packages must not meet the project's, so it has its own place.
$(HUB_STAMP): tests/hub_server/requirements.txt | $(STAMP)
	$(BIN)/python -m venv --clear $(HUB_VENV)
	$(HUB_VENV)/bin/python -m pip install --quiet --no-deps -r tests/hub_server/requirements.txt
	@touch $(HUB_STAMP)
