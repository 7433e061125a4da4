"""From scores to class names, as `keras.applications` does it."""

from collections.abc import Sequence

import numpy as np

from data_prep.records import ClassName


def decode_predictions(
    predictions: np.ndarray, classes: Sequence[ClassName], top: int = 5
) -> list[list[tuple[str, str, float]]]:
    """The best classes of each photo, the best first; of equal scores, the lower label first.

    Args:
        predictions: [N, classes], such as `model.predict` returns.
        classes: in the order of their labels (`data_prep.records.read_manifest(...).classes`).
        top: how many a photo, at least 1; all, if there are fewer classes.

    Returns:
        A list a photo of (wnid, name, score).

    Raises:
        ValueError: the shape does not fit the classes, or `top` is not above 0.
    """
    scores = np.asarray(predictions)
    if scores.ndim != 2 or scores.shape[1] != len(classes):
        raise ValueError(
            f"predictions must be of shape [N, {len(classes)}], a score a class. "
            f"Received: shape {scores.shape}. Give the classes the network was trained with, and "
            "a batch, even of one photo."
        )
    if top < 1:
        raise ValueError(f"top must be at least 1. Received: {top!r}. Give how many you want.")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [(classes[label].wnid, classes[label].name, float(row[label])) for label in labels]
        for row, labels in zip(scores, best, strict=True)
    ]
