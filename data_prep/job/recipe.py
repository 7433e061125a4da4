"""The options of a data set, and its recipe: all that decides a byte of it."""

import dataclasses
import hashlib
from collections.abc import Mapping

import cv2
import numpy as np
import PIL.features

from data_prep import records
from data_prep.conversion_rule import Rule
from data_prep.photos import images
from data_prep.sources.catalog import Catalog


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Rule):
    """Options of a data set; each field, those of `Rule` too, is a flag of `data_prep.prepare`.

    Attributes:
        source: one of `sources.SOURCES`.
        validation_fraction: of class folders that are not split yet; None where they are.
        train_shards: files of the train split; a split has no more files than photos.
        validation_shards: files of the validation split.
        label_offset: 0, or 1 for readers of slim's convention, where 0 is the background.
        index: whether to write index files.
        seed: of the order of the photos, from 0.
    """

    source: str
    validation_fraction: float | None = None
    train_shards: int = 1024
    validation_shards: int = 128
    label_offset: int = 0
    index: bool = False
    seed: int = 0

    def shard_counts(self, photos: Mapping[str, int]) -> dict[str, int]:
        """Return the number of files by split, given that of photos."""
        wanted = {"train": self.train_shards, "validation": self.validation_shards}
        return {split: min(wanted[split], photos[split]) for split in records.SPLITS}

    def recipe(self, catalog: Catalog, classes: tuple[records.ClassName, ...]) -> dict[str, object]:
        """Return what decides a byte of the data set, for the manifest; not where its input lies.

        Args:
            catalog: of the photos.
            classes: in the order of their labels.
        """
        named = hashlib.blake2b(repr(classes).encode(), digest_size=16).hexdigest()
        counts = self.shard_counts(catalog.counts)
        return {
            **dataclasses.asdict(self),
            **{f"{split}_shards": count for split, count in counts.items()},
            "input": f"{catalog.fingerprint}-{named}",
            "conversion": images.VERSION,
            "icc_profiles": images.ICC_PROFILES,
            "versions": {
                "libjpeg_turbo": PIL.features.version("libjpeg_turbo"),
                "numpy": np.__version__,
                "opencv": cv2.__version__,
                "pillow": PIL.__version__,
            },
        }
