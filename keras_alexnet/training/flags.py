"""The flags of the training commands, each defined once.

A command has a FlagValues of its own (see data_prep/command_line.py) and takes from here what it
needs: `DATA_DIR = flags.data_dir(FLAGS)` defines the flag and gives its holder.
"""

from absl import flags

from keras_alexnet.network import choices
from keras_alexnet.network.ablations import ABLATIONS
from keras_alexnet.network.profile import KERNEL_STARTS, LAYER_NAMES
from keras_alexnet.network.profiles import PROFILES


def data_dir(values: flags.FlagValues) -> flags.FlagHolder[str]:
    """--data_dir, required."""
    return flags.DEFINE_string(
        "data_dir",
        None,
        "the folder that data_prep.prepare wrote",
        required=True,
        flag_values=values,
    )


def workdir(values: flags.FlagValues) -> flags.FlagHolder[str]:
    """--workdir, required."""
    return flags.DEFINE_string(
        "workdir",
        None,
        "the run's folder: checkpoints, metrics.jsonl, TensorBoard logs",
        required=True,
        flag_values=values,
    )


def checkpoint(values: flags.FlagValues) -> flags.FlagHolder[str]:
    """--checkpoint, which of a run's to use."""
    return flags.DEFINE_enum(
        "checkpoint",
        "best",
        ["best", "last"],
        "which of the run's checkpoints: the best by validation top-1, or the last",
        flag_values=values,
    )


def evaluation_batch_size(values: flags.FlagValues) -> flags.FlagHolder[int]:
    """--batch_size of commands that do not train."""
    return flags.DEFINE_integer(
        "batch_size", 64, "photos at once", lower_bound=1, flag_values=values
    )


