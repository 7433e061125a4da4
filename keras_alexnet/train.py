r"""Trains AlexNet on TFRecords: the same command starts a run and goes on with it.

    python -m keras_alexnet.train --flagfile=configs/paper.flags \
        --data_dir=DATA --workdir=RUN

DATA is what data_prep.prepare wrote. RUN gets a checkpoint and a line of metrics.jsonl after
each epoch (a checkpoint also inside of long ones), and logs for `tensorboard --logdir
RUN/tensorboard`. A killed run goes on from its last whole checkpoint when the command is given
again, and ends as it would have ended; SIGTERM makes it write one and end with exit status 75. A
folder of another run is refused. --dry_run takes two steps of training and of validation.
"""

from collections.abc import Mapping, Sequence

from absl import flags

from data_prep import command_line
from keras_alexnet.training import flags as training_flags
from keras_alexnet.training import options

FLAGS = flags.FlagValues()
_DATA_DIR = training_flags.data_dir(FLAGS)
_WORKDIR = training_flags.workdir(FLAGS)
training_flags.define_training(FLAGS)
training_flags.define_run(FLAGS)


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Read the flags and train."""
    del arguments
    profile = options.profile_from_flags(FLAGS)
    from keras_alexnet.training import run as training_run  # here: flags need no TensorFlow
    from keras_alexnet.training import stopping

    try:
        return training_run.train(
            data_dir=_DATA_DIR.value,
            workdir=_WORKDIR.value,
            profile=profile,
            recipe=options.recipe_from_flags(FLAGS, profile),
            run_options=options.run_options_from_flags(FLAGS),
        )
    except stopping.Stopped as stopped:
        raise command_line.TryAgain(str(stopped)) from stopped


def run() -> None:
    """Run the console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
