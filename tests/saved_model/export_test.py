import hashlib
import json
import os

import commands
import cv2
import numpy as np
import pytest
import stand_in
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from data_prep import files, records
from keras_alexnet.network.variables import named_variables
from keras_alexnet.saved_model import agreement, publishing, signatures, versions, warmup
from keras_alexnet.saved_model.versions import check
from keras_alexnet.training import checkpoints, workdir

pytestmark = pytest.mark.slow

PHOTOS = [stand_in.photo(seed=seed) for seed in range(5)]
# As data sets with --crop=none and --storage=raw hold them: longer than wide, or no JPEG.
ODD_PHOTOS = [
    stand_in.photo(300, 256),
    stand_in.photo(256, 301),
    stand_in.encoded(stand_in.pixels(256, 256), "PNG"),
]


@pytest.fixture(scope="module")
def run():
    return stand_in.trained_run()


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    base = tmp_path_factory.mktemp("export") / "birds"
    return base, publishing.export(trained=run, photos=PHOTOS, export_dir=str(base))


def test_what_is_in_a_version(exported, run):
    base, result = exported
    assert (result["version"], result["path"]) == (1, str(base / "1"))
    assert (result["photos"], result["removed"]) == (5, [])
    assert result["max_difference"] < 1e-5
    json.dumps(result)
    assert sorted(os.listdir(base)) == ["1", "serving"]  # nothing is left over
    assert (base / "1").stat().st_mode & 0o777 == 0o755  # TF Serving runs as another user
    names = (base / "1" / "assets" / "labels.txt").read_text()
    assert names == records.labels_text(run.classes)
    readme = (base / "1" / "README.txt").read_text()
    one_line = " ".join(readme.replace("\\\n", " ").split())
    for fact in (
        "/runs/stand_in",
        run.description["manifest_sha256"],
        "profile paper",
        "top1: 0.5\n",
        "top5: 0.75\n",
        "epoch 3",
        "models/birds -e MODEL_NAME=birds tensorflow/serving",
        "short_side",
    ):
        assert " ".join(fact.split()) in one_line
    for name, key in signatures.INPUT_NAMES.items():
        assert f"{name}: {key}, " in readme
    assert check(str(base / "1")) == 6


def test_warmup_requests_can_be_answered(exported, run):
    base, result = exported
    loaded = tf.saved_model.load(str(base / "1"))
    seen = []
    for record in tf.data.TFRecordDataset(str(base / "1" / warmup.PATH)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        kind = log.WhichOneof("log_type")
        request = getattr(log, kind).request
        assert request.model_spec.name == "birds"
        signature = request.model_spec.signature_name
        if kind == "classify_log":
            examples = request.input.example_list.examples
            inputs = {"inputs": [example.SerializeToString() for example in examples]}
        else:
            inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        answer = loaded.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()})
        assert bool(tf.reduce_all(answer.get("valid", True)))
        assert all(name for name in answer.get("classes", tf.constant(["any"])).numpy().ravel())
        seen.append((kind, signature, len(next(iter(inputs.values())))))
    kinds = [("predict_log", name) for name in loaded.signatures] + [("classify_log", "classify")]
    assert sorted(seen) == sorted((*kind, size) for kind in kinds for size in (1, 4))
    assert len(seen) == result["warmup_requests"]
    assert warmup.read(str(base / "1"))[0][0] == "classify"
    assert len(warmup.read(str(base / "1"))) == len(seen)
    assert len(warmup.read(str(base / "1"), with_classify=False)) == len(seen) - 2


def test_versions_are_numbered_on_and_appear_whole(run, tmp_path, monkeypatch):
    for name in ("3", "5", "12", ".13.x.tmp", "draft", "14.old"):
        (tmp_path / "birds" / name).mkdir(parents=True)
    (tmp_path / "birds" / "99").write_text("no folder")
    while_writing = []
    write = warmup.write

    def listing(folder, **arguments):
        while_writing.append(list(versions.published(str(tmp_path / "birds"))))
        return write(folder, **arguments)

    monkeypatch.setattr(warmup, "write", listing)
    result = publishing.export(
        trained=run, photos=ODD_PHOTOS, export_dir=str(tmp_path / "birds"), keep_versions=2
    )
    assert while_writing == [[3, 5, 12]]
    assert result["version"] == 13
    assert result["removed"] == [3, 5]
    assert list(versions.published(str(tmp_path / "birds"))) == [12, 13]
    assert len(os.listdir(tmp_path / "birds")) == 7  # and what is no version


