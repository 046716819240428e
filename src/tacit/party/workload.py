"""What a job computes: the first model, one site's integer contribution, and the server step.

Leader and sites run the same code on the same public inputs, so that a site can derive every model
itself and never has to believe the leader.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.ring import Ring, RingVector
from tacit.connect import SanitisedBatch
from tacit.errors import ConfigError
from tacit.learn.code import LoadedModel
from tacit.learn.feature_map import FeatureMap
from tacit.learn.features import scale_features
from tacit.learn.gradient_sum import Encoding, Records, held_out_sum, unit_sum
from tacit.learn.holdout import held_out_rows
from tacit.learn.layout import Layout
from tacit.learn.local import LocalSettings, local_update
from tacit.learn.metrics import evaluate
from tacit.learn.models import Features
from tacit.learn.server import ServerRule, ServerState
from tacit.party.coordinates import (
    Coordinates,
    is_rotated,
    is_weighted,
    rotation_seed,
    server_rule,
)
from tacit.party.job import JobSpec
from tacit.privacy.integers import encode_row
from tacit.privacy.plan import Plan
from tacit.privacy.rotated import encode_rotated
from tacit.privacy.sampling import draw_groups, poisson_sample
from tacit.types import Digest, Entropy, PartyName

__all__ = [
    "FRESH",
    "Carried",
    "Contributed",
    "Floats",
    "TrainingData",
    "Workload",
    "first_model_seed",
    "prepare_private",
]

Floats = NDArray[np.float64]

LOCAL_SEED = b"tacit local layers"
"""Local layers start alike everywhere: no party's nonce decides what never leaves another."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What one site trains and evaluates on; memory only.

    Args:
        features: Scaled features, ``float64[n, k]`` or ``float32``.
        labels: Class indices, ``int64[n]``.
        entities: Whose record each is, ``int64[n]`` from 0 without gaps; None if every record stands
            for itself.
        held_out: Records that are evaluated and never trained on.
    """

    features: Features
    labels: NDArray[np.int64]
    entities: NDArray[np.int64] | None = None
    held_out: TrainingData | None = None

    def __repr__(self) -> str:
        return "TrainingData(...)"

    @property
    def records(self) -> Records:
        """Features and labels of the records that are trained on."""
        return self.features, self.labels

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> TrainingData:
        """Some of the records, by mark or index, and nothing that is held out.

        Entities are numbered anew, without gaps.
        """
        entities = None
        if self.entities is not None:
            entities = np.unique(self.entities[rows], return_inverse=True)[1].astype(np.int64)
        return TrainingData(self.features[rows], self.labels[rows], entities)


@dataclass(frozen=True, slots=True)
class Carried:
    """What a site keeps of a run from one round to the next.

    Args:
        local: Its local layers; None before the first upload, or without any.
        participations: In how many rounds it was sampled, for unit ``client``.
    """

    local: bytes | None = field(default=None, repr=False)
    participations: int = field(default=0, repr=False)


FRESH = Carried()


@dataclass(frozen=True, slots=True)
class Contributed:
    """A contribution, and what the site keeps once it has left.

    Args:
        vector: ``length`` elements over ``Ring(plan.ring_bits)``.
        carried: For the next round.
        sampled: Whether the client was sampled; true for other units.
    """

    vector: RingVector = field(repr=False)
    carried: Carried
    sampled: bool = field(default=True, repr=False)


@dataclass(frozen=True, slots=True)
class Workload:
    """The computation that a job defines for one model and one public schema.

    Server states and released models hold the shared parameters alone. Layers that the job keeps at
    the sites (``training.local_layers``) exist at each site, which passes them in and stores what
    comes back, and start alike everywhere; whoever has no data evaluates with those first values.
    """

    job: JobSpec
    model: LoadedModel
    rule: ServerRule
    state_layout: Layout
    coordinates: Coordinates

    @classmethod
    def build(cls, job: JobSpec, model: LoadedModel, classes: int) -> Workload:
        """Puts job and model together.

        Args:
            job: The job.
            model: Its model.
            classes: Number of classes of the public schema.

        Raises:
            ConfigError: ``training.local_layers`` does not fit the model, or the ring does not fit
                the algorithm.
        """
        _check_width(job)
        layout = model.model.layout.with_local(job.training.local_layers)
        coordinates = Coordinates.of(job, layout.dimension, classes, layout.shared_sizes())
        return cls(job, model, server_rule(job), layout, coordinates)

    @property
    def code(self) -> Digest:
        """Digest of the code that defines the model."""
        return self.model.code

    def close(self) -> None:
        """Nothing is held beyond this object."""

    @property
    def dimension(self) -> int:
        """Number of shared parameters."""
        return self.state_layout.dimension

    @property
    def length(self) -> int:
        """Number of elements of a contribution."""
        return self.coordinates.length

    @property
    def layout(self) -> Digest:
        """Digest of every tensor's name, shape, type and role, and of the constants' bytes."""
        return self.state_layout.digest

    def prepare(self, batch: SanitisedBatch) -> TrainingData:
        """Scales a sanitised batch that is public: all of it is evaluated on."""
        return TrainingData(self._scaled(batch), batch.labels)

    def prepare_private(self, batch: SanitisedBatch, holdout_key: bytes) -> TrainingData:
        """Scales a site's batch and divides it; the only way from a site's data to training.

        Args:
            batch: The records.
            holdout_key: Secret of this site and run, 32 bytes: which units are held out follows from it.

        Raises:
            ConfigError: The job's unit is ``entity``, and the contract names no entity key.
        """
        return prepare_private(self.job, batch, holdout_key, self.model.feature_map)

    def _scaled(self, batch: SanitisedBatch) -> Floats:
        return _scaled(self.job, batch, self.model.feature_map)

    def first(self, seed: bytes) -> ServerState:
        """The server state before round 1."""
        return self.rule.start(self.state_layout.shared(self.model.model.initial(seed)))

    def complete(self, shared: Floats, local: bytes | None = None) -> Floats:
        """The model's own parameter vector, as ``Model`` takes it.

        Args:
            shared: Shared parameters, ``float64[dimension]``.
            local: A site's local layers, as ``contribution`` returned them; their first values by
                default.

        Raises:
            DecodeError: ``local`` is of another layout.
        """
        layout = self.state_layout
        if local is not None:
            return layout.join(shared, layout.local_from_bytes(local))
        if not layout.local_dimension:
            return shared
        return layout.join(shared, layout.local(self.model.model.initial(LOCAL_SEED)))

    def contribution(
        self,
        state: ServerState,
        data: TrainingData,
        plan: Plan,
        entropy: Entropy,
        carried: Carried = FRESH,
        *,
        idle: bool = True,
    ) -> Contributed:
        """One site's contribution of a round.

        Args:
            state: The server state on which the round trains.
            data: The site's records.
            plan: The run's plan.
            entropy: Samples units, or governs the order of local training and, in 16 bits, rounding.
            carried: What this site carried after its last upload.
            idle: Whether the work is the same whoever is sampled: padding is computed, and a client that
                is not sampled trains for nothing. Only where nobody watches may it be left out.

        Raises:
            ConfigError: Weighted ``fedavg`` with more records than ``privacy.expected_units``.
            DecodeError: The local layers are of another layout.

        Guarantee:
            Each unit's clipped, encoded row (a record's, an entity's, or the client's whole vector),
            metrics included, depends on that unit, the model and public parameters only and has integer
            norm at most ``plan.sensitivity``; removing a unit changes the result by exactly its row
            (neighbouring relation: add or remove one unit). A client's work does not depend on whether
            it was sampled. Tests:
            ``tests/property/test_party_workload.py::test_removing_a_record_removes_its_share``,
            ``tests/property/test_party_units.py::test_removing_an_entity_removes_its_share``,
            ``tests/property/test_party_units.py::test_a_client_contributes_its_clipped_update_or_zero``,
            ``tests/property/test_learn_train_metrics.py::test_removing_a_record_removes_its_row``.
            Local layers reach no vector:
            ``tests/unit/test_learn_local_layers.py::test_local_layers_never_leave_the_site``.
        """
        if self.job.training.algorithm == "sgd":
            total = self._unit_sums(state, data, plan, entropy, padded=idle)
            return Contributed(Ring(plan.ring_bits).from_integers(total), carried)
        if is_weighted(self.job):
            return self._weighted_update(state, data, plan, entropy, carried)
        sampled = bool(poisson_sample(1, plan.sampling_threshold, entropy)[0])
        sampled &= not plan.max_participations or carried.participations < plan.max_participations
        if not sampled and not idle:
            return Contributed(Ring(plan.ring_bits).zeros(self.length), carried, sampled)
        made = self._client_update(state, data, plan, entropy, carried)
        if sampled:
            return made
        return Contributed(made.vector * np.asarray(0, dtype=made.vector.dtype), carried, sampled)

    def _unit_sums(
        self,
        state: ServerState,
        data: TrainingData,
        plan: Plan,
        entropy: Entropy,
        *,
        padded: bool,
    ) -> NDArray[np.int64]:
        """The rows of the sampled records or entities, then those of what is held out."""
        model, theta = self.model.model, self.complete(state.theta)
        size, code = self.job.training.micro_batch, self.coordinates
        encoding = Encoding(plan.clip_norm, plan.grid, size, state.clip_scale, padded)
        groups = self._groups(data, plan, entropy)
        total = unit_sum(model, theta, data.records, groups, code.row, encoding)
        if code.held_out is None:
            return total
        other = data.held_out
        assert other is not None
        groups = self._groups(other, plan, entropy)
        evaluated = held_out_sum(model, theta, other.records, groups, code.held_out, encoding)
        return np.concatenate([total, evaluated])

    def _groups(self, data: TrainingData, plan: Plan, entropy: Entropy) -> NDArray[np.int64]:
        cap, threshold = self.job.privacy.max_records, plan.sampling_threshold
        return draw_groups(data.entities, len(data.labels), cap, threshold, entropy)

    def _encoded(
        self, update: Floats, state: ServerState, plan: Plan, entropy: Entropy
    ) -> RingVector:
        """One whole vector, clipped and encoded in the ring's own memory."""
        if is_rotated(self.job):
            return encode_rotated(
                update,
                clip_norm=plan.clip_norm,
                grid=plan.grid,
                coordinate_bound=plan.coordinate_bound,
                seed=rotation_seed(state),
                entropy=entropy,
            ).view(np.uint16)
        ring = Ring(plan.ring_bits)
        vector = ring.zeros(len(update))
        encode_row(update, plan.clip_norm, plan.grid, vector.view(np.int32))
        ring.reduce(vector)
        return vector

    def _weighted_update(
        self, state: ServerState, data: TrainingData, plan: Plan, entropy: Entropy, carried: Carried
    ) -> Contributed:
        """An update scaled by its weight as a whole, weight included, so that averages stay averages."""
        weight = len(data.labels) / plan.expected_units
        if weight > 1.0:
            raise ConfigError(
                "job.expected-units",
                f"this site holds {len(data.labels)} records, the job allows "
                f"{plan.expected_units} per site",
                remedy="raise privacy.expected_units in the job",
            )
        before, delta = self._trained(state, data, entropy, carried)
        if not np.isfinite(delta).all():  # diverged: counts as absent, and its local layers stay
            delta, weight = np.zeros_like(delta), 0.0
        code, metrics = self.coordinates.row.metrics, np.zeros(0)
        if code is not None:
            metrics = code.code(self._mean_assessment(before, data))[0]
        vector = np.concatenate([self.state_layout.shared(delta), [1.0], metrics])
        vector *= weight
        return Contributed(
            self._encoded(vector, state, plan, entropy), self._keep(before + delta, carried)
        )

    def _client_update(
        self, state: ServerState, data: TrainingData, plan: Plan, entropy: Entropy, carried: Carried
    ) -> Contributed:
        """A sampled client's clipped update: the one row that it is."""
        before, delta = self._trained(state, data, entropy, carried)
        code = self.coordinates.row
        assessed = self._mean_assessment(before, data) if code.metrics is not None else None
        row = code.rows(self.state_layout.shared(delta)[None, :], assessed, state.clip_scale)[0]
        after = self._keep(before + delta, carried)
        return Contributed(
            self._encoded(row, state, plan, entropy),
            dataclasses.replace(after, participations=carried.participations + 1),
        )

    def _trained(
        self, state: ServerState, data: TrainingData, entropy: Entropy, carried: Carried
    ) -> tuple[Floats, Floats]:
        """The model's parameters before local training, and how it moved them."""
        training = self.job.training
        settings = LocalSettings(
            epochs=training.local_epochs,
            batch=training.local_batch,
            learning_rate=training.local_learning_rate,
        )
        before = self.complete(state.theta, carried.local)
        model, (x, y) = self.model.model, data.records
        return before, local_update(model, before, x, y, settings, entropy.draw(32))

    def _keep(self, after: Floats, carried: Carried) -> Carried:
        """The local layers of parameters that training led to; as they were if it diverged."""
        layout = self.state_layout
        local = layout.local(after)
        if not len(local) or not np.isfinite(after).all():
            return carried
        return dataclasses.replace(carried, local=layout.local_to_bytes(local))

    def _mean_assessment(self, parameters: Floats, data: TrainingData) -> Floats:
        """``Model.assess`` of the model that the round started from, on average: ``float64[1, 3]``."""
        size, (x, y) = self.job.training.micro_batch, data.records
        blocks = [
            self.model.model.assess(parameters, x[start : start + size], y[start : start + size])
            for start in range(0, len(y), size)
        ]
        code = self.coordinates.row.metrics
        assert code is not None
        assessed = np.concatenate(blocks)
        assessed[:, 0] = code.bounded(assessed[:, 0])
        mean: Floats = assessed.mean(axis=0, keepdims=True)
        return mean

    def step(self, state: ServerState, total: NDArray[np.int64], plan: Plan) -> ServerState:
        """The server step on a round's integer sum ``int64[length]``; elementwise float64."""
        return self.coordinates.step(total, plan, state)

    def metrics(
        self, state: ServerState, total: NDArray[np.int64], plan: Plan, helpers: int
    ) -> dict[str, float]:
        """The private metrics of ``state`` from the sum of the round that trained on it.

        Args:
            state: The server state on which the round trained.
            total: The round's centred sum, ``int64[length]``.
            plan: The run's plan.
            helpers: How many helpers added noise to the sum.

        Returns:
            See ``Coordinates.metrics``.
        """
        return self.coordinates.metrics(total, plan, state, helpers)

    def released(self, state: ServerState) -> Floats:
        """The shared parameters that the run releases."""
        return self.rule.released(state)

    def evaluate(
        self, state: ServerState, data: TrainingData, local: bytes | None = None
    ) -> dict[str, float]:
        """Metrics of the released model on ``data``; see ``tacit.learn.metrics.evaluate``.

        Args:
            state: The server state.
            data: Evaluation records.
            local: A site's local layers; their first values by default.
        """
        parameters = self.complete(self.released(state), local)
        return evaluate(self.model.model, parameters, data.features, data.labels)


