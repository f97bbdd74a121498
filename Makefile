# int_ray: `make quickstart` runs the main job for real, `make test` runs every test. Both set the environment up first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Whatever was set up last stays set up; a fresh machine gets the CPU environment.
LOCK ?= $(if $(wildcard $(VENV)/.installed-requirements-gpu.lock),requirements-gpu.lock,requirements-cpu.lock)
PYTORCH_CPU := https://download.pytorch.org/whl/cpu
STAMP := $(VENV)/.installed-$(notdir $(LOCK))
# Of the environment if there is one: the GPU suite runs on machines that have only PyTorch.
ANY_PYTHON := $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
RUN ?= runs/quickstart-$(shell date +%Y%m%d-%H%M%S)

.PHONY: help setup quickstart test unit lint check bench gpu soak chaos rebuild-chains

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: $(STAMP) ## create .venv from the lock file (LOCK=requirements-gpu.lock on a GPU machine)

$(STAMP): $(LOCK) pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned environment ($(LOCK)), about 4 GB and 3-5 minutes the first time"
	$(BIN)/pip install --quiet --no-deps -r $(LOCK) || \
		$(BIN)/pip install --quiet --no-deps -r $(LOCK) --extra-index-url $(PYTORCH_CPU)
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	rm -f $(VENV)/.installed-*
	touch $@

quickstart: setup ## the whole loop on a laptop: stall, oracle, patch, GRPO, evaluation
	$(BIN)/int-ray train configs/quickstart.yaml run.folder=$(RUN)

test: setup unit ## every test that this machine can run
	$(BIN)/python -m pytest -m "not slow" --ignore=tests/unit

unit: setup ## tests without Ray, in a process per core
	$(BIN)/python -m pytest tests/unit -q -m "not slow" -n auto

check: setup lint unit ## lint, types, unit tests

lint: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup ## speed as ratios against bare baselines (under 25 minutes)
	$(BIN)/python -m benchmarks

gpu: ## the learner's speed on one GPU, under 9 minutes; needs torch and transformers alone
	$(ANY_PYTHON) -m benchmarks.gpu
	@if $(ANY_PYTHON) -c 'import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, ["pytest", "vllm"])))'; \
		then $(ANY_PYTHON) -m pytest tests/gpu -rs; fi

soak: setup ## the long tests, with what they print
	$(BIN)/python -m pytest -m slow -s

chaos: setup ## kill parts of a run for SECONDS=600, at moments that SEED=0 chooses; it must end as if nothing was
	INT_RAY_TEST_ENGINES=vllm CHAOS_SECONDS=$(or $(SECONDS),600) CHAOS_SEED=$(or $(SEED),0) $(BIN)/python -m pytest tests/chaos -s

rebuild-chains: setup ## rebuild the shipped laptop world: model and problem sets
	$(BIN)/python -m int_ray.chains.build
