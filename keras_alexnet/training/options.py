"""What decides a training run besides data and profile, and how it comes from the flags.

What goes with `--optimizer=tfa:NAME`, and what does not.
"""

import dataclasses
import json
from collections.abc import Mapping

from absl import flags

from data_prep.command_line import UserError
from keras_alexnet.network import ablations
from keras_alexnet.network.choices import (
    COLUMN_PARALLEL,
    SWA,
    USUAL_MOMENTUM,
    USUAL_SWA,
    addons_name,
)
from keras_alexnet.network.profile import Profile
from keras_alexnet.network.profiles import PROFILES


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How a profile is trained; the meanings are those of the flags of the same names.

    `strategy` may also be `choices.COLUMN_PARALLEL`, which a flag of its own asks for. `swa` is
    what --moving_average=swa asks for; --moving_average=ema asks for an `ema`.
    """

    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: str
    patience: int
    epochs: int
    batch_size: int
    seed: int
    precision: str
    strategy: str
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    ema: float | None = None
    swa: SWA | None = None
    optimizer_options: Mapping[str, object] | None = None
    clip_norm: float | None = None
    init_weights: str | None = None
    freeze: tuple[str, ...] = ()
    augment: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is fed, kept and shown: nothing that decides what it computes.

    The meanings are those of the flags of the same names.
    """

    cache: str = "none"
    skip_bad_records: int = 0
    keep: int = 2
    checkpoint_seconds: float = 600.0
    stop_after_seconds: float | None = None
    histogram_steps: int = 0
    allow_changed_flags: tuple[str, ...] = ()
    dry_run: bool = False


# By the flag: the field of a profile that it overrides; of tuples, all their entries.
_OVERRIDES = {
    "kernel_init": "kernel_init",
    "bias_init": "bias_init",
    "pixel_scale": "pixel_scale",
    "dropout": "dropout_rate",
    "crop_chunk": "crop_chunk",
    "bias_learning_rate_multiplier": "bias_learning_rate_multiplier",
    "bias_decay_multiplier": "bias_decay_multiplier",
}
# Of options that are not the value of one flag alone.
_FLAGS_BEHIND = {
    "ema": ("ema", "moving_average"),
    "strategy": ("strategy", "column_parallel"),
    "swa": ("moving_average", "start_averaging", "average_period"),
}
# Flags that change a profile as a whole.
_PROFILE_FLAGS = frozenset({"profile", "width", "ablate"})


def profile_from_flags(values: flags.FlagValues) -> Profile:
    """The profile with the overrides that the flags name.

    Args:
        values: of a command that called `flags.define_training`.

    Raises:
        UserError: the overrides do not fit the profile.
    """
    profile = PROFILES[values.profile].scaled(values.width)
    overrides = {}
    for flag, field in _OVERRIDES.items():
        value = getattr(values, flag)
        if value is not None:
            before = getattr(profile, field)
            overrides[field] = (value,) * len(before) if isinstance(before, tuple) else value
    try:
        return dataclasses.replace(ablations.apply(profile, values.ablate), **overrides)
    except ValueError as error:
        raise UserError(str(error)) from error


def flags_behind(name: str) -> set[str]:
    """The flags of which one has decided a part of a run's description.

    Args:
        name: in run.json: "options.epochs", "profile.dropout_rate" ...
    """
    part, _, field = name.partition(".")
    if part == "options":
        option = field.partition(".")[0]
        return set(_FLAGS_BEHIND.get(option, (option,)))
    if part == "profile":
        own = {flag for flag, target in _OVERRIDES.items() if target == field}
        return own or set(_PROFILE_FLAGS)
    return {"data_dir"}


