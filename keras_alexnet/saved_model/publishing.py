"""Publishes a trained network as the next version of a served model."""

import os
import time
from collections.abc import Sequence

from data_prep import files
from keras_alexnet.saved_model import (
    agreement,
    deployment,
    fresh_process,
    signatures,
    versions,
    warmup,
)
from keras_alexnet.training import workdir as workdirs


def export(
    *,
    trained: workdirs.TrainedRun,
    photos: Sequence[bytes],
    export_dir: str,
    fit: str = "short_side",
    keep_versions: int = 0,
) -> dict[str, object]:
    """Publish a network as the next version of a model.

    Args:
        trained: the network and what it was trained with.
        photos: some photos as the data set stores them, JPEG or PNG files, on which the written
            model is compared with the network, and which become TF Serving's warm-up requests.
        export_dir: local folder of the model, made if absent.
        fit: how the data set's squares were made of photos, see `data_prep.conversion_rule.Rule`.
        keep_versions: how many versions to keep, the new one among them; 0 for all.

    Returns:
        version, path, max_difference (of a score, a feature or a heat map, between the written
        model and the network), photos (how many were compared), warmup_requests, removed (the
        versions that were), seconds.

    Raises:
        ValueError: the written model answers otherwise than the network; nothing is published.
        OSError: the folder cannot be written, or another export published this version.
    """
    started = time.perf_counter()
    version = 1 + max(versions.published(base_folder(export_dir)), default=0)
    path = os.path.join(export_dir, str(version))
    known = agreement.reference(trained, photos)
    model_name = os.path.basename(os.path.abspath(export_dir))
    with files.new_folder(path) as folder:
        signatures.save(trained, folder, fit)
        warmup_requests = warmup.write(
            folder,
            inputs=signatures.inputs_of(photos, known.images),
            model_name=model_name,
        )
        readme = deployment.version_readme(trained, model_name, fit)
        files.write_file(os.path.join(folder, "README.txt"), readme)
        requests = agreement.requests_for(known, folder)
        # In this process, by one of the loaders; `verification.verify` has a new process and both.
        answers = fresh_process.by_saved_model(folder, requests)
        what = f"the model for {path}, which was not published,"
        difference = agreement.largest_difference(known, requests, answers, what)
        versions.write(folder)
    deployment.write(export_dir, model_name)
    removed = versions.remove_oldest(export_dir, keep_versions) if keep_versions else []
    return {
        "version": version,
        "path": os.path.abspath(path),
        "max_difference": difference,
        "photos": len(photos),
        "warmup_requests": warmup_requests,
        "removed": removed,
        "seconds": round(time.perf_counter() - started, 1),
    }


def base_folder(export_dir: str) -> str:
    """Return the same path if versions can be made in it.

    Raises:
        ValueError: it is not local, a version, or a file.
    """
    name = os.path.basename(os.path.abspath(export_dir))
    if "://" in export_dir:
        raise ValueError(
            f"export_dir must be a local folder. Received: {export_dir}. Export to a local one and "
            f"copy the version to where it is served."
        )
    if versions.is_version(name):
        raise ValueError(
            f"export_dir must be the folder of the model, but {export_dir} looks like one of its "
            f"versions; leave the number out, it is chosen"
        )
    if os.path.exists(export_dir) and not os.path.isdir(export_dir):
        raise ValueError(f"export_dir must be a folder, but {export_dir} is a file; name another")
    return export_dir
