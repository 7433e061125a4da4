"""Parts of make.sh that are Python. They use the code of commit e3892f8, and only that code.

python python_parts.py caffemodel|models|keras2_model|expected WORK_FOLDER
"""

import hashlib
import json
import os
import pathlib
import signal
import sys

import foreign_files
import keras
import numpy as np
import tensorflow as tf

from data_prep import records
from keras_alexnet import (
    AlexNet,
    checkpoints,
    evaluate,
    input_pipeline,
    optimizers,
    train,
    workdir,
)
from keras_alexnet.profiles import PROFILES
from keras_alexnet.serving import comparison_photos

WIDTH = 0.015625
CLASSES = 5
# krizhevsky2012 has every custom layer: grouped convolution, both normalizations, seeded dropout.
SAVED_MODELS = ("caffe", "krizhevsky2012", "krizhevsky2012-keras2")
# After one epoch, and two steps of the second.
KILLED_AT = checkpoints.Place(1, 2)
# Values of each variable that are kept to compare with. All of them would be most of a megabyte.
KEPT_VALUES = 100


def pattern(profile: str) -> np.ndarray:
    """Return two network inputs, float32 [2, S, S, 3], that compress well."""
    size = PROFILES[profile].input_size
    numbers = np.arange(2 * size * size * 3, dtype=np.int64)
    return (numbers * 7919 % 251 - 125).astype(np.float32).reshape(2, size, size, 3)


