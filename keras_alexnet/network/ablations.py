"""The paper's own experiments without a part of the network: `--ablate=NAME`.

Each is a change of a profile, so that a run without a part differs from one with it in nothing
else: layers that stay start from the same weights, by the same seed. The effects are those that
the paper reports: percentage points of error, top-1 / top-5, or top-1 alone.
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Iterable, Mapping

from keras_alexnet.network.profile import REMOVABLE_LAYERS, Profile

_NORMALIZATIONS = ("lrn", "map_norm")
_ONE_COLUMN = (1,) * 5


@dataclasses.dataclass(frozen=True)
class Ablation:
    """A part that can be removed from a network.

    Attributes:
        change: the same network without the part; a profile that has no such part comes back as it
            is.
        summary: a line for `--help`: what goes, the paper's section, the effect that it reports.
    """

    change: Callable[[Profile], Profile]
    summary: str


def _without_normalization(profile: Profile) -> Profile:
    def rest(order: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(kind for kind in order if kind not in _NORMALIZATIONS)

    return dataclasses.replace(
        profile,
        conv1_order=rest(profile.conv1_order),
        conv2_order=rest(profile.conv2_order),
        conv5_order=rest(profile.conv5_order),
    )


def _without_layer(name: str, profile: Profile) -> Profile:
    removed = {name, *profile.removed_layers}
    in_order = tuple(layer for layer in REMOVABLE_LAYERS if layer in removed)
    return dataclasses.replace(profile, removed_layers=in_order)


def _one_column(profile: Profile) -> Profile:
    """Return one column alone, with all maps of conv5 and all units of fc6 and fc7.

    So has the paper's net on one GPU (footnote of section 3.2): fc6 has most of the weights, and
    the two nets are then of about the same size.
    """
    *halved, conv5 = profile.conv_filters
    filters = (*(count // profile.columns for count in halved), conv5)
    return dataclasses.replace(profile, conv_filters=filters, conv_groups=_ONE_COLUMN)


def _replacing(**fields: object) -> Callable[[Profile], Profile]:
    return lambda profile: dataclasses.replace(profile, **fields)


ABLATIONS: Mapping[str, Ablation] = types.MappingProxyType(
    {
        "lrn": Ablation(
            _without_normalization,
            "no response normalization, of either kind (section 3.3: error +1.4 / +1.2)",
        ),
        "overlap": Ablation(
            _replacing(pool_size=2),
            "pooling windows of 2x2, which do not overlap (section 3.4: error +0.4 / +0.3)",
        ),
        "relu": Ablation(
            _replacing(activation="tanh"),
            "tanh instead of ReLU (section 3.1: six times slower to 25 % error on CIFAR-10)",
        ),
        "dropout": Ablation(
            _replacing(dropout_rate=0.0),
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
    """Return a profile without some of its parts.

    Args:
        profile: whose network it is.
        names: of `ABLATIONS`, in any order.

    Returns:
        The profile without them. It has no published accuracy: its makers' is of the whole.

    Raises:
        ValueError: there is no such ablation, the profile has no such part, or the parts do not go
            without each other.
    """
    ablated = functools.reduce(_without, names, profile)
    return profile if ablated == profile else dataclasses.replace(ablated, published="none")


def _without(profile: Profile, name: str) -> Profile:
    if name not in ABLATIONS:
        raise ValueError(
            f"An ablation must be one of {', '.join(ABLATIONS)}. Received: {name!r}. "
            "Each one's summary says what it leaves out."
        )
    try:
        changed = ABLATIONS[name].change(profile)
    except ValueError as error:
        raise ValueError(f"ablate {name}: {error}") from error
    if changed == profile:
        raise ValueError(
            f"ablate {name} needs a network with that part, but {profile.name} is without it "
            "already; leave it out"
        )
    return changed