def define_training(values: flags.FlagValues) -> None:
    """Everything that decides what a run computes. Empty defaults are the profile's."""
    profile = "default: the profile's"
    define = {"flag_values": values}
    flags.DEFINE_enum(
        "profile", "paper", list(PROFILES), "which of the systems called AlexNet", **define
    )
    flags.DEFINE_float(
        "width", 1.0, "units of each layer, in parts of the profile's", 0.01, 4.0, **define
    )
    flags.DEFINE_enum(
        "optimizer",
        None,
        choices.OPTIMIZERS,
        "update rule. tfa:NAME: that of TensorFlow Addons, or where that is not installed what "
        f"Keras has of the same; {profile}",
        **define,
    )
    flags.DEFINE_string(
        "optimizer_options",
        None,
        'of --optimizer=tfa:NAME, in JSON, such as {"weight_decay": 0.000005, "momentum": 0.9}. '
        "The weight_decay of tfa:SGDW and tfa:AdamW is taken off kernels and biases as it is, not "
        "times the learning rate: it does not fall with it, and sgd's 0.0005 at a rate of 0.01 is "
        "0.000005 of theirs",
        **define,
    )
    flags.DEFINE_float("learning_rate", None, f"the first one; {profile}", 0.0, **define)
    flags.DEFINE_float("momentum", None, f"of sgd; {profile}", 0.0, 1.0, **define)
    flags.DEFINE_float(
        "weight_decay", None, f"of the weights, inside the gradient; {profile}", 0.0, **define
    )
    flags.DEFINE_float(
        "bias_learning_rate_multiplier",
        None,
        f"learning rate of the biases in units of the kernels'; {profile}",
        0.0,
        **define,
    )
    flags.DEFINE_float(
        "bias_decay_multiplier",
        None,
        f"decay of the biases in units of --weight_decay: 0 for kernels only, 1 for all; {profile}",
        0.0,
        **define,
    )
    flags.DEFINE_float(
        "clip_norm",
        None,
        "longer gradients, of all weights together, get this length",
        0.0,
        **define,
    )
    flags.DEFINE_float(
        "ema",
        None,
        "momentum of a moving average of the weights, such as 0.999, which is what is validated, "
        "evaluated and exported; default: none",
        0.0,
        0.999999,
        **define,
    )
    flags.DEFINE_enum(
        "moving_average",
        "none",
        ["none", "ema", "swa"],
        f"ema: as --ema={choices.USUAL_MOMENTUM}; swa: the mean of the weights at some steps "
        "(stochastic weight averaging), which is validated, evaluated and exported as --ema is",
        **define,
    )
    flags.DEFINE_integer(
        "start_averaging",
        None,
        "of --moving_average=swa: the step, from 0, after which the weights are taken first; until "
        f"then they are their own average; default: {choices.USUAL_SWA.start}",
        0,
        **define,
    )
    flags.DEFINE_integer(
        "average_period",
        None,
        "of --moving_average=swa: the weights are taken each so many steps; default: "
        f"{choices.USUAL_SWA.period}",
        1,
        **define,
    )
    flags.DEFINE_float(
        "label_smoothing", 0.0, "share of a label that all classes get alike", 0.0, 0.99, **define
    )
    flags.DEFINE_enum(
        "schedule", None, choices.SCHEDULES, f"of the learning rate; {profile}", **define
    )
    flags.DEFINE_integer(
        "patience", 5, "of --schedule=plateau: epochs without a better top-1", 1, **define
    )
    flags.DEFINE_float(
        "warmup_epochs",
        0.0,
        "of --schedule=cosine: rising from 0 for so many epochs",
        0.0,
        **define,
    )
    flags.DEFINE_integer("epochs", None, f"at most; {profile}", 1, **define)
    flags.DEFINE_integer("batch_size", None, f"over all devices; {profile}", 1, **define)
    flags.DEFINE_integer(
        "seed", 0, "of weights, order, augmentation and dropout", 0, 2**31 - 1, **define
    )
    flags.DEFINE_enum(
        "kernel_init",
        None,
        KERNEL_STARTS,
        f"how all kernels start; {profile}",
        **define,
    )
    flags.DEFINE_float("bias_init", None, f"how all biases start; {profile}", **define)
    flags.DEFINE_float(
        "pixel_scale", None, f"network input = (pixel - mean) * this; {profile}", 0.0, **define
    )
    flags.DEFINE_float(
        "dropout", None, f"share of units, at fc6 and fc7; {profile}", 0.0, 1.0, **define
    )
    flags.DEFINE_integer(
        "crop_chunk", None, f"photos that share a crop and a flip; {profile}", 1, **define
    )
    flags.DEFINE_multi_enum(
        "ablate",
        [],
        list(ABLATIONS),
        "what the paper tries the network without; may be repeated. "
        + "; ".join(f"{name}: {ablation.summary}" for name, ablation in ABLATIONS.items()),
        **define,
    )
    flags.DEFINE_list(
        "augment",
        None,
        "changes of the training photos beyond the profile's, in this order, as rotate:10,cutout. "
        + "; ".join(
            f"{name}:{limits.strength:g}: {limits.summary}"
            for name, limits in choices.AUGMENTATIONS.items()
        ),
        **define,
    )
    flags.DEFINE_string(
        "init_weights",
        None,
        "a .weights.h5 file, or the --workdir of another run, to start from; layers of another "
        "shape, such as fc8 for other classes, start as without it",
        **define,
    )
    flags.DEFINE_multi_enum(
        "freeze", [], LAYER_NAMES, "a layer that stays as it starts; may be repeated", **define
    )
    flags.DEFINE_enum(
        "precision",
        "auto",
        ["auto", *choices.PRECISIONS],
        "auto: bfloat16 or float16 where the device is faster in it",
        **define,
    )
    flags.DEFINE_enum(
        "strategy",
        None,
        choices.STRATEGIES,
        "mirrored: a replica on every GPU (or CPU device); multi_worker: the processes that the "
        "variable TF_CONFIG names; default: mirrored",
        **define,
    )
    flags.DEFINE_boolean(
        "column_parallel",
        False,
        "the two columns of the network on two devices, as in 2012, instead of replicas of it",
        **define,
    )


def define_run(values: flags.FlagValues) -> None:
    """How a run is fed, kept and shown: what may differ each time it is gone on with."""
    define = {"flag_values": values}
    flags.DEFINE_enum(
        "cache",
        "none",
        ["none", "memory"],
        "memory: the train split's records are read once, when the run starts, and kept",
        **define,
    )
    flags.DEFINE_integer(
        "skip_bad_records",
        0,
        "up to so many broken records of the train split are left out; all records are read and "
        "decoded once to find them",
        0,
        **define,
    )
    flags.DEFINE_integer("keep", 2, "how many of the last checkpoints stay", 1, **define)
    flags.DEFINE_float(
        "checkpoint_seconds",
        600.0,
        "a checkpoint is written after each epoch, and inside of one as often as this",
        0.0,
        **define,
    )
    flags.DEFINE_float(
        "stop_after_seconds",
        None,
        "the command ends after the epoch in which so many seconds of training are over; given "
        "again, it goes on; default: it ends with the run",
        0.0,
        **define,
    )
    flags.DEFINE_integer(
        "histogram_steps",
        0,
        "TensorBoard's histograms of weights and gradients each so many steps; 0 for none",
        0,
        **define,
    )
    flags.DEFINE_list(
        "allow_changed_flags",
        [],
        "training flags that may differ from those that the run began with",
        **define,
    )
    flags.DEFINE_boolean(
        "dry_run",
        False,
        "two steps of training and of validation, then stop; keeps nothing",
        **define,
    )
