"""One run of training, from its recipe to its last epoch: which parts it has, and how they fit.

What happens step by step is in loop.py.
"""

import dataclasses
import hashlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from data_prep import broken_records, records
from keras_alexnet import columns
from keras_alexnet.inputs import augmentations, pipeline, preprocessing, record_order
from keras_alexnet.network import choices, keras_compat
from keras_alexnet.network.profile import Profile
from keras_alexnet.training import (
    build,
    checkpoints,
    devices,
    not_finite,
    progress,
    schedules,
    starting_weights,
    stopping,
)
from keras_alexnet.training import options as training_options
from keras_alexnet.training import workdir as workdirs
from keras_alexnet.training.checkpoints import Place, RunState
from keras_alexnet.training.loop import Extent, Hooks, TrainingLoop, first_features
from keras_alexnet.training.options import RunOptions, TrainingOptions
from keras_alexnet.training.run_writer import RunWriter
from keras_alexnet.training.steps import TrainingSteps
from keras_alexnet.training.tensorboard_logs import TensorBoardLogs

_DRY_STEPS = 2
_USUAL = RunOptions()


def train(
    *,
    data_dir: str,
    workdir: str,
    profile: Profile,
    recipe: TrainingOptions,
    run_options: RunOptions = _USUAL,
    flags_text: str = "",
) -> dict[str, object]:
    """Train until the last epoch, or the plateau after the last drop, and return the figures.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        workdir: the run's folder; a run that is there is resumed.
        profile: the network, overrides applied.
        recipe: everything else that decides what is computed.
        run_options: how the run is fed, kept and shown.
        flags_text: kept in the workdir for a person.

    Returns:
        epochs done, the best epoch's validation top1 and top5, images (of the validation split),
        seconds (of this call), workdir; skipped_records, if any were to be left out. For a dry
        run: dry_run (True), loss and val_cross_entropy of its steps, seconds. If the time limit
        ended the call before the run: stopped_after_seconds, the limit.

    Raises:
        ValueError: data or workdir cannot be used, or the loss is not finite.
        OSError: a checkpoint or a log cannot be written.
        Stopped: the process was asked to end, or another worker has ended.
    """
    started = time.perf_counter()
    if recipe.strategy == choices.COLUMN_PARALLEL:
        columns.column_devices(profile)  # refuse before there is a workdir
    strategy = devices.make_strategy(recipe.strategy)
    devices.check_batch(recipe.batch_size, strategy)
    training_options.check(recipe)
    if run_options.stop_after_seconds is not None and recipe.strategy == choices.MULTI_WORKER:
        raise ValueError(
            "stop_after_seconds goes by one process' clock, but the strategy multi_worker has more "
            "than one, and all must end after the same epoch; leave it out, and send them SIGTERM"
        )
    with devices.explain_lost_worker(strategy), stopping.handle_signals() as stop:
        data = open_run(data_dir, workdir, profile, recipe, run_options, flags_text)
        history, is_cut_short = run(recipe, profile, data, workdir, stop, run_options)
    figures = _dry_figures(history) if run_options.dry_run else _figures(history, workdir)
    if is_cut_short:
        figures["stopped_after_seconds"] = run_options.stop_after_seconds
    return {**figures, "seconds": round(time.perf_counter() - started, 1)}


def _dry_figures(history: Sequence[Mapping[str, object]]) -> dict[str, object]:
    figures = {name: history[-1][name] for name in ("loss", "val_cross_entropy")}
    return {"dry_run": True, **figures}


def _figures(history: Sequence[Mapping[str, object]], workdir: str) -> dict[str, object]:
    best = checkpoints.best_of(history)
    return {
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "top1": best["val_top1"],
        "top5": best["val_top5"],
        "images": best["val_images"],
        "workdir": workdir,
        **{name: value for name, value in best.items() if name == "skipped_records"},
    }


@dataclasses.dataclass(frozen=True)
class RunData:
    """Data to train on and to validate with.

    Attributes:
        data_dir: folder that data_prep.prepare wrote.
        statistics: of its train split.
        found: its manifest, and the broken records of the train split that were left out.
        steps: steps an epoch.
        validation_images: records of the validation split.
    """

    data_dir: str
    statistics: records.Statistics
    found: broken_records.Skipped
    steps: int
    validation_images: int


