"""The job: what a researcher asks for. It carries no authority; every site decides for itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import rfc8785
from pydantic import Field, ValidationError, model_validator

from tacit.config import Table, load_toml
from tacit.errors import DecodeError
from tacit.types import Digest
from tacit.wire.envelope import digest

__all__ = ["JobSpec"]


class Data(Table):
    """``[data]``: which data set of a site the job asks for."""

    contract: str = Field(
        min_length=1,
        max_length=64,
        description="Name of the data contract that every site must offer.",
    )


class Evaluation(Table):
    """``[evaluation]``: the public test set, and evaluation on private records that are held out."""

    contract: str = Field(
        min_length=1,
        description="Path of a contract with `public = true`, relative to the job file.",
    )
    holdout: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Share of each site's units that is never trained on but evaluated in every round, "
        "inside the masked vector and under the same noise and charge (`sgd` only); 0.0 is off.",
    )
    bins: int = Field(
        default=16,
        ge=2,
        le=128,
        description="Bins of the score histograms from which the held-out AUC follows (two classes).",
    )
    patience: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Stop early once the smoothed held-out loss has not improved for so many rounds; "
        "0 is off. The run costs its whole plan all the same.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.patience and not self.holdout:
            raise ValueError("evaluation.patience needs held-out records: set evaluation.holdout")
        return self


class Privacy(Table):
    """``[privacy]``: the guarantee that the run must give, and the mechanism's public parameters."""

    unit: Literal["record", "entity", "client", "none"] = Field(
        default="record",
        description="Unit of privacy: one `record`; one `entity`, all records of a patient, say, by the "
        "contracts' entity key; one `client` as a whole (`fedavg`). `none` switches differential "
        "privacy off.",
    )
    epsilon: float = Field(
        default=1.0,
        ge=0.01,
        le=20,
        description="Epsilon of the whole run (add or remove one unit).",
    )
    delta: float = Field(default=1e-5, ge=1e-10, le=0.01, description="Delta of the whole run.")
    clip_norm: float = Field(
        default=1.0,
        gt=0,
        description="L2 bound on one unit's gradient (`fedavg`: on one client's update).",
    )
    sampling_rate: float = Field(
        default=0.5, ge=1e-5, le=1, description="Poisson sampling rate of units in every round."
    )
    max_records: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Unit `entity`: so many of an entity's records enter a round at most, drawn anew "
        "in every round; their mean gradient is clipped. Every entity costs the work of so many.",
    )
    client_sampling: Literal["secret", "visible"] = Field(
        default="secret",
        description="Unit `client`: `secret`: every client uploads, one that did not sample itself "
        "uploads zero, and epsilon holds against everybody; `visible`: only sampled clients upload, "
        "and against leader and helpers, who see that, nothing is amplified.",
    )
    max_participations: int | None = Field(
        default=None,
        ge=1,
        description="Unit `client`: in how many rounds one client takes part at most.",
    )
    expected_units: int = Field(
        ge=1,
        le=2**31,
        description="Public constant: units of all sites together: records, entities or clients "
        "(`fedavg` with unit `none`: records of the largest site, at most); divides the sum, so it must "
        "not depend on who takes part.",
    )
    max_colluding: int = Field(
        default=1,
        ge=0,
        description="Helpers that may pool what they know without breaking epsilon.",
    )
    noise: Literal["shared", "own"] = Field(
        default="shared",
        description="`own`: every helper adds the full noise, so epsilon holds even if all others "
        "collude.",
    )
    tuning: Literal["charged", "public-data", "not-declared"] = Field(
        default="not-declared",
        description="Where these settings come from, as the result will state it: `charged`: earlier "
        "runs on this data, each of which paid for itself; `public-data`: data that nobody pays for.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        clients = self.client_sampling == "visible" or self.max_participations is not None
        if self.unit != "client" and clients:
            raise ValueError(
                "client_sampling and max_participations are for unit 'client'; leave them out"
            )
        if self.unit != "entity" and self.max_records != 1:
            raise ValueError("privacy.max_records is for unit 'entity'; leave it out")
        return self


class Aggregation(Table):
    """``[aggregation]``: how contributions are added up."""

    protocol: Literal["masked", "plain"] = Field(
        default="masked",
        description="`masked`: nobody sees one contribution; `plain`: a baseline that every "
        "site's policy must permit.",
    )
    min_cohort: int = Field(ge=1, description="Fewest sites in a sum, counted by operator.")
    helpers: tuple[str, ...] | None = Field(
        default=None, description="Roster names of the helpers; by default every site, up to eight."
    )
    min_helpers: int | None = Field(
        default=None,
        ge=2,
        description="Fewest helpers of a round; with fewer than all, helpers may leave and join "
        "between rounds, and the noise makes up for it. By default all.",
    )
    ring_bits: Literal[16, 24, 32] = Field(
        default=32,
        description="Width of one masked coordinate, on the wire too: 24 where it fits, 16 for "
        "`fedavg` with unit `none`, whose updates are then rotated.",
    )
    phase_seconds: int = Field(
        default=600,
        ge=1,
        le=604_800,
        description="How long the leader waits for accepts and keys, for uploads, and for helpers; "
        "a helper's key lives three times as long.",
    )
    audit_rounds: int = Field(
        default=4,
        ge=0,
        le=10_000,
        description="Of how many of the last rounds the leader keeps every upload and answer, so "
        "that sites and `tacit audit` can add them up again.",
    )


class Training(Table):
    """``[training]``: the local computation and the server step."""

    algorithm: Literal["sgd", "fedavg"] = Field(
        default="sgd",
        description="`sgd`: sums of clipped gradients of records or entities; `fedavg`: updates after "
        "local epochs, clipped as a whole (unit `client`) or weighted (unit `none`).",
    )
    optimiser: Literal["sgd", "momentum", "adam"] = Field(
        default="momentum", description="Server step, elementwise in float64."
    )
    learning_rate: float = Field(default=1.0, gt=0, description="Server learning rate.")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant",
        description="Of the learning rate: `cosine` lowers it to 0 over the rounds.",
    )
    momentum: float = Field(
        default=0.9, ge=0, lt=1, description="Momentum (first moment of `adam`)."
    )
    average_from: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Average the iterates after this fraction of the rounds; 1.0 is off.",
    )
    clipping: Literal["flat", "per-layer", "adaptive", "normalised"] = Field(
        default="flat",
        description="How a unit's gradient or update is shortened to `privacy.clip_norm`: `flat`: as "
        "a whole; `per-layer`: every tensor by itself; `adaptive`: as a whole to a norm that follows "
        "`clip_quantile`; `normalised`: to the same length whether longer or shorter.",
    )
    clip_quantile: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="`adaptive`: the fraction of gradients that the clip norm is to leave as they are.",
    )
    clip_rate: float = Field(
        default=0.2, gt=0, lt=1, description="`adaptive`: how fast the clip norm follows."
    )
    clip_share: float = Field(
        default=0.01,
        gt=0,
        le=0.25,
        description="`adaptive`: the part of the squared clip norm that the bit takes by which a unit "
        "says whether its gradient was short enough; under the same noise and charge.",
    )
    local_epochs: int = Field(default=1, ge=1, le=1000, description="Local epochs (`fedavg`).")
    local_batch: int = Field(default=32, ge=1, le=2**20, description="Local batch size (`fedavg`).")
    local_learning_rate: float = Field(
        default=0.1, gt=0, description="Local learning rate (`fedavg`)."
    )
    micro_batch: int = Field(
        default=64,
        ge=1,
        le=2**20,
        description="Fixed, padded number of records per gradient computation.",
    )
    local_layers: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(
        default=(),
        max_length=64,
        description="Parameters that every site trains for itself, keeps between rounds and never "
        "sends, by name; `*` and `?` match (`fedavg` only).",
    )
    metrics_share: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Training metrics inside the masked vector: the part of the squared clip that "
        "they take from the gradient, under the same noise and charge; 0.0 is off.",
    )
    loss_bound: float = Field(
        default=4.0,
        gt=0,
        description="Largest loss of one record that the training metrics tell apart.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.local_layers and self.algorithm != "fedavg":
            raise ValueError(
                "training.local_layers needs local training: set training.algorithm to 'fedavg', "
                "or leave it out"
            )
        return self


class Features(Table):
    """``[features]``: data-independent scaling by the contract's public bounds."""

    scale: Literal["linear", "log1p"] = Field(
        default="linear", description="Scale of every feature."
    )
    norm: float = Field(
        default=1.0,
        gt=0,
        description="L2 bound of a scaled record. A linear model's bias is one input more, of value 1: at a "
        "norm of 1 it takes half of the squared clip norm, at 8 one part in 65.",
    )
    map: Literal["none", "scattering"] = Field(
        default="none",
        description="Fixed features that no data were used for: `scattering` of grey images, whose "
        "pixels are the feature columns, row by row.",
    )
    height: int = Field(default=28, ge=8, le=32, description="`scattering`: rows of an image.")
    width: int = Field(default=28, ge=8, le=32, description="`scattering`: columns of an image.")
    prior: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
        max_length=128,
        description="File of a public prior beside the job, made by `tacit prior`; applied last. Every "
        "site needs the same file, and the result names the public data.",
    )

    def file(self, base: Path) -> Path | None:
        """The prior's file, in the job's folder."""
        return None if self.prior is None else base / self.prior


