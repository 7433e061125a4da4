# make quickstart    the whole road on rendered photos, from tars to a served model
# make test          every test
# make test-addons   every test again on the second stack: TensorFlow 2.15, Keras 2.15, TensorFlow Addons
# They make the project's own virtual environments first; a second run installs nothing.

# The newest suitable Python on the PATH, unless PYTHON=... names one.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$name && break; done)
# TensorFlow Addons has no wheel for a later one.
PYTHON_ADDONS ?= $(shell for name in python3.11 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	&& echo $$name && break; done)
VENV := .venv
VENV_ADDONS := .venv-addons
RUN := $(VENV)/bin/python
RUN_ADDONS := $(VENV_ADDONS)/bin/python
# Named by what it was made from: another lock file or setup.py is another stamp.
STAMP := $(VENV)/.installed-$(shell cat requirements.lock setup.py | cksum | cut -d' ' -f1)
STAMP_ADDONS := $(VENV_ADDONS)/.installed-$(shell cat requirements-addons.lock setup.py | cksum | cut -d' ' -f1)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help environment environment-addons quickstart test test-addons lint format lock clean

help:
	@sed -n '/^# make/s/^# //p' Makefile

environment: $(STAMP)

environment-addons: $(STAMP_ADDONS)

# A virtual environment $(1) from Python $(2) and the lock file $(3).
define install
	@$(2) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "make: $(2) has no venv module; install it (apt-get install python3-venv)." >&2; exit 1; }
	rm -rf $(1)
	$(2) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --require-hashes --requirement $(3)
	$(1)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
endef

$(STAMP): requirements.lock setup.py
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: Python 3.11, 3.12 or 3.13 is needed; python3 here is $$(python3 --version 2>&1)." \
			"Install one (apt-get install python3 python3-venv) or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
		exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "make: Python 3.11, 3.12 or 3.13 is needed; PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; exit 1; }
	$(call install,$(VENV),$(PYTHON),requirements.lock)
	touch $@

$(STAMP_ADDONS): requirements-addons.lock setup.py
	@if [ -z "$(PYTHON_ADDONS)" ]; then \
		echo "make: the addons stack needs Python 3.11; python3 here is $$(python3 --version 2>&1)." \
			"Install it or name it: make $(MAKECMDGOALS) PYTHON_ADDONS=/path/to/python3.11" >&2; \
		exit 1; fi
	$(call install,$(VENV_ADDONS),$(PYTHON_ADDONS),requirements-addons.lock)
	touch $@

quickstart: $(STAMP)
	$(RUN) -m keras_alexnet.quickstart

test: $(STAMP) lint
	$(RUN) -m pytest

test-addons: $(STAMP_ADDONS)
	$(RUN_ADDONS) -m pytest

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-cache

format: $(STAMP)
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra serving --extra dev \
		--custom-compile-command "make lock" setup.py --output-file requirements.lock
	uv pip compile --quiet --python-version 3.11 --generate-hashes --extra addons --extra serving --extra dev \
		--custom-compile-command "make lock" setup.py --output-file requirements-addons.lock

clean:
	rm -rf $(VENV) $(VENV_ADDONS) *.egg-info build
