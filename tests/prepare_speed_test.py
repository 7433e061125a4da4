import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data_prep import drawing

ROOT = pathlib.Path(__file__).parent.parent
CONTESTANTS = ["prepare", "bare", "bare_stored", "slim", "slim_resized"]


def run_benchmark(*flags):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.prepare_speed", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def photos_dir(tmp_path):
    """Five photos: large, small, upright, a PNG, and a grey one."""
    folder = tmp_path / "photos"
    for number, size in enumerate([(500, 375), (200, 140), (300, 420), (320, 300), (400, 300)]):
        photo = drawing.draw_photo("disc", np.random.default_rng(number))
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC)
        photo = photo[..., 0] if number == 4 else photo
        path = folder / f"class_{number % 2}" / f"{number}{'.png' if number == 3 else '.jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), photo)
    return folder


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="the benchmark needs two cores",
)
def test_runs_all_contestants_and_leaves_nothing(photos_dir, tmp_path):
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    done = run_benchmark(
        f"--photos_dir={photos_dir}", "--photos=12", "--repeats=1", f"--work_dir={work_dir}"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert list(result["contestants"]) == CONTESTANTS
    assert list(result["ratios"]) == [
        *(f"prepare_over_{name}" for name in CONTESTANTS[1:]),
        "doubling",
    ]
    stored = {
        name: figures["stored_bytes_per_photo"] for name, figures in result["contestants"].items()
    }
    # The same library calls give the same JPEGs; prepare's are in records, with their features.
    assert stored["bare"] == stored["bare_stored"]
    assert 100 < stored["prepare"] - stored["bare"] < 600
    assert stored["slim_resized"] == pytest.approx(stored["prepare"], rel=0.1)
    # Originals, and those made JPEGs of quality 100 that were none.
    assert stored["slim"] > result["original_bytes"] / 2
    for name, figures in result["contestants"].items():
        assert figures["peak_memory_mb"] > 50, name
        assert figures["start_up_seconds"] > 0, name
        assert name in done.stderr  # the table
    assert result["machine"]["cores"] == 2
    assert list(work_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--photos_dir=/nowhere/at/all"], "--photos_dir must be a folder of photos"),
        (["--photos=7"], "--photos"),
    ],
)
def test_mistakes_are_told_in_one_line(flags, message):
    done = run_benchmark(*flags)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_without_photos_is_refused(tmp_path):
    done = run_benchmark(f"--photos_dir={tmp_path}")
    assert done.returncode == 1
    assert "--photos_dir must hold photos" in done.stderr
