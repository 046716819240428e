"""Image features that nobody trained: two layers of oriented wavelets and moduli, in exact arithmetic.

A linear head on these features comes close to a small network, with its clipped gradients in closed
form. Nothing is fitted, so the features cost no budget and hold nobody's data.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tacit.errors import ConfigError
from tacit.types import Digest

__all__ = ["Scattering"]

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

ORIENTATIONS = 8
CHANNELS = 1 + 2 * ORIENTATIONS + ORIENTATIONS**2
CELL = 4
"""Side, in pixels, of the square that one feature of a channel stands for."""

GROUP = 3
"""Consecutive channels that are normalised together: 27 groups."""

SMALLEST_SIDE = 8
LARGEST_SIDE = 32
"""The filters are kept as dense matrices, which at 32 x 32 take 100 MB."""

BLOCK = 128
"""Images at a time: some 60 MB of intermediate results at 28 x 28."""

PIXEL_LEVELS = 255
FIRST_LEVELS = 1023
SECOND_LEVELS = 4095
"""Largest pixel and largest moduli of the two layers, as integers."""

EXACT = 2**24
"""Up to here float32 holds every integer. Each product below keeps (largest value) x (sum of absolute
weights) within it, so its sums are exact, in whatever order a matrix library adds them."""

POOLED_UNIT = 2.0**-9
"""Brings pooled values below 2**15: a group's sum of squares, times its size, stays below 2**53."""

FLOOR = 64.0
"""Added to a group's variance (in pooled units squared), lest an all but flat group be blown up."""

NORMAL_UNIT = 2.0**-16
SHARP_MASS = 2**20
"""Normalised values, below 14, become integers below 2**20: their products stay below 2**40."""

SHARPNESS = 0.75
"""The overlap of windows is undone by its inverse to this power: 0.5 would make windows orthonormal.
Of 0.5, 0.75 and 1 it trained best, with noise, on a validation part of Fashion-MNIST."""

OVERLAP_FLOOR = 0.15
"""Added to the overlap's eigenvalues along an axis, of mean 1: finest detail is not all blown up."""

WIDTH = 0.8
FREQUENCY = 0.75 * math.pi
SLANT = 4.0 / ORIENTATIONS
"""The finest wavelet: width of its envelope and of its window's per pixel of cell, radians per pixel,
ratio of the envelope's axes. Values of Kymatio (Andreux et al. 2020)."""

REACH = 4
"""Half the side of the finest wavelet's square, in pixels: two and a half widths of its long axis."""


