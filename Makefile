# Everything a newcomer needs: make pilot, make test, make bench. Only python3 (>= 3.11), python3-venv, git and make.
PYTHON ?= python3
VENV   ?= .venv
APPROVE ?=
SPEC   ?= examples/digits/campaign.yaml
BIN    := $(VENV)/bin
# The example's own python must be the one with scikit-learn in it.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# The example keeps its runs beside the code; make clean-pilot forgets them.
PILOT_HOME ?= $(CURDIR)/.campaign

.PHONY: help setup pilot test unit lint bench lock clean clean-pilot rig rig-down rig-status

help:
	@echo "make pilot               run the example campaign; asks at the gate"
	@echo "make pilot APPROVE=CONTINUE|PIVOT|KILL   the same, unattended"
	@echo "make unit                lint, types and the unit tests: about a minute, no process is started"
	@echo "make test                the same, then the contract, crash and end-to-end tests"
	@echo "make bench               500 trivial experiments beside GNU parallel and HyperQueue"
	@echo "make rig, rig-status, rig-down [PARTS=\"slurm docker postgres redis\"]   a real Slurm and more, for tests (Debian, root)"
	@echo "make clean-pilot         forget the example's runs"

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: install python3-venv"; exit 2; }
	@# The lock is complete; without resolving, an older pip cannot go astray over extras.
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip check --quiet
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

pilot: setup
	@CAMPAIGN_HOME=$(PILOT_HOME) $(BIN)/campaign run $(SPEC) --deployed --new-round $(if $(APPROVE),--approve $(APPROVE))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Tests start hundreds of interpreters; without byte code each would compile anew what it imports.
unit test: export PYTHONDONTWRITEBYTECODE =
# Code 5: with these PYTEST_ARGS none of the stage was selected.
PYTEST = $(BIN)/pytest $(1) $(PYTEST_ARGS) || [ $$? = 5 ]

unit: lint
	$(call PYTEST,-n auto tests/unit)

# What the ledger promises, and the dispatcher with it, must hold in both of its databases.
ON_POSTGRES = tests/unit/ledger tests/contract/ledger tests/contract/engine/test_dispatcher.py \
    tests/contract/engine/test_adoption.py tests/contract/engine/test_queue.py tests/contract/engine/test_environment.py

# Quickest first; side by side, but for those that share a Prefect server.
test: unit
	$(call PYTEST,-n auto tests/contract)
	$(call PYTEST,-n auto --ledger=postgres $(ON_POSTGRES))
	$(call PYTEST,-n 2 tests/crash)
	$(call PYTEST,tests/e2e)

bench: setup
	$(BIN)/python bench/throughput.py
	$(BIN)/python bench/packing.py --seeds 2
	$(BIN)/python bench/slurm.py

# Standard library only: it runs before there is a virtual environment.
RIG = PYTHONPATH=tests:src PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m rig

rig:
	@$(RIG) up $(PARTS)

rig-down:
	@$(RIG) down $(PARTS)

rig-status:
	@$(RIG) status $(PARTS)

lock:
	uv pip compile pyproject.toml --all-extras --generate-hashes --universal --python-version 3.11 --no-header \
	    --output-file requirements.lock --quiet

clean-pilot:
	-CAMPAIGN_HOME=$(PILOT_HOME) $(BIN)/campaign down
	rm -rf $(PILOT_HOME)

clean: clean-pilot
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info
