"""Flags of the training commands, each defined once.

A command has a FlagValues of its own (see data_prep/command_line.py) and takes from here what it
needs: `DATA_DIR = flags.data_dir(FLAGS)` defines the flag and gives its holder.
"""

import functools

from absl import flags

from keras_alexnet.network import choices
from keras_alexnet.network.ablations import ABLATIONS
from keras_alexnet.network.profile import KERNEL_STARTS, LAYER_NAMES
from keras_alexnet.network.profiles import PROFILES


def data_dir(values: flags.FlagValues) -> flags.FlagHolder[str]:
    """Define --data_dir, required."""
    text = "the folder that data_prep.prepare wrote"
    return flags.DEFINE_string("data_dir", None, text, required=True, flag_values=values)


def workdir(values: flags.FlagValues) -> flags.FlagHolder[str]:
    """Define --workdir, required."""
    text = "the run's folder: checkpoints, metrics.jsonl, TensorBoard logs"
    return flags.DEFINE_string("workdir", None, text, required=True, flag_values=values)


def checkpoint(values: flags.FlagValues) -> flags.FlagHolder[str]:
    """Define --checkpoint."""
    return flags.DEFINE_enum(
        "checkpoint",
        "best",
        ["best", "last"],
        "which of the run's checkpoints: the best by validation top-1, or the last",
        flag_values=values,
    )


def evaluation_batch_size(values: flags.FlagValues) -> flags.FlagHolder[int]:
    """Define --batch_size of a command that does not train."""
    return flags.DEFINE_integer(
        "batch_size", 64, "photos per batch", lower_bound=1, flag_values=values
    )


