import hashlib
import io
import json
import os
import shutil

import commands
import numpy as np
import pytest
from PIL import Image

from data_prep import prepare, records, tfrecord, verify
from data_prep.command_line import UserError
from data_prep.job import statistics

TRAIN = records.shard_name("train", 1, 3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set of 12 train photos in 3 shards and 2 validation photos, 1 reject."""
    return make_data_set(tmp_path_factory.mktemp("verify"), index=True)


def make_data_set(root, **options):
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("validation", 1)):
        for name in ("cat", "dog"):
            folder = root / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                image = Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8))
                image.save(folder / f"{index}.jpg")
    (root / "photos" / "train" / "cat" / "bad.jpg").write_bytes(b"")
    prepare.prepare(
        source="class_folders",
        input_dir=str(root / "photos"),
        output_dir=str(root / "data"),
        train_shards=3,
        validation_shards=1,
        short_side=16,
        beam_options=["--runner=FnApiRunner"],
        **options,
    )
    return root / "data"


@pytest.fixture
def data(prepared, tmp_path):
    """A copy to break, without index files, whose tests are apart."""
    shutil.copytree(prepared, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / records.INDEX_FOLDER)

    def forget_index(fields):
        fields["recipe"]["index"] = False
        for name in [name for name in fields["files"] if name.startswith(records.INDEX_FOLDER)]:
            del fields["files"][name]

    change_manifest(tmp_path / "data", forget_index)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Two processes more a test cost seconds; one test has them."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def payloads(path):
    with open(path, "rb") as file:
        return list(tfrecord.read_records(file))


def change_record(data, number, **features):
    """Puts other features into a record, with right checksums and a manifest that agrees."""
    path = data / TRAIN
    frames = payloads(path)
    example = tfrecord.decode_example(frames[number])
    for name, value in features.items():
        name = "image/" + name.replace("_", "/")
        if value is None:
            del example[name]
        else:
            example[name] = value
    frames[number] = tfrecord.encode_example(example)
    content = b"".join(map(tfrecord.frame, frames))
    path.write_bytes(content)
    change_manifest(
        data,
        lambda fields: fields["splits"]["train"]["shards"][1].update(
            bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
        ),
    )


def change_manifest(data, change):
    """Changes a manifest as its writer could: its own hash is right again."""
    path = data / records.MANIFEST
    fields = json.loads(path.read_text())
    del fields["sha256"]
    change(fields)
    text = json.dumps(fields, indent=1, sort_keys=True) + "\n"
    fields["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")


def fault(data, **options):
    with pytest.raises((UserError, ValueError)) as error:
        verify.verify(data_dir=str(data), **options)
    return str(error.value)


def jpeg(size, mode="RGB"):
    output = io.BytesIO()
    Image.new(mode, size).save(output, "JPEG")
    return output.getvalue()


@pytest.mark.slow
def test_a_whole_data_set_is_proven(prepared, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    figures = verify.verify(data_dir=str(prepared), check_statistics=True)
    assert figures.pop("seconds") > 0
    assert figures.pop("records_per_second") > 0
    assert figures == {
        "train_records": 12,
        "validation_records": 2,
        "rejected": 1,
        "shards": 4,
        "files": 14,
        "faults": 0,
        "statistics": "equal",
    }


def flips(path, random):
    """Places to flip in a file, each with what the fault has to begin with."""
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
def test_a_flipped_byte_anywhere_is_named_by_file_and_record(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    random = np.random.default_rng(0)
    tried = set()
    for path in sorted(path for path in (tmp_path / "data").rglob("*") if path.is_file()):
        whole = path.read_bytes()
        if not whole:
            continue
        name = path.relative_to(tmp_path / "data").as_posix()
        for place, begin in flips(path, random):
            broken = bytearray(whole)
            broken[place] ^= int(random.integers(1, 256))
            path.write_bytes(broken)
            text = fault(tmp_path / "data").removeprefix(f"{tmp_path}/data/")
            assert text.startswith(name), (place, text)
            assert text[len(name) :].lstrip(":, ").startswith(begin), (place, text)
            tried.add((name, place))
        path.write_bytes(whole)
    assert len(tried) > 150
    assert verify.verify(data_dir=str(tmp_path / "data"))["faults"] == 0


def test_all_bad_records_of_a_shard_are_named(data, capsys):
    path = data / TRAIN
    content = bytearray(path.read_bytes())
    lengths = [len(tfrecord.frame(payload)) for payload in payloads(path)]
    for number in (0, 2):
        content[sum(lengths[:number]) + 100] ^= 1
    path.write_bytes(content)
    text = fault(data)
    what = "the checksum of its payload is wrong"
    assert text.startswith(f"{TRAIN}, record 0 at byte 0: {what} (2 faults in ")
    assert text.endswith("remove the folder and run data_prep.prepare again")
    assert listed(capsys) == [
        f"verify: {TRAIN}, record 0 at byte 0: {what}",
        f"verify: {TRAIN}, record 2 at byte {sum(lengths[:2])}: {what}",
    ]


def listed(capsys):
    """The lines on stderr that are no progress bar."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("verify: ") and "shard/s]" not in line]


