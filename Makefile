# What a newcomer runs: `make demo`, then `make test`. Set-up that is already right is not repeated:
# the stamps in .venv depend on the locks and on pyproject.toml.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test test-services lint audit bench clean

BIN := .venv/bin
# -qq still prints errors; --no-deps because the locks are complete and leave out what breaks.
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/run.stamp  ## Run the whole pipeline on the embedded model; the last line is the run directory
	@$(BIN)/rnr run configs/demo.yaml

test: lint  ## Check style and types, then run every test
	@$(BIN)/python -m pytest tests/unit tests/golden --numprocesses auto
	@# Two at a time: each module has a Ray of its own, and half of a start is waiting.
	@$(BIN)/python -m pytest tests/ray tests/e2e --numprocesses 2 --dist loadfile

# Not part of `test`: it installs system packages, for which it has to be root.
test-services: .venv/dev.stamp  ## Test on real servers and in a browser; installs them from Debian
	@tests/services/install
	@$(BIN)/python -m pytest tests/services

lint: .venv/dev.stamp  ## Check style, types, and that what is installed is what the locks say
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/python requirements/audit

audit: .venv/audit.stamp  ## Ask the advisory database about the locked versions; needs a network
	@.venv/audit/bin/python requirements/audit --advisories

bench: .venv/dev.stamp  ## Run the side-by-side timings
	@set -e; for name in generation release reveal icu; do $(BIN)/python benchmarks/$$name.py; done

clean:  ## Remove the environment and caches; runs are kept
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache

.venv/run.stamp: requirements/cpu.txt pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"rnr_dist needs Python 3.11 or newer; python3 is " + sys.version.split()[0] + ".")'
	@echo "Setting up .venv: a few minutes, once." >&2
	@python3 -m venv .venv
	@$(INSTALL) -r requirements/cpu.txt
	@$(INSTALL) --no-build-isolation --editable .
	@touch $@

# Apart from the locked packages, some of which pip-audit would exchange.
.venv/audit.stamp: .venv/run.stamp
	@python3 -m venv .venv/audit
	@.venv/audit/bin/python -m pip install -qq --disable-pip-version-check pip-audit
	@touch $@

.venv/dev.stamp: requirements/dev.txt .venv/run.stamp
	@$(INSTALL) -r requirements/dev.txt
	@touch $@
