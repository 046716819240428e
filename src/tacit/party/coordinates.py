"""What the coordinates of a contribution are, and how a round's sum is read.

In this order: the gradient (``fedavg``: the update of the shared parameters); the weight (``fedavg`` with
unit ``none``); the clip bit (adaptive clipping); two training metrics (``training.metrics_share``); the
evaluation of what is held out (``evaluation.holdout``). In 16 bits without noise all of them travel rotated
as one vector. Leader, sites and verifier read sums by these functions alone.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.encoding import decode as decode_fixed
from tacit.learn.held_out import HeldOutCode
from tacit.learn.record_metrics import MetricCode
from tacit.learn.row_code import RowCode
from tacit.learn.server import ServerRule, ServerState
from tacit.party.job import JobSpec
from tacit.privacy.plan import Plan
from tacit.privacy.rotated import decode_rotated, rotated_length

__all__ = ["Coordinates", "is_rotated", "is_weighted", "rotation_seed", "server_rule"]

Floats = NDArray[np.float64]

LEAST_RECORDS = 0.5
"""Honest weights add up to at least one record; less would blow the step up."""


def is_rotated(job: JobSpec) -> bool:
    """Whether contributions travel rotated; the job's side of ``Plan.rotated``."""
    return job.privacy.unit == "none" and job.aggregation.ring_bits == 16


def is_weighted(job: JobSpec) -> bool:
    """Whether updates are weighted by records and carry their weight; one without a unit of privacy."""
    return job.training.algorithm == "fedavg" and job.privacy.unit == "none"


def rotation_seed(state: ServerState) -> bytes:
    """The public seed of a round's rotation, 32 bytes.

    It follows from the model that the round trains on, which no party could choose.

    Args:
        state: The server state on which the round trains.
    """
    return hashlib.sha256(b"tacit rotation seed v1\x00" + state.digest).digest()


def server_rule(job: JobSpec) -> ServerRule:
    """How a job's aggregated gradients move the model."""
    training = job.training
    return ServerRule(
        optimiser=training.optimiser,
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        average_from=training.average_from,
        rounds=job.rounds,
        schedule=training.schedule,
        clip_quantile=training.clip_quantile,
        clip_rate=training.clip_rate if training.clipping == "adaptive" else 0.0,
    )


