"""Fixtures of the data job: photos, a prepared data set, real object stores."""

import contextlib
import itertools
import os

import object_stores
import photo_folders
import pytest

_numbers = itertools.count()


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Class folders, see `photo_folders.write_photos`."""
    return photo_folders.write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def prepared(photos, tmp_path_factory):
    """Return the data set of `photos`, made in one process: its folder, and prepare's figures."""
    from data_prep import prepare

    output_dir = tmp_path_factory.mktemp("prepared") / "data"
    return output_dir, prepare.prepare(**photo_folders.arguments(photos, output_dir))


@pytest.fixture(scope="session")
def new_bucket(tmp_path_factory):
    """Return a function: the scheme of a store -> the path of an empty bucket; starts the store."""
    with contextlib.ExitStack() as stack:
        started = set()

        def make(scheme):
            if scheme not in started:
                folder = tmp_path_factory.mktemp(scheme)
                os.environ.update(stack.enter_context(object_stores.running(scheme, folder)))
                started.add(scheme)
            return object_stores.make_bucket(scheme, f"bucket{next(_numbers)}")

        before = dict(os.environ)
        yield make
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@pytest.fixture(params=[pytest.param(scheme, marks=pytest.mark.slow) for scheme in ("s3", "gs")])
def bucket(request, new_bucket):
    """Return an empty bucket: its path."""
    return new_bucket(request.param)
