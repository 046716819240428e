"""What a job computes: the first model, one site's integer contribution, and the server step.

Leader and sites run the same code on the same public inputs, so that a site can derive every model
itself and never has to believe the leader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.ring import Ring, RingVector
from tacit.connect import SanitisedBatch
from tacit.errors import ConfigError
from tacit.learn.code import LoadedModel
from tacit.learn.features import scale_features
from tacit.learn.gradient_sum import record_sum
from tacit.learn.layout import Layout
from tacit.learn.local import LocalSettings, local_update
from tacit.learn.metrics import evaluate
from tacit.learn.models import Features
from tacit.learn.server import ServerRule, ServerState
from tacit.party.coordinates import (
    gradient_of,
    is_rotated,
    metric_code,
    metrics_of,
    rotation_seed,
    vector_length,
)
from tacit.party.job import JobSpec
from tacit.privacy.integers import encode_row
from tacit.privacy.plan import Plan
from tacit.privacy.rotated import encode_rotated
from tacit.privacy.sampling import poisson_sample
from tacit.types import Digest, Entropy, PartyName

__all__ = ["Floats", "TrainingData", "Workload", "first_model_seed"]

Floats = NDArray[np.float64]

LOCAL_SEED = b"tacit local layers"
"""Local layers start alike everywhere: no party's nonce decides what never leaves another."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Scaled features ``float64[n, k]`` or ``float32`` and class indices ``int64[n]``; memory only."""

    features: Features
    labels: NDArray[np.int64]

    def __repr__(self) -> str:
        return "TrainingData(...)"


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

    @classmethod
    def build(cls, job: JobSpec, model: LoadedModel) -> Workload:
        """Puts job and model together.

        Raises:
            ConfigError: ``training.local_layers`` does not fit the model, or the ring does not fit
                the algorithm.
        """
        _check_width(job)
        training = job.training
        rule = ServerRule(
            optimiser=training.optimiser,
            learning_rate=training.learning_rate,
            momentum=training.momentum,
            average_from=training.average_from,
            rounds=job.rounds,
        )
        layout = model.model.layout.with_local(training.local_layers)
        return cls(job=job, model=model, rule=rule, state_layout=layout)

    @property
    def dimension(self) -> int:
        """Number of shared parameters."""
        return self.state_layout.dimension

    @property
    def length(self) -> int:
        """Number of elements of a contribution."""
        return vector_length(self.job, self.dimension)

    @property
    def layout(self) -> Digest:
        """Digest of every tensor's name, shape, type and role, and of the constants' bytes."""
        return self.state_layout.digest

    def prepare(self, batch: SanitisedBatch) -> TrainingData:
        """Scales a sanitised batch; the only way from data to training."""
        features = scale_features(batch, scale=self.job.features.scale, norm=self.job.features.norm)
        return TrainingData(features=features, labels=batch.labels)

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
        local: bytes | None = None,
    ) -> tuple[RingVector, bytes | None]:
        """One site's contribution of a round, and its local layers afterwards.

        Args:
            state: The server state on which the round trains.
            data: The site's records.
            plan: The run's plan.
            entropy: Samples records (``sgd``), or governs their order and, in 16 bits, the rounding
                (``fedavg``).
            local: The local layers that this site stored last; None before its first upload.

        Returns:
            A vector of ``length`` elements over ``Ring(plan.ring_bits)``, and what the site stores
            together with the upload: None if the job keeps no layers at the sites.

        Raises:
            ConfigError: ``fedavg`` with more records than ``privacy.expected_records``.
            DecodeError: ``local`` is of another layout.

        Guarantee:
            Under unit ``record`` each record's clipped, encoded row, metrics included, depends on
            that record, the model and public parameters only and has integer norm at most
            ``plan.sensitivity``; removing a record changes the result by exactly its row
            (neighbouring relation: add or remove one record). Tests:
            ``tests/property/test_party_workload.py::test_removing_a_record_removes_its_share``,
            ``tests/property/test_learn_train_metrics.py::test_removing_a_record_removes_its_row``.
            Local layers reach no vector:
            ``tests/unit/test_learn_local_layers.py::test_local_layers_never_leave_the_site``.
        """
        if self.job.training.algorithm == "fedavg":
            update, kept = self._weighted_update(state, data, plan, entropy, local)
            return self._encoded(update, state, plan, entropy), kept
        selected = poisson_sample(len(data.labels), plan.sampling_threshold, entropy)
        total = record_sum(
            self.model.model,
            self.complete(state.theta, local),
            data.features,
            data.labels,
            selected,
            clip_norm=plan.clip_norm,
            grid=plan.grid,
            micro_batch=self.job.training.micro_batch,
            metrics=metric_code(self.job),
        )
        return Ring(plan.ring_bits).from_integers(total), None

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
        self,
        state: ServerState,
        data: TrainingData,
        plan: Plan,
        entropy: Entropy,
        local: bytes | None,
    ) -> tuple[Floats, bytes | None]:
        """``float64[length]``, scaled by the weight as a whole, so that averages stay averages."""
        weight = len(data.labels) / plan.expected_records
        if weight > 1.0:
            raise ConfigError(
                "job.expected-records",
                f"this site holds {len(data.labels)} records, the job allows "
                f"{plan.expected_records} per site",
                remedy="raise privacy.expected_records in the job",
            )
        training, layout = self.job.training, self.state_layout
        settings = LocalSettings(
            epochs=training.local_epochs,
            batch=training.local_batch,
            learning_rate=training.local_learning_rate,
        )
        before = self.complete(state.theta, local)
        delta = local_update(
            self.model.model, before, data.features, data.labels, settings, entropy.draw(32)
        )
        if not np.isfinite(delta).all():  # diverged: counts as absent, and its local layers stay
            delta, weight = np.zeros_like(delta), 0.0
        vector = np.concatenate([layout.shared(delta), [1.0], self._mean_metrics(before, data)])
        vector *= weight
        if not layout.local_dimension:
            return vector, None
        return vector, layout.local_to_bytes(layout.local(before + delta))

    def _mean_metrics(self, parameters: Floats, data: TrainingData) -> Floats:
        """The coded metrics of the model that the round started from; empty without metrics."""
        code = metric_code(self.job)
        if code is None:
            return np.zeros(0)
        size = self.job.training.micro_batch
        blocks = [
            self.model.model.assess(
                parameters, data.features[start : start + size], data.labels[start : start + size]
            )
            for start in range(0, len(data.labels), size)
        ]
        mean: Floats = code.code(np.concatenate(blocks)).mean(axis=0)
        return mean

    def step(self, state: ServerState, total: NDArray[np.int64], plan: Plan) -> ServerState:
        """The server step on a round's integer sum ``int64[length]``; elementwise float64."""
        return self.rule.step(state, gradient_of(total, self.job, plan, state))

    def metrics(
        self, state: ServerState, total: NDArray[np.int64], plan: Plan, helpers: int
    ) -> dict[str, float]:
        """Training metrics of ``state`` from the sum of the round that trained on it.

        Args:
            state: The server state on which the round trained.
            total: The round's centred sum, ``int64[length]``.
            plan: The run's plan.
            helpers: How many helpers added noise to the sum.

        Returns:
            See ``tacit.party.coordinates.metrics_of``.
        """
        return metrics_of(total, self.job, plan, state, helpers)

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


def _check_width(job: JobSpec) -> None:
    """A rotated vector is one client's whole update; a sum over records is encoded by record."""
    if is_rotated(job) and job.training.algorithm == "sgd":
        raise ConfigError(
            "job.ring-bits",
            "16 bits without noise are for whole updates of a site, not for sums over its records",
            remedy="set aggregation.ring_bits to 24 or 32, or training.algorithm to 'fedavg'",
            key="aggregation.ring_bits",
        )


def first_model_seed(accepts: Sequence[tuple[PartyName, bytes]]) -> bytes:
    """The seed of the first model: no single party can choose it.

    Args:
        accepts: Every client with the nonce of its ``Accept``.
    """
    hasher = hashlib.sha256(b"tacit first model v1\x00")
    for client, nonce in sorted(accepts):
        hasher.update(len(client).to_bytes(2, "big") + client.encode() + nonce)
    return hasher.digest()
