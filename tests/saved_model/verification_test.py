import dataclasses
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import stand_in
import tensorflow as tf
from repository import ROOT

from keras_alexnet.saved_model import agreement, fresh_process, signatures, verification, versions

pytestmark = pytest.mark.slow

PHOTOS = [stand_in.photo(seed=seed) for seed in range(4)]


@pytest.fixture(scope="module")
def run():
    return stand_in.trained_run()


@pytest.fixture(scope="module")
def export_dir(run, tmp_path_factory):
    base = tmp_path_factory.mktemp("verify") / "birds"
    stand_in.publish(base)
    return base


@pytest.fixture(scope="module")
def known(run):
    return agreement.reference(run, PHOTOS)


@pytest.fixture(scope="module")
def asked(known, export_dir):
    """Return requests, and right answers to them."""
    path = str(export_dir / "1")
    requests = agreement.requests_for(known, path)
    return requests, fresh_process.by_saved_model(path, requests)


def test_a_good_version(run, export_dir):
    result = verification.verify(trained=run, photos=PHOTOS, export_dir=str(export_dir))
    assert result["version"] == 1
    assert result["path"] == str(export_dir / "1")
    assert result["files"] == 6
    assert result["loaders"] == ["tf.saved_model.load", "tf.compat.v1.saved_model.loader"]
    assert result["requests"] == 6 + 14  # one a signature, and the warm-up requests
    assert 0 <= result["max_difference"] < 1e-5


def test_the_reference_is_the_runs_network(run, known):
    expected = stand_in.scores(run, known.images)
    np.testing.assert_allclose(known.view_scores[known.centre], expected, atol=1e-6)
    assert known.heat_maps.shape == (4, 13, 13)
    assert known.features.shape == (4, stand_in.PROFILE.fc_units[1])


WRONG = {
    "f": lambda output: output + np.float32(0.01),
    "i": lambda output: output + 1,
    "b": lambda output: ~output,
    "O": lambda output: np.full_like(output, b"another name"),
}


def test_every_output_of_every_request_is_compared(known, asked):
    assert {request.signature for request in asked[0]} == set(signatures.INPUT_NAMES)
    for request, answer in zip(*asked, strict=True):
        for name, output in answer.items():
            wrong = {**answer, name: WRONG[output.dtype.kind](output)}
            with pytest.raises(ValueError, match=f"but {request.signature} differs"):
                agreement.largest_difference(known, [request], [wrong], "it")
            if output.dtype == np.float32:
                nan = {**answer, name: np.full_like(output, np.nan)}
                with pytest.raises(ValueError, match=r"nan|inf"):
                    agreement.largest_difference(known, [request], [nan], "it")


def test_an_answer_to_what_is_no_photo_is_wrong(known, asked):
    for request, answer in zip(*asked, strict=True):
        (values,) = request.inputs.values()
        if len(values) != len(PHOTOS) + 1:
            continue  # only these have something that is no photo, behind the first photo
        for name in set(answer) - {"valid", "heat_box", "view_boxes", "stored_size"}:
            output = answer[name].copy()
            output[1] = answer[name][0]
            with pytest.raises(ValueError, match=f"inf in {name}"):
                agreement.largest_difference(known, [request], [{**answer, name: output}], "it")


def test_classes_of_one_name(known, asked):
    requests, answers = asked
    same = dataclasses.replace(known, names=[b"crane"] * len(known.names))
    rename = np.frompyfunc(lambda name: name and b"crane", 1, 1)
    renamed = [
        {name: rename(out) if out.dtype == object else out for name, out in answer.items()}
        for answer in answers
    ]
    assert agreement.largest_difference(same, requests, renamed, "it") < 1e-5


def test_another_network(run, export_dir):
    other = stand_in.trained_run(seed=2)
    with pytest.raises(ValueError, match=r"birds/1, loaded by tf\.saved_model\.load, has to"):
        verification.verify(trained=other, photos=PHOTOS, export_dir=str(export_dir))


def test_a_changed_file(run, export_dir, tmp_path):
    shutil.copytree(export_dir, tmp_path / "birds")
    with open(tmp_path / "birds" / "1" / "variables" / "variables.index", "ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=r"birds/1 .*: variables/variables\.index is not the file"):
        verification.verify(trained=run, photos=PHOTOS, export_dir=str(tmp_path / "birds"))


def test_which_version(run, export_dir, tmp_path):
    with pytest.raises(ValueError, match=r"version 7 is needed, .* has 1; check version"):
        verification.verify(trained=run, photos=PHOTOS, export_dir=str(export_dir), version=7)
    with pytest.raises(ValueError, match=r"has none; export first"):
        verification.verify(trained=run, photos=PHOTOS, export_dir=str(tmp_path))


class _NeedsPython(tf.Module):
    """Works in the process that made it: its function is looked up in a table of that process."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serving_default(self, image_bytes):
        return {"valid": tf.py_function(lambda x: x != b"", [image_bytes], tf.bool)}


def test_a_model_that_needs_this_process(run, tmp_path):
    path = tmp_path / "birds" / "1"
    module = _NeedsPython()
    tf.saved_model.save(module, str(path), signatures=module.serving_default)
    inputs = {"image_bytes": np.array(PHOTOS[:1], object)}
    fresh_process.by_saved_model(str(path), [fresh_process.Request("serving_default", inputs)])
    versions.write(str(path))
    with pytest.raises(ValueError, match=r"by TensorFlow alone, but .*EagerPyFunc.*; export"):
        verification.verify(trained=run, photos=PHOTOS, export_dir=str(tmp_path / "birds"))


def test_the_process_cannot_import_the_project(tmp_path):
    script = (
        "import runpy, sys, keras_alexnet\n"  # it could
        "del sys.modules['keras_alexnet']\n"
        f"runpy.run_path({fresh_process.__file__!r})['forbid_project']()\n"
        "for name in ('keras_alexnet', 'data_prep.records'):\n"
        "    try: __import__(name)\n"
        "    except ModuleNotFoundError as error: print(error)\n"
        "import json.tool\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        "keras_alexnet must not be needed to load an exported model",
        "data_prep must not be needed to load an exported model",
    ]
