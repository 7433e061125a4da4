r"""Draw the validation photos that excite a map of a network most, and the pixels that do it.

    python -m keras_alexnet.deconvnet --workdir=RUN --data_dir=DATA --layer=conv3 --maps=0,1,2 \
        --output=maps.png

A deconvnet (Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014)
goes back from one activation to the pixels. The picture has a row of two squares per map: the nine
photos whose central views excite the map most, each cut to the unit's receptive field, and to their
right the pattern of each, brighter or darker than grey, stretched to the whole range.
"""

import io
from collections.abc import Mapping, Sequence

from absl import flags

from data_prep import command_line, files
from data_prep.command_line import UserError
from keras_alexnet.training import flags as training_flags

FLAGS = flags.FlagValues()
_WORKDIR = training_flags.workdir(FLAGS)
_DATA_DIR = training_flags.data_dir(FLAGS)
_LAYER = flags.DEFINE_string("layer", "conv5", "conv1 ... conv5", flag_values=FLAGS)
_MAPS = flags.DEFINE_list("maps", ["0"], "numbers of its maps, from 0", flag_values=FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "PNG file to write", required=True, flag_values=FLAGS)
_CHECKPOINT = training_flags.checkpoint(FLAGS)
_BATCH_SIZE = training_flags.evaluation_batch_size(FLAGS)


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Read the flags, look through the photos, and write the picture."""
    del arguments
    try:
        maps = list(dict.fromkeys(map(int, _MAPS.value)))
    except ValueError as error:
        raise UserError(
            f"--maps takes numbers from 0, as 0,1,2, but got {','.join(_MAPS.value)!r}"
        ) from error
    from keras_alexnet.analysis.deconvnet import draw, field, most_excited
    from keras_alexnet.training.workdir import load_run

    trained = load_run(_WORKDIR.value, _CHECKPOINT.value)
    rows = most_excited(
        trained=trained,
        data_dir=_DATA_DIR.value,
        layer=_LAYER.value,
        maps=maps,
        batch_size=_BATCH_SIZE.value,
    )
    output = io.BytesIO()
    draw(rows, field(trained.model, _LAYER.value)).save(output, "PNG")
    files.write_file(_OUTPUT.value, output.getvalue())
    excited = {
        str(row.map_index): {
            "photos": len(row.values),
            "largest": float(row.values.max(initial=0)),
        }
        for row in rows
    }
    return {"output": _OUTPUT.value, "layer": _LAYER.value, "maps": excited}


def run() -> None:
    """Run the console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