def open_run(
    data_dir: str,
    workdir: str,
    profile: Profile,
    recipe: TrainingOptions,
    run_options: RunOptions,
    flags_text: str,
) -> RunData:
    """Read the data set's description, and make the workdir this run's.

    Of several processes the chief does it first; a dry run leaves the workdir alone. The arguments
    are those of `train`.

    Raises:
        ValueError: data or workdir cannot be used.
    """
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    statistics = records.read_statistics(data_dir, tf.io.gfile.GFile)
    pipeline.check_stored_size(manifest, profile)
    pipeline.train_steps(manifest, recipe.batch_size)  # raises, if there is none
    if recipe.init_weights and not workdirs.is_run(workdir):
        starting_weights.check(recipe.init_weights)  # refuse before there is a workdir
    description = _describe(data_dir, manifest, profile, recipe)
    found = broken_records.Skipped(manifest, {}, 0)
    with devices.chief_first(devices.make_strategy(recipe.strategy)) as is_chief:
        if is_chief and not run_options.dry_run:
            workdirs.start(
                workdir,
                description,
                data_dir,
                flags_behind=training_options.flags_behind,
                allowed=run_options.allow_changed_flags,
                flags_text=flags_text,
            )
        if run_options.skip_bad_records and not run_options.dry_run:
            folder = os.path.join(workdir, workdirs.SKIPPED)
            limit = run_options.skip_bad_records
            found = broken_records.set_aside(data_dir, manifest, folder, limit)
    return RunData(
        data_dir=data_dir,
        statistics=statistics,
        found=found,
        steps=pipeline.train_steps(found.manifest, recipe.batch_size),
        validation_images=manifest.splits["validation"].records,
    )


def _describe(
    data_dir: str, manifest: records.Manifest, profile: Profile, recipe: TrainingOptions
) -> dict[str, object]:
    """Return everything that decides the weights, for run.json; and the code's version."""
    with tf.io.gfile.GFile(os.path.join(data_dir, records.MANIFEST), "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    return {
        "profile": profile.to_dict(),
        "options": dataclasses.asdict(recipe),
        "classes": [dataclasses.asdict(entry) for entry in manifest.classes],
        "manifest_sha256": digest,
        "version": workdirs.code_version(),
    }


def run(
    recipe: TrainingOptions,
    profile: Profile,
    data: RunData,
    workdir: str,
    stop: stopping.StopSignal,
    run_options: RunOptions = _USUAL,
) -> tuple[list[dict], bool]:
    """Train from where the workdir is to the end.

    Args:
        recipe: everything that decides what is computed, besides the profile and the data.
        profile: the network, overrides applied.
        data: from `open_run`.
        workdir: the run's folder.
        stop: set once the process was asked to end.
        run_options: how the run is fed, kept and shown.

    Returns:
        The metrics of all epochs, earlier ones included; and whether the time limit ended the call
        before the run.

    Raises:
        ValueError: a record is broken, or the loss is not finite.
        OSError: a checkpoint or a log cannot be written.
        Stopped: the process was asked to end.
    """
    strategy = devices.make_strategy(recipe.strategy)
    dry = run_options.dry_run
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(recipe.seed)
    devices.use_precision(recipe.precision)
    with strategy.scope():
        network, model = build.build(
            profile, recipe, len(data.found.manifest.classes), data.statistics, data.steps
        )
    plateau = None
    if recipe.schedule == "plateau":
        plateau = schedules.Plateau(
            recipe.patience, profile.learning_rate_factor, profile.plateau_drops
        )
    writer = RunWriter(workdir, network, model, plateau, run_options.keep)
    checkpoint = None if dry else checkpoints.read(workdir)
    state = checkpoint.state if checkpoint else RunState()
    if checkpoint:
        writer.restore(checkpoint)
        if devices.is_chief(strategy):
            # A kill between a checkpoint and its metrics leaves the metrics behind.
            checkpoints.write_metrics(workdir, state)
    elif recipe.init_weights:
        with strategy.scope():
            starting_weights.load(network, recipe.init_weights)
    print(_announcement(recipe, profile, data, strategy, state.place), file=sys.stderr)

    def is_whole() -> bool:
        is_over = plateau is not None and plateau.is_over
        return is_over or len(state.history) >= recipe.epochs

    if is_whole():
        return state.history, False
    extent = Extent(
        epochs=1 if dry else recipe.epochs,
        steps=min(_DRY_STEPS, data.steps) if dry else data.steps,
        batch_size=recipe.batch_size,
        validation_images=None if dry else data.validation_images,
        notes={"skipped_records": data.found.count} if run_options.skip_bad_records else {},
    )
    seconds = None if dry else run_options.stop_after_seconds
    time_limit = None if seconds is None else stopping.TimeLimit(seconds)
    callbacks = [callback for callback in (plateau, time_limit) if callback]
    if dry or devices.is_chief(strategy):
        first_step = state.place.step
        callbacks.append(
            progress.Progress(extent.epochs, extent.steps, extent.batch_size, first_step)
        )
    if dry or not devices.is_chief(strategy):
        every = 0 if dry else run_options.histogram_steps
        hooks = Hooks(callbacks, save_seconds=float("inf"), gradient_every=every)
    else:
        hooks = _chief_hooks(callbacks, network, model, writer, workdir, run_options)
    datasets = _datasets(recipe, profile, data, run_options, state.place)
    share = devices.share_of(strategy)
    if share == record_order.Share():
        train_data, validation_data = (make(share) for make in datasets)
    else:
        train_data, validation_data = (
            strategy.distribute_datasets_from_function(lambda context, make=make: make(share))
            for make in datasets
        )
    with pipeline.broken_data_is_one_line(
        data.data_dir, data.found.manifest, shard_paths=data.found.shard_paths
    ):
        loop = TrainingLoop(
            model=model,
            steps=TrainingSteps(model, strategy, recipe.batch_size, recipe.label_smoothing),
            train_data=train_data,
            validation_data=validation_data,
            extent=extent,
            state=state,
            hooks=hooks,
            stop=stop,
        )
        try:
            loop.run()
        except tf.errors.InvalidArgumentError as error:
            if not_finite.MARK not in str(error):
                raise
            augment = augmentations.parse(recipe.augment)
            preprocess = preprocessing.NetworkInput(profile, data.statistics, augment)
            raise not_finite.explain(
                network,
                preprocess(first_features(loop.last_features, strategy), training=True),
                step=loop.next_step,
                learning_rate=keras_compat.learning_rate(model.optimizer),
            ) from error
    is_cut_short = time_limit is not None and time_limit.is_over and not is_whole()
    if is_cut_short:
        print(
            f"the time is over: stopped after epoch {state.place.epoch}; run the same command "
            "again to go on",
            file=sys.stderr,
        )
    return state.history, is_cut_short


