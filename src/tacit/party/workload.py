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

from tacit.algebra.encoding import decode as decode_fixed
from tacit.algebra.ring import to_ring
from tacit.connect import SanitisedBatch
from tacit.errors import ConfigError
from tacit.learn.code import LoadedModel
from tacit.learn.features import scale_features
from tacit.learn.gradient_sum import record_sum
from tacit.learn.local import LocalSettings, local_update
from tacit.learn.server import ServerRule, ServerState
from tacit.party.job import JobSpec
from tacit.privacy.integers import encode_records
from tacit.privacy.plan import Plan
from tacit.privacy.sampling import poisson_sample
from tacit.types import Entropy, PartyName

__all__ = ["TrainingData", "Workload", "first_model_seed"]

Floats = NDArray[np.float64]

LEAST_RECORDS = 0.5


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Scaled features ``float64[n, k]`` and class indices ``int64[n]`` of one site; memory only."""

    features: Floats
    labels: NDArray[np.int64]

    def __repr__(self) -> str:
        return "TrainingData(...)"


@dataclass(frozen=True, slots=True)
class Workload:
    """The computation that a job defines for one model and one public schema."""

    job: JobSpec
    model: LoadedModel
    rule: ServerRule

    @classmethod
    def build(cls, job: JobSpec, model: LoadedModel) -> Workload:
        """Puts job and model together."""
        training = job.training
        rule = ServerRule(
            optimiser=training.optimiser,
            learning_rate=training.learning_rate,
            momentum=training.momentum,
            average_from=training.average_from,
            rounds=job.rounds,
        )
        return cls(job=job, model=model, rule=rule)

    @property
    def dimension(self) -> int:
        """Number of model parameters."""
        return self.model.model.dimension

    @property
    def length(self) -> int:
        """Number of elements of a contribution: ``fedavg`` carries its weight as one more."""
        return self.dimension + (1 if self.job.training.algorithm == "fedavg" else 0)

    def prepare(self, batch: SanitisedBatch) -> TrainingData:
        """Scales a sanitised batch; the only way from data to training."""
        features = scale_features(batch, scale=self.job.features.scale, norm=self.job.features.norm)
        return TrainingData(features=features, labels=batch.labels)

    def first(self, seed: bytes) -> ServerState:
        """The server state before round 1."""
        return self.rule.start(self.model.model.initial(seed))

    def contribution(
        self, state: ServerState, data: TrainingData, plan: Plan, entropy: Entropy
    ) -> NDArray[np.uint32]:
        """One site's integer contribution of a round, ``uint32[length]``.

        Guarantee:
            Under unit ``record`` each record's clipped, encoded share depends on that record, the
            model and public parameters only; removing a record changes the result by exactly its
            share (neighbouring relation: add or remove one record). Test:
            ``tests/property/test_party_workload.py::test_removing_a_record_removes_its_share``.
        """
        if self.job.training.algorithm == "fedavg":
            return to_ring(self._weighted_update(state, data, plan, entropy))
        selected = poisson_sample(len(data.labels), plan.sampling_threshold, entropy)
        total = record_sum(
            self.model.model,
            state.theta,
            data.features,
            data.labels,
            selected,
            clip_norm=plan.clip_norm,
            grid=plan.grid,
            micro_batch=self.job.training.micro_batch,
        )
        return to_ring(total)

    def _weighted_update(
        self, state: ServerState, data: TrainingData, plan: Plan, entropy: Entropy
    ) -> NDArray[np.int64]:
        weight = len(data.labels) / plan.expected_records
        if weight > 1.0:
            raise ConfigError(
                "job.expected-records",
                f"this site holds {len(data.labels)} records, the job allows "
                f"{plan.expected_records} per site",
                remedy="raise privacy.expected_records in the job",
            )
        training = self.job.training
        settings = LocalSettings(
            epochs=training.local_epochs,
            batch=training.local_batch,
            learning_rate=training.local_learning_rate,
        )
        delta = local_update(
            self.model.model, state.theta, data.features, data.labels, settings, entropy.draw(32)
        )
        # A vector beyond the clip is scaled as a whole, weight included, so the average stays one.
        vector = np.append(weight * delta, weight)
        encoded: NDArray[np.int64] = encode_records(vector[None, :], plan.clip_norm, plan.grid)[0]
        return encoded

    def step(self, state: ServerState, total: NDArray[np.int64], plan: Plan) -> ServerState:
        """The server step on a round's integer sum ``int64[length]``; elementwise float64."""
        values = decode_fixed(total, plan.grid)
        if self.job.training.algorithm == "fedavg":
            # Honest weights add up to at least one record; less would blow the step up.
            weight = values[-1]
            enough = weight * plan.expected_records >= LEAST_RECORDS
            gradient = -values[:-1] / weight if enough else np.zeros(self.dimension)
        else:
            gradient = values / plan.divisor
        return self.rule.step(state, gradient)

    def released(self, state: ServerState) -> Floats:
        """The model parameters that the run releases."""
        return self.rule.released(state)


def first_model_seed(accepts: Sequence[tuple[PartyName, bytes]]) -> bytes:
    """The seed of the first model: no single party can choose it.

    Args:
        accepts: Every client with the nonce of its ``Accept``.
    """
    hasher = hashlib.sha256(b"tacit first model v1\x00")
    for client, nonce in sorted(accepts):
        hasher.update(len(client).to_bytes(2, "big") + client.encode() + nonce)
    return hasher.digest()
