# Two commands for a fresh machine: `make demo` and `make test`. `make help` lists the others.

SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
ARGS ?=
FAULTS ?= 500
SOAK_S ?= 600
PORT ?= 8000
# Most of the suite's time is waiting: two processes share two cores. BESIDE= runs one test at a time.
BESIDE ?= -n 2 --dist loadfile --no-loadscope-reorder

# No agent framework, tracker or server of ours reports home from a make target.
export RAY_USAGE_STATS_ENABLED := 0
export DO_NOT_TRACK := 1
export CREWAI_DISABLE_TELEMETRY := true
export CREWAI_TRACING_ENABLED := false
export CREWAI_DISABLE_VERSION_CHECK := true
export ANONYMIZED_TELEMETRY := False
export VLLM_NO_USAGE_STATS := 1
# Without byte code every process and every worker of Ray compiles each module it imports anew:
# 15 of the 22 s of a command, and more than Ray waits for on a busy machine.
unexport PYTHONDONTWRITEBYTECODE

# The first interpreter that is really 3.11: a version manager's python3.11 may refuse to start.
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	&& command -v $$p && break; done)

.PHONY: help venv demo demo-comprehensive test install-dev all-checks lint run-api \
	base-model unit-test integration-test performance-test security-test fault-test soak-test gpu-test clean clean-all

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

venv:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 is needed and none was found (tried python3.11, python3, python)." >&2; \
		echo "Debian or Ubuntu: apt-get install python3.11 python3.11-venv; or make PYTHON=/path/to/python3.11" >&2; \
		exit 1; fi
	@"$(PYTHON)" -I platform/sunloom/cli/environment.py

demo: venv ## set up, then run the whole loop end to end; options in ARGS="--seed 7 --keep"
	@$(BIN)/sunloom demo $(ARGS)

demo-comprehensive: demo ## the same as demo

test: venv ## set up, then run the whole CPU test suite
	$(BIN)/python -m pytest $(BESIDE) $(ARGS)

install-dev: venv ## set up .venv only

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

all-checks: lint test ## ruff, mypy, import-linter and the whole test suite

run-api: venv ## the gateway on port 8000 (PORT=…), its documentation at /docs
	@$(BIN)/sunloom serve run --port $(PORT) $(ARGS)

base-model: venv ## train the small base model that the worked example ships, and write its files
	$(BIN)/sunloom llm train conf/llm/tool_base.yaml
	$(BIN)/python -m sunloom_retail.base_model

unit-test: venv ## tests without a cluster
	$(BIN)/python -m pytest tests/unit $(BESIDE) $(ARGS)

integration-test: venv ## real Ray, real HTTP, real services
	$(BIN)/python -m pytest tests/integration $(ARGS)

performance-test: venv ## ratios, with loose bounds
	$(BIN)/python -m pytest tests/performance $(ARGS)

security-test: venv ## keys, ports and refusals
	$(BIN)/python -m pytest tests/security $(ARGS)

fault-test: venv ## FAULTS=500 kills at random moments, of consumers, backfills, agents and trainings
	$(BIN)/python -m pytest -m faults --faults $(FAULTS) $(ARGS)

soak-test: venv ## SOAK_S=600 seconds of a hostile tenant's requests; others' answers and the memory stay
	$(BIN)/python -m pytest -m soak --soak $(SOAK_S) $(ARGS)

gpu-test: venv ## what needs a CUDA device
	$(BIN)/python -m pytest tests/gpu $(ARGS)

clean: ## remove caches and build files
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
	find platform jobs serve_apps tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean ## also remove outputs/, .sunloom/ (registry, keys) and .venv/
	rm -rf outputs .sunloom .venv
