"""What a published AlexNet is, as data: one frozen dataclass, one instance a system.

The paper, the authors' 2012 program, Caffe and the PyTorch ports all say "AlexNet" and differ in
input, normalisation, initialisation and recipe. Here each of them is a `Profile`, every difference
is a field, and no other module asks for a profile's name. Nothing here imports TensorFlow, so a
command line can offer the names at once.

Sources: the paper (Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional
Neural Networks, NIPS 2012); the authors' program (computerhistory/AlexNet-Source-Code, network
145); Caffe (BVLC/caffe, models/bvlc_alexnet: train_val.prototxt and solver.prototxt).
"""

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence

from keras_alexnet.profile_rules import POSITIVE, RULES

# The smallest padded input whose pool5 still has a pixel: 67 -> 15 -> 7 -> 3 -> 1.
_SMALLEST_PADDED_INPUT = 67
_WIDTH_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class Profile:
    """One system's AlexNet: network, input and recipe.

    Immutable; a variant is `dataclasses.replace(profile, field=value)`, which validates again.
    Sequences of 8 are in the order conv1 ... conv5, fc6, fc7, fc8; of 5, conv1 ... conv5.

    Attributes:
        name: what `--profile` calls it.
        summary: a line for a person who has to choose.
        input_size: side of the network input, pixels. Paper, section 4.1: 224; Caffe: crop_size.
        conv1_padding: rows and columns of zeros (before, after) the input, of which conv1, 11x11
            with stride 4 and no padding of its own, makes 55x55.
        conv_filters: output channels. Paper, section 3.5.
        conv_groups: 2 where a column sees only its own half of the maps. Paper, figure 2.
        fc_units: of fc6 and fc7. Paper, section 3.5.
        conv1_order: what follows conv1, in order, of "relu", "lrn", "pool". Pooling is 3x3 with
            stride 2 and no padding everywhere (paper, section 3.4).
        conv2_order: the same for conv2.
        lrn_size: n, the number of adjacent maps of a local response normalization (section 3.3).
        lrn_k: k, what the weighted sum of squares is added to.
        lrn_alpha: the weight of the sum of squares.
        lrn_beta: the exponent of the denominator.
        lrn_alpha_divided_by_size: whether the sum's weight is alpha / n instead of alpha.
        lrn_crosses_groups: whether the neighbours of a map may lie in the other column.
        kernel_init: a layer, the standard deviation of a zero-mean normal distribution, or one of
            `profile_rules.INITIALIZERS`.
        bias_init: a layer, the constant that its biases start with.
        dropout_rate: the share of units set to zero in training. Paper, section 4.2.
        dropout_at: "outputs" of fc6 and fc7 (after their ReLU).
        mean: what is subtracted from a pixel: "image", the mean image of the training set.
        mean_position: which part of the mean image: the one under the "crop".
        pixel_scale: network input = (pixel - mean) * pixel_scale; 1.0 leaves grey levels, 0-255.
        colour_noise: None, or what the principal components of RGB are scaled with in training:
            "eigenvalue", of the covariance of pixels in 0-1, the result then in units of the
            whole range (see `preprocessing.network_input`). Paper, section 4.1.
        colour_noise_std: standard deviation of the draw that the scale is multiplied by.
        bias_learning_rate_multiplier: learning rate of the biases / learning rate.
        bias_decay_multiplier: weight decay of the biases / weight decay.
        optimizer: "sgd", with the update v <- momentum * v - learning_rate * (gradient +
            weight_decay * w), w <- w + v. Paper, section 5.
        learning_rate: at the start.
        momentum: of the update above.
        weight_decay: of the update above, inside the gradient.
        batch_size: images a step, over all devices.
        schedule: how the learning rate falls: "plateau", when the validation error stops
            improving; "steps", every `epochs_per_drop` epochs.
        learning_rate_factor: what a drop multiplies the learning rate by.
        learning_rate_drops: how many drops there are at most.
        epochs_per_drop: of the schedule "steps", else None.
        epochs: length of a run.
    """

    name: str
    summary: str
    input_size: int
    conv1_padding: tuple[int, int]
    conv_filters: tuple[int, ...]
    conv_groups: tuple[int, ...]
    fc_units: tuple[int, int]
    conv1_order: tuple[str, ...]
    conv2_order: tuple[str, ...]
    lrn_size: int
    lrn_k: float
    lrn_alpha: float
    lrn_beta: float
    lrn_alpha_divided_by_size: bool
    lrn_crosses_groups: bool
    kernel_init: tuple[float | str, ...]
    bias_init: tuple[float, ...]
    dropout_rate: float
    dropout_at: str
    mean: str
    mean_position: str
    pixel_scale: float
    colour_noise: str | None
    colour_noise_std: float
    bias_learning_rate_multiplier: float
    bias_decay_multiplier: float
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    batch_size: int
    schedule: str
    learning_rate_factor: float
    learning_rate_drops: int
    epochs_per_drop: int | None
    epochs: int

    def __post_init__(self) -> None:
        for field, rule in RULES.items():
            self._require(field, rule.allows(getattr(self, field)), rule.text)
        smallest = _SMALLEST_PADDED_INPUT - sum(self.conv1_padding)
        self._require("input_size", self.input_size >= smallest, f"at least {smallest}")
        inputs = (3, *self.conv_filters)
        divide = all(
            before % groups == 0 and after % groups == 0
            for before, after, groups in zip(
                inputs[:-1], self.conv_filters, self.conv_groups, strict=True
            )
        )
        channels = " -> ".join(map(str, inputs))
        self._require("conv_groups", divide, f"divisors of the channels around: {channels}")
        in_steps = self.schedule == "steps"
        text = f"{'an int above 0' if in_steps else 'None'} for the schedule {self.schedule!r}"
        self._require("epochs_per_drop", in_steps == (self.epochs_per_drop is not None), text)

    def _require(self, field: str, is_valid: bool, text: str) -> None:
        if not is_valid:
            raise ValueError(
                f"Profile.{field} must be {text}. Received: {getattr(self, field)!r}. "
                "The docstring of Profile says what each field means."
            )

    def scaled(self, width: float) -> "Profile":
        """A narrow (or wide) copy: the same network with other numbers of filters and units.

        Args:
            width: what conv_filters and fc_units are multiplied by, above 0. Each is rounded to a
                multiple of 8 and of every group count, and is at least one such multiple.

        Raises:
            ValueError: `width` is not a number above 0.
        """
        if not POSITIVE.allows(width):
            raise ValueError(f"width must be a number above 0, 1.0 for all. Received: {width!r}.")
        multiple = math.lcm(_WIDTH_MULTIPLE, *self.conv_groups)

        def scale(sizes: Sequence[int]) -> tuple[int, ...]:
            return tuple(multiple * max(1, round(size * width / multiple)) for size in sizes)

        return dataclasses.replace(
            self, conv_filters=scale(self.conv_filters), fc_units=scale(self.fc_units)
        )

    def to_dict(self) -> dict[str, object]:
        """All fields in JSON's types (a tuple becomes a list), in the order of their definition."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @staticmethod
    def from_dict(fields: Mapping[str, object]) -> "Profile":
        """The inverse of `to_dict`, also after a trip through JSON.

        Raises:
            ValueError: a field is unknown, is missing, or has a value that no profile may have.
        """
        names = [field.name for field in dataclasses.fields(Profile)]
        unknown = sorted(set(fields) - set(names))
        missing = [name for name in names if name not in fields]
        if unknown or missing:
            raise ValueError(
                "A profile must have exactly the fields of this version's Profile. "
                f"Received: unknown {unknown}, missing {missing}. "
                "Read it with the version of keras-alexnet that wrote it, or correct it."
            )
        return Profile(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in fields.items()
            }
        )


_PAPER = Profile(
    name="paper",
    summary="the text of the NIPS 2012 paper, to the letter",
    input_size=224,
    # The paper prints 224 and 55 but not how the one gives the other. This is what its authors'
    # program does: it rounds the number of windows up, and the three missing pixels at the right
    # and at the bottom count as zeros.
    conv1_padding=(0, 3),
    conv_filters=(96, 256, 384, 384, 256),
    conv_groups=(1, 2, 1, 2, 2),
    fc_units=(4096, 4096),
    conv1_order=("relu", "lrn", "pool"),
    conv2_order=("relu", "lrn", "pool"),
    lrn_size=5,
    lrn_k=2.0,
    lrn_alpha=1e-4,
    lrn_beta=0.75,
    lrn_alpha_divided_by_size=False,
    lrn_crosses_groups=True,  # section 3.3: N is the total number of kernels in the layer
    kernel_init=(0.01,) * 8,
    bias_init=(0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    dropout_rate=0.5,
    dropout_at="outputs",
    mean="image",
    mean_position="crop",  # the paper: "the mean activity over the training set from each pixel"
    pixel_scale=1.0,
    colour_noise="eigenvalue",
    colour_noise_std=0.1,
    bias_learning_rate_multiplier=1.0,
    # The paper's rule is one for "the weight w"; that it decays kernels alone is our reading.
    bias_decay_multiplier=0.0,
    optimizer="sgd",
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=0.0005,
    batch_size=128,
    schedule="plateau",
    learning_rate_factor=0.1,
    learning_rate_drops=3,
    epochs_per_drop=None,
    epochs=90,
)

_CAFFE = dataclasses.replace(
    _PAPER,
    name="caffe",
    summary="Caffe's bvlc_alexnet: 227 pixels, alpha/n and k=1 in LRN, biases of 0.1, no noise",
    input_size=227,
    conv1_padding=(0, 0),
    lrn_k=1.0,
    lrn_alpha_divided_by_size=True,
    kernel_init=(0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01),
    bias_init=(0.0, 0.1, 0.0, 0.1, 0.1, 0.1, 0.1, 0.0),
    colour_noise=None,
    bias_learning_rate_multiplier=2.0,
    bias_decay_multiplier=0.0,
    batch_size=256,
    # 450,000 steps of 256 photos, a drop each 100,000: 89.9 epochs of ImageNet and 19.98.
    schedule="steps",
    learning_rate_drops=4,
    epochs_per_drop=20,
    epochs=90,
)

PROFILES: Mapping[str, Profile] = types.MappingProxyType(
    {profile.name: profile for profile in (_PAPER, _CAFFE)}
)


def get_profile(profile: str | Profile) -> Profile:
    """The profile of that name in `PROFILES`; a `Profile` is returned as it is.

    Raises:
        ValueError: there is no profile of that name.
    """
    if isinstance(profile, Profile):
        return profile
    if profile not in PROFILES:
        raise ValueError(
            f"profile must be one of {', '.join(PROFILES)}, or a Profile. Received: {profile!r}. "
            "Choose one of these, or make a variant with dataclasses.replace."
        )
    return PROFILES[profile]
