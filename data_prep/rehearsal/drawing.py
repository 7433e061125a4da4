"""Draws the photos of the rehearsal release: one object a photo, on textured ground.

Each shape is a signed distance: negative inside, positive outside, in units of the object's
radius, over coordinates that are already moved, turned and scaled to the object. A distance is
what makes an antialiased edge a single `clip`, at any size and rotation.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

# Coordinates and distances are float32 [height, width]; the object fills the unit circle, nearly.
SignedDistance = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]

_HALF_SIDE = 0.85  # of the square field that stripes, checks and dots lie in


def draw_photo(shape: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a photo of one object, of random colour, place, size, rotation, light, ground and noise.

    The object measures 35 to 90 % of the short side and its centre lies in the central square,
    so that a central crop holds nearly all of it.

    Args:
        shape: a key of `SHAPES`.
        generator: where all randomness comes from.

    Returns:
        [height, width, 3] uint8 RGB; the sides are 120 to 500 pixels.
    """
    height, width = _draw_sides(generator)
    ground_colour, object_colour = _draw_colours(generator)
    ground = _textured(ground_colour, 35.0, height, width, generator)
    paint = _textured(object_colour, 20.0, height, width, generator)
    coverage = _rgb(_coverage(shape, height, width, generator))
    photo = (ground + coverage * (paint - ground)) * _rgb(_light(height, width, generator))
    photo = cv2.GaussianBlur(photo, (0, 0), generator.uniform(0.3, 1.0))
    noise = generator.standard_normal(photo.shape, np.float32)
    photo += generator.uniform(2.0, 10.0) * noise
    return cv2.convertScaleAbs(np.maximum(photo, 0))  # rounds, and saturates at 255


def _draw_sides(generator: np.random.Generator) -> tuple[int, int]:
    short = int(generator.integers(120, 313))
    long = round(short * generator.uniform(1.0, 1.6))  # at most 499
    return (short, long) if generator.random() < 0.6 else (long, short)


