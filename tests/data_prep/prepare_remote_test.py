"""The data job from and to no local disk: stand-ins for gs:// and hdfs:// that Beam opens."""

import pathlib

import beam_file_systems
import pytest
from photo_folders import arguments, contents, write_photos

from data_prep import prepare, records, storage
from data_prep.command_line import UserError
from data_prep.job import finishing

pytestmark = pytest.mark.slow

STORES = {
    "objects": beam_file_systems.ObjectStore,
    "folders": beam_file_systems.FolderStore,
}


@pytest.fixture(params=sorted(STORES))
def bucket(request, tmp_path):
    (tmp_path / "store").mkdir()
    STORES[request.param].start(tmp_path / "store")
    return f"{request.param}://bucket"


def upload(folder, place):
    for name, content in contents(folder).items():
        with storage.create(storage.join(place, name), storage.join(place, ".tmp", name)) as file:
            file.write(content)


def download(place, folder):
    """All that a person sees in the data set."""
    for depth in (1, 2, 3):
        for found in storage.files(place, depth):
            path = pathlib.Path(folder, found.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with storage.open_file(storage.join(place, found.name)) as file:
                path.write_bytes(file.read())
    return contents(folder)


def test_the_bytes_are_those_of_a_local_job(bucket, tmp_path):
    photos = write_photos(tmp_path / "photos")
    upload(photos, f"{bucket}/photos")
    changes = {"index": True}
    prepare.prepare(**arguments(photos, tmp_path / "local", **changes))
    remote = arguments(f"{bucket}/photos", f"{bucket}/data", **changes)
    figures = prepare.prepare(**remote)
    assert figures["train_records"] == 16
    found = download(f"{bucket}/data", tmp_path / "copy")
    assert found == contents(tmp_path / "local")
    assert not storage.is_folder(f"{bucket}/data/.prepare")
    assert prepare.prepare(**remote)["photos_per_second"] == 0  # finished already


def test_a_stopped_job_goes_on(bucket, tmp_path, monkeypatch, capsys):
    photos = write_photos(tmp_path / "photos")
    remote = arguments(photos, f"{bucket}/data")

    def fail(*args):
        raise OSError("stopped before the end")

    with monkeypatch.context() as patch:
        patch.setattr(finishing, "finish", fail)
        with pytest.raises(UserError, match="stopped before the end"):
            prepare.prepare(**remote)
    assert not storage.exists(f"{bucket}/data/{records.MANIFEST}")
    prepare.prepare(**remote)
    assert "5 of 5 shards are done already" in capsys.readouterr().err
    prepare.prepare(**arguments(photos, tmp_path / "local"))
    assert download(f"{bucket}/data", tmp_path / "copy") == contents(tmp_path / "local")


def test_a_folder_of_someone_else_is_left_alone(bucket, tmp_path):
    photos = write_photos(tmp_path / "photos")
    storage.write_file(f"{bucket}/data/thesis.txt", "mine")
    with pytest.raises(UserError, match=r"must be new, empty .* holds thesis.txt; choose another"):
        prepare.prepare(**arguments(photos, f"{bucket}/data"))
