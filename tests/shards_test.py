import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_prep import images, records, shards, tfrecord
from data_prep.sources import Reference

CLASSES = (records.ClassName("n0", "zero"), records.ClassName("n1", "one"))
NAME = "train-00000-of-00001"


def jpeg(seed, side=40):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    output = io.BytesIO()
    Image.fromarray(noise).resize((side, side + 9)).save(output, "JPEG")
    return output.getvalue()


def references_to(folder, contents):
    """References to ranges of one file, in which `contents` lie one after the other."""
    path = folder / "archive"
    path.write_bytes(b"head" + b"".join(contents))
    offset, references = 4, []
    for number, content in enumerate(contents):
        references.append(
            Reference(f"{number}.JPEG", str(path), offset, len(content), f"{number}.JPEG", 1)
        )
        offset += len(content)
    return references


def settings_in(folder):
    work_dir = folder / "out" / ".prepare" / "recipe"
    work_dir.mkdir(parents=True)
    return shards.Settings(str(folder / "out"), str(work_dir), CLASSES, size=32, quality=95)


def plan(settings, references, split="train", count=1, seed=0):
    return shards.write_plans(settings.work_dir, {split: references}, {split: count}, seed)


def numbered(count):
    return [Reference(f"{n}.jpg", "/x", n, 1, f"{n}.jpg", 0) for n in range(count)]


def test_plans_hold_each_photo_once_and_differ_by_one_at_most(tmp_path):
    settings = settings_in(tmp_path)
    photos = numbered(23)
    planned = plan(settings, photos, count=4)
    assert list(planned) == [records.shard_name("train", index, 4) for index in range(4)]
    assert sorted(planned.values()) == [5, 6, 6, 6]
    read = {name: shards.read_plan(settings.work_dir, name) for name in planned}
    assert {name: len(content) for name, content in read.items()} == planned
    assert sorted(photo for content in read.values() for photo in content) == sorted(photos)


def order(tmp_path, name, photos, split="train", seed=0):
    (tmp_path / name).mkdir()
    settings = settings_in(tmp_path / name)
    (shard,) = plan(settings, photos, split, seed=seed)
    return [reference.key for reference in shards.read_plan(settings.work_dir, shard)]


def test_the_order_depends_on_keys_split_and_seed_alone(tmp_path):
    photos = numbered(50)
    elsewhere = [photo._replace(path="/y", offset=9) for photo in reversed(photos)]
    one = order(tmp_path, "one", photos)
    assert one == order(tmp_path, "two", elsewhere)
    assert one != [photo.key for photo in photos]
    assert one != order(tmp_path, "three", photos, seed=1)
    assert one != order(tmp_path, "four", photos, split="validation")


def test_the_order_is_that_of_salted_blake2b(tmp_path):
    salt = (7).to_bytes(8, "little")

    def place(photo):
        return hashlib.blake2b(f"train/{photo.key}".encode(), digest_size=16, salt=salt).digest()

    expected = [photo.key for photo in sorted(numbered(20), key=place)]
    assert order(tmp_path, "one", numbered(20), seed=7) == expected


def test_a_plan_is_small(tmp_path):
    settings = settings_in(tmp_path)
    folder = "/data/imagenet/downloads/ILSVRC2012_img_train.tar"
    photos = [
        Reference(f"n01440764/n01440764_{n}.JPEG", folder, n * 110_592, 109_527, f"{n}.JPEG", 0)
        for n in range(1250)
    ]
    (name,) = plan(settings, photos)
    assert os.path.getsize(os.path.join(settings.work_dir, name + ".plan")) < 45 * len(photos)


