# The commands of a clone. `make run` and `make test` do all of their own set-up; the rest is detail.
PYTHON ?= python3
VENV_PYTHON := .venv/bin/python

.PHONY: help run test test-fast setup lint format doctor bench bench-gateway bench-live bench-planner
.PHONY: bench-history clean clean-all

help:
	@echo "make run        set up what is missing, then start everything (Ctrl-C stops all of it)"
	@echo "make test       set up what is missing, then every check: lint to browser, on its own ports and data"
	@echo "make test-fast  the part of make test that needs no Ray"
	@echo "make doctor     ask every part of the running copy and say what is wrong"
	@echo "make bench      measure what docs/measurements.md reports (ONLY=name: one of them)"
	@echo "make lint       lint, format and types;   make format  let ruff rewrite the code"
	@echo "make setup      only the set-up;          make clean   remove caches (clean-all: also .venv)"

run:
	@$(PYTHON) -m deploy.setup run
	@exec $(VENV_PYTHON) manage.py up

test:
	@$(PYTHON) -m deploy.setup test
	@exec $(VENV_PYTHON) -m tests.stages all

test-fast:
	@$(PYTHON) -m deploy.setup test
	@exec $(VENV_PYTHON) -m tests.stages fast

setup:
	@$(PYTHON) -m deploy.setup test

lint:
	@$(PYTHON) -m deploy.setup test
	@exec $(VENV_PYTHON) -m tests.stages lint

format:
	@$(VENV_PYTHON) -m ruff check --fix .
	@$(VENV_PYTHON) -m ruff format .

doctor:
	@$(PYTHON) -m deploy.setup run
	@exec $(VENV_PYTHON) manage.py doctor

bench:
	@$(PYTHON) -m deploy.setup test
	@exec $(VENV_PYTHON) -m tests.bench $(ONLY)

bench-gateway:
	@$(PYTHON) -m deploy.setup test
	@exec $(VENV_PYTHON) -m tests.bench.bench_gateway

bench-live:
	@$(PYTHON) -m deploy.setup test
	@exec $(VENV_PYTHON) -m tests.bench.bench_live

bench-planner:
	@$(PYTHON) -m deploy.setup test
	@exec $(VENV_PYTHON) -m tests.bench.bench_planner

bench-history:
	@$(PYTHON) -m deploy.setup test
	@exec $(VENV_PYTHON) -m tests.bench.bench_history

# The data folder (var, or RAYDECK_DATA_DIR) is never touched here: it holds what users made.
clean:
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis staticfiles test-results
	@find . -name __pycache__ -type d -not -path './.venv/*' -not -path './var/*' -prune -exec rm -rf {} +

clean-all: clean
	@rm -rf .venv .venv-setup .venv-litellm
