"""One shard of the data set: the plan of its photos, and the work of making it.

What moves between machines is the name of a shard, never a photo. Everything else is on disk, in
the work folder, where it also survives a kill:

    NAME.plan     the shard's photos: byte ranges and labels, written before the job starts
    NAME.result   what became of them (see `shard_results`)
    NAME.*.tmp    the shard while it is being written

Workers import this and no Beam; `data_prep.job.pipeline` spreads it over them.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import socket
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from data_prep import records, storage, tfrecord
from data_prep.job import shard_results
from data_prep.job.recipe import Options
from data_prep.job.shard_results import ShardResult
from data_prep.job.statistics import PixelSums
from data_prep.photos import decoding, images
from data_prep.photos.outcomes import Outcome, Thumbnail
from data_prep.sources.catalog import Catalog
from data_prep.sources.reference import Reference

PLAN_SUFFIX = ".plan"
# Of a repair, or of a reason to reject: each takes as long as half a photo.
THUMBNAILS_PER_SHARD = 8

# Of an object store, by which Beam would fetch 16 MiB for each photo of a tar.
_READ_AHEAD = 1 << 18


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a worker, the same for all shards.

    Attributes:
        output_dir: where finished shards go.
        work_dir: the folder of plans and results; on the file system of `output_dir`.
        classes: in the order of their labels.
        options: of the data set.
    """

    output_dir: str
    work_dir: str
    classes: tuple[records.ClassName, ...]
    options: Options


def split_of(name: str) -> str:
    """Return the split of a shard, from its name."""
    return name.partition("-")[0]


def write_plans(work_dir: str, catalog: Catalog, shard_counts: Mapping[str, int]) -> dict[str, int]:
    """Deal the shuffled photos of each split out to its shards, and write one plan a shard.

    Args:
        work_dir: where the plans go.
        catalog: of all photos.
        shard_counts: by the name of the split.

    Returns:
        The number of photos in each shard, by the shard's name.

    Raises:
        ValueError: two photos of a split have one key.
    """
    planned = {}
    for split, count in shard_counts.items():
        photos, total = catalog.in_order(split), catalog.counts[split]
        for index in range(count):
            size = total * (index + 1) // count - total * index // count
            name = records.shard_name(split, index, count)
            plan = [next(photos) for _ in range(size)]
            content = zlib.compress(json.dumps(plan).encode(), level=1)
            storage.write_file(storage.join(work_dir, name + PLAN_SUFFIX), content)
            planned[name] = size
    return planned


def read_plan(work_dir: str, name: str) -> list[Reference]:
    """Return a shard's photos, as `write_plans` wrote them."""
    with storage.open_file(storage.join(work_dir, name + PLAN_SUFFIX)) as file:
        return [Reference(*fields) for fields in json.loads(zlib.decompress(file.read()))]


def write_shard(name: str, settings: Settings) -> ShardResult:
    """Make a planned shard, unless it is there already, and its result.

    Runs on a worker. A runner may call it twice, even at once, for the same shard: each call
    writes a file of its own, and the last rename wins, with the same bytes.

    Raises:
        OSError: the source or the output cannot be read or written. Broken photos raise nothing.
    """
    path = storage.join(settings.output_dir, name)
    earlier = shard_results.read(settings.work_dir, name)
    if earlier and _is_whole(path, earlier.shard):
        return earlier

    # Result first: then each shard in the output folder is known to be this job's. A kill between
    # the two leaves a result without its shard, which is no finished shard.
    aside = storage.join(settings.work_dir, f"{name}.{socket.gethostname()}.{os.getpid()}.tmp")
    with storage.create(path, aside) as file:
        work = _Work(name, settings)
        for reference, data in _read(read_plan(settings.work_dir, name)):
            file.write(work.record(reference, data))
        result = work.result()
        shard_results.write(settings.work_dir, result)
    return result


class _Work:
    """A shard in the making: its records, outcomes, thumbnails and sums so far."""

    def __init__(self, name: str, settings: Settings):
        self._name = name
        self._classes, self._options = settings.classes, settings.options
        self._digest = hashlib.sha256()
        self._outcomes: list[Outcome] = []
        self._thumbnails: list[Thumbnail] = []
        self._shown: Counter[str] = Counter()
        # Statistics are of what is trained on.
        side = settings.options.short_side
        self._sums = PixelSums.zeros(side) if split_of(name) == "train" else None

    def record(self, reference: Reference, data: bytes) -> bytes:
        """Return the framed record of a photo; b"" if it is rejected."""
        photo = images.convert(data, self._options)
        record = b""
        if not photo.reason:
            if self._sums:  # over the pixels that training will see: after JPEG
                pixels = images.stored_pixels(photo, self._options)
                self._sums.add(images.central_square(pixels, self._options.short_side))
            record = tfrecord.frame(self._example(reference, photo))
            self._digest.update(record)
        outcome = Outcome(
            # Not blake2b: CPUs have instructions for this one (half the time on an AMD EPYC).
            content=hashlib.sha256(data).digest()[:16],
            width=photo.original_width,
            height=photo.original_height,
            reason=photo.reason,
            repairs=photo.repairs,
            notes=photo.notes,
            record_bytes=len(record),
        )
        self._outcomes.append(outcome)
        self._show(reference, outcome, data)
        return record

    def result(self) -> ShardResult:
        """Return the result for all photos so far."""
        written = [outcome.record_bytes for outcome in self._outcomes if outcome.record_bytes]
        shard = records.Shard(self._name, len(written), sum(written), self._digest.hexdigest())
        return ShardResult(shard, self._outcomes, self._thumbnails, self._sums)

    def _example(self, reference: Reference, photo: images.Conversion) -> bytes:
        entry = self._classes[reference.label]
        return records.encode(
            image=photo.image,
            image_format=records.IMAGE_FORMATS[self._options.storage],
            height=photo.height,
            width=photo.width,
            filename=reference.filename,
            label=reference.label + self._options.label_offset,
            wnid=entry.wnid,
            text=entry.name,
        )

    def _show(self, reference: Reference, outcome: Outcome, data: bytes) -> None:
        """Keep a thumbnail of a repaired or rejected photo, unless there are enough of its kind."""
        kinds = (outcome.reason,) if outcome.reason else outcome.repairs
        wanted = [kind for kind in kinds if self._shown[kind] < THUMBNAILS_PER_SHARD]
        if wanted:
            jpeg = images.thumbnail(data)
            self._thumbnails += [Thumbnail(reference.key, kind, jpeg) for kind in wanted]
            self._shown.update(wanted)


def _read(references: Iterable[Reference]) -> Iterator[tuple[Reference, bytes]]:
    """Read photos; a tar is opened once for all photos that follow one another in it."""
    for path, photos in itertools.groupby(references, key=lambda reference: reference.path):
        with storage.open_file(path, read_ahead=_READ_AHEAD) as file:
            for reference in photos:
                # One byte past the limit is enough for the photo to be rejected for its size.
                wanted = min(reference.length, decoding.MAX_BYTES + 1)
                file.seek(reference.offset)
                data = file.read(wanted)
                if len(data) < wanted:
                    raise OSError(f"{path} has become shorter since it was listed")
                yield reference, data


def _is_whole(path: str, shard: records.Shard) -> bool:
    try:
        with storage.open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
    except OSError:
        return False
