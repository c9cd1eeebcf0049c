# rlx: `make quickstart` trains an agent, `make test` checks everything. Both set up .venv first, if it is missing.
#   make PYTHON=/path/to/python3.12 ...   another interpreter (3.11 to 3.14)
#   make test PYTEST="tests/test_config.py -x"   what pytest gets; -n 2 by default (two processes)
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help quickstart test test-fast test-gpu lint clean

PYTHON ?=
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3 python)
PYTEST ?= -n 2
VENV := .venv
BIN := $(VENV)/bin
INPUTS := setup.cfg pyproject.toml constraints.txt
QUICK ?= runs/quickstart
# What concerns a device: all that is compiled for it, and what crosses to the host.
DEVICE := $(addprefix tests/,replay nn dynamics planning agents export test_contracts.py test_precision.py \
  $(addprefix envs/test_,base.py control.py pde.py plants.py gym_brax_mjx.py) $(addprefix train/test_,run.py checkpoint.py population.py policy.py))

help: ## this text
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/.base ## train SAC on cart-pole swing-up, evaluate, draw the curve and a video
	@$(BIN)/python experiments/train.py sac --env dmc:cartpole-swingup --preset quickstart --run-dir $(QUICK)

test: lint ## lint, types and all tests
	@echo "== pytest"
	@$(BIN)/python -m pytest $(PYTEST)

test-fast: $(VENV)/.test ## the tests that take seconds: for the working loop
	@$(BIN)/python -m pytest $(PYTEST) -m "not slow"

test-gpu: $(VENV)/.test ## the tests that concern a device, on the NVIDIA GPU that is here
	@JAX_PLATFORMS=cuda $(BIN)/python -c 'import jax; print("==", *jax.devices())' 2>/dev/null || { \
	  echo "JAX finds no NVIDIA GPU, so nothing was tested. Where there is one: $(BIN)/pip install -c constraints.txt -e '.[cuda12]'" \
	    "(BUILD.md, CUDA); RLX_TEST_TF32=1 make test-fast rounds products as one would, on the CPU." >&2; exit 1; }
	@JAX_PLATFORMS=cuda,cpu XLA_PYTHON_CLIENT_PREALLOCATE=false $(BIN)/python -m pytest -n 0 $(DEVICE)

lint: $(VENV)/.test ## ruff and mypy only
	@echo "== ruff"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "Not formatted: run $(BIN)/ruff format ."; exit 1; }
	@echo "== mypy"
	@$(BIN)/mypy

clean: ## remove .venv and caches; runs stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An interpreter is taken only if it runs, is 3.11 to 3.14 and can make environments: shims on PATH may do none of these.
$(BIN)/python:
	@for python in $(PYTHONS); do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; then \
	    echo "== $$("$$python" --version): making $(VENV)"; \
	    exec "$$python" -m venv $(VENV); \
	  fi; \
	done; \
	echo "rlx needs Python 3.11 to 3.14 with venv; none of these is: $(PYTHONS)." >&2; \
	echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name one: make PYTHON=/path/to/python3.12" >&2; \
	exit 1

# Stamps: a set of packages is installed anew only when what it depends on has changed. The tests' set includes the base.
$(VENV)/.base: $(INPUTS) | $(BIN)/python
	@if [ -e $(VENV)/.test ] && [ -z "$$(find $(INPUTS) -newer $(VENV)/.test)" ]; then touch $@; else $(call install,.,dm_control); fi

$(VENV)/.test: $(INPUTS) | $(BIN)/python
	@$(call install,.[test],dm_control ogbench)

# From Python 3.13 on, $(2) comes without its requirements: setup.cfg says why, and names those that are needed.
define install
echo "== installing rlx and what it needs (about two minutes the first time)"; \
$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '$(1)'; \
$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps \
  $(foreach name,$(2),'$(name); python_version >= "3.13"'); \
touch $@; echo "== installed in $(VENV)"
endef
