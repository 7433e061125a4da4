import json
import os
import subprocess
import sys

import pytest
from repository import ROOT

from benchmarks import serving_contestants, serving_speed

needs_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="the benchmark needs two cores",
)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.serving_speed", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@needs_two_cores
def test_rates_and_shares():
    sizes = ("--width=0.05", "--seconds=0.2", "--clients=2", "--repeats=1")
    done = run("--only=in_process,in_process_16,rest,grpc", *sizes)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    figures = result["contestants"]
    assert list(figures) == ["in_process", "in_process_16", "rest", "grpc"]
    for each in figures.values():
        assert 0 < each["p50_ms"] <= each["p99_ms"]
        assert each["photos_per_second"] > 0
    best = max(figures[peer]["photos_per_second"] for peer in ("in_process", "in_process_16"))
    for name in ("rest", "grpc"):
        assert result["shares"][name]["median"] == pytest.approx(
            figures[name]["photos_per_second"] / best, rel=0.01
        )
        assert result["overhead_ms"][name]["median"] == pytest.approx(
            figures[name]["p50_ms"] - figures["in_process"]["p50_ms"], abs=0.02
        )
    assert "rest, share of the best peer's rate" in done.stderr


def test_shares_are_of_one_round():
    def run_of(peer, judged):
        return {
            "in_process": {"p50_ms": 10.0, "photos_per_second": peer},
            "rest": {"p50_ms": 12.5, "photos_per_second": judged},
        }

    rounds = [run_of(100, 90), run_of(10, 20), run_of(50, 25)]
    compared = serving_speed._compare(rounds, ["in_process", "rest"])
    assert compared["shares"]["rest"] == {"median": 0.9, "rounds": [0.9, 2.0, 0.5]}
    assert compared["overhead_ms"]["rest"]["rounds"] == [2.5] * 3
    assert serving_speed._compare(rounds, ["rest"]) == {"shares": {}, "overhead_ms": {}}


def test_callers_share_the_requests_and_each_is_asked_for():
    seen = []
    rate = serving_contestants._at_once([seen.append] * 4, [b"a", b"b", b"c"], 0.05)
    assert set(seen) == {b"a", b"b", b"c"}
    assert 0 < rate <= len(seen) / 0.05


def test_an_unknown_contestant_is_one_line():
    done = run("--only=rest,carrier_pigeon")
    assert done.returncode == 1
    assert "carrier_pigeon is none of them" in done.stderr
    assert "Traceback" not in done.stderr
