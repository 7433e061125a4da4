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
flags.DEFINE_string(
    "output_dir", None, "folder to write the release to; new or empty", flag_values=FLAGS
)
for _name, _default, _least, _most, _help in (
    ("classes", 10, 2, 10, "number of classes, 2 to 10"),
    ("images_per_class", 400, 4, None, "train photos of each class, at least 4"),
    ("validation_per_class", 50, 1, None, "validation photos of each class"),
    ("seed", 0, 0, None, "another seed, other photos"),
    ("workers", 0, 0, None, "processes to draw with; 0: one a core"),
):
    flags.DEFINE_integer(_name, _default, _help, _least, _most, flag_values=FLAGS)
flags.mark_flag_as_required("output_dir", flag_values=FLAGS)


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Read the flags and write the release."""
    start = time.monotonic()
    values = FLAGS.flag_values_dict()
    output_dir, workers = values.pop("output_dir"), values.pop("workers")
    result = write_release(output_dir=output_dir, recipe=Recipe(**values), workers=workers)
    return {**result, "seconds": round(time.monotonic() - start, 1)}


def run() -> None:
    """Run the command."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
