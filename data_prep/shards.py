"""One shard of the data set: the plan of its photos, the work of making it, what became of them.

What moves between machines is the name of a shard, never a photo. Everything else is on disk, in
the work folder, where it also survives a kill:

    NAME.plan     the shard's photos: byte ranges and labels, written before the job starts
    NAME.result   what became of them: counts, rejects, sha256 and pixel sums
    NAME.*.tmp    the shard while it is being written

Workers import this and no Beam; `data_prep.pipeline` spreads it over them.
"""

import dataclasses
import hashlib
import io
import itertools
import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from data_prep import files, images, records, tfrecord
from data_prep.sources import Reference
from data_prep.statistics import PixelSums

PLAN_SUFFIX = ".plan"
RESULT_SUFFIX = ".result"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a worker has to know besides the name of its shard.

    Attributes:
        output_dir: where finished shards go.
        work_dir: the folder of plans and results; on the file system of `output_dir`.
        classes: in the order of their labels.
        size: side of the stored photos, pixels.
        quality: of their JPEG, 1 to 100.
    """

    output_dir: str
    work_dir: str
    classes: tuple[records.ClassName, ...]
    size: int
    quality: int


@dataclasses.dataclass
class ShardResult:
    """What became of a shard's photos.

    Attributes:
        shard: the finished file.
        rejected: key and reason of the photos that are not in it.
        repairs: how many photos each repair was done to.
        sums: over the photos in it; of no photo in a validation shard.
    """

    shard: records.Shard
    rejected: list[tuple[str, str]]
    repairs: Counter[str]
    sums: PixelSums


def split_of(name: str) -> str:
    """The split of a shard, from its name."""
    return name.partition("-")[0]


def write_plans(
    work_dir: str,
    splits: Mapping[str, Sequence[Reference]],
    shard_counts: Mapping[str, int],
    seed: int,
) -> dict[str, int]:
    """Shuffles the photos of each split, deals them out to its shards and writes down which.

    A plan takes some 35 bytes a photo: the paths and names in it compress well.

    Args:
        work_dir: where the plans go.
        splits: the photos, by the name of the split, in any order.
        shard_counts: by the name of the split.
        seed: of the order, 0 to 2**64 - 1.

    Returns:
        How many photos are in each shard, by the shard's name.
    """
    planned = {}
    for split, count in shard_counts.items():
        order = _shuffled(splits[split], split, seed)
        bounds = [len(order) * index // count for index in range(count + 1)]
        for index, (start, end) in enumerate(itertools.pairwise(bounds)):
            name = records.shard_name(split, index, count)
            content = zlib.compress(json.dumps(order[start:end]).encode(), level=1)
            files.write_file(os.path.join(work_dir, name + PLAN_SUFFIX), content)
            planned[name] = end - start
    return planned


def _shuffled(references: Iterable[Reference], split: str, seed: int) -> list[Reference]:
    """An order that depends on the photos' keys, the split and the seed, and on nothing else."""
    salt = seed.to_bytes(8, "little")

    def place(reference: Reference) -> tuple[bytes, str]:
        key = f"{split}/{reference.key}".encode()
        return hashlib.blake2b(key, digest_size=16, salt=salt).digest(), reference.key

    return sorted(references, key=place)


def read_plan(work_dir: str, name: str) -> list[Reference]:
    """A shard's photos, as `write_plans` wrote them down."""
    with open(os.path.join(work_dir, name + PLAN_SUFFIX), "rb") as file:
        return [Reference(*fields) for fields in json.loads(zlib.decompress(file.read()))]


def read_result(work_dir: str, name: str) -> ShardResult | None:
    """What a worker left about a shard; None if it has not finished it."""
    try:
        with np.load(os.path.join(work_dir, name + RESULT_SUFFIX), allow_pickle=False) as arrays:
            fields = json.loads(arrays["json"].tobytes())
            return ShardResult(
                shard=records.Shard(**fields["shard"]),
                rejected=[(key, reason) for key, reason in fields["rejected"]],
                repairs=Counter(fields["repairs"]),
                sums=PixelSums(fields["count"], arrays["pixels"], arrays["products"]),
            )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _write_result(work_dir: str, result: ShardResult) -> None:
    fields = {
        "shard": dataclasses.asdict(result.shard),
        "rejected": result.rejected,
        "repairs": result.repairs,
        "count": result.sums.count,
    }
    output = io.BytesIO()
    np.savez_compressed(
        output,
        json=np.frombuffer(json.dumps(fields).encode(), np.uint8),
        pixels=result.sums.pixels,
        products=result.sums.products,
    )
    files.write_file(os.path.join(work_dir, result.shard.name + RESULT_SUFFIX), output.getvalue())


def write_shard(name: str, settings: Settings) -> str:
    """Makes a planned shard, unless it is there already, and its result; returns its name.

    Runs on a worker. A runner may call it twice, even at once, for the same shard: each call
    writes a file of its own, and the last rename wins, with the same bytes.

    Raises:
        OSError: the source or the output cannot be read or written. Broken photos raise nothing.
    """
    path = os.path.join(settings.output_dir, name)
    earlier = read_result(settings.work_dir, name)
    if earlier and _is_whole(path, earlier.shard):
        return name

    aside = os.path.join(settings.work_dir, f"{name}.{os.getpid()}.tmp")
    digest, size, count = hashlib.sha256(), 0, 0
    rejected, repairs, sums = [], Counter(), PixelSums.zeros(settings.size)
    with open(aside, "wb") as file:
        for reference, data in _read(read_plan(settings.work_dir, name)):
            photo = images.convert(data, size=settings.size, quality=settings.quality)
            if isinstance(photo, images.Rejected):
                rejected.append((reference.key, photo.reason))
                continue
            repairs.update(photo.repairs)
            if split_of(name) == "train":
                # The statistics are of what training will see: the photo after JPEG.
                sums.add(images.decode_record(photo.jpeg))
            record = tfrecord.frame(_example(reference, photo.jpeg, settings))
            digest.update(record)
            file.write(record)
            size, count = size + len(record), count + 1
        file.flush()
        os.fsync(file.fileno())
    # Result first: then each shard in the output folder is known to be this job's. A kill between
    # the two leaves a result without its shard, which is no finished shard.
    shard = records.Shard(name, count, size, digest.hexdigest())
    _write_result(settings.work_dir, ShardResult(shard, rejected, repairs, sums))
    os.replace(aside, path)
    files.sync_folder(settings.output_dir)
    return name


def _example(reference: Reference, jpeg: bytes, settings: Settings) -> bytes:
    entry = settings.classes[reference.label]
    return records.encode(
        image=jpeg,
        height=settings.size,
        width=settings.size,
        filename=reference.filename,
        label=reference.label,
        wnid=entry.wnid,
        text=entry.name,
    )


def _read(references: Iterable[Reference]) -> Iterator[tuple[Reference, bytes]]:
    """The photos' bytes; a tar is opened once for all photos that follow one another in it."""
    file = None
    try:
        for reference in references:
            if file is None or file.name != reference.path:
                if file is not None:
                    file.close()
                file = open(reference.path, "rb")  # noqa: SIM115 - outlives the iteration
            # One byte past the limit is enough for the photo to be rejected for its size.
            wanted = min(reference.length, images.MAX_BYTES + 1)
            file.seek(reference.offset)
            data = file.read(wanted)
            if len(data) < wanted:
                raise OSError(f"{reference.path} has become shorter since it was listed")
            yield reference, data
    finally:
        if file is not None:
            file.close()


def _is_whole(path: str, shard: records.Shard) -> bool:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
    except OSError:
        return False
