import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import commands
import cv2
import numpy as np
import pytest
import stand_in
import tensorflow as tf
from repository import ROOT
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


def test_result(exported):
    base, result = exported
    assert result["version"] == 1
    assert result["path"] == str(base / "1")
    assert result["photos"] == 5
    assert result["max_difference"] < 1e-5
    assert result["seconds"] > 0
    assert result["removed"] == []
    json.dumps(result)


def test_what_is_in_a_version(exported, run):
    base, _ = exported
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


# Runs where the project cannot be imported, as in TF Serving: no layer of ours, no Keras.
_WITHOUT_PROJECT = """
import sys
sys.path = [entry for entry in sys.path if entry not in ("", {root!r})]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import numpy as np, tensorflow as tf
photos = np.load({photos!r}, allow_pickle=True).tolist()
images = np.zeros([2, 256, 256, 3], np.uint8)
example = tf.train.Example()
example.features.feature["image/encoded"].bytes_list.value.append(photos[0])
sent = {{"images": images, "image_bytes": photos, "inputs": [example.SerializeToString(), b""]}}
v2 = tf.saved_model.load({path!r})
answers = {{}}
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], {path!r})
    for name in v2.signatures:
        signature = graph.signature_def[name]
        (key,) = signature.inputs
        answers[name] = session.run(
            {{name: info.name for name, info in signature.outputs.items()}},
            {{signature.inputs[key].name: sent[key]}},
        )
for name, function in v2.signatures.items():
    (key,) = function.structured_input_signature[1]
    for output, value in function(**{{key: tf.constant(sent[key])}}).items():
        np.testing.assert_array_equal(answers[name][output], value.numpy())
assert len(answers) == 6
v1 = answers["serving_default"]
try:
    import keras_alexnet
    raise SystemExit("the project can be imported")
except ImportError:
    pass
np.savez({output!r}, **{{name: v1[name] for name in ("class_ids", "scores", "valid")}})
"""


def test_loads_without_this_project_by_both_loaders(exported, run, tmp_path):
    base, _ = exported
    photos = [*PHOTOS, b"no photo"]
    np.save(tmp_path / "photos.npy", np.array(photos, object), allow_pickle=True)
    script = _WITHOUT_PROJECT.format(
        root=str(ROOT),
        photos=str(tmp_path / "photos.npy"),
        path=str(base / "1"),
        output=str(tmp_path / "answer.npz"),
    )
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    answer = np.load(tmp_path / "answer.npz")
    expected = stand_in.scores(run, np.stack([stand_in.decoded(photo) for photo in PHOTOS]))
    assert answer["valid"].tolist() == [True] * 5 + [False]
    np.testing.assert_array_equal(answer["class_ids"][:5], np.argsort(-expected, 1)[:, :5])
    np.testing.assert_allclose(answer["scores"][:5], -np.sort(-expected, 1)[:, :5], atol=1e-5)


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


def spoilt(run, value):
    copy = stand_in.trained_run()
    weights = copy.model.get_layer("fc8").get_weights()
    copy.model.get_layer("fc8").set_weights([weights[0] * value, weights[1]])
    return copy


def test_model_that_answers_otherwise_is_not_published(run, tmp_path, monkeypatch):
    (tmp_path / "birds" / "1").mkdir(parents=True)
    other = spoilt(run, 1.5)
    save = signatures.save
    monkeypatch.setattr(signatures, "save", lambda _, folder, fit: save(other, folder, fit))
    with pytest.raises(ValueError, match=r"not published, .*differs by 0\.\d+ in scores"):
        publishing.export(
            trained=run, photos=PHOTOS, export_dir=str(tmp_path / "birds"), keep_versions=1
        )
    assert os.listdir(tmp_path / "birds") == ["1"]


def test_model_of_nan_is_not_published(run, tmp_path):
    with pytest.raises(ValueError, match="differs by nan"):
        publishing.export(
            trained=spoilt(run, np.nan), photos=PHOTOS, export_dir=str(tmp_path / "birds")
        )
    assert os.listdir(tmp_path / "birds") == []


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


def test_folders_that_cannot_be_used(run, tmp_path):
    (tmp_path / "file").write_text("")
    for folder, message in (
        ("gs://bucket/model", "must be a local folder"),
        (str(tmp_path / "file"), "is a file"),
        (str(tmp_path / "birds" / "1"), "looks like one of its versions"),
    ):
        with pytest.raises(ValueError, match=message):
            publishing.export(trained=run, photos=PHOTOS, export_dir=folder)
    with pytest.raises(OSError, match="file"):
        publishing.export(trained=run, photos=PHOTOS, export_dir=str(tmp_path / "file" / "model"))


