"""Top-1 and top-5 accuracy of a trained network on a prepared data set."""

import sys
import time

import tensorflow as tf
import tqdm

from data_prep import records
from keras_alexnet.inputs import pipeline, preprocessing
from keras_alexnet.inputs.views import central_view, ten_views
from keras_alexnet.network import predictions
from keras_alexnet.training import workdir as workdirs


def evaluate(
    *,
    trained: workdirs.TrainedRun,
    data_dir: str,
    views: int = 1,
    batch_size: int = 64,
    split: str = "validation",
) -> dict[str, object]:
    """Measure top-1 and top-5 accuracy.

    Of equal scores the lower label comes first; a NaN score is wrong.

    Args:
        trained: the network, with the statistics to subtract.
        data_dir: folder that data_prep.prepare wrote; its classes must be the network's.
        views: crops per photo, 1 or 10.
        batch_size: photos per batch; each is seen `views` times.
        split: "validation" or "train".

    Returns:
        top1, top5 (fractions of 1), images (number of photos counted), views, split, seconds.

    Raises:
        ValueError: the data set has other classes, or records are missing.
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
        pipeline.broken_data_is_one_line(data_dir, manifest, split),
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
        raise ValueError(
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
    """Return the manifest of a data set of the network's classes.

    Raises:
        ValueError: the data set has other classes.
    """
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    if manifest.classes != trained.classes:
        raise ValueError(
            f"a data set with the network's {len(trained.classes)} classes is needed; {data_dir} "
            f"has others ({len(manifest.classes)}); check data_dir"
        )
    return manifest


def make_predict(trained: workdirs.TrainedRun, views: int) -> tf.types.experimental.GenericFunction:
    """Return a function: uint8 [N, stored, stored, 3] -> softmax [N, classes], mean over views.

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
