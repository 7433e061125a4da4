"""One run of training, from its options to its last epoch: which parts it has, and how they fit.

`train` opens it and lets it go. What happens step by step is in loop.py.
"""

import contextlib
import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import tensorflow as tf

from data_prep import broken_records, records
from keras_alexnet import columns
from keras_alexnet.inputs import augmentations, pipeline, preprocessing, record_order
from keras_alexnet.network import choices, keras_compat
from keras_alexnet.network.profile import Profile
from keras_alexnet.training import (
    addons,
    build,
    checkpoints,
    devices,
    not_finite,
    progress,
    schedules,
    starting_weights,
    stopping,
)
from keras_alexnet.training import workdir as workdirs
from keras_alexnet.training.loop import (
    Extent,
    Hooks,
    RunState,
    TrainingLoop,
    first_features,
    read_state,
)
from keras_alexnet.training.options import RunOptions, TrainingOptions, flags_behind
from keras_alexnet.training.run_writer import RunWriter
from keras_alexnet.training.steps import TrainingSteps
from keras_alexnet.training.stopping import TimeLimit
from keras_alexnet.training.tensorboard_logs import TensorBoardLogs

_DRY_STEPS = 2


@dataclasses.dataclass(frozen=True)
class RunData:
    """What is trained on and validated with.

    Attributes:
        data_dir: folder that data_prep.prepare wrote.
        manifest: of it, without the records that were left out.
        statistics: of its train split.
        shard_paths: where shards are that are read from elsewhere, by their names.
        skipped: how many broken records were left out.
        steps: an epoch.
        validation_images: records of the validation split.
    """

    data_dir: str
    manifest: records.Manifest
    statistics: records.Statistics
    shard_paths: Mapping[str, str]
    skipped: int
    steps: int
    validation_images: int


def open_run(
    *,
    strategy: tf.distribute.Strategy,
    data_dir: str,
    workdir: str,
    profile: Profile,
    options: TrainingOptions,
    run_options: RunOptions,
    flags_text: str,
) -> RunData:
    """Reads the data set's description, and makes the workdir the run's.

    Of several processes the chief does it first; a dry run leaves the workdir alone.

    Args:
        strategy: over the run's devices.
        data_dir: folder that data_prep.prepare wrote.
        workdir: the run's folder; one that is there must be of the same run.
        profile: the network, overrides applied.
        options: all else that decides what is computed.
        run_options: how it is fed, kept and shown.
        flags_text: kept in the workdir for a person.

    Raises:
        UserError: data or workdir cannot be used.
    """
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    statistics = records.read_statistics(data_dir, tf.io.gfile.GFile)
    pipeline.check_stored_size(manifest, profile)
    pipeline.train_steps(manifest, options.batch_size)  # an error, if there is none
    if options.init_weights and not workdirs.is_run(workdir):
        starting_weights.check(options.init_weights)  # before there is a workdir
    description = _describe(data_dir, manifest, profile, options)
    found = broken_records.Skipped(manifest, {}, 0)
    with devices.chief_first(strategy) as is_chief:
        if is_chief and not run_options.dry_run:
            workdirs.start(
                workdir,
                description,
                data_dir,
                flags_behind=flags_behind,
                allowed=run_options.allow_changed_flags,
                flags_text=flags_text,
            )
        if run_options.skip_bad_records and not run_options.dry_run:
            folder = os.path.join(workdir, workdirs.SKIPPED)
            limit = run_options.skip_bad_records
            found = broken_records.set_aside(data_dir, manifest, folder, limit)
    return RunData(
        data_dir=data_dir,
        manifest=found.manifest,
        statistics=statistics,
        shard_paths=found.shard_paths,
        skipped=found.count,
        steps=pipeline.train_steps(found.manifest, options.batch_size),
        validation_images=manifest.splits["validation"].records,
    )


