"""Canaries: made-up records whose clipped gradients are known directions, in real scratch runs.

One column says which canary a record is. The canary model's gradient on it is a block of coordinates of
its own, so that canaries never meet in a sum, and its norm is above every clip norm. Everything else is
production: connector, clipping, integers, sampling, masks, the helpers' noise, the sum.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.exact import IntegerRows
from tacit.attack.defences import Defence, job_for
from tacit.attack.scratch import DataPool, ScratchFederation
from tacit.learn.code import LoadedModel
from tacit.learn.layout import Entry, Layout
from tacit.learn.linear import Factors
from tacit.learn.models import Features, Model
from tacit.party.job import JobSpec
from tacit.privacy.integers import Part
from tacit.types import Digest

__all__ = [
    "LONG_ROW",
    "QUIET",
    "Canaries",
    "CanaryFederation",
    "CanaryModel",
    "FactoredCanaryModel",
    "canary_job",
    "sites_of",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

QUIET = 2.0
LOUD = 1e6
"""Norms of gradients, in clip norms: every canary is clipped, a loud one would drown a sum."""

LONG_ROW = 4096
"""From this length on production encodes a row by another function than shorter ones."""

_CONTRACT = """apiVersion = "v3.1.0"
name = "canaries"
public = true

[server]
type = "local"
path = "canaries.csv"
format = "csv"

[[properties]]
name = "canary"
logicalType = "number"
classification = "feature"
transform = {{ method = "keep" }}
bounds_source = "numbers of made-up records"
logicalTypeOptions = {{ minimum = 0.0, maximum = {last:.1f} }}

[[properties]]
name = "voice"
logicalType = "string"
classification = "label"
transform = {{ method = "keep" }}
values = ["quiet", "loud"]
"""


@dataclass(frozen=True, slots=True)
class Canaries:
    """So many canaries and where their gradients lie.

    Args:
        count: How many, at least 2.
        width: Coordinates of each: a record that is not clipped as a whole, but coordinate by coordinate,
            is too long by the root of it.
        clip_norm: Norms are multiples of it.
    """

    count: int
    width: int
    clip_norm: float

    @property
    def dimension(self) -> int:
        """Length of a gradient."""
        return self.count * self.width

    def data(self, *, loud: bool = False) -> DataPool:
        """The records, read through a contract like any others.

        Args:
            loud: Whether their gradients are huge.
        """
        voice = "loud" if loud else "quiet"
        lines = ["canary,voice", *(f"{index},{voice}" for index in range(self.count))]
        with TemporaryDirectory() as folder:
            (Path(folder) / "canaries.csv").write_text("\n".join(lines) + "\n", "utf-8")
            path = Path(folder) / "contract.toml"
            path.write_text(_CONTRACT.format(last=float(self.count - 1)), "utf-8")
            return DataPool.load(path)

    def blocks(self, vector: NDArray[Any]) -> NDArray[Any]:
        """A vector's coordinates by canary, ``[count, width]``."""
        return vector[: self.dimension].reshape(self.count, self.width)

    def scores(self, vector: Floats) -> Floats:
        """How much of each canary is in a sum: ``float64[count]``, the product with its unit direction."""
        found: Floats = self.blocks(vector).sum(axis=1) / np.sqrt(self.width)
        return found

    def index(self, x: Features) -> Integers:
        """Which canary each scaled record is, ``int64[n]``."""
        unit = (np.asarray(x[:, 0], dtype=np.float64) + 1.0) / 2.0
        return np.rint(unit * (self.count - 1)).astype(np.int64)

    def lengths(self, y: NDArray[np.int64]) -> Floats:
        """Norm of each record's gradient, ``float64[n]``."""
        return np.where(y == 1, LOUD, QUIET) * self.clip_norm


