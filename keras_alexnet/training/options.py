"""Settings of a training run besides data and profile, and how they come from the flags."""

import dataclasses
import json
from collections.abc import Mapping

from absl import flags

from keras_alexnet.network import ablations, choices
from keras_alexnet.network.profile import Profile
from keras_alexnet.network.profiles import PROFILES


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """The recipe that a profile is trained by; the fields mean what the flags of their names mean.

    `strategy` may also be `choices.COLUMN_PARALLEL` (--column_parallel). --moving_average sets
    `swa` or `ema`.
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
    swa: choices.SWA | None = None
    optimizer_options: Mapping[str, object] | None = None
    clip_norm: float | None = None
    init_weights: str | None = None
    freeze: tuple[str, ...] = ()
    augment: tuple[str, ...] | None = None

    @property
    def average(self) -> float | choices.SWA | None:
        """The average of the weights that is kept: the momentum of a moving one, or SWA."""
        return self.ema if self.swa is None else self.swa


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Settings of how a run is fed, kept and shown: nothing that decides what it computes.

    The fields mean what the flags of their names mean; `flags_text`, all of a command's flags, is
    kept in the workdir for a person.
    """

    skip_bad_records: int = 0
    keep: int = 2
    checkpoint_seconds: float = 600.0
    stop_after_seconds: float | None = None
    histogram_steps: int = 0
    allow_changed_flags: tuple[str, ...] = ()
    dry_run: bool = False
    flags_text: str = ""


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
    """Return the profile with the overrides that the flags name.

    Args:
        values: of a command that called `flags.define_training`.

    Raises:
        ValueError: the overrides do not fit the profile.
    """
    profile = PROFILES[values.profile].scaled(values.width)
    overrides = {}
    for flag, field in _OVERRIDES.items():
        value = getattr(values, flag)
        if value is not None:
            before = getattr(profile, field)
            overrides[field] = (value,) * len(before) if isinstance(before, tuple) else value
    return dataclasses.replace(ablations.apply(profile, values.ablate), **overrides)


def flags_behind(name: str) -> set[str]:
    """Return the flags of which one has decided a part of a run's description.

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


def recipe_from_flags(values: flags.FlagValues, profile: Profile) -> TrainingOptions:
    """Return the flags' values; where one is not given, the profile's; precision resolved.

    Raises:
        ValueError: two flags contradict each other.
    """
    from keras_alexnet.inputs import augmentations  # here: they load TensorFlow
    from keras_alexnet.training import devices

    chosen = {
        "strategy": _strategy(values),
        "optimizer_options": _optimizer_options(values, values.optimizer or profile.optimizer),
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


def run_options_from_flags(values: flags.FlagValues) -> RunOptions:
    """Return the values of the flags that `flags.define_run` defined."""
    names = {field.name for field in dataclasses.fields(RunOptions)} - {"flags_text"}
    given = {name: getattr(values, name) for name in names}
    given["allow_changed_flags"] = tuple(given["allow_changed_flags"])
    return RunOptions(**given, flags_text=values.flags_into_string())


def _strategy(values: flags.FlagValues) -> str:
    if not values.column_parallel:
        return values.strategy or "mirrored"
    if values.strategy:
        raise ValueError(
            "one way to use two devices is needed, but --strategy and --column_parallel were "
            "given; take one of them away"
        )
    return choices.COLUMN_PARALLEL


def _averages(values: flags.FlagValues) -> dict[str, object]:
    """Return the options `ema` and `swa`."""
    given = {"start": values.start_averaging, "period": values.average_period}
    given = {name: value for name, value in given.items() if value is not None}
    is_swa = values.moving_average == "swa"
    if given and not is_swa:
        raise ValueError(
            "--start_averaging and --average_period are of --moving_average=swa, but that is "
            f"{values.moving_average}; leave them out, or take swa"
        )
    if values.moving_average == "none":
        return {"ema": values.ema, "swa": None}
    if values.ema is not None:
        raise ValueError(
            f"a run has one average of its weights, but --ema={values.ema} and "
            f"--moving_average={values.moving_average} were given; take one"
        )
    if not is_swa:
        return {"ema": choices.USUAL_MOMENTUM, "swa": None}
    return {"ema": None, "swa": choices.USUAL_SWA._replace(**given)}


def _optimizer_options(values: flags.FlagValues, optimizer: str) -> dict[str, object] | None:
    """Return the value of --optimizer_options; refuse flags that the optimizer does not take.

    The profile's values of such flags are ignored.
    """
    text = values.optimizer_options
    if choices.addons_name(optimizer) is None:
        if text is not None:
            raise ValueError(
                "--optimizer_options is of --optimizer=tfa:NAME, but the optimizer is "
                f"{optimizer}, which has flags: --momentum, --weight_decay ...; take one of both"
            )
        return None
    if given := _given(values, "momentum", "weight_decay"):
        raise ValueError(
            f"--optimizer={optimizer} takes all from --optimizer_options, but {given} came; put it "
            "in there, if it is an option of it"
        )
    others = ("clip_norm", "bias_learning_rate_multiplier", "bias_decay_multiplier")
    if given := _given(values, *others):
        raise ValueError(f"--optimizer={optimizer} does not go with {given}; leave it out")
    if text is None:
        return None
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise ValueError(
            "--optimizer_options must be a JSON object, such as "
            f'{{"weight_decay": 0.000005}}, but got {text}'
        )
    return options


def _given(values: flags.FlagValues, *names: str) -> str:
    given = {name: getattr(values, name) for name in names}
    return ", ".join(f"--{name}={value}" for name, value in given.items() if value is not None)


def check(recipe: TrainingOptions) -> None:
    """Refuse a recipe whose optimizer a run cannot have, before anything is made.

    Raises:
        ValueError: the optimizer is TensorFlow Addons', and absent on this stack, in two columns or
            under this schedule, or it does not take its options.
    """
    name = choices.addons_name(recipe.optimizer)
    if name is None:
        return
    from keras_alexnet.training import addons, schedules  # here: they load TensorFlow

    refused = []
    if recipe.strategy == choices.COLUMN_PARALLEL:
        refused.append("two columns on two devices")
    if layers := " ".join(schedules.SCHEDULES[recipe.schedule].of_layers):
        refused.append(f"the schedule {recipe.schedule}, in which {layers} has a rate of its own")
    if refused:
        raise ValueError(
            f"{recipe.optimizer} does not go with {refused[0]}; take another optimizer"
        )
    addons.check(name, recipe.optimizer_options or {}, recipe.average)
