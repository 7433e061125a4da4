"""Folders that tests need: the checkout, and photos beside it that are not part of the project."""

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
IMAGENET_SAMPLE = ROOT.parent / "shared" / "imagenet_sample.tar"  # 300 real photos, where it is