@dataclass(frozen=True, slots=True)
class Coordinates:
    """What lies where in a job's vectors.

    Args:
        job: The job.
        dimension: Number of shared parameters.
        classes: Number of classes.
        row: How a unit's row is made up.
        held_out: How a held-out unit's row is; None if nothing is held out.
    """

    job: JobSpec
    dimension: int
    classes: int
    row: RowCode
    held_out: HeldOutCode | None

    @classmethod
    def of(
        cls, job: JobSpec, dimension: int, classes: int, layers: tuple[int, ...] = ()
    ) -> Coordinates:
        """The coordinates of a job for a model.

        Args:
            job: The job.
            dimension: Number of shared parameters.
            classes: Number of classes.
            layers: Sizes of the shared tensors: whoever encodes with ``per-layer`` needs them.
        """
        training, clip_norm = job.training, job.privacy.clip_norm
        metrics = None
        if training.metrics_share:
            metrics = MetricCode(clip_norm, training.metrics_share, training.loss_bound)
        row = RowCode.of(
            clip_norm,
            training.clipping,
            layers=layers,
            bit_share=training.clip_share,
            metrics=metrics,
        )
        held_out = None
        if job.evaluation.holdout:
            bins = job.evaluation.bins
            held_out = HeldOutCode(clip_norm, training.loss_bound, classes, bins)
        return cls(job, dimension, classes, row, held_out)

    @property
    def length(self) -> int:
        """Number of elements of a contribution; a rotated one is padded to whole blocks."""
        return rotated_length(self._plain_length) if is_rotated(self.job) else self._plain_length

    @property
    def _plain_length(self) -> int:
        weight = 1 if is_weighted(self.job) else 0
        held_out = 0 if self.held_out is None else self.held_out.coordinates
        return self.dimension + weight + self.row.extra + held_out

    def gradient(self, total: NDArray[np.int64], plan: Plan, state: ServerState) -> Floats:
        """The server step's input from a round's sum, ``float64[dimension]``.

        Args:
            total: The centred sum, ``int64[length]``.
            plan: The job's plan.
            state: The server state on which the round trained.

        Returns:
            ``sgd``: the sum over the constant divisor. ``fedavg``: minus the mean of the updates, over
            the constant divisor or, without a unit of privacy, weighted; zero if the weights add up to
            less than half a record.

        Raises:
            ValueError: ``total`` has another length than a contribution.
        """
        values = self._values(total, plan, state)
        gradient = values[: self.dimension]
        if is_weighted(self.job):
            weight = float(values[self.dimension])
            if weight * plan.expected_units < LEAST_RECORDS:
                return np.zeros(self.dimension)
            return -gradient / weight
        mean = gradient * state.clip_scale / self._units(plan)
        return -mean if self.job.training.algorithm == "fedavg" else mean

    def step(self, total: NDArray[np.int64], plan: Plan, state: ServerState) -> ServerState:
        """The server step on a round's integer sum ``int64[length]``; elementwise float64."""
        short = self._short_fraction(total, plan, state)
        return server_rule(self.job).step(state, self.gradient(total, plan, state), short)

    def _short_fraction(
        self, total: NDArray[np.int64], plan: Plan, state: ServerState
    ) -> float | None:
        """The fraction of gradients that adaptive clipping left as they were; None without it."""
        clipping = self.row.clipping
        if not clipping.coordinates:
            return None
        bits = float(self._values(total, plan, state)[self.dimension])
        return clipping.fraction(bits, self._units(plan))

    def metrics(
        self, total: NDArray[np.int64], plan: Plan, state: ServerState, helpers: int
    ) -> dict[str, float]:
        """The private metrics in a round's sum: of the model that the round started from.

        Training metrics are relative to the expected sample, not to the realised one, which nobody may
        know: sites that are missing draw both towards the middle of their range.

        Args:
            total: The centred sum, ``int64[length]``.
            plan: The job's plan.
            state: The server state on which the round trained.
            helpers: How many helpers added noise to this sum.

        Returns:
            ``train_loss`` and ``train_accuracy`` with ``train_loss_std`` and ``train_accuracy_std``, the
            standard deviations of the noise in them, if the job asks for them (not if the weights of
            ``fedavg`` add up to less than half a record); then those of ``HeldOutCode.decode``.

        Raises:
            ValueError: ``total`` has another length than a contribution, or the plan covers no round
                with so many helpers.
        """
        values = self._values(total, plan, state)
        noise_std = math.sqrt(plan.total_variance(helpers)) * plan.grid
        found: dict[str, float] = {}
        code = self.row.metrics
        if code is not None:
            start = self.dimension + self.row.clipping.coordinates
            divisor = self._units(plan)
            if is_weighted(self.job):
                start, divisor = start + 1, float(values[self.dimension])
            if not is_weighted(self.job) or divisor * plan.expected_units >= LEAST_RECORDS:
                coded = values[start : start + code.coordinates] / divisor
                found |= code.decode(coded, noise_std / divisor)
        if self.held_out is not None:
            found |= self.held_out.decode(values[-self.held_out.coordinates :], noise_std)
        return found

    def _units(self, plan: Plan) -> float:
        """The constant number of units that a round is expected to train on."""
        return plan.divisor * (1.0 - self.job.evaluation.holdout)

    def _values(self, total: NDArray[np.int64], plan: Plan, state: ServerState) -> Floats:
        """The decoded coordinates."""
        if len(total) != self.length or len(state.theta) != self.dimension:
            raise ValueError("the sum is not as long as a contribution")
        if is_rotated(self.job):
            return decode_rotated(total, plan.grid, rotation_seed(state), self._plain_length)
        return decode_fixed(total, plan.grid)
