import importlib
import importlib.util
import json
import os
import re
import shlex
import sys
import tomllib

import pytest
from absl import flags
from repository import ROOT

from data_prep.command_line import UserError
from data_prep.rehearsal.photos import CLASSES
from keras_alexnet import quickstart

_ROAD = tomllib.loads((ROOT / "configs" / quickstart.STEPS).read_text())
_STEPS = [quickstart.Step(**entry) for entry in _ROAD["steps"]]
_PLACES = {"run": "RUN", "configs": "CONFIGS", "server": "http://127.0.0.1:8501"}


@pytest.mark.parametrize("step", _STEPS, ids=lambda step: step.name)
def test_every_step_is_a_command_that_has_these_flags(step):
    name, *arguments = (word.format(**_PLACES) for word in step.command.split())
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):  # a command that is a package
        module = importlib.import_module(f"{name}.__main__")
    own = [argument for argument in arguments if not argument.startswith("--flagfile")]
    values = flags.FlagValues()
    values.append_flag_values(module.FLAGS)
    photos = values(["command", *own])[1:]
    assert callable(module.run)
    assert len(photos) == (3 if step.name == "classify" else 0)
    shapes = {f"RUN/release/held_out/{entry.shape}_0.jpg" for entry in CLASSES}
    assert set(photos) <= shapes


def test_what_a_step_reads_an_earlier_one_has_written():
    written = set()
    for step in _STEPS:
        for argument in step.command.split():
            flag, _, value = argument.rpartition("=")
            if "{run}" in value:
                folder = value.removeprefix("{run}/")
                root = "release" if folder.startswith("release/") else folder
                makes = flag in ("--output_dir", "--export_dir") or step.name == "train"
                assert makes or root in written, argument
                written.add(root)


def test_guide_names_the_folders_and_runnable_commands():
    places, _, commands = _ROAD["guide"].partition("What to try next:")
    for folder in ("release", "data", "workdir", "models/alexnet", quickstart.REPORT):
        assert f"{{run}}/{folder} " in places
    assert len(commands.strip().splitlines()) == 4
    for command in commands.strip().splitlines():
        assert importlib.util.find_spec(shlex.split(command)[2])


def _road(tmp_path, monkeypatch, top1):
    """Return a folder with a road of one step, whose command prints the accuracy it is given."""
    (tmp_path / "keras_alexnet_fake.py").write_text(
        "import sys\nprint(f'{{\"top1\": {sys.argv[1]}}}')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / quickstart.STEPS).write_text(f"""
judged = "evaluate"
minimum_top1 = {_ROAD["minimum_top1"]}
guide = "{{python}} -m next {{run}}"
[[steps]]
name = "evaluate"
command = "keras_alexnet_fake {top1}"
outcome = "top-1 {{top1:.0%}}"
""")
    return {"run_dir": str(tmp_path / "a run"), "configs": str(tmp_path)}


@pytest.mark.parametrize(
    ("top1", "shown"), [("0.6", None), ("0.1", "10.0%"), ("0.5999", "60.0%"), ("NaN", "nan%")]
)
def test_report_is_written_and_the_accuracy_decides(tmp_path, monkeypatch, capfd, top1, shown):
    arguments = _road(tmp_path, monkeypatch, top1)
    if shown is None:
        assert quickstart.quickstart(**arguments)["top1"] == 0.6
    else:
        with pytest.raises(
            UserError, match=f"top-1 of at least 60% is needed, this run has {shown}"
        ):
            quickstart.quickstart(**arguments)
    report = json.loads((tmp_path / "a run" / quickstart.REPORT).read_text())
    assert str(report["top1"]).lower() == top1.lower()
    assert [step["step"] for step in report["steps"]] == ["evaluate"]
    out, messages = capfd.readouterr()
    assert not out
    assert re.search(rf"^evaluate +top-1 {float(top1):.0%} ", messages, re.MULTILINE)
    python, *rest = shlex.split(messages.splitlines()[-1])
    assert os.path.samefile(python, sys.executable)
    assert rest == ["-m", "next", arguments["run_dir"]]


def test_report_of_an_earlier_run_does_not_outlive_a_failure(tmp_path, monkeypatch):
    arguments = _road(tmp_path, monkeypatch, "no JSON")
    old = tmp_path / "a run" / quickstart.REPORT
    old.parent.mkdir()
    old.write_text("{}")
    with pytest.raises(UserError, match="step 1 of 1, evaluate, must end with a line of JSON"):
        quickstart.quickstart(**arguments)
    assert not old.exists()
