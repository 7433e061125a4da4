"""The file that a worker leaves about a finished shard, for the final merge and for a restart."""

import base64
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
    """Result of converting a shard's photos.

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
        """Count records, and photos by reason, repair and note, such as "rejected/empty"."""
        counted = Counter(records=self.shard.records)
        for outcome in self.outcomes:
            if outcome.reason:
                counted[f"rejected/{outcome.reason}"] += 1
            counted.update(f"repaired/{kind}" for kind in outcome.repairs)
            counted.update(f"noted/{kind}" for kind in outcome.notes)
        return counted


def write(work_dir: str, result: ShardResult) -> None:
    """Write a result, whole or not at all."""
    fields = {
        "shard": dataclasses.asdict(result.shard),
        "outcomes": [(outcome.content.hex(), *outcome[1:]) for outcome in result.outcomes],
        "thumbnails": [
            (t.key, t.what, base64.b64encode(t.jpeg).decode()) for t in result.thumbnails
        ],
        "count": result.sums.count if result.sums else None,
    }
    sums = {"pixels": result.sums.pixels, "products": result.sums.products} if result.sums else {}
    output = io.BytesIO()
    # Not compressed: that would take as long as converting 30 photos (an AMD EPYC).
    np.savez(output, json=np.frombuffer(json.dumps(fields).encode(), np.uint8), **sums)
    storage.write_file(storage.join(work_dir, result.shard.name + SUFFIX), output.getvalue())


def read(work_dir: str, name: str) -> ShardResult | None:
    """Return the result of a shard; None where it is missing or damaged."""
    try:
        with storage.open_file(storage.join(work_dir, name + SUFFIX)) as file:
            content = io.BytesIO(file.read())
        with np.load(content, allow_pickle=False) as arrays:
            fields = json.loads(arrays["json"].tobytes())
            count = fields["count"]
            sums = None if count is None else PixelSums(count, arrays["pixels"], arrays["products"])
        return ShardResult(
            shard=records.Shard(**fields["shard"]),
            outcomes=[
                Outcome(
                    bytes.fromhex(content), width, height, reason, tuple(repairs), tuple(notes), n
                )
                for content, width, height, reason, repairs, notes, n in fields["outcomes"]
            ],
            thumbnails=[
                Thumbnail(key, what, base64.b64decode(jpeg))
                for key, what, jpeg in fields["thumbnails"]
            ],
            sums=sums,
        )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