def define_training(values: flags.FlagValues) -> None:
    """Define everything that decides what a run computes; None is the profile's value."""
    profile = "default: the profile's"
    number = functools.partial(flags.DEFINE_float, flag_values=values)
    count = functools.partial(flags.DEFINE_integer, flag_values=values)
    choice = functools.partial(flags.DEFINE_enum, flag_values=values)
    choice("profile", "paper", list(PROFILES), "which of the systems called AlexNet")
    number("width", 1.0, "width multiplier of every layer", 0.01, 4.0)
    choice(
        "optimizer",
        None,
        choices.OPTIMIZERS,
        "update rule; tfa:NAME is TensorFlow Addons', of which "
        f"{', '.join(choices.ON_BOTH_STACKS)} are on every stack; {profile}",
    )
    flags.DEFINE_string(
        "optimizer_options",
        None,
        'options of --optimizer=tfa:NAME, in JSON, such as {"weight_decay": 0.000005, "momentum": '
        "0.9}. The weight_decay of tfa:SGDW and tfa:AdamW is not multiplied by the learning rate: "
        "it does not fall with it, and sgd's 0.0005 at a rate of 0.01 is 0.000005 there",
        flag_values=values,
    )
    number("learning_rate", None, f"learning rate at the start, or after a warm-up; {profile}", 0.0)
    number("momentum", None, f"momentum of sgd; {profile}", 0.0, 1.0)
    number("weight_decay", None, f"L2 coefficient added to the gradient; {profile}", 0.0)
    number(
        "bias_learning_rate_multiplier",
        None,
        f"learning rate of the biases / learning rate of the kernels; {profile}",
        0.0,
    )
    number(
        "bias_decay_multiplier",
        None,
        f"weight decay of the biases / --weight_decay: 0 for kernels only, 1 for all; {profile}",
        0.0,
    )
    number("clip_norm", None, "clip gradients to this global norm; default: no clipping", 0.0)
    number(
        "ema",
        None,
        "momentum of a moving average of the weights, such as 0.999, which is what is validated, "
        "evaluated and exported; default: none",
        0.0,
        0.999999,
    )
    choice(
        "moving_average",
        "none",
        ["none", "ema", "swa"],
        f"ema: as --ema={choices.USUAL_MOMENTUM}; swa: the mean of the weights at some steps "
        "(stochastic weight averaging), which is validated, evaluated and exported as --ema is",
    )
    count(
        "start_averaging",
        None,
        "first step, from 0, whose weights --moving_average=swa averages; until then the weights "
        f"are their own average; default: {choices.USUAL_SWA.start}",
        0,
    )
    count(
        "average_period",
        None,
        "steps between the weights that --moving_average=swa averages; default: "
        f"{choices.USUAL_SWA.period}",
        1,
    )
    number("label_smoothing", 0.0, "share of a label spread evenly over all classes", 0.0, 0.99)
    choice("schedule", None, choices.SCHEDULES, f"learning-rate schedule; {profile}")
    count("patience", 5, "epochs without a better top-1 before --schedule=plateau drops", 1)
    number("warmup_epochs", 0.0, "epochs in which --schedule=cosine rises from 0", 0.0)
    count("epochs", None, f"epochs at most; {profile}", 1)
    count("batch_size", None, f"global batch, photos over all devices; {profile}", 1)
    count("seed", 0, "seed of weights, order, augmentation and dropout", 0, 2**31 - 1)
    choice("kernel_init", None, KERNEL_STARTS, f"initializer of all kernels; {profile}")
    number("bias_init", None, f"initial value of all biases; {profile}")
    number("pixel_scale", None, f"network input = (pixel - mean) * this; {profile}", 0.0)
    number("dropout", None, f"share of units dropped at fc6 and fc7; {profile}", 0.0, 1.0)
    count("crop_chunk", None, f"photos in a row that share a crop and a flip; {profile}", 1)
    flags.DEFINE_multi_enum(
        "ablate",
        [],
        list(ABLATIONS),
        "ablation of the paper; may be repeated. "
        + "; ".join(f"{name}: {ablation.summary}" for name, ablation in ABLATIONS.items()),
        flag_values=values,
    )
    flags.DEFINE_list(
        "augment",
        None,
        "augmentations beyond the profile's, in this order, as rotate:10,cutout. "
        + "; ".join(
            f"{name}:{limits.strength:g}: {limits.summary}"
            for name, limits in choices.AUGMENTATIONS.items()
        ),
        flag_values=values,
    )
    flags.DEFINE_string(
        "init_weights",
        None,
        "a .weights.h5 file, or the workdir of another run, to start from; layers of another "
        "shape, such as fc8 for other classes, start as without it",
        flag_values=values,
    )
    flags.DEFINE_multi_enum(
        "freeze",
        [],
        LAYER_NAMES,
        "a layer that stays as it starts; may be repeated",
        flag_values=values,
    )
    choice(
        "precision",
        "auto",
        ["auto", *choices.PRECISIONS],
        "number format of the computation; auto: bfloat16 or float16 where the device is faster "
        "in it",
    )
    choice(
        "strategy",
        None,
        choices.STRATEGIES,
        "mirrored: a replica on every GPU (or CPU device); multi_worker: the processes that the "
        "variable TF_CONFIG names; default: mirrored",
    )
    flags.DEFINE_boolean(
        "column_parallel",
        False,
        "the two columns of the network on two devices, as in 2012, instead of replicas of it",
        flag_values=values,
    )


def define_run(values: flags.FlagValues) -> None:
    """Define how a run is fed, kept and shown, which may differ each time it is resumed."""
    number = functools.partial(flags.DEFINE_float, flag_values=values)
    count = functools.partial(flags.DEFINE_integer, flag_values=values)
    # In flags.txt of earlier runs, which are resumed by it.
    flags.DEFINE_enum(
        "cache", "none", ["none"], "no effect; accepted for older flag files", flag_values=values
    )
    count(
        "skip_bad_records",
        0,
        "broken records of the train split to leave out, at most; above 0, all records are read "
        "and decoded once to find them",
        0,
    )
    count("keep", 2, "number of the last checkpoints to keep", 1)
    number(
        "checkpoint_seconds",
        600.0,
        "seconds between checkpoints within an epoch (one is always written after it)",
        0.0,
    )
    number(
        "stop_after_seconds",
        None,
        "end after the epoch in which training has taken this many seconds; the same command goes "
        "on; default: no limit",
        0.0,
    )
    count(
        "histogram_steps",
        0,
        "steps between TensorBoard's histograms of weights and gradients; 0 for none",
        0,
    )
    flags.DEFINE_list(
        "allow_changed_flags",
        [],
        "training flags that may differ from those that the run began with",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "dry_run",
        False,
        "take two steps of training and of validation, then stop; keep nothing",
        flag_values=values,
    )
