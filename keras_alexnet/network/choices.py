"""Names of choices that flags offer, free of TensorFlow so that `--help` answers at once.

The code that a name stands for is a table with the same keys, elsewhere; tests compare the two.
"""

from typing import NamedTuple

# Optimizers of TensorFlow Addons that need no other one inside and have a learning rate. See
# training/addons.py.
ADDONS_OPTIMIZERS = (
    "AdaBelief",
    "AdamW",
    "ConditionalGradient",
    "LAMB",
    "LazyAdam",
    "NovoGrad",
    "ProximalAdagrad",
    "RectifiedAdam",
    "SGDW",
    "Yogi",
)
ON_BOTH_STACKS = ("AdamW", "LAMB", "LazyAdam", "SGDW")  # of them; this project's own
ADDONS_PREFIX = "tfa:"
OPTIMIZERS = ("adam", "sgd", *(ADDONS_PREFIX + name for name in ADDONS_OPTIMIZERS))
SCHEDULES = ("constant", "cosine", "krizhevsky2012", "plateau", "steps")
PRECISIONS = ("float32", "bfloat16", "float16")
MULTI_WORKER = "multi_worker"
STRATEGIES = ("mirrored", "one_device", MULTI_WORKER)
COLUMN_PARALLEL = "column_parallel"  # the strategy of a run with --column_parallel


def addons_name(optimizer: str) -> str | None:
    """Return what TensorFlow Addons calls an optimizer; None if it is not one of theirs.

    Args:
        optimizer: in `OPTIMIZERS`.
    """
    return optimizer.removeprefix(ADDONS_PREFIX) if optimizer.startswith(ADDONS_PREFIX) else None


class SWA(NamedTuple):
    """Stochastic weight averaging (Izmailov et al., 2018): the mean of the weights at some steps.

    Until the first of them the average is the weights themselves.

    Attributes:
        start: step, from 0, after which the weights are added to the mean first.
        period: steps from one addition to the next, at least 1.
    """

    start: int
    period: int


# Defaults of TensorFlow Addons' MovingAverage and SWA.
USUAL_MOMENTUM = 0.99
USUAL_SWA = SWA(start=0, period=10)


class AugmentationLimits(NamedTuple):
    """Limits of one operation of `--augment`; inputs/augmentations.py has the operation.

    Attributes:
        stream: number of its own stream of a seed's draws, which no other operation changes; above
            1, which `views.random_views` uses.
        strength: default strength.
        largest: largest strength; 0 is the smallest, exclusive.
        summary: its effect, with the strength as "this".
        step: a strength is a multiple of it; None for any number.
    """

    stream: int
    strength: float
    largest: float
    summary: str
    step: float | None = None


AUGMENTATIONS = {
    "rotate": AugmentationLimits(2, 15.0, 180.0, "turned by up to this many degrees"),
    "translate": AugmentationLimits(3, 16.0, 224.0, "moved by up to this many pixels"),
    "shear_x": AugmentationLimits(4, 0.1, 1.0, "rows pushed sideways, up to this a row"),
    "shear_y": AugmentationLimits(5, 0.1, 1.0, "columns pushed up or down, up to this a column"),
    "cutout": AugmentationLimits(6, 64.0, 224.0, "a square of this side is empty", step=2.0),
    "hsv_in_yiq": AugmentationLimits(
        7,
        0.2,
        1.0,
        "hue turned by up to this, in radians, saturation and value times 1 - this to 1 + this",
    ),
}
