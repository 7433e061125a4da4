"""Packaging of keras-alexnet; the versions that were tested together are in requirements.lock."""

import setuptools

_COMMANDS = {
    "data_prep": ("rehearsal", "prepare", "verify"),
    "keras_alexnet": ("describe", "preflight", "convert", "train", "evaluate", "export"),
    "keras_alexnet.serving": ("local_server", "client"),
}
_DASK = "apache-beam[dask]>=2.77,<2.78"

setuptools.setup(
    name="keras-alexnet",
    version="0.1.0",
    description="The AlexNet of 2012 in TensorFlow and Keras: prepare, train, evaluate, serve.",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[
        "data_prep",
        "data_prep.audit",
        "data_prep.sources",
        "keras_alexnet",
        "keras_alexnet.column_parallel",
        "keras_alexnet.foreign_weights",
        "keras_alexnet.layers",
        "keras_alexnet.preflight_checks",
        "keras_alexnet.serving",
    ],
    install_requires=[
        "absl-py",
        "apache-beam>=2.77,<2.78",
        "google-crc32c",
        "h5py",  # reads .weights.h5 files layer by layer
        "keras>=3.15,<3.16",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "protobuf",
        "scipy",  # reads meta.mat of the ILSVRC2012 devkit
        "tensorboard",
        "tensorflow>=2.21,<2.22",
        "tqdm",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "serving": ["grpcio", "tensorflow-serving-api>=2.21,<2.22"],
        "dask": [_DASK],
        "torch": ["torch"],  # reads PyTorch's checkpoints; benchmarks run its port
        "dev": [
            _DASK,
            "psutil",
            "pytest",
            "pytest-xdist",
            "ruff",
            "setuptools",
            "tensorflow-datasets",
            "tfrecord",  # a reader of the data set that tests try
        ],
    },
    entry_points={
        "console_scripts": [
            f"keras-alexnet-{command.replace('_', '-')} = {package}.{command}:run"
            for package, commands in _COMMANDS.items()
            for command in commands
        ]
    },
)
