# Everything a person or a machine does with this repository. `make` alone lists it.

# Set PYTHON to use another interpreter: 3.11, 3.12 or 3.13.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
# Of tests; more than cores, for they wait for servers, kills and clocks half of their time.
WORKERS ?= 4

export SWARMC_HOME ?= $(CURDIR)/.swarmc
export PREFECT_HOME ?= $(CURDIR)/.swarmc/prefect
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
export PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT ?= false
export DO_NOT_TRACK ?= 1
# Leases in files outlive the server; in memory, a restart would end live runs under a concurrency limit.
export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE ?= prefect.server.concurrency.lease_storage.filesystem
export LITELLM_LOCAL_MODEL_COST_MAP ?= True
# Without its bytecode, every process compiles the thousands of files that it imports once more: three seconds each.
unexport PYTHONDONTWRITEBYTECODE

UI_HOST ?= 127.0.0.1
UI_PORT ?= 4200

.DEFAULT_GOAL := help
.PHONY: help demo market test check ui lock clean

help: ## List these targets
	@echo "make <target>, one of:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-9s %s\n", $$1, $$2 }'

demo: $(VENV)/.installed ## Compile the example program on the practice model; costs nothing
	@mkdir -p "$(PREFECT_HOME)"  # Prefect makes no parents.
	@$(BIN)/swarmc compile examples/ticket_routing/compile.json

market: $(VENV)/.installed ## Buy and sell on this machine: a relay, two providers, a compile, play money
	@mkdir -p "$(PREFECT_HOME)"
	@$(BIN)/python examples/market/market.py

test: $(VENV)/.installed ## Run all tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

check: $(VENV)/.installed ## Run what CI runs: format, lint, types, floors, tests
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/pyright
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory test

ui: $(VENV)/.installed ## Show runs in a browser, live and past
	@echo "Open http://$(UI_HOST):$(UI_PORT) in a browser; Ctrl-C here ends it."
	@echo "For runs to appear live, start them with PREFECT_API_URL=http://$(UI_HOST):$(UI_PORT)/api"
	@mkdir -p "$(PREFECT_HOME)"
	@PREFECT_SERVER_UI_API_URL=http://$(UI_HOST):$(UI_PORT)/api \
	  $(BIN)/prefect server start --host $(UI_HOST) --port $(UI_PORT)

lock: $(VENV)/.installed ## Choose and pin new versions of all dependencies
	@$(BIN)/uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade --quiet \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --output-file requirements.lock
	@echo "requirements.lock is written; the next target installs it"

clean: ## Remove the virtual environment, runs and caches
	rm -rf $(VENV) .swarmc .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A finished install leaves its stamp; an interrupted one, or a changed lock, begins again from nothing.
$(VENV)/.locked: requirements.lock
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
	  then found="$$python"; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "swarmc needs Python 3.11, 3.12 or 3.13 with venv (Debian: apt-get install python3.11-venv);" \
	    "install one, or name it: make PYTHON=/path/to/python" >&2; \
	  exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$found" --version) and the pinned packages; once, a minute or two."; \
	"$$found" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check --no-input --no-deps --require-hashes \
	  -r requirements.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check --no-input --no-deps --no-build-isolation \
	  --no-index --editable .
	@touch $@
