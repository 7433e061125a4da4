r"""Says in about a minute whether a run will learn, before it takes days, and which knob to turn.

    python -m keras_alexnet.preflight --flagfile=configs/paper.flags --data_dir=DATA

Takes every flag of train. Looks at labels and photos, at the network as it starts, and takes the
first steps on the run's own batches; nothing is written. The last line of the output is JSON:

    verdict     "learns"; "at risk": starts late, or with one seed and not with another; "flat"
    findings    the reasons, each with the knob to turn: a flag and the value to try first

The verdict is about a run of hundreds of steps on a small data set, where it was compared with
the truth (see benchmarks/preflight_truth.py). It is a look at the start, not a promise of the
end: of overfitting, and of accuracy, it says nothing.
"""

from collections.abc import Mapping, Sequence

from absl import flags

from data_prep import command_line
from keras_alexnet.training import flags as training_flags

FLAGS = flags.FlagValues()
_DATA_DIR = training_flags.data_dir(FLAGS)
_SECONDS = flags.DEFINE_float(
    "seconds",
    35.0,
    "seconds in which the steps should end; a few steps are taken even if they take longer",
    1.0,
    flag_values=FLAGS,
)
training_flags.define_training(FLAGS)


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Measure the start of the run that the flags describe, and judge it."""
    del arguments
    from keras_alexnet.preflight_checks import report  # here: they load TensorFlow
    from keras_alexnet.training import options

    profile = options.profile_from_flags(FLAGS)
    return report.preflight(
        data_dir=_DATA_DIR.value,
        profile=profile,
        recipe=options.recipe_from_flags(FLAGS, profile),
        seconds=_SECONDS.value,
    )


def run() -> None:
    """Run the console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