def test_photos_that_cannot_be_used(run, tmp_path):
    for photo, message in (
        (b"no photo", "a stored photo is broken"),
        (stand_in.photo(200, 200), r"one has the shape \(200, 200, 3\)"),
    ):
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
    """Fills a folder with these validation shards; returns their manifest."""
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


def test_photos_of_another_size_than_the_mean_image_are_refused(run, tmp_path):
    for photo in (stand_in.photo(255, 300), stand_in.encoded(stand_in.pixels(256, 256)[..., 0])):
        with pytest.raises(ValueError, match="side of 256, as the mean image"):
            publishing.export(trained=run, photos=[photo], export_dir=str(tmp_path / "birds"))


def write_run(folder, run, data_dir):
    manifest = (data_dir / records.MANIFEST).read_bytes()
    facts = {
        "profile": run.profile.to_dict(),
        "classes": [{"wnid": entry.wnid, "name": entry.name} for entry in run.classes],
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "options": {"precision": "float32"},
    }
    workdir.start(str(folder), facts, str(data_dir))
    variables = named_variables(run.model)
    checkpoints.write(
        str(folder),
        checkpoints.Checkpoint(
            state=checkpoints.RunState(
                checkpoints.Place(1), history=[{"epoch": 1, "val_top1": 0.25, "val_top5": 0.5}]
            ),
            weights={name: np.asarray(variable) for name, variable in variables.items()},
            optimizer=[],
        ),
    )


def command(*flags):
    return commands.in_new_process("keras_alexnet.export", *flags)


def test_command(data_dir, tmp_path):
    write_run(tmp_path / "run", stand_in.trained_run(classes=2), data_dir)
    flags = [f"--workdir={tmp_path / 'run'}", f"--export_dir={tmp_path / 'birds'}"]
    process = command(*flags, f"--data_dir={data_dir}")
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["version"] == 1
    assert "top1: 0.25" in (tmp_path / "birds" / "1" / "README.txt").read_text()

    process = commands.in_process(
        "keras_alexnet.export", *flags, f"--data_dir={data_dir}", "--verify", "--version=1"
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert (result["version"], result["files"]) == (1, 6)
    assert len(result["loaders"]) == 2

    files.write_file(str(tmp_path / "manifest.json"), "{}")
    for wrong in (
        [*flags, f"--data_dir={tmp_path}"],
        [*flags, f"--data_dir={data_dir}", "--verify", "--version=2"],
        [flags[1], f"--data_dir={data_dir}", f"--workdir={tmp_path / 'none'}"],
    ):
        process = commands.in_process("keras_alexnet.export", *wrong)
        assert process.returncode in (1, 2)
        assert process.stdout == ""
        assert process.stderr.splitlines()[-1].startswith("export.py: ")
    assert list(versions.published(str(tmp_path / "birds"))) == [1]


def test_tflite(data_dir, tmp_path):
    run = stand_in.trained_run(classes=2)
    classes = records.read_manifest(str(data_dir)).classes
    write_run(tmp_path / "run", dataclasses.replace(run, classes=classes), data_dir)
    flags = [
        f"--workdir={tmp_path / 'run'}",
        f"--export_dir={tmp_path / 'birds'}",
        f"--data_dir={data_dir}",
    ]
    base = str(tmp_path / "birds")
    publishing.export(
        trained=workdir.load_run(str(tmp_path / "run")), photos=PHOTOS, export_dir=base
    )
    process = commands.in_process(
        "keras_alexnet.export", *flags, "--format=tflite", "--tflite_kinds=float32,float16"
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    for kind in ("float32", "float16"):
        file = tmp_path / "birds" / "tflite" / f"birds-{kind}.tflite"
        assert result["files"][kind]["path"] == str(file)
        assert result["files"][kind]["bytes"] == file.stat().st_size
        assert result["accuracy"][kind]["agreement"] == 1.0
    assert list(versions.published(str(tmp_path / "birds"))) == [1]
    process = commands.in_process(
        "keras_alexnet.export", *flags, "--format=tflite", "--tflite_kinds=float8"
    )
    assert process.returncode == 1
    assert "Received: float8" in process.stderr.splitlines()[-1]
