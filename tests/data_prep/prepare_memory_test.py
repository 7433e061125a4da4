"""Memory of the whole job, all its processes together, must not grow with the number of photos."""

import os
import subprocess
import sys

import pytest
from photo_folders import encoded, flags_for, picture

from data_prep.measured_process import MeasuredProcess


def peak_bytes(tmp_path, photos):
    """Return the peak memory of prepare over links to one small photo."""
    folder = tmp_path / str(photos)
    (folder / "train" / "cat").mkdir(parents=True)
    (folder / "validation" / "cat").mkdir(parents=True)
    original = folder / "validation" / "cat" / "photo.jpg"
    original.write_bytes(encoded(picture(0, 16, 16)))
    for index in range(photos):
        os.symlink(original, folder / "train" / "cat" / f"{index}.jpg")
    flags = flags_for(folder, folder / "data", short_side=8, train_shards=100)
    command = [sys.executable, "-m", "data_prep.prepare", *flags]
    with MeasuredProcess(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        status = running.process.wait()
    assert status == 0
    return running.peak_bytes


@pytest.mark.soak
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="measures memory by /proc")
def test_ten_times_the_photos_take_no_more_memory(tmp_path):
    few, many = (peak_bytes(tmp_path, photos) for photos in (10_000, 100_000))
    assert few > 1e8, "the workers were not measured"
    assert many < 1.1 * few
