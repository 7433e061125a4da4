"""The audit of a data set's photos, to read before training: audit.json and audit.html.

audit.json, keys sorted; the same bytes in whatever order the photos were added:

    schema_version
    splits         by name: photos (records + rejected), records, rejected, and how many photos
                   each one of rejected_by_reason, repairs and notes is on
    classes        by label: label (place of the class, from 0, without the manifest's offset),
                   wnid, name; records and rejected by split
    duplicates     among the records (a rejected photo is in no split): exact copies, by SHA-256
                   of the file's bytes. A group is all photos of one content, where more than one.
        within_split     by split: groups with more than one photo in it, photos of these in it
        across_splits    groups that are in more than one split, their photos by split
        labels_differ    groups whose photos are of more than one class, and their photos
        groups           content (hex), photos by split, across_splits, labels_differ, listed:
                         split, key and label of the first 20 in each split, by key, and
                         listed_left_out. At most 1,000 groups: those across splits first, then
                         those whose labels differ, then the largest.
        groups_left_out  how many there are besides
    sizes          of the originals, upright, rejected ones included where it is known
        unknown          photos without
        distinct         how many sizes there are
        most_frequent    width, height, photos: by falling count, then by size; at most 1,000
        left_out         sizes and photos that are not in most_frequent
        short_side       histogram: from (inclusive), below (null: no end), photos
    findings       what is to be said of all this: level (one of `findings.LEVELS`), text,
                   advice; the worst first

audit.html is the same for a person with five minutes, with thumbnails (see `page`).

Nothing here grows with the number of photos but a database on disk (see `duplicates`); the
counts grow with the classes and with the number of different sizes.
"""

import bisect
import contextlib
import dataclasses
import heapq
import json
from collections import Counter
from collections.abc import Iterable

from data_prep import records
from data_prep.audit import findings, page
from data_prep.audit.duplicates import Duplicates
from data_prep.photos.outcomes import Outcome, Thumbnail
from data_prep.sources.reference import Reference

SCHEMA_VERSION = 1
LISTED_SIZES = 1000
# Where the buckets of the short sides begin, pixels; the last one has no end.
SHORT_SIDES = (1, 32, 64, 128, 192, 256, 320, 384, 512, 768, 1024, 2048, 4096)


class Audit(contextlib.AbstractContextManager):
    """Counts photos, to be added one after another in any order.

    Its methods raise OSError where there is no room on disk for the temporary database.
    """

    def __init__(self, classes: tuple[records.ClassName, ...]):
        """Make an empty one.

        Args:
            classes: in the order of their labels.
        """
        self._classes = classes
        self._kinds = {
            split: {"rejected_by_reason": Counter(), "repairs": Counter(), "notes": Counter()}
            for split in records.SPLITS
        }
        self._records = {split: [0] * len(classes) for split in records.SPLITS}
        self._rejected = {split: [0] * len(classes) for split in records.SPLITS}
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._thumbnails: dict[str, list[tuple[str, Thumbnail]]] = {}
        self._duplicates = Duplicates(records.SPLITS)

    def __exit__(self, *error: object) -> None:
        self._duplicates.close()

    def add(self, reference: Reference, outcome: Outcome) -> None:
        """Count a photo."""
        split, label = reference.split, reference.label
        self._sizes[outcome.width, outcome.height] += 1
        kinds = self._kinds[split]
        if outcome.reason:
            self._rejected[split][label] += 1
            kinds["rejected_by_reason"][outcome.reason] += 1
            return
        self._records[split][label] += 1
        kinds["repairs"].update(outcome.repairs)
        kinds["notes"].update(outcome.notes)
        self._duplicates.add(outcome.content, split, reference.key, label)

    def add_thumbnails(self, split: str, thumbnails: Iterable[Thumbnail]) -> None:
        """Offer pictures for the page, which has room for the first few of a kind, by key."""
        for thumbnail in thumbnails:
            kept = self._thumbnails.setdefault(thumbnail.what, [])
            kept.append((split, thumbnail))
            if len(kept) >= 2 * page.THUMBNAILS:
                self._thumbnails[thumbnail.what] = _first(kept)

    def to_files(self) -> dict[str, bytes]:
        """Return the contents of audit.json and audit.html, by their names."""
        report = {
            "schema_version": SCHEMA_VERSION,
            "splits": {split: self._split(split) for split in records.SPLITS},
            "classes": [self._class(label) for label in range(len(self._classes))],
            "duplicates": self._duplicates.report(),
            "sizes": self._size_report(),
        }
        report["findings"] = [dataclasses.asdict(one) for one in findings.find(report)]
        thumbnails = {what: _first(kept) for what, kept in sorted(self._thumbnails.items())}
        text = json.dumps(report, indent=1, sort_keys=True) + "\n"
        return {
            records.AUDIT: text.encode(),
            records.AUDIT_PAGE: page.render(report, thumbnails).encode(),
        }

    def _split(self, split: str) -> dict[str, object]:
        written, rejected = sum(self._records[split]), sum(self._rejected[split])
        kinds = {name: dict(sorted(counts.items())) for name, counts in self._kinds[split].items()}
        return {"photos": written + rejected, "records": written, "rejected": rejected, **kinds}

    def _class(self, label: int) -> dict[str, object]:
        return {
            "label": label,
            **dataclasses.asdict(self._classes[label]),
            "records": {split: counts[label] for split, counts in self._records.items()},
            "rejected": {split: counts[label] for split, counts in self._rejected.items()},
        }

    def _size_report(self) -> dict[str, object]:
        known = {size: photos for size, photos in self._sizes.items() if min(size) > 0}
        order = sorted(known.items(), key=lambda item: (-item[1], item[0]))
        listed, left_out = order[:LISTED_SIZES], order[LISTED_SIZES:]
        buckets = [0] * len(SHORT_SIDES)
        for size, photos in known.items():
            buckets[bisect.bisect_right(SHORT_SIDES, min(size)) - 1] += photos
        return {
            "unknown": self._sizes.total() - sum(known.values()),
            "distinct": len(known),
            "most_frequent": [
                {"width": width, "height": height, "photos": photos}
                for (width, height), photos in listed
            ],
            "left_out": {"sizes": len(left_out), "photos": sum(photos for _, photos in left_out)},
            "short_side": [
                {"from": start, "below": end, "photos": photos}
                for start, end, photos in zip(
                    SHORT_SIDES, (*SHORT_SIDES[1:], None), buckets, strict=True
                )
            ],
        }


def _first(kept: list[tuple[str, Thumbnail]]) -> list[tuple[str, Thumbnail]]:
    return heapq.nsmallest(
        page.THUMBNAILS, kept, key=lambda one: (records.SPLITS.index(one[0]), one[1])
    )
