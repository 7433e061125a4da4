"""Names of choices that flags offer, free of TensorFlow so that `--help` answers at once.

The code that a name stands for is a table with the same keys, elsewhere; tests compare the two.
"""

from typing import NamedTuple

# Optimizers of TensorFlow Addons that update weights. MovingAverage and SWA average them, and
# MultiOptimizer is none by itself. See training/addons.py.
ADDONS_OPTIMIZERS = (
    "AdaBelief",
    "AdamW",
    "COCOB",
    "ConditionalGradient",
    "LAMB",
    "LazyAdam",
    "Lookahead",
    "NovoGrad",
    "ProximalAdagrad",
    "RectifiedAdam",
    "SGDW",
    "Yogi",
)
ADDONS_PREFIX = "tfa:"
OPTIMIZERS = ("adam", "sgd", *(ADDONS_PREFIX + name for name in ADDONS_OPTIMIZERS))
SCHEDULES = ("constant", "cosine", "krizhevsky2012", "plateau", "steps")
PRECISIONS = ("float32", "bfloat16", "float16")
MULTI_WORKER = "multi_worker"
STRATEGIES = ("mirrored", "one_device", MULTI_WORKER)
COLUMN_PARALLEL = "column_parallel"  # the strategy of a run with --column_parallel


class SWA(NamedTuple):
    """Stochastic weight averaging (Izmailov et al., 2018): the mean of the weights at some steps.

    Until the first of them there is nothing to average, and the average is the weights themselves.

    Attributes:
        start: step, from 0, after which the weights are added to the mean first.
        period: steps from one addition to the next, at least 1.
    """

    start: int
    period: int


# Defaults of TensorFlow Addons' MovingAverage and SWA.
USUAL_MOMENTUM = 0.99
USUAL_SWA = SWA(start=0, period=10)
