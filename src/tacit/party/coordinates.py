"""What the coordinates of a contribution are, and how a round's sum is read.

``sgd``: the gradient. ``fedavg``: the weighted update of the shared parameters, then the weight. With
``training.metrics_share`` two metric coordinates follow. In 16 bits without noise all of them travel
rotated as one vector. Leader, sites and verifier read sums by these functions alone.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.encoding import decode as decode_fixed
from tacit.learn.record_metrics import COORDINATES, MetricCode
from tacit.learn.server import ServerState
from tacit.party.job import JobSpec
from tacit.privacy.plan import Plan
from tacit.privacy.rotated import decode_rotated, rotated_length

__all__ = [
    "gradient_of",
    "is_rotated",
    "metric_code",
    "metrics_of",
    "rotation_seed",
    "vector_length",
]

Floats = NDArray[np.float64]

LEAST_RECORDS = 0.5
"""Honest weights add up to at least one record; less would blow the step up."""


def metric_code(job: JobSpec) -> MetricCode | None:
    """How records' training metrics are coded; None if the job asks for none."""
    training = job.training
    if not training.metrics_share:
        return None
    return MetricCode(
        clip_norm=job.privacy.clip_norm,
        share=training.metrics_share,
        loss_bound=training.loss_bound,
    )


def is_rotated(job: JobSpec) -> bool:
    """Whether contributions travel rotated; the job's side of ``Plan.rotated``."""
    return job.privacy.unit == "none" and job.aggregation.ring_bits == 16


def rotation_seed(state: ServerState) -> bytes:
    """The public seed of a round's rotation, 32 bytes.

    It follows from the model that the round trains on, which no party could choose.

    Args:
        state: The server state on which the round trains.
    """
    return hashlib.sha256(b"tacit rotation seed v1\x00" + state.digest).digest()


def vector_length(job: JobSpec, dimension: int) -> int:
    """Number of elements of a contribution; a rotated one is padded to whole blocks.

    Args:
        job: The job.
        dimension: Number of shared parameters.
    """
    length = _coordinates(job, dimension)
    return rotated_length(length) if is_rotated(job) else length


def gradient_of(total: NDArray[np.int64], job: JobSpec, plan: Plan, state: ServerState) -> Floats:
    """The server step's input from a round's sum, ``float64[dimension]``.

    Args:
        total: The centred sum, ``int64[length]``.
        job: The job.
        plan: Its plan.
        state: The server state on which the round trained.

    Returns:
        ``sgd``: the sum over the constant divisor. ``fedavg``: minus the weighted mean of the
        updates; zero if the weights add up to less than half a record.

    Raises:
        ValueError: ``total`` has another length than a contribution on ``state``.
    """
    values, dimension = _values(total, job, plan, state)
    if job.training.algorithm == "sgd":
        return values[:dimension] / plan.divisor
    weight = float(values[dimension])
    if weight * plan.expected_records < LEAST_RECORDS:
        return np.zeros(dimension)
    return -values[:dimension] / weight


def metrics_of(
    total: NDArray[np.int64], job: JobSpec, plan: Plan, state: ServerState, helpers: int
) -> dict[str, float]:
    """The training metrics in a round's sum: of the model that the round started from.

    Under ``sgd`` they are relative to the expected sample, not to the realised one, which nobody may
    know: sites that are missing draw both towards the middle of their range.

    Args:
        total: The centred sum, ``int64[length]``.
        job: The job.
        plan: Its plan.
        state: The server state on which the round trained.
        helpers: How many helpers added noise to this sum.

    Returns:
        ``train_loss`` and ``train_accuracy`` with ``train_loss_std`` and ``train_accuracy_std``, the
        standard deviations of the noise in them; empty if the job asks for none, or if the weights
        of ``fedavg`` add up to less than half a record.

    Raises:
        ValueError: ``total`` has another length than a contribution on ``state``, or the plan
            covers no round with so many helpers.
    """
    code = metric_code(job)
    if code is None:
        return {}
    values, dimension = _values(total, job, plan, state)
    divisor = plan.divisor
    if job.training.algorithm == "fedavg":
        divisor = float(values[dimension])
        if divisor * plan.expected_records < LEAST_RECORDS:
            return {}
    noise_std = math.sqrt(plan.total_variance(helpers)) * plan.grid / divisor
    return code.decode(values[len(values) - COORDINATES :] / divisor, noise_std)


def _coordinates(job: JobSpec, dimension: int) -> int:
    weight = 1 if job.training.algorithm == "fedavg" else 0
    return dimension + weight + (COORDINATES if job.training.metrics_share else 0)


def _values(
    total: NDArray[np.int64], job: JobSpec, plan: Plan, state: ServerState
) -> tuple[Floats, int]:
    """The decoded coordinates, and how many of them are shared parameters."""
    dimension = len(state.theta)
    if len(total) != vector_length(job, dimension):
        raise ValueError("the sum is not as long as a contribution")
    if is_rotated(job):
        seed, length = rotation_seed(state), _coordinates(job, dimension)
        return decode_rotated(total, plan.grid, seed, length), dimension
    return decode_fixed(total, plan.grid), dimension
