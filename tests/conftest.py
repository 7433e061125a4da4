"""Fixtures of all tests. TensorFlow is not loaded here: see support/tensorflow_process.py."""

import collections
import pathlib
import subprocess

import pytest

# By the fixture that a test requests: the marker it gets.
_MARKERS = {"torch": "torch", "torch_alexnet": "torch", "driver": "browser", "small_disk": "root"}


def pytest_ignore_collect(collection_path: pathlib.Path, config: pytest.Config) -> bool | None:
    """Leave out files that are slow as a whole where `-m "not slow ..."` would deselect them all.

    Importing them takes a third of the time of `make check`.
    """
    if "not slow" in config.option.markexpr and collection_path.name.endswith("_test.py"):
        is_slow = "\npytestmark = pytest.mark.slow\n" in collection_path.read_text("utf-8")
        return True if is_slow else None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they need, which their fixtures show."""
    for item in items:
        for fixture in _MARKERS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(_MARKERS[fixture])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a line for each reason of skipped tests: how many, and what would make them run."""
    reasons = collections.Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
    )
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped {count}: {reason}")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a prepared data set of 2 classes: 38 train photos (2 more rejected), 10 validation."""
    from data_prep import prepare
    from data_prep.rehearsal import photos, release

    folder = tmp_path_factory.mktemp("data_set")
    release.write_release(
        output_dir=str(folder / "release"),
        recipe=photos.Recipe(classes=2, images_per_class=20, validation_per_class=5, seed=0),
        workers=1,
    )
    prepare.prepare(
        source="ilsvrc2012",
        input_dir=str(folder / "release"),
        output_dir=str(folder / "data"),
        train_shards=3,
        validation_shards=2,
        short_side=256,
        quality=95,
        seed=0,
        beam_options=["--runner=FnApiRunner"],
    )
    return folder / "data"


@pytest.fixture
def small_disk(tmp_path: pathlib.Path):
    """Make a file system that a test fills: a function of its size, such as "400k"."""
    disk = tmp_path / "disk"

    def mount(size: str) -> pathlib.Path:
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk],
            capture_output=True,
            check=False,
        )
        if mounted.returncode:
            disk.rmdir()
            pytest.skip("needs root, who may mount a small file system")
        return disk

    yield mount
    if disk.exists():
        # Lazily: TensorFlow may have a file open there for as long as the process runs.
        subprocess.run(["umount", "--lazy", disk], check=True)