def _announcement(
    recipe: TrainingOptions,
    profile: Profile,
    data: RunData,
    strategy: tf.distribute.Strategy,
    place: Place,
) -> str:
    """Return a description of the run before it starts."""
    replicas = strategy.num_replicas_in_sync
    places = (
        f"devices: {replicas}, batch {recipe.batch_size} ({recipe.batch_size // replicas} each)"
    )
    if recipe.strategy == choices.COLUMN_PARALLEL:
        places = f"devices: 2, a column each, batch {recipe.batch_size}"
    splits = {name: split.records for name, split in data.found.manifest.splits.items()}
    left_out = f" ({data.found.count} broken ones left out)" if data.found.count else ""
    return (
        f"profile {profile.name}, {len(data.found.manifest.classes)} classes; {splits} photos"
        f"{left_out}; {places}, {data.steps} steps an epoch, epochs {place.epoch + 1}"
        f"{f' (from step {place.step + 1})' if place.step else ''} to {recipe.epochs}; "
        f"{recipe.optimizer} at {recipe.learning_rate:g} ({recipe.schedule}), {recipe.precision}"
    )


def _datasets(
    recipe: TrainingOptions,
    profile: Profile,
    data: RunData,
    run_options: RunOptions,
    place: Place,
) -> tuple[Callable[[record_order.Share], tf.data.Dataset], ...]:
    """Return what makes the batches to train on from a place on, and those to validate with."""
    augment = augmentations.parse(recipe.augment)

    def train_batches(share: record_order.Share) -> tf.data.Dataset:
        return pipeline.train_dataset(
            data.data_dir,
            data.found.manifest,
            profile,
            pipeline.Feed(
                batch_size=recipe.batch_size,
                seed=recipe.seed,
                first_epoch=place.epoch,
                first_step=place.step,
                epochs=1 if run_options.dry_run else recipe.epochs,
                quiet_steps=schedules.quiet_steps(recipe.schedule, data.steps * recipe.epochs),
                augment=augment,
            ),
            share,
            data.found.shard_paths,
        )

    def validation_batches(share: record_order.Share) -> tf.data.Dataset:
        stored = pipeline.eval_dataset(
            data.data_dir, data.found.manifest, batch_size=recipe.batch_size, share=share
        )
        batches = pipeline.central_views(stored, profile, augment)
        if run_options.dry_run:
            batches = batches.take(_DRY_STEPS * share.replicas // share.workers)
        return batches

    return train_batches, validation_batches


def _chief_hooks(
    callbacks: Sequence[keras.callbacks.Callback],
    network: keras.Model,
    model: keras.Model,
    writer: RunWriter,
    workdir: str,
    run_options: RunOptions,
) -> Hooks:
    logs = TensorBoardLogs(os.path.join(workdir, workdirs.TENSORBOARD), network)

    def log_gradients(step: int, gradients: Sequence[tf.Tensor]) -> None:
        variables = model.trainable_variables
        logs.log_histograms(step, columns.named_values(network, variables, gradients))

    return Hooks(
        callbacks=[*callbacks, logs],
        save=writer.write,
        save_seconds=run_options.checkpoint_seconds,
        on_gradients=log_gradients,
        gradient_every=run_options.histogram_steps,
    )
