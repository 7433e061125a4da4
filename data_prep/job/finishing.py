"""From the results of all shards to a finished data set: reconcile, merge, manifest last."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping

from data_prep import records, storage
from data_prep.audit import Audit
from data_prep.job import shard_results, shards, statistics, tfds_metadata
from data_prep.job.shard_results import ShardResult
from data_prep.job.statistics import PixelSums

_TFDS_NAME = "keras_alexnet_photos"


def finish(
    plan: Mapping[str, int], settings: shards.Settings, recipe: Mapping[str, object]
) -> records.Manifest:
    """Check that each photo became a record or a reject, and write all files but the shards.

    Args:
        plan: number of photos in each shard, by its name.
        settings: of the workers.
        recipe: for the manifest.

    Returns:
        The manifest, as it was written: last.

    Raises:
        ValueError: a shard is missing, photos are unaccounted for, or none could be used.
    """
    made: dict[str, list[records.Shard]] = {split: [] for split in records.SPLITS}
    rejected: dict[str, list[tuple[str, str]]] = {split: [] for split in records.SPLITS}
    repairs, notes, files = Counter(), Counter(), {}
    sums = PixelSums.zeros(settings.options.short_side)
    with Audit(settings.classes) as audit:
        for result in _results(plan, settings):
            name = result.shard.name
            split = shards.split_of(name)
            made[split].append(result.shard)
            if result.sums:
                sums.merge(result.sums)
            photos = shards.read_plan(settings.work_dir, name)
            for reference, outcome in zip(photos, result.outcomes, strict=True):
                if outcome.reason:
                    rejected[split].append((reference.key, outcome.reason))
                repairs.update(outcome.repairs)
                notes.update(outcome.notes)
                audit.add(reference, outcome)
            audit.add_thumbnails(split, result.thumbnails)
            if settings.options.index:
                lengths = (o.record_bytes for o in result.outcomes if o.record_bytes)
                index = records.index_name(name)
                files[index] = _publish(settings, index, records.index_text(lengths))
        _check(made, rejected)
        manifest = records.Manifest(
            recipe=recipe,
            classes=settings.classes,
            splits={
                split: records.Split(tuple(made[split]), len(rejected[split]))
                for split in records.SPLITS
            },
            repairs=dict(sorted(repairs.items())),
            notes=dict(sorted(notes.items())),
            files=files,
            label_offset=settings.options.label_offset,
        )
        contents = {
            records.LABELS: records.labels_text(settings.classes),
            records.REJECTED: _rejected_text(rejected),
            **statistics.to_files(statistics.finish(sums)),
            **tfds_metadata.to_files(manifest, name=_TFDS_NAME),
            **audit.to_files(),
        }
    for name, content in contents.items():
        files[name] = _publish(settings, name, content)
    _publish(settings, records.MANIFEST, manifest.to_json())
    return manifest


def _results(plan: Mapping[str, int], settings: shards.Settings) -> Iterator[ShardResult]:
    """Read the result of each shard, one at a time: together they do not fit into memory."""
    for name, photos in plan.items():
        result = shard_results.read(settings.work_dir, name)
        size = storage.size(storage.join(settings.output_dir, name))
        if result is None or size != result.shard.bytes:
            raise ValueError(
                f"each shard must be there when the runner says that it is done; {name} is not: "
                "run the same command again, finished shards are kept"
            )
        if len(result.outcomes) != photos:
            raise ValueError(
                f"{name} was made of {photos} photos, but its result lists {len(result.outcomes)}; "
                "remove the output folder and run again"
            )
        yield result


def _check(
    made: Mapping[str, list[records.Shard]], rejected: Mapping[str, list[tuple[str, str]]]
) -> None:
    """Refuse a split in which no photo could be used."""
    for split, finished in made.items():
        if not any(shard.records for shard in finished):
            raise ValueError(
                f"photos that can be read are needed; all {len(rejected[split])} {split} photos "
                f"were rejected, the first as {rejected[split][0][1]!r}"
            )


def _rejected_text(rejected: Mapping[str, list[tuple[str, str]]]) -> str:
    return "".join(
        json.dumps({"split": split, "key": key, "reason": reason}) + "\n"
        for split, photos in rejected.items()
        for key, reason in sorted(photos)
    )


def _publish(settings: shards.Settings, name: str, content: bytes | str) -> str:
    """Put a file into the data set, whole or not at all; return its sha256."""
    data = content.encode() if isinstance(content, str) else content
    # In the work folder, so that a kill leaves nothing behind in the data set.
    aside = storage.join(settings.work_dir, os.path.basename(name) + ".tmp")
    with storage.create(storage.join(settings.output_dir, name), aside) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()
