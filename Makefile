# make quickstart    the whole road on rendered photos, from tars to a served model
# make check         lint and the fast tests; FOLDER=data_prep/photos: those of one folder of tests/
# make test          lint and every test but those of make soak
# make soak          the tests that take minutes: twenty kills, 10,000 mutations, 110,000 photos
# make test-addons   the tests of what can differ on the second stack: TensorFlow 2.15 with Keras 2.15
#                    and TensorFlow Addons; ALL=1: every test but those of make soak
# make test-torch    the tests that compare with PyTorch (its environment takes 8 GB)
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
VENV_TORCH := .venv-torch
RUN := $(VENV)/bin/python
RUN_ADDONS := $(VENV_ADDONS)/bin/python
# Named by what it was made from: another lock file or setup.py is another stamp.
STAMP := $(VENV)/.installed-$(shell cat requirements.lock setup.py | cksum | cut -d' ' -f1)
STAMP_ADDONS := $(VENV_ADDONS)/.installed-$(shell cat requirements-addons.lock setup.py | cksum | cut -d' ' -f1)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# What can differ between the stacks; the data job and the client are the same code under both.
ADDONS_TESTS := tests/network tests/columns tests/inputs/augmentations_test.py tests/analysis tests/training \
	tests/saved_model/export_test.py tests/saved_model/signatures_test.py \
	tests/whole/stacks_test.py tests/whole/earlier_versions_test.py \
	--ignore=tests/training/train_trouble_test.py
TROUBLE := tests/serving/local_server/trouble_test.py

.PHONY: help environment environment-addons environment-torch quickstart check test soak test-addons \
	test-torch lint format lock clean

help:
	@sed -n '/^# make/,/^$$/s/^# //p' Makefile

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

# A Python that has PyTorch lends it; otherwise PyPI's, a download of 2.5 GB.
environment-torch: requirements.lock setup.py
	@test -x $(VENV_TORCH)/bin/python && $(VENV_TORCH)/bin/python -c 'import torch, keras_alexnet' 2>/dev/null || { \
		rm -rf $(VENV_TORCH) && $(PYTHON) -m venv \
			$$($(PYTHON) -c 'import torch' 2>/dev/null && echo --system-site-packages) $(VENV_TORCH) \
		&& $(VENV_TORCH)/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock \
		&& $(VENV_TORCH)/bin/python -m pip install --quiet torch \
		&& $(VENV_TORCH)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .; }

quickstart: $(STAMP)
	$(RUN) -m keras_alexnet.quickstart

check: lint
	$(RUN) -m pytest -m "not slow and not soak and not torch and not browser and not root and not gpu" tests/$(FOLDER)

# Three processes for two cores: much of the suite waits for servers, kills and other processes.
test: lint
	$(RUN) -m pytest -n 3

# The server's troubles in one run and in their order: nothing that they leave behind may leak.
soak: $(STAMP)
	$(RUN) -m pytest -m soak --ignore=$(TROUBLE)
	$(RUN) -m pytest -m "" $(TROUBLE)

test-addons: $(STAMP_ADDONS)
	$(RUN_ADDONS) -m pytest $(if $(ALL),,$(ADDONS_TESTS))

test-torch: environment-torch
	$(VENV_TORCH)/bin/python -m pytest -m torch

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-cache

format: $(STAMP)
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra serving --extra gcs --extra s3 --extra dev \
		--custom-compile-command "make lock" setup.py --output-file requirements.lock
	uv pip compile --quiet --python-version 3.11 --generate-hashes --extra addons --extra serving --extra dev \
		--custom-compile-command "make lock" setup.py --output-file requirements-addons.lock

clean:
	rm -rf $(VENV) $(VENV_ADDONS) $(VENV_TORCH) *.egg-info build