def test_no_more_faults_are_listed_than_a_person_reads(data, capsys):
    for number in range(25):
        (data / f"train-000{number}-of-00099").write_bytes(b"")
    assert "(25 faults in" in fault(data)
    lines = listed(capsys)
    assert len(lines) == 21
    assert lines[-1] == "verify: and 5 more"


def rewrite(data, change):
    path = data / TRAIN
    path.write_bytes(b"".join(map(tfrecord.frame, change(payloads(path)))))


def add_index(data):
    (data / records.INDEX_FOLDER).mkdir()
    (data / records.index_name(TRAIN)).write_text("0 1\n")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data: (data / TRAIN).unlink(), f"{TRAIN}: cannot be read (No such file"),
        (lambda data: rewrite(data, lambda p: p[:-1]), f"{TRAIN}: records 3, in the manifest 4"),
        (lambda data: rewrite(data, lambda p: p[::-1]), f"{TRAIN}: SHA-256 "),
        (lambda data: rewrite(data, lambda p: [b"\xff"]), f"{TRAIN}, record 0 at byte 0: not a tf"),
        (
            lambda data: shutil.copy(data / TRAIN, data / "train-00001-of-00004"),
            "train-00001-of-00004: is in the folder, but not in the manifest (1 fault",
        ),
        (add_index, f"{records.index_name(TRAIN)}: is in the folder, but not in the manifest (1 "),
        (lambda data: (data / records.STATISTICS).unlink(), f"{records.STATISTICS}: cannot be re"),
    ],
)
def test_a_damaged_folder_is_named(data, damage, text):
    damage(data)
    assert fault(data).startswith(text)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda fields: fields["files"].pop(records.LABELS), "manifest.json: says nothing of lab"),
        (
            lambda fields: fields["splits"]["train"].update(rejected=2),
            "rejected.jsonl: has 1 train photos, the manifest 2 (1 fault",
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
        ({"height": 17}, "image/height is 17 instead of 16"),
        ({"format": "PNG"}, "image/format is b'PNG' instead of b'JPEG'"),
        ({"encoded": jpeg((16, 15))}, "a photo of 16 x 16 pixels is required. Received: 15 x 16"),
        ({"encoded": jpeg((16, 16), "L")}, "an RGB JPEG is required"),
        ({"encoded": jpeg((16, 16))[:-2]}, "a whole JPEG is required"),
    ],
)
def test_a_wrong_record_is_named(data, features, text):
    change_record(data, 1, **features)
    found = fault(data)
    start = len(tfrecord.frame(payloads(data / TRAIN)[0]))
    assert found.startswith(f"{TRAIN}, record 1 at byte {start}: {text}")
    assert "(1 fault in" in found


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (
            {"storage": "raw"},
            [
                ({"encoded": b""}, "16 x 16 x 3 bytes of pixels are required. Received: 0 bytes"),
                ({"format": "JPEG"}, "image/format is b'JPEG' instead of b'RAW'"),
            ],
        ),
        (
            {"crop": "none"},
            [
                ({"height": 15}, "the short side of 24 x 15 pixels is not 16"),
                ({"width": 25}, "a photo of 16 x 25 pixels is required. Received: 16 x 24"),
            ],
        ),
        ({"label_offset": 1}, [({"class_label": 0}, "label 0 of 2 classes from 1")]),
    ],
)
def test_what_is_stored_otherwise_is_proven_too(tmp_path, options, changes):
    data = make_data_set(tmp_path, **options)
    figures = verify.verify(data_dir=str(data), check_statistics=True)
    assert figures["statistics"] == "equal"
    for features, text in changes:
        shutil.copytree(data, tmp_path / "broken", dirs_exist_ok=True)
        change_record(tmp_path / "broken", 0, **features)
        assert fault(tmp_path / "broken").startswith(f"{TRAIN}, record 0 at byte 0: {text}")


