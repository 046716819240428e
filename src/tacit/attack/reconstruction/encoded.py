"""What each record alone adds to a sum, to the last integer: what an adversary computes for its candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tacit.learn.linear import LinearHead
from tacit.learn.local import LocalSettings, local_update
from tacit.learn.server import ServerState
from tacit.party.workload import Workload
from tacit.privacy.integers import encode_records
from tacit.privacy.outer import encode_outer
from tacit.privacy.plan import Plan

__all__ = ["encoded_rows"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_BLOCK = 256


def encoded_rows(
    workload: Workload, plan: Plan, state: ServerState, features: Floats, labels: Integers
) -> Integers:
    """The contributions of sites with one record each that was sampled, ``int64[n, length]``.

    Args:
        workload: Without training metrics and held-out records, as attacks run it.
        plan: The run's plan; of a unit of privacy, or for ``sgd``.
        state: The server state on which the round trains.
        features: Scaled, ``float64[n, k]``.
        labels: ``int64[n]``.

    Guarantee:
        Bit for bit what ``Workload.contribution`` makes of such a site. Checked by
        ``tests/attack/test_reconstruction_protocol.py::test_a_candidates_row_is_its_contribution``.
    """
    parts = [slice(start, start + _BLOCK) for start in range(0, len(labels), _BLOCK)]
    blocks = [_block(workload, plan, state, features[part], labels[part]) for part in parts]
    return np.concatenate(blocks)


def _block(workload: Workload, plan: Plan, state: ServerState, x: Floats, y: Integers) -> Integers:
    model, code = workload.model.model, workload.coordinates.row
    theta, scale = workload.complete(state.theta), state.clip_scale
    if workload.job.training.algorithm == "fedavg":
        rows = code.rows(_updates(workload, theta, x, y), None, scale)
        return encode_records(rows, plan.clip_norm, plan.grid)
    if code.clipping.mode != "per-layer" and isinstance(model, LinearHead):
        factors = model.factors(theta, x, y)
        norms = factors.norms()
        errors = factors.errors * code.clipping.factors(norms, scale)[:, None]
        beside = code.beside(norms, factors.assessed, scale)
        made = encode_outer(errors, factors.inputs, plan.clip_norm, plan.grid, beside)
        matrices = (made.left[:, :, None] * made.right[:, None, :]).astype(np.int64)
        arranged = np.stack([model.arranged(matrix) for matrix in matrices])
        return np.concatenate([arranged, made.extra], axis=1)
    gradients = model.gradients(theta, x, y)
    rows = gradients if code.plain else code.rows(gradients, None, scale)
    return encode_records(rows, plan.clip_norm, plan.grid)


def _updates(workload: Workload, theta: Floats, x: Floats, y: Integers) -> Floats:
    training, layout = workload.job.training, workload.state_layout
    settings = LocalSettings(
        training.local_epochs, training.local_batch, training.local_learning_rate
    )
    seed, model = bytes(32), workload.model.model  # the order of one record is no secret
    rows = [
        layout.shared(local_update(model, theta, x[i : i + 1], y[i : i + 1], settings, seed))
        for i in range(len(y))
    ]
    return np.stack(rows)