@pytest.mark.parametrize(
    ("factor", "difference"), [(1.5, r"0\.\d+ in scores"), (np.nan, "nan")], ids=["other", "nan"]
)
def test_model_that_answers_otherwise_is_not_published(
    run, tmp_path, monkeypatch, factor, difference
):
    (tmp_path / "birds" / "1").mkdir(parents=True)
    other = stand_in.trained_run()
    kernel, bias = other.model.get_layer("fc8").get_weights()
    other.model.get_layer("fc8").set_weights([kernel * factor, bias])
    save = signatures.save
    monkeypatch.setattr(signatures, "save", lambda _, folder, fit: save(other, folder, fit))
    with pytest.raises(ValueError, match=f"not published, .*differs by {difference}"):
        publishing.export(
            trained=run, photos=PHOTOS[:1], export_dir=str(tmp_path / "birds"), keep_versions=1
        )
    assert os.listdir(tmp_path / "birds") == ["1"]


def test_photos_of_a_warped_data_set_are_warped(run, tmp_path):
    base = str(tmp_path / "birds")
    result = publishing.export(trained=run, photos=PHOTOS, export_dir=base, fit="warp")
    photo = stand_in.photo(300, 500)
    answer = tf.saved_model.load(result["path"]).signatures["serving_default"](
        image_bytes=tf.constant([photo])
    )
    warped = cv2.resize(stand_in.decoded(photo), (256, 256), interpolation=cv2.INTER_LINEAR)
    expected = stand_in.scores(run, warped[np.newaxis])
    np.testing.assert_allclose(answer["scores"], -np.sort(-expected, 1)[:, :5], atol=5e-3)
    assert "(warp)" in (tmp_path / "birds" / "1" / "README.txt").read_text()


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("gs://bucket/model", "must be a local folder"),
        (__file__, "is a file"),
        ("birds/1", "looks like one of its versions"),
    ],
)
def test_folders_that_cannot_be_used(run, folder, message):
    with pytest.raises(ValueError, match=message):
        publishing.export(trained=run, photos=PHOTOS, export_dir=folder)


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (b"no photo", "a stored photo is broken"),
        (stand_in.photo(200, 200), r"one has the shape \(200, 200, 3\)"),
        (stand_in.photo(255, 300), r"one has the shape \(255, 300, 3\)"),
        (stand_in.encoded(stand_in.pixels(256, 256)[..., 0]), r"one has the shape \(256, 256\)"),
    ],
)
def test_photos_that_cannot_be_used(run, tmp_path, photo, message):
    with pytest.raises(ValueError, match=message):
        publishing.export(trained=run, photos=[photo], export_dir=str(tmp_path / "birds"))


def test_stored_photos(data_dir):
    digest = hashlib.sha256((data_dir / records.MANIFEST).read_bytes()).hexdigest()
    manifest = agreement.manifest_of(str(data_dir), digest)
    assert manifest == records.read_manifest(str(data_dir))
    expected = [
        records.parse(record)["image/encoded"].numpy()
        for record in tf.data.TFRecordDataset(
            str(data_dir / manifest.splits["validation"].shards[0].name)
        )
    ]
    photos = agreement.stored_photos(str(data_dir), manifest, count=len(expected) + 1)
    assert photos[:-1] == expected
    assert len(photos) == len(expected) + 1  # the last one is of the next shard
    assert agreement.stored_photos(str(data_dir), manifest, count=2) == expected[:2]
    with pytest.raises(ValueError, match=r"the network was trained on is needed .*is another"):
        agreement.manifest_of(str(data_dir), "0" * 64)


