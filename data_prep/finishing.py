"""From the results of all shards to a finished data set: reconcile, merge, manifest last."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping

from data_prep import job_folder, records, shards, statistics, tfds_metadata
from data_prep.command_line import UserError
from data_prep.statistics import PixelSums

_TFDS_NAME = "keras_alexnet_photos"


def finish(
    plan: Mapping[str, int], settings: shards.Settings, recipe: Mapping[str, object]
) -> records.Manifest:
    """Proves that each photo became a record or a reject, and writes all files but the shards.

    Args:
        plan: how many photos went into each shard, by its name.
        settings: that the workers had.
        recipe: for the manifest.

    Returns:
        The manifest, as it was written: last.

    Raises:
        UserError: a shard is missing, photos are unaccounted for, or none could be used.
    """
    sums, repairs = PixelSums.zeros(settings.size), Counter()
    made: dict[str, list[records.Shard]] = {split: [] for split in records.SPLITS}
    rejected: dict[str, list[tuple[str, str]]] = {split: [] for split in records.SPLITS}
    for result in _results(plan, settings):
        split = shards.split_of(result.shard.name)
        made[split].append(result.shard)
        rejected[split] += result.rejected
        repairs += result.repairs
        sums.merge(result.sums)
    for split, finished in made.items():
        if not any(shard.records for shard in finished):
            raise UserError(
                f"photos that can be read are needed; all {len(rejected[split])} {split} photos "
                f"were rejected, the first as {rejected[split][0][1]!r}"
            )
    manifest = records.Manifest(
        recipe=recipe,
        classes=settings.classes,
        splits={
            split: records.Split(tuple(made[split]), len(rejected[split]))
            for split in records.SPLITS
        },
        repairs=dict(sorted(repairs.items())),
        files={},
    )
    contents = {
        records.LABELS: records.labels_text(settings.classes),
        records.REJECTED: _rejected_text(rejected),
        **statistics.to_files(statistics.finish(sums)),
        **tfds_metadata.to_files(manifest, name=_TFDS_NAME, size=settings.size),
    }
    for name, content in contents.items():
        manifest.files[name] = _publish(settings, name, content)
    _publish(settings, records.MANIFEST, manifest.to_json())
    return manifest


def _results(plan: Mapping[str, int], settings: shards.Settings) -> Iterator[shards.ShardResult]:
    """What became of each shard, one at a time: together they do not fit into memory."""
    for name, photos in plan.items():
        result = shards.read_result(settings.work_dir, name)
        try:
            size = os.path.getsize(os.path.join(settings.output_dir, name))
        except FileNotFoundError:
            size = None
        if result is None or size != result.shard.bytes:
            raise UserError(
                f"each shard must be there when the runner says that it is done; {name} is not: "
                "run the same command again, finished shards are kept"
            )
        if result.shard.records + len(result.rejected) != photos:
            raise UserError(
                f"{name} was made of {photos} photos, but has {result.shard.records} records and "
                f"{len(result.rejected)} rejects; remove the output folder and run again"
            )
        yield result


def _rejected_text(rejected: Mapping[str, list[tuple[str, str]]]) -> str:
    return "".join(
        json.dumps({"split": split, "key": key, "reason": reason}) + "\n"
        for split, photos in rejected.items()
        for key, reason in sorted(photos)
    )


def _publish(settings: shards.Settings, name: str, content: bytes | str) -> str:
    return job_folder.publish(settings.output_dir, settings.work_dir, name, content)
