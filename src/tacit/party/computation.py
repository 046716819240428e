"""What a party needs of a run's computation, wherever the model's code runs.

``Workload`` computes in this process. A site that serves a federation hands the job's code and the data to
a child process instead and keeps everything else: keys, policy, budget and the server step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.connect import SanitisedBatch
from tacit.learn.code import LoadedModel
from tacit.learn.server import ServerState
from tacit.party.job import JobSpec
from tacit.party.workload import Carried, Contributed, Floats, TrainingData, Workload
from tacit.policy.schema import Schema
from tacit.privacy.plan import Plan
from tacit.types import Digest, Entropy

__all__ = ["Computation", "Compute", "in_process"]


class Computation(Protocol):
    """The computation of one run at one party; see ``Workload`` for what each part means.

    Model code runs in ``first``, ``contribution`` and ``complete`` alone; all else follows from the job
    and from the sizes of the model.
    """

    @property
    def code(self) -> Digest:
        """Digest of the code that defines the model."""
        ...

    @property
    def dimension(self) -> int:
        """Number of shared parameters."""
        ...

    @property
    def layout(self) -> Digest:
        """Digest of the model's tensors."""
        ...

    def first(self, seed: bytes) -> ServerState:
        """The server state before round 1; runs model code."""
        ...

    def prepare_private(self, batch: SanitisedBatch, holdout_key: bytes) -> TrainingData:
        """Scales a site's batch and divides it."""
        ...

    def contribution(
        self,
        state: ServerState,
        data: TrainingData,
        plan: Plan,
        entropy: Entropy,
        carried: Carried,
    ) -> Contributed:
        """One site's contribution of a round; runs model code."""
        ...

    def complete(self, shared: Floats, local: bytes | None = None) -> Floats:
        """The model's own parameter vector; runs model code."""
        ...

    def step(self, state: ServerState, total: NDArray[np.int64], plan: Plan) -> ServerState:
        """The server step on a round's integer sum."""
        ...

    def metrics(
        self, state: ServerState, total: NDArray[np.int64], plan: Plan, helpers: int
    ) -> dict[str, float]:
        """The private metrics inside a round's sum."""
        ...

    def released(self, state: ServerState) -> Floats:
        """The shared parameters that the run releases."""
        ...

    def close(self) -> None:
        """Ends whatever runs for this computation; it may be closed twice."""
        ...


Compute = Callable[[JobSpec, Schema, Digest], Computation]
"""Opens the computation of a job for a public schema, from code that must have the digest."""


def in_process(load_model: Callable[[JobSpec, Schema, Digest], LoadedModel]) -> Compute:
    """Computes in this process, with the model that ``load_model`` gives."""

    def build(job: JobSpec, schema: Schema, code: Digest) -> Workload:
        return Workload.build(job, load_model(job, schema, code), len(schema.classes))

    return build
