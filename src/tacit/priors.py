"""``tacit prior``: fits a public prior for a job's features, on public records or on generated images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.engine.folder import FolderSource
from tacit.engine.local import wall_clock
from tacit.errors import ConfigError
from tacit.files import write_atomic
from tacit.learn.feature_map import FeatureMap
from tacit.learn.features import unit_columns
from tacit.learn.generated import generated_images
from tacit.learn.prior import PublicPrior
from tacit.party.job import JobSpec
from tacit.policy.contract import Contract

__all__ = ["FittedPrior", "fit_prior"]


MOST_IMAGES = 200_000


@dataclass(frozen=True, slots=True)
class FittedPrior:
    """A prior that was written.

    Args:
        path: The file.
        name: The public data.
        records: How many of them.
        dimension: Features that come out.
        digest: Of the prior; every site can compare it.
    """

    path: Path
    name: str
    records: int
    dimension: int
    digest: str

    def record(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "file": str(self.path),
            "public_data": self.name,
            "records": self.records,
            "features": self.dimension,
            "digest": self.digest,
        }


def fit_prior(
    job: JobSpec, source: Path | int, out: Path, *, rank: int, power: float
) -> FittedPrior:
    """Fits and writes the prior of a job's features.

    Args:
        job: Says what the features are; a prior that it names already is not used.
        source: A contract with ``public = true``, or how many images to generate (``scattering``).
        out: The file to write.
        rank: Axes to keep.
        power: 0 only turns, 1 makes the public variances equal.

    Raises:
        ConfigError: The data are not public, or do not fit the job's features or the rank.
        TransportError: The disk refuses the write.
    """
    name, unit = _generated(job, source) if isinstance(source, int) else _public(job, source)
    options = job.features
    kind = FeatureMap.load(options.map, (options.height, options.width), None, unit.shape[1])
    features = kind.apply(unit)
    try:
        prior = PublicPrior.fit(features, name=name, rank=rank, power=power)
    except ValueError as error:
        raise ConfigError(
            "prior.fit",
            f"no prior of {rank} axes follows from {len(features)} records of "
            f"{features.shape[1]} features: {error}",
            remedy="lower --rank, or take more public records",
        ) from error
    write_atomic(out, prior.to_bytes())
    return FittedPrior(out, name, len(features), prior.dimension, prior.digest.hex())


def _generated(job: JobSpec, count: int) -> tuple[str, NDArray[np.float64]]:
    options = job.features
    if not 2 <= count <= MOST_IMAGES:
        raise ConfigError(
            "prior.generated",
            f"{count} images cannot be generated",
            remedy=f"choose a number from 2 to {MOST_IMAGES}",
        )
    if options.map != "scattering":
        raise ConfigError(
            "prior.generated",
            "generated images are for image features, the job's are columns",
            remedy="name a public contract, or set features.map to 'scattering'",
            key="features.map",
        )
    name = f"{count} generated images of shapes; no data of anybody"
    return name, generated_images(count, options.height, options.width)


def _public(job: JobSpec, path: Path) -> tuple[str, NDArray[np.float64]]:
    contract = Contract.load(path)
    if not contract.public:
        raise ConfigError(
            "prior.not-public",
            f"{path}: a prior is fitted on public records only",
            remedy="use public data and set public = true, or pass --generated",
            file=str(path),
            key="public",
        )
    batch = FolderSource(contract, path.parent).read_public("prior", wall_clock())
    return f"{contract.name}, {len(batch)} public records", unit_columns(batch, job.features.scale)
