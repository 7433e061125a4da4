"""Tests of this folder need TensorFlow, and most of them the same model and server."""

import functools
import json

import numpy as np
import pytest
import served
import stand_in
from tensorflow_process import float32_again, float64, memory_is_given_back

from data_prep.photos import images

__all__ = ["float32_again", "float64", "memory_is_given_back"]


@pytest.fixture(scope="session")
def run():
    return stand_in.trained_run()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "birds"
    stand_in.publish(folder)
    return folder


@pytest.fixture(scope="session")
def server(model_dir, tmp_path_factory):
    """Start a server in a process that has seen worse when it ends."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    with served.local_server(model_dir, log, "--max_body_mb=4", "--timeout=5") as server:
        yield server
    text = log.read_text()
    assert "Traceback" not in text
    assert json.loads(text.splitlines()[-1])["requests"] > 0


@pytest.fixture(scope="session")
def other_server(model_dir):
    """Start a server in this process, with what `server` has otherwise."""
    options = {"host": "[::]", "batch": 1, "idle_seconds": 1}
    with served.serving(model_dir, **options) as server:
        port, grpc_port = (server[kind].rsplit(":", 1)[1] for kind in ("http", "grpc"))
        yield served.Server(f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}")


@pytest.fixture(scope="session")
def assert_right(run):
    """Return a comparison of rows with photos' best classes by Pillow, OpenCV and NumPy."""

    @functools.cache
    def best(photo):
        stored = images.resize_and_crop(stand_in.decoded(photo), 256)
        (scores,) = stand_in.scores(run, stored[np.newaxis])
        order = np.argsort(-scores)[:5]
        return order.tolist(), [run.classes[index].name for index in order], scores[order]

    def check(rows, photos):
        for row, (class_ids, classes, scores) in zip(rows, map(best, photos), strict=True):
            assert row["class_ids"] == class_ids
            assert row["classes"] == classes
            np.testing.assert_allclose(row["scores"], scores, atol=1e-3)
            assert row["valid"] is True

    return check
