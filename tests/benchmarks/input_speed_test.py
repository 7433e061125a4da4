import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image
from repository import ROOT

from benchmarks import input_contestants, input_speed

RANDOM = np.random.default_rng(0)

needs_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="the benchmark needs two cores",
)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.input_speed", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def photo(height, width):
    return Image.fromarray(RANDOM.integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.fixture
def photos_tar(tmp_path):
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(3):
            output = io.BytesIO()
            photo(300, 260 + number).save(output, "JPEG")
            member = tarfile.TarInfo(f"photos/{number}.jpg")
            member.size = output.tell()
            output.seek(0)
            tar.addfile(member, output)
    return path


def small(path, *arguments):
    sizes = ("--photos=8", "--batch_size=4", "--seconds=0.2", "--repeats=1")
    return run(f"--photos_dir={path}", *sizes, *arguments)


@needs_two_cores
def test_rates_and_ratios(photos_tar, tmp_path):
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    only = ["bare", "ours", "ours_memory", "bare_raw", "ours_raw"]
    done = small(photos_tar, f"--only={','.join(only)}", f"--work_dir={work_dir}")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert list(result["contestants"]) == only
    for name, figures in result["contestants"].items():
        assert figures["photos_per_second"] > 0
        assert figures["cpu_ms_per_photo"] > 0
        assert name in done.stderr  # the table
    rates = {name: of["photos_per_second"] for name, of in result["contestants"].items()}
    assert list(result["ratios"]) == [title for title in input_speed.RATIOS if "Torch" not in title]
    ratio = result["ratios"]["ours / bare"]
    assert ratio["rounds"] == [ratio["median"]]
    assert ratio["median"] == pytest.approx(rates["ours"] / rates["bare"], rel=0.01)
    assert result["machine"]["cores"] == 2
    assert list(work_dir.iterdir()) == []


@needs_two_cores
def test_next_to_the_loader_of_the_port(photos_tar):
    pytest.importorskip("torch")
    done = small(photos_tar, "--only=torch_loader,ours")
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout.splitlines()[-1])["ratios"]
    assert list(ratios) == ["ours / PyTorch's loader"]


def test_the_port_sees_the_centre_normalised(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "photo.png"
    image = photo(300, 401)
    image.save(path)
    values = input_contestants.port_input(str(path)).numpy()
    # (300 - 227) / 2 = 36.5 and rounds to the even 36; (401 - 227) / 2 = 87
    pixels = np.asarray(image)[36:263, 87:314].astype(np.float64) / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected.transpose(2, 0, 1), atol=1e-5)


def test_a_photo_smaller_than_the_crop_gets_a_black_border():
    image = photo(100, 240)
    cropped = np.asarray(input_contestants.center_crop(image, 227))
    assert cropped.shape == (227, 227, 3)
    # 127 rows are missing: 63 above and 64 below; (240 - 227) / 2 = 6.5 and rounds to 6
    np.testing.assert_array_equal(cropped[63:163], np.asarray(image)[:, 6:233])
    assert not cropped[:63].any()
    assert not cropped[163:].any()


def test_what_comes_before_the_first_batch_is_not_timed():
    figures = input_contestants.time_batches(iter(range(10)), batch_size=4, seconds=0.0)
    assert figures["photos"] == 4
    assert figures["seconds"] < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only=bare,slow"], "slow is none of them"),
        (["--photos_dir=/nowhere/at/all"], "--photos_dir must be a folder of photos"),
        ([f"--photos_dir={__file__}"], "--photos_dir must be a folder or a tar"),
        (["--photos=1"], "--photos"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message):
    done = run(*arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