@dataclass(frozen=True, slots=True)
class Scattering:
    """Fixed features of grey images of one size.

    Each image goes through Morlet wavelets of ``ORIENTATIONS`` directions at two scales, the moduli
    of the finer scale through those of the coarser again. The image and all moduli (81 channels) are
    smoothed by a Gaussian and sampled every ``CELL`` pixels, and each group of three channels is centred
    and scaled to the same variance. The windows overlap, which makes neighbouring cells alike and a
    linear head slow to train; the inverse of that overlap, known without any data, evens it out. The
    whole record is scaled to norm 1. At the border the image is mirrored.

    All sums but the norm's are of integers: pixels, filters, moduli and windows are rounded, to levels
    so few that every sum is exact.

    Args:
        height: Rows of an image: a multiple of 4, from 8 to 32.
        width: Columns of an image, under the same bounds.

    Raises:
        ConfigError: The size is out of these bounds.

    Reference:
        Bruna and Mallat 2013 (scattering); Oyallon et al. 2017 (a linear head on two layers); Tramer
        and Boneh 2021 (with group normalisation, for private training).
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        sides = range(SMALLEST_SIDE, LARGEST_SIDE + 1, CELL)
        if self.height not in sides or self.width not in sides:
            raise ConfigError(
                "learn.image-size",
                f"scattering features of images of {self.height} x {self.width} pixels do not exist",
                remedy=f"pad or crop both sides to a multiple of {CELL}"
                f" from {SMALLEST_SIDE} to {LARGEST_SIDE}",
            )

    @property
    def dimension(self) -> int:
        """Number of features: 3,969 at 28 x 28."""
        return CHANNELS * (self.height // CELL) * (self.width // CELL)

    @property
    def digest(self) -> Digest:
        """SHA-256 of every filter and window: two sites with the same digest have the same features."""
        hasher = hashlib.sha256(b"tacit scattering v1\x00")
        for matrix in _operators(self.height, self.width):
            hasher.update(np.array(matrix.shape, dtype="<i8").tobytes())
            hasher.update(matrix.astype("<i4").tobytes())
        return Digest(hasher.digest())

    def apply(self, images: Floats) -> Floats:
        """The features of every image.

        Args:
            images: ``float64[n, height * width]``, in [0, 1] by the contract's public range. What
                lies outside is moved to the nearer end, and what is not a number counts as 0: an
                error here would say something about a record.

        Returns:
            ``float64[n, dimension]``, channel by channel, each row by row; read-only. Every row's L2
            norm is 1 up to rounding, or 0 for an image without any structure.

        Raises:
            ValueError: ``images`` has another shape.

        Guarantee:
            Row i depends, bit for bit, on image i only, at any position and any ``n``; no statistic
            of the data enters. Test:
            ``tests/property/test_learn_scattering.py::test_rows_are_independent``. It holds for any
            matrix library that computes in full float32, whatever its order of summation.
        """
        pixels = self.height * self.width
        if images.ndim != 2 or images.shape[1] != pixels:
            raise ValueError(f"images must be [n, {pixels}], one row an image")
        operators = _operators(self.height, self.width)
        features = np.empty((len(images), self.dimension))
        for start in range(0, len(images), BLOCK):
            block = images[start : start + BLOCK]
            levels = np.rint(np.fmin(np.fmax(block, 0.0), 1.0) * PIXEL_LEVELS)
            pooled = _pooled(levels.astype(np.float32), operators)
            features[start : start + BLOCK] = _normalised(pooled, operators.sharpening)
        features.setflags(write=False)
        return features


class _Operators(NamedTuple):
    """Integer matrices in float32 that a plane of values, as a row, is multiplied by."""

    fine: Singles
    """A plane to 2 x ``ORIENTATIONS`` planes: real parts, then imaginary parts."""
    coarse: Singles
    """The same at the coarser scale, of every second row and column."""
    second: Singles
    """The same as ``coarse``, with smaller weights for the larger values of the second layer."""
    window: Singles
    """A plane to its smoothed cells."""
    half_window: Singles
    """A plane of every second row and column to its smoothed cells."""
    sharpening: Floats
    """Cells to cells whose windows overlap less; the one in float64."""


def _pooled(levels: Singles, operators: _Operators) -> Floats:
    """Integers in [0, 2**15), ``float64[n, CHANNELS, cells]``, of pixels ``[n, height * width]``."""
    n = len(levels)
    fine = _moduli(levels @ operators.fine, PIXEL_LEVELS, FIRST_LEVELS)
    coarse = _moduli(levels @ operators.coarse, PIXEL_LEVELS, FIRST_LEVELS)
    second = _moduli(fine @ operators.second, FIRST_LEVELS, SECOND_LEVELS)
    smoothed = [
        levels @ operators.window,
        fine @ operators.window,
        coarse @ operators.half_window,
        second @ operators.half_window,
    ]
    cells = operators.window.shape[1]
    pooled = np.concatenate([part.reshape(n, -1, cells) for part in smoothed], axis=1)
    return np.rint(pooled * np.float32(POOLED_UNIT)).astype(np.float64)


def _moduli(filtered: Singles, levels_in: int, levels_out: int) -> Singles:
    """Moduli of complex planes as integers, at most ``levels_out``: one plane a row.

    ``filtered`` is ``[n, 2 * ORIENTATIONS * points]``, sums of values up to ``levels_in``. A wavelet
    adds up to zero, so no part exceeds half of ``EXACT``, nor the modulus half of it times sqrt(2).
    """
    parts = filtered.reshape(len(filtered), 2, -1)
    moduli: Singles = parts[:, 0] * parts[:, 0]
    moduli += parts[:, 1] * parts[:, 1]
    np.sqrt(moduli, out=moduli)
    moduli *= np.float32(levels_out / (levels_in * _mass(levels_in) * math.sqrt(0.5)))
    np.rint(moduli, out=moduli)
    return moduli.reshape(len(filtered) * ORIENTATIONS, -1)


def _normalised(pooled: Floats, sharpening: Floats) -> Floats:
    """Groups centred and scaled, cells sharpened, records of norm 1: ``float64[n, CHANNELS * cells]``.

    With integers v of a group of size s, ``s v - sum v`` is s times the centred value and
    ``s sum v^2 - (sum v)^2`` is s^2 times the variance; both are exact integers.
    """
    groups = pooled.reshape(len(pooled), CHANNELS // GROUP, -1)
    size = groups.shape[2]
    total = groups.sum(axis=2, keepdims=True)
    spread = size * (groups * groups).sum(axis=2, keepdims=True) - total * total
    scale = 1.0 / np.sqrt(spread + size**2 * FLOOR)
    centred = ((size * groups - total) * scale).reshape(-1, len(sharpening))
    levels = np.rint(centred / NORMAL_UNIT)
    features: Floats = (levels @ sharpening).reshape(len(pooled), -1)
    lengths = np.sqrt((features * features).sum(axis=1, keepdims=True))
    features /= np.where(lengths > 0.0, lengths, 1.0)
    return features


def _mass(levels: int) -> int:
    """The largest sum of absolute weights under which values up to ``levels`` are summed exactly."""
    return EXACT // levels


@lru_cache(maxsize=2)
def _operators(height: int, width: int) -> _Operators:
    pixels, first = _mass(PIXEL_LEVELS), _mass(FIRST_LEVELS)
    plane, half = (height, width), (height // 2, width // 2)
    return _Operators(
        fine=_convolution(plane, _wavelets(1, pixels), 1),
        coarse=_convolution(plane, _wavelets(2, pixels), 2),
        second=_convolution(plane, _wavelets(2, first), 2),
        window=_window(plane, CELL),
        half_window=_window(half, CELL // 2),
        sharpening=_sharpening(plane),
    )


def _wavelets(scale: int, mass: int) -> Floats:
    """Morlet wavelets as integers, ``float64[2 * ORIENTATIONS, side, side]``: real, then imaginary.

    Each adds up to zero exactly, and its absolute weights to at most ``mass``.
    """
    axis = np.arange(-REACH * scale, REACH * scale + 1)
    waves = []
    for orientation in range(ORIENTATIONS):
        angle = math.pi * orientation / ORIENTATIONS
        along = axis * math.cos(angle) + axis[:, None] * math.sin(angle)
        across = axis[:, None] * math.cos(angle) - axis * math.sin(angle)
        envelope = np.exp(-(along**2 + (SLANT * across) ** 2) / (2 * (WIDTH * scale) ** 2))
        wave = envelope * np.exp(1j * FREQUENCY / scale * along)
        waves.append(wave - envelope * (wave.sum() / envelope.sum()))
    parts = np.concatenate([np.real(waves), np.imag(waves)])
    weights: Floats = np.stack([_integers(part, mass) for part in parts])
    centre = REACH * scale
    weights[:, centre, centre] -= weights.sum(axis=(1, 2))
    return weights


def _integers(weights: Floats, mass: int) -> Floats:
    """Weights scaled and rounded so that their absolute values add up to just below ``mass``.

    A hundredth of it is left for what rounding and centring may add.
    """
    rounded: Floats = np.rint(weights * (0.99 * mass / np.abs(weights).sum()))
    return rounded


def _convolution(plane: tuple[int, int], filters: Floats, stride: int) -> Singles:
    """Filters, applied at every ``stride``-th point of a mirrored plane, as one matrix.

    ``float32[height * width, filters * points]``, where the points of a filter lie together.
    """
    height, width = plane
    side = filters.shape[1]
    cells = np.arange(height * width).reshape(plane)
    mirrored = np.pad(cells, side // 2, mode="symmetric")
    points = [
        (row, column)
        for row in range(stride // 2, height, stride)
        for column in range(stride // 2, width, stride)
    ]
    flat = filters.reshape(len(filters), -1).T
    matrix = np.zeros((height * width, len(filters), len(points)), dtype=np.float32)
    for index, (row, column) in enumerate(points):
        sources = mirrored[row : row + side, column : column + side].ravel()
        np.add.at(matrix[:, :, index], sources, flat)
    return matrix.reshape(height * width, -1)


def _window(plane: tuple[int, int], cell: int) -> Singles:
    """A Gaussian around the middle of every cell of a mirrored plane: ``float32[points, cells]``."""
    rows, columns = (_bells(side, cell) for side in plane)
    products = np.einsum("ik,jl->ijkl", rows, columns).reshape(plane[0] * plane[1], -1)
    mass = _mass(SECOND_LEVELS)
    return np.stack([_integers(column, mass) for column in products.T], axis=1).astype(np.float32)


def _bells(side: int, cell: int) -> Floats:
    """``float64[side, side // cell]``: along one axis."""
    middles = (np.arange(side // cell) + 0.5) * cell - 0.5
    distances = np.arange(-side, 2 * side)[:, None] - middles
    bells = np.zeros((side, len(middles)))
    sources = np.pad(np.arange(side), side, mode="symmetric")
    np.add.at(bells, sources, np.exp(-(distances**2) / (2 * (WIDTH * cell) ** 2)))
    return bells


def _sharpening(plane: tuple[int, int]) -> Floats:
    """Inverse of the windows' overlap to the power ``SHARPNESS``: integers, ``float64[cells, cells]``."""
    factors = []
    for side in plane:
        bells = _bells(side, CELL)
        overlap = bells.T @ bells
        eigenvalues, axes = np.linalg.eigh(overlap * (len(overlap) / np.trace(overlap)))
        factors.append((axes * (eigenvalues + OVERLAP_FLOOR) ** -SHARPNESS) @ axes.T)
    matrix = np.kron(*factors)
    # Coarse enough that two machines' eigenvectors, equal to 13 digits, round to the same integers.
    integers: Floats = np.rint(matrix * (0.99 * SHARP_MASS / np.abs(matrix).sum(axis=0).max()))
    return integers
