"""Tests of this folder need TensorFlow."""

import functools

import pytest
import train_runs
from tensorflow_process import float32_again, float64, memory_is_given_back

__all__ = ["float32_again", "float64", "memory_is_given_back"]


@pytest.fixture(scope="session")
def finished(data_dir, tmp_path_factory):
    """Return a function: the folder of a whole run, made once; copy it before a change."""

    @functools.cache
    def finish(**changes):
        folder = tmp_path_factory.mktemp("finished") / "run"
        train_runs.run(data_dir, folder, **changes)
        return folder

    return finish
