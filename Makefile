# One environment in .venv, made by plain pip; `make demo`, `make test`, `make lint`, `make bench`, `make lmms`.
# ARGS passes through: make demo ARGS=--no-app, make test ARGS="-k ties".

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin
ARGS ?=

.PHONY: demo test lint bench lmms install

install: $(STAMP)

# The stamp holds the checksum of pyproject.toml: a touched but unchanged file installs nothing.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@if [ -f $@ ] && [ "$$(cksum < pyproject.toml)" = "$$(cat $@)" ]; then touch $@; else \
	  { [ -x $(RUN)/python ] || $(PYTHON) -m venv $(VENV); } \
	  && $(RUN)/python -m pip install --disable-pip-version-check --progress-bar off -e '.[dev]' \
	  && cksum < pyproject.toml > $@; fi

demo: $(STAMP)
	$(RUN)/triptych demo $(ARGS)

# Two workers with one thread each: more threads on the same cores make the tests slower, not faster.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu" $(ARGS)

lint: $(STAMP)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# Each script measures ours and the peer in one run; ARGS chooses: make bench ARGS=tests/benchmarks/bench_data.py
bench: $(STAMP)
	set -e; for script in $(or $(ARGS),$(wildcard tests/benchmarks/bench_*.py)); do $(RUN)/python $$script; done

# lmms-eval wants an older protobuf than ours: its environment stands on top of .venv, which stays as it is.
LMMS ?= .venv-lmms
SITE := -c "import sysconfig; print(sysconfig.get_path('purelib'))"
lmms: $(STAMP)
	$(RUN)/python -m venv $(LMMS)
	$(RUN)/python $(SITE) > $$($(LMMS)/bin/python $(SITE))/_triptych.pth
	$(LMMS)/bin/python -m pip install --disable-pip-version-check --progress-bar off 'lmms-eval>=0.7.3,<0.8'
	$(LMMS)/bin/python -m pip install --disable-pip-version-check --progress-bar off --no-deps -e .
	TRIPTYCH_LMMS_PYTHON=$(abspath $(LMMS))/bin/python OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m slow tests/apps/test_lmms.py $(ARGS)
