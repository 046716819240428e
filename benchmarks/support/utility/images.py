"""Fashion-MNIST as fixed features on disk, and a stand-in of scikit-learn's digits for ``--quick``.

Features are computed once, as a site would (``FeatureMap``), and kept as float32: every process maps the
same file, and a data holder is a slice of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from support.machine import say
from tacit.learn import FeatureMap, PublicPrior, Scattering, generated_images

Floats = NDArray[np.float32 | np.float64]
Labels = NDArray[np.int64]

CLASSES = 10
VALIDATION = 10_000
"""The last so many training images: what every setting was chosen on."""

NORM = 8.0
"""Of a record's features (``features.norm``). The bias of a linear head is one input more, of value 1,
and takes its part of the clip norm: at norm 1 half of its square, which cost a point of accuracy on
validation; at norm 8 one part in 65, which cost nothing."""

BLOCK = 2048


@dataclass(frozen=True, slots=True)
class Prior:
    """A public prior on generated images: nobody's data.

    Args:
        images: How many are generated.
        rank: Axes that are kept.
        power: How far their variances are evened out.
    """

    images: int
    rank: int
    power: float

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.images:,} generated images, seed 0"


@dataclass(frozen=True, slots=True)
class Part:
    """Records of one purpose: some rows of a file of features.

    Args:
        path: An ``.npy`` file, ``float32[n, k]``.
        start: The first of its rows.
        labels: Class indices of the rows from there on, ``int64[m]``.
    """

    path: Path
    start: int
    labels: Labels

    def features(self) -> Floats:
        """``float32[m, k]``, mapped: nothing is read before it is used."""
        rows = np.load(self.path, mmap_mode="r")[self.start : self.start + len(self.labels)]
        return rows.view(np.ndarray)


@dataclass(frozen=True, slots=True)
class Images:
    """A task's records.

    Args:
        title: Name of the data, for people.
        train: What the sites or clients hold.
        test: What is scored.
    """

    title: str
    train: Part
    test: Part


@dataclass(frozen=True, slots=True)
class Source:
    """Where images come from, and where their features are kept.

    Args:
        title: Name of the data, for people.
        pixels: ``uint8[n, side, side]``: training images, then test images.
        labels: ``int64[n]``.
        trained: Number of training images.
        white: Value of a white pixel.
        cache: Folder of the features; made if missing.
    """

    title: str
    pixels: NDArray[np.uint8]
    labels: Labels
    trained: int
    white: int
    cache: Path

    def images(self, prior: Prior | None, *, validation: bool) -> Images:
        """The records, through the feature map; computed unless they are there already.

        Args:
            prior: The public prior, if any.
            validation: Whether the last training images are scored instead of the test images.
        """
        path = self._features(prior)
        trained = self.trained - VALIDATION if validation else self.trained
        end = self.trained if validation else len(self.labels)
        return Images(
            f"{self.title} (validation)" if validation else self.title,
            Part(path, 0, self.labels[:trained]),
            Part(path, trained, self.labels[trained:end]),
        )

    def _features(self, prior: Prior | None) -> Path:
        side = self.pixels.shape[1]
        scattering = Scattering(side, side)
        fitted = self._fitted(prior, scattering) if prior is not None else None
        feature_map = FeatureMap(scattering, fitted)
        name = _name(feature_map, self.pixels.tobytes(), str(NORM).encode())
        return _kept(self.cache / f"{name}.npy", lambda path: self._compute(path, feature_map))

    def _compute(self, path: Path, feature_map: FeatureMap) -> None:
        n, columns = len(self.pixels), self.pixels[0].size
        shape = (n, feature_map.dimension(columns))
        kept = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        for start in _blocks(n, "features"):
            block = self.pixels[start : start + BLOCK].reshape(-1, columns) / float(self.white)
            kept[start : start + BLOCK] = NORM * feature_map.apply(block)
        kept.flush()

    def _fitted(self, prior: Prior, scattering: Scattering) -> PublicPrior:
        name = _name(FeatureMap(scattering), repr(prior).encode())
        path = self.cache / f"{name}.safetensors"

        def fit(target: Path) -> None:
            pixels = generated_images(prior.images, scattering.height, scattering.width)
            features = np.empty((len(pixels), scattering.dimension))
            for start in _blocks(len(pixels), "features of generated images"):
                features[start : start + BLOCK] = scattering.apply(pixels[start : start + BLOCK])
            fitted = PublicPrior.fit(features, name=prior.name, rank=prior.rank, power=prior.power)
            target.write_bytes(fitted.to_bytes())

        return PublicPrior.from_bytes(_kept(path, fit).read_bytes())


def fashion(data: Path, cache: Path) -> Source:
    """Fashion-MNIST.

    Args:
        data: Folder of data sets; it is ``fashion_mnist/fashion_mnist.npz`` there.
        cache: Folder of the features.
    """
    path = data / "fashion_mnist" / "fashion_mnist.npz"
    if not path.is_file():
        raise SystemExit(missing(path))
    with np.load(path) as found:
        pixels = np.concatenate([found["x_train"], found["x_test"]])
        labels = np.concatenate([found["y_train"], found["y_test"]]).astype(np.int64)
        trained = len(found["y_train"])
    return Source("Fashion-MNIST", pixels, labels, trained, 255, cache)


def digits(cache: Path) -> Source:
    """scikit-learn's 1,797 digits of 8 x 8 pixels: shows that everything runs."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import, for --quick only

    found = load_digits()
    pixels, labels = found.images.astype(np.uint8), found.target.astype(np.int64)
    return Source("digits (stand-in)", pixels, labels, 1400, 16, cache)


