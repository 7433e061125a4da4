import importlib
import runpy

import pytest
import setuptools
from repository import ROOT


@pytest.fixture
def arguments(monkeypatch):
    """Return the arguments of setup.py to setuptools."""
    told = {}
    monkeypatch.setattr(setuptools, "setup", told.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return told


def test_every_package_is_installed(arguments):
    there = setuptools.find_packages(str(ROOT), include=["data_prep*", "keras_alexnet*"])
    assert sorted(arguments["packages"]) == sorted(there)


@pytest.mark.slow
def test_every_console_script_is_a_function(arguments):
    for script in arguments["entry_points"]["console_scripts"]:
        module, function = script.partition(" = ")[2].split(":")
        assert callable(getattr(importlib.import_module(module), function)), script
