"""What decides a training run besides data and profile, and how it comes from the flags."""

import dataclasses

from absl import flags

from data_prep.command_line import UserError
from keras_alexnet import ablations, devices
from keras_alexnet.profile import Profile
from keras_alexnet.profiles import PROFILES


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How a profile is trained; the meanings are those of the flags of the same names.

    `strategy` may also be `devices.COLUMN_PARALLEL`, which a flag of its own asks for.
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
    clip_norm: float | None = None
    init_weights: str | None = None
    freeze: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is fed, kept and shown: nothing that decides what it computes.

    The meanings are those of the flags of the same names.
    """

    cache: str = "none"
    skip_bad_records: int = 0
    keep: int = 2
    checkpoint_seconds: float = 600.0
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
        return {field} | ({"column_parallel"} if field == "strategy" else set())
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
    chosen = {"strategy": devices.resolve_strategy(values.strategy, values.column_parallel)}
    for field in dataclasses.fields(TrainingOptions):
        if field.name not in chosen:
            value = getattr(values, field.name)
            chosen[field.name] = getattr(profile, field.name, None) if value is None else value
    chosen["precision"] = devices.resolve_precision(chosen["precision"])
    chosen["freeze"] = tuple(chosen["freeze"])
    return TrainingOptions(**chosen)


def run_options_from_flags(values: flags.FlagValues) -> RunOptions:
    """The flags' values.

    Args:
        values: of a command that called `flags.define_run`.
    """
    given = {field.name: getattr(values, field.name) for field in dataclasses.fields(RunOptions)}
    given["allow_changed_flags"] = tuple(given["allow_changed_flags"])
    return RunOptions(**given)
