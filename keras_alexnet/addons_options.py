"""What goes with `--optimizer=tfa:NAME`, and what does not."""

import json
from collections.abc import Mapping

from absl import flags

from data_prep.command_line import UserError
from keras_alexnet import addons, devices, optimizers, schedules

# What those optimizers have among their own options, if they have it.
_AMONG_THE_OPTIONS = ("momentum", "weight_decay")
_NOT_THEIRS = ("clip_norm", "bias_learning_rate_multiplier", "bias_decay_multiplier")
_NOT_OF = {"COCOB": ("learning_rate",)}


def from_flags(values: flags.FlagValues, optimizer: str) -> dict[str, object] | None:
    """The value of --optimizer_options, where all given flags go with the optimizer.

    What a profile has of these flags does not count: it is only given up.

    Args:
        values: of a command that called `flags.define_training`.
        optimizer: in `optimizers.NAMES`: the flag's or the profile's.

    Returns:
        None where it was not given.

    Raises:
        UserError: it is no JSON object, or a flag does not go with the optimizer.
    """
    name = optimizers.addons_name(optimizer)
    if name is None:
        if values.optimizer_options is not None:
            raise UserError(
                "--optimizer_options is of --optimizer=tfa:NAME, but the optimizer is "
                f"{optimizer}, which has flags: --momentum, --weight_decay ...; take one of both"
            )
        return None
    if given := _given(values, _AMONG_THE_OPTIONS):
        raise UserError(
            f"--optimizer={optimizer} takes all from --optimizer_options, but {given} came; put it "
            "in there, if it is an option of it"
        )
    if given := _given(values, _NOT_THEIRS + _NOT_OF.get(name, ())):
        raise UserError(f"--optimizer={optimizer} does not go with {given}; leave it out")
    return None if values.optimizer_options is None else _parse(values.optimizer_options)


def _given(values: flags.FlagValues, names: tuple[str, ...]) -> str:
    given = {name: getattr(values, name) for name in names}
    return ", ".join(f"--{name}={value}" for name, value in given.items() if value is not None)


def _parse(text: str) -> dict[str, object]:
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise UserError(
            f'--optimizer_options must be a JSON object, such as {{"weight_decay": 0.000005}}, but '
            f"got {text}"
        )
    return options


def check(
    *, optimizer: str, options: Mapping[str, object] | None, strategy: str, schedule: str
) -> None:
    """Makes sure that a run can have its optimizer, before anything is made.

    Args:
        optimizer: in `optimizers.NAMES`.
        options: of TensorFlow Addons' own.
        strategy: of the run.
        schedule: of the run.

    Raises:
        UserError: one of TensorFlow Addons cannot be had on this stack, in two columns, or under
            this schedule, or does not take its options.
    """
    name = optimizers.addons_name(optimizer)
    if name is None:
        return
    refused = {
        "--column_parallel": strategy == devices.COLUMN_PARALLEL,
        f"--schedule={schedule}, in which {' '.join(schedules.SCHEDULES[schedule].of_layers)} has "
        "a rate of its own": bool(schedules.SCHEDULES[schedule].of_layers),
    }
    if told := [what for what, is_so in refused.items() if is_so]:
        raise UserError(f"--optimizer={optimizer} does not go with {told[0]}; take another")
    addons.check(name, options or {})
