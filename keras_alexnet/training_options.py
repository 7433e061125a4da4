"""What decides a training run besides data and profile, and how it comes from the flags."""

import dataclasses

from absl import flags

from data_prep.command_line import UserError
from keras_alexnet import devices
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


def profile_from_flags(values: flags.FlagValues) -> Profile:
    """The profile with the overrides that the flags name.

    Args:
        values: of a command that called `flags.define_training`.

    Raises:
        UserError: the overrides do not fit the profile.
    """
    profile = PROFILES[values.profile].scaled(values.width)
    layers = len(profile.kernel_init)
    overrides = {
        "kernel_init": values.kernel_init and (values.kernel_init,) * layers,
        "bias_init": None if values.bias_init is None else (values.bias_init,) * layers,
        "pixel_scale": values.pixel_scale,
        "dropout_rate": values.dropout,
        "crop_chunk": values.crop_chunk,
        "bias_learning_rate_multiplier": values.bias_learning_rate_multiplier,
        "bias_decay_multiplier": values.bias_decay_multiplier,
    }
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return dataclasses.replace(profile, **given)
    except ValueError as error:
        raise UserError(str(error)) from error


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