def missing(path: Path) -> str:
    """What to tell who lacks a file."""
    return (
        f"{path} is missing: name the folder that holds {path.parent.name}/ by --data or the variable "
        "TACIT_DATA, leave the part out by --only, or use --quick, which needs no files"
    )


def clients(labels: Labels, count: int, size: int, seed: int, alpha: float = 0.5) -> Labels:
    """Divides records among clients, each with class proportions of its own: Dirichlet(``alpha``).

    A class that has run out is drawn no more.

    Args:
        labels: ``int64[n]``, n at least ``count * size``.
        count: Number of clients.
        size: Records of each.
        seed: Names the partition.
        alpha: The smaller, the fewer classes a client has.

    Returns:
        ``int64[count, size]``: indices of the records.
    """
    generator = np.random.default_rng(seed)
    pools = [
        generator.permutation(np.flatnonzero(labels == label)).tolist() for label in range(CLASSES)
    ]
    parts = np.empty((count, size), dtype=np.int64)
    for part in parts:
        wanted = generator.dirichlet([alpha] * CLASSES)
        for place in range(size):
            there = np.array([bool(pool) for pool in pools])
            weights = wanted * there if (wanted * there).sum() > 0 else there.astype(float)
            chosen = generator.choice(CLASSES, p=weights / weights.sum())
            part[place] = pools[chosen].pop()
    return parts


def _blocks(n: int, what: str) -> Iterator[int]:
    starts = range(0, n, BLOCK)
    for number, start in enumerate(starts):
        if number % 8 == 0 and len(starts) > 8:
            say(f"{what}: {start:,} of {n:,}")
        yield start


def _name(feature_map: FeatureMap, *parts: bytes) -> str:
    """A file name that changes with the map and with whatever else the content depends on."""
    hasher = hashlib.sha256(feature_map.code(hashlib.sha256(b"").digest()))
    for part in parts:
        hasher.update(hashlib.sha256(part).digest())
    return hasher.hexdigest()[:24]


def _kept(path: Path, make: Callable[[Path], None]) -> Path:
    """The path of a file that is made unless it is there; a half-made one never is."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.part")
        make(unfinished)
        unfinished.replace(path)
    return path
