# Everything that you do with this project from a shell. `make` alone lists the targets.
VENV ?= .venv
PYTHON ?= python3
# On Linux, PyPI's torch is a CUDA build of several GB. `make demo TORCH_INDEX=URL` takes torch from another wheel index,
# for instance PyTorch's index of CPU wheels (its address is on pytorch.org under "Get started").
TORCH_INDEX ?=
RECIPE ?= demo

# Containers. A machine without access to an image registry first makes its own images: `make docker-base docker-store`. Every
# target below then uses them, because docker-base leaves a note in build/docker/base.
DOCKER ?= docker
# docker/base.digest holds the base with its digest once `make pin-base` has recorded it.
PUBLIC_BASE := python:3.11-slim-bookworm
OWN_BASE := cat-base:bookworm
BASE_IMAGE ?= $(or $(shell cat build/docker/base docker/base.digest 2>/dev/null | head -1),$(PUBLIC_BASE))
# Where docker-push puts the images and cluster-smoke finds them: a registry with a folder, such as registry.example.com/me.
REGISTRY ?=
FLAVOUR ?= cpu
STORE ?= $(if $(shell cat build/docker/base 2>/dev/null),seaweedfs,minio)
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' components/__init__.py)
REVISION := $(shell git describe --always --abbrev=12 --exclude='*' --dirty 2>/dev/null || echo unknown)
SUFFIX := $(if $(filter cuda,$(FLAVOUR)),-cuda)
# The tag holds a digest of the code and the lock files. Runs use this name.
IMAGE ?= $(shell $(PYTHON) -m components.image)$(SUFFIX)
# The newest build has this name too, for manifests that cannot know a digest.
NEWEST_IMAGE := cat-pipeline:$(VERSION)$(SUFFIX)

BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile
# Every file is checked against its hash, and only locked packages are fetched, even to build a package.
PIP_LOCKED := $(PIP_INSTALL) --require-hashes --no-deps --no-build-isolation
COMPILE_ALL := $(BIN)/python -m compileall -qq --workers 0 $(VENV)/lib || true  # on all cores; some packages hold broken examples
TORCH := $(shell grep -oE '^torch(vision)?==[^ ]+' requirements-torch.lock)
# The bounds of requires-python in pyproject.toml: 11 15 for 3.11 to 3.14, for which all locked packages have wheels.
PYTHONS := $(shell sed -nE 's/^requires-python = ">=3\.([0-9]+),<3\.([0-9]+)".*/\1 \2/p' pyproject.toml)
define CHECK_PYTHON
@$(PYTHON) -c 'import sys; low, high = map(int, sys.argv[1:]); found = sys.version_info[:2]; \
	(3, low) <= found < (3, high) or sys.exit("Python %d.%d is not supported: the locked packages have wheels for " \
	"Python 3.%d to 3.%d; name one of these, as in make PYTHON=python3.%d" % (found + (low, high - 1, low)))' $(PYTHONS)
endef

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo run try test test-converters test-slow test-faults bench gpu-campaign gpu-campaign-pack check format compile lock clean \
	docker-image docker-push docker-base docker-store pin-base test-docker compose-up compose-smoke compose-run compose-down \
	cluster-smoke

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-17s %s\n", $$1, $$2}'

setup: $(READY) ## Make the virtual environment from the lock files (other targets do this when they need it)

setup-dev: $(READY_DEV) ## Add the packages of tests and checks to it

$(READY): requirements-build.lock requirements-torch.lock requirements.lock pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(PIP_LOCKED) --requirement requirements-build.lock
	$(PIP_LOCKED) --requirement requirements.lock
ifdef TORCH_INDEX
	@echo 'Installing $(TORCH) from TORCH_INDEX; the hashes of requirements-torch.lock are not checked'
	$(PIP_INSTALL) --index-url $(TORCH_INDEX) $(TORCH)
else
	$(PIP_LOCKED) --requirement requirements-torch.lock
endif
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	$(COMPILE_ALL)
	touch $@

