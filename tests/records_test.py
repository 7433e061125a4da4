import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from data_prep import records
from data_prep.command_line import UserError

MANIFEST = records.Manifest(
    recipe={"seed": 1},
    classes=(records.ClassName("n1", "one"), records.ClassName("n2", "two, deux")),
    splits={
        "train": records.Split(
            (records.Shard("train-00000-of-00002", 3, 9, "aa"),) * 2, rejected=1
        ),
        "validation": records.Split((), rejected=0),
    },
    repairs={"cmyk_to_rgb": 2},
    files={"labels.txt": "bb"},
)


def test_a_record_comes_back_as_it_was():
    photo = {
        "image": b"\xff\xd8\xff",
        "height": 256,
        "width": 255,
        "filename": "ä.JPEG",
        "label": 3,
        "wnid": "n3",
        "text": "three",
    }
    parsed = records.parse(records.encode(**photo))
    assert set(parsed) == {feature.name for feature in records.FEATURES}
    values = {name: tensor.numpy() for name, tensor in parsed.items()}
    assert values == {
        "image/encoded": b"\xff\xd8\xff",
        "image/format": b"JPEG",
        "image/colorspace": b"RGB",
        "image/channels": 3,
        "image/height": 256,
        "image/width": 255,
        "image/filename": "ä.JPEG".encode(),
        "image/class/label": 3,
        "image/class/synset": b"n3",
        "image/class/text": b"three",
    }


def test_a_batch_of_records_is_parsed_at_once():
    serialized = [
        records.encode(image=b"x", height=1, width=1, filename="", label=n, wnid="", text="")
        for n in range(3)
    ]
    assert records.parse(serialized)["image/class/label"].numpy().tolist() == [0, 1, 2]


def test_shards_are_named_as_slim_names_them():
    assert records.shard_name("train", 0, 1024) == "train-00000-of-01024"


def test_a_manifest_comes_back_as_it_was(tmp_path):
    (tmp_path / records.MANIFEST).write_text(MANIFEST.to_json())
    assert records.read_manifest(str(tmp_path)) == MANIFEST
    assert MANIFEST.splits["train"].records == 6


def test_equal_manifests_are_equal_bytes():
    other = dataclasses.replace(MANIFEST, splits=dict(reversed(MANIFEST.splits.items())))
    assert other.to_json() == MANIFEST.to_json()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"schema_version": 1}', MANIFEST.to_json().replace("sha256", "md5")],
)
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / records.MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"cannot be used: .*run data_prep.prepare again"):
        records.read_manifest(str(tmp_path))


def test_a_manifest_of_another_version_is_refused():
    fields = json.loads(MANIFEST.to_json()) | {"schema_version": 2}
    with pytest.raises(ValueError, match="schema version 1 is needed, this is 2"):
        records.Manifest.from_json(json.dumps(fields))


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a data set made by data_prep.prepare is needed"):
        records.read_manifest(str(tmp_path))


def test_labels_are_lines_of_wnid_and_name():
    assert records.labels_text(MANIFEST.classes) == "n1\tone\nn2\ttwo, deux\n"


def test_missing_statistics_are_refused(tmp_path):
    with pytest.raises(UserError, match="the statistics of a finished data set are needed"):
        records.read_statistics(str(tmp_path))


def test_a_pickled_mean_image_is_refused(tmp_path):
    (tmp_path / "statistics").mkdir()
    numbers = {"count": 1}
    (tmp_path / records.STATISTICS).write_text(json.dumps(numbers))
    np.save(tmp_path / records.MEAN_IMAGE, np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match="allow_pickle=False"):
        records.read_statistics(str(tmp_path))


def test_the_contract_imports_neither_tensorflow_nor_beam():
    program = (
        "import data_prep.records, sys; assert not {'tensorflow', 'apache_beam'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
