"""The published systems called AlexNet, each a `Profile`: what differs between them is data.

The paper, its authors' program, Caffe's two networks and the two PyTorch ports all say "AlexNet"
and differ in input, normalization, initialization and recipe. No other module asks for a profile's
name. `python -m keras_alexnet.describe --all` prints the table of what differs.

Sources: the paper (Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional
Neural Networks, NIPS 2012); the authors' program (computerhistory/AlexNet-Source-Code: network
145, layers/layers-145.cfg, layer-params-145.cfg with its log, and convdata_jpeg.py); Caffe
(BVLC/caffe, train_val.prototxt and solver.prototxt of models/bvlc_alexnet and
models/bvlc_reference_caffenet); torchvision (models/alexnet.py, references/classification);
dansuh17/alexnet-pytorch (model.py).
"""

import dataclasses
import types
from collections.abc import Mapping

from keras_alexnet.network.profile import Profile

# Mean of R, G and B over the training photos of ILSVRC2012 at 256x256 (cuda-convnet2's
# batches.meta).
ILSVRC2012_MEAN = (127.305, 119.715, 104.913)

# The constants that torchvision and most PyTorch programs use, of pixels in 0-1.
_IMAGENET_MEAN = tuple(255 * value for value in (0.485, 0.456, 0.406))
_IMAGENET_STD = tuple(255 * value for value in (0.229, 0.224, 0.225))

PAPER = Profile(
    name="paper",
    summary="the text of the NIPS 2012 paper, to the letter",
    published="59.3 / 81.8 %, ten views",
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
    conv5_order=("relu", "pool"),
    removed_layers=(),
    activation="relu",
    pool_size=3,
    lrn_size=5,
    lrn_k=2.0,
    lrn_alpha=1e-4,
    lrn_beta=0.75,
    lrn_alpha_divided_by_size=False,
    lrn_crosses_columns=True,  # section 3.3: N is the total number of kernels in the layer
    # No order has "map_norm" but the 2012 program's, whose numbers these are.
    map_norm_size=5,
    map_norm_k=1.0,
    map_norm_alpha=1e-3,
    map_norm_beta=0.75,
    kernel_init=(0.01,) * 8,
    bias_init=(0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    dropout_rate=0.5,
    dropout_at="outputs",
    mean="image",
    mean_position="crop",  # the paper: "the mean activity over the training set from each pixel"
    channel_mean=None,
    channel_std=None,
    pixel_scale=1.0,
    training_crop="random",
    training_flip=True,
    crop_chunk=1,
    colour_noise="eigenvalue",
    colour_noise_std=0.1,
    colour_noise_divisor=1.0,
    bias_learning_rate_multiplier=1.0,
    bias_learning_rate_falls=True,
    bias_decay_multiplier=1.0,  # section 5 has one rule for "the weight w" and names no exception
    optimizer="sgd",
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=0.0005,
    batch_size=128,
    schedule="plateau",
    learning_rate_factor=0.1,
    plateau_drops=3,
    drop_epochs=(25, 50, 78),  # when its authors did it by hand (see krizhevsky2012), of 90
    epochs=90,
    colour_order="RGB",
)

KRIZHEVSKY2012 = dataclasses.replace(
    PAPER,
    name="krizhevsky2012",
    summary="the program of the paper's authors, network 145: what was run in 2012",
    # The run that was pushed back up at epoch 91; the paper prints it before, 59.3 / 81.8.
    published="59.75 / 82.01 %, ten views",
    # The paper's order of text is not the program's: LRN sees conv1's negative values too.
    conv1_order=("lrn", "pool", "relu"),
    conv2_order=("relu", "lrn", "map_norm", "pool"),
    conv5_order=("pool", "relu"),
    lrn_alpha_divided_by_size=True,
    lrn_crosses_columns=False,
    kernel_init=(0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01),
    mean_position="centre",
    crop_chunk=32,  # convdata_jpeg.py: one crop, offsets 0 to 32, and one flip for 32 photos
    colour_noise="deviation",
    colour_noise_divisor=1.1,
    bias_learning_rate_multiplier=2.0,
    bias_learning_rate_falls=False,  # its log sets epsW anew, epsB stays 0.02
    bias_decay_multiplier=0.0,
    schedule="krizhevsky2012",
    # Of its log, what the schedule "steps" can say: the drops of the whole network's rate to 91.
    drop_epochs=(25, 51, 79),
    epochs=135,
)

CAFFE = dataclasses.replace(
    PAPER,
    name="caffe",
    summary="Caffe's bvlc_alexnet: 227 pixels, alpha/n and k=1 in LRN, biases of 0.1, no noise",
    published="57.1 / 80.2 %, centre",
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
    drop_epochs=(20, 40, 60, 80),
    epochs=90,
    colour_order="BGR",
)

CAFFENET = dataclasses.replace(
    CAFFE,
    name="caffenet",
    summary="Caffe's bvlc_reference_caffenet: as caffe, pooling before LRN, biases of 1",
    published="57.4 / 80.4 %, centre",
    conv1_order=("relu", "pool", "lrn"),
    conv2_order=("relu", "pool", "lrn"),
    bias_init=(0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0),
)

OWT = dataclasses.replace(
    PAPER,
    name="owt",
    summary="torchvision's alexnet, of 'One weird trick' (2014): one column, no LRN",
    published="56.522 / 79.066 %, centre",
    conv1_padding=(2, 2),
    conv_filters=(64, 192, 384, 256, 256),
    conv_groups=(1,) * 5,
    conv1_order=("relu", "pool"),
    conv2_order=("relu", "pool"),
    kernel_init=("fan_in_uniform",) * 8,
    bias_init=("fan_in_uniform",) * 8,
    dropout_at="inputs",
    mean="channels",
    mean_position=None,
    channel_mean=_IMAGENET_MEAN,
    channel_std=_IMAGENET_STD,
    # torchvision trains on crops of random size and shape of the original photo, which a stored
    # photo of 256x256 does not have any more; these are the 2014 paper's.
    training_crop="random",
    colour_noise=None,
    weight_decay=0.0001,  # torchvision's default for its reference training
    batch_size=256,  # 32 on each of 8 GPUs
    schedule="steps",
    drop_epochs=(30, 60),
)

SEED = dataclasses.replace(
    PAPER,
    name="seed",
    summary="dansuh17's PyTorch port, which this project began from: one column, Adam",
    published="none",
    input_size=227,
    conv1_padding=(0, 0),
    conv_groups=(1,) * 5,
    lrn_alpha_divided_by_size=True,  # torch.nn.LocalResponseNorm divides
    # Of its dense layers the port sets nothing, so they start as torch.nn.Linear does.
    kernel_init=(0.01,) * 5 + ("fan_in_uniform",) * 3,
    bias_init=(0.0, 1.0, 0.0, 1.0, 1.0) + ("fan_in_uniform",) * 3,
    dropout_at="inputs",
    mean="channels",
    mean_position=None,
    channel_mean=_IMAGENET_MEAN,
    channel_std=_IMAGENET_STD,
    training_crop="centre",
    training_flip=False,
    colour_noise=None,
    optimizer="adam",
    learning_rate=1e-4,
    weight_decay=0.0,
    schedule="steps",
    drop_epochs=(30, 60),
)

PROFILES: Mapping[str, Profile] = types.MappingProxyType(
    {profile.name: profile for profile in (PAPER, KRIZHEVSKY2012, CAFFE, CAFFENET, OWT, SEED)}
)


def get_profile(profile: str | Profile) -> Profile:
    """Return the profile of that name in `PROFILES`, or the `Profile` itself.

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
