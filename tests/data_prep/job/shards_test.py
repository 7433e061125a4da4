import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_prep import records, tfrecord
from data_prep.job import shard_results, shards
from data_prep.job.recipe import Options
from data_prep.photos import decoding, images
from data_prep.sources.catalog import Catalog
from data_prep.sources.reference import Reference

CLASSES = (records.ClassName("n0", "zero"), records.ClassName("n1", "one"))
NAME = "train-00000-of-00001"


def jpeg(seed, side=40):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    output = io.BytesIO()
    Image.fromarray(noise).resize((side, side + 9)).save(output, "JPEG")
    return output.getvalue()


def reference(key, path="/x", offset=0, length=1, label=0, split="train"):
    return Reference(split, key, path, offset, length, key, label, modified_ns=0)


def references_to(folder, contents):
    """Return references to ranges of one file, in which `contents` lie one after the other."""
    path = folder / "archive"
    path.write_bytes(b"head" + b"".join(contents))
    offset, references = 4, []
    for number, content in enumerate(contents):
        references.append(reference(f"{number}.JPEG", str(path), offset, len(content), label=1))
        offset += len(content)
    return references


def settings_in(folder, **options):
    work_dir = folder / "out" / ".prepare" / "recipe"
    work_dir.mkdir(parents=True)
    options = Options(**{"source": "", "short_side": 32} | options)
    return shards.Settings(str(folder / "out"), str(work_dir), CLASSES, options)


def plan(settings, references, split="train", count=1, seed=0):
    with Catalog(seed) as catalog:
        catalog.fill(photo._replace(split=split) for photo in references)
        return shards.write_plans(settings.work_dir, catalog, {split: count})


def numbered(count):
    return [reference(f"{n}.jpg", offset=n) for n in range(count)]


def read_result(settings, name=NAME):
    return shard_results.read(settings.work_dir, name)


def reasons(result, settings):
    photos = shards.read_plan(settings.work_dir, result.shard.name)
    return {
        photo.key: outcome.reason
        for photo, outcome in zip(photos, result.outcomes, strict=True)
        if outcome.reason
    }


def test_plans_hold_each_photo_once_and_differ_by_one_at_most(tmp_path):
    settings = settings_in(tmp_path)
    photos = numbered(23)
    planned = plan(settings, photos, count=4, seed=7)
    assert list(planned) == [records.shard_name("train", index, 4) for index in range(4)]
    assert sorted(planned.values()) == [5, 6, 6, 6]
    read = {name: shards.read_plan(settings.work_dir, name) for name in planned}
    assert {name: len(content) for name, content in read.items()} == planned
    with Catalog(7) as catalog:
        catalog.fill(photos)
        in_order = list(catalog.in_order("train"))
    assert [photo for content in read.values() for photo in content] == in_order
    assert sorted(in_order) == sorted(photos)


def test_a_shard_holds_photos_or_names_them_as_rejected(tmp_path):
    settings = settings_in(tmp_path)
    grey = io.BytesIO()
    Image.new("L", (50, 40), 99).save(grey, "JPEG")
    contents = [jpeg(0), b"", jpeg(1)[:600], grey.getvalue(), jpeg(2, side=50), b"no photo"]
    assert plan(settings, references_to(tmp_path, contents)) == {NAME: 6}
    made = shards.write_shard(NAME, settings)

    result = read_result(settings)
    assert (result.shard, result.outcomes) == (made.shard, made.outcomes)
    photos = shards.read_plan(settings.work_dir, NAME)
    outcomes = {p.key: outcome for p, outcome in zip(photos, result.outcomes, strict=True)}
    for number, content in enumerate(contents):
        assert outcomes[f"{number}.JPEG"].content == hashlib.sha256(content).digest()[:16]
    assert [outcomes[f"{n}.JPEG"][1:3] for n in (0, 1, 4)] == [(40, 49), (0, 0), (50, 59)]
    assert reasons(result, settings) == {
        "1.JPEG": "empty",
        "2.JPEG": "truncated",
        "5.JPEG": "not_a_photo",
    }
    assert result.counts() == {
        "records": 3,
        "rejected/empty": 1,
        "rejected/truncated": 1,
        "rejected/not_a_photo": 1,
        "repaired/grey_to_rgb": 1,
    }
    written = (tmp_path / "out" / NAME).read_bytes()
    assert result.shard == records.Shard(NAME, 3, len(written), hashlib.sha256(written).hexdigest())
    examples, payloads = {}, list(tfrecord.read_records(io.BytesIO(written)))
    lengths = [outcome.record_bytes for outcome in result.outcomes if outcome.record_bytes]
    assert lengths == [len(payload) + 16 for payload in payloads]
    for payload in payloads:
        example = tfrecord.decode_example(payload)
        examples[example["image/filename"]] = example
    assert set(examples) == {b"0.JPEG", b"3.JPEG", b"4.JPEG"}
    example = examples[b"4.JPEG"]
    assert example["image/encoded"] == images.convert(jpeg(2, side=50), settings.options).image
    assert (example["image/class/label"], example["image/class/synset"]) == (1, b"n1")
    assert (example["image/height"], example["image/width"]) == (32, 32)
    pixels = sum(
        np.asarray(Image.open(io.BytesIO(example["image/encoded"]))).astype(int)
        for example in examples.values()
    )
    np.testing.assert_array_equal(result.sums.pixels, pixels)
    assert result.sums.count == 3

    (name,) = plan(settings, references_to(tmp_path, [jpeg(0)]), split="validation")
    shards.write_shard(name, settings)
    assert read_result(settings, name).sums is None  # statistics are of what is trained on


