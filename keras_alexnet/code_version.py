"""Which code a run was made with."""

import importlib.metadata
import os
import platform
import subprocess

import keras
import tensorflow as tf

_HERE = os.path.dirname(os.path.abspath(__file__))


def code_version() -> dict[str, str | None]:
    """Versions of this project, of what it stands on, and of Python; JSON-able.

    Returns:
        keras_alexnet, commit (of the checkout, "+" behind it where files differ; None outside of
        one), tensorflow, keras, python.
    """
    try:
        version = importlib.metadata.version("keras-alexnet")
    except importlib.metadata.PackageNotFoundError:  # run from a folder, not installed
        version = None
    return {
        "keras_alexnet": version,
        "commit": _commit(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }


def _commit() -> str | None:
    head = _git("rev-parse", "HEAD")
    if not head or _git("ls-files", "--error-unmatch", os.path.basename(__file__)) is None:
        return None  # no git, or a checkout of something else around an installed package
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", _HERE, *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
