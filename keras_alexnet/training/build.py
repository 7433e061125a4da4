"""The model that is trained: from uint8 crops to logits, compiled with the recipe."""

import keras
import tensorflow as tf

from data_prep import records
from keras_alexnet import columns
from keras_alexnet.inputs import augmentations, preprocessing
from keras_alexnet.network import choices, keras_compat
from keras_alexnet.network.model import AlexNet
from keras_alexnet.network.profile import Profile
from keras_alexnet.training import optimizers, starting_weights
from keras_alexnet.training.options import TrainingOptions
from keras_alexnet.training.steps import CrossEntropy


class ImageCount(keras.metrics.Metric):
    """How many images were counted: the sum of their weights, padding having weight 0."""

    def __init__(self, name: str = "images", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self._count = self.add_weight(name="count", initializer="zeros")

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Adds the weights of a batch, or its size where it has none."""
        del y_pred
        weights = tf.ones(tf.shape(y_true)[:1]) if sample_weight is None else sample_weight
        self._count.assign_add(tf.reduce_sum(tf.cast(weights, self._count.dtype)))

    def result(self) -> tf.Tensor:
        """The count so far."""
        return tf.convert_to_tensor(self._count)


def build(
    profile: Profile,
    options: TrainingOptions,
    classes: int,
    statistics: records.Statistics,
    steps: int,
) -> tuple[keras.Model, keras.Model]:
    """The network, and the compiled model around it that starts from uint8 crops.

    To be called in the scope of the run's strategy, under its precision.

    Args:
        profile: the network, overrides applied.
        options: the recipe.
        classes: how many.
        statistics: of the data set; what is subtracted, and the colour noise.
        steps: an epoch.

    Returns:
        network: from network input to logits; its weights are what a run is about.
        model: from the features of `inputs.pipeline.train_dataset` to logits, compiled.
    """
    network = AlexNet(
        profile=profile,
        classes=classes,
        classifier_activation=None,  # the loss from logits is exact where softmax saturates
        seed=options.seed,
    )
    if options.strategy == choices.COLUMN_PARALLEL:
        network = columns.place_columns(network, columns.column_devices(profile))
    size = profile.input_size
    inputs = {
        "image": keras.Input([size, size, 3], dtype="uint8", name="image"),
        "offset": keras.Input([2], dtype="int32", name="offset"),
        "flip": keras.Input([], dtype="uint8", name="flip"),
        "noise": keras.Input([3], dtype="float32", name="noise"),
    }
    augment = augmentations.parse(options.augment)
    if augment:
        inputs["augment"] = keras.Input(augmentations.shape(augment), name="augment")
    preprocess = preprocessing.NetworkInput(profile, statistics, augment)
    model = keras.Model(inputs, network(preprocess(inputs)))
    starting_weights.freeze(network, options.freeze)
    optimizer = optimizers.make_optimizer(profile, options, steps)
    model.compile(
        optimizer=optimizer,
        loss=CrossEntropy(options.label_smoothing),
        weighted_metrics=[
            keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy", from_logits=True),
            keras.metrics.SparseCategoricalAccuracy(name="top1"),
            keras.metrics.SparseTopKCategoricalAccuracy(k=5, name="top5"),
            ImageCount(name="images"),
        ],
    )
    # Its variables exist before a checkpoint is read. (float16 has a loss scale around it.)
    keras_compat.build_optimizer(model.optimizer, model.trainable_variables)
    return network, model