def test_some_thumbnails_of_each_kind_of_oddity_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "THUMBNAILS_PER_SHARD", 2)
    settings = settings_in(tmp_path)
    grey = io.BytesIO()
    Image.new("L", (50, 40), 99).save(grey, "PNG")
    plan(settings, references_to(tmp_path, [grey.getvalue()] * 3 + [b"no photo"] + [jpeg(0)] * 3))
    shards.write_shard(NAME, settings)
    thumbnails = read_result(settings).thumbnails
    kinds = sorted(thumbnail.what for thumbnail in thumbnails)
    assert kinds == ["grey_to_rgb", "grey_to_rgb", "not_a_jpeg", "not_a_jpeg", "not_a_photo"]
    for thumbnail in thumbnails:
        if thumbnail.what == "not_a_photo":
            assert (thumbnail.key, thumbnail.jpeg) == ("3.JPEG", b"")
        else:
            assert thumbnail.key in ("0.JPEG", "1.JPEG", "2.JPEG")
            pixels = np.asarray(Image.open(io.BytesIO(thumbnail.jpeg)).convert("L"))
            np.testing.assert_allclose(pixels, 99, atol=3)


def test_raw_records_whole_photos_and_labels_from_1(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "none").mkdir()
    raw = settings_in(tmp_path / "raw", storage="raw", label_offset=1)
    none = settings_in(tmp_path / "none", crop="none")
    examples = []
    for settings in (raw, none):
        plan(settings, references_to(tmp_path, [jpeg(0, side=64)]))
        result = shards.write_shard(NAME, settings)
        assert result.sums.pixels.shape == (32, 32, 3)
        with open(os.path.join(settings.output_dir, NAME), "rb") as file:
            examples += [
                tfrecord.decode_example(payload) for payload in tfrecord.read_records(file)
            ]
    assert (examples[0]["image/format"], examples[1]["image/format"]) == (b"RAW", b"JPEG")
    assert (examples[0]["image/class/label"], examples[1]["image/class/label"]) == (2, 1)
    assert (examples[0]["image/height"], examples[1]["image/height"]) == (32, 37)
    square = np.frombuffer(examples[0]["image/encoded"], np.uint8).reshape(32, 32, 3)
    whole = np.asarray(Image.open(io.BytesIO(examples[1]["image/encoded"]))).astype(int)
    assert np.abs(whole[2:34] - square).mean() < 4


def made(tmp_path):
    """Return settings and path of a shard that has been written."""
    settings = settings_in(tmp_path)
    plan(settings, references_to(tmp_path, [jpeg(0), jpeg(1)]))
    shards.write_shard(NAME, settings)
    return settings, tmp_path / "out" / NAME


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "no result", "broken result"])
def test_a_damaged_shard_is_made_again_and_a_whole_one_is_not(tmp_path, damage):
    settings, path = made(tmp_path)
    content, inode = path.read_bytes(), path.stat().st_ino
    assert shards.write_shard(NAME, settings).shard.records == 2
    assert path.stat().st_ino == inode
    result = tmp_path / settings.work_dir / (NAME + ".result")
    if damage == "flipped":
        path.write_bytes(content[:50] + b"?" + content[51:])
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "missing":
        path.unlink()
    elif damage == "no result":
        result.unlink()
    else:
        result.write_bytes(result.read_bytes()[:700])
        assert read_result(settings) is None
    shards.write_shard(NAME, settings)
    assert path.read_bytes() == content
    assert read_result(settings).shard.bytes == len(content)


def test_a_shard_is_in_place_only_after_its_result(tmp_path, monkeypatch):
    settings = settings_in(tmp_path)
    plan(settings, references_to(tmp_path, [jpeg(0)]))
    replace = os.replace

    def die(source, target):
        if target.endswith(NAME):
            raise OSError("killed here")
        replace(source, target)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(OSError, match="killed here"):
        shards.write_shard(NAME, settings)
    assert read_result(settings) is not None
    assert os.listdir(settings.output_dir) == [".prepare"]


def test_a_source_that_has_shrunk_stops_the_job(tmp_path):
    settings = settings_in(tmp_path)
    plan(settings, references_to(tmp_path, [jpeg(0)]))
    os.truncate(tmp_path / "archive", 100)
    with pytest.raises(OSError, match="has become shorter since it was listed"):
        shards.write_shard(NAME, settings)


def test_a_huge_file_is_rejected_unread(tmp_path, monkeypatch):
    settings = settings_in(tmp_path)
    monkeypatch.setattr(decoding, "MAX_BYTES", 1000)
    references = references_to(tmp_path, [jpeg(0)])
    huge = references[0]._replace(length=1 << 50)
    (tmp_path / "archive").write_bytes(b"x" * 2000)
    plan(settings, [huge])
    shards.write_shard(NAME, settings)
    assert reasons(read_result(settings), settings) == {"0.JPEG": "too_many_bytes"}


@pytest.mark.slow
def test_workers_do_without_tensorflow():
    program = "import data_prep.job.pipeline, sys; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
