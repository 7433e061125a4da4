import json
import os
import subprocess
import sys

import pytest
from repository import ROOT

from benchmarks import runs, train_contestants, train_speed
from data_prep import command_line

TINY = ("--width=0.03", "--batch_size=2", "--steps=2", "--repeats=1")

needs_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="the benchmark needs two cores",
)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.train_speed", *TINY, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@needs_two_cores
def test_rates_shares_and_ratios():
    done = run("--only=matmul_float32,paper")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    product, paper = (result["contestants"][name] for name in ("matmul_float32", "paper"))
    assert product["images_per_second"] is None
    assert product["share"] == 1
    assert paper["images_per_second"] == pytest.approx(2000 / paper["milliseconds"], rel=0.05)
    assert paper["share"] == pytest.approx(paper["gflops"] / product["gflops"], rel=0.05, abs=0.01)
    assert result["ratios"] == {}
    assert "images/s" in done.stderr


@needs_two_cores
def test_next_to_the_port():
    pytest.importorskip("torch")
    done = run("--only=port_sgd,port_adam,port_bfloat16,seed_sgd,seed_adam,paper_bfloat16")
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout.splitlines()[-1])["ratios"]
    assert list(ratios) == [
        title for title in train_speed.RATIOS if not title.startswith("paper /")
    ]
    assert all(ratio["median"] > 0 for ratio in ratios.values())


def test_work_of_a_step_is_that_of_the_products():
    # 724,406,816 multiply-adds an image, 105,415,200 of them in conv1
    paper = train_contestants.CONTESTANTS["paper"]
    expected = 2 * 64 * (3 * 724_406_816 - 105_415_200)
    assert train_contestants.flop_of_a_step(paper, 64, 1.0) == expected
    product = train_contestants.CONTESTANTS["matmul_float32"]
    assert train_contestants.flop_of_a_step(product, 64, 1.0) == 2 * 4096**3


def test_an_unknown_contestant_is_one_line():
    done = run("--only=paper,caffe2")
    assert done.returncode == 1
    assert "--only must be some of matmul_float32" in done.stderr
    assert "caffe2 is none of them" in done.stderr
    assert "Traceback" not in done.stderr


@needs_two_cores
def test_a_contestant_that_fails_is_one_line(monkeypatch):
    monkeypatch.setattr(runs.subprocess, "run", failing)
    with pytest.raises(command_line.UserError, match="the contestant paper failed: no torch here"):
        train_speed.measure(batch_size=2, steps=1, repeats=1, width=0.03, only=["paper"])


def failing(command, **_):
    return subprocess.CompletedProcess(command, 1, "", "first\nno torch here\n")