class CanaryModel:
    """A linear loss: the gradient of canary i is its own block of coordinates, whatever the parameters."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries

    @property
    def dimension(self) -> int:
        """Number of parameters."""
        return self._canaries.dimension

    @property
    def layout(self) -> Layout:
        """One tensor."""
        return Layout((Entry("canaries", (self.dimension,), "float64", "shared"),))

    def initial(self, seed: bytes) -> Floats:
        """Zeros."""
        return np.zeros(self.dimension)

    def gradients(self, theta: Floats, x: Features, y: NDArray[np.int64]) -> Floats:
        """See ``Model.gradients``."""
        count, width = self._canaries.count, self._canaries.width
        rows = np.zeros((len(x), count, width))
        each = self._canaries.lengths(y) / np.sqrt(width)
        rows[np.arange(len(x)), self._canaries.index(x)] = each[:, None]
        return rows.reshape(len(x), -1)

    def gradient_parts(self, theta: Floats, x: Features, y: NDArray[np.int64]) -> list[Part]:
        """All columns in one part."""
        return [self.gradients(theta, x, y)]

    def mean_gradient(self, theta: Floats, x: Features, y: NDArray[np.int64]) -> Floats:
        """Mean of ``gradients``."""
        mean: Floats = self.gradients(theta, x, y).mean(axis=0)
        return mean

    def assess(self, theta: Floats, x: Features, y: NDArray[np.int64]) -> Floats:
        """Nothing is learnt, so nothing is assessed: zeros."""
        return np.zeros((len(x), 3))

    def scores(self, theta: Floats, x: Features) -> Floats:
        """Both classes alike."""
        return np.full((len(x), 2), 0.5)

    def loss(self, theta: Floats, x: Features, y: NDArray[np.int64]) -> float:
        """Zero."""
        return 0.0

    def tensors(self, theta: Floats) -> dict[str, Floats]:
        """One tensor."""
        return {"canaries": theta}


class FactoredCanaryModel(CanaryModel):
    """The same gradients as outer products, which production encodes by another function.

    Args:
        canaries: Their number is a multiple of ``rows``.
        rows: Rows of the matrix that a gradient is.
    """

    def __init__(self, canaries: Canaries, rows: int) -> None:
        super().__init__(canaries)
        self._rows = rows
        self._columns = canaries.count // rows
        if rows * self._columns != canaries.count:
            raise ValueError("the number of canaries is a multiple of the number of rows")

    def factors(self, theta: Floats, x: Features, y: NDArray[np.int64]) -> Factors:
        """See ``tacit.learn.linear.LinearHead``."""
        row, column = np.divmod(self._canaries.index(x), self._columns)
        errors = np.zeros((len(x), self._rows))
        errors[np.arange(len(x)), row] = self._canaries.lengths(y)
        width = self._canaries.width
        inputs = np.zeros((len(x), self._columns, width))
        inputs[np.arange(len(x)), column] = 1.0 / np.sqrt(width)
        flat = inputs.reshape(len(x), -1)
        return Factors(errors, IntegerRows.of(flat), np.zeros((len(x), 3)))

    def arranged(self, matrix: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row by row, as ``gradients`` has them."""
        return matrix.ravel()


def sites_of(job: JobSpec) -> int:
    """How many sites an audit has: enough for the job's colluding helpers and one honest one."""
    return max(4, min(8, job.privacy.max_colluding + 2))


def canary_job(
    job: JobSpec,
    defence: Defence,
    canaries: Canaries,
    *,
    sites: int,
    privacy: dict[str, Any] | None = None,
) -> JobSpec:
    """The job with canaries in the place of its records.

    Epsilon, delta, clip norm, sampling, rounds, colluding helpers, ring and server step are the job's. Where
    its unit is an entity or a client, records stand for these: the noise of one unit is the same.

    Args:
        job: The job under attack.
        defence: The column.
        canaries: Whose number is the number of units, whoever is in.
        sites: How many sites there are.
        privacy: Changes to ``[privacy]``.
    """
    content = job.model_dump()
    content |= {"model": "logistic", "features": {"scale": "linear", "norm": 1.0}}
    content["training"] |= {"algorithm": "sgd", "clipping": "flat", "local_layers": ()}
    content["training"] |= {"metrics_share": 0.0, "micro_batch": 256}
    content["evaluation"] |= {"holdout": 0.0, "patience": 0}
    if job.privacy.unit in ("entity", "client"):
        content["privacy"] |= {
            "unit": "record",
            "max_records": 1,
            "client_sampling": "secret",
            "max_participations": None,
        }
    if content["aggregation"]["ring_bits"] == 16:
        content["aggregation"]["ring_bits"] = 32
    made = JobSpec.model_validate(content)
    return job_for(made, defence, sites=sites, units=canaries.count, privacy=privacy)


class CanaryFederation(ScratchFederation):
    """A scratch federation whose job trains a canary model.

    Args:
        job: From ``canary_job``.
        model: The canary model.
        data: From ``Canaries.data``.
        holdings: For each site the canaries that are in, at least one.
    """

    def __init__(
        self, job: JobSpec, model: Model, data: DataPool, holdings: list[NDArray[np.int64]]
    ) -> None:
        self._canaries = model
        super().__init__(job, Path(), data, holdings)

    def load_model(self, job: JobSpec) -> LoadedModel:
        """The canary model, under a name of its own."""
        code = Digest(hashlib.sha256(b"tacit attack canaries v1").digest())
        return LoadedModel(self._canaries, code, pinned=True)