def write_data_set(folder, shards):
    """Fill a folder with these validation shards; return their manifest."""
    splits = {
        "validation": records.Split(
            tuple(records.Shard(name, 1, len(data), "") for name, data in shards.items()), 0
        )
    }
    for name, data in shards.items():
        (folder / name).write_bytes(data)
    return records.Manifest({}, stand_in.class_names(2), splits, {}, {})


def test_data_sets_that_cannot_be_used(tmp_path):
    with pytest.raises(ValueError, match="has none"):
        agreement.stored_photos(str(tmp_path), write_data_set(tmp_path, {}))
    manifest = write_data_set(tmp_path, {"validation-00000-of-00001": b"cut"})
    with pytest.raises(ValueError, match=r"record 0: its header is cut short.*data_prep\.verify"):
        agreement.stored_photos(str(tmp_path), manifest)
    (tmp_path / "validation-00000-of-00001").unlink()
    with pytest.raises(ValueError, match=r"cannot be read .*data_prep\.verify"):
        agreement.stored_photos(str(tmp_path), manifest)


@pytest.fixture(scope="module")
def flags(data_dir, tmp_path_factory):
    """Return flags of a run on the data set, and of a model "birds" that is not there yet."""
    folder = tmp_path_factory.mktemp("command")
    classes = records.read_manifest(str(data_dir)).classes
    run = stand_in.trained_run(classes=len(classes))
    manifest = (data_dir / records.MANIFEST).read_bytes()
    facts = {
        "profile": run.profile.to_dict(),
        "classes": [{"wnid": entry.wnid, "name": entry.name} for entry in classes],
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "options": {"precision": "float32"},
    }
    workdir.start(str(folder / "run"), facts, str(data_dir))
    history = [{"epoch": 1, "val_top1": 0.25, "val_top5": 0.5}]
    checkpoints.write(
        str(folder / "run"),
        checkpoints.Checkpoint(
            state=checkpoints.RunState(checkpoints.Place(1), history=history),
            weights={
                name: np.asarray(variable) for name, variable in named_variables(run.model).items()
            },
            optimizer=[],
        ),
    )
    return {"workdir": folder / "run", "export_dir": folder / "birds", "data_dir": data_dir}


def export(flags, *more, run=commands.in_process, **changed):
    """Run the command; return the last line of its output, or of its errors."""
    values = [f"--{name}={value}" for name, value in (flags | changed).items()]
    process = run("keras_alexnet.export", *values, *more)
    if process.returncode:
        assert process.stdout == ""
        last = process.stderr.splitlines()[-1]
        assert last.startswith("export.py: ")
        return last
    return json.loads(process.stdout.splitlines()[-1])


def test_command(flags, tmp_path):
    result = export(flags, run=commands.in_new_process)
    assert result["version"] == 1
    assert "top1: 0.25" in (flags["export_dir"] / "1" / "README.txt").read_text()
    result = export(flags, "--verify", "--version=1")
    assert (result["version"], result["files"]) == (1, 6)
    assert len(result["loaders"]) == 2
    files.write_file(str(tmp_path / "manifest.json"), "{}")
    assert "manifest.json" in export(flags, data_dir=tmp_path)
    assert "version 2 is needed" in export(flags, "--verify", "--version=2")
    assert "none" in export(flags, workdir=tmp_path / "none")
    assert list(versions.published(str(flags["export_dir"]))) == [1]


def test_tflite(flags, tmp_path):
    base = tmp_path / "birds"
    kinds = ("float32", "float16")
    result = export(flags, "--format=tflite", "--tflite_kinds=" + ",".join(kinds), export_dir=base)
    for kind in kinds:
        file = base / "tflite" / f"birds-{kind}.tflite"
        assert result["files"][kind]["path"] == str(file)
        assert result["files"][kind]["bytes"] == file.stat().st_size
        assert result["accuracy"][kind]["agreement"] == 1.0
    assert versions.published(str(base)) == {}
    last = export(flags, "--format=tflite", "--tflite_kinds=float8", export_dir=base)
    assert "Received: float8" in last
