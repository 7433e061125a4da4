import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_prep import prepare, records, statistics, tfrecord, verify
from data_prep.command_line import UserError

REPOSITORY = pathlib.Path(__file__).parents[1]
TRAIN = records.shard_name("train", 1, 3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set of 12 train photos in 3 shards and 2 validation photos, 1 reject."""
    root = tmp_path_factory.mktemp("verify")
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
    )
    return root / "data"


@pytest.fixture
def data(prepared, tmp_path):
    """A copy to break."""
    shutil.copytree(prepared, tmp_path / "data")
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
    path = data / records.MANIFEST
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def fault(data, **options):
    with pytest.raises(UserError) as error:
        verify.verify(data_dir=str(data), **options)
    return str(error.value)


def jpeg(size, mode="RGB"):
    output = io.BytesIO()
    Image.new(mode, size).save(output, "JPEG")
    return output.getvalue()


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
        "files": 8,
        "faults": 0,
        "statistics": "equal",
    }


def test_a_flipped_byte_is_named_by_shard_and_record(data):
    path = data / TRAIN
    content = bytearray(path.read_bytes())
    first, second, _, _ = (len(tfrecord.frame(payload)) for payload in payloads(path))
    content[first + second + 100] ^= 1
    path.write_bytes(content)
    text = fault(data)
    assert text.startswith(f"{TRAIN}, record 2: the checksum of its payload is wrong (1 fault in ")
    assert text.endswith("remove the folder and run data_prep.prepare again")


def test_all_faults_are_counted(data):
    for index in (0, 2):
        path = data / records.shard_name("train", index, 3)
        path.write_bytes(path.read_bytes()[:-1])
    (data / records.LABELS).write_text("")
    text = fault(data)
    assert text.startswith(f"{records.LABELS}: its SHA-256 is not the manifest's (4 faults in ")


def test_a_missing_shard_is_named(data):
    (data / TRAIN).unlink()
    assert fault(data).startswith(f"{TRAIN}: cannot be read (No such file or directory) (1 fault")


def test_a_lost_record_is_noticed(data):
    path = data / TRAIN
    path.write_bytes(b"".join(map(tfrecord.frame, payloads(path)[:-1])))
    assert fault(data).startswith(f"{TRAIN}: records 3, in the manifest 4 (3 faults in")


def test_reordered_records_are_noticed(data):
    path = data / TRAIN
    path.write_bytes(b"".join(map(tfrecord.frame, payloads(path)[::-1])))
    assert fault(data).startswith(f"{TRAIN}: SHA-256 ")


@pytest.mark.parametrize(
    ("features", "text"),
    [
        ({"class_label": 2}, "label 2 of 2 classes"),
        ({"class_label": -1}, "label -1 of 2 classes"),
        ({"class_synset": "cow"}, "image/class/synset is b'cow' instead of b'"),
        ({"class_text": "cow"}, "image/class/text is b'cow' instead of b'"),
        ({"class_label": None}, "image/class/label is missing, or not one int64"),
        ({"filename": 3}, "image/filename is missing, or not one bytes"),
        ({"height": 17}, "image/height is 17 instead of 16"),
        ({"format": "PNG"}, "image/format is b'PNG' instead of b'JPEG'"),
        ({"encoded": jpeg((16, 15))}, "the photo has 16 x 15 pixels"),
        ({"encoded": jpeg((16, 16), "L")}, "an RGB JPEG is required"),
        ({"encoded": jpeg((16, 16))[:-90]}, "a JPEG is required"),
    ],
)
def test_a_wrong_record_is_named(data, features, text):
    change_record(data, 1, **features)
    found = fault(data)
    assert found.startswith(f"{TRAIN}, record 1: {text}")
    assert "(1 fault in" in found


def test_what_is_no_example_is_named(data):
    path = data / TRAIN
    path.write_bytes(tfrecord.frame(b"\xff\xff") + path.read_bytes())
    assert fault(data).startswith(f"{TRAIN}, record 0: not a tf.train.Example")


def test_a_shard_too_many_is_named(data):
    shutil.copy(data / TRAIN, data / "train-00001-of-00004")
    text = "train-00001-of-00004: is in the folder, but not in the manifest (1 fault"
    assert fault(data).startswith(text)


@pytest.mark.parametrize(
    "name", ["statistics/mean_image.npy", "features.json", records.REJECTED, records.LABELS]
)
def test_a_changed_file_is_named(data, name):
    content = (data / name).read_bytes()
    (data / name).write_bytes(content[:-2] + b"~\n")
    assert fault(data).startswith(f"{name}: its SHA-256 is not the manifest's")


def test_a_missing_file_is_named(data):
    (data / records.STATISTICS).unlink()
    assert fault(data).startswith(f"{records.STATISTICS}: cannot be read (No such file")


def test_a_file_that_the_manifest_forgets_is_named(data):
    change_manifest(data, lambda fields: fields["files"].pop(records.LABELS))
    assert fault(data).startswith(f"{records.MANIFEST}: says nothing of {records.LABELS} (1 fault")


def test_rejects_must_add_up(data):
    change_manifest(data, lambda fields: fields["splits"]["train"].update(rejected=2))
    assert fault(data).startswith("rejected.jsonl: has 1 train photos, the manifest 2 (1 fault")


def test_classes_must_be_those_of_the_labels(data):
    change_manifest(data, lambda fields: fields["classes"].append({"wnid": "x", "name": "x"}))
    assert fault(data).startswith("labels.txt: is not the manifest's list of classes (1 fault")


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


def test_a_manifest_without_size_is_refused(data):
    change_manifest(data, lambda fields: fields["recipe"].update(short_side=10**9))
    assert "must have a short_side of 1 to 4096 pixels. Received: 1000000000" in fault(data)


def test_other_statistics_are_noticed_when_asked_for(data):
    stored = records.read_statistics(str(data))
    stored.mean_image[3, 4, 1] += 0.1
    content = statistics.to_files(stored)[records.MEAN_IMAGE]
    (data / records.MEAN_IMAGE).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    change_manifest(data, lambda fields: fields["files"].update({records.MEAN_IMAGE: digest}))
    assert verify.verify(data_dir=str(data))["statistics"] == "not checked"
    text = "statistics: mean_image is not that of the records (1 fault"
    assert fault(data, check_statistics=True).startswith(text)


def command(*flags):
    return subprocess.run(
        [sys.executable, "-m", "data_prep.verify", *flags],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )


def test_the_command_ends_with_its_figures(prepared):
    result = command(f"--data_dir={prepared}", "--statistics")
    assert result.returncode == 0
    assert json.loads(result.stdout.splitlines()[-1])["statistics"] == "equal"


def test_the_command_names_the_first_fault_on_one_line(data):
    (data / TRAIN).unlink()
    result = command(f"--data_dir={data}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.replace("\r", "\n").splitlines()[-1].startswith(f"verify.py: {TRAIN}: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("flag", "status", "text"),
    [
        ("--data_dir=/no/such/folder", 1, "a data set made by data_prep.prepare is needed"),
        (f"--data_dir={REPOSITORY / 'tests'}", 1, "finish it by running prepare again"),
        ("--statistics", 2, "--data_dir"),
    ],
)
def test_a_mistake_at_the_keyboard_is_one_line(flag, status, text):
    result = command(flag)
    assert (result.returncode, result.stdout) == (status, "")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
