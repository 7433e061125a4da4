"""Top-1 and top-5 accuracy of a trained network on the validation photos.

    python -m keras_alexnet.evaluate --workdir=RUN --data_dir=DATA --views=10

One view is the central crop. Ten are the paper's test (section 4.1): the four corners, the
centre, and their mirror images, the softmax averaged over the ten.
"""

from collections.abc import Mapping, Sequence

from absl import flags

from data_prep import command_line
from keras_alexnet.training import flags as training_flags

FLAGS = flags.FlagValues()
_WORKDIR = training_flags.workdir(FLAGS)
_DATA_DIR = training_flags.data_dir(FLAGS)
_VIEWS = flags.DEFINE_enum(
    "views",
    "1",
    ["1", "10"],
    "crops per photo: the central one, or the paper's ten",
    flag_values=FLAGS,
)
_CHECKPOINT = training_flags.checkpoint(FLAGS)
_BATCH_SIZE = training_flags.evaluation_batch_size(FLAGS)


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Read the flags and evaluate."""
    del arguments
    from keras_alexnet.analysis.evaluation import evaluate
    from keras_alexnet.training.workdir import load_run

    trained = load_run(_WORKDIR.value, _CHECKPOINT.value)
    figures = evaluate(
        trained=trained,
        data_dir=_DATA_DIR.value,
        views=int(_VIEWS.value),
        batch_size=_BATCH_SIZE.value,
    )
    return {**figures, "epoch": trained.description["epoch"]}


def run() -> None:
    """Run the console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
