"""What a worker leaves on disk about a finished shard, for the final merge and for a restart."""

import dataclasses
import io
import json
import zipfile
from collections import Counter

import numpy as np

from data_prep import records, storage
from data_prep.job.statistics import PixelSums
from data_prep.photos.outcomes import Outcome, Thumbnail

SUFFIX = ".result"


@dataclasses.dataclass
class ShardResult:
    """What became of a shard's photos.

    Attributes:
        shard: the finished file.
        outcomes: one for each photo of the plan, in its order.
        thumbnails: of some of those that were repaired or rejected.
        sums: over the photos in it; None for a validation shard.
    """

    shard: records.Shard
    outcomes: list[Outcome]
    thumbnails: list[Thumbnail]
    sums: PixelSums | None

    def counts(self) -> Counter[str]:
        """Records, and photos by what became of them, such as "rejected/empty"."""
        counted = Counter(records=self.shard.records)
        for outcome in self.outcomes:
            if outcome.reason:
                counted[f"rejected/{outcome.reason}"] += 1
            counted.update(f"repaired/{kind}" for kind in outcome.repairs)
            counted.update(f"noted/{kind}" for kind in outcome.notes)
        return counted


def write(work_dir: str, result: ShardResult) -> None:
    """Writes a result, whole or not at all."""
    # Few kinds of outcome for many photos: each photo names its kind by a number.
    kinds = sorted({(o.reason, o.repairs, o.notes) for o in result.outcomes})
    number = {kind: index for index, kind in enumerate(kinds)}
    fields = {
        "shard": dataclasses.asdict(result.shard),
        "kinds": kinds,
        "count": result.sums.count if result.sums else None,
        "thumbnails": [(t.key, t.what, len(t.jpeg)) for t in result.thumbnails],
    }
    outcomes = result.outcomes
    sums = {"pixels": result.sums.pixels, "products": result.sums.products} if result.sums else {}
    output = io.BytesIO()
    # Not compressed: that would take as long as converting 30 photos (an AMD EPYC).
    np.savez(
        output,
        json=np.frombuffer(json.dumps(fields).encode(), np.uint8),
        jpegs=np.frombuffer(b"".join(t.jpeg for t in result.thumbnails), np.uint8),
        content=np.frombuffer(b"".join(o.content for o in outcomes), np.uint8).reshape(-1, 16),
        sizes=np.array([(o.width, o.height) for o in outcomes], np.int64).reshape(-1, 2),
        kind=np.array([number[o.reason, o.repairs, o.notes] for o in outcomes], np.int64),
        record_bytes=np.array([o.record_bytes for o in outcomes], np.int64),
        **sums,
    )
    path = storage.join(work_dir, result.shard.name + SUFFIX)
    storage.write_file(path, output.getvalue())


def read(work_dir: str, name: str) -> ShardResult | None:
    """What a worker left about a shard; None if it has not finished it."""
    try:
        with storage.open_file(storage.join(work_dir, name + SUFFIX)) as file:
            content = io.BytesIO(file.read())
        with np.load(content, allow_pickle=False) as arrays:
            fields = json.loads(arrays["json"].tobytes())
            return ShardResult(
                shard=records.Shard(**fields["shard"]),
                outcomes=_outcomes(fields["kinds"], arrays),
                thumbnails=_thumbnails(fields["thumbnails"], arrays["jpegs"].tobytes()),
                sums=_sums(fields["count"], arrays),
            )
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile):
        return None


def _sums(count: int | None, arrays: np.lib.npyio.NpzFile) -> PixelSums | None:
    if count is None:
        return None
    return PixelSums(count, arrays["pixels"], arrays["products"])


def _outcomes(kinds: list, arrays: np.lib.npyio.NpzFile) -> list[Outcome]:
    columns = (arrays[name].tolist() for name in ("sizes", "kind", "record_bytes"))
    content = arrays["content"].tobytes()
    outcomes = []
    for index, ((width, height), kind, record_bytes) in enumerate(zip(*columns, strict=True)):
        reason, repairs, notes = kinds[kind]
        digest = content[16 * index : 16 * (index + 1)]
        outcomes.append(
            Outcome(digest, width, height, reason, tuple(repairs), tuple(notes), record_bytes)
        )
    return outcomes


def _thumbnails(entries: list, jpegs: bytes) -> list[Thumbnail]:
    thumbnails, start = [], 0
    for key, what, length in entries:
        thumbnails.append(Thumbnail(key, what, jpegs[start : start + length]))
        start += length
    return thumbnails
