"""Each benchmark runs at its smallest size and gives figures; a mistake is one line."""

import json
import os

import commands
import cv2
import numpy as np
import pytest
from repository import ROOT

from benchmarks import contest, preflight_truth, serving_speed, stacks, train_contestants
from data_prep import tfrecord
from data_prep.command_line import UserError
from data_prep.conversion_rule import Rule
from data_prep.photos import images
from data_prep.rehearsal import drawing

pytestmark = pytest.mark.slow

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
needs_two_cores = pytest.mark.skipif(CORES < 2, reason="needs two cores, as the benchmark does")
HAS_BOTH = all((ROOT / name / "bin" / "python").exists() for name in stacks.ENVIRONMENTS.values())


def run(name, *arguments):
    return commands.in_new_process(f"benchmarks.{name}", *arguments)


@pytest.fixture
def photos(tmp_path):
    """Return the paths of four photos of two classes, one of them grey."""
    paths = []
    for number, size in enumerate([(500, 375), (200, 300), (320, 300), (400, 300)]):
        photo = cv2.resize(drawing.draw_photo("disc", np.random.default_rng(number)), size)
        path = tmp_path / "photos" / f"class_{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), photo[..., 0] if number == 3 else photo)
        paths.append(path)
    return paths


ONCE = "--repeats=1"
NETWORK = ("--width=0.03", "--batch_size=2", "--steps=1", ONCE)
FEEDING = ("--photos_dir={photos}", "--photos=8", "--batch_size=4", "--seconds=0.2", ONCE)
SERVING = ("--width=0.05", "--seconds=0.2", "--clients=2", ONCE)
# By benchmark: the contestants to measure, the sizes, and the figure that each must have.
RUNS = {
    "train_speed": ("matmul_float32,paper", NETWORK, "milliseconds"),
    "input_speed": ("bare,ours", (*FEEDING, "--work_dir={work}"), "photos_per_second"),
    "serving_speed": ("in_process,in_process_16,rest,grpc", SERVING, "photos_per_second"),
    "prepare_speed": (
        "prepare,bare",
        ("--photos_dir={photos}", "--photos=12", ONCE, "--work_dir={work}"),
        "peak_memory_mb",
    ),
}
WITH_PYTORCH = {
    "train_speed": ("port_sgd,port_adam,port_bfloat16,seed_sgd", NETWORK, "milliseconds"),
    "input_speed": ("torch_loader,ours", (*FEEDING, "--work_dir={work}"), "photos_per_second"),
}


def measured(name, contestants, sizes, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    places = {"photos": tmp_path / "photos", "work": work}
    done = run(name, f"--only={contestants}", *(size.format(**places) for size in sizes))
    assert done.returncode == 0, done.stderr
    assert list(work.iterdir()) == []
    result = json.loads(done.stdout.splitlines()[-1])
    assert sorted(result["contestants"]) == sorted(contestants.split(","))
    assert result["machine"]["cores"] == CORES
    return result


@pytest.mark.soak
@needs_two_cores
@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_gives_its_figures(name, photos, tmp_path):
    contestants, sizes, figure = RUNS[name]
    result = measured(name, contestants, sizes, tmp_path)
    assert all(figures[figure] > 0 for figures in result["contestants"].values())
    rates = {name: of.get("photos_per_second") for name, of in result["contestants"].items()}
    if name == "input_speed":
        ratio = result["ratios"]["ours / bare"]["median"]
        assert ratio == pytest.approx(rates["ours"] / rates["bare"], rel=0.01)
    if name == "serving_speed":
        best = max(rates["in_process"], rates["in_process_16"])
        share = result["ratios"]["rest / best peer"]["median"]
        assert share == pytest.approx(rates["rest"] / best, rel=0.01)
    if name == "prepare_speed":
        # The same calls give the same JPEGs; those of prepare are in records with other features.
        stored = {name: of["stored_bytes"] for name, of in result["contestants"].items()}
        assert 100 < stored["prepare"] - stored["bare"] < 600


@pytest.mark.torch
@needs_two_cores
@pytest.mark.parametrize("name", WITH_PYTORCH)
def test_a_benchmark_beside_pytorch(name, photos, tmp_path):
    pytest.importorskip("torch", reason="needs PyTorch: make test-torch")
    contestants, sizes, figure = WITH_PYTORCH[name]
    result = measured(name, contestants, sizes, tmp_path)
    assert all(figures[figure] > 0 for figures in result["contestants"].values())


@pytest.mark.soak
@pytest.mark.skipif(not HAS_BOTH, reason="needs both stacks: make environment environment-addons")
def test_figures_of_both_stacks():
    done = run("stacks", "--batch_size=2", "--steps=1", "--width=0.05", ONCE)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    for name in stacks.ENVIRONMENTS:
        figures = result["contestants"][name]
        assert figures["start_seconds"] > 0.1
        assert figures["paper_photos_s"] > 0


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("train_speed", ["--only=paper,perpetuum"], "perpetuum is none of them"),
        ("input_speed", [f"--photos_dir={__file__}"], "--photos_dir must be a folder or a tar"),
        ("serving_speed", ["--only=rest,carrier_pigeon"], "carrier_pigeon is none of them"),
        ("prepare_speed", ["--only=bare,slimmer"], "slimmer is none of them"),
        ("prepare_speed", ["--photos_dir=/nowhere/at/all"], "--photos_dir must be a folder or"),
    ],
)
def test_a_mistake_is_one_line(name, flags, message):
    done = run(name, *flags)
    assert done.returncode in (1, 2)
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_contestant_that_fails_is_one_line():
    with pytest.raises(UserError, match="the contestant nobody failed: KeyError: 'nobody'"):
        contest.run("the contestant nobody", "benchmarks.train_contestants", "nobody")


