"""Job and privacy plan of synthetic runs."""

from __future__ import annotations

import math

from tacit.party.job import JobSpec
from tacit.privacy.calibration import sample_bound
from tacit.privacy.plan import Plan

__all__ = ["synthetic_job", "synthetic_plan"]

FEW_ROUNDS = 3


def synthetic_job(protocol: str, unit: str, min_cohort: int, rounds: int) -> JobSpec:
    """A job with differential privacy, or without."""
    return JobSpec.model_validate(
        {
            "version": 1,
            "name": "synthetic",
            "purpose": "test",
            "rounds": rounds,
            "model": "logistic",
            "data": {"contract": "synthetic"},
            "evaluation": {"contract": "evaluation.toml"},
            "privacy": {
                "unit": unit,
                "epsilon": 8.0,
                "sampling_rate": 0.5,
                "expected_units": 400,
            },
            "aggregation": {"protocol": protocol, "min_cohort": min_cohort},
            "training": {"learning_rate": 0.5, "average_from": 0.5},
        }
    )


def synthetic_plan(job: JobSpec, helpers: int) -> Plan:
    """A plan that fits the job; more rounds get more noise."""
    private = job.privacy.unit != "none"
    return Plan(
        unit=job.privacy.unit,
        rounds=job.rounds,
        delta=job.privacy.delta,
        clip_norm=job.privacy.clip_norm,
        sampling_rate=job.privacy.sampling_rate,
        visible_sampling=False,
        max_participations=0,
        expected_units=job.privacy.expected_units,
        noise_multiplier=2.0 * math.sqrt(job.rounds / FEW_ROUNDS) if private else 0.0,
        helpers=helpers,
        min_helpers=helpers,
        max_colluding=job.privacy.max_colluding,
        ring_bits=32,
        grid=2.0**-16,
        units_bound=sample_bound(job.privacy.sampling_rate * job.privacy.expected_units),
    )
