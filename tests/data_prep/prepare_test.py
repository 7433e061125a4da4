import fcntl
import hashlib
import io
import json
import os

import numpy as np
import pytest
import small_release
import tensorflow as tf
from photo_folders import (
    REASONS,
    ReversedScan,
    arguments,
    contents,
    encoded,
    faulty_photos,
    identities,
    picture,
)
from PIL import Image

from data_prep import prepare, records, verify
from data_prep.command_line import UserError
from data_prep.job import shards
from data_prep.job.folder import claim, clean


def examples(output_dir, split):
    """Return the records, read by TensorFlow."""
    paths = sorted(str(path) for path in output_dir.glob(f"{split}-*"))
    for serialized in tf.data.TFRecordDataset(paths):
        yield {name: value.numpy() for name, value in records.parse(serialized).items()}


def test_records_and_rejects_are_the_photos(prepared):
    output_dir, figures = prepared
    seconds = figures.pop("seconds")
    assert figures.pop("photos_per_second") == pytest.approx(25 / seconds, rel=0.1)
    assert figures == {
        "train_records": 16,
        "validation_records": 6,
        "rejected": 3,
        "repairs": {"cmyk_to_rgb": 1, "exif_rotated": 1, "grey_to_rgb": 1, "not_a_jpeg": 1},
        "notes": {},
        "problems": [
            "3 of 25 photos (12.00%) could not be used: empty 1, not_a_photo 1, truncated 1."
        ],
        "shards": 5,
        "classes": 2,
        "output_dir": str(output_dir),
    }
    names = {(e["image/class/synset"], e["image/filename"]) for e in examples(output_dir, "train")}
    assert len(names) == 16
    expected = np.mean(
        [
            np.asarray(Image.open(io.BytesIO(example["image/encoded"])))
            for example in examples(output_dir, "train")
        ],
        axis=0,
    )
    statistics = records.read_statistics(str(output_dir))
    np.testing.assert_allclose(statistics.mean_image, expected, rtol=1e-6)
    lines = (output_dir / records.REJECTED).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"split": "train", "key": f"cat/{name}", "reason": reason}
        for name, (_, reason) in sorted(faulty_photos().items())
        if reason in REASONS
    ]


def test_the_folder_holds_what_the_manifest_names_and_nothing_else(prepared):
    output_dir, _ = prepared
    manifest, found = records.read_manifest(str(output_dir)), contents(output_dir)
    named = dict(manifest.files)
    for split in manifest.splits.values():
        for shard in split.shards:
            assert shard.bytes == len(found[shard.name])
            named[shard.name] = shard.sha256
    assert named == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in found.items()
        if name != records.MANIFEST
    }
    shards = [
        records.shard_name(split, n, count)
        for split, count in {"train": 3, "validation": 2}.items()
        for n in range(count)
    ]
    assert set(named) == {
        *shards,
        *map(records.index_name, shards),
        records.LABELS,
        records.REJECTED,
        records.AUDIT,
        records.AUDIT_PAGE,
        records.STATISTICS,
        records.MEAN_IMAGE,
        records.MEAN_IMAGE_CAFFE,
        "features.json",
        "dataset_info.json",
        "image-class-label.labels.txt",
    }
    assert found[records.LABELS] == b"cat\tcat\ndog\tdog\n"
    assert {"pillow", "opencv", "numpy"} < set(manifest.recipe["versions"])
    assert str(output_dir) not in manifest.to_json()


def test_tensorflow_decodes_the_records(prepared, photos):
    output_dir, _ = prepared
    for example in examples(output_dir, "validation"):
        image = tf.io.decode_jpeg(example["image/encoded"]).numpy()
        assert image.shape == (32, 32, 3)
        name = example["image/class/synset"].decode()
        assert example["image/class/label"] == ("cat", "dog").index(name)
        path = photos / "validation" / name / example["image/filename"].decode()
        with Image.open(path) as original:
            expected = original.resize((40, 32), Image.Resampling.BOX).crop((4, 0, 36, 32))
        assert np.abs(image.astype(int) - np.asarray(expected)).mean() < 6


