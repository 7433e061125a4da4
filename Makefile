# make quickstart   the whole road on rendered photos, from tars to a served model
# make test         every test
# Both make the project's own virtual environment first; a second run installs nothing.

# The newest suitable Python on the PATH, unless PYTHON=... names one.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$name && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
# Named by what it was made from: another lock file or setup.py is another stamp.
STAMP := $(VENV)/.installed-$(shell cat requirements.lock setup.py | cksum | cut -d' ' -f1)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help environment quickstart test lint format lock clean

help:
	@sed -n '/^# make/s/^# //p' Makefile

environment: $(STAMP)

$(STAMP): requirements.lock setup.py
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: Python 3.11, 3.12 or 3.13 is needed; python3 here is $$(python3 --version 2>&1)." \
			"Install one (apt-get install python3 python3-venv) or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
		exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "make: Python 3.11, 3.12 or 3.13 is needed; PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "make: $(PYTHON) has no venv module; install it (apt-get install python3-venv)." >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --require-hashes --requirement requirements.lock
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

quickstart: $(STAMP)
	$(RUN) -m keras_alexnet.quickstart

test: $(STAMP) lint
	$(RUN) -m pytest

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(STAMP)
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra serving --extra dev \
		--custom-compile-command "make lock" setup.py --output-file requirements.lock

clean:
	rm -rf $(VENV) *.egg-info build
