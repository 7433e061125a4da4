r"""Trains AlexNet on TFRecords: the same command starts a run and goes on with it.

    python -m keras_alexnet.train --flagfile=configs/paper.flags \
        --data_dir=DATA --workdir=RUN

DATA is what data_prep.prepare wrote. RUN gets a checkpoint and a line of metrics.jsonl after
each epoch (a checkpoint also inside of long ones), and logs for `tensorboard --logdir
RUN/tensorboard`. A killed run goes on from its last whole checkpoint when the command is given
again, and ends as it would have ended; SIGTERM makes it write one and end with exit status 75. A
folder of another run is refused. --dry_run takes two steps of training and of validation.
"""

import time
from collections.abc import Mapping, Sequence

from absl import flags

from data_prep import command_line
from data_prep.command_line import UserError
from keras_alexnet import columns
from keras_alexnet.network import choices
from keras_alexnet.network.profile import Profile
from keras_alexnet.training import checkpoints, devices, stopping
from keras_alexnet.training import flags as training_flags
from keras_alexnet.training.options import (
    RunOptions,
    TrainingOptions,
    check,
    options_from_flags,
    profile_from_flags,
    run_options_from_flags,
)
from keras_alexnet.training.run import TrainingRun, open_run

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
    flags_text: str = "",
) -> dict[str, object]:
    """Trains until the last epoch, or the plateau after the last drop, and returns the figures.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        workdir: the run's folder; a run that is there is gone on with.
        profile: the network, overrides applied.
        options: all else that decides what is computed.
        run_options: how it is fed, kept and shown.
        flags_text: kept in the workdir for a person.

    Returns:
        epochs done, the best epoch's validation top1 and top5, images (of the validation split),
        seconds (of this command), workdir; skipped_records, if any were to be left out. Of a dry
        run: dry_run (True), loss and val_cross_entropy of its steps, seconds. Where the time was
        over first: stopped_after_seconds, which was asked for.

    Raises:
        UserError: data or workdir cannot be used, or the loss is not finite any more.
        TryAgain: the process was asked to end, or another worker has ended.
    """
    started = time.perf_counter()
    if options.strategy == choices.COLUMN_PARALLEL:
        columns.column_devices(profile)  # an error of the user's, before there is a workdir
    strategy = devices.make_strategy(options.strategy)
    devices.check_batch(options.batch_size, strategy)
    check(
        optimizer=options.optimizer,
        options=options.optimizer_options,
        strategy=options.strategy,
        schedule=options.schedule,
    )
    if run_options.stop_after_seconds is not None and options.strategy == choices.MULTI_WORKER:
        raise UserError(
            "--stop_after_seconds goes by one process' clock, but --strategy=multi_worker has more "
            "than one, and all must end after the same epoch; leave it out, and send them SIGTERM"
        )
    with devices.loss_of_a_worker_is_told(strategy), stopping.noted() as stop:
        data = open_run(
            strategy=strategy,
            data_dir=data_dir,
            workdir=workdir,
            profile=profile,
            options=options,
            run_options=run_options,
            flags_text=flags_text,
        )
        run = TrainingRun(strategy, workdir, profile, options, run_options, data, stop)
        history = run.go()
    figures = _dry_figures(history) if run_options.dry_run else _figures(history, workdir)
    if run.is_cut_short:
        figures["stopped_after_seconds"] = run_options.stop_after_seconds
    return {**figures, "seconds": round(time.perf_counter() - started, 1)}


def _dry_figures(history: Sequence[Mapping[str, object]]) -> dict[str, object]:
    last = history[-1]
    return {
        "dry_run": True,
        "loss": last["loss"],
        "val_cross_entropy": last["val_cross_entropy"],
    }


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


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Reads the flags and trains."""
    del arguments
    profile = profile_from_flags(FLAGS)
    return train(
        data_dir=_DATA_DIR.value,
        workdir=_WORKDIR.value,
        profile=profile,
        options=options_from_flags(FLAGS, profile),
        run_options=run_options_from_flags(FLAGS),
        flags_text=FLAGS.flags_into_string(),
    )


def run() -> None:
    """The console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
