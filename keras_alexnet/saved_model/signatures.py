"""What is exported: a trained network with all that leads to it and from it, as one graph.

    signature        input                                  outputs
    serving_default  image_bytes string [N]                 classes string [N, K], class_ids int64
                                                            [N, K], scores float32 [N, K], valid
                                                            bool [N]; K is 5, or all if fewer
    ten_crop         the same                               the same, from the paper's ten views
    features         the same                               features float32 [N, units of fc7],
                                                            valid bool [N]
    explain          the same                               those of serving_default, and what
                                                            see `explanation`
    pixels           images uint8 [N, size, size, 3], RGB   classes, class_ids, scores
    classify         inputs string [N], tf.train.Examples   classes, scores; for the Classify API,
                     with the photo in image/encoded        which wants no other output

What is no photo gets valid=false, empty class names, class_ids of -1 and scores (features, heat
map) of 0. Every output has the batch as its first dimension and no name ends in "_bytes": TF
Serving's REST API asks for both. The class names are read from the asset labels.txt when the model
is loaded.

Photos in tf.train.Examples, which is how TF Serving's Classify API takes them.

The photo is in the feature that has it in a data set's records too, so that a record of one with
--storage=jpeg can be sent as it is.

Why a network answers as it does: a heat map, and what it says of each of the ten views.
"""

