# MedAI Flow. `make demo` and `make test` need only python3 (3.11 or newer), make and a package index.
# uv is used when it is there, pip otherwise. Everything is installed into .venv, pinned by hash.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
export MEDAI_HOME ?= var
# The suite waits as much as it works: three processes fill two cores. What goes through Ray stays in
# one of them and starts first (tests/conftest.py).
SPREAD ?= --numprocesses=3 --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test check coverage format lint types contracts long faults bench audit docs notes lock clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(VENV)/.demo ## Install what running needs

demo: $(VENV)/.demo ## The main job on a real chest film, from nothing to a verified record
	@$(BIN)/medai demo

serve: $(VENV)/.demo ## Run the server until Ctrl-C (first: .venv/bin/medai init)
	@exec $(BIN)/medai serve

test: $(VENV)/.dev ## The tests (SQLite, PostgreSQL from a wheel, a real Ray Serve); the longest are in make long
	$(BIN)/python -m pytest $(SPREAD)

check: lint types contracts test ## What CI asks for: lint, types, contracts, tests

coverage: $(VENV)/.dev ## The tests again, with branch coverage; fails below 95 % (takes twice as long)
	$(BIN)/python -m pytest $(SPREAD) --cov --cov-report=term

long: $(VENV)/.dev ## The tests that take minutes: several replicas and nodes, model life, the handbook's commands
	$(BIN)/python -m pytest -m long

faults: $(VENV)/.dev ## Break it: 200 kills, outages, full disks, 10,000 named patients (about 20 minutes)
	$(BIN)/python -m tests.faults.run

bench: $(VENV)/.bench ## Compare with ONNX Runtime alone, bare FastAPI and LitServe (about 25 minutes)
	$(BIN)/python -m benchmarks.run

audit: $(VENV)/.audit ## Vulnerabilities, licences, secrets in the history, SBOM (dist/sbom.cdx.json)
	$(BIN)/python -m supply_chain.run

docs: $(VENV)/.docs ## The handbook as a site, strictly: dist/site/index.html
	$(BIN)/zensical build --strict --clean

notes: ## Print what CHANGELOG.md says of a release: make notes TAG=v1.2.3
	@$(PYTHON) -m supply_chain.release_notes "$(TAG)"

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/deptry .

types: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev ## Put the code in order
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: ## Resolve and pin the requirements anew (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv"; exit 1; }
	for group in demo dev bench audit docs; do \
	  uv pip compile pyproject.toml --group $$group --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet --upgrade \
	    $$(test $$group = demo || echo --constraint requirements/demo.txt) \
	    --output-file requirements/$$group.txt; \
	done

clean: ## Remove what was built (not var/, which holds records)
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "MedAI Flow needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "this python3 cannot make a venv: install your system's python3-venv package"; exit 1; }

$(VENV)/.%: requirements/%.txt pyproject.toml | $(BIN)/python
ifdef UV
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r $<
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --no-build-isolation --editable .
endif
	@touch $@
