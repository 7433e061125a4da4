"""The paper's own experiments without a part of the network: `--ablate=NAME`.

Each changes fields of a profile, so that a run without a part differs from one with it in nothing
else: layers that stay start from the same weights, by the same seed. The effects are those that
the paper reports: percentage points of error, top-1 / top-5, or top-1 alone.
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from keras_alexnet.network.profile import REMOVABLE_LAYERS, Profile


class Ablation(NamedTuple):
    """A part that can be removed from a network.

    Attributes:
        changes: the fields of a profile without the part; those of a profile that has no such part
            are its own.
        summary: a line for `--help`: the part, the paper's section and the effect that it reports.
    """

    changes: Callable[[Profile], Mapping[str, object]]
    summary: str


def _without_normalization(profile: Profile) -> dict[str, object]:
    return {
        name: tuple(kind for kind in getattr(profile, name) if kind in ("relu", "pool"))
        for name in ("conv1_order", "conv2_order", "conv5_order")
    }


def _without_layer(name: str, profile: Profile) -> dict[str, object]:
    removed = {name, *profile.removed_layers}
    return {"removed_layers": tuple(layer for layer in REMOVABLE_LAYERS if layer in removed)}


def _one_column(profile: Profile) -> dict[str, object]:
    """Return the fields of one column alone, with all maps of conv5 and all units of fc6 and fc7.

    So has the paper's net on one GPU (footnote of section 3.2): fc6 has most of the weights, and
    the two nets are then of about the same size.
    """
    *halved, conv5 = profile.conv_filters
    filters = (*(count // profile.columns for count in halved), conv5)
    return {"conv_filters": filters, "conv_groups": (1,) * 5}


ABLATIONS: Mapping[str, Ablation] = types.MappingProxyType(
    {
        "lrn": Ablation(
            _without_normalization,
            "no response normalization, of either kind (section 3.3: error +1.4 / +1.2)",
        ),
        "overlap": Ablation(
            lambda profile: {"pool_size": 2},
            "pooling windows of 2x2, which do not overlap (section 3.4: error +0.4 / +0.3)",
        ),
        "relu": Ablation(
            lambda profile: {"activation": "tanh"},
            "tanh instead of ReLU (section 3.1: six times slower to 25 % error on CIFAR-10)",
        ),
        "dropout": Ablation(
            lambda profile: {"dropout_rate": 0.0},
            "no dropout (section 4.2: substantial overfitting)",
        ),
        **{
            name: Ablation(
                functools.partial(_without_layer, name),
                f"no {name}, nor its activation (section 7: error about +2 for a middle one)",
            )
            for name in REMOVABLE_LAYERS
        },
        "columns": Ablation(
            _one_column,
            "one column, conv1 to conv4 half as wide (section 3.2: error +1.7 / +1.2)",
        ),
    }
)


def apply(profile: Profile, names: Iterable[str]) -> Profile:
    """Return a profile without some of its parts, and without a published accuracy.

    Args:
        profile: of the whole network.
        names: of `ABLATIONS`, in any order.

    Raises:
        ValueError: there is no such ablation, the profile has no such part, or the parts do not go
            without each other.
    """
    for name in names:
        profile = dataclasses.replace(_without(profile, name), published="none")
    return profile


def _without(profile: Profile, name: str) -> Profile:
    if name not in ABLATIONS:
        raise ValueError(
            f"An ablation must be one of {', '.join(ABLATIONS)}. Received: {name!r}. "
            "Each one's summary says what it leaves out."
        )
    try:
        changed = dataclasses.replace(profile, **ABLATIONS[name].changes(profile))
    except ValueError as error:
        raise ValueError(f"ablate {name}: {error}") from error
    if changed == profile:
        raise ValueError(
            f"ablate {name} needs a network with that part, but {profile.name} is without it "
            "already; leave it out"
        )
    return changed
