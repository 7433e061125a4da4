r"""Weights in: an AlexNet that Caffe, PyTorch or TensorFlow 1 trained, as a .weights.h5 file.

    python -m keras_alexnet.convert --weights=bvlc_alexnet.caffemodel --profile=caffe \
        --output=caffe.weights.h5

Reads Caffe's .caffemodel, PyTorch checkpoints of torchvision's alexnet and of
dansuh17/alexnet-pytorch (pip install .[torch]), and the dictionary bvlc_alexnet.npy. Nothing in a
file is carried out, and a file that does not fit is refused with the name of the first tensor that
differs. Beside OUT.weights.h5 it writes OUT.report.json: the hash of every tensor before and
after, and the largest difference between the logits of the converted network and those that plain
NumPy computes from the file's own tensors. AlexNet(profile, classes, weights="OUT.weights.h5")
loads the result.
"""

import sys
from collections.abc import Mapping, Sequence

from absl import flags

from data_prep import command_line
from keras_alexnet.foreign_weights.fitting import shown_list
from keras_alexnet.foreign_weights.recognition import AUTO, FORMATS
from keras_alexnet.network.profiles import PROFILES

FLAGS = flags.FlagValues()
_WEIGHTS = flags.DEFINE_string(
    "weights", None, "the file to convert", required=True, flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "file to write: NAME.weights.h5", required=True, flag_values=FLAGS
)
_PROFILE = flags.DEFINE_enum(
    "profile",
    AUTO,
    [AUTO, *sorted(PROFILES)],
    "network that the file holds; auto: the only profile that it fits",
    flag_values=FLAGS,
)
_FORMAT = flags.DEFINE_enum(
    "format",
    AUTO,
    [AUTO, *FORMATS],
    "program that wrote the file; auto: recognized by the bytes",
    flag_values=FLAGS,
)
_CLASSES = flags.DEFINE_integer(
    "classes",
    None,
    "outputs that fc8 must have (default: as many as the file has)",
    1,
    flag_values=FLAGS,
)
_WIDTH = flags.DEFINE_float(
    "width", 1.0, "width multiplier for every layer", 0.01, 4.0, flag_values=FLAGS
)


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Convert as the flags say."""
    del arguments
    from keras_alexnet.foreign_weights.conversion import convert  # imports TensorFlow

    figures = convert(
        weights=_WEIGHTS.value,
        output=_OUTPUT.value,
        profile=_PROFILE.value,
        file_format=_FORMAT.value,
        classes=_CLASSES.value,
        width=_WIDTH.value,
    )
    if figures["left_out"]:
        print(f"left out: {shown_list(figures['left_out'])}", file=sys.stderr)
    print(
        f"{figures['tensors']} tensors of {_WEIGHTS.value} are in {figures['output']}; the logits "
        f"differ by {figures['relative_difference']:.1e} of the largest",
        file=sys.stderr,
    )
    return figures


def run() -> None:
    """Run the console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
