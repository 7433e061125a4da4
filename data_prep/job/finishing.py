"""From the results of all shards to a finished data set: reconcile, merge, manifest last."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping

from data_prep import records, storage
from data_prep.audit import Audit
from data_prep.job import folder, shard_results, shards, statistics, tfds_metadata
from data_prep.job.shard_results import ShardResult
from data_prep.job.statistics import PixelSums
from data_prep.photos.outcomes import Outcome
from data_prep.sources.reference import Reference

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
        ValueError: a shard is missing, photos are unaccounted for, or none could be used.
    """
    books = _Books(settings)
    with Audit(settings.classes) as audit:
        for result in _results(plan, settings):
            books.add(result)
            photos = shards.read_plan(settings.work_dir, result.shard.name)
            for reference, outcome in zip(photos, result.outcomes, strict=True):
                books.add_photo(reference, outcome)
                audit.add(reference, outcome)
            audit.add_thumbnails(shards.split_of(result.shard.name), result.thumbnails)
            if recipe["index"]:
                books.publish_index(result)
        books.check()
        manifest = books.manifest(recipe)
        contents = {
            records.LABELS: records.labels_text(settings.classes),
            records.REJECTED: books.rejected_text(),
            **statistics.to_files(statistics.finish(books.sums)),
            **tfds_metadata.to_files(manifest, name=_TFDS_NAME),
            **audit.to_files(),
        }
    for name, content in contents.items():
        manifest.files[name] = _publish(settings, name, content)
    _publish(settings, records.MANIFEST, manifest.to_json())
    return manifest


class _Books:
    """What the manifest and the small files need to know of all shards, added up."""

    def __init__(self, settings: shards.Settings):
        self._settings = settings
        self._made: dict[str, list[records.Shard]] = {split: [] for split in records.SPLITS}
        self._rejected: dict[str, list[tuple[str, str]]] = {split: [] for split in records.SPLITS}
        self._repairs: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._files: dict[str, str] = {}
        self.sums = PixelSums.zeros(settings.rule.size)

    def add(self, result: ShardResult) -> None:
        """Counts a shard in, but not its photos."""
        self._made[shards.split_of(result.shard.name)].append(result.shard)
        if result.sums:
            self.sums.merge(result.sums)

    def add_photo(self, reference: Reference, outcome: Outcome) -> None:
        """Counts a photo in."""
        if outcome.reason:
            self._rejected[reference.split].append((reference.key, outcome.reason))
        self._repairs.update(outcome.repairs)
        self._notes.update(outcome.notes)

    def publish_index(self, result: ShardResult) -> None:
        """Writes where each record of a shard begins."""
        name = records.index_name(result.shard.name)
        lengths = (o.record_bytes for o in result.outcomes if o.record_bytes)
        self._files[name] = _publish(self._settings, name, records.index_text(lengths))

    def check(self) -> None:
        """Refuses a split in which no photo could be used."""
        for split, finished in self._made.items():
            if not any(shard.records for shard in finished):
                rejected = self._rejected[split]
                raise ValueError(
                    f"photos that can be read are needed; all {len(rejected)} {split} photos "
                    f"were rejected, the first as {rejected[0][1]!r}"
                )

    def manifest(self, recipe: Mapping[str, object]) -> records.Manifest:
        """The manifest, which still lacks the files that are made with its help."""
        return records.Manifest(
            recipe=recipe,
            classes=self._settings.classes,
            splits={
                split: records.Split(tuple(self._made[split]), len(self._rejected[split]))
                for split in records.SPLITS
            },
            repairs=dict(sorted(self._repairs.items())),
            notes=dict(sorted(self._notes.items())),
            files=self._files,
            label_offset=self._settings.label_offset,
        )

    def rejected_text(self) -> str:
        """The lines of rejected.jsonl."""
        return "".join(
            json.dumps({"split": split, "key": key, "reason": reason}) + "\n"
            for split, photos in self._rejected.items()
            for key, reason in sorted(photos)
        )


def _results(plan: Mapping[str, int], settings: shards.Settings) -> Iterator[ShardResult]:
    """What became of each shard, one at a time: together they do not fit into memory."""
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
                f"{name} was made of {photos} photos, but says what became of "
                f"{len(result.outcomes)}; remove the output folder and run again"
            )
        yield result


def _publish(settings: shards.Settings, name: str, content: bytes | str) -> str:
    return folder.publish(settings.output_dir, settings.work_dir, name, content)
