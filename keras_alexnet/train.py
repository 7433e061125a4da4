r"""Trains AlexNet on TFRecords: the same command starts a run and goes on with it.

    python -m keras_alexnet.train --flagfile=configs/paper.flags \
        --data_dir=DATA --workdir=RUN

DATA is what data_prep.prepare wrote. RUN gets a checkpoint and a line of metrics.jsonl after
each epoch, and logs for `tensorboard --logdir RUN/tensorboard`. A killed run goes on from its
last finished epoch when the command is given again; a folder of another run is refused.
"""

import dataclasses
import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf
from absl import flags

from data_prep import command_line, records
from keras_alexnet import (
    checkpoints,
    column_parallel,
    devices,
    input_pipeline,
    not_finite,
    progress,
    recorder,
    schedules,
    training_model,
    training_options,
)
from keras_alexnet import flags as training_flags
from keras_alexnet import workdir as workdirs
from keras_alexnet.profile import Profile
from keras_alexnet.training_options import RunOptions, TrainingOptions

FLAGS = flags.FlagValues()
_DATA_DIR = training_flags.data_dir(FLAGS)
_WORKDIR = training_flags.workdir(FLAGS)
training_flags.define_training(FLAGS)
training_flags.define_run(FLAGS)
_USUAL = RunOptions()


def train(
    *,
    data_dir: str,
    workdir: str,
    profile: Profile,
    options: TrainingOptions,
    run_options: RunOptions = _USUAL,
) -> dict[str, object]:
    """Trains until the last epoch, or the plateau after the last drop, and returns the figures.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        workdir: the run's folder; a run that is there is gone on with.
        profile: the network, overrides applied.
        options: all else that decides what is computed.
        run_options: how it is fed, kept and shown.

    Returns:
        epochs done, the best epoch's validation top1 and top5, images (of the validation split),
        seconds (of this command), workdir.

    Raises:
        UserError: data or workdir cannot be used, or the loss is not finite any more.
    """
    started = time.perf_counter()
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    statistics = records.read_statistics(data_dir, tf.io.gfile.GFile)
    input_pipeline.check_stored_size(manifest, profile)
    if options.strategy == devices.COLUMN_PARALLEL:
        column_parallel.column_devices(profile)  # an error of the user's, before there is a workdir
    strategy = devices.make_strategy(options.strategy)
    devices.check_batch(options.batch_size, strategy)
    steps = input_pipeline.train_steps(manifest, options.batch_size)
    workdirs.start(workdir, _describe_run(data_dir, manifest, profile, options), data_dir)

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(options.seed)
    devices.use_precision(options.precision)
    with strategy.scope():
        network, model = training_model.build(
            profile, options, len(manifest.classes), statistics, steps
        )
    plateau = None
    if options.schedule == "plateau":
        plateau = schedules.Plateau(
            options.patience, profile.learning_rate_factor, profile.plateau_drops
        )
    checkpoint = checkpoints.read(workdir)
    if checkpoint:
        _restore(network, model, plateau, checkpoint)
    history = list(checkpoint.history) if checkpoint else []
    _announce(profile, options, strategy, manifest, steps, done=len(history))

    validation = input_pipeline.eval_dataset(data_dir, manifest, batch_size=options.batch_size)
    epoch_recorder = recorder.EpochRecorder(
        folder=workdir,
        network=network,
        plateau=plateau,
        history=history,
        images_per_epoch=steps * options.batch_size,
        validation_images=manifest.splits["validation"].records,
    )
    if not _is_finished(plateau, history, options.epochs):
        with input_pipeline.broken_data_is_a_user_error(data_dir):
            model.fit(
                input_pipeline.train_dataset(
                    data_dir,
                    manifest,
                    profile=profile,
                    batch_size=options.batch_size,
                    seed=options.seed,
                    first_epoch=len(history),
                    epochs=options.epochs,
                ),
                initial_epoch=len(history),
                epochs=options.epochs,
                steps_per_epoch=steps,
                validation_data=input_pipeline.central_views(validation, profile),
                callbacks=[
                    not_finite.StopWhenNotFinite(),
                    progress.Progress(
                        epochs=options.epochs, steps=steps, batch_size=options.batch_size
                    ),
                    keras.callbacks.TensorBoard(
                        os.path.join(workdir, workdirs.TENSORBOARD), write_graph=False
                    ),
                    *([plateau] if plateau else []),
                    epoch_recorder,
                ],
                verbose=0,
            )
    checkpoints.write_metrics(workdir, epoch_recorder.history)
    best = checkpoints.best_of(epoch_recorder.history)
    return {
        "epochs": len(epoch_recorder.history),
        "best_epoch": best["epoch"],
        "top1": best["val_top1"],
        "top5": best["val_top5"],
        "images": best["val_images"],
        "seconds": round(time.perf_counter() - started, 1),
        "workdir": workdir,
    }


def _restore(
    network: keras.Model,
    model: keras.Model,
    plateau: schedules.Plateau | None,
    checkpoint: checkpoints.Checkpoint,
) -> None:
    """Sets everything that decides the next step to what it was after the checkpoint's epoch."""
    column_parallel.assign_weights(network, checkpoint.weights)
    for variable, value in zip(model.optimizer.variables, checkpoint.optimizer, strict=True):
        variable.assign(value)
    if plateau:
        plateau.state = checkpoint.schedule


def _is_finished(plateau: schedules.Plateau | None, history: Sequence, epochs: int) -> bool:
    return len(history) >= epochs or (plateau is not None and plateau.is_over)


def _describe_run(
    data_dir: str, manifest: records.Manifest, profile: Profile, options: TrainingOptions
) -> dict[str, object]:
    """All that decides the weights, for run.json."""
    with tf.io.gfile.GFile(os.path.join(data_dir, records.MANIFEST), "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    return {
        "profile": profile.to_dict(),
        "options": dataclasses.asdict(options),
        "classes": [dataclasses.asdict(entry) for entry in manifest.classes],
        "manifest_sha256": digest,
    }


def _announce(
    profile: Profile,
    options: TrainingOptions,
    strategy: tf.distribute.Strategy,
    manifest: records.Manifest,
    steps: int,
    done: int,
) -> None:
    """What the run will do, before it does it."""
    replicas = strategy.num_replicas_in_sync
    places = (
        f"devices: {replicas}, batch {options.batch_size} ({options.batch_size // replicas} each)"
    )
    if options.strategy == devices.COLUMN_PARALLEL:
        places = f"devices: 2, a column each, batch {options.batch_size}"
    splits = {name: split.records for name, split in manifest.splits.items()}
    print(
        f"profile {profile.name}, {len(manifest.classes)} classes; {splits} photos; "
        f"{places}, {steps} steps an epoch, epochs {done + 1} to {options.epochs}; "
        f"{options.optimizer} at {options.learning_rate:g} ({options.schedule}), "
        f"{options.precision}",
        file=sys.stderr,
    )


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Reads the flags and trains."""
    del arguments
    profile = training_options.profile_from_flags(FLAGS)
    return train(
        data_dir=_DATA_DIR.value,
        workdir=_WORKDIR.value,
        profile=profile,
        options=training_options.options_from_flags(FLAGS, profile),
        run_options=training_options.run_options_from_flags(FLAGS),
    )


def run() -> None:
    """The console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
