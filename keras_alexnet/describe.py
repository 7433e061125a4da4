"""Print the layers of a profile's network, or what the profiles differ in, as Markdown tables.

    python -m keras_alexnet.describe --profile=paper
    python -m keras_alexnet.describe --all

The figures are read from the Keras model; below the table it says how they are counted.
"""

from collections.abc import Sequence

from absl import flags

from data_prep import command_line
from keras_alexnet.network.profiles import PROFILES

FLAGS = flags.FlagValues()
_PROFILE = flags.DEFINE_enum(
    "profile", None, sorted(PROFILES), "whose layers to list", flag_values=FLAGS
)
_ALL = flags.DEFINE_boolean("all", False, "list what the profiles differ in", flag_values=FLAGS)
_WIDTH = flags.DEFINE_float(
    "width", 1.0, "width multiplier for every layer", 0.01, 4.0, flag_values=FLAGS
)
_CLASSES = flags.DEFINE_integer("classes", 1000, "units of fc8", 1, flag_values=FLAGS)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "images per training step (default: the profile's)", 1, flag_values=FLAGS
)
flags.register_multi_flags_validator(
    ["profile", "all"],
    lambda values: (values["profile"] is None) == values["all"],
    "either --profile=NAME, for the layers of one network, or --all, for the table of differences, "
    "is needed",
    flag_values=FLAGS,
)
flags.register_multi_flags_validator(
    ["all", "width", "classes", "batch_size"],
    lambda values: (
        not values["all"]
        or all(FLAGS[name].using_default_value for name in values if name != "all")
    ),
    "--all is about the networks as published; give --width, --classes and --batch_size with "
    "--profile=NAME",
    flag_values=FLAGS,
)


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Read the flags and print the table."""
    from keras_alexnet.network import figures  # here: it loads TensorFlow

    del arguments
    if _ALL.value:
        text, result = figures.compare(list(PROFILES.values()))
    else:
        text, result = figures.describe(
            profile=PROFILES[_PROFILE.value].scaled(_WIDTH.value),
            classes=_CLASSES.value,
            batch_size=_BATCH_SIZE.value,
        )
    print(text)
    return result


def run() -> None:
    """Run the console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