def test_slim_resized_stores_what_prepare_does(photos, tmp_path):
    list_path, output_dir = tmp_path / "list.txt", tmp_path / "slim"
    list_path.write_text("".join(f"{path}\n" for path in photos))
    output_dir.mkdir()
    done = run("prepare_contestants", "slim_resized", str(list_path), str(output_dir), "2")
    assert done.returncode == 0, done.stderr
    stored = {}
    for index in range(2):
        with open(output_dir / f"train-{index:05d}-of-00002", "rb") as file:
            for payload in tfrecord.read_records(file):
                features = tfrecord.decode_example(payload)
                stored[features["image/filename"].decode()] = features["image/encoded"]
    assert sorted(stored) == sorted(path.name for path in photos)
    for path in photos:
        ours = images.convert(path.read_bytes(), Rule())
        pixels = [
            images.decode_stored(data, storage="jpeg", height=256, width=256).astype(float)
            for data in (ours.image, stored[path.name])
        ]
        assert np.abs(pixels[0] - pixels[1]).mean() < 2.5  # grey levels


def test_shares_are_of_one_round():
    def round_of(peer, judged):
        return {
            "in_process": {"p50_ms": 10.0, "photos_per_second": peer},
            "rest": {"p50_ms": 12.5, "photos_per_second": judged},
        }

    rounds = [round_of(100, 90), round_of(10, 20), round_of(50, 25)]
    share = serving_speed.comparisons(rounds)["rest / best peer"]
    assert (share["median"], share["rounds"]) == (0.9, [0.9, 2.0, 0.5])


def test_work_of_a_step_is_that_of_the_products():
    # 724,406,816 multiply-adds an image, 105,415,200 of them in conv1
    paper = train_contestants.CONTESTANTS["paper"]
    expected = 2 * 64 * (3 * 724_406_816 - 105_415_200)
    assert train_contestants.flop_of_a_step(paper, 64, 1.0) == expected


def run_of(*top1, stopped=""):
    return {"top1": list(top1), "classes": 10, "photos": 900, "stopped": stopped}


# Chance is 0.1, a standard error 0.01.
@pytest.mark.parametrize(
    ("line", "truth"),
    [
        (run_of(0.12, 0.14, 0.2, 0.3), "learns"),
        (run_of(0.1, 0.12, 0.2, 0.3), "at risk"),
        (run_of(0.1, 0.14, 0.14, 0.14), "at risk"),
        (run_of(0.1, 0.1, 0.1, 0.12), "flat"),
        (run_of(0.2, 0.3, 0.1, 0.1), "flat"),
        (run_of(stopped="a label is out of range"), "flat"),
    ],
)
def test_the_truth_of_a_run(line, truth):
    assert preflight_truth.truth_of_run(line) == truth
