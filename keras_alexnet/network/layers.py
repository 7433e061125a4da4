"""The layers of AlexNet that Keras lacks, or has but slow, or has but not repeatable."""

from keras_alexnet.network.grouped_conv import GroupedConv2D
from keras_alexnet.network.normalization import LocalResponseNormalization, SameMapNormalization
from keras_alexnet.network.seeded_dropout import SeededDropout

__all__ = [
    "GroupedConv2D",
    "LocalResponseNormalization",
    "SameMapNormalization",
    "SeededDropout",
]
