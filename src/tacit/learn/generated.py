"""Images of nothing: overlapping textured shapes, for a prior that rests on nobody's data."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["generated_images"]

Floats = NDArray[np.float64]

MOST_SHAPES = 5
ROUNDNESS = (2, 4, 20)
"""Exponents p of the outlines |u|^p + |v|^p = 1: an ellipse, a rounded and a sharp box."""

BLOTCHES = (2, 4, 7, 14, 28)
"""Blotches along a side of an image."""


def generated_images(count: int, height: int, width: int, *, seed: int = 0) -> Floats:
    """Grey shapes on black, for ``PublicPrior.fit``.

    Every image shows one to five ellipses and boxes around its middle, each over the ones before, with
    stripes and blotches; every second one, on average, is made symmetric. Edges, occlusion and the
    fall-off of detail with scale are those of photographed objects; no photograph was used.

    Args:
        count: Number of images; the first ones are the same for every count.
        height: Rows of an image, at least 4.
        width: Columns of an image, at least 4.
        seed: Names the series; public, it protects nothing.

    Returns:
        ``float64[count, height * width]`` in [0, 1].

    Raises:
        ValueError: An argument is out of range.

    Reference:
        Lee, Mumford and Huang 2001 (the dead leaves model); Baradad et al. 2021 (learning features from
        such images).
    """
    if count < 0 or height < 4 or width < 4 or seed < 0:
        raise ValueError("count and seed are not negative, height and width at least 4")
    generator = np.random.Generator(np.random.PCG64(seed))
    images = np.zeros((count, height, width))
    for image in images:
        for _ in range(generator.integers(1, MOST_SHAPES + 1)):
            inside = _outline(generator, height, width)
            image[inside] = _texture(generator, height, width)[inside]
        if generator.random() < 0.5:
            np.maximum(image, image[:, ::-1].copy(), out=image)
    return np.clip(images, 0.0, 1.0).reshape(count, height * width)


def _outline(generator: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
    """The inside of a turned ellipse or box somewhere around the middle, ``bool[height, width]``."""
    middle = generator.normal([(height - 1) / 2, (width - 1) / 2], [height / 6, width / 6])
    angle = generator.uniform(0.0, math.pi)
    radii = generator.uniform(1.5, min(height, width) / 2, 2)
    power = generator.choice(ROUNDNESS)
    down = np.arange(height)[:, None] - middle[0]
    right = np.arange(width) - middle[1]
    along = right * math.cos(angle) + down * math.sin(angle)
    across = down * math.cos(angle) - right * math.sin(angle)
    inside: NDArray[np.bool_] = (
        np.abs(along / radii[0]) ** power + np.abs(across / radii[1]) ** power < 1.0
    )
    return inside


def _texture(generator: np.random.Generator, height: int, width: int) -> Floats:
    """A shade with a wave and blotches on it, ``float64[height, width]``."""
    shade, depth = generator.uniform(0.1, 1.0), generator.uniform(0.0, 0.6)
    across, down = generator.uniform(0.0, 1.5, 2) * generator.choice([-1, 1], 2)
    phase = generator.uniform(0.0, 2.0 * math.pi)
    wave = np.sin(across * np.arange(width) + down * np.arange(height)[:, None] + phase)
    side = int(generator.choice(BLOTCHES))
    blotches = generator.normal(size=(side, side))
    rows, columns = (np.arange(length) * side // length for length in (height, width))
    strength = generator.uniform(0.0, 0.25)
    texture: Floats = shade * (1.0 + depth * wave) + strength * blotches[np.ix_(rows, columns)]
    return texture
