# `make help` lists the targets. Variables to override: PYTHON, TORCH, OLDEST_TORCH, FASTGAN_BUILD, DEMO.
PYTHON ?= python3
# What pip is asked for, as requirements: for instance TORCH="torch torchvision --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.14.1 torchvision==0.29.1
# auto, off, cpu or cuda: what setup.py compiles
FASTGAN_BUILD ?= auto
# the oldest that is supported, for `make wheels`
OLDEST_TORCH ?= torch==2.11.0
DEMO ?= train cgan --data digits --out runs/demo --overwrite --batch-size 32 --steps 900 --minutes 4 --save-every 150

VENV := .venv
OLDEST := .venv-oldest
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := pyproject.toml setup.py $(shell find csrc -type f)

export FASTGAN_BUILD

.DEFAULT_GOAL := help
.PHONY: help install demo test check sanitize wheels bench audit gpu gpu-dry-run clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: $(STAMP)  ## create .venv and install fastgan in it, compiled parts included where they can be built

$(STAMP): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) 'setuptools>=77' wheel ninja
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-build-isolation -e '.[train,test,bench]'
	@$(BIN)/python -c "from fastgan.native import build_info; [print(f'{k}: {v}') for k, v in build_info().items()]"
	@touch $@

demo: install  ## train a small conditional GAN on scikit-learn's digits
	$(BIN)/fastgan $(DEMO)

test: install  ## run every test, the slow ones included
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests

check: install  ## lint, formatting, types, structure, the README's examples
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy fastgan
	$(BIN)/python -m pytest -q tests/test_structure.py
	if [ -f README.md ]; then $(BIN)/python -m doctest -o ELLIPSIS -o NORMALIZE_WHITESPACE README.md; fi

sanitize: install  ## the native tests with AddressSanitizer and UndefinedBehaviorSanitizer in the compiled code
	PYTHON='$(abspath $(BIN)/python)' bash tests/sanitize.sh

wheels: install  ## build the wheel beside this torch and the oldest supported one, test each beside both
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check $(OLDEST_TORCH) 'setuptools>=77' wheel ninja \
		numpy 'typer>=0.15' pytest pytest-timeout pytest-xdist hypothesis expecttest
	$(BIN)/python -m tests.wheels $(BIN)/python $(OLDEST)/bin/python

bench: install  ## compare every case of bench/ with torch on this machine, on one thread and on two
	$(BIN)/python -m bench run --threads 1 2

audit: install  ## what the Triton convolutions and (with nvcc) the CUDA kernels would cost a GPU, beside committed tables
	$(BIN)/python -m bench audit --check
	$(BIN)/python -m bench audit --nvcc --check || [ $$? -eq 3 ]  # 3: passed over, for the reason that it says

gpu:  ## on a GPU machine whose python3 holds torch: everything that needs the GPU (no venv, no network)
	bash bench/gpu.sh

gpu-dry-run: install  ## the plan of `make gpu` with its minutes, and all of it that needs no GPU
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHON='$(abspath $(BIN)/python)' bash bench/gpu.sh --dry-run

clean:  ## remove what was built and cached, .venv included
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	rm -f fastgan/*.so fastgan/_build_info.py
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