def test_tensorflow_datasets_opens_the_folder(prepared):
    import tensorflow_datasets as tfds

    output_dir, _ = prepared
    builder = tfds.builder_from_directory(str(output_dir))
    assert builder.info.splits["train"].num_examples == 16
    assert builder.info.splits["validation"].num_examples == 6
    label = builder.info.features["image"]["class"]["label"]
    assert label.names == ["cat", "dog"]
    loaded = list(builder.as_dataset(split="train").as_numpy_iterator())
    expected = {
        (e["image/class/synset"], e["image/filename"]): tf.io.decode_jpeg(
            e["image/encoded"]
        ).numpy()
        for e in examples(output_dir, "train")
    }
    assert len(loaded) == len(expected)
    for example in loaded:
        image = example["image"]
        synset = image["class"]["synset"]
        assert label.int2str(int(image["class"]["label"])) == synset.decode()
        np.testing.assert_array_equal(image["encoded"], expected[synset, image["filename"]])
        assert (image["height"], image["width"], image["channels"]) == (32, 32, 3)


def test_another_place_and_another_order_of_listing_give_the_same_bytes(
    prepared, photos, tmp_path, monkeypatch
):
    os.symlink(photos, tmp_path / "elsewhere")
    monkeypatch.setattr(os, "scandir", ReversedScan)
    prepare.prepare(**arguments(tmp_path / "elsewhere", tmp_path / "data"))
    monkeypatch.undo()
    assert contents(tmp_path / "data") == contents(prepared[0])


def test_another_seed_is_another_order_in_no_more_shards_than_photos(
    prepared, photos, tmp_path, capsys
):
    wanted = arguments(photos, tmp_path / "data", seed=1, validation_shards=50)
    assert prepare.prepare(**wanted)["shards"] == 3 + 6
    assert "6 validation photos make 6 shards at most" in capsys.readouterr().err

    def names(folder):
        return [example["image/filename"] for example in examples(folder, "validation")]

    assert names(tmp_path / "data") != names(prepared[0])
    assert sorted(names(tmp_path / "data")) == sorted(names(prepared[0]))


def test_a_finished_data_set_is_left_as_it_is(prepared, photos, capsys):
    output_dir, figures = prepared
    before = identities(output_dir), contents(output_dir)
    (output_dir / ".prepare" / "recipe").mkdir(parents=True)  # of a job killed after the manifest
    (output_dir / ".prepare" / "recipe" / "x.plan").write_text("left over")
    again = prepare.prepare(**arguments(photos, output_dir))
    assert (identities(output_dir), contents(output_dir)) == before
    assert "is finished already" in capsys.readouterr().err
    assert again["train_records"] == figures["train_records"]
    assert again["photos_per_second"] == 0
    with pytest.raises(ValueError, match=r"made with other options .*quality 95 there, 90 here"):
        prepare.prepare(**arguments(photos, output_dir, quality=90))
    text = "another job has just finished"
    with pytest.raises(ValueError, match=text), claim(str(output_dir), {}, "state"):
        pass
    clean(str(output_dir))


def interrupted(photos, output_dir, monkeypatch, **changes):
    """Run prepare until one shard is written and the next is about to be."""
    read, seen = shards.read_plan, []

    def read_one(work_dir, name):
        if seen:
            raise OSError("the disk is gone")
        seen.append(name)
        return read(work_dir, name)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "read_plan", read_one)
        with pytest.raises(UserError, match=r"the Beam job stopped: .*disk is gone.*are kept"):
            prepare.prepare(**arguments(photos, output_dir, **changes))
    return seen[0]


def test_a_failed_job_goes_on_where_it_stopped(prepared, photos, tmp_path, monkeypatch, capsys):
    output_dir = tmp_path / "data"
    done = interrupted(photos, output_dir, monkeypatch)
    assert not (output_dir / records.MANIFEST).exists()
    with pytest.raises(ValueError, match=r"a data set made by data_prep.prepare is needed"):
        records.read_manifest(str(output_dir))
    before = identities(output_dir)
    assert list(before) == [done]
    prepare.prepare(**arguments(photos, output_dir))
    assert identities(output_dir)[done] == before[done]
    assert contents(output_dir) == contents(prepared[0])
    assert "1 of 5 shards are done already" in capsys.readouterr().err