def options_from_flags(values: flags.FlagValues, profile: Profile) -> TrainingOptions:
    """The flags' values; where one is not given, the profile's recipe; precision resolved.

    Args:
        values: of a command that called `flags.define_training`.
        profile: what `profile_from_flags` made of them.

    Raises:
        UserError: two flags contradict each other.
    """
    from keras_alexnet.inputs import augmentations  # here: they load TensorFlow
    from keras_alexnet.training import devices

    chosen = {
        "strategy": devices.resolve_strategy(values.strategy, values.column_parallel),
        "optimizer_options": from_flags(values, values.optimizer or profile.optimizer),
        **_averages(values),
    }
    for field in dataclasses.fields(TrainingOptions):
        if field.name not in chosen:
            value = getattr(values, field.name)
            chosen[field.name] = getattr(profile, field.name, None) if value is None else value
    chosen["precision"] = devices.resolve_precision(chosen["precision"])
    chosen["freeze"] = tuple(chosen["freeze"])
    # With each strength written out, and None as in runs from before there was the flag.
    chosen["augment"] = tuple(map(str, augmentations.parse(chosen["augment"]))) or None
    return TrainingOptions(**chosen)


def _averages(values: flags.FlagValues) -> dict[str, object]:
    """The options `ema` and `swa`."""
    start, period = values.start_averaging, values.average_period
    is_swa = values.moving_average == "swa"
    if not is_swa and (start, period) != (None, None):
        raise UserError(
            "--start_averaging and --average_period are of --moving_average=swa, but that is "
            f"{values.moving_average}; leave them out, or ask for swa"
        )
    if values.moving_average == "none":
        return {"ema": values.ema, "swa": None}
    if values.ema is not None:
        raise UserError(
            f"a run has one average of its weights, but --ema={values.ema} and "
            f"--moving_average={values.moving_average} were given; take one"
        )
    if not is_swa:
        return {"ema": USUAL_MOMENTUM, "swa": None}
    return {
        "ema": None,
        "swa": SWA(
            start=USUAL_SWA.start if start is None else start,
            period=USUAL_SWA.period if period is None else period,
        ),
    }


def run_options_from_flags(values: flags.FlagValues) -> RunOptions:
    """The flags' values.

    Args:
        values: of a command that called `flags.define_run`.
    """
    given = {field.name: getattr(values, field.name) for field in dataclasses.fields(RunOptions)}
    given["allow_changed_flags"] = tuple(given["allow_changed_flags"])
    return RunOptions(**given)


# What those optimizers have among their own options, if they have it.
_AMONG_THE_OPTIONS = ("momentum", "weight_decay")
_NOT_THEIRS = ("clip_norm", "bias_learning_rate_multiplier", "bias_decay_multiplier")
_NOT_OF = {"COCOB": ("learning_rate",)}


def from_flags(values: flags.FlagValues, optimizer: str) -> dict[str, object] | None:
    """The value of --optimizer_options, where all given flags go with the optimizer.

    What a profile has of these flags does not count: it is only given up.

    Args:
        values: of a command that called `flags.define_training`.
        optimizer: in `choices.OPTIMIZERS`: the flag's or the profile's.

    Returns:
        None where it was not given.

    Raises:
        UserError: it is no JSON object, or a flag does not go with the optimizer.
    """
    name = addons_name(optimizer)
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
        optimizer: in `choices.OPTIMIZERS`.
        options: of TensorFlow Addons' own.
        strategy: of the run.
        schedule: of the run.

    Raises:
        UserError: one of TensorFlow Addons cannot be had on this stack, in two columns, or under
            this schedule, or does not take its options.
    """
    name = addons_name(optimizer)
    if name is None:
        return
    from keras_alexnet.training import addons, schedules  # here: they load TensorFlow

    refused = {
        "--column_parallel": strategy == COLUMN_PARALLEL,
        f"--schedule={schedule}, in which {' '.join(schedules.SCHEDULES[schedule].of_layers)} has "
        "a rate of its own": bool(schedules.SCHEDULES[schedule].of_layers),
    }
    if told := [what for what, is_so in refused.items() if is_so]:
        raise UserError(f"--optimizer={optimizer} does not go with {told[0]}; take another")
    addons.check(name, options or {})
