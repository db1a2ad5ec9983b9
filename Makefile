.DEFAULT_GOAL := help
SHELL := /bin/bash
PY := .venv/bin/python
STAMP := .venv/.installed

.PHONY: help setup check format lint types contracts unit lock clean

help: ## this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv from the locked requirements

$(STAMP): requirements/dev.txt pyproject.toml
	@python3 -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

check: lint types contracts unit ## format, lint, types, import contracts, unit tests (under a minute)

format: $(STAMP) ## format and mend what can be mended
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

lint: $(STAMP)
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .

types: $(STAMP)
	@$(PY) -m mypy

contracts: $(STAMP)
	@.venv/bin/lint-imports

unit: $(STAMP) ## unit tests alone
	@$(PY) -m pytest tests/unit

lock: $(STAMP) ## resolve the requirements again after an edit of pyproject.toml
	@.venv/bin/uv pip compile pyproject.toml -q --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 -o requirements/run.txt
	@.venv/bin/uv pip compile pyproject.toml -q --extra dev --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 -o requirements/dev.txt

clean: ## remove what make made here (not the caches of built binaries and images)
	@rm -rf .venv .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build demo.png
