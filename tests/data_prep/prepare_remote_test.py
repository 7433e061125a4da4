"""The data job from and to real object stores: the bytes, kills, two jobs at once, stale locks."""

import json
import os
import pathlib
import signal
import time

import pytest
from photo_folders import (
    arguments,
    contents,
    encoded,
    flags_for,
    picture,
    start_job,
    wait_until,
    write_copies,
    write_photos,
)

from data_prep import prepare, records, storage, verify
from data_prep.command_line import UserError
from data_prep.job import lock

pytestmark = pytest.mark.slow


def upload(folder, place):
    for name, content in contents(folder).items():
        storage.write_file(storage.join(place, name), content)


def download(place, folder):
    """Return all that a person sees in the data set."""
    for depth in (1, 2, 3):
        for found in storage.files(place, depth):
            path = pathlib.Path(folder, found.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with storage.open_file(storage.join(place, found.name)) as file:
                path.write_bytes(file.read())
    return contents(folder)


def shards_in(place):
    try:
        return {found.name for found in storage.files(place, 1)}
    except FileNotFoundError:
        return set()


def test_the_bytes_are_those_of_a_local_job(bucket, tmp_path):
    photos = write_photos(tmp_path / "photos")
    upload(photos, f"{bucket}/photos")
    prepare.prepare(**arguments(photos, tmp_path / "local", index=True))
    remote = arguments(f"{bucket}/photos", f"{bucket}/data", index=True)
    assert prepare.prepare(**remote)["train_records"] == 16
    assert download(f"{bucket}/data", tmp_path / "copy") == contents(tmp_path / "local")
    assert not storage.is_folder(f"{bucket}/data/.prepare")
    assert prepare.prepare(**remote)["photos_per_second"] == 0  # finished already
    assert verify.verify(data_dir=f"{bucket}/data", check_statistics=True)["faults"] == 0
    storage.write_file(f"{bucket}/data/labels.txt", "changed")
    with pytest.raises(UserError, match=r"labels\.txt"):
        verify.verify(data_dir=f"{bucket}/data")


def test_a_second_job_is_refused_and_a_killed_one_goes_on(bucket, tmp_path):
    write_copies(tmp_path / "photos", encoded(picture(0, 2600, 1800)), train=60, validation=2)
    flags = flags_for(tmp_path / "photos", f"{bucket}/data", train_shards=20)
    first = start_job(flags)
    wait_until(lambda: shards_in(f"{bucket}/data"), "a shard")
    _, said = (second := start_job(flags)).communicate()
    assert second.returncode == 1
    assert "another job is writing to" in said.splitlines()[-1]
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    kept = shards_in(f"{bucket}/data")
    assert kept
    assert not storage.exists(f"{bucket}/data/{records.MANIFEST}")
    _, said = (third := start_job(flags)).communicate()  # takes the dead job's lock over
    assert third.returncode == 0, said
    assert "shards are done already" in said
    local = flags_for(tmp_path / "photos", tmp_path / "local", train_shards=20)
    _, said = (fourth := start_job(local)).communicate()
    assert fourth.returncode == 0, said
    assert download(f"{bucket}/data", tmp_path / "copy") == contents(tmp_path / "local")


def test_a_lock_of_another_machine_is_taken_over_when_it_is_stale(bucket, monkeypatch):
    path = f"{bucket}/.prepare/.locks/000001"
    storage.write_file(path, json.dumps({"token": "a", "namespace": "another", "pid": 1}))
    with pytest.raises(BlockingIOError), lock.hold(f"{bucket}/.prepare"):
        pass
    assert storage.exists(path)
    monkeypatch.setattr(lock, "STALE", 2)
    time.sleep(3.5)  # s3:// knows whole seconds
    with lock.hold(f"{bucket}/.prepare"):
        assert not storage.exists(path)
        monkeypatch.undo()
        with pytest.raises(BlockingIOError), lock.hold(f"{bucket}/.prepare"):
            pass
    assert not storage.is_folder(f"{bucket}/.prepare")


def test_a_job_that_lost_its_lock_stops(bucket, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.1)

    def work():
        with lock.hold(f"{bucket}/hidden"):
            storage.remove(f"{bucket}/hidden/.locks/000001")
            time.sleep(20)
            reached.append("the end")

    reached = []
    with pytest.raises(OSError, match="another job has taken over"):
        work()
    assert not reached