class TrainingRun:
    """A run that `open_run` has opened, to be let go.

    Args:
        strategy: over the run's devices.
        workdir: the run's folder; one that is there is gone on with.
        profile: the network, overrides applied.
        options: all else that decides what is computed.
        run_options: how it is fed, kept and shown.
        data: what `open_run` returned.
        stop: whether the process was asked to end.

    Attributes:
        is_cut_short: whether its time was over before it was.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        workdir: str,
        profile: Profile,
        options: TrainingOptions,
        run_options: RunOptions,
        data: RunData,
        stop: stopping.StopSignal,
    ) -> None:
        self.strategy = strategy
        self.workdir = workdir
        self.profile = profile
        self.options = options
        self.run_options = run_options
        self.data = data
        self.stop = stop
        self._augment = augmentations.parse(options.augment)
        seconds = None if run_options.dry_run else run_options.stop_after_seconds
        self._time_limit = None if seconds is None else TimeLimit(seconds)
        self.is_cut_short = False

    def go(self) -> list[dict]:
        """Trains from where the workdir says to the end.

        Returns:
            The metrics of all epochs, those of before included.

        Raises:
            UserError: a record is broken, the loss is not finite any more, or the disk is full.
            TryAgain: the process was asked to end.
        """
        data, options = self.data, self.options
        network, model = self._build()
        plateau = self._plateau()
        writer = RunWriter(self.workdir, network, model, plateau, self.run_options.keep)
        checkpoint = None if self.run_options.dry_run else checkpoints.read(self.workdir)
        if checkpoint:
            writer.restore(checkpoint)
        elif options.init_weights:
            with self.strategy.scope():
                starting_weights.load(network, options.init_weights)
                addons.begin_at(model.optimizer, model.trainable_variables)
        state = read_state(checkpoint)
        if checkpoint and devices.is_chief(self.strategy):
            # A kill between a checkpoint and its metrics leaves the metrics behind.
            checkpoints.write_metrics(self.workdir, state.history, state.timings)
        print(self._announcement(state), file=sys.stderr)
        if self._is_whole(state, plateau):
            return state.history
        extent = self._extent()
        with pipeline.broken_data_is_a_user_error(
            data.data_dir, data.manifest, shard_paths=data.shard_paths
        ):
            loop = TrainingLoop(
                model=model,
                steps=TrainingSteps(
                    model, self.strategy, options.batch_size, options.label_smoothing
                ),
                train_data=self._train_data(state, extent),
                validation_data=self._validation_data(),
                extent=extent,
                state=state,
                hooks=self._hooks(network, model, plateau, writer, extent, state),
                stop=self.stop,
            )
            with self._not_finite_is_told(network, model, loop, state):
                loop.run()
        if self._time_limit and self._time_limit.is_over and not self._is_whole(state, plateau):
            self.is_cut_short = True
            print(
                f"the time is over: stopped after epoch {state.place.epoch}; run the same command "
                "again to go on",
                file=sys.stderr,
            )
        return state.history

    def _is_whole(self, state: RunState, plateau: schedules.Plateau | None) -> bool:
        is_over = plateau is not None and plateau.is_over
        return is_over or len(state.history) >= self.options.epochs

    def _build(self) -> tuple[keras.Model, keras.Model]:
        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(self.options.seed)
        devices.use_precision(self.options.precision)
        data = self.data
        with self.strategy.scope():
            return build.build(
                self.profile,
                self.options,
                len(data.manifest.classes),
                data.statistics,
                data.steps,
            )

    def _plateau(self) -> schedules.Plateau | None:
        if self.options.schedule != "plateau":
            return None
        return schedules.Plateau(
            self.options.patience, self.profile.learning_rate_factor, self.profile.plateau_drops
        )

    def _extent(self) -> Extent:
        dry = self.run_options.dry_run
        return Extent(
            epochs=1 if dry else self.options.epochs,
            steps=min(_DRY_STEPS, self.data.steps) if dry else self.data.steps,
            batch_size=self.options.batch_size,
            validation_images=None if dry else self.data.validation_images,
            notes=self._notes(),
        )

    def _notes(self) -> dict[str, object]:
        limited = self.run_options.skip_bad_records
        return {"skipped_records": self.data.skipped} if limited else {}

    def _train_data(
        self, state: RunState, extent: Extent
    ) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        data, options = self.data, self.options
        return self._distributed(
            lambda share: pipeline.train_dataset(
                data.data_dir,
                data.manifest,
                profile=self.profile,
                batch_size=options.batch_size,
                seed=options.seed,
                first_epoch=state.place.epoch,
                first_step=state.place.step,
                epochs=extent.epochs,
                share=share,
                cache=self.run_options.cache,
                quiet_steps=schedules.quiet_steps(options.schedule, data.steps * options.epochs),
                shard_paths=data.shard_paths,
                augment=self._augment,
            )
        )

    def _validation_data(self) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        data = self.data

        def views(share: record_order.Share) -> tf.data.Dataset:
            stored = pipeline.eval_dataset(
                data.data_dir, data.manifest, batch_size=self.options.batch_size, share=share
            )
            batches = pipeline.central_views(stored, self.profile, self._augment)
            if self.run_options.dry_run:
                batches = batches.take(_DRY_STEPS * share.replicas // share.workers)
            return batches

        return self._distributed(views)

    def _distributed(
        self, make: Callable[[record_order.Share], tf.data.Dataset]
    ) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        share = devices.share_of(self.strategy)
        if share == record_order.Share():
            return make(share)
        return self.strategy.distribute_datasets_from_function(lambda context: make(share))

    def _hooks(
        self,
        network: keras.Model,
        model: keras.Model,
        plateau: schedules.Plateau | None,
        writer: RunWriter,
        extent: Extent,
        state: RunState,
    ) -> Hooks:
        bar = progress.Progress(
            epochs=extent.epochs,
            steps=extent.steps,
            batch_size=extent.batch_size,
            first_step=state.place.step,
        )
        callbacks = [callback for callback in (plateau, self._time_limit) if callback]
        callbacks.append(bar)
        if self.run_options.dry_run:
            return Hooks(callbacks, save_seconds=float("inf"))
        if not devices.is_chief(self.strategy):
            callbacks.remove(bar)
            return Hooks(
                callbacks, save_seconds=float("inf"), tell_steps=self.run_options.histogram_steps
            )
        logs = TensorBoardLogs(os.path.join(self.workdir, workdirs.TENSORBOARD), network)

        def tell_gradients(step: int, gradients: Sequence[tf.Tensor]) -> None:
            variables = model.trainable_variables
            logs.log_histograms(step, columns.named_values(network, variables, gradients))

        return Hooks(
            callbacks=[*callbacks, logs],
            save=writer.write,
            save_seconds=self.run_options.checkpoint_seconds,
            tell_gradients=tell_gradients,
            tell_steps=self.run_options.histogram_steps,
        )

    @contextlib.contextmanager
    def _not_finite_is_told(
        self,
        network: keras.Model,
        model: keras.Model,
        loop: TrainingLoop,
        state: RunState,
    ) -> Iterator[None]:
        try:
            yield
        except tf.errors.InvalidArgumentError as error:
            if not_finite.MARK not in str(error):
                raise
            features = first_features(loop.last_features, self.strategy)
            preprocess = preprocessing.NetworkInput(
                self.profile, self.data.statistics, self._augment
            )
            inputs = preprocess(features, training=True)
            raise not_finite.explain(
                network,
                inputs,
                step=state.place.epoch * self.data.steps + state.place.step + 1,
                learning_rate=keras_compat.learning_rate(model.optimizer),
            ) from error

    def _announcement(self, state: RunState) -> str:
        """What the run will do, before it does it."""
        options, manifest = self.options, self.data.manifest
        replicas = self.strategy.num_replicas_in_sync
        places = (
            f"devices: {replicas}, batch {options.batch_size} "
            f"({options.batch_size // replicas} each)"
        )
        if options.strategy == choices.COLUMN_PARALLEL:
            places = f"devices: 2, a column each, batch {options.batch_size}"
        splits = {name: split.records for name, split in manifest.splits.items()}
        left_out = f" ({self.data.skipped} broken ones left out)" if self.data.skipped else ""
        epoch, step = state.place
        return (
            f"profile {self.profile.name}, {len(manifest.classes)} classes; {splits} photos"
            f"{left_out}; {places}, {self.data.steps} steps an epoch, epochs {epoch + 1}"
            f"{f' (from step {step + 1})' if step else ''} to {options.epochs}; "
            f"{options.optimizer} at {options.learning_rate:g} ({options.schedule}), "
            f"{options.precision}"
        )


def _describe(
    data_dir: str, manifest: records.Manifest, profile: Profile, options: TrainingOptions
) -> dict[str, object]:
    """All that decides the weights, for run.json; and the code's version."""
    with tf.io.gfile.GFile(os.path.join(data_dir, records.MANIFEST), "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    return {
        "profile": profile.to_dict(),
        "options": dataclasses.asdict(options),
        "classes": [dataclasses.asdict(entry) for entry in manifest.classes],
        "manifest_sha256": digest,
        "version": workdirs.code_version(),
    }
