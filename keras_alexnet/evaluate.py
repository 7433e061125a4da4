"""Top-1 and top-5 accuracy of a trained network on the validation photos.

    python -m keras_alexnet.evaluate --workdir=RUN --data_dir=DATA --views=10

One view is the central crop. Ten are the paper's test (section 4.1): the four corners, the
centre, and their mirror images, the softmax averaged over the ten.
"""

import sys
import time
from collections.abc import Mapping, Sequence

import tensorflow as tf
import tqdm
from absl import flags

from data_prep import command_line, records
from data_prep.command_line import UserError
from keras_alexnet.inputs import pipeline, preprocessing
from keras_alexnet.inputs.views import central_view, ten_views
from keras_alexnet.network import predictions
from keras_alexnet.training import flags as training_flags
from keras_alexnet.training import workdir as workdirs

FLAGS = flags.FlagValues()
_WORKDIR = training_flags.workdir(FLAGS)
_DATA_DIR = training_flags.data_dir(FLAGS)
_VIEWS = flags.DEFINE_enum(
    "views",
    "1",
    ["1", "10"],
    "crops a photo: the central one, or the paper's ten",
    flag_values=FLAGS,
)
_CHECKPOINT = training_flags.checkpoint(FLAGS)
_BATCH_SIZE = training_flags.evaluation_batch_size(FLAGS)


def evaluate(
    *,
    trained: workdirs.TrainedRun,
    data_dir: str,
    views: int = 1,
    batch_size: int = 64,
    split: str = "validation",
) -> dict[str, object]:
    """Counts how often the right class is the first, or among the first five.

    Of equal scores the lower label comes first; a score that is NaN is wrong.

    Args:
        trained: the network and what it was trained with; its own statistics are subtracted.
        data_dir: folder that data_prep.prepare wrote; its classes must be the network's.
        views: 1 or 10.
        batch_size: photos at once; each is seen `views` times.
        split: "validation" or "train".

    Returns:
        top1, top5 (fractions of 1), images (how many were counted), views, split, seconds.

    Raises:
        UserError: the data set has other classes, or no photos in the split.
    """
    started = time.perf_counter()
    manifest = matching_manifest(trained, data_dir)
    pipeline.check_stored_size(manifest, trained.profile)
    predict = make_predict(trained, views)
    correct = {1: 0.0, 5: 0.0}
    counted = 0
    expected = manifest.splits[split].records if split in manifest.splits else 0
    dataset = pipeline.eval_dataset(data_dir, manifest, batch_size=batch_size, split=split)
    with (
        pipeline.broken_data_is_a_user_error(data_dir, manifest, split),
        tqdm.tqdm(total=expected, unit=" images", file=sys.stderr) as bar,
    ):
        for images, labels, weights in dataset:
            scores = predict(images)
            ranks = predictions.label_ranks(scores, labels)
            for top in correct:
                hits = tf.cast(ranks < top, tf.float32)
                correct[top] += float(tf.reduce_sum(hits * weights))
            batch_count = round(float(tf.reduce_sum(weights)))
            counted += batch_count
            bar.update(batch_count)
    if counted != expected:
        raise UserError(
            f"{expected} records are expected in {data_dir}, but {counted} were read; "
            f"run data_prep.verify"
        )
    return {
        "top1": correct[1] / counted,
        "top5": correct[5] / counted,
        "images": counted,
        "views": views,
        "split": split,
        "seconds": round(time.perf_counter() - started, 1),
    }


def matching_manifest(trained: workdirs.TrainedRun, data_dir: str) -> records.Manifest:
    """The manifest of a data set that a network can be measured on.

    Args:
        trained: the network and its classes.
        data_dir: folder that data_prep.prepare wrote.

    Raises:
        UserError: there is no data set, or one of other classes.
    """
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    if manifest.classes != trained.classes:
        raise UserError(
            f"a data set with the network's {len(trained.classes)} classes is needed; {data_dir} "
            f"has others ({len(manifest.classes)}); check --data_dir"
        )
    return manifest


def make_predict(trained: workdirs.TrainedRun, views: int) -> tf.types.experimental.GenericFunction:
    """A function: uint8 [N, stored, stored, 3] -> softmax [N, classes], averaged over the views.

    Args:
        trained: the network and its statistics.
        views: 1 or 10.
    """

    @tf.function
    def predict(images: tf.Tensor) -> tf.Tensor:
        stored = images.shape[1]
        if views == 1:
            chosen = [central_view(trained.profile, stored=stored)]
        else:
            chosen = ten_views(trained.profile, stored=stored)
        return preprocessing.mean_over_views(
            trained.model, images, chosen, trained.profile, trained.statistics
        )

    return predict


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Reads the flags and evaluates."""
    del arguments
    trained = workdirs.load_run(_WORKDIR.value, _CHECKPOINT.value)
    figures = evaluate(
        trained=trained,
        data_dir=_DATA_DIR.value,
        views=int(_VIEWS.value),
        batch_size=_BATCH_SIZE.value,
    )
    return {**figures, "epoch": trained.description["epoch"]}


def run() -> None:
    """The console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
