"""The model that is trained: from uint8 crops to logits, with the optimizer of the recipe."""

import keras

from data_prep import records
from keras_alexnet import columns
from keras_alexnet.inputs import augmentations, preprocessing
from keras_alexnet.network import choices, keras_compat
from keras_alexnet.network.model import AlexNet
from keras_alexnet.network.profile import Profile
from keras_alexnet.training import optimizers, starting_weights
from keras_alexnet.training.options import TrainingOptions


def build(
    profile: Profile,
    recipe: TrainingOptions,
    classes: int,
    statistics: records.Statistics,
    steps: int,
) -> tuple[keras.Model, keras.Model]:
    """Build the network, and the model around it that starts from uint8 crops.

    To be called in the scope of the run's strategy, under its precision.

    Args:
        profile: the network, overrides applied.
        recipe: of the run.
        classes: how many.
        statistics: of the data set; what is subtracted, and the colour noise.
        steps: an epoch.

    Returns:
        network: from network input to logits; its weights are what a run is about.
        model: from the features of `inputs.pipeline.train_dataset` to logits, with its optimizer.
    """
    network = AlexNet(
        profile=profile,
        classes=classes,
        classifier_activation=None,  # the loss from logits is exact where softmax saturates
        seed=recipe.seed,
    )
    if recipe.strategy == choices.COLUMN_PARALLEL:
        network = columns.place_columns(network, columns.column_devices(profile))
    size = profile.input_size
    inputs = {
        "image": keras.Input([size, size, 3], dtype="uint8", name="image"),
        "offset": keras.Input([2], dtype="int32", name="offset"),
        "flip": keras.Input([], dtype="uint8", name="flip"),
        "noise": keras.Input([3], dtype="float32", name="noise"),
    }
    augment = augmentations.parse(recipe.augment)
    if augment:
        inputs["augment"] = keras.Input(augmentations.shape(augment), name="augment")
    preprocess = preprocessing.NetworkInput(profile, statistics, augment)
    model = keras.Model(inputs, network(preprocess(inputs)))
    starting_weights.freeze(network, recipe.freeze)
    optimizer = optimizers.make_optimizer(profile, recipe, steps)
    model.compile(optimizer)  # which puts a loss scale around it for float16
    # Its variables exist before a checkpoint is read.
    keras_compat.build_optimizer(model.optimizer, model.trainable_variables)
    return network, model
