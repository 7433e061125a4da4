import dataclasses
import hashlib
import json

import numpy as np
import pytest

from data_prep import conversion_rule, records

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
    notes={"icc_profile": 3},
    label_offset=1,
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
    parsed = records.parse([records.encode(**photo), records.encode(**photo, image_format="RAW")])
    assert parsed["image/format"].numpy().tolist() == [b"JPEG", b"RAW"]
    assert set(parsed) == set(records.FEATURES)
    assert {name: tensor[0].numpy() for name, tensor in parsed.items()} == {
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


def test_an_index_has_offset_and_length_of_each_record():
    assert records.index_text([7, 30, 5]) == "0 7\n7 30\n37 5\n"
    assert records.index_text([]) == ""
    assert records.index_name("train-00000-of-00002") == "index/train-00000-of-00002.index"


def test_a_manifest_comes_back_as_it_was(tmp_path):
    with pytest.raises(ValueError, match=r"a data set made by data_prep.prepare is needed"):
        records.read_manifest(str(tmp_path))
    (tmp_path / records.MANIFEST).write_text(MANIFEST.to_json())
    assert records.read_manifest(str(tmp_path)) == MANIFEST
    assert MANIFEST.splits["train"].records == 6


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"schema_version": 1}', MANIFEST.to_json().replace("sha256", "md5")],
)
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / records.MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=r"cannot be used: .*run data_prep.prepare again"):
        records.read_manifest(str(tmp_path))


def test_a_manifest_of_another_version_is_refused():
    fields = json.loads(MANIFEST.to_json()) | {"schema_version": 1}
    with pytest.raises(ValueError, match="schema version 2 is needed, this is 1"):
        records.Manifest.from_json(json.dumps(fields))


def test_a_manifest_holds_the_hash_of_all_else_in_it():
    fields = json.loads(MANIFEST.to_json())
    digest = fields.pop("sha256")
    text = json.dumps(fields, indent=1, sort_keys=True) + "\n"
    assert hashlib.sha256(text.encode()).hexdigest() == digest


@pytest.mark.slow
def test_any_changed_byte_of_a_manifest_is_found(tmp_path):
    text = MANIFEST.to_json().encode()
    for other in text[:-1], text + b" ":
        with pytest.raises(ValueError, match="its text was changed"):
            records.Manifest.from_json(other.decode())
    random = np.random.default_rng(0)
    for place in range(len(text)):
        changed = bytearray(text)
        # "\r" too, which text files take for "\n".
        new = 13 if changed[place] == 10 else changed[place] ^ int(random.integers(1, 256))
        changed[place] = new
        (tmp_path / records.MANIFEST).write_bytes(changed)
        with pytest.raises(ValueError, match=r"manifest\.json cannot be used: "):
            records.read_manifest(str(tmp_path))


@pytest.mark.parametrize("offset", [-1, 2])
def test_labels_start_at_0_or_1(offset):
    with pytest.raises(ValueError, match=f"label_offset of 0 or 1 is required. Received: {offset}"):
        dataclasses.replace(MANIFEST, label_offset=offset)


def test_photos_are_square_jpegs_where_the_recipe_is_silent():
    for recipe in ({}, {"crop": "none"}, {"storage": "raw"}):
        assert photo_format(short_side=32, **recipe) == conversion_rule.Rule(32, **recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"short_side": 10**9},
        {"short_side": "256"},
        {"short_side": 32, "storage": "png"},
        {"short_side": 32, "crop": "left"},
        {"short_side": 32, "crop": "none", "storage": "raw"},
    ],
)
def test_a_recipe_of_photos_that_no_reader_knows_is_refused(recipe):
    with pytest.raises(ValueError, match=r"must name how the photos are stored: .*prepare again"):
        photo_format(**recipe)


def photo_format(**recipe):
    return dataclasses.replace(MANIFEST, recipe=recipe).photo_format


def test_missing_statistics_and_a_pickled_mean_image_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the statistics of a finished data set are needed"):
        records.read_statistics(str(tmp_path))
    (tmp_path / "statistics").mkdir()
    numbers = {"count": 1}
    (tmp_path / records.STATISTICS).write_text(json.dumps(numbers))
    np.save(tmp_path / records.MEAN_IMAGE, np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        records.read_statistics(str(tmp_path))
