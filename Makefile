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

# $(call venv,FOLDER) makes an environment, $(call install,FOLDER) installs into it; --upgrade-deps, as only newer pip
# knows dependency groups.
ifdef UV
venv = $(UV) venv --quiet --allow-existing --python $(PYTHON) $(1)
install = $(UV) pip install --python $(1)/bin/python
else
venv = $(PYTHON) -m venv --upgrade-deps $(1)
install = $(BIN)/python -m pip --python $(1)/bin/python install
endif

.PHONY: help quickstart studio notebook test test-wheel test-peers stress lint bench clean

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

studio: .venv/core  ## open the studio: grow, watch, talk and look on a page
	@exec $(BARRELEYE) studio

notebook: .venv/notebook  ## open the notebook
	$(BIN)/jupyter lab notebooks

# For developers -----------------------------------------------------------------------------------------------------

test: lint  ## all that a change must pass: style, types, tests, and the wheel
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null || \
		echo "SKIPPED: the pages in a browser, as Chromium is not installed (on Debian: apt-get install chromium)" >&2
	$(BIN)/python -m pytest --durations=10
	@$(MAKE) --no-print-directory test-wheel

lint: .venv/dev  ## style and types alone
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The wheel in an environment of its own, which borrows the dependencies of .venv: a folder named in a .pth file is
# searched last, and the .pth files in it (the editable install) are not read.
PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
WHEEL_TESTS := $(wildcard tests/test_*.py) tests/data tests/inference tests/export/test_joined.py tests/studio/test_app.py

test-wheel: .venv/dev  ## build the wheel, install it, test what was installed
	rm -rf dist .venv-wheel
	$(BIN)/python -m hatchling build --target wheel
	$(BIN)/python -m venv --without-pip .venv-wheel
	$(call install,.venv-wheel) --no-deps dist/*.whl
	$(BIN)/python $(PURELIB) > "$$(.venv-wheel/bin/python $(PURELIB))/dependencies.pth"
	.venv-wheel/bin/python -c 'import barreleye; assert ".venv-wheel" in barreleye.__file__, barreleye.__file__'
	.venv-wheel/bin/python -m pytest $(WHEEL_TESTS)

# Programs that ask for much that this project does not, or for versions of it, have environments of their own.
TRANSFORMERS := .venv-peers-4 .venv-peers-5
MODEL_FOLDER_TESTS := tests/model/test_huggingface.py tests/export/test_huggingface.py tests/export/test_importing.py
READERS := tests/inference/test_plain_weights.py tests/inference/test_plain_text.py tests/export/test_plain.py \
	tests/export/test_mutated.py

test-peers: .venv/peers .venv-peers/peers $(TRANSFORMERS:%=%/peers)  ## compare with TransformerLens, transformers 4 and 5, llama.cpp, ONNX Runtime
	.venv-peers/bin/python -m pytest tests/lens/test_transformer_lens.py
	for peer in $(TRANSFORMERS); do $$peer/bin/python -m pytest $(MODEL_FOLDER_TESTS) || exit; done
	$(BIN)/python -m pytest tests/export tests/training/test_track.py

stress: .venv/dev  ## give each reader of files 10,000 damaged ones
	BARRELEYE_MUTATIONS=10000 $(BIN)/python -m pytest $(READERS) -k mutated

# Lines that hold a figure beside what was promised are collected in $(TABLE), and shown again at the end.
TABLE := runs/bench.txt
TEXT_FILE := $(or $(TEXT),shakespeare)

bench: export BENCH_TABLE := $(TABLE)
bench: .venv/bench  ## measure what the README claims, for hours (TEXT=FILE: that text, where none can be fetched)
	@mkdir -p $(dir $(TABLE))
	$(BIN)/python benchmarks/machine.py > $(TABLE)
	@cat $(TABLE)
	$(BIN)/python benchmarks/small_things.py --text $(TEXT_FILE)
	$(BIN)/python benchmarks/look.py
	-$(if $(wildcard $(RUN)),$(BIN)/python benchmarks/studio.py $(RUN))
	-$(if $(wildcard $(RUN)),$(BIN)/python benchmarks/page.py $(RUN))
	$(BIN)/python benchmarks/induction.py
	$(BIN)/python benchmarks/decode.py $(wildcard $(RUN))
	$(BIN)/python benchmarks/speed.py fish --of all --steps 1440 --weight-decay 0.1
	$(BIN)/python benchmarks/speed.py fish --of replies --steps 2900 --weight-decay 0.1 --seeds 1
	$(BIN)/python benchmarks/speed.py fish-single --of all --steps 900
	$(BIN)/python benchmarks/speed.py fish-single --of all --steps 900 --precision float32
	$(BIN)/python benchmarks/speed.py $(TEXT_FILE)
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/bad_inputs.py
	$(BIN)/python benchmarks/recorder.py
	$(BIN)/python benchmarks/doctor.py
	$(BIN)/python benchmarks/kill_resume.py
	$(BIN)/python benchmarks/quickstart.py
	$(BIN)/python benchmarks/shakespeare.py $(TEXT_FILE)
	-$(BIN)/python benchmarks/characters.py
	@cat $(TABLE)

clean:  ## remove environments, builds and caches (the runs stay)
	rm -rf .venv .venv-wheel .venv-peers .venv-peers-* dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# Set-up: a stamp for each set of packages; nothing is done again until pyproject.toml changes -----------------------

.venv/core: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "$(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(call venv,.venv)
	$(call install,.venv) --editable '.[report,fast,studio]'
	@touch $@

.venv/dev: .venv/core
	$(call install,.venv) --group dev
	@touch $@

# llama.cpp is compiled where it is installed; where it cannot be, the rest is measured without it.
.venv/bench: .venv/core
	@$(call install,.venv) --group bench && touch $@ || \
		echo "make: llama.cpp cannot be built here (see above): decode is not compared with it" >&2

.venv/notebook: .venv/core
	$(call install,.venv) --editable '.[notebook]'
	@touch $@

.venv-peers/peers: .venv/core
	$(call venv,.venv-peers)
	$(call install,.venv-peers) --editable . --group peers
	@touch $@

# Which builds llama.cpp, once, for half an hour.
.venv/peers: .venv/dev
	$(call install,.venv) --editable '.[export,track,peers]'
	@touch $@

# They borrow all but the peer from .venv, as .venv-wheel does: what they install themselves comes first.
.venv-peers-%/peers: .venv/dev
	$(BIN)/python -m venv --without-pip $(@D)
	$(call install,$(@D)) 'transformers>=$*,<$(shell expr $* + 1)'  # and the client of the Hub that it wants
	$(BIN)/python $(PURELIB) > "$$($(@D)/bin/python $(PURELIB))/dependencies.pth"
	echo '$(CURDIR)/src' >> "$$($(@D)/bin/python $(PURELIB))/dependencies.pth"
	@touch $@
