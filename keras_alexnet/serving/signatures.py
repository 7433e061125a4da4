"""What is exported: a trained network with all that leads to it and from it, as one graph.

    signature        input                                  outputs
    serving_default  image_bytes string [N]                 classes string [N, K], class_ids int64
                                                            [N, K], scores float32 [N, K], valid
                                                            bool [N]; K is 5, or all if fewer
    ten_crop         the same                               the same, from the paper's ten views
    features         the same                               features float32 [N, units of fc7],
                                                            valid bool [N]
    pixels           images uint8 [N, size, size, 3], RGB   classes, class_ids, scores

What is no photo gets valid=false, empty class names, class_ids of -1 and scores (features) of 0.
Every output has the batch as its first dimension and no name ends in "_bytes": TF Serving's REST
API asks for both. The class names are read from the asset labels.txt when the model is loaded.
"""

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from data_prep import records
from keras_alexnet import preprocessing
from keras_alexnet.profiles import Profile
from keras_alexnet.serving import photos
from keras_alexnet.views import View, central_view, ten_views

TOP = 5
_FEATURES = "fc7"  # behind its activation: what Caffe and DeCAF call the features fc7

Outputs = dict[str, tf.Tensor]


class ServedModel(tf.Module):
    """A network, its preprocessing and its class names, ready for `tf.saved_model.save`.

    Attributes:
        inputs: the specification of each signature's one input.
        functions: the signatures, concrete functions by name; see the module's docstring.
    """

    def __init__(
        self,
        *,
        model: keras.Model,
        profile: Profile,
        classes: Sequence[records.ClassName],
        statistics: records.Statistics,
        labels_file: str,
    ) -> None:
        """Traces the signatures.

        Args:
            model: network input float32 [N, S, S, 3] -> softmax [N, classes], of any precision.
            profile: the model's.
            classes: in the order of their labels.
            statistics: of the data set that the model was trained on.
            labels_file: path of a labels.txt of these classes (see `records.labels_text`). It is
                copied when the module is saved.

        Raises:
            ValueError: the model has another number of outputs than there are classes.
        """
        super().__init__(name="alexnet")
        if model.output_shape[-1] != len(classes):
            raise ValueError(
                f"model must have an output a class. Received: {model.output_shape[-1]} outputs, "
                f"{len(classes)} classes. Give the classes that the model was trained on."
            )
        stored_size = statistics.mean_image.shape[0]
        image_bytes = tf.TensorSpec([None], tf.string, name="image_bytes")
        images = tf.TensorSpec([None, stored_size, stored_size, 3], tf.uint8, name="images")
        self.inputs: Mapping[str, tf.TensorSpec] = {
            "serving_default": image_bytes,
            "ten_crop": image_bytes,
            "features": image_bytes,
            "pixels": images,
        }
        self._top = min(TOP, len(classes))
        # What a module holds on to is restored when it is loaded: the weights and the table. Of
        # the weights it has to be TensorFlow's own variables: with Keras 3's around them, the
        # loader of TensorFlow 1, which TF Serving has, finds none of the weights.
        self._weights = [
            variable if isinstance(variable, tf.Variable) else variable.value
            for variable in model.variables
        ]
        self._class_names = _class_name_table(labels_file)
        layer = model.get_layer(profile.activation_name(_FEATURES))
        features = keras.Model(model.inputs, layer.output)

        def on_views(
            network: keras.Model, views: Sequence[View]
        ) -> Callable[[tf.Tensor], tf.Tensor]:
            def scores(images: tf.Tensor) -> tf.Tensor:
                return preprocessing.mean_over_views(network, images, views, profile, statistics)

            # A function of its own: two signatures that call it share its constants.
            return tf.function(scores)

        centre = [central_view(profile, stored=stored_size)]
        ten = ten_views(profile, stored=stored_size)
        functions = _functions(
            stored_size=stored_size,
            classify=on_views(model, centre),
            classify_ten=on_views(model, ten),
            describe=on_views(features, centre),
            name_top=self._name_top,
        )
        self.functions: Mapping[str, tf.types.experimental.ConcreteFunction] = {
            name: tf.function(functions[name], input_signature=[spec]).get_concrete_function()
            for name, spec in self.inputs.items()
        }

    def _name_top(self, scores: tf.Tensor) -> Outputs:
        """The best classes of softmax scores [N, classes], the best first."""
        scores, class_ids = tf.math.top_k(scores, self._top)
        class_ids = tf.cast(class_ids, tf.int64)
        return {
            "classes": self._class_names.lookup(class_ids),
            "class_ids": class_ids,
            "scores": scores,
        }


def _functions(
    *,
    stored_size: int,
    classify: Callable[[tf.Tensor], tf.Tensor],
    classify_ten: Callable[[tf.Tensor], tf.Tensor],
    describe: Callable[[tf.Tensor], tf.Tensor],
    name_top: Callable[[tf.Tensor], Outputs],
) -> dict[str, Callable[[tf.Tensor], Outputs]]:
    """The signatures by name, from functions of stored images uint8 [N, size, size, 3]."""

    def serving_default(image_bytes: tf.Tensor) -> Outputs:
        images, valid = photos.stored_images(image_bytes, size=stored_size)
        return _blank_invalid(name_top(classify(images)), valid)

    def ten_crop(image_bytes: tf.Tensor) -> Outputs:
        images, valid = photos.stored_images(image_bytes, size=stored_size)
        return _blank_invalid(name_top(classify_ten(images)), valid)

    def features(image_bytes: tf.Tensor) -> Outputs:
        images, valid = photos.stored_images(image_bytes, size=stored_size)
        return _blank_invalid({"features": describe(images)}, valid)

    def pixels(images: tf.Tensor) -> Outputs:
        return name_top(classify(images))

    every = (serving_default, ten_crop, features, pixels)
    return {function.__name__: function for function in every}


def _blank_invalid(outputs: Outputs, valid: tf.Tensor) -> Outputs:
    """The same outputs, without an answer where there was no photo; and `valid` itself."""
    nothing = {tf.string: "", tf.int64: -1, tf.float32: 0.0}
    return {
        **{
            name: tf.where(
                valid[:, tf.newaxis], output, tf.constant(nothing[output.dtype], output.dtype)
            )
            for name, output in outputs.items()
        },
        "valid": valid,
    }


def _class_name_table(labels_file: str) -> tf.lookup.StaticHashTable:
    """Class index (int64) -> name, from a labels.txt: wnid, tab, name; line 0 is class 0."""
    initializer = tf.lookup.TextFileInitializer(
        labels_file,
        key_dtype=tf.int64,
        key_index=tf.lookup.TextFileIndex.LINE_NUMBER,
        value_dtype=tf.string,
        value_index=1,
        delimiter="\t",
    )
    return tf.lookup.StaticHashTable(initializer, default_value="")


def save(served: ServedModel, path: str) -> None:
    """Writes the SavedModel.

    Args:
        served: what to write.
        path: an empty or absent folder.
    """
    tf.saved_model.save(served, path, signatures=served.functions)
