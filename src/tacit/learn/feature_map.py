"""What becomes of the columns before a model sees them: fixed features and a public prior, if any."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tacit.errors import ConfigError, DecodeError
from tacit.files import read_limited
from tacit.learn.prior import PublicPrior
from tacit.learn.scattering import Scattering
from tacit.types import Digest

__all__ = ["FeatureMap"]

Floats = NDArray[np.float64]

PRIOR_LIMIT = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """A fixed map of a record's columns, the same at every site.

    Args:
        scattering: Turns pixels into ``Scattering`` features; None keeps the columns.
        prior: Applied last; None for none.
    """

    scattering: Scattering | None = None
    prior: PublicPrior | None = None

    @classmethod
    def load(
        cls,
        kind: Literal["none", "scattering"],
        size: tuple[int, int],
        prior: Path | None,
        columns: int,
    ) -> FeatureMap:
        """The map that a job names.

        Args:
            kind: Which fixed features.
            size: Height and width of an image, for ``scattering``.
            prior: File of the public prior.
            columns: Number of feature columns of the schema.

        Raises:
            ConfigError: Columns, image size and prior do not fit together, or the file is missing or
                no prior; names the key.
        """
        scattering = Scattering(*size) if kind == "scattering" else None
        if scattering is not None and size[0] * size[1] != columns:
            raise _refused(
                "features.height",
                f"{columns} feature columns are not {size[0]} x {size[1]} pixels",
                "correct features.height and features.width in the job",
            )
        if prior is None:
            return cls(scattering)
        try:
            loaded = PublicPrior.from_bytes(read_limited(prior, PRIOR_LIMIT))
        except DecodeError as error:
            remedy = "make it with 'tacit prior', and give every site the same file"
            raise _refused("features.prior", f"{prior}: {error.message}", remedy) from error
        known = columns if scattering is None else scattering.dimension
        if len(loaded.matrix) != known:
            raise _refused(
                "features.prior",
                f"{prior} is a prior for {len(loaded.matrix)} features, the job has {known}",
                "make one for these features",
            )
        return cls(scattering, loaded)

    @property
    def fixed(self) -> bool:
        """Whether anything but the columns themselves reaches a model."""
        return self.scattering is not None or self.prior is not None

    @property
    def public_data(self) -> tuple[str, ...]:
        """Names of the public data that the map rests on."""
        return () if self.prior is None else (self.prior.name,)

    def dimension(self, columns: int) -> int:
        """Number of features of a record, given the number of its columns."""
        if self.prior is not None:
            return self.prior.dimension
        return columns if self.scattering is None else self.scattering.dimension

    def code(self, model: Digest) -> Digest:
        """The digest of a model's code together with this map; the model's own without any map."""
        parts = [part.digest for part in (self.scattering, self.prior) if part is not None]
        if not parts:
            return model
        return Digest(
            hashlib.sha256(b"tacit feature map v1\x00" + model + b"".join(parts)).digest()
        )

    def apply(self, unit: Floats) -> Floats:
        """Features of records whose columns lie in [0, 1].

        Args:
            unit: ``float64[n, columns]``.

        Returns:
            ``float64[n, dimension(columns)]``, of norm 1 or 0 if ``fixed``; row i depends, bit for bit,
            on row i only.
        """
        features = unit if self.scattering is None else self.scattering.apply(unit)
        return features if self.prior is None else self.prior.apply(features)


def _refused(key: str, message: str, remedy: str) -> ConfigError:
    return ConfigError("learn.feature-map", message, remedy=remedy, key=key)
