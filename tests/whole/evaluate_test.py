import dataclasses

import numpy as np
import pytest
import stand_in

from data_prep import records
from keras_alexnet.analysis import evaluation
from keras_alexnet.network.model import AlexNet

pytestmark = pytest.mark.slow


def run_of(data_dir, bias):
    """Return a network of the data set's classes that knows nothing but the biases of fc8."""
    run = stand_in.trained_run()
    classes = records.read_manifest(data_dir).classes
    model = AlexNet(run.profile, classes=len(classes))
    kernel, _ = model.get_layer("fc8").get_weights()
    model.get_layer("fc8").set_weights([np.zeros_like(kernel), np.float32(bias)])
    statistics = records.read_statistics(data_dir)
    return dataclasses.replace(run, model=model, classes=classes, statistics=statistics)


# Of the 10 photos half are of each of the two classes.
@pytest.mark.parametrize(
    ("bias", "top1", "top5"),
    [([0, 0], 0.5, 1.0), ([0, 1], 0.5, 1.0), ([np.nan, np.nan], 0.0, 0.0)],
    ids=["equal", "always the second", "not a number"],
)
@pytest.mark.parametrize("views", [1, 10])
def test_a_network_that_knows_nothing_is_at_chance(data_dir, views, bias, top1, top5):
    figures = evaluation.evaluate(
        trained=run_of(str(data_dir), bias), data_dir=str(data_dir), views=views, batch_size=4
    )
    assert figures["images"] == 10
    assert (figures["top1"], figures["top5"]) == (top1, top5)
