import hashlib
import io
import json
import os
import shutil

import numpy as np
import pytest
from photo_folders import arguments
from PIL import Image

from data_prep import prepare, records, tfrecord, verify
from data_prep.command_line import UserError
from data_prep.job import statistics

TRAIN = records.shard_name("train", 1, 3)
INDEX = records.index_name(TRAIN)


@pytest.fixture
def data(prepared, tmp_path):
    """Return a copy of the data set: 16 train photos in 3 shards, 6 validation, 3 rejects."""
    return shutil.copytree(prepared[0], tmp_path / "data")


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Two processes more a test cost seconds; one test has them."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def payloads(path):
    with open(path, "rb") as file:
        return list(tfrecord.read_records(file))


def change_record(data, number, **features):
    """Put other features into a record, with right checksums and a manifest that agrees."""
    frames = payloads(data / TRAIN)
    example = tfrecord.decode_example(frames[number])
    changed = {"image/" + name.replace("_", "/"): value for name, value in features.items()}
    example = {k: v for k, v in (example | changed).items() if v is not None}
    frames[number] = tfrecord.encode_example(example)
    content = b"".join(map(tfrecord.frame, frames))
    (data / TRAIN).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    shard = {"bytes": len(content), "sha256": digest}
    change_manifest(data, lambda f: f["splits"]["train"]["shards"][1].update(shard))
    return sum(map(len, map(tfrecord.frame, frames[:number])))


def change_manifest(data, change):
    """Change a manifest as its writer could: its own hash is right again."""
    path = data / records.MANIFEST
    fields = json.loads(path.read_text())
    del fields["sha256"]
    change(fields)
    text = json.dumps(fields, indent=1, sort_keys=True) + "\n"
    fields["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")


