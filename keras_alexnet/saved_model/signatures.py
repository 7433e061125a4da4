"""The exported graph: from a photo's bytes through a trained network to class names.

    signature        input                                  outputs
    serving_default  image_bytes string [N]                 classes string [N, K], class_ids int64
                                                            [N, K], scores float32 [N, K], valid
                                                            bool [N]; K is 5, or all if fewer
    ten_crop         the same                               the same, from the paper's ten views
    features         the same                               features float32 [N, units of fc7],
                                                            valid bool [N]
    explain          the same                               those of serving_default, a heat map and
                                                            the ten views: see `_Answers._explained`
    pixels           images uint8 [N, size, size, 3], RGB   classes, class_ids, scores
    classify         inputs string [N], tf.train.Examples   classes, scores; for the Classify API,
                     with the photo in image/encoded        which wants no other output

What is no photo gets valid=false, empty class names, class_ids of -1 and scores (features, heat
map) of 0. Every output has the batch as its first dimension and no name ends in "_bytes": TF
Serving's REST API asks for both. The class names are read from the asset labels.txt when the model
is loaded. `classify` takes a record of a data set that was prepared with --storage=jpeg as it is.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from data_prep import files, records, tfrecord
from keras_alexnet.analysis.grad_cam import with_heat_maps
from keras_alexnet.inputs import preprocessing
from keras_alexnet.inputs.views import View, central_view, ten_views
from keras_alexnet.network.keras_compat import tf_variable
from keras_alexnet.network.profile import Profile
from keras_alexnet.saved_model import decoding
from keras_alexnet.training import workdir as workdirs

TOP = 5
CLASSIFY = "classify"
# The one input of each signature. "inputs" is TF Serving's (signature_constants.h), as are the
# names of what `classify` returns.
INPUT_NAMES: Mapping[str, str] = {
    "serving_default": "image_bytes",
    "ten_crop": "image_bytes",
    "features": "image_bytes",
    "explain": "image_bytes",
    "pixels": "images",
    CLASSIFY: "inputs",
}
_FEATURES = "fc7"  # behind its activation: what Caffe and DeCAF call the features fc7
_PHOTO = "image/encoded"  # of data_prep.records.FEATURES
_NO_CLASS = -1
_STRINGS = tf.TensorSpec([None], tf.string)

Outputs = dict[str, tf.Tensor]


def save(trained: workdirs.TrainedRun, path: str, fit: str = "short_side") -> None:
    """Write the SavedModel of a network.

    Args:
        trained: the network and what it was trained with.
        path: an empty or absent folder.
        fit: how the data set's squares were made of photos, see `data_prep.conversion_rule.Rule`.
    """
    # Whoever serves it does not train it; and TensorFlow never forgets the custom gradients that a
    # SavedModel brings, nor the graphs that they hold.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    # Under this name the label file becomes assets/labels.txt.
    with tempfile.TemporaryDirectory() as aside:
        labels_file = os.path.join(aside, records.LABELS)
        files.write_file(labels_file, records.labels_text(trained.classes))
        served = ServedModel(trained, labels_file, fit)
        tf.saved_model.save(served, path, signatures=served.functions, options=options)
    # TF Serving's Classify API refuses a signature whose method_name is another than its own
    # (classifier.cc), and `tf.saved_model.save` gives all that of Predict.
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(path)
    updater.replace_method_name(CLASSIFY, tf.compat.v1.saved_model.CLASSIFY_METHOD_NAME)
    updater.save()
    # It holds hashes of what was just changed. Loaders do without.
    os.unlink(os.path.join(path, "fingerprint.pb"))


def input_specs(size: int) -> dict[str, tf.TensorSpec]:
    """Return the specification of each signature's one input; photos are stored with this side."""
    images = tf.TensorSpec([None, size, size, 3], tf.uint8)
    return {
        signature: tf.TensorSpec.from_spec(images if name == "images" else _STRINGS, name)
        for signature, name in INPUT_NAMES.items()
    }


