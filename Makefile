# Every command of this project. `make` alone lists them.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh

PYTHON ?= python3
VENV := .venv/bin
STAMP := .venv/.installed
STACK := $(VENV)/python -m billing_project.local_stack
MANAGE := $(VENV)/python manage.py

# A sentence instead of the traceback of settings that find nothing.
NEEDS_STACK = @[ -f "$${STATE_DIR:-.local}/stack.env" ] || [ -n "$$DATABASE_URL" ] || { \
	  echo "meterkeeper: no stack is running here: start one with \`make run\` in another terminal." >&2; exit 2; }

# Only where Django must load its settings and no database is asked anything.
NO_DATABASE := DJANGO_SETTINGS_MODULE=tests.settings DATABASE_URL=postgres:///none

.PHONY: help
help: ## List the commands
	@echo "The two to begin with: make demo, make test"
	@echo
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv with exactly the locked packages (PYTHON=python3.12)

$(STAMP): requirements.txt requirements-dev.txt
	@command -v $(PYTHON) >/dev/null || { echo "meterkeeper: there is no $(PYTHON): install Python 3.11 or newer." >&2; exit 2; }
	@echo "Setting up .venv (once, about half a minute)"
	@$(PYTHON) billing_project/local_stack/bootstrap.py
	@touch $@

.PHONY: demo
demo: $(STAMP) ## Bill an hour of LLM traffic end to end (TRACE=file.csv, CUSTOMERS=n, EXIT=1 to stop after)
	@exec $(STACK) demo $(if $(TRACE),--trace='$(TRACE)') $(if $(CUSTOMERS),--customers=$(CUSTOMERS)) $(if $(EXIT),--exit)

.PHONY: run
run: $(STAMP) ## Start the whole system and stay until Ctrl-C (PORT, FLOWER_PORT, EMULATOR_PORT, STATE_DIR)
	@exec $(STACK) run

.PHONY: clean
clean: ## Throw away the stopped system's state: database, queues, emulator, logs
	@if [ -x $(VENV)/python ]; then $(STACK) clean; fi

.PHONY: distclean
distclean: clean ## Throw away the state, .venv, caches and collected files
	@rm -rf .venv staticfiles bench-results .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: test
test: $(STAMP) ## Run all tests on a throwaway database and broker (ARGS='-k flush' WORKERS=2; honours DATABASE_URL)
	@exec $(STACK) with-services --broker -- pytest -n $(or $(WORKERS),2) --dist loadfile $(ARGS)

.PHONY: test-unit
test-unit: $(STAMP) ## Run the tests of pure functions
	@$(NO_DATABASE) $(VENV)/pytest -m unit $(ARGS)

.PHONY: check
check: lint types imports migrations-check test ## Run everything a change must pass

.PHONY: lint
lint: $(STAMP) ## Look for mistakes and for unformatted code
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .

.PHONY: fmt
fmt: $(STAMP) ## Format the code and mend what can be mended safely
	@$(VENV)/ruff check --fix .
	@$(VENV)/ruff format .

.PHONY: types
types: $(STAMP) ## Check the types
	@$(NO_DATABASE) $(VENV)/mypy

.PHONY: imports
imports: $(STAMP) ## Check which package may import which
	@$(VENV)/lint-imports

.PHONY: migrations-check
migrations-check: $(STAMP) ## Check that the models and their migrations agree
	@DJANGO_SETTINGS_MODULE=tests.settings $(STACK) with-services -- python manage.py makemigrations --check --dry-run

.PHONY: lock
lock: $(STAMP) ## Resolve requirements*.in again into the lock files, with hashes
	@for name in requirements requirements-dev; do \
	  UV_SYSTEM_CERTS=1 UV_CUSTOM_COMPILE_COMMAND='make lock' $(VENV)/uv pip compile --quiet \
	    --python-version 3.11 --universal --generate-hashes $(ARGS) $$name.in -o $$name.txt || exit; \
	done

.PHONY: simulate
simulate: $(STAMP) ## Drive everything by random steps (SEEDS=n STEPS=60 FIRST=0; SEED=k replays one; ARGS=)
	@exec $(STACK) with-services -- env DJANGO_SETTINGS_MODULE=tests.settings python -m tests.simulation \
	  $(if $(SEED),--seed=$(SEED),--seeds=$(or $(SEEDS),50) --first=$(or $(FIRST),0)) --steps=$(or $(STEPS),60) $(ARGS)

.PHONY: hostile
hostile: $(STAMP) ## Throw hostile bodies at the ingestion API (BODIES=5000 SOCKET=1000 SEED=k ARGS=)
	@exec $(STACK) with-services -- python -m tests.hostile --bodies=$(or $(BODIES),5000) \
	  --over-socket=$(or $(SOCKET),1000) $(if $(SEED),--seed=$(SEED)) $(ARGS)

.PHONY: billing-histories
billing-histories: $(STAMP) ## Check the emulator's invoices against another calculation (HISTORIES=5000 FIRST=0; SEED=k replays one; ARGS=)
	@$(VENV)/python -m tests.emulator.histories \
	  $(if $(SEED),--seed=$(SEED),--histories=$(or $(HISTORIES),5000) --first=$(or $(FIRST),0)) $(ARGS)

.PHONY: chaos
chaos: $(STAMP) ## Kill the web server while usage flows in (KILLS=40 SEED=k ARGS='--drop-replies 0.2')
	@exec $(STACK) with-services -- python -m tests.chaos.web --kills=$(or $(KILLS),40) \
	  $(if $(SEED),--seed=$(SEED)) $(ARGS)

.PHONY: bench
bench: $(STAMP) ## Measure, against references in the same run (ARGS=)
	@exec $(STACK) with-services --broker --durable -- python -m tests.bench $(ARGS)

.PHONY: bench-emulator
bench-emulator: $(STAMP) ## Measure the emulator alone: its speed over HTTP and its memory (ARGS=)
	@$(VENV)/python -m stripe_emulator.bench $(ARGS)

.PHONY: client-endurance
client-endurance: $(STAMP) ## Kill the web server under the Python client's load; no event may be lost (ARGS=)
	@exec $(STACK) with-services -- python -m tests.client.endurance $(ARGS)

.PHONY: flush
flush: $(STAMP) ## Fold stored usage into submissions now, without Celery
	$(NEEDS_STACK)
	@$(MANAGE) flush

.PHONY: deliver
deliver: $(STAMP) ## Send what is due to Stripe now, without Celery
	$(NEEDS_STACK)
	@$(MANAGE) deliver

.PHONY: reconcile
reconcile: $(STAMP) ## Compare a day with Stripe (DAY=2026-01-31; else today)
	$(NEEDS_STACK)
	@$(MANAGE) reconcile $(if $(DAY),--day $(DAY),--since "$$(date -u +%Y-%m-%d)")

.PHONY: books
books: $(STAMP) ## Print the books beside Stripe's totals (ARGS='--customer X')
	$(NEEDS_STACK)
	@$(MANAGE) books $(ARGS)