import os
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from data_prep import records, tfrecord
from keras_alexnet.analysis.grad_cam import with_heat_maps
from keras_alexnet.inputs import preprocessing
from keras_alexnet.inputs.views import View, central_view, ten_views
from keras_alexnet.network.keras_compat import tf_variable
from keras_alexnet.network.profile import Profile
from keras_alexnet.saved_model import decoding

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
        fit: str = "short_side",
    ) -> None:
        """Traces the signatures.

        Args:
            model: network input float32 [N, S, S, 3] -> softmax [N, classes], of any precision.
            profile: the model's.
            classes: in the order of their labels.
            statistics: of the data set that the model was trained on.
            labels_file: path of a labels.txt of these classes (see `records.labels_text`). It is
                copied when the module is saved.
            fit: how the data set's squares were made of photos: "short_side" or "warp", see
                `data_prep.conversion_rule.Rule`.

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
        photo_files = tf.TensorSpec([None], tf.string)
        images = tf.TensorSpec([None, stored_size, stored_size, 3], tf.uint8)
        self.inputs: Mapping[str, tf.TensorSpec] = {
            signature: tf.TensorSpec.from_spec(images if name == "images" else photo_files, name)
            for signature, name in INPUT_NAMES.items()
        }
        self._top = min(TOP, len(classes))
        # What a module holds on to is restored when it is loaded: the weights and the table. Of
        # the weights it has to be TensorFlow's own variables: with Keras 3's around them, the
        # loader of TensorFlow 1, which TF Serving has, finds none of the weights.
        self._weights = [tf_variable(variable) for variable in model.variables]
        self._class_names = _class_name_table(labels_file)
        features = features_of(model, profile)

        def on_view(network: Callable, view: View) -> Callable[[tf.Tensor], tf.Tensor]:
            def outputs(images: tf.Tensor) -> tf.Tensor:
                return preprocessing.mean_over_views(network, images, [view], profile, statistics)

            # A function of its own: the signatures that call it share its constants.
            return tf.function(outputs)

        centre = central_view(profile, stored=stored_size)
        views = ten_views(profile, stored=stored_size)
        network = tf.function(model)  # traced once for all views
        view_scores = [on_view(network, view) for view in views]
        scores_and_maps = with_heat_maps(model, profile)

        def centre_heat(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return scores_and_maps(preprocessing.view_input(images, centre, profile, statistics))

        def explain(images: tf.Tensor) -> Outputs:
            return explanation(
                images,
                views=views,
                centre=views.index(centre),
                view_scores=view_scores,
                centre_heat=centre_heat,
                name_top=self._name_top,
                top=self._top,
                input_size=profile.input_size,
            )

        functions = _functions(
            # A function of its own, as above: it is long, and traced once for all signatures.
            stored=tf.function(
                lambda files: decoding.stored_images(files, size=stored_size, fit=fit),
                input_signature=[photo_files],
            ),
            score=view_scores[views.index(centre)],
            score_ten=lambda images: (
                tf.add_n([score(images) for score in view_scores]) / len(views)
            ),
            describe=on_view(features, centre),
            explain=explain,
            name_top=lambda scores: self._name_top(scores, self._top),
        )
        self.functions: Mapping[str, tf.types.experimental.ConcreteFunction] = {
            name: tf.function(functions[name], input_signature=[spec]).get_concrete_function()
            for name, spec in self.inputs.items()
        }

    def _name_top(self, scores: tf.Tensor, count: int) -> Outputs:
        """The best `count` classes of softmax scores [N, classes], the best first."""
        scores, class_ids = tf.math.top_k(scores, count)
        class_ids = tf.cast(class_ids, tf.int64)
        return {
            "classes": self._class_names.lookup(class_ids),
            "class_ids": class_ids,
            "scores": scores,
        }


def _functions(
    *,
    stored: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    score: Callable[[tf.Tensor], tf.Tensor],
    score_ten: Callable[[tf.Tensor], tf.Tensor],
    describe: Callable[[tf.Tensor], tf.Tensor],
    explain: Callable[[tf.Tensor], Outputs],
    name_top: Callable[[tf.Tensor], Outputs],
) -> dict[str, Callable[[tf.Tensor], Outputs]]:
    """The signatures by name.

    Args:
        stored: files -> images uint8 [N, size, size, 3] and which of them are valid, [N].
        score: images -> scores of the central view.
        score_ten: images -> scores of the ten views.
        describe: images -> features.
        explain: images -> what `explanation` returns.
        name_top: scores -> classes, class_ids, scores of the best.
    """

    def of_photos(answer: Callable[[tf.Tensor], Outputs]) -> Callable[[tf.Tensor], Outputs]:
        def signature(image_bytes: tf.Tensor) -> Outputs:
            images, valid = stored(image_bytes)
            return _blank_invalid(_answer_none_too(answer, images), valid)

        return signature

    serving_default = of_photos(lambda images: name_top(score(images)))

    def pixels(images: tf.Tensor) -> Outputs:
        return _answer_none_too(lambda images: name_top(score(images)), images)

    def classify(inputs: tf.Tensor) -> Outputs:
        answer = serving_default(photos(inputs))
        return {name: answer[name] for name in ("classes", "scores")}

    return {
        "serving_default": serving_default,
        "ten_crop": of_photos(lambda images: name_top(score_ten(images))),
        "features": of_photos(lambda images: {"features": describe(images)}),
        "explain": of_photos(explain),
        "pixels": pixels,
        CLASSIFY: classify,
    }


def _answer_none_too(answer: Callable[[tf.Tensor], Outputs], images: tf.Tensor) -> Outputs:
    """`answer(images)`, also of no images: [0, size, size, 3].

    TensorFlow's convolution on the CPU (oneDNN's) gives an empty batch a wrong number of maps, at
    which the next layer fails. So the network sees a blank image then, whose answer is dropped.
    """
    count = tf.shape(images)[0]
    missing = tf.maximum(1 - count, 0)
    blank = tf.zeros([missing, *images.shape[1:]], images.dtype)
    outputs = answer(tf.concat([images, blank], axis=0))
    return {name: output[:count] for name, output in outputs.items()}


# An answer where there was no photo, by type. Whole numbers but for class_ids are places of views,
# which are the same of every photo.
_NOTHING = {tf.string: "", tf.float32: 0.0}
_NO_CLASS = -1


def _blank_invalid(outputs: Outputs, valid: tf.Tensor) -> Outputs:
    """The same outputs, without an answer where there was no photo; and `valid` itself."""

    def blank(name: str, output: tf.Tensor) -> tf.Tensor:
        if name == "class_ids":
            nothing = _NO_CLASS
        elif output.dtype in _NOTHING:
            nothing = _NOTHING[output.dtype]
        else:
            return output
        of_row = tf.reshape(valid, [-1] + [1] * (output.shape.rank - 1))
        return tf.where(of_row, output, tf.constant(nothing, output.dtype))

    return {**{name: blank(name, output) for name, output in outputs.items()}, "valid": valid}


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


def features_of(model: keras.Model, profile: Profile) -> keras.Model:
    """The part of a model that leads to fc7 behind its activation."""
    return keras.Model(model.inputs, model.get_layer(profile.activation_name(_FEATURES)).output)


def inputs_of(files: Sequence[bytes], images: np.ndarray) -> dict[str, np.ndarray]:
    """The values that ask each signature about the same photos.

    Args:
        files: N photos, JPEG or PNG.
        images: uint8 [N, size, size, 3], the same decoded.

    Returns:
        By the signature's name: of its one input, [N] of bytes objects, or `images`.
    """
    by_signature = {
        "pixels": images,
        CLASSIFY: np.array([encode(file) for file in files], object),
    }
    return {name: by_signature.get(name, np.array(files, object)) for name in INPUT_NAMES}


def save(served: ServedModel, path: str) -> None:
    """Writes the SavedModel.

    TF Serving's Classify API refuses a signature whose method_name is another than its own
    (classifier.cc), and `tf.saved_model.save` gives all that of Predict.

    Args:
        served: what to write.
        path: an empty or absent folder.
    """
    # Whoever serves it does not train it; and TensorFlow never forgets the custom gradients that a
    # SavedModel brings, nor the graphs that they hold.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(served, path, signatures=served.functions, options=options)
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(path)
    updater.replace_method_name(CLASSIFY, tf.compat.v1.saved_model.CLASSIFY_METHOD_NAME)
    updater.save()
    # It holds hashes of what was just changed. Loaders do without.
    os.unlink(os.path.join(path, "fingerprint.pb"))


FEATURE = "image/encoded"  # of data_prep.records.FEATURES


def encode(photo: bytes) -> bytes:
    """A serialized tf.train.Example with a photo's file in it."""
    return tfrecord.encode_example({FEATURE: photo})