class ServedModel(tf.Module):
    """A network, its preprocessing and its class names, ready for `tf.saved_model.save`.

    Attributes:
        functions: the signatures, concrete functions by name; see the module's docstring.
    """

    def __init__(
        self, trained: workdirs.TrainedRun, labels_file: str, fit: str = "short_side"
    ) -> None:
        """Trace the signatures.

        Args:
            trained: the network, of any precision, and what it was trained with.
            labels_file: path of a labels.txt of its classes (see `records.labels_text`). It is
                copied when the module is saved.
            fit: see `save`.

        Raises:
            ValueError: the network has another number of outputs than there are classes.
        """
        super().__init__(name="alexnet")
        outputs, classes = trained.model.output_shape[-1], len(trained.classes)
        if outputs != classes:
            raise ValueError(
                f"model must have an output a class. Received: {outputs} outputs, {classes} "
                f"classes. Give the classes that the model was trained on."
            )
        # What a module holds on to is restored when it is loaded: the weights and the table. Of
        # the weights it has to be TensorFlow's own variables: with Keras 3's around them, the
        # loader of TensorFlow 1, which TF Serving has, finds none of the weights.
        self._weights = [tf_variable(variable) for variable in trained.model.variables]
        self._class_names = _class_name_table(labels_file)
        answers = _Answers(trained, self._class_names, fit)
        specs = input_specs(trained.statistics.mean_image.shape[0])
        self.functions: Mapping[str, tf.types.experimental.ConcreteFunction] = {
            name: tf.function(getattr(answers, name), [spec]).get_concrete_function()
            for name, spec in specs.items()
        }


class _Answers:
    """The signatures as methods. No tf.Module, or all that it holds would be saved."""

    def __init__(
        self, trained: workdirs.TrainedRun, class_names: tf.lookup.StaticHashTable, fit: str
    ) -> None:
        self._profile, self._statistics = trained.profile, trained.statistics
        self._class_names = class_names
        self._top = min(TOP, len(trained.classes))
        size = trained.statistics.mean_image.shape[0]
        # Functions of their own: traced once, and the signatures that call them share constants.
        self._stored = tf.function(
            lambda photos: decoding.stored_images(photos, size=size, fit=fit), [_STRINGS]
        )
        network = tf.function(trained.model)
        self._views = ten_views(trained.profile, stored=size)
        self._scores = [self._on_view(network, view) for view in self._views]
        self._central = central_view(trained.profile, stored=size)
        self._centre = self._views.index(self._central)
        features = features_of(trained.model, trained.profile)
        self._features = self._on_view(features, self._central)
        self._scores_and_maps = with_heat_maps(trained.model, trained.profile)

    def serving_default(self, image_bytes: tf.Tensor) -> Outputs:
        """Return the best classes of the central view."""
        return self._of_photos(self._of_central_view, image_bytes)

    def ten_crop(self, image_bytes: tf.Tensor) -> Outputs:
        """Return the best classes of the mean over the ten views."""
        return self._of_photos(self._of_ten_views, image_bytes)

    def features(self, image_bytes: tf.Tensor) -> Outputs:
        """Return the features of the central view."""
        return self._of_photos(lambda images: {"features": self._features(images)}, image_bytes)

    def explain(self, image_bytes: tf.Tensor) -> Outputs:
        """Return the best classes, and what speaks for them."""
        return self._of_photos(self._explained, image_bytes)

    def pixels(self, images: tf.Tensor) -> Outputs:
        """Return the best classes of the central view of stored photos."""
        return _answer_none_too(self._of_central_view, images)

    def classify(self, inputs: tf.Tensor) -> Outputs:
        """Return the best classes of the photos in Examples."""
        photos = tf.map_fn(_photo, inputs, fn_output_signature=tf.TensorSpec([], tf.string))
        answer = self.serving_default(photos)
        return {name: answer[name] for name in ("classes", "scores")}

    def _on_view(self, network: Callable, view: View) -> Callable[[tf.Tensor], tf.Tensor]:
        profile, statistics = self._profile, self._statistics
        return tf.function(
            lambda images: preprocessing.mean_over_views(
                network, images, [view], profile, statistics
            )
        )

    def _of_photos(self, answer: Callable[[tf.Tensor], Outputs], image_bytes: tf.Tensor) -> Outputs:
        images, valid = self._stored(image_bytes)
        return _blank_invalid(_answer_none_too(answer, images), valid)

    def _of_central_view(self, images: tf.Tensor) -> Outputs:
        return self._name_top(self._scores[self._centre](images), self._top)

    def _of_ten_views(self, images: tf.Tensor) -> Outputs:
        scores = tf.add_n([scores(images) for scores in self._scores]) / len(self._scores)
        return self._name_top(scores, self._top)

    def _explained(self, images: tf.Tensor) -> Outputs:
        """Return the outputs of `explain` but for `valid`.

        Returns:
            classes, class_ids and scores [N, K] of the central view; heat_map float32 [N, h, w];
            heat_box int64 [N, 4], top, left, height, width of that view in the stored square;
            view_classes and view_scores [N, V], the best class of each view; view_boxes int64
            [N, V, 5], top, left, height, width, and 1 if mirrored; stored_size int64 [N]. The
            boxes and the size are the same for all photos.
        """
        scores, heat_map = self._scores_and_maps(
            preprocessing.view_input(images, self._central, self._profile, self._statistics)
        )
        best = [
            self._name_top(scores if place == self._centre else view_scores(images), 1)
            for place, view_scores in enumerate(self._scores)
        ]
        side, count = self._profile.input_size, tf.shape(images)[0]
        boxes = [[view.y, view.x, side, side, int(view.flip)] for view in self._views]
        return {
            **self._name_top(scores, self._top),
            "heat_map": heat_map,
            "heat_box": _for_each(boxes[self._centre][:4], count),
            "view_classes": tf.concat([view["classes"] for view in best], axis=1),
            "view_scores": tf.concat([view["scores"] for view in best], axis=1),
            "view_boxes": _for_each(boxes, count),
            "stored_size": _for_each(images.shape[1], count),
        }

    def _name_top(self, scores: tf.Tensor, count: int) -> Outputs:
        """Return the best `count` classes of softmax scores [N, classes], the best first."""
        scores, class_ids = tf.math.top_k(scores, count)
        class_ids = tf.cast(class_ids, tf.int64)
        names = self._class_names.lookup(class_ids)
        return {"classes": names, "class_ids": class_ids, "scores": scores}