def prepare_private(
    job: JobSpec, batch: SanitisedBatch, holdout_key: bytes, feature_map: FeatureMap
) -> TrainingData:
    """Scales a site's batch and divides it; no code of a job runs.

    Args:
        job: The job.
        batch: The records.
        holdout_key: See ``Workload.prepare_private``.
        feature_map: What becomes of the columns.

    Raises:
        ConfigError: The job's unit is ``entity``, and the contract names no entity key.
    """
    entities = None
    if job.privacy.unit == "entity":
        entities = _entities(batch)
    everything = TrainingData(_scaled(job, batch, feature_map), batch.labels, entities)
    share = job.evaluation.holdout
    if not share:
        return everything
    marks = held_out_rows(batch, holdout_key, share, by_entity=entities is not None)
    return dataclasses.replace(everything.take(~marks), held_out=everything.take(marks))


def _scaled(job: JobSpec, batch: SanitisedBatch, feature_map: FeatureMap) -> Floats:
    scale, norm = job.features.scale, job.features.norm
    return scale_features(batch, scale=scale, norm=norm, feature_map=feature_map)


def _check_width(job: JobSpec) -> None:
    """A rotated vector is one client's whole update; a sum over records is encoded by record."""
    if is_rotated(job) and job.training.algorithm == "sgd":
        raise ConfigError(
            "job.ring-bits",
            "16 bits without noise are for whole updates of a site, not for sums over its records",
            remedy="set aggregation.ring_bits to 24 or 32, or training.algorithm to 'fedavg'",
            key="aggregation.ring_bits",
        )


def _entities(batch: SanitisedBatch) -> NDArray[np.int64]:
    """Whose record each is, numbered without gaps."""
    if batch.entities is None:
        raise ConfigError(
            "site.entity",
            f"the job's unit of privacy is 'entity', and contract '{batch.receipt.name}' names no "
            "entity key",
            remedy="set 'entity' in the contract to the column that tells people apart, or "
            "privacy.unit to 'record'",
            key="entity",
        )
    return np.unique(batch.entities, return_inverse=True)[1].astype(np.int64)


def first_model_seed(accepts: Sequence[tuple[PartyName, bytes]]) -> bytes:
    """The seed of the first model: no single party can choose it.

    Args:
        accepts: Every client with the nonce of its ``Accept``.
    """
    hasher = hashlib.sha256(b"tacit first model v1\x00")
    for client, nonce in sorted(accepts):
        hasher.update(len(client).to_bytes(2, "big") + client.encode() + nonce)
    return hasher.digest()