def test_a_shard_holds_photos_or_names_them_as_rejected(tmp_path):
    settings = settings_in(tmp_path)
    grey = io.BytesIO()
    Image.new("L", (50, 40), 99).save(grey, "JPEG")
    contents = [jpeg(0), b"", jpeg(1)[:600], grey.getvalue(), jpeg(2), b"no photo"]
    assert plan(settings, references_to(tmp_path, contents)) == {NAME: 6}
    assert shards.write_shard(NAME, settings) == NAME

    result = shards.read_result(settings.work_dir, NAME)
    assert sorted(result.rejected) == [
        ("1.JPEG", "empty"),
        ("2.JPEG", "truncated"),
        ("5.JPEG", "not_a_photo"),
    ]
    assert result.repairs == {"grey_to_rgb": 1}
    written = (tmp_path / "out" / NAME).read_bytes()
    assert result.shard == records.Shard(NAME, 3, len(written), hashlib.sha256(written).hexdigest())
    examples = {}
    for payload in tfrecord.read_records(io.BytesIO(written)):
        example = tfrecord.decode_example(payload)
        examples[example["image/filename"]] = example
    assert set(examples) == {b"0.JPEG", b"3.JPEG", b"4.JPEG"}
    example = examples[b"4.JPEG"]
    assert example["image/encoded"] == images.convert(jpeg(2), size=32, quality=95).jpeg
    assert (example["image/class/label"], example["image/class/synset"]) == (1, b"n1")
    assert (example["image/height"], example["image/width"]) == (32, 32)
    pixels = sum(
        images.decode_record(example["image/encoded"]).astype(int) for example in examples.values()
    )
    np.testing.assert_array_equal(result.sums.pixels, pixels)
    assert result.sums.count == 3


def test_validation_shards_have_no_statistics(tmp_path):
    settings = settings_in(tmp_path)
    (name,) = plan(settings, references_to(tmp_path, [jpeg(0)]), split="validation")
    shards.write_shard(name, settings)
    result = shards.read_result(settings.work_dir, name)
    assert (result.shard.records, result.sums.count) == (1, 0)


def made(tmp_path):
    """Settings and path of a shard that has been written."""
    settings = settings_in(tmp_path)
    plan(settings, references_to(tmp_path, [jpeg(0), jpeg(1)]))
    shards.write_shard(NAME, settings)
    return settings, tmp_path / "out" / NAME


def identity(path):
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns


def test_a_finished_shard_is_not_made_again(tmp_path):
    settings, path = made(tmp_path)
    before = identity(path)
    os.unlink(tmp_path / "archive")
    assert shards.write_shard(NAME, settings) == NAME
    assert identity(path) == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "no result", "broken result"])
def test_a_damaged_shard_is_made_again(tmp_path, damage):
    settings, path = made(tmp_path)
    content = path.read_bytes()
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
        assert shards.read_result(settings.work_dir, NAME) is None
    shards.write_shard(NAME, settings)
    assert path.read_bytes() == content
    assert shards.read_result(settings.work_dir, NAME).shard.bytes == len(content)


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
    assert shards.read_result(settings.work_dir, NAME) is not None
    assert os.listdir(settings.output_dir) == [".prepare"]


def test_a_source_that_has_shrunk_stops_the_job(tmp_path):
    settings = settings_in(tmp_path)
    plan(settings, references_to(tmp_path, [jpeg(0)]))
    os.truncate(tmp_path / "archive", 100)
    with pytest.raises(OSError, match="has become shorter since it was listed"):
        shards.write_shard(NAME, settings)


def test_a_huge_file_is_rejected_unread(tmp_path, monkeypatch):
    settings = settings_in(tmp_path)
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    references = references_to(tmp_path, [jpeg(0)])
    huge = references[0]._replace(length=1 << 50)
    (tmp_path / "archive").write_bytes(b"x" * 2000)
    plan(settings, [huge])
    shards.write_shard(NAME, settings)
    assert shards.read_result(settings.work_dir, NAME).rejected == [("0.JPEG", "too_many_bytes")]


@pytest.mark.parametrize("module", ["shards", "pipeline", "local_job"])
def test_workers_do_without_tensorflow(module):
    program = f"import data_prep.{module}, sys; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
