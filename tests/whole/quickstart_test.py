import importlib
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from absl import flags

from data_prep.command_line import UserError
from data_prep.rehearsal.photos import CLASSES
from keras_alexnet import quickstart


@pytest.mark.parametrize("step", quickstart.STEPS, ids=lambda step: step.name)
def test_every_step_is_a_command_that_has_these_flags(step):
    module = importlib.import_module(step.module)
    if hasattr(module, "__path__"):  # a command that is a package
        module = importlib.import_module(f"{step.module}.__main__")
    places = {"run": "RUN", "config": "x.flags", "server": "http://127.0.0.1:8501"}
    arguments = [argument.format(**places) for argument in step.arguments]
    own = [argument for argument in arguments if not argument.startswith("--flagfile")]
    values = flags.FlagValues()
    values.append_flag_values(module.FLAGS)
    positional = values(["command", *own])[1:]
    assert callable(module.run)
    assert all(path.startswith("RUN/release/held_out/") for path in positional)


def test_photos_to_classify_are_of_the_rehearsal():
    (classify,) = [step for step in quickstart.STEPS if step.name == "classify"]
    photos = [argument for argument in classify.arguments if argument.endswith(".jpg")]
    assert len(photos) == 3
    shapes = {entry.shape for entry in CLASSES}
    assert {os.path.basename(photo).removesuffix("_0.jpg") for photo in photos} <= shapes


def test_what_a_step_reads_an_earlier_one_has_written():
    written = set()
    for step in quickstart.STEPS:
        for argument in step.arguments:
            flag, _, value = argument.rpartition("=")
            if "{run}" in value:
                folder = value.removeprefix("{run}/")
                root = "release" if folder.startswith("release/") else folder
                makes = flag in ("--output_dir", "--export_dir") or step.name == "train"
                assert makes or root in written, argument
                written.add(root)


@pytest.mark.parametrize("top1", [0.6, 0.61, 1.0])
def test_learned(top1):
    quickstart.check_accuracy(top1)


@pytest.mark.parametrize(
    ("top1", "shown"), [(0.1, "10.0%"), (0.5999, "60.0%"), (float("nan"), "nan%")]
)
def test_not_learned(top1, shown):
    with pytest.raises(UserError, match=f"top-1 of at least 60% is needed, this run has {shown}"):
        quickstart.check_accuracy(top1)


def test_guide_names_the_folders_and_runnable_commands():
    guide = quickstart.guide("a run")
    for folder in ("release", "data", "workdir", "models/alexnet", "quickstart.json"):
        assert f"'a run'/{folder} " in guide
    commands = guide.partition("What to try next:")[2].strip().splitlines()
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command)
        assert os.path.samefile(words[0], sys.executable)
        assert importlib.util.find_spec(words[2])


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--run_dir must be a folder .*choose another"):
        quickstart.quickstart(run_dir=str(tmp_path / "file" / "run"), config="")


def test_report_of_an_earlier_run_does_not_outlive_a_failure(tmp_path, monkeypatch):
    old = tmp_path / quickstart.REPORT
    old.write_text("{}")
    monkeypatch.setattr(quickstart, "STEPS", (quickstart.Step("fail", "no.such.module", (), ""),))
    with pytest.raises(UserError, match="step 1 of 1, fail, failed"):
        quickstart.quickstart(run_dir=str(tmp_path), config="")
    assert not old.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("top1", "status"), [(0.9, 0), (0.3, 1)])
def test_report_is_written_and_the_accuracy_decides(tmp_path, top1, status):
    """A road of one step, whose command prints the accuracy it is given."""
    (tmp_path / "keras_alexnet_fake.py").write_text(
        "import sys\nprint(f'{{\"top1\": {sys.argv[1]}}}')\n"
    )
    script = (
        "import os, sys\n"
        "from data_prep import command_line\n"
        "from keras_alexnet import quickstart\n"
        "quickstart.JUDGED = 'evaluate'\n"
        "quickstart.STEPS = (\n"
        f"  quickstart.Step('evaluate', 'keras_alexnet_fake', ('{top1}',), 'top-1 {{top1:.0%}}'),\n"
        ")\n"
        "command_line.run(lambda _: quickstart.quickstart(run_dir='run', config=''),\n"
        "    quickstart.FLAGS, '')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    report = json.loads((tmp_path / "run" / quickstart.REPORT).read_text())
    assert report["top1"] == top1
    assert [step["step"] for step in report["steps"]] == ["evaluate"]
    assert re.search(rf"^evaluate +top-1 {top1:.0%} ", done.stderr, re.MULTILINE)
    assert "What to try next:" in done.stderr
    if status == 0:
        assert json.loads(done.stdout)["top1"] == top1
    else:
        assert done.stdout == ""
        assert "a validation top-1 of at least 60% is needed" in done.stderr.splitlines()[-1]