def _for_each(constant: object, count: tf.Tensor) -> tf.Tensor:
    """Return a constant once for each photo, int64 [N, ...]."""
    return tf.repeat(tf.constant(constant, tf.int64)[tf.newaxis], count, axis=0)


def _answer_none_too(answer: Callable[[tf.Tensor], Outputs], images: tf.Tensor) -> Outputs:
    """Return `answer(images)`, also of no images: [0, size, size, 3].

    TensorFlow's convolution on the CPU (oneDNN's) gives an empty batch a wrong number of maps, at
    which the next layer fails. So the network sees a blank image then, whose answer is dropped.
    """
    count = tf.shape(images)[0]
    missing = tf.maximum(1 - count, 0)
    blank = tf.zeros([missing, *images.shape[1:]], images.dtype)
    outputs = answer(tf.concat([images, blank], axis=0))
    return {name: output[:count] for name, output in outputs.items()}


def _blank_invalid(outputs: Outputs, valid: tf.Tensor) -> Outputs:
    """Return the outputs, without an answer where there was no photo; and `valid` itself."""
    blanked = {"valid": valid}
    for name, output in outputs.items():
        # Other integer outputs are view positions, identical for every photo.
        if name == "class_ids" or output.dtype in (tf.string, tf.float32):
            nothing = _NO_CLASS if name == "class_ids" else "" if output.dtype == tf.string else 0
            of_row = tf.reshape(valid, [-1] + [1] * (output.shape.rank - 1))
            output = tf.where(of_row, output, tf.constant(nothing, output.dtype))
        blanked[name] = output
    return blanked


def _class_name_table(labels_file: str) -> tf.lookup.StaticHashTable:
    """Return class index (int64) -> name, of a labels.txt: wnid, tab, name; line 0 is class 0."""
    initializer = tf.lookup.TextFileInitializer(
        labels_file,
        key_dtype=tf.int64,
        key_index=tf.lookup.TextFileIndex.LINE_NUMBER,
        value_dtype=tf.string,
        value_index=1,
        delimiter="\t",
    )
    return tf.lookup.StaticHashTable(initializer, default_value="")


def _photo(example: tf.Tensor) -> tf.Tensor:
    """Return the photo of a serialized Example; "" if it is none, or has no or several photos."""
    feature = {_PHOTO: tf.io.FixedLenFeature([], tf.string)}
    parsed = tf.data.Dataset.from_tensors(example).map(
        lambda example: tf.io.parse_single_example(example, feature)[_PHOTO]
    )
    return decoding.first_or(parsed, tf.constant(""))


def features_of(model: keras.Model, profile: Profile) -> keras.Model:
    """Return the part of a model that leads to fc7 behind its activation."""
    return keras.Model(model.inputs, model.get_layer(profile.activation_name(_FEATURES)).output)


def inputs_of(photos: Sequence[bytes], images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Return the inputs that ask each signature about the same photos.

    Args:
        photos: N files, JPEG or PNG.
        images: uint8 [N, size, size, 3], the same decoded.

    Returns:
        signature -> name of its one input -> values, [N] of bytes objects, or `images`.
    """
    values = {
        "images": images,
        "image_bytes": np.array(photos, object),
        "inputs": np.array([encode(photo) for photo in photos], object),
    }
    return {signature: {name: values[name]} for signature, name in INPUT_NAMES.items()}


def encode(photo: bytes) -> bytes:
    """Return a serialized tf.train.Example with a photo's file in it."""
    return tfrecord.encode_example({_PHOTO: photo})
