import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_prep.rehearsal import drawing
from data_prep.rehearsal.photos import CLASSES, Place, Recipe, draw_file

_SMALL = Recipe(classes=3, images_per_class=5, validation_per_class=3, seed=5)
_TEN = Recipe(classes=10, images_per_class=8, validation_per_class=1, seed=3)


def _photo_under_a_fault(place):
    generator = np.random.default_rng([_TEN.seed, place.split, place.class_index, place.number])
    return Image.fromarray(drawing.draw_photo(CLASSES[place.class_index].shape, generator))


def test_number_of_photos_does_not_change_the_others():
    larger = Recipe(10, 50, 20, seed=_SMALL.seed)
    for place in (Place(0, 1, 4), Place(1, 2, 0), Place(2, 0, 0)):
        assert draw_file(_SMALL, place) == draw_file(larger, place)
    places = [
        Place(split, index, number) for split in (0, 1, 2) for index in (0, 1) for number in (2, 3)
    ]
    assert len({draw_file(larger, place) for place in places}) == len(places)


@pytest.mark.parametrize("classes", range(2, 11))
def test_ids_are_not_in_wnid_order(classes):
    wnids = [entry.wnid for entry in CLASSES[:classes]]
    assert wnids != sorted(wnids)
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in wnids)
    assert len(set(wnids)) == classes
    names = [entry.shape for entry in sorted(CLASSES[:classes], key=lambda entry: entry.wnid)]
    assert classes == 2 or names != sorted(names)


@pytest.mark.parametrize(("class_index", "mode"), [(0, "CMYK"), (2, "L")])
def test_fault_of_colour_shows_the_same_photo(class_index, mode):
    faulty = Image.open(io.BytesIO(draw_file(_TEN, Place(0, class_index, 0))))
    assert faulty.mode == mode
    plain = _photo_under_a_fault(Place(0, class_index, 0)).convert("L")
    difference = np.asarray(plain, float) - np.asarray(faulty.convert("L"), float)
    assert np.abs(difference).mean() < 4


def test_exif_rotation_makes_the_photo_upright():
    turned = Image.open(io.BytesIO(draw_file(_TEN, Place(0, 3, 0))))
    plain = _photo_under_a_fault(Place(0, 3, 0))
    assert turned.getexif()[0x0112] == 6
    assert turned.size == plain.size[::-1] != plain.size
    upright = np.asarray(ImageOps.exif_transpose(turned), float)
    assert np.abs(upright - np.asarray(plain, float)).mean() < 4


@pytest.mark.parametrize("classes", [1, 11])
def test_number_of_classes_is_bounded(classes):
    with pytest.raises(ValueError, match=f"classes must be 2 to 10.*Received: {classes}"):
        Recipe(classes, 5, 3, seed=0)
