"""The options of the conversion of photos, each with the source of its default."""

import dataclasses

# Limits of a stored photo's short side, in pixels.
SMALLEST_SIZE, LARGEST_SIZE = 8, 4096

CROPS = ("center", "none")
FITS = ("short_side", "warp")
STORAGES = ("jpeg", "raw")
# Each with the reasons of `decoding.UnusableError` after which missing pixels are filled.
TRUNCATED = {"reject": (), "accept": ("truncated",)}


@dataclasses.dataclass(frozen=True)
class Rule:
    """Rules by which a photo becomes the pixels of a record.

    Attributes:
        short_side: pixels, 8 to 4096. 256 is the paper's (section 2).
        crop: "center": the central square is kept, as in the paper; "none": the whole photo is,
            for training that crops at random from all of it.
        fit: "short_side": the long side follows the short one in proportion, rounded half up; by
            area averaging to shrink and bicubic to grow, the 2012 program's rule. "warp": both
            sides become `short_side`, by bilinear interpolation between the four nearest pixels,
            also to shrink: what Caffe's convert_imageset does (its `ReadImageToCVMat` calls
            cv::resize with the default INTER_LINEAR), as for the networks of its model zoo.
        storage: "jpeg": baseline, 4:2:0; "raw": the RGB bytes of a square, row by row, for
            training that the decoding of JPEGs would hold up.
        quality: of the JPEG, 1 to 100, on libjpeg's scale. 95 is the 2012 program's.
        truncated: "reject": a photo whose end is missing is rejected; "accept": what there is of
            it becomes a record, the rest filled.
        pass_through: whether a photo that already has the wanted size, and is a JPEG of the
            plainest kind, is stored byte for byte instead of being compressed once more.

    Raises:
        ValueError: a value is not among those above, or two do not fit together.
    """

    short_side: int = 256
    crop: str = "center"
    fit: str = "short_side"
    storage: str = "jpeg"
    quality: int = 95
    truncated: str = "reject"
    pass_through: bool = False

    def __post_init__(self):
        for name, allowed in {
            "short_side": range(SMALLEST_SIZE, LARGEST_SIZE + 1),
            "quality": range(1, 101),
        }.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value not in allowed:
                raise ValueError(
                    f"{name} must be an integer of {allowed[0]} to {allowed[-1]}. "
                    f"Received: {value!r}"
                )
        for name, allowed in {
            "crop": CROPS,
            "fit": FITS,
            "storage": STORAGES,
            "truncated": tuple(TRUNCATED),
            "pass_through": (False, True),
        }.items():
            if (value := getattr(self, name)) not in allowed:
                choices = " or ".join(map(repr, allowed))
                raise ValueError(f"{name} must be {choices}. Received: {value!r}")
        if self.crop == "none" and self.storage == "raw":
            raise ValueError(
                "storage='raw' needs crop='center': readers of raw pixels need one size for all. "
                "Received: crop='none'"
            )
        if self.crop == "none" and self.fit == "warp":
            raise ValueError(
                "fit='warp' needs crop='center': a warped photo is square and has no long side. "
                "Received: crop='none'"
            )
        if self.pass_through and self.storage == "raw":
            raise ValueError(
                "pass_through needs storage='jpeg': it stores JPEGs byte for byte. "
                "Received: storage='raw'"
            )
