# Two commands: `make book` renders the book, `make test` checks all of it. `make help` lists the rest.
# Needs make, git, and Python 3.10 or newer with its venv module.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
HTML := _build/html
CHAPTER ?= finetune
SHORTEST := spending
# Written by `make book`, so not in git.
PAGES := book/ledger.md book/receipt.md

export SCALETUT_BOOK := $(CURDIR)
export PYTHONUTF8 := 1
# A spinning OpenMP barrier on a shared machine costs a factor of six; a sleeping one costs a fifth, also alone,
# so recorded runs, whose times are told, do without it.
book unit notebooks check pages: export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- environment ---------------------------------------------------------------------

# Judged by content: a clone or a checkout sets all file times anew.
NEEDS = sha256sum requirements.lock pyproject.toml
STAMP := $(VENV)/.installed
USABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))

.PHONY: setup
setup: ## Make .venv and install the locked packages, when they changed (PYTHON=python3.12 chooses one)
	@if ! $(NEEDS) | cmp -s - $(STAMP); then $(MAKE) install; fi

.PHONY: install
install:
	@[[ -x $(PY) ]] || $(MAKE) venv
	@echo "installing the locked packages into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(NEEDS) > $(STAMP)

.PHONY: venv
venv:
	@for python in $${PYTHON:-python3.13 python3.12 python3.11 python3.10 python3}; do \
	  if "$$python" -c '$(USABLE)' 2> /dev/null; then \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    exec "$$python" -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo "make: no Python 3.10 or newer with its venv module$${PYTHON:+ at $$PYTHON};" \
	  "on Debian: apt-get install python3 python3-venv; elsewhere name one: make setup PYTHON=/path/to/python3" >&2; \
	exit 2

.PHONY: lock
lock: setup ## Resolve requirements.lock again, for Python 3.10 and newer
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 \
	  --extra book --extra dev --extra transfer --extra audit --extra search \
	  --extra compress --extra serve --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

# --- the book ------------------------------------------------------------------------

.PHONY: book
book: setup ## Run what is stale at the quick profile, write the receipt, render the site to _build/html
	@$(BIN)/scaletut run --all --profile quick --stale
	@$(MAKE) site

# Rendered from nothing each time, for a page that is not read again raises no warning.
.PHONY: site
site:
	@mkdir -p _build
	@$(BIN)/scaletut ledger --page book/ledger.md > /dev/null
	@$(BIN)/scaletut receipt --page book/receipt.md > _build/receipt.txt || \
	  echo "the receipt differs from the recorded run: see book/receipt.md"
	@key="$$($(PY) -c 'from scaletut.chapters.stale import site_digest; print(site_digest("."))')"; \
	if [[ -f $(HTML)/index.html && "$$(cat _build/site.key 2> /dev/null)" == "$$key" ]]; then \
	  echo "site             fresh   $(HTML)/index.html"; \
	else \
	  rm -rf $(HTML) _build/site.key; \
	  PYTHONPATH=book/_ext $(BIN)/jupyter-book build . --all -q -W -n --keep-going; \
	  echo "$$key" > _build/site.key; \
	  echo "site             rendered: $(HTML)/index.html"; \
	fi

.PHONY: live
live: setup ## Serve the site and render it again whenever something is saved (stop with Ctrl-C)
	@$(MAKE) site || true
	@echo "serving http://localhost:8000"
	@trap 'kill %1 2> /dev/null' EXIT; \
	$(PY) -m http.server --directory $(HTML) --bind localhost 8000 > /dev/null 2>&1 & \
	$(BIN)/watchfiles --ignore-paths "$(shell echo $(abspath $(PAGES)) | tr ' ' ,)" '$(MAKE) site' \
	  $(wildcard _config.yml _toc.yml book notebooks results scaletut)

.PHONY: record
record: setup ## Run CHAPTER=finetune at laptop and store its outputs and records, then its quick record
	$(BIN)/scaletut record $(CHAPTER)
	$(BIN)/scaletut record $(CHAPTER) --profile quick

# --- checks --------------------------------------------------------------------------

NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# One chapter may use all cores; several run side by side, each whole in one process, with one thread.
MANY := $(filter-out 0 1,$(words $(NOTEBOOKS)))

.PHONY: test
test: lint unit notebooks site check pages ## All checks: lint, unit and property, notebooks at quick, book, browser

.PHONY: lint unit notebooks check pages
lint: setup
	@echo "== ruff"
	@$(BIN)/ruff check --quiet .

unit: setup
	@echo "== unit and property tests"
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 tests/unit $(wildcard tests/property)

notebooks: setup
	@echo "== every chapter at the quick profile, claims compared"
	@rm -rf _build/records/quick
	@$(if $(NOTEBOOKS),SCALETUT_PROFILE=quick SCALETUT_RECORDS=$(CURDIR)/_build/records/quick $(if $(MANY),OMP_NUM_THREADS=1) \
	  $(PY) -m pytest -q --nbval-lax --nbval-current-env --nbval-cell-timeout=900 -p no:cacheprovider \
	  $(if $(MANY),-n 2 --dist loadfile) $(NOTEBOOKS))

# nbval has just run every chapter, and its records are what the receipt compares; papermill runs the shortest one.
check: setup
	@echo "== the book's own checks"
	@$(BIN)/scaletut run $(SHORTEST) --profile quick --out _build/trial
	@$(BIN)/scaletut ledger --page book/ledger.md > /dev/null
	@$(BIN)/scaletut check
	@$(BIN)/scaletut receipt > _build/receipt.txt || { cat _build/receipt.txt; exit 1; }

pages: setup
	@echo "== the rendered book: pages, browser, planted faults"
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q $(wildcard tests/book tests/browser tests/mutation)

.PHONY: clean
clean: ## Remove everything that was generated, except .venv
	rm -rf _build dist .pytest_cache .ruff_cache .hypothesis $(PAGES)
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
