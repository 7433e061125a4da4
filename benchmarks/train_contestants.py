"""The contestants of `train_speed`: each times training steps, in a process of its own.

Started as `python -m benchmarks.train_contestants NAME --batch_size=64 --steps=10 --width=1`, it
prints one line of JSON: the seconds of each step after the warm-up.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping

import numpy as np
from absl import flags

from data_prep import command_line, records

FLAGS = flags.FlagValues()
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "images a step", 1, flag_values=FLAGS)
STEPS = flags.DEFINE_integer("steps", 10, "how many are timed", 1, flag_values=FLAGS)
WIDTH = flags.DEFINE_float("width", 1.0, "units, in parts of the full network's", flag_values=FLAGS)

CLASSES = 1000
_WARM_UP_STEPS = 3
_MATRIX = 4096  # side; large enough that the product alone counts


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One network and the way its training steps are timed.

    Attributes:
        run: (contestant, batch size, steps, width) -> the seconds of each step.
        profile: of the network; None for a matrix product.
        optimizer: "sgd" (momentum 0.9, weight decay 0.0005) or "adam".
        precision: "float32" or "bfloat16".
        channels_last: PyTorch's memory format; TensorFlow's is that on the CPU.
    """

    run: Callable[["Contestant", int, int, float], list[float]]
    profile: str | None = None
    optimizer: str = "sgd"
    precision: str = "float32"
    channels_last: bool = False


def _keras_steps(contestant: Contestant, batch_size: int, steps: int, width: float) -> list[float]:
    """Time the steps of `train`: from uint8 crops to metrics."""
    import keras
    import tensorflow as tf

    from keras_alexnet import PROFILES
    from keras_alexnet.training import build, devices
    from keras_alexnet.training.options import TrainingOptions
    from keras_alexnet.training.steps import TrainingSteps

    profile = PROFILES[contestant.profile].scaled(width)
    options = TrainingOptions(
        optimizer=contestant.optimizer,
        learning_rate=1e-4,
        momentum=0.9,
        weight_decay=0.0005 if contestant.optimizer == "sgd" else 0.0,
        schedule="constant",
        patience=1,
        epochs=1,
        batch_size=batch_size,
        seed=0,
        precision=contestant.precision,
        strategy="one_device",
    )
    tf.config.experimental.enable_op_determinism()  # as `train` does
    keras.utils.set_random_seed(0)
    devices.use_precision(options.precision)
    random = np.random.default_rng(0)
    statistics = grey_statistics()
    _, model = build.build(profile, options, CLASSES, statistics, steps)
    size = profile.input_size
    features = {
        "image": random.integers(0, 256, (batch_size, size, size, 3)).astype(np.uint8),
        "offset": random.integers(0, 256 - size, (batch_size, 2)).astype(np.int32),
        "flip": random.integers(0, 2, batch_size).astype(np.uint8),
        "noise": random.normal(size=(batch_size, 3)).astype(np.float32),
    }
    labels = random.integers(0, CLASSES, batch_size)
    batch = tf.nest.map_structure(tf.constant, (features, labels))
    taken = TrainingSteps(model, tf.distribute.get_strategy(), batch_size)
    clock = _Clock()
    for _ in range(_WARM_UP_STEPS + steps):
        taken.train(batch, tf.constant(0.0)).numpy()
        clock.tick()
    return clock.seconds[-steps:]


def grey_statistics() -> records.Statistics:
    """Return the statistics of no photos in particular: grey, with a deviation of 60 levels."""
    return records.Statistics(
        count=1,
        mean_image=np.full((256, 256, 3), 120, np.float32),
        channel_mean=np.full(3, 120.0),
        channel_std=np.full(3, 60.0),
        covariance=np.eye(3) * 3600,
        pca_eigenvalues=np.full(3, 3600.0),
        pca_eigenvectors=np.eye(3),
    )


def _torch_steps(contestant: Contestant, batch_size: int, steps: int, width: float) -> list[float]:
    """Time the port's loop, from prepared float input (what its loader does is not in the step)."""
    import torch

    from benchmarks import torch_alexnet
    from keras_alexnet import PROFILES

    torch.manual_seed(0)
    profile = PROFILES[contestant.profile].scaled(width)
    network = torch_alexnet.SeedAlexNet(CLASSES, profile.conv_filters, profile.fc_units)
    images = torch.randn(batch_size, 3, profile.input_size, profile.input_size)
    if contestant.channels_last:
        network = network.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch_size,))
    if contestant.optimizer == "adam":
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    else:
        optimizer = torch.optim.SGD(
            network.parameters(), lr=1e-4, momentum=0.9, weight_decay=0.0005
        )
    clock = _Clock()
    for _ in range(_WARM_UP_STEPS + steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=contestant.precision == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        clock.tick()
    return clock.seconds[-steps:]


def _matrix_product(
    contestant: Contestant, batch_size: int, steps: int, width: float
) -> list[float]:
    """Time TensorFlow's product of two square matrices: what this machine can do at best."""
    del batch_size
    import tensorflow as tf

    side = max(64, int(_MATRIX * width))
    dtype = tf.as_dtype(contestant.precision)
    one = tf.cast(tf.random.normal([side, side]), dtype)
    product = tf.function(lambda: tf.reduce_max(tf.matmul(one, one, transpose_b=True)))
    clock = _Clock()
    for _ in range(_WARM_UP_STEPS + steps):
        product().numpy()
        clock.tick()
    return clock.seconds[-steps:]


class _Clock:
    """The seconds between ticks."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = time.perf_counter()

    def tick(self) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


CONTESTANTS: Mapping[str, Contestant] = {
    "matmul_float32": Contestant(_matrix_product),
    "matmul_bfloat16": Contestant(_matrix_product, precision="bfloat16"),
    "port_sgd": Contestant(_torch_steps, "seed"),
    "port_adam": Contestant(_torch_steps, "seed", "adam"),
    "port_bfloat16": Contestant(_torch_steps, "seed", "sgd", "bfloat16", channels_last=True),
    "seed_sgd": Contestant(_keras_steps, "seed"),
    "seed_adam": Contestant(_keras_steps, "seed", "adam"),
    "paper": Contestant(_keras_steps, "paper"),
    "paper_bfloat16": Contestant(_keras_steps, "paper", precision="bfloat16"),
    "krizhevsky2012": Contestant(_keras_steps, "krizhevsky2012"),
    "caffe": Contestant(_keras_steps, "caffe"),
    "caffenet": Contestant(_keras_steps, "caffenet"),
    "owt": Contestant(_keras_steps, "owt"),
}


def flop_of_a_step(contestant: Contestant, batch_size: int, width: float) -> float:
    """Floating-point operations of the products in a step, two a multiply-add.

    Backward, each product is done twice again, for the weights and for the inputs; the photos
    themselves need no gradient.
    """
    if contestant.profile is None:
        return 2.0 * max(64, int(_MATRIX * width)) ** 3
    from keras_alexnet import PROFILES
    from keras_alexnet.network import figures

    layers = figures.profile_figures(PROFILES[contestant.profile].scaled(width), classes=CLASSES)
    work = {layer.name: layer.multiply_adds for layer in layers}
    return 2.0 * batch_size * (3 * sum(work.values()) - work["conv1"])


def main(arguments: list[str]) -> dict[str, object]:
    """Run the contestant that the command line names."""
    contestant = CONTESTANTS[arguments[0]]
    seconds = contestant.run(contestant, BATCH_SIZE.value, STEPS.value, WIDTH.value)
    return {"seconds": seconds}


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__, takes_arguments=True)
