.DEFAULT_GOAL := help
SHELL := /bin/bash
PY := .venv/bin/python
STAMP := .venv/.installed
WORKERS := $(shell nproc)
# Unit tests in several processes, one more of them than cores, since they wait for sockets and programs a third of their
# time. Each collects its own part of the files alone; each of pytest-xdist's workers would collect all. Every part takes
# files of all packages, dealt by their own names, since those of the gateway take ten times as long as others.
UNIT_JOBS := $(shell echo $$(($(WORKERS) + 1)))
UNIT_PARTS := $(addprefix unit-part-,$(shell seq $(UNIT_JOBS)))
UNIT_TESTS := -m "not long"
# In memory: the databases of the tests wait for a disk at each transaction.
UNIT_FILES := $(firstword $(wildcard /dev/shm) /tmp)
# uv installs the locked versions in 3 s, where pip takes a minute.
define install_into
	@$(1)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(1)/bin/uv pip install --python $(1)/bin/python --require-hashes -r requirements/dev.txt
	@$(1)/bin/uv pip install --python $(1)/bin/python --quiet --no-deps --no-build-isolation -e .
endef
PYTHON_3_13 := $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python3.13) python3.13)
unexport PYTHONDONTWRITEBYTECODE # compiling the tests again is a third of a run

.PHONY: help setup demo demo-down pictures test test-all check format lint types contracts helm unit unit-3.13 cluster e2e portal streaming doctor kasm network nodes chaos machines bench lock clean generate verify docs workflows images release release-verify publish $(UNIT_PARTS)

help: ## this list
	@grep -hE '^[a-z][a-z0-9.-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv from the locked requirements

$(STAMP): requirements/uv.txt requirements/dev.txt pyproject.toml
	@python3 -m venv .venv
	$(call install_into,.venv)
	@touch $@

demo: $(STAMP) ## a real cluster with the portal and a desktop on this machine, and a picture: demo.png (needs root)
	@$(PY) -m vdi demo up --screenshot demo.png

demo-down: $(STAMP) ## stop the demo and leave the machine as it was
	@$(PY) -m vdi demo down

pictures: docs ## the pictures of README and docs, light and dark (needs Chromium; with the demo up, those of a desktop too)
	@cd tests && ../$(PY) -m portal.pictures ../docs/pictures

test: $(STAMP) ## unit, cluster (a real API server), e2e (a real desktop; needs root), pages, a cut of chaos; with the time of each
	@tests/run.sh unit cluster e2e portal chaos-fast charts

test-all: $(STAMP) ## every suite whole: hours; needs root
	@tests/run.sh --thorough unit cluster charts chaos kasm nodes e2e portal streaming doctor network

check: $(STAMP) ## format, lint, types, import contracts, generated files, unit tests; side by side
	@$(MAKE) --no-print-directory --jobs $$(($(UNIT_JOBS) + 1)) --output-sync=target $(UNIT_PARTS) types lint contracts verify

generate: $(STAMP) ## write every generated file: CRDs, API reference, values table, schema, manifests, doctor codes, summaries
	@$(PY) -m tools.generate

verify: helm ## fail when a generated file is stale
	@$(PY) -m tools.generate --check

docs: $(STAMP) ## the documentation as a site in build/docs; fails on a broken link, a long line, and on what loads from elsewhere
	@$(PY) -m sphinx --builder html --fail-on-warning --keep-going --quiet --jobs auto --doctree-dir build/doctrees docs build/docs
	@$(PY) -m tools.docs_site build/docs

format: $(STAMP) ## format, and fix what can be fixed
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

lint: $(STAMP)
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@[ ! -x .venv/bin/shellcheck ] || git grep -lIE '^#!.*sh$$' | xargs .venv/bin/shellcheck --severity=style

workflows: $(STAMP) ## check .github/workflows with actionlint, which is built from its Go module at the first run
	@$$($(PY) -m tools.binaries actionlint | cut -d= -f2) -shellcheck .venv/bin/shellcheck

types: $(STAMP)
	@$(PY) -m mypy

contracts: $(STAMP)
	@.venv/bin/lint-imports

# Made before the tests, which have a minute each: on a new machine it is built from its Go module.
helm: $(STAMP)
	@$(PY) -m tools.binaries helm > /dev/null

unit: $(STAMP) ## unit tests alone, without the long ones
	@$(MAKE) --no-print-directory --jobs $(UNIT_JOBS) --output-sync=target $(UNIT_PARTS)

$(UNIT_PARTS): unit-part-%: helm
	@find tests/unit -name 'test_*.py' -printf '%f %p\n' | sort | cut -d' ' -f2 \
		| awk 'NR % $(UNIT_JOBS) == $* - 1' \
		| TMPDIR=$(UNIT_FILES) xargs $(PY) -m pytest -p no:xdist $(UNIT_TESTS)

unit-3.13: .venv-3.13/.installed ## unit tests on the Python of the image, the long ones too, in an environment of its own
	@$(MAKE) --no-print-directory unit PY=.venv-3.13/bin/python UNIT_TESTS="--hypothesis-profile long"