class JobSpec(Table):
    """A job file."""

    version: Literal[1] = Field(description="Version of the file format.")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="Name of the job.")
    purpose: str = Field(
        min_length=1, max_length=64, description="Purpose that the sites' policies decide on."
    )
    rounds: int = Field(ge=1, le=10_000, description="Rounds; a lost round is not repeated.")
    model: str = Field(
        min_length=1, description="A shipped model (`logistic`) or `file.py:Name` beside the job."
    )
    data: Data
    evaluation: Evaluation
    privacy: Privacy
    aggregation: Aggregation
    training: Training = Training()
    features: Features = Features()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        unit, algorithm = self.privacy.unit, self.training.algorithm
        if algorithm == "fedavg" and unit in ("record", "entity"):
            raise ValueError(
                f"training.algorithm 'fedavg' has no guarantee for unit '{unit}'; "
                "use 'sgd', privacy.unit = 'client' or privacy.unit = 'none'"
            )
        if algorithm == "sgd" and unit == "client":
            raise ValueError(
                "privacy.unit 'client' bounds a client's whole update; set training.algorithm to "
                "'fedavg', or privacy.unit to 'record'"
            )
        if unit != "none" and self.aggregation.protocol == "plain":
            raise ValueError(
                "aggregation.protocol 'plain' has no helpers to add noise; "
                "use 'masked' or privacy.unit = 'none'"
            )
        if unit == "none" and self.privacy.noise == "own":
            raise ValueError(
                "privacy.noise 'own' adds no noise when privacy.unit is 'none'; leave it out"
            )
        if self.evaluation.holdout and algorithm != "sgd":
            raise ValueError("evaluation.holdout needs training.algorithm = 'sgd'; leave it out")
        if unit == "none" and algorithm == "fedavg" and self.training.clipping != "flat":
            raise ValueError(
                "weighted updates without differential privacy are clipped flat; leave "
                "training.clipping out"
            )
        if (self.privacy.max_participations or 0) > self.rounds:
            raise ValueError("privacy.max_participations exceeds rounds; leave it out")
        return self

    @classmethod
    def load(cls, path: Path) -> JobSpec:
        """Reads a job file.

        Raises:
            ConfigError: Names the file, the key and the remedy.
        """
        return load_toml(path, cls)

    def canonical(self) -> bytes:
        """RFC 8785 bytes of the validated content; floats as their shortest decimal text."""
        return rfc8785.dumps(_texts(self.model_dump(mode="python")))

    @property
    def digest(self) -> Digest:
        """SHA-256 of ``canonical()``."""
        return digest(self.canonical())

    @classmethod
    def from_canonical(cls, data: bytes) -> JobSpec:
        """Reads what ``canonical`` wrote.

        Raises:
            DecodeError: Not the canonical form of a valid job.
        """
        try:
            job = cls.model_validate(json.loads(data))
            canonical = job.canonical()  # Refuses lone surrogates and integers beyond 2^53.
        except (ValueError, ValidationError, RecursionError) as error:
            raise DecodeError("job.invalid", "not a valid job") from error
        if canonical != data:
            raise DecodeError("job.not-canonical", "not the canonical form of the job")
        return job


def _texts(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(item) for item in value]
    return value
