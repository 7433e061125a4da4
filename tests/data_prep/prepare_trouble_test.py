"""Troubles of the data job: kills, full disks, files that vanish, second jobs."""

import contextlib
import os
import pathlib
import random
import re
import signal
import subprocess
import time

import pytest
from photo_folders import (
    arguments,
    contents,
    encoded,
    flags_for,
    identities,
    picture,
    start_job,
    wait_until,
    write_copies,
    write_photos,
)

from data_prep import prepare, records
from data_prep.command_line import UserError
from data_prep.job import finishing, shards

needs_proc = pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="finds the job's processes by /proc"
)


def workers_of(mark):
    """Return the Beam workers that have inherited the environment variable JOB=mark."""
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        process = pathlib.Path("/proc", number)
        try:
            command = (process / "cmdline").read_bytes()
            if b"sdk_worker" in command and f"JOB={mark}".encode() in (
                process / "environ"
            ).read_bytes().split(b"\0"):
                found.append(int(number))
        except OSError:  # ended in the meantime
            continue
    return found


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_kills_and_the_same_bytes(tmp_path, kills):
    photos = 15 * kills
    write_copies(tmp_path / "photos", encoded(picture(0, 2600, 1800)), train=photos, validation=6)
    (tmp_path / "photos" / "train" / "cat" / "bad.jpg").write_bytes(b"no photo")
    changes = {"train_shards": 5 * kills, "validation_shards": 2, "index": True}
    prepare.prepare(**arguments(tmp_path / "photos", tmp_path / "whole", **changes))
    output_dir, flags = (
        tmp_path / "data",
        flags_for(tmp_path / "photos", tmp_path / "data", **changes),
    )
    random_seconds = random.Random(0)
    grown = 0
    for number in range(kills):
        before = identities(output_dir)
        job = start_job(flags, JOB=str(tmp_path))
        if number % 2:  # amid the work, however long the machine takes to begin it
            wait_until(lambda before=before: len(identities(output_dir)) > len(before), "a shard")
            time.sleep(random_seconds.uniform(0, 0.2))  # a shard takes a tenth
        else:  # before it
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(timeout=random_seconds.uniform(0.2, 2))
        job.kill()
        job.communicate()
        wait_until(lambda: not workers_of(tmp_path), "the workers' end")
        after = identities(output_dir)
        assert {name: after[name] for name in before} == before
        grown += len(after) > len(before)
    assert grown >= kills / 2
    job = start_job(flags, JOB=str(tmp_path))
    job.communicate()
    assert job.returncode == 0
    after = identities(output_dir)
    assert {name: after[name] for name in before} == before
    assert contents(output_dir) == contents(tmp_path / "whole")


@pytest.mark.slow
@needs_proc
@pytest.mark.skipif(os.cpu_count() == 1, reason="one core needs no worker processes")
def test_a_killed_worker_stops_the_job(tmp_path):
    write_copies(tmp_path / "photos", encoded(picture(0, 2600, 1800)), train=60, validation=2)
    job = start_job(
        flags_for(tmp_path / "photos", tmp_path / "data", train_shards=20), JOB=str(tmp_path)
    )
    wait_until(lambda: identities(tmp_path / "data"), "a shard")
    os.kill(min(workers_of(tmp_path)), signal.SIGKILL)
    # Without our watching the workers, Beam would wait for ever.
    _, said = job.communicate(timeout=60)
    assert job.returncode == 1
    assert re.search("prepare.py: the Beam job stopped: .*was it killed.*are kept", said)
    assert not workers_of(tmp_path)


@pytest.mark.slow
@needs_proc
def test_ctrl_c_ends_the_job_on_one_line(tmp_path):
    write_copies(tmp_path / "photos", encoded(picture(0, 2600, 1800)), train=40, validation=40)
    job = start_job(
        flags_for(tmp_path / "photos", tmp_path / "data", train_shards=20), JOB=str(tmp_path)
    )
    wait_until(lambda: identities(tmp_path / "data"), "a shard")
    os.killpg(job.pid, signal.SIGINT)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 130
    lines = said.replace("\r", "\n").splitlines()
    others = [line for line in lines if line and not line.startswith(("list: ", "prepare: "))]
    assert others == ["prepare.py: interrupted; run the same command again to go on"]
    wait_until(lambda: not workers_of(tmp_path), "the workers' end")


@pytest.fixture
def disk(small_disk):
    return small_disk("400k")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--runner=FnApiRunner",)], ids=["processes", "one"])
def test_a_full_disk_stops_the_job_on_one_line_and_leaves_whole_shards(tmp_path, disk, options):
    photos = write_copies(
        tmp_path / "photos", encoded(picture(0, 300, 300), "PNG"), train=40, validation=2
    )
    changes = {"train_shards": 10, "validation_shards": 1, "storage": "raw", "short_side": 128}
    wanted = arguments(photos, disk / "data", **changes, beam_options=options)
    with pytest.raises(UserError, match=r"No space left on device.* run the same command again"):
        prepare.prepare(**wanted)
    assert not (disk / "data" / records.MANIFEST).exists()
    before = identities(disk / "data")
    subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
    prepare.prepare(**wanted)
    after = identities(disk / "data")
    assert {name: after[name] for name in before} == before
    prepare.prepare(**wanted | {"output_dir": str(tmp_path / "whole")})
    assert contents(disk / "data") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--runner=FnApiRunner",)], ids=["processes", "one"])
def test_an_input_that_vanishes_stops_the_job_and_is_named(tmp_path, monkeypatch, options):
    photos = write_photos(tmp_path / "photos")
    victim = photos / "train" / "dog" / "3.jpg"
    plan = shards.write_plans

    def vanish(*args):
        victim.rename(tmp_path / "away")
        return plan(*args)

    wanted = arguments(photos, tmp_path / "data", beam_options=options)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_plans", vanish)
        with pytest.raises(UserError, match=rf"the Beam job stopped: .*{victim}"):
            prepare.prepare(**wanted)
    assert not (tmp_path / "data" / records.MANIFEST).exists()
    (tmp_path / "away").rename(victim)
    before = identities(tmp_path / "data")
    prepare.prepare(**wanted)
    after = identities(tmp_path / "data")
    assert {name: after[name] for name in before} == before


def test_a_photo_that_was_replaced_by_another_of_its_length_is_noticed(tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos")
    victim = photos / "train" / "dog" / "3.jpg"
    wanted = arguments(photos, tmp_path / "data")

    def fail(*args):
        raise OSError("stopped before the end")

    with monkeypatch.context() as patch:
        patch.setattr(finishing, "finish", fail)
        with pytest.raises(UserError, match="stopped before the end"):
            prepare.prepare(**wanted)
    other = encoded(picture(4711), quality=40).ljust(victim.stat().st_size, b"\0")
    assert len(other) == victim.stat().st_size
    victim.write_bytes(other)
    prepare.prepare(**wanted)
    prepare.prepare(**wanted | {"output_dir": str(tmp_path / "anew")})
    assert contents(tmp_path / "data") == contents(tmp_path / "anew")
    (victim.parent / "extra.jpg").write_bytes(other)
    with pytest.raises(ValueError, match=r"other options or photos .*input "):
        prepare.prepare(**wanted)