.venv-3.13/.installed: $(STAMP)
	@$(PYTHON_3_13) -m venv .venv-3.13 2>/dev/null || .venv/bin/uv venv --quiet --seed --python 3.13 .venv-3.13
	$(call install_into,.venv-3.13)
	@touch $@

cluster: $(STAMP) ## tests against a real API server
	@tests/run.sh cluster charts

e2e: $(STAMP) ## tests of a real desktop on a real node (needs root)
	@tests/run.sh e2e

portal: $(STAMP) ## tests of the portal's pages in a real browser (needs Chromium; with the demo up, those of a desktop too)
	@tests/run.sh portal

streaming: $(STAMP) ## sound, microphone, clipboard, files, printing, screens, keys and locks, in a real browser (needs root)
	@tests/run.sh streaming

doctor: $(STAMP) ## faults made for real on a real node; the doctor names each (needs root)
	@tests/run.sh doctor

kasm: $(STAMP) ## Kasm's diagnosis, checklists and installation with stand-in charts on a real node (needs root)
	@tests/run.sh kasm

network: $(STAMP) ## the chart's network policies with real packets on a real node (needs root)
	@tests/run.sh network

nodes: $(STAMP) ## three real nodes with real desktops: drained, lost, new, full (needs root)
	@tests/run.sh nodes

chaos: $(STAMP) ## faults at every call, kills at every write, restarts of the control plane, 20 minutes of everything at random
	@tests/run.sh chaos

machines: $(STAMP) ## virtual machines (QEMU) that do what a newcomer does: [MACHINES="debian-13 debian-12"] [CACHE=FOLDER] (needs root)
	@$(PY) -m tools.machines $(MACHINES) $(if $(CACHE),--cache "$(CACHE)")

rows = $(if $(RESULTS),--json $(RESULTS)/$(1).json)

bench: $(STAMP) ## the operator beside the raw API and a tuned Go operator; queue; pools; requests for nodes; with the demo up, first picture, streaming and the move of a drained desktop; RESULTS=bench/results keeps the rows
	@$(PY) -m bench $(call rows,operator)
	@$(PY) -m bench.queue $(call rows,queue)
	@$(PY) -m bench.pool_claim $(call rows,pool_claim)
	@$(PY) -m bench.node_request $(call rows,node_request)
	@$(PY) -m bench.edge $(call rows,edge)
	@$(PY) -m bench.portal $(call rows,portal)
	@$(PY) -m bench.history $(call rows,history)
	@$(PY) -m bench.doctor $(call rows,doctor)
	@$(PY) -m bench.agent $(call rows,agent)
	@$(PY) -m bench.agent --demo $(call rows,agent_demo) || { [ $$? -eq 3 ] && echo "action to screenshot: not measured, see above"; }
	@$(PY) -m bench.first_picture $(call rows,first_picture) || { [ $$? -eq 3 ] && echo "applied -> first picture: not measured, see above"; }
	@$(PY) -m bench.move $(call rows,move) || { [ $$? -eq 3 ] && echo "drain -> runs elsewhere: not measured, see above"; }
	@$(PY) -m bench.streaming $(call rows,streaming) || { [ $$? -eq 3 ] && echo "input to photon: not measured, see above"; }

images: $(STAMP) ## the two images in build/images, with values that name them: [REGISTRY=registry.example.com/vdi, and push them] [GALLERY="kiosk office" or all, those of docs/gallery.md too]
	@$(PY) -m tools.release images --registry "$(REGISTRY)" --gallery "$(GALLERY)"

release: $(STAMP) ## the files of a release in dist/: VERSION=0.2.0 KEY=cosign.key [REGISTRY=registry.example.com/vdi] [GALLERY=all]
	@$(PY) -m tools.release build --version "$(VERSION)" --key "$(KEY)" --registry "$(REGISTRY)" --gallery "$(GALLERY)"

release-verify: $(STAMP) ## prove each file in dist/, offline: [KEY=FILE, the public key that you trust]
	@$(PY) -m tools.release verify $(if $(KEY),--key "$(KEY)")

publish: $(STAMP) ## push images and chart of dist/ and sign their digests there: KEY=cosign.key REGISTRY=registry.example.com/vdi
	@$(PY) -m tools.release publish --registry "$(REGISTRY)" --key "$(KEY)"

lock: $(STAMP) ## resolve the requirements again after an edit of pyproject.toml
	@.venv/bin/uv pip compile pyproject.toml -q --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 --extra operator --extra gateway --extra probe -o requirements/run.txt
	@.venv/bin/uv pip compile pyproject.toml -q --extra dev --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 -o requirements/dev.txt
	@echo uv | .venv/bin/uv pip compile - -q --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --python-version 3.11 -o requirements/uv.txt
	@.venv/bin/uv pip compile images/vdi/build.in -q --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --python-version 3.13 -o images/vdi/build.txt

clean: ## remove what make made here (not the caches of built binaries and images)
	@rm -rf .venv .venv-3.13 .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build demo.png
