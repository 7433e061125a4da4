import io
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from repository import ROOT

from data_prep import conversion_rule, tfrecord
from data_prep.photos import images
from data_prep.rehearsal import drawing

SIZES = [(500, 375), (200, 140), (300, 420), (320, 300), (400, 300)]  # width, height
PNG, GREY = 3, 4

needs_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="the benchmark needs two cores",
)


def run_module(name, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def photos(tmp_path):
    """Paths of five photos of two classes."""
    paths = []
    for number, size in enumerate(SIZES):
        photo = drawing.draw_photo("disc", np.random.default_rng(number))
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC)
        photo = photo[..., 0] if number == GREY else photo
        suffix = ".png" if number == PNG else ".jpg"
        path = tmp_path / "photos" / f"class_{number % 2}" / f"{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), photo)
        paths.append(path)
    return paths


@needs_two_cores
def test_measures_and_leaves_nothing(photos, tmp_path):
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    done = run_module(
        "prepare_speed",
        f"--photos_dir={tmp_path / 'photos'}",
        "--photos=12",
        "--repeats=1",
        "--against=bare",
        f"--work_dir={work_dir}",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert list(result["contestants"]) == ["prepare", "bare"]
    assert list(result["ratios"]) == ["prepare_over_bare", "doubling"]
    # The same calls give the same JPEGs; prepare's are in records, beside other features.
    stored = {name: of["stored_bytes_per_photo"] for name, of in result["contestants"].items()}
    assert 100 < stored["prepare"] - stored["bare"] < 600
    for name, figures in result["contestants"].items():
        assert figures["peak_memory_mb"] > 50, name
        assert figures["start_up_seconds"] > 0, name
        assert name in done.stderr  # the table
    assert result["machine"]["cores"] == 2
    assert list(work_dir.iterdir()) == []


def run_slim(contestant, photos, tmp_path):
    """What slim stored, as (image, features) by the photo's name."""
    list_path, output_dir = tmp_path / "list.txt", tmp_path / contestant
    list_path.write_text("".join(f"{path}\n" for path in photos))
    output_dir.mkdir()
    done = run_module("prepare_contestants", contestant, str(list_path), str(output_dir), "2")
    assert done.returncode == 0, done.stderr
    stored = {}
    for index in range(2):
        with open(output_dir / f"train-{index:05d}-of-00002", "rb") as file:
            for payload in tfrecord.read_records(file):
                features = tfrecord.decode_example(payload)
                stored[features["image/filename"].decode()] = features
    assert sorted(stored) == sorted(path.name for path in photos)
    return stored


def test_slim_stores_the_original_photos(photos, tmp_path):
    stored = run_slim("slim", photos, tmp_path)
    for number, path in enumerate(photos):
        features = stored[path.name]
        assert (features["image/width"], features["image/height"]) == SIZES[number]
        if number == PNG:
            with Image.open(io.BytesIO(features["image/encoded"])) as image:
                assert (image.format, image.size) == ("JPEG", SIZES[number])
        else:
            assert features["image/encoded"] == path.read_bytes()


def test_slim_resized_stores_what_prepare_does(photos, tmp_path):
    stored = run_slim("slim_resized", photos, tmp_path)
    for path in photos:
        ours = images.convert(path.read_bytes(), conversion_rule.Rule())
        pixels = [
            images.decode_stored(data, storage="jpeg", height=256, width=256).astype(float)
            for data in (ours.image, stored[path.name]["image/encoded"])
        ]
        assert np.abs(pixels[0] - pixels[1]).mean() < 2.5  # grey levels
        assert len(stored[path.name]["image/encoded"]) == pytest.approx(len(ours.image), rel=0.1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--photos_dir=/nowhere/at/all"], "--photos_dir must be a folder of photos"),
        (["--photos=7"], "--photos"),
        (["--against=bare,slimmer"], "slimmer is none of them"),
    ],
)
def test_mistakes_are_told_in_one_line(flags, message):
    done = run_module("prepare_speed", *flags)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_without_photos_is_refused(tmp_path):
    done = run_module("prepare_speed", f"--photos_dir={tmp_path}")
    assert done.returncode == 1
    assert "--photos_dir must hold photos" in done.stderr
