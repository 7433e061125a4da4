"""The preflight as a whole: it measures, judges, and prints a table for a person."""

import dataclasses
import math
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence

from keras_alexnet.network import choices
from keras_alexnet.network.profile import Profile
from keras_alexnet.preflight_checks import measuring, rules
from keras_alexnet.preflight_checks.measuring import Measured
from keras_alexnet.training import optimizers
from keras_alexnet.training.options import TrainingOptions


def preflight(
    *, data_dir: str, profile: Profile, recipe: TrainingOptions, seconds: float = 35.0
) -> dict[str, object]:
    """Measure the start of a run and judge it; print the findings to stderr.

    One device is used, whatever the strategy.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        profile: the network, overrides applied.
        recipe: everything else that decides what the run computes.
        seconds: time in which the steps should end; a few are always taken.

    Returns:
        verdict ("learns", "at risk" or "flat"), findings (a list of verdict, figure, value,
        reason and knob), the fields of `Measured`, and seconds. Numbers that are not finite are
        None.

    Raises:
        ValueError: the optimizer is one of TensorFlow Addons, or the data set cannot be used.
    """
    if choices.addons_name(recipe.optimizer) is not None:
        raise ValueError(
            f"the preflight knows what {' and '.join(sorted(optimizers.OPTIMIZERS))} do, not "
            f"{recipe.optimizer}; take one of them for it"
        )
    started = time.perf_counter()
    # Columns on two devices are other layers than those that are looked at; they learn the same.
    recipe = dataclasses.replace(recipe, strategy="one_device")
    measured = measuring.measure(data_dir=data_dir, profile=profile, recipe=recipe, seconds=seconds)
    judgement = rules.judge(measured.figures, profile, recipe)
    print(text(measured, judgement), file=sys.stderr)
    result = {**dataclasses.asdict(judgement), **dataclasses.asdict(measured)}
    return _json_able({**result, "seconds": round(time.perf_counter() - started, 1)})


def _json_able(value: object) -> object:
    """Replace NaN and infinity, which JSON does not have, by None; round to five digits."""
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
    """Return the layers at the start, the first losses, and the verdict with its reasons."""
    parts = [f"{_layer_table(measured)}\n\n{_losses(measured)}"] if measured.layers else []
    lines = [f"verdict: {judgement.verdict}"]
    for finding in judgement.findings:
        lines.append(_wrap(f"{finding.verdict}: {finding.reason}", "  "))
        lines.append(_wrap(f"try: {finding.knob}", "    "))
    return "\n\n".join([*parts, "\n".join(lines)])


def _layer_table(measured: Measured) -> str:
    lines = [f"{'layer':7}" + "".join(f"{heading:>15}" for heading, _, _ in _COLUMNS)]
    for layer, row in measured.layers.items():
        cells = [format(row[name], spec) if name in row else "" for _, name, spec in _COLUMNS]
        lines.append(f"{layer:7}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def _losses(measured: Measured) -> str:
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


def _wrap(line: str, indent: str = "") -> str:
    return textwrap.fill(
        line, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
