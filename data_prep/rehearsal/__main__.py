"""Makes a small release of ILSVRC2012's own shape, to try the whole road without ImageNet.

The photos are drawn: a disc, a star, a ring ... of random colour, place, size and rotation, on
textured ground. The files, their names and their faults are those of the real release:

  ILSVRC2012_img_train.tar        a tar of one tar a class
  ILSVRC2012_img_val.tar          the validation photos, in no order of class
  ILSVRC2012_devkit_t12.tar.gz    the classes and the validation photos' true classes
  held_out/                       photos of neither, such as star_0.jpg, to classify at the end
  rehearsal.json                  what is where, with checksums; written last

Six train photos carry the faults that real ones have: CMYK colour, a PNG named JPEG, grey, a
rotation in EXIF, a file cut short, an empty file. The same flags give the same bytes.

Example:
  python -m data_prep.rehearsal --output_dir=/tmp/release --images_per_class=100
"""

import time
from collections.abc import Sequence

from absl import flags

from data_prep import command_line
from data_prep.rehearsal.photos import Recipe
from data_prep.rehearsal.release import write_release

FLAGS = flags.FlagValues()
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "folder to write the release to; new or empty", flag_values=FLAGS
)
_CLASSES = flags.DEFINE_integer(
    "classes", 10, "number of classes, 2 to 10", 2, 10, flag_values=FLAGS
)
_IMAGES_PER_CLASS = flags.DEFINE_integer(
    "images_per_class", 400, "train photos of each class, at least 4", 4, flag_values=FLAGS
)
_VALIDATION_PER_CLASS = flags.DEFINE_integer(
    "validation_per_class", 50, "validation photos of each class", 1, flag_values=FLAGS
)
_SEED = flags.DEFINE_integer("seed", 0, "another seed, other photos", 0, flag_values=FLAGS)
_WORKERS = flags.DEFINE_integer(
    "workers", 0, "processes to draw with; 0: one a core", 0, flag_values=FLAGS
)
flags.mark_flag_as_required("output_dir", flag_values=FLAGS)


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Reads the flags and writes the release."""
    start = time.monotonic()
    result = write_release(
        output_dir=_OUTPUT_DIR.value,
        recipe=Recipe(
            classes=_CLASSES.value,
            images_per_class=_IMAGES_PER_CLASS.value,
            validation_per_class=_VALIDATION_PER_CLASS.value,
            seed=_SEED.value,
        ),
        workers=_WORKERS.value,
    )
    return {**result, "seconds": round(time.monotonic() - start, 1)}


def run() -> None:
    """The command."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
