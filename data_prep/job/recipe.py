"""The choices of a person who prepares a data set: all that decides a byte of it."""

import dataclasses
import hashlib
from collections.abc import Mapping

import cv2
import numpy as np
import PIL.features

from data_prep import conversion_rule, records
from data_prep.photos import images
from data_prep.sources.catalog import Catalog


@dataclasses.dataclass(frozen=True)
class Options:
    """What to make of which photos; each field is a flag of `data_prep.prepare`.

    Attributes:
        source: one of `sources.SOURCES`.
        validation_fraction: of class folders that are not split yet; None where they are.
        train_shards: files of the train split; a split has no more files than photos.
        validation_shards: files of the validation split.
        short_side: of the stored photos, pixels.
        crop: of `images.Rule`, as are the next five.
        fit: how a photo gets its size.
        storage: what a record holds.
        quality: of stored JPEGs.
        truncated: what becomes of photos whose tail is missing.
        pass_through: whether photos that need nothing are stored byte for byte.
        label_offset: 0, or 1 for readers of slim's convention, where 0 is the background.
        index: whether to write index files.
        seed: of the order of the photos, from 0.
    """

    source: str
    validation_fraction: float | None = None
    train_shards: int = 1024
    validation_shards: int = 128
    short_side: int = 256
    crop: str = "center"
    fit: str = "short_side"
    storage: str = "jpeg"
    quality: int = 95
    truncated: str = "reject"
    pass_through: bool = False
    label_offset: int = 0
    index: bool = False
    seed: int = 0

    def rule(self) -> conversion_rule.Rule:
        """How a photo becomes a record.

        Raises:
            ValueError: the options do not fit together.
        """
        return conversion_rule.Rule(
            size=self.short_side,
            crop=self.crop,
            fit=self.fit,
            storage=self.storage,
            quality=self.quality,
            truncated=self.truncated,
            pass_through=self.pass_through,
        )

    def shard_counts(self, photos: Mapping[str, int]) -> dict[str, int]:
        """Files by split: as many as wished for, but no more than photos.

        Args:
            photos: how many there are, by split.
        """
        wanted = {"train": self.train_shards, "validation": self.validation_shards}
        return {split: min(wanted[split], photos[split]) for split in records.SPLITS}

    def recipe(self, catalog: Catalog, classes: tuple[records.ClassName, ...]) -> dict[str, object]:
        """For the manifest: all that decides a byte of the data set, but not where its input lies.

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