def _draw_colours(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two RGB colours [3]; the object's is the farthest of a few from the ground's.

    Either may be the lighter: what a pixel's brightness says about the class is thereby nothing.
    """
    ground = generator.uniform(30, 225, 3).astype(np.float32)
    candidates = generator.uniform(10, 245, (6, 3)).astype(np.float32)
    return ground, candidates[np.argmax(np.linalg.norm(candidates - ground, axis=1))]


def _textured(
    colour: np.ndarray, amplitude: float, height: int, width: int, generator: np.random.Generator
) -> np.ndarray:
    """Return [height, width, 3] float32: a colour that drifts, under a finer grain of light."""
    cells = generator.integers(2, 5)  # a side
    drift = colour + amplitude * generator.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
    grain = amplitude / 4 * generator.uniform(-1, 1, (24, 24)).astype(np.float32)
    drift, grain = (
        cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) for grid in (drift, grain)
    )
    return drift + _rgb(grain)


def _rgb(plane: np.ndarray) -> np.ndarray:
    """Return [height, width, 3] from [height, width]; faster than broadcasting."""
    return cv2.merge((plane, plane, plane))


def _light(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Return [height, width] float32 factors: brighter from one side, at times a soft shadow."""
    y, x = _centred_grid(height, width)
    angle = generator.uniform(0, 2 * math.pi)
    across = (x * math.cos(angle) + y * math.sin(angle)) / (max(height, width) / 2)
    light = 1 + generator.uniform(0, 0.3) * across
    edge, depth = generator.uniform(-0.6, 0.6), generator.uniform(0.15, 0.4)
    if generator.random() < 0.3:
        light *= 1 - depth * np.clip((across - edge) * 6 + 0.5, 0, 1)
    return light


def _coverage(shape: str, height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Return [height, width] float32: the share of each pixel that the object covers, 0 to 1."""
    short = min(height, width)
    radius = short * (0.9 - 0.55 * generator.random() ** 2) / 2  # large ones are the more
    # Up to the border of the central square, and a little (5 %) over it.
    reach = short / 2 - radius + 0.05 * short
    centre_y, centre_x = generator.uniform(-reach, reach), generator.uniform(-reach, reach)
    angle = generator.uniform(0, 2 * math.pi)
    y, x = _centred_grid(height, width)
    y, x = (y - centre_y) / radius, (x - centre_x) / radius
    u = math.cos(angle) * x + math.sin(angle) * y
    v = math.cos(angle) * y - math.sin(angle) * x
    return np.clip(0.5 - SHAPES[shape](u, v, generator) * radius, 0, 1)


def _centred_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels' y [height, 1] and x [1, width]; 0 is the middle of the photo."""
    y = np.arange(height, dtype=np.float32)[:, np.newaxis] - (height - 1) / 2
    x = np.arange(width, dtype=np.float32)[np.newaxis, :] - (width - 1) / 2
    return y, x


def _ring(u: np.ndarray, v: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    thickness = generator.uniform(0.3, 0.5)
    return np.abs(np.hypot(u, v) - (1 - thickness / 2)) - thickness / 2


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - _HALF_SIDE


def _cross(u: np.ndarray, v: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    half_arm = generator.uniform(0.2, 0.34)
    longer, shorter = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return np.maximum(longer - 1, shorter - half_arm)


def _regular_polygon(u: np.ndarray, v: np.ndarray, corners: int) -> np.ndarray:
    sides = [2 * math.pi * side / corners for side in range(corners)]
    along = [u * math.cos(side) + v * math.sin(side) for side in sides]
    return np.maximum.reduce(along) - math.cos(math.pi / corners)


def _star(u: np.ndarray, v: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a star: folded into half of a point, it is one straight edge from tip to notch."""
    notch = generator.uniform(0.36, 0.45)  # its distance from the centre; a tip's is 1
    sector = 2 * math.pi / 5
    angle = np.abs((np.arctan2(v, u) + sector / 2) % sector - sector / 2)
    radius = np.hypot(u, v)
    notch_x, notch_y = notch * math.cos(sector / 2), notch * math.sin(sector / 2)
    edge = math.hypot(1 - notch_x, notch_y)
    along_x, along_y = radius * np.cos(angle) - 1, radius * np.sin(angle)
    return (along_x * notch_y + along_y * (1 - notch_x)) / edge


def _stripes(u: np.ndarray, v: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    bars = int(generator.integers(3, 6))
    bar = 2 * _HALF_SIDE / (2 * bars - 1)  # gaps are as wide as bars
    within = (v + _HALF_SIDE) % (2 * bar)
    return np.maximum(np.abs(within - bar / 2) - bar / 2, _square(u, v))


def _checks(u: np.ndarray, v: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    cells = int(generator.integers(4, 6))  # a side
    cell = 2 * _HALF_SIDE / cells
    column, row = (u + _HALF_SIDE) / cell, (v + _HALF_SIDE) / cell
    # The field's own border is no edge between cells, or gaps would be outlined there.
    inner = [np.abs(place - np.clip(np.rint(place), 1, cells - 1)) for place in (column, row)]
    is_gap = (np.floor(column) + np.floor(row)) % 2
    return np.maximum(np.minimum(*inner) * cell * (2 * is_gap - 1), _square(u, v))


def _dots(u: np.ndarray, v: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    dots = int(generator.integers(3, 5))  # a side
    cell = 2 * _HALF_SIDE / dots
    centres = []
    for place in (u, v):
        number = np.clip(np.floor((place + _HALF_SIDE) / cell), 0, dots - 1)
        centres.append(place + _HALF_SIDE - (number + 0.5) * cell)
    return np.hypot(*centres) - 0.3 * cell


SHAPES: dict[str, SignedDistance] = {
    "disc": lambda u, v, _: np.hypot(u, v) - 1,
    "square": lambda u, v, _: _square(u, v),
    "triangle": lambda u, v, _: _regular_polygon(u, v, 3),
    "star": _star,
    "ring": _ring,
    "stripes": _stripes,
    "checks": _checks,
    "cross": _cross,
    "hexagon": lambda u, v, _: _regular_polygon(u, v, 6),
    "dots": _dots,
}
