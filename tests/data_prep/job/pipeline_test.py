import io
import os
import re

import numpy as np
import pytest
from PIL import Image
from repository import ROOT

from data_prep import records
from data_prep.job import local_job, pipeline, shards
from data_prep.job.recipe import Options
from data_prep.sources.catalog import Catalog
from data_prep.sources.reference import Reference


@pytest.fixture
def job(tmp_path):
    """Return settings, and names of four planned shards of two photos."""
    work_dir = tmp_path / "out" / "work"
    work_dir.mkdir(parents=True)
    references = []
    for number in range(8):
        path = tmp_path / f"{number}.jpg"
        output = io.BytesIO()
        Image.fromarray(np.full((20, 30, 3), number * 30, np.uint8)).save(output, "JPEG")
        path.write_bytes(output.getvalue())
        size = os.path.getsize(path)
        references.append(Reference("train", path.name, str(path), 0, size, path.name, 0, 0))
    classes = (records.ClassName("n0", "zero"),)
    options = Options(source="", short_side=16)
    settings = shards.Settings(str(tmp_path / "out"), str(work_dir), classes, options)
    with Catalog(seed=0) as catalog:
        catalog.fill(references)
        return settings, list(shards.write_plans(str(work_dir), catalog, {"train": 4}))


def written(settings):
    return {
        name: open(os.path.join(settings.output_dir, name), "rb").read()
        for name in os.listdir(settings.output_dir)
        if name.startswith("train")
    }


def test_counters_tell_a_clusters_page_what_became_of_the_photos(job):
    settings, names = job
    plans = [shards.read_plan(settings.work_dir, name) for name in names]
    grey, text = plans[0][0], plans[1][0]
    output = io.BytesIO()
    Image.new("L", (20, 30)).save(output, "JPEG")
    with open(grey.path, "wb") as file:
        file.write(output.getvalue().ljust(grey.length, b"\0"))
    with open(text.path, "wb") as file:
        file.write(b"x" * text.length)
    result = pipeline.run([names], settings, pipeline.parse_options([]))
    counted = {
        (c.key.metric.namespace, c.key.metric.name): c.committed
        for c in result.metrics().query()["counters"]
    }
    assert counted == {
        ("prepare", "shards"): 4,
        ("prepare", "records"): 7,
        ("prepare", "rejected/not_a_photo"): 1,
        ("prepare", "repaired/grey_to_rgb"): 1,
    }


@pytest.mark.slow
def test_processes_write_the_same_bytes_as_one(job, tmp_path):
    settings, names = job
    pipeline.run([names], settings, pipeline.parse_options([]))
    expected = written(settings)
    assert len(expected) == 4
    for name in os.listdir(settings.work_dir):
        if name.endswith(".result"):
            os.unlink(os.path.join(settings.work_dir, name))
    for name in expected:
        os.unlink(os.path.join(settings.output_dir, name))
    local_job.run(dict.fromkeys(names, 2), settings, workers=2, log_path=str(tmp_path / "log"))
    assert written(settings) == expected


def test_the_cause_of_a_failure_is_its_last_error(job):
    settings, names = job
    plan = shards.read_plan(settings.work_dir, names[0])
    os.unlink(plan[0].path)
    with pytest.raises(Exception) as failure:  # noqa: PT011 - which one is the runner's choice
        pipeline.run([names], settings, pipeline.parse_options([]))
    cause = pipeline.cause(failure.value)
    assert "No such file or directory" in cause
    assert plan[0].path in cause
    assert "\n" not in cause


@pytest.mark.slow
def test_a_failure_in_a_process_is_one_line(job, tmp_path):
    settings, names = job
    os.unlink(shards.read_plan(settings.work_dir, names[0])[0].path)
    with pytest.raises(local_job.JobError, match="No such file or directory") as failure:
        local_job.run(dict.fromkeys(names, 2), settings, workers=2, log_path=str(tmp_path / "log"))
    assert "\n" not in str(failure.value)
    assert "Traceback" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--direct_num_worker=2"], "Received: --direct_num_worker"),
        (["--no_such_option"], "Received: --no_such_option"),
        (["--direct_num_workers=two"], "invalid int value: 'two'"),
        (["--direct_running_mode=fast"], "invalid choice: 'fast'"),
        (["--runner=NoSuchRunner"], "Unexpected pipeline runner: NoSuchRunner"),
    ],
)
def test_what_is_no_beam_option_is_refused(options, text, capfd):
    with pytest.raises(ValueError, match=r"Beam options are required|runner") as error:
        pipeline.parse_options(options)
    assert text in str(error.value)
    assert "usage" not in capfd.readouterr().err


def test_beam_knows_the_options_that_readme_shows():
    readme = ROOT / "README.md"
    shown = re.findall(r"^\|.*`(--runner=[^`]*)`", readme.read_text(), re.MULTILINE)
    assert len(shown) > 3
    for options in shown:
        parsed = pipeline.parse_options(options.split()).get_all_options(drop_default=True)
        assert len(parsed) == len(options.split()), parsed


def test_workers_get_as_many_photos_each():
    work = {f"train-{n}": 100 + n for n in range(6)} | {"validation-0": 30, "done": 0}
    groups = local_job._balanced(work, 2)
    assert sorted(name for group in groups for name in group) == sorted(work)
    one, other = (sum(work[name] for name in group) for group in groups)
    assert abs(one - other) < 35
    assert local_job._balanced({"a": 1}, 3) == [["a"], [], []]
