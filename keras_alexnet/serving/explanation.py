"""Why a network answers as it does: a heat map, and what it says of each of the ten views."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_alexnet.views import View

Outputs = dict[str, tf.Tensor]


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
