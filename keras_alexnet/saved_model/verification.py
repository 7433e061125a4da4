"""Proves that a published version is whole, loads without this project, and is the network."""

import time
from collections.abc import Sequence

from keras_alexnet.saved_model import agreement, fresh_process, versions
from keras_alexnet.training import workdir as workdirs


def verify(
    *,
    trained: workdirs.TrainedRun,
    photos: Sequence[bytes],
    export_dir: str,
    version: int | None = None,
) -> dict[str, object]:
    """Compare the files of a version with its checksums, and its answers with a network.

    Args:
        trained: the network that it should be.
        photos: some photos as the data set stores them, JPEG or PNG files.
        export_dir: local folder of the model.
        version: None for the newest.

    Returns:
        version, path, files (how many have the right checksum), loaders (by which it was loaded),
        requests (how many were run by each), photos, max_difference (as `export` has it), seconds.

    Raises:
        ValueError: there is no such version, or it is another than was written, cannot be loaded
            without this project, or answers otherwise than the network.
    """
    started = time.perf_counter()
    number, path = _published(export_dir, version)
    file_count = versions.check(path)
    known = agreement.reference(trained, photos)
    requests = agreement.requests_for(known, path)
    answers = fresh_process.answers_of(path, requests)
    difference = max(
        agreement.largest_difference(known, requests, outputs, f"{path}, loaded by {loader},")
        for loader, outputs in answers.items()
    )
    return {
        "version": number,
        "path": path,
        "files": file_count,
        "loaders": list(answers),
        "requests": len(requests),
        "photos": len(photos),
        "max_difference": difference,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _published(export_dir: str, version: int | None) -> tuple[int, str]:
    found = versions.published(export_dir)
    if not found:
        raise ValueError(
            f"a folder with a version of a model in it is needed, {export_dir} has none; export "
            f"first, or check export_dir"
        )
    number = max(found) if version is None else version
    if number not in found:
        raise ValueError(
            f"version {number} is needed, {export_dir} has {', '.join(map(str, found))}; "
            f"check version"
        )
    return number, found[number]