def change_file(data, name, content):
    """Change a file, with a manifest that agrees."""
    (data / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    change_manifest(data, lambda fields: fields["files"].update({name: digest}))


def fault(data, **options):
    with pytest.raises((UserError, ValueError)) as error:
        verify.verify(data_dir=str(data), **options)
    return str(error.value)


def jpeg(size, mode="RGB"):
    output = io.BytesIO()
    Image.new(mode, size).save(output, "JPEG")
    return output.getvalue()


@pytest.mark.slow
def test_a_whole_data_set_passes(prepared, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    figures = verify.verify(data_dir=str(prepared[0]), check_statistics=True)
    assert figures.pop("seconds") > 0
    assert figures.pop("records_per_second") > 0
    assert figures == {
        "train_records": 16,
        "validation_records": 6,
        "rejected": 3,
        "shards": 5,
        "files": 15,
        "faults": 0,
        "statistics": "equal",
    }


def flips(path, random):
    """Return places to flip in a file, each with what the fault has to begin with."""
    if path.suffix == ".index" or not path.name.startswith(records.SPLITS):
        begin = "its SHA-256 is not the manifest's"
        if path.name == records.MANIFEST:
            begin = "cannot be used: "
        return [(int(place), begin) for place in random.integers(path.stat().st_size, size=8)]
    places, offset = [], 0
    for number, payload in enumerate(payloads(path)):
        end = offset + len(tfrecord.frame(payload))
        for first, last, what in (
            (offset, offset + 8, "the checksum of its length is wrong"),
            (offset + 8, offset + 12, "the checksum of its length is wrong"),
            (offset + 12, end - 4, "the checksum of its payload is wrong"),
            (end - 4, end, "the checksum of its payload is wrong"),
        ):
            begin = f"record {number} at byte {offset}: {what}"
            places.append((int(random.integers(first, last)), begin))
        offset = end
    return places


@pytest.mark.slow
def test_a_flipped_byte_anywhere_is_named_by_file_and_record(data):
    random = np.random.default_rng(0)
    tried = set()
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        name = path.relative_to(data).as_posix()
        for place, begin in flips(path, random):
            broken = bytearray(whole)
            broken[place] ^= int(random.integers(1, 256))
            path.write_bytes(broken)
            text = fault(data).removeprefix(f"{data}/")
            assert text.startswith(name), (place, text)
            assert text[len(name) :].lstrip(":, ").startswith(begin), (place, text)
            tried.add((name, place))
        path.write_bytes(whole)
    assert len(tried) > 150
    assert verify.verify(data_dir=str(data))["faults"] == 0


def test_all_broken_records_of_a_shard_are_listed_but_not_more_faults_than_a_person_reads(
    data, capsys
):
    content = bytearray((data / TRAIN).read_bytes())
    lengths = [len(tfrecord.frame(payload)) for payload in payloads(data / TRAIN)]
    for number in (0, 2):
        content[sum(lengths[:number]) + 100] ^= 1
    (data / TRAIN).write_bytes(content)
    what = "the checksum of its payload is wrong"
    text = fault(data)
    assert text.startswith(f"{TRAIN}, record 0 at byte 0: {what} (2 faults in ")
    assert text.endswith("remove the folder and run data_prep.prepare again")
    assert listed(capsys) == [
        f"verify: {TRAIN}, record 0 at byte 0: {what}",
        f"verify: {TRAIN}, record 2 at byte {sum(lengths[:2])}: {what}",
    ]
    for number in range(25):
        (data / f"train-000{number}-of-00099").write_bytes(b"")
    assert "(27 faults in" in fault(data)
    lines = listed(capsys)
    assert len(lines) == 21
    assert lines[-1] == "verify: and 7 more"


def listed(capsys):
    """Return the lines on stderr that are no progress bar."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("verify: ") and "shard/s]" not in line]


def rewrite(data, change):
    (data / TRAIN).write_bytes(b"".join(map(tfrecord.frame, change(payloads(data / TRAIN)))))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data: (data / TRAIN).unlink(), f"{TRAIN}: cannot be read (No such file"),
        (lambda data: rewrite(data, lambda p: p[:-1]), f"{TRAIN}: records 5, in the manifest 6"),
        (lambda data: rewrite(data, lambda p: p[::-1]), f"{TRAIN}: SHA-256 "),
        (lambda data: rewrite(data, lambda p: [b"\xff"]), f"{TRAIN}, record 0 at byte 0: not a tf"),
        (
            lambda data: shutil.copy(data / TRAIN, data / "train-00001-of-00004"),
            "train-00001-of-00004: is in the folder, but not in the manifest (1 fault",
        ),
        (
            lambda data: (data / records.INDEX_FOLDER / "more").write_text("0 1\n"),
            "index/more: is in the folder, but not in the manifest (1 fault",
        ),
        (lambda data: (data / records.STATISTICS).unlink(), f"{records.STATISTICS}: cannot be re"),
        (lambda data: (data / INDEX).unlink(), f"{INDEX}: cannot be read (No such file"),
        (lambda data: (data / records.LABELS).write_text(""), "labels.txt: its SHA-256 is not the"),
        (
            lambda data: change_file(data, INDEX, b"1" + (data / INDEX).read_bytes()),
            f"{INDEX}: is not where the records of {TRAIN} are (1 fault",
        ),
    ],
)
def test_a_damaged_folder_is_named(data, damage, text):
    damage(data)
    assert fault(data).startswith(text)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda fields: fields["files"].pop(records.LABELS), "manifest.json: says nothing of lab"),
        (lambda fields: fields["files"].pop(INDEX), f"manifest.json: says nothing of {INDEX}"),
        (
            lambda fields: fields["splits"]["train"].update(rejected=2),
            "rejected.jsonl: has 3 train photos, the manifest 2 (1 fault",
        ),
        (
            lambda fields: fields["classes"].append({"wnid": "x", "name": "x"}),
            "labels.txt: is not the manifest's list of classes (1 fault",
        ),
        (lambda fields: fields["recipe"].update(short_side=10**9), "the manifest's recipe must"),
    ],
)
def test_a_wrong_manifest_is_named(data, change, text):
    change_manifest(data, change)
    assert fault(data).startswith(text)


@pytest.mark.parametrize(
    ("features", "text"),
    [
        ({"class_label": 2}, "label 2 of 2 classes from 0"),
        ({"class_label": -1}, "label -1 of 2 classes from 0"),
        ({"class_synset": "cow"}, "image/class/synset is b'cow' instead of b'"),
        ({"class_text": "cow"}, "image/class/text is b'cow' instead of b'"),
        ({"class_label": None}, "image/class/label is missing, or not one int64"),
        ({"filename": 3}, "image/filename is missing, or not one bytes"),
        ({"height": 17}, "image/height is 17 instead of 32"),
        ({"format": "PNG"}, "image/format is b'PNG' instead of b'JPEG'"),
        ({"encoded": jpeg((32, 31))}, "a photo of 32 x 32 pixels is required. Received: 31 x 32"),
        ({"encoded": jpeg((32, 32), "L")}, "an RGB JPEG is required"),
        ({"encoded": jpeg((32, 32))[:-2]}, "a whole JPEG is required"),
    ],
)
def test_a_wrong_record_is_named(data, features, text):
    place = change_record(data, 1, **features)
    assert fault(data).startswith(f"{TRAIN}, record 1 at byte {place}: {text}")


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (
            {"storage": "raw"},
            [
                ({"encoded": b""}, "32 x 32 x 3 bytes of pixels are required. Received: 0 bytes"),
                ({"format": "JPEG"}, "image/format is b'JPEG' instead of b'RAW'"),
            ],
        ),
        (
            {"crop": "none"},
            [
                ({"height": 31}, "the short side of 40 x 31 pixels is not 32"),
                ({"width": 41}, "a photo of 32 x 41 pixels is required. Received: 32 x 40"),
            ],
        ),
        ({"label_offset": 1}, [({"class_label": 0}, "label 0 of 2 classes from 1")]),
    ],
)
def test_what_is_stored_otherwise_is_checked_too(photos, tmp_path, options, changes):
    prepare.prepare(**arguments(photos, tmp_path / "data", **options))
    figures = verify.verify(data_dir=str(tmp_path / "data"), check_statistics=True)
    assert figures["statistics"] == "equal"
    for features, text in changes:
        shutil.copytree(tmp_path / "data", tmp_path / "broken", dirs_exist_ok=True)
        change_record(tmp_path / "broken", 0, **features)
        assert fault(tmp_path / "broken").startswith(f"{TRAIN}, record 0 at byte 0: {text}")


def test_a_manifest_leads_to_no_file_outside(data, tmp_path):
    (tmp_path / "secret").write_bytes(b"")

    def lead_outside(fields):
        fields["files"]["../secret"] = hashlib.sha256(b"").hexdigest()
        fields["splits"]["train"]["shards"][1]["name"] = "../secret"

    change_manifest(data, lead_outside)
    found = fault(data)
    assert "'../secret' is no name for a shard of train" in found
    # The shard that is not named any more, its index (missing and surplus) and the file, too.
    assert "(4 faults in" in found


def other_mean(data):
    stored = records.read_statistics(str(data))
    stored.mean_image[3, 4, 1] += 0.1
    return statistics.to_files(stored)[records.MEAN_IMAGE]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (records.MEAN_IMAGE, other_mean, "statistics: mean_image is not that of the records (2 f"),
        (
            records.MEAN_IMAGE_CAFFE,
            lambda data: (data / records.MEAN_IMAGE_CAFFE).read_bytes()[:-1] + b"\0",
            f"{records.MEAN_IMAGE_CAFFE}: is not {records.MEAN_IMAGE}",
        ),
    ],
)
def test_other_statistics_are_noticed_with_check_statistics(data, name, content, text):
    change_file(data, name, content(data))
    assert verify.verify(data_dir=str(data))["statistics"] == "not checked"
    assert fault(data, check_statistics=True).startswith(text)
