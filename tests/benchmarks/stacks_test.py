import json
import subprocess
import sys

import pytest
from repository import ROOT

from benchmarks import stacks
from data_prep import command_line

HAS_BOTH = all(
    (ROOT / folder / "bin" / "python").exists() for folder in stacks.ENVIRONMENTS.values()
)


def test_an_environment_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(stacks.ENVIRONMENTS, "addons", ".venv-of-nobody")
    with pytest.raises(command_line.UserError, match="run make environment environment-addons"):
        stacks.measure(batch_size=2, steps=1, width=0.05, repeats=1)


@pytest.mark.skipif(not HAS_BOTH, reason="make environment environment-addons makes both stacks")
def test_figures_of_both():
    sizes = ("--batch_size=2", "--steps=1", "--width=0.05", "--repeats=1")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.stacks", *sizes],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    for name in stacks.ENVIRONMENTS:
        figures = result[name]
        assert figures["start_seconds"] > 0.1
        assert figures["paper_images_per_second"] > 0
        assert 100 < figures["paper_peak_mib"] < 20_000
        assert figures["disk_mib"] > 1000
    assert "start_seconds" in done.stderr