def photos(examples: tf.Tensor) -> tf.Tensor:
    """The photo of each Example.

    Args:
        examples: string [N], serialized.

    Returns:
        string [N]; "" for what is no Example, or has no photo, or more than one.
    """
    return tf.map_fn(_photo, examples, fn_output_signature=tf.TensorSpec([], tf.string))


def _photo(example: tf.Tensor) -> tf.Tensor:
    """The photo of one Example, by the same try as in `photos.stored_image`."""

    def parse(example: tf.Tensor) -> tf.Tensor:
        feature = tf.io.FixedLenFeature([], tf.string)
        return tf.io.parse_single_example(example, {FEATURE: feature})[FEATURE]

    return (
        tf.data.Dataset.from_tensors(example)
        .map(parse)
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors(tf.constant("")))
        .take(1)
        .get_single_element()
    )


def explanation(
    images: tf.Tensor,
    *,
    views: Sequence[View],
    centre: int,
    view_scores: Sequence[Callable[[tf.Tensor], tf.Tensor]],
    centre_heat: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    name_top: Callable[[tf.Tensor, int], Outputs],
    top: int,
    input_size: int,
) -> Outputs:
    """The outputs of the signature `explain` but for `valid`.

    Args:
        images: uint8 [N, stored, stored, 3].
        views: V of them, one of them the central one.
        centre: the place of the central one among them.
        view_scores: images -> float32 [N, classes], one a view.
        centre_heat: images -> the scores of the central view and its heat map [N, h, w].
        name_top: scores and a number K -> classes, class_ids, scores, each [N, K], the best first.
        top: how many of the best classes.
        input_size: side of a view, pixels.

    Returns:
        classes, class_ids and scores [N, top] of the central view; heat_map float32 [N, h, w];
        heat_box int64 [N, 4], top, left, height, width of that view in the stored square;
        view_classes and view_scores [N, V], the best class of each view; view_boxes int64
        [N, V, 5], top, left, height, width, and 1 if mirrored; stored_size int64 [N]. The boxes
        and the size are the same for all photos.
    """
    scores, heat_map = centre_heat(images)
    best = [
        name_top(scores if place == centre else score(images), 1)
        for place, score in enumerate(view_scores)
    ]
    count = tf.shape(images)[0]
    boxes = [[view.y, view.x, input_size, input_size, int(view.flip)] for view in views]

    def for_each(constant: object) -> tf.Tensor:
        """A constant once for each photo, int64 [N, ...]."""
        row = tf.constant(constant, tf.int64)[tf.newaxis]
        return tf.repeat(row, count, axis=0)

    return {
        **name_top(scores, top),
        "heat_map": heat_map,
        "heat_box": for_each(boxes[centre][:4]),
        "view_classes": tf.concat([view["classes"] for view in best], axis=1),
        "view_scores": tf.concat([view["scores"] for view in best], axis=1),
        "view_boxes": for_each(boxes),
        "stored_size": for_each(images.shape[1]),
    }