def logits(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Return the logits of a network at inference, float32 [N, classes]."""
    return keras.Model(model.input, model.get_layer("fc8").output)(inputs, training=False).numpy()


def killed_run(devices: str, *flags: str) -> None:
    """Train on some CPU devices, and send this process SIGKILL after the checkpoint at KILLED_AT.

    Steps are too short to do it from outside.
    """
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * int(devices),
    )
    write = checkpoints.write

    def write_and_die(folder: str, checkpoint: checkpoints.Checkpoint, keep: int) -> None:
        write(folder, checkpoint, keep)
        if checkpoint.place == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.write = write_and_die
    sys.argv[1:] = flags
    train.run()


def write_caffemodel(work: pathlib.Path) -> None:
    """Write a file in Caffe's format, with random weights."""
    profile = PROFILES["caffe"].scaled(WIDTH)
    weights = foreign_files.random_weights(profile, CLASSES)
    (work / "net.caffemodel").write_bytes(foreign_files.caffemodel(weights, profile))


def lively(name: str) -> keras.Model:
    """Return a narrow network with larger kernels: the profile's own make all logits alike."""
    model = AlexNet(PROFILES[name].scaled(WIDTH), CLASSES, seed=1, weight_decay=0.0005)
    for layer in model.layers:
        if layer.name.startswith(("conv", "fc")):
            kernel, bias = layer.get_weights()
            scale = np.sqrt(2 / np.prod(kernel.shape[:-1])) / np.std(kernel)
            layer.set_weights([kernel * scale, bias])
    return model


def write_models(work: pathlib.Path) -> None:
    """Save whole models with Keras 3, and the logits that they give when they are loaded."""
    caffe = lively("caffe")
    caffe.save(work / "models" / "caffe.keras")
    # A user's own training: the optimizer and the dropout layers have state.
    trained = lively("krizhevsky2012")
    optimizer = optimizers.OPTIMIZERS["sgd"](1e-6, optimizers.UpdateRecipe())
    trained.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    for label in range(2):
        trained.train_on_batch(pattern("krizhevsky2012"), np.array([label, label + 1]))
    trained.save(work / "models" / "krizhevsky2012.keras")
    write_logits(work, "caffe", "krizhevsky2012")


def write_keras2_model(work: pathlib.Path) -> None:
    """Do the same with Keras 2: neither generation reads the other's files."""
    model = lively("krizhevsky2012")
    model.save(work / "models" / "krizhevsky2012-keras2.keras")
    write_logits(work, "krizhevsky2012-keras2")


def write_logits(work: pathlib.Path, *names: str) -> None:
    """Write WORK/NAME.npy, the logits of models/NAME.keras."""
    for name in names:
        model = keras.models.load_model(work / "models" / f"{name}.keras")
        np.save(work / f"{name}.npy", logits(model, pattern(name.removesuffix("-keras2"))))


def kept_values(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return up to KEPT_VALUES evenly spaced values of each variable."""
    return {
        name: value.ravel()[:: max(1, value.size // KEPT_VALUES)].astype(np.float32)
        for name, value in weights.items()
    }


def digest(weights: dict[str, np.ndarray]) -> str:
    """Return the SHA-256 of all weights: their names and their bytes, in the order of the names."""
    state = hashlib.sha256()
    for name in sorted(weights):
        state.update(name.encode() + b"\0" + np.ascontiguousarray(weights[name]).tobytes())
    return state.hexdigest()


def cross_entropy(run: workdir.TrainedRun, data_dir: str) -> float:
    """Return the mean cross-entropy over the validation split."""
    predict = evaluate.make_predict(run, 1)
    manifest = records.read_manifest(data_dir)
    losses = [
        -np.log(predict(images).numpy()[np.arange(len(labels)), labels])
        for images, labels, _ in input_pipeline.eval_dataset(data_dir, manifest, batch_size=4)
    ]
    return float(np.mean(np.concatenate(losses)))


def of_runs(work: pathlib.Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Return what the two runs are evaluated to, and how they end if they are not killed."""
    facts, arrays = {}, {}
    for name in ("sgd", "columns"):
        run = workdir.load_run(str(work / name))
        figures = evaluate.evaluate(trained=run, data_dir=str(work / "data"))
        end = checkpoints.read(str(work / f"{name}_whole"))
        assert end.place == checkpoints.Place(2)
        facts[name] = {
            "epoch": run.description["epoch"],
            "top1": figures["top1"],
            "cross_entropy": cross_entropy(run, str(work / "data")),
            "final_metrics": list(end.history),
            "final_weights_sha256": digest(end.weights),
        }
        for part, weights in (("weights", end.weights), ("averages", end.averages)):
            for variable, values in kept_values(weights).items():
                arrays[f"{name}/{part}/{variable}"] = values
    return facts, arrays


def of_data(data_dir: str) -> dict[str, object]:
    """Return what the input pipeline reads first."""
    manifest = records.read_manifest(data_dir)
    features, labels = next(
        iter(
            input_pipeline.train_dataset(
                data_dir, manifest, profile=PROFILES["paper"], batch_size=8, seed=3
            )
        )
    )
    images, validation_labels, _ = next(
        iter(input_pipeline.eval_dataset(data_dir, manifest, batch_size=12))
    )
    return {
        "train": {
            "labels": labels.numpy().tolist(),
            "offset": features["offset"].numpy().tolist(),
            "flip": features["flip"].numpy().tolist(),
            "means": features["image"].numpy().mean((1, 2, 3)).tolist(),
        },
        "validation": {
            "labels": validation_labels.numpy().tolist(),
            "means": images.numpy().mean((1, 2, 3)).tolist(),
        },
    }


def of_models(work: pathlib.Path) -> dict[str, np.ndarray]:
    """Return inputs and logits of the saved networks."""
    converted = AlexNet(
        PROFILES["caffe"].scaled(WIDTH), CLASSES, weights=work / "models" / "caffe.weights.h5"
    )
    arrays = {"caffe.weights.h5/logits": logits(converted, pattern("caffe"))}
    for name in SAVED_MODELS:
        arrays[f"{name}.keras/logits"] = np.load(work / f"{name}.npy")
    for name in ("caffe", "krizhevsky2012"):
        arrays[f"{name}/input"] = pattern(name)
    return arrays


def of_export(work: pathlib.Path) -> dict[str, object]:
    """Return what serving_default answers to the first two validation photos."""
    manifest = records.read_manifest(str(work / "data"))
    photos = comparison_photos.stored_photos(str(work / "data"), manifest, count=2)
    loaded = tf.saved_model.load(str(work / "export" / "shapes" / "1"))
    answer = loaded.signatures["serving_default"](image_bytes=tf.constant(photos))
    return {
        "classes": [[name.decode() for name in row] for row in answer["classes"].numpy()],
        "class_ids": answer["class_ids"].numpy().tolist(),
        "scores": answer["scores"].numpy().tolist(),
        "valid": answer["valid"].numpy().tolist(),
    }


def write_expected(work: pathlib.Path) -> None:
    """Write expected.json and expected.npz."""
    runs, arrays = of_runs(work)
    facts = {"data": of_data(str(work / "data")), "runs": runs, "export": of_export(work)}
    (work / "expected.json").write_text(json.dumps(facts, indent=1) + "\n")
    np.savez_compressed(work / "expected.npz", **arrays, **of_models(work))


if __name__ == "__main__":
    if sys.argv[1] == "killed_run":
        killed_run(*sys.argv[2:])
    else:
        parts = {
            "caffemodel": write_caffemodel,
            "models": write_models,
            "keras2_model": write_keras2_model,
            "expected": write_expected,
        }
        parts[sys.argv[1]](pathlib.Path(sys.argv[2]))
