r"""Says in about a minute whether a run will learn, before it takes days, and which knob to turn.

    python -m keras_alexnet.preflight --flagfile=configs/paper.flags --data_dir=DATA

Takes every flag of train. Looks at labels and photos, at the network as it starts, and takes the
first steps on the run's own batches; nothing is written. The last line of the output is JSON:

    verdict     "learns"; "at risk": starts late, or with one seed and not with another; "flat"
    findings    the reasons, each with the knob to turn: a flag and the value to try first

The verdict is about a run of hundreds of steps on a small data set, where it was compared with
the truth (see benchmarks/preflight_truth.py). It is a look at the start, not a promise of the
end: of overfitting, and of accuracy, it says nothing.
"""

import dataclasses
import math
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence

from absl import flags

from data_prep import command_line
from data_prep.command_line import UserError
from keras_alexnet.network import choices
from keras_alexnet.network.profile import Profile
from keras_alexnet.preflight_checks import measuring, rules
from keras_alexnet.preflight_checks.measuring import Measured
from keras_alexnet.training import flags as training_flags
from keras_alexnet.training import optimizers
from keras_alexnet.training.options import TrainingOptions, options_from_flags, profile_from_flags

FLAGS = flags.FlagValues()
_DATA_DIR = training_flags.data_dir(FLAGS)
_SECONDS = flags.DEFINE_float(
    "seconds",
    35.0,
    "no further step is begun that would end later, but a few steps are always taken",
    1.0,
    flag_values=FLAGS,
)
training_flags.define_training(FLAGS)


def preflight(
    *, data_dir: str, profile: Profile, options: TrainingOptions, seconds: float = 35.0
) -> dict[str, object]:
    """Measures the start of a run and judges it; prints the findings to stderr.

    One device is used, whatever the strategy.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        profile: the network, overrides applied.
        options: the recipe.
        seconds: no further step is begun that would end after so many, if it can be helped.

    Returns:
        verdict ("learns", "at risk" or "flat"), findings (a list of verdict, figure, value,
        reason and knob), figures (see preflight_checks), layers, losses, handful_losses, seconds.
        Numbers that are not finite are None.

    Raises:
        UserError: the data set cannot be used.
    """
    started = time.perf_counter()
    # Columns on two devices are other layers than those that are looked at; they learn the same.
    options = dataclasses.replace(options, strategy="one_device")
    measured = measuring.measure(
        data_dir=data_dir, profile=profile, options=options, seconds=seconds
    )
    judgement = rules.judge(measured.figures, profile, options)
    print(text(measured, judgement), file=sys.stderr)
    result = {
        **dataclasses.asdict(judgement),
        **dataclasses.asdict(measured),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return _json_able(result)


def _json_able(value: object) -> object:
    """JSON has no NaN and no infinity; programs that read it stumble over Python's."""
    if isinstance(value, Mapping):
        return {key: _json_able(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_able(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


_WIDTH = 96
# Heading, name of the figure, format.
_COLUMNS = (
    ("output rms", "rms", ".3g"),
    ("photo's share", "photo_share", ".2g"),
    ("dead units", "dead", ".0%"),
    ("gradient rms", "gradient_rms", ".2g"),
    ("first update", "update", ".2g"),
)


def text(measured: Measured, judgement: rules.Judgement) -> str:
    """The layers at the start, the first losses, and the verdict with its reasons.

    Args:
        measured: what was seen.
        judgement: what the rules make of it.
    """
    parts = [_layer_table(measured), _losses(measured), _verdict(judgement)]
    return "\n\n".join(part for part in parts if part)


def _layer_table(measured: Measured) -> str:
    if not measured.layers:
        return ""
    head = f"{'layer':7}" + "".join(f"{heading:>15}" for heading, _, _ in _COLUMNS)
    lines = [head]
    for layer, row in measured.layers.items():
        cells = [format(row[name], spec) if name in row else "" for _, name, spec in _COLUMNS]
        lines.append(f"{layer:7}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def _losses(measured: Measured) -> str:
    if not measured.losses:
        return ""
    known = f"{measured.figures['class_entropy']:.2f}"
    return "\n".join(
        [
            _wrap(f"loss of the first {len(measured.losses)} steps ({known}: nothing learned):"),
            _wrap(_numbers(measured.losses), "    "),
            _wrap(f"loss of the same few photos, {len(measured.handful_losses)} times:"),
            _wrap(_numbers(measured.handful_losses), "    "),
        ]
    )


def _numbers(losses: Sequence[float]) -> str:
    return " ".join(format(loss, ".2f" if loss < 1000 else ".2g") for loss in losses)


def _verdict(judgement: rules.Judgement) -> str:
    lines = [f"verdict: {judgement.verdict}"]
    for finding in judgement.findings:
        lines.append(_wrap(f"{finding.verdict}: {finding.reason}", "  "))
        lines.append(_wrap(f"try: {finding.knob}", "    "))
    return "\n".join(lines)


def _wrap(line: str, indent: str = "") -> str:
    return textwrap.fill(
        line, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Reads the flags and measures."""
    del arguments
    profile = profile_from_flags(FLAGS)
    options = options_from_flags(FLAGS, profile)
    if choices.addons_name(options.optimizer) is not None:
        raise UserError(
            f"the preflight knows what {' and '.join(sorted(optimizers.OPTIMIZERS))} do, not "
            f"{options.optimizer}; take one of them for it"
        )
    return preflight(
        data_dir=_DATA_DIR.value,
        profile=profile,
        options=options,
        seconds=_SECONDS.value,
    )


def run() -> None:
    """The console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
