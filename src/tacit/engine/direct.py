"""The computation of a run without its protocol: no messages, masks, signatures or logs.

For experiments on public data, where thousands of clients and hundreds of rounds would take hours. What
comes out has the law of a masked run: the same sampling, contributions and server steps, and noise of the
same variance. Nobody is protected from anybody here, so results are labelled ``simulated``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.ring import Ring
from tacit.learn.server import ServerState
from tacit.party.workload import Carried, TrainingData, Workload
from tacit.privacy.noise import discrete_gaussian
from tacit.privacy.plan import Plan
from tacit.types import Entropy

__all__ = ["DirectRun"]


class DirectRun:
    """One simulated run.

    Args:
        workload: The job's computation.
        plan: Its plan.
        holders: What every data holder trains on: sites, or thousands of clients.
        entropy: Samples units, orders local training, draws noise.
        variance: Of the noise in every sum; by default that of a masked run with all helpers present.
            A trusted curator would need ``plan.guaranteed_variance`` only.

    Guarantee:
        Without noise the models are those of the masked run on the same samples, bit for bit; with noise
        the sums have its law up to a factor 1 +- 1e-33 (lemma 1). Checked by
        ``tests/unit/test_engine_direct.py::test_without_noise_it_is_the_masked_run_bit_for_bit`` and
        ``::test_the_noise_has_the_law_of_the_helpers_shares``.
    """

    def __init__(
        self,
        workload: Workload,
        plan: Plan,
        holders: Sequence[TrainingData],
        entropy: Entropy,
        variance: int | None = None,
    ) -> None:
        self.state: ServerState = workload.first(entropy.draw(32))
        self.rounds = 0
        self._workload = workload
        self._plan = plan
        self._holders = holders
        self._entropy = entropy
        self._variance = plan.total_variance(plan.helpers) if variance is None else variance
        self._carried = [Carried() for _ in holders]

    def run(self, on_round: Callable[[int], None] = lambda _: None) -> NDArray[np.float64]:
        """All rounds of the plan; returns the released parameters, ``float64[d]``."""
        while self.rounds < self._plan.rounds:
            self.step()
            on_round(self.rounds)
        return self.released

    @property
    def released(self) -> NDArray[np.float64]:
        """The parameters that would be released now."""
        return self._workload.released(self.state)

    def step(self) -> NDArray[np.int64]:
        """One round; returns its centred sum, ``int64[length]``."""
        ring = Ring(self._plan.ring_bits)
        total = ring.zeros(self._workload.length)
        for index, data in enumerate(self._holders):
            made = self._workload.contribution(
                self.state, data, self._plan, self._entropy, self._carried[index], idle=False
            )
            self._carried[index] = made.carried
            if made.sampled:
                ring.add_into(total, made.vector)
        if self._variance:
            noise = discrete_gaussian(self._variance, len(total), self._entropy)
            ring.add_into(total, ring.from_integers(noise))
        ring.reduce(total)
        centred = ring.centred(total)
        self.state = self._workload.step(self.state, centred, self._plan)
        self.rounds += 1
        return centred