$(READY_DEV): $(READY) requirements-mlflow.lock requirements-dev.lock
	$(PIP_LOCKED) --requirement requirements-mlflow.lock --requirement requirements-dev.lock
	$(COMPILE_ALL)
	touch $@

demo: $(READY) ## Run the whole pipeline on real images, on the CPU (about 5 minutes after the set-up)
	$(BIN)/python -m pipelines run --recipe demo

run: $(READY) ## Run another recipe: make run RECIPE=smoke
	$(BIN)/python -m pipelines run --recipe $(RECIPE)

# The report of RECIPE links to the page that lies beside it.
TRY_PAGE := $(if $(MODEL),build/try.html,runs/$(RECIPE)/try.html)
MODEL ?= $(shell ls -t runs/$(RECIPE)/students/*/model.onnx 2>/dev/null | head -1)
try: $(READY) ## Write runs/RECIPE/try.html, which runs its newest student in the browser (needs npm), or build/try.html: MODEL=FILE
	@test -n "$(MODEL)" || { echo "runs/$(RECIPE) has no student; run \`make run RECIPE=$(RECIPE)\` first, or name a file with MODEL=." >&2; exit 2; }
	$(BIN)/python -m components try-page --model '$(MODEL)' --output '$(TRY_PAGE)'

compile: $(READY) ## Write the pipeline for Kubeflow: build/RECIPE.yaml
	$(BIN)/python -m pipelines compile --recipe $(RECIPE) --output build/$(RECIPE).yaml

test: $(READY_DEV) ## Run the tests
	$(BIN)/python -m pytest --numprocesses auto

# Apple's and Google's converters, in an environment that sees the other one and is thrown away.
test-converters: $(READY_DEV) ## Run the tests of Core ML and LiteRT files, which need their converters
	$(BIN)/python -m venv --without-pip build/converters
	echo "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		> "$$(build/converters/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	$(BIN)/python -m pip --python build/converters/bin/python install --quiet --require-hashes --no-deps \
		--requirement requirements-coreml.lock --requirement requirements-litert.lock
	build/converters/bin/python -m pytest tests/components/catlib/exporting/test_profiles.py
	rm -r build/converters

test-slow: $(READY_DEV) ## Run the long repetitions that `make test` leaves out
	$(BIN)/python -m pytest -m slow

# Guides the fuzzing; in no lock file, because its wheels are for Linux on x86-64 alone.
build/atheris: $(READY_DEV)
	$(PIP_INSTALL) --no-deps --only-binary :all: --target $@ atheris
	touch $@

test-faults: $(READY_DEV) build/atheris ## Damage files, break stores, kill processes: about 2 hours; docs/trust.md has the figures
	$(BIN)/python -m tests.faults.histories --count 10000
	$(BIN)/python -m pytest -m faults tests/faults
	PYTHONPATH=build/atheris $(BIN)/python -m tests.faults.fuzz --minutes 30
	$(BIN)/python -m tests.faults.mutants

DEVICE ?= cpu
ONLY ?= *
BENCH ?=
bench: $(READY) ## Time plain PyTorch beside ours: DEVICE=cpu|cuda, ONLY='teacher-*', BENCH='--growth', BENCH='--list'
	$(BIN)/python -m tests.benchmarks --device $(DEVICE) --only '$(ONLY)' --output build/bench-$(DEVICE).json $(BENCH)

PART ?=
CAMPAIGN ?=
gpu-campaign: $(READY_DEV) ## Measure all parts on a GPU, or go on where it stopped: PART=tests, CAMPAIGN='--device cpu --tiny'
	$(BIN)/python -m tests.campaign $(if $(PART),--part $(PART)) $(CAMPAIGN)

gpu-campaign-pack: $(READY) ## Pack the campaign for a bare machine with PyTorch and no network: build/campaign.tar.xz
	$(BIN)/python -m tests.campaign pack

check: $(READY_DEV) ## Run the linters, the type checker and the check of import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile docker/store.Dockerfile

format: $(READY_DEV) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# ------------------------------------------------------------------------------------------------------- containers

# Clients before 23 build with BuildKit themselves, later ones by a plugin.
define CHECK_BUILDER
@client=$$($(DOCKER) version --format '{{.Client.Version}}' 2>/dev/null) || { \
	echo "No Docker engine answers to '$(DOCKER)'; start one, or name another client with DOCKER=." >&2; exit 2; }; \
test "$${client%%.*}" -lt 23 2>/dev/null || $(DOCKER) buildx version >/dev/null 2>&1 || { \
	echo "'$(DOCKER)' lacks the plugin buildx, which builds this image; install docker-buildx-plugin (Docker's packages)" \
	"or docker-buildx (Debian's), or name another client with DOCKER=." >&2; exit 2; }
endef
# A build gets this machine's pip settings and certificates as secrets, which no layer keeps.
BUILD = DOCKER_BUILDKIT=1 $(DOCKER) build --build-arg BASE_IMAGE=$(BASE_IMAGE) \
	--secret id=pip_conf,src=build/docker/pip.conf --secret id=ca,src=build/docker/ca
COMPOSE ?= $(if $(shell $(DOCKER) compose version 2>/dev/null),$(DOCKER) compose,$(BIN)/docker-compose)
COMPOSE_FILES = -f docker/compose.yaml $(if $(filter seaweedfs,$(STORE)),-f docker/compose.seaweedfs.yaml) \
	$(if $(filter cuda,$(FLAVOUR)),-f docker/compose.gpu.yaml) $(if $(OWN_RECIPE),-f docker/compose.recipe.yaml)
OWN_RECIPE = $(filter %.yaml %.yml,$(RECIPE))
RECIPE_NAME = $(if $(OWN_RECIPE),$(basename $(notdir $(RECIPE))),$(RECIPE))
CAT_COMPOSE = CAT_IMAGE=$(IMAGE) $(if $(OWN_RECIPE),RECIPE_FILE=$(abspath $(RECIPE)) RECIPE=$(RECIPE_NAME)) $(COMPOSE) --env-file docker/compose.env $(COMPOSE_FILES)

docker-image: ## Build the image of the stages: FLAVOUR=cpu|cuda, TORCH_INDEX=URL of CPU wheels, BASE_IMAGE=…
	$(CHECK_BUILDER)
	@case "$(FLAVOUR)" in cpu|cuda) ;; *) echo "FLAVOUR must be cpu or cuda, not '$(FLAVOUR)'." >&2; exit 2 ;; esac
ifeq ($(FLAVOUR)$(TORCH_INDEX),cpu)
	@echo "This CPU image will carry 3.2 GB of CUDA libraries, because PyPI's torch brings them. To leave them out, give" \
		"TORCH_INDEX=URL, PyTorch's index of CPU wheels: pytorch.org names it under \"Get started\" (Linux, pip, CPU)." >&2
endif
	$(PYTHON) docker/host_settings.py build/docker
	$(BUILD) --file docker/Dockerfile --tag $(IMAGE) $(if $(filter file,$(origin IMAGE)),--tag $(NEWEST_IMAGE)) \
		--build-arg FLAVOUR=$(FLAVOUR) --build-arg TORCH_INDEX=$(TORCH_INDEX) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) .
	for file in sbom.cdx.json licences.csv; do \
		$(DOCKER) run --rm --entrypoint cat $(IMAGE) /usr/local/share/cat/$$file > build/docker/$(FLAVOUR)-$$file || exit 1; done
	@echo "$(IMAGE): $$($(DOCKER) image inspect --format '{{.Size}}' $(IMAGE)) bytes; contents: build/docker/$(FLAVOUR)-*"

.PHONY: registry
registry:
	@test -n "$(REGISTRY)" || { \
		echo "Name a registry that the cluster reaches, as in make docker-push REGISTRY=registry.example.com/me." >&2; exit 2; }

PUSHED := $(IMAGE) $(if $(filter seaweedfs,$(STORE)),cat-store:4.48)
docker-push: registry docker-image $(if $(filter seaweedfs,$(STORE)),docker-store) ## Build and push: REGISTRY=registry.example.com/me
	for image in $(PUSHED); do \
		$(DOCKER) tag $$image $(REGISTRY)/$$image && $(DOCKER) push $(REGISTRY)/$$image || exit 1; done
	@echo "Submit with --image $(REGISTRY)/$(IMAGE)"

pin-base: ## Record the digest of the base image, where a registry is reached: docker/base.digest
	@$(DOCKER) pull --quiet $(PUBLIC_BASE) >/dev/null || { \
		echo "No registry answers for $(PUBLIC_BASE), so no digest is recorded; builds go on as before." >&2; exit 2; }
	@digest=$$($(DOCKER) image inspect --format '{{index .RepoDigests 0}}' $(PUBLIC_BASE)) && \
		echo "$$digest" > docker/base.digest && echo "docker/base.digest: $$digest; commit it"

docker-base: ## Make a base image from Debian's packages, without an image registry (needs root and debootstrap)
	DOCKER='$(DOCKER)' docker/base.sh $(OWN_BASE) bookworm
	@mkdir -p build/docker && echo $(OWN_BASE) > build/docker/base
	@echo "Images are built on $(OWN_BASE) from now on, and STORE is seaweedfs, until build/docker/base is removed (make clean)."

docker-store: ## Build an image of the SeaweedFS object store, without an image registry
	$(CHECK_BUILDER)
	$(PYTHON) docker/host_settings.py build/docker
	$(BUILD) --file docker/store.Dockerfile --tag cat-store:4.48 .

test-docker: $(READY_DEV) ## Build the image and run the pipeline on a real Docker engine
	$(BIN)/python -m pytest -m docker tests/docker

cluster-smoke: $(READY) ## Try the guide's promises on the cluster of KUBECONFIG: REGISTRY=…, HOST=…, OVERLAY=local, KUBECTL=…
	$(BIN)/python -m tests.cluster.smoke $(if $(HOST),--host $(HOST)) $(if $(REGISTRY),--registry $(REGISTRY)) \
		$(if $(OVERLAY),--overlay $(OVERLAY)) $(if $(KUBECTL),--kubectl $(KUBECTL)) $(CLUSTER_SMOKE)

docker/compose.env:
	umask 077; printf 'STORE_ACCESS_KEY=cat-%s\nSTORE_SECRET_KEY=%s\n' \
		$$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n') $$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n') > $@

compose-up: docker/compose.env ## Start the object store in a container: STORE=minio|seaweedfs
	@$(CAT_COMPOSE) up --detach --wait store

compose-smoke: docker-image compose-run ## Build the image and run the smoke recipe in containers
compose-smoke: RECIPE = smoke

compose-run: compose-up ## Run a recipe in containers and print the report's address: RECIPE=demo, or RECIPE=FILE.yaml
	@RECIPE=$(RECIPE_NAME) COMPOSE='env $(CAT_COMPOSE)' docker/pipeline.sh

compose-down: docker/compose.env ## Stop the containers; ERASE=1 also deletes the content of the store
	@$(CAT_COMPOSE) rm --force --stop --volumes
	@$(CAT_COMPOSE) down --remove-orphans $(if $(ERASE),--volumes)

lock: ## Write the lock files again: versions stay if pyproject.toml allows them; NEWEST=1 takes the newest
	$(CHECK_PYTHON)
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet pip==26.3
	build/lock/bin/python docker/lock.py $(if $(NEWEST),--newest)
	rm -r build/lock

# Whatever a person made stays: runs/, the files in build/, a folder that VENV names but that is no virtual environment.
clean: ## Remove the virtual environment and the caches of tools; runs/ and what you made in build/ stay (see `pipelines gc`)
	test ! -f $(VENV)/pyvenv.cfg || rm -rf $(VENV)
	rm -rf build/docker build/lock .pytest_cache .ruff_cache .hypothesis .import_linter_cache cat_pipeline.egg-info
	-@rmdir build 2>/dev/null || true