@pytest.mark.parametrize(
    "name", ["statistics/mean_image.npy", "features.json", records.REJECTED, records.LABELS]
)
def test_a_changed_file_is_named(data, name):
    content = (data / name).read_bytes()
    (data / name).write_bytes(content[:-2] + b"~\n")
    assert fault(data).startswith(f"{name}: its SHA-256 is not the manifest's")


def test_an_index_that_leads_elsewhere_is_named(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    name = records.index_name(TRAIN)
    text = (tmp_path / "data" / name).read_text()
    wrong = text.replace("0 ", "1 ", 1)
    (tmp_path / "data" / name).write_text(wrong)
    digest = hashlib.sha256(wrong.encode()).hexdigest()
    change_manifest(tmp_path / "data", lambda fields: fields["files"].update({name: digest}))
    found = fault(tmp_path / "data")
    assert found.startswith(f"{name}: is not where the records of {TRAIN} are (1 fault in")


def test_a_missing_index_is_named(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "data")
    name = records.index_name(TRAIN)
    (tmp_path / "data" / name).unlink()
    assert fault(tmp_path / "data").startswith(f"{name}: cannot be read (No such file")
    change_manifest(tmp_path / "data", lambda fields: fields["files"].pop(name))
    assert fault(tmp_path / "data").startswith(f"{records.MANIFEST}: says nothing of {name}")


def test_a_manifest_leads_to_no_file_outside(data, tmp_path):
    (tmp_path / "secret").write_bytes(b"")

    def lead_outside(fields):
        fields["files"]["../secret"] = hashlib.sha256(b"").hexdigest()
        fields["splits"]["train"]["shards"][1]["name"] = "../secret"

    change_manifest(data, lead_outside)
    found = fault(data)
    assert "'../secret' is no name for a shard of train" in found
    # The shard that is not named any more, and the file, too.
    assert "(3 faults in" in found


def test_other_statistics_are_noticed_when_asked_for(data):
    stored = records.read_statistics(str(data))
    stored.mean_image[3, 4, 1] += 0.1
    content = statistics.to_files(stored)[records.MEAN_IMAGE]
    (data / records.MEAN_IMAGE).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    change_manifest(data, lambda fields: fields["files"].update({records.MEAN_IMAGE: digest}))
    assert verify.verify(data_dir=str(data))["statistics"] == "not checked"
    text = "statistics: mean_image is not that of the records (2 faults"
    assert fault(data, check_statistics=True).startswith(text)


def test_a_caffe_mean_that_is_another_is_noticed_when_asked_for(data):
    path = data / records.MEAN_IMAGE_CAFFE
    content = path.read_bytes()[:-1] + b"\0"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    name = records.MEAN_IMAGE_CAFFE
    change_manifest(data, lambda fields: fields["files"].update({name: digest}))
    assert verify.verify(data_dir=str(data))["faults"] == 0
    assert fault(data, check_statistics=True).startswith(f"{name}: is not {records.MEAN_IMAGE}")


def command(*flags):
    return commands.in_new_process("data_prep.verify", *flags)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "status", "text"),
    [
        ("--data_dir=/no/such/folder", 1, "a data set made by data_prep.prepare is needed"),
        ("--statistics", 2, "--data_dir"),
    ],
)
def test_a_mistake_at_the_keyboard_is_one_line(flag, status, text):
    result = command(flag)
    assert (result.returncode, result.stdout) == (status, "")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
