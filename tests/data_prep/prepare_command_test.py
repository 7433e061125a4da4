"""The command prepare as a person gives it: flags, figures, mistakes, real photos."""

import json
import subprocess
import sys

import commands
import numpy as np
import photo_sample
import pytest
from photo_folders import contents, flags_for

from data_prep import prepare, records, verify


def command(*flags):
    return commands.in_new_process("data_prep.prepare", *flags)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "status", "text"),
    [
        (["--input_dir={none}"], 1, "input_dir must be a folder; there is none at"),
        (["--input_dir={empty}"], 1, "/train with a folder for each class is needed"),
        (["--source=imagenet21k"], 2, "should be one of <ilsvrc2012|ilsvrc2012_folders|class_"),
        (["--quality=101"], 2, "--quality=101"),
        (["stray"], 2, "unexpected argument 'stray'"),
        (["--", "--runer=DirectRunner"], 1, "what follows -- goes to Apache Beam"),
        (["--storage=raw", "--crop=none"], 1, "needs crop='center'"),
        (["--", "--s3_endpoint_url=http://x"], 1, "set AWS_ENDPOINT_URL"),
    ],
)
def test_a_mistake_at_the_keyboard_is_one_line(photos, tmp_path, flags, status, text):
    (tmp_path / "empty").mkdir()
    given = [flag.format(none=tmp_path / "none", empty=tmp_path / "empty") for flag in flags]
    result = command(*flags_for(photos, tmp_path / "data"), *given)
    assert result.returncode == status
    assert result.stdout == ""
    # The progress bar ends its own line.
    last = result.stderr.replace("\r", "\n").rstrip("\n").splitlines()[-1]
    assert last.startswith("prepare.py: ")
    assert text in last
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_help_is_for_newcomers_and_does_not_wait_for_beam():
    result = command("--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Turn ImageNet, or any folders of photos, into a data set")
    assert "python -m data_prep.prepare --source=ilsvrc2012" in result.stdout
    program = (
        "import data_prep.prepare, sys; assert not {'tensorflow', 'apache_beam'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_the_command_ends_with_its_figures_and_writes_the_same_bytes(prepared, photos, tmp_path):
    result = command(*flags_for(photos, tmp_path / "data"))
    assert result.returncode == 0
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["train_records"] == 16
    assert "5/5" in result.stderr
    assert "WARNING" not in result.stderr
    assert contents(tmp_path / "data") == contents(prepared[0])


@pytest.mark.slow
def test_real_photos_become_a_proven_data_set(tmp_path):
    photos = photo_sample.photo_files()
    for index, (name, data) in enumerate(photos):
        # Three groups by kind of animal or thing: the tens of millions of WordNet's numbers.
        split = "validation" if index % 10 == 0 else "train"
        folder = tmp_path / "photos" / split / f"group_{name[:3]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    figures = prepare.prepare(
        source="class_folders",
        input_dir=str(tmp_path / "photos"),
        output_dir=str(tmp_path / "data"),
        train_shards=6,
        validation_shards=2,
    )
    assert figures["train_records"] == len(photos) * 9 // 10
    assert figures["validation_records"] == len(photos) // 10
    assert (figures["rejected"], figures["repairs"]) == (0, {"grey_to_rgb": len(photos) // 30})
    proven = verify.verify(data_dir=str(tmp_path / "data"), check_statistics=True)
    assert proven["statistics"] == "equal"
    if not photo_sample.ARE_REAL:
        return
    statistics = records.read_statistics(str(tmp_path / "data"))
    # Near those of all of ImageNet (cuda-convnet2's metadata): 127 120 105.
    np.testing.assert_allclose(statistics.channel_mean, [127, 120, 105], atol=15)
