"""The training child: what it has, what it computes, and what becomes of a bad one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest

from tacit.engine.folder import FolderSource
from tacit.engine.training import ChildCompute, Limits
from tacit.errors import ConfigError, PolicyDenied, RoundAborted
from tacit.learn.code import read_code
from tacit.party.computation import in_process
from tacit.party.workload import Carried
from tacit.policy.contract import Contract
from tacit.testing.entropy import SeededEntropy
from tacit.testing.federation import SmallFederation, write_small_federation
from tacit.types import Digest, Milliseconds

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="training children need Linux"
)

KEY = bytes(32)
ENTITY = {"unit": "entity", "max_records": 2}
CLIENT = {"unit": "client", "expected_units": 4}
FEDAVG = {"algorithm": "fedavg", "local_epochs": 1}
JOBS = {
    "record": {},
    "held out": {"evaluation": {"holdout": 0.25}},
    "none": {"privacy": {"unit": "none", "sampling_rate": 1.0, "max_colluding": 0}},
    "rotated": {
        "privacy": {"unit": "none", "sampling_rate": 1.0, "max_colluding": 0},
        "training": FEDAVG,
        "aggregation": {"ring_bits": 16},
    },
    "client": {"privacy": CLIENT, "training": FEDAVG},
}


class Bench:
    """A small federation's job, its batch at one site, and both ways to compute."""

    def __init__(self, folder: Path, job: dict[str, object], model: str = "") -> None:
        changes = {**job, **({"model": "model.py:Net"} if model else {})}
        if model:
            folder.parent.mkdir(exist_ok=True)
        path = write_small_federation(folder, job=changes)
        if model:
            (folder / "model.py").write_text(model)
        self.place = SmallFederation(path.parent)
        self.terms = self.place.terms
        self.code = Digest(self.terms.manifest.code)
        evaluation = path.parent / "evaluation"
        source = FolderSource(Contract.load(evaluation / "contract.toml"), evaluation)
        self.batch = source.read_public("research", Milliseconds(0))

    def here(self):
        return in_process(self.place.load_model)(self.terms.job, self.terms.schema, self.code)

    def child(self, limits: Limits = Limits(seconds=60), released=contextlib.nullcontext):
        compute = ChildCompute(self.place.folder, limits, released)
        return compute(self.terms.job, self.terms.schema, self.code)

    def rounds(self, workload, count: int = 2):
        """First model, and the contributions of a few rounds."""
        entropy = SeededEntropy("rounds")
        state, carried = workload.first(b"seed"), Carried()
        data = workload.prepare_private(self.batch, KEY)
        found = [state.to_bytes()]
        for _ in range(count):
            made = workload.contribution(state, data, self.terms.plan, entropy, carried)
            carried = made.carried
            total = np.asarray(made.vector, dtype=np.int64) % 100
            state = workload.step(state, total, self.terms.plan)
            found += [made.vector.tobytes(), repr(carried), made.sampled, state.to_bytes()]
        found += [
            entropy.draw(8),
            workload.complete(workload.released(state), carried.local).tobytes(),
        ]
        return found


@pytest.mark.parametrize("kind", JOBS)
def test_the_child_computes_what_this_process_computes(tmp_path, kind):
    bench = Bench(tmp_path / "f", JOBS[kind])
    with contextlib.closing(bench.child()) as child:
        assert bench.rounds(child) == bench.rounds(bench.here())
