import math

import numpy as np
import pytest

from data_prep.rehearsal import drawing

_CELL = 0.004
_PLACES = np.arange(-1.2, 1.2, _CELL, dtype=np.float32)
_U, _V = np.meshgrid(_PLACES, _PLACES)


def _distance(shape: str, seed: int = 0) -> np.ndarray:
    return drawing.SHAPES[shape](_U, _V, np.random.default_rng(seed))


def _area(shape: str, seed: int = 0) -> float:
    return np.count_nonzero(_distance(shape, seed) < 0) * _CELL**2


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("disc", math.pi),
        ("square", 1.7**2),
        ("triangle", 3 * math.sqrt(3) / 4),
        ("hexagon", 3 * math.sqrt(3) / 2),
    ],
)
def test_area_is_the_textbooks(shape, area):
    assert _area(shape) == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_area_of_varied_shapes_is_between_those_of_their_extremes(seed):
    assert math.pi * (1 - 0.7**2) <= _area("ring", seed) <= math.pi * (1 - 0.5**2)
    # A star is ten triangles with two sides, a tip's and a notch's radius, 36 degrees apart.
    triangle = math.sin(math.radians(36)) / 2
    assert 10 * triangle * 0.36 <= _area("star", seed) <= 10 * triangle * 0.45
    assert 8 * 0.2 - 4 * 0.2**2 <= _area("cross", seed) <= 8 * 0.34 - 4 * 0.34**2
    # 4 x 4 and 5 x 5 cells: 8 of 16, 13 of 25.
    assert 0.49 <= _area("checks", seed) / 1.7**2 <= 0.53
    # 3 of 5 bars, 4 of 7, 5 of 9.
    assert 0.54 <= _area("stripes", seed) / 1.7**2 <= 0.61
    assert _area("dots", seed) / 1.7**2 == pytest.approx(math.pi * 0.3**2, rel=0.02)


@pytest.mark.parametrize("shape", drawing.SHAPES)
def test_distance_grows_by_one_a_radius_at_the_edge(shape):
    # Or the edge of some shapes would be blurred, and of others jagged.
    distance = _distance(shape)
    slope = np.hypot(*np.gradient(distance, _CELL))
    at_edge = slope[np.abs(distance) < 0.01]
    assert np.median(at_edge) == pytest.approx(1, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("shape", drawing.SHAPES)
def test_photos_are_of_varied_size_and_mostly_within_the_central_square(shape):
    sides = set()
    for seed in range(30):
        photo = drawing.draw_photo(shape, np.random.default_rng(seed))
        assert photo.dtype == np.uint8
        assert photo.shape[2] == 3
        assert min(photo.shape[:2]) >= 120
        assert max(photo.shape[:2]) <= 500
        sides.add(photo.shape)
        height, width = 150, 240
        coverage = drawing._coverage(shape, height, width, np.random.default_rng(seed))
        central = coverage[:, (width - height) // 2 : (width + height) // 2]
        assert central.sum() > 0.85 * coverage.sum() > 0
    assert len(sides) > 25
