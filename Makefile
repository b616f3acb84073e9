# Every target does its own set-up in .venv: through uv where it is installed, through venv and pip where not.
# `make PYTHON=python3.12 ...` takes another Python, `make UV= ...` leaves uv alone.

PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null)
RUN ?= runs/fish
STEPS ?=

BIN := .venv/bin
BARRELEYE := $(BIN)/barreleye
STEPS_OPTION := $(if $(STEPS),--steps $(STEPS))

# uv looks for wheels where pip does. With no such place it takes the build of torch that fits this machine: without a
# GPU, not the gigabytes of CUDA.
ifndef UV_FIND_LINKS
ifdef PIP_FIND_LINKS
comma := ,
export UV_FIND_LINKS := $(subst $() ,$(comma),$(strip $(PIP_FIND_LINKS)))
else
export UV_TORCH_BACKEND ?= auto
endif
endif

# $(call install,FOLDER) installs into that environment; --upgrade-deps, as only newer pip knows dependency groups.
ifdef UV
venv := $(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
install = $(UV) pip install --python $(1)/bin/python
else
venv := $(PYTHON) -m venv --upgrade-deps .venv
install = $(BIN)/python -m pip --python $(1)/bin/python install
endif

.PHONY: help quickstart notebook test test-wheel test-peers stress lint bench clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

# For people ---------------------------------------------------------------------------------------------------------

# Goes on with what $(RUN) holds. `exec`, so that Ctrl-C reaches the training alone, which saves and leaves.
quickstart: .venv/core  ## grow a fish and talk to it (STEPS=100: a shorter training)
	@[ -n "$$(ls $(RUN)/state $(RUN)/metrics.jsonl 2>/dev/null)" ] || exec $(BARRELEYE) train fish --out $(RUN) $(STEPS_OPTION)
	@$(BIN)/python -c 'from barreleye import Run; r = Run("$(RUN)"); exit(r.step < $(or $(STEPS),r.config.train.steps))' \
		|| exec $(BARRELEYE) train --resume $(RUN) $(STEPS_OPTION)
	@if [ -t 0 ] && [ -t 1 ]; then exec $(BARRELEYE) chat $(RUN); fi; \
	for prompt in "hello" "what do you eat?" "are you afraid of the dark?"; do \
		echo "> $$prompt"; $(BARRELEYE) chat $(RUN) --prompt "$$prompt" || exit; \
	done

notebook: .venv/notebook  ## open the notebook
	$(BIN)/jupyter lab notebooks

# For developers -----------------------------------------------------------------------------------------------------

test: lint  ## all that a change must pass: style, types, tests, and the wheel
	$(BIN)/python -m pytest --durations=10
	@$(MAKE) --no-print-directory test-wheel

lint: .venv/dev  ## style and types alone
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The wheel in an environment of its own, which borrows the dependencies of .venv: a folder named in a .pth file is
# searched last, and the .pth files in it (the editable install) are not read.
PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
WHEEL_TESTS := $(wildcard tests/test_*.py) tests/data tests/inference

test-wheel: .venv/dev  ## build the wheel, install it, test what was installed
	rm -rf dist .venv-wheel
	$(BIN)/python -m hatchling build --target wheel
	$(BIN)/python -m venv --without-pip .venv-wheel
	$(call install,.venv-wheel) --no-deps dist/*.whl
	$(BIN)/python $(PURELIB) > "$$(.venv-wheel/bin/python $(PURELIB))/dependencies.pth"
	.venv-wheel/bin/python -c 'import barreleye; assert ".venv-wheel" in barreleye.__file__, barreleye.__file__'
	.venv-wheel/bin/python -m pytest $(WHEEL_TESTS)

bench: .venv/core  ## measure what the README claims, for hours (TEXT=FILE: that text, where none can be fetched)
	$(BIN)/python benchmarks/machine.py
	$(BIN)/python benchmarks/decode.py $(wildcard $(RUN))
	$(BIN)/python benchmarks/speed.py fish
	$(BIN)/python benchmarks/speed.py fish-single
	$(BIN)/python benchmarks/speed.py $(or $(TEXT),shakespeare)
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/bad_inputs.py
	$(BIN)/python benchmarks/recorder.py
	$(BIN)/python benchmarks/doctor.py
	$(BIN)/python benchmarks/kill_resume.py
	$(BIN)/python benchmarks/quickstart.py $(wildcard $(RUN))
	$(BIN)/python benchmarks/shakespeare.py $(or $(TEXT),shakespeare)
	$(BIN)/python benchmarks/characters.py

# Environments that borrow all but the peer from .venv, as .venv-wheel does: what they install themselves comes first.
PEERS := 4 5
PEER_TESTS := tests/model/test_huggingface.py tests/export/test_huggingface.py tests/export/test_importing.py

.venv-peers-%: .venv/dev
	$(BIN)/python -m venv --without-pip $@
	$(call install,$@) 'transformers<$(shell expr $* + 1)' 'transformers>=$*' # and the Hub client that it wants
	$(BIN)/python $(PURELIB) > "$$($@/bin/python $(PURELIB))/dependencies.pth"
	echo '$(CURDIR)/src' >> "$$($@/bin/python $(PURELIB))/dependencies.pth"

test-peers: $(PEERS:%=.venv-peers-%)  ## check model folders and imports with transformers 4 and 5, each in its own environment
	for peer in $^; do $$peer/bin/python -m pytest $(PEER_TESTS) || exit; done

stress: .venv/dev  ## give each reader of foreign files 10,000 mutated ones
	BARRELEYE_MUTATIONS=10000 $(BIN)/python -m pytest tests/export/test_hostile.py

clean:  ## remove environments, builds and caches (the runs stay)
	rm -rf .venv .venv-wheel .venv-peers-* dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# Set-up: a stamp for each set of packages; nothing is done again until pyproject.toml changes -----------------------

.venv/core: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "$(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(venv)
	$(call install,.venv) --editable '.[report,fast]'
	@touch $@

.venv/dev: .venv/core
	$(call install,.venv) --group dev
	@touch $@

.venv/notebook: .venv/core
	$(call install,.venv) --editable '.[notebook]'
	@touch $@