def test_a_failed_job_with_other_options_leaves_nothing(prepared, photos, tmp_path, monkeypatch):
    output_dir = tmp_path / "data"
    interrupted(photos, output_dir, monkeypatch, train_shards=7, validation_shards=6)
    (output_dir / "notes.txt").write_text("mine")
    prepare.prepare(**arguments(photos, output_dir))
    assert contents(output_dir) == contents(prepared[0]) | {"notes.txt": b"mine"}


def test_two_jobs_do_not_write_to_one_folder(photos, tmp_path):
    (tmp_path / ".prepare").mkdir()
    with open(tmp_path / ".prepare" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another job is writing to"):
            prepare.prepare(**arguments(photos, tmp_path))
    assert prepare.prepare(**arguments(photos, tmp_path))["rejected"] == 3


def test_a_folder_of_someone_else_is_left_alone(photos, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"must be new, empty .* holds thesis.txt; choose another"):
        prepare.prepare(**arguments(photos, tmp_path))
    assert contents(tmp_path) == {"thesis.txt": b"mine"}
    with pytest.raises(ValueError, match=r"must be a folder; .*thesis.txt is a file"):
        prepare.prepare(**arguments(photos, tmp_path / "thesis.txt"))


def test_an_output_that_cannot_be_written_is_one_line(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the data set cannot be written: .*Not a directory"):
        prepare.prepare(**arguments(photos, tmp_path / "file" / "data"))


def test_two_photos_of_one_name_in_a_tar_are_refused(tmp_path):
    tar = small_release.train_tar(photos=(0, 0))
    release = small_release.write_release(tmp_path / "release", train=tar)
    text = r"each photo needs a name of its own. Received: n0\d/n0\d_0.JPEG twice; rename or remove"
    with pytest.raises(UserError, match=text):
        prepare.prepare(**arguments(release, tmp_path / "data", source="ilsvrc2012"))


@pytest.mark.parametrize("fault", ["missing", "short", "miscounted"])
def test_a_runners_done_is_not_believed(photos, tmp_path, monkeypatch, fault):
    victim = records.shard_name("train", 1, 3)
    read, replace = shards.read_plan, os.replace

    def read_badly(work_dir, name):
        plan = read(work_dir, name)
        return plan[1:] if fault == "miscounted" and name == victim else plan

    def replace_badly(source, target):
        if target.endswith(victim):
            if fault == "missing":
                return
            if fault == "short":
                os.truncate(source, 10)
        replace(source, target)

    monkeypatch.setattr(shards, "read_plan", read_badly)
    monkeypatch.setattr(os, "replace", replace_badly)
    text = "was made of 7 photos|was made of 6 photos" if fault == "miscounted" else "is not: run"
    with pytest.raises(ValueError, match=text):
        prepare.prepare(**arguments(photos, tmp_path))
    assert not (tmp_path / records.MANIFEST).exists()


def test_a_split_without_a_readable_photo_is_refused(tmp_path):
    for split, content in (("train", encoded(picture(0))), ("validation", b"")):
        (tmp_path / "photos" / split / "cat").mkdir(parents=True)
        (tmp_path / "photos" / split / "cat" / "1.jpg").write_bytes(content)
    with pytest.raises(ValueError, match="all 1 validation photos were rejected, the first as 'em"):
        prepare.prepare(**arguments(tmp_path / "photos", tmp_path / "data"))


@pytest.mark.slow
def test_a_shard_of_rejects_alone_is_empty(tmp_path):
    for split, photos in (("train", 3), ("validation", 1)):
        (tmp_path / "photos" / split / "cat").mkdir(parents=True)
        for index in range(photos):
            path = tmp_path / "photos" / split / "cat" / f"{index}.jpg"
            path.write_bytes(b"" if index == 1 else encoded(picture(index)))
    output_dir = tmp_path / "data"
    figures = prepare.prepare(**arguments(tmp_path / "photos", output_dir))
    assert (figures["train_records"], figures["shards"]) == (2, 4)
    assert verify.verify(data_dir=str(output_dir))["train_records"] == 2
    import tensorflow_datasets as tfds

    dataset = tfds.builder_from_directory(str(output_dir)).as_dataset(split="train")
    assert len(list(dataset)) == 2
