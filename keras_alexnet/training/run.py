"""One run of training, from its recipe to its last epoch: which parts it has, and how they fit.

What happens step by step is in loop.py.
"""

import dataclasses
import hashlib
import os
import sys
import time

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
    options,
    schedules,
    starting_weights,
    stopping,
)
from keras_alexnet.training import workdir as workdirs
from keras_alexnet.training.checkpoints import Place, RunState, RunWriter
from keras_alexnet.training.loop import Extent, Hooks, TrainingLoop
from keras_alexnet.training.options import RunOptions, TrainingOptions
from keras_alexnet.training.progress import Progress
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
) -> dict[str, object]:
    """Train until the last epoch, or the plateau after the last drop, and return the figures.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        workdir: the run's folder; a run that is there is resumed.
        profile: the network, overrides applied.
        recipe: everything else that decides what is computed.
        run_options: how the run is fed, kept and shown.

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
    if run_options.stop_after_seconds is not None and recipe.strategy == choices.MULTI_WORKER:
        raise ValueError(
            "stop_after_seconds goes by one process' clock, but the strategy multi_worker has more "
            "than one, and all must end after the same epoch; leave it out, and send them SIGTERM"
        )
    if recipe.strategy == choices.COLUMN_PARALLEL:
        columns.column_devices(profile)  # refuse before there is a workdir
    strategy = devices.make_strategy(recipe.strategy)
    devices.check_batch(recipe.batch_size, strategy)
    options.check(recipe)
    with devices.explain_lost_worker(strategy), stopping.handle_signals() as stop:
        data = _open_run(data_dir, workdir, profile, recipe, run_options)
        history, is_cut_short = _run(recipe, profile, data, workdir, stop, run_options)
    seconds = {"seconds": round(time.perf_counter() - started, 1)}
    if run_options.dry_run:
        figures = {name: history[-1][name] for name in ("loss", "val_cross_entropy")}
        return {"dry_run": True, **figures, **seconds}
    if is_cut_short:
        seconds["stopped_after_seconds"] = run_options.stop_after_seconds
    best = checkpoints.best_of(history)
    return {
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "top1": best["val_top1"],
        "top5": best["val_top5"],
        "images": best["val_images"],
        "workdir": workdir,
        **{name: value for name, value in best.items() if name == "skipped_records"},
        **seconds,
    }


@dataclasses.dataclass(frozen=True)
class _RunData:
    """Data to train on and to validate with.

    Attributes:
        data_dir: folder that data_prep.prepare wrote.
        statistics: of its train split.
        found: its manifest, and the broken records of the train split that were left out.
        steps: steps an epoch.
    """

    data_dir: str
    statistics: records.Statistics
    found: broken_records.Skipped
    steps: int


def _open_run(
    data_dir: str, workdir: str, profile: Profile, recipe: TrainingOptions, run_options: RunOptions
) -> _RunData:
    """Read the data set's description, and make the workdir this run's.

    Of several processes the chief does it first; a dry run leaves the workdir alone.
    """
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    statistics = records.read_statistics(data_dir, tf.io.gfile.GFile)
    pipeline.check_stored_size(manifest, profile)
    pipeline.train_steps(manifest, recipe.batch_size)  # raises, if there is none
    if recipe.init_weights and not workdirs.is_run(workdir):
        starting_weights.check(recipe.init_weights)  # refuse before there is a workdir
    with tf.io.gfile.GFile(os.path.join(data_dir, records.MANIFEST), "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    description = {  # everything that decides the weights; and the code's version
        "profile": profile.to_dict(),
        "options": dataclasses.asdict(recipe),
        "classes": [dataclasses.asdict(entry) for entry in manifest.classes],
        "manifest_sha256": digest,
        "version": workdirs.code_version(),
    }
    found = broken_records.Skipped(manifest, {}, 0)
    with devices.chief_first(devices.make_strategy(recipe.strategy)) as is_chief:
        if is_chief and not run_options.dry_run:
            workdirs.start(workdir, description, data_dir, run_options)
        if run_options.skip_bad_records and not run_options.dry_run:
            folder = os.path.join(workdir, workdirs.SKIPPED)
            found = broken_records.set_aside(
                data_dir, manifest, folder, run_options.skip_bad_records
            )
    steps = pipeline.train_steps(found.manifest, recipe.batch_size)
    return _RunData(data_dir, statistics, found, steps)


def _run(
    recipe: TrainingOptions,
    profile: Profile,
    data: _RunData,
    workdir: str,
    stop: stopping.StopSignal,
    run_options: RunOptions,
) -> tuple[list[dict], bool]:
    """Train from where the workdir is to the end.

    Returns:
        The metrics of all epochs, earlier ones included; and whether the time limit ended the call
        before the run.
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
    replicas = strategy.num_replicas_in_sync
    print(_announcement(recipe, profile, data, replicas, state.place), file=sys.stderr)

    def is_whole() -> bool:
        is_over = plateau is not None and plateau.is_over
        return is_over or len(state.history) >= recipe.epochs

    if is_whole():
        return state.history, False
    if dry:
        extent = Extent(1, min(_DRY_STEPS, data.steps), recipe.batch_size, validation_images=None)
    else:
        extent = Extent(
            epochs=recipe.epochs,
            steps=data.steps,
            batch_size=recipe.batch_size,
            validation_images=data.found.manifest.splits["validation"].records,
            seconds=run_options.stop_after_seconds,
            notes={"skipped_records": data.found.count} if run_options.skip_bad_records else {},
        )
    hooks = _hooks(writer, extent, state.place, run_options, devices.is_chief(strategy))
    train_data, validation_data = _datasets(recipe, profile, data, run_options, state.place)
    with pipeline.broken_data_is_one_line(
        data.data_dir, data.found.manifest, shard_paths=data.found.shard_paths
    ):
        loop = TrainingLoop(
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
            features = tf.nest.map_structure(  # of this process' first replica
                lambda part: strategy.experimental_local_results(part)[0], loop.last_features
            )
            raise not_finite.explain(
                network,
                preprocess(features, training=True),
                step=loop.next_step,
                learning_rate=keras_compat.learning_rate(model.optimizer),
            ) from error
    is_cut_short = not dry and not is_whole()
    if is_cut_short:
        print(
            f"the time is over: stopped after epoch {state.place.epoch}; run the same command "
            "again to go on",
            file=sys.stderr,
        )
    return state.history, is_cut_short


def _announcement(
    recipe: TrainingOptions, profile: Profile, data: _RunData, replicas: int, place: Place
) -> str:
    """Return a description of the run before it starts."""
    batch = recipe.batch_size
    places = f"devices: {replicas}, batch {batch} ({batch // replicas} each)"
    if recipe.strategy == choices.COLUMN_PARALLEL:
        places = f"devices: 2, a column each, batch {batch}"
    splits = {name: split.records for name, split in data.found.manifest.splits.items()}
    left_out = f" ({data.found.count} broken ones left out)" if data.found.count else ""
    return (
        f"profile {profile.name}, {len(data.found.manifest.classes)} classes; {splits} photos"
        f"{left_out}; {places}, {data.steps} steps an epoch, epochs {place.epoch + 1}"
        f"{f' (from step {place.step + 1})' if place.step else ''} to {recipe.epochs}; "
        f"{recipe.optimizer} at {recipe.learning_rate:g} ({recipe.schedule}), {recipe.precision}"
    )


def _datasets(
    recipe: TrainingOptions, profile: Profile, data: _RunData, run_options: RunOptions, place: Place
) -> tuple[tf.data.Dataset | tf.distribute.DistributedDataset, ...]:
    """Return the batches to train on from a place on, and those to validate with."""
    strategy = devices.make_strategy(recipe.strategy)
    share = devices.share_of(strategy)
    augment = augmentations.parse(recipe.augment)

    def train_batches() -> tf.data.Dataset:
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

    def validation_batches() -> tf.data.Dataset:
        stored = pipeline.eval_dataset(
            data.data_dir, data.found.manifest, batch_size=recipe.batch_size, share=share
        )
        batches = pipeline.central_views(stored, profile, augment)
        if run_options.dry_run:
            batches = batches.take(_DRY_STEPS * share.replicas // share.workers)
        return batches

    if share == record_order.Share():
        return train_batches(), validation_batches()
    return tuple(
        strategy.distribute_datasets_from_function(lambda context, make=make: make())
        for make in (train_batches, validation_batches)
    )


def _hooks(
    writer: RunWriter, extent: Extent, place: Place, run_options: RunOptions, is_chief: bool
) -> Hooks:
    """Return the callbacks of this process; the chief alone writes, and in a dry run nobody."""
    callbacks = [writer.plateau] if writer.plateau else []
    if run_options.dry_run or is_chief:
        callbacks.append(Progress(extent.epochs, extent.steps, extent.batch_size, place.step))
    every = 0 if run_options.dry_run else run_options.histogram_steps
    hooks = Hooks(callbacks, gradient_every=every)
    if run_options.dry_run or not is_chief:
        return hooks
    network, model = writer.network, writer.model
    logs = TensorBoardLogs(os.path.join(writer.workdir, workdirs.TENSORBOARD), network)
    return dataclasses.replace(
        hooks,
        callbacks=[*callbacks, logs],
        save=writer.write,
        save_seconds=run_options.checkpoint_seconds,
        on_gradients=lambda step, gradients: logs.log_histograms(
            step, columns.named_values(network, model.trainable_variables, gradients)
        ),
    )
