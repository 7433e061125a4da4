"""Packaging of keras-alexnet; the versions that were tested together are in requirements.lock."""

import setuptools

# "package": its commands. A command that is a package has its run() in __main__.
_COMMANDS = {
    "data_prep": ("prepare", "verify"),
    "data_prep.rehearsal": ("__main__",),
    "keras_alexnet": (
        "describe",
        "preflight",
        "convert",
        "train",
        "evaluate",
        "export",
        "deconvnet",
    ),
    "keras_alexnet.serving.client": ("__main__",),
    "keras_alexnet.serving.local_server": ("__main__",),
}


def _name(package: str, command: str) -> str:
    name = package.rpartition(".")[2] if command == "__main__" else command
    return name.replace("_", "-")


_DASK = "apache-beam[dask]>=2.77,<2.78"
# Two stacks, and nothing between them: TensorFlow 2.21 with Keras 3.15, and, with the extra
# `addons`, TensorFlow 2.15 with Keras 2.15. The releases between were never tried here.
_TENSORFLOW = "tensorflow>=2.15.1,<2.22," + ",".join(f"!=2.{n}.*" for n in range(16, 21))
_KERAS = "keras>=2.15,<3.16," + ",".join(f"!=3.{n}.*" for n in range(15))

setuptools.setup(
    name="keras-alexnet",
    version="0.1.0",
    description="The AlexNet of 2012 in TensorFlow and Keras: prepare, train, evaluate, serve.",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=setuptools.find_packages(include=("data_prep*", "keras_alexnet*")),
    package_data={
        "data_prep.audit": ["page.html"],
        "keras_alexnet.saved_model": ["templates/*"],
        "keras_alexnet.serving.local_server": ["page/*"],
    },
    install_requires=[
        "absl-py",
        "apache-beam>=2.77,<2.78",
        "fsspec",  # object stores
        "google-crc32c",
        "h5py",  # reads .weights.h5 files layer by layer
        "jinja2",  # the audit's page
        _KERAS,
        "numpy",
        "opencv-python-headless",
        "pillow",
        "prometheus-client",  # the local server's metrics
        "protobuf",
        "psutil",
        "pybase64",  # photos in the local server's JSON
        "scipy",  # reads meta.mat of the ILSVRC2012 devkit
        "tensorboard",
        _TENSORFLOW,
        "tqdm",
        "urllib3>=2",  # the client
        "waitress>=3,<4",  # the local server extends its classes
    ],
    extras_require={
        "gpu": [_TENSORFLOW.replace("tensorflow", "tensorflow[and-cuda]")],
        "serving": ["grpcio", _TENSORFLOW.replace("tensorflow", "tensorflow-serving-api")],
        # The second stack, on Python 3.11: what still uses TensorFlow Addons.
        "addons": [
            "keras==2.15.*",
            "numpy<2",
            "tensorflow==2.15.1",
            "tensorflow-addons==0.23.*",
            "tensorflow-metadata<1.18",  # of tensorflow-datasets; later ones need protobuf 5
        ],
        "dask": [_DASK],
        "gcs": ["gcsfs"],
        "s3": ["s3fs"],
        "torch": ["torch"],  # reads PyTorch's checkpoints; benchmarks run its port
        "dev": [
            _DASK,
            "import-linter",  # the rules between folders in pyproject.toml
            "pytest",
            "pytest-xdist",
            "pyyaml",  # reads the Kubernetes file in a test
            "ruff",
            "selenium",  # drives Chromium in tests of the server's page
            "setuptools",
            "tensorflow-datasets",
            "tfrecord",  # a reader of the data set that tests try
        ],
    },
    entry_points={
        "console_scripts": [
            f"keras-alexnet-{_name(package, command)} = {package}.{command}:run"
            for package, commands in _COMMANDS.items()
            for command in commands
        ]
    },
)
