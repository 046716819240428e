"""The simulated run against the masked one."""

from unittest import mock

import numpy as np
import pytest
from scipy import stats

from tacit.engine.direct import DirectRun
from tacit.party import helper as helper_module
from tacit.party import workload as workload_module
from tacit.testing.entropy import SeededEntropy
from tacit.testing.federation import WITHOUT_NOISE, SmallFederation, write_small_federation
from tacit.testing.permissions import NOON, permission

CLIENT = {
    "privacy": {"unit": "client", "sampling_rate": 1.0, "expected_units": 4, "clip_norm": 0.1},
    "training": {"algorithm": "fedavg", "local_epochs": 3, "local_batch": 12},
}
RECORD = {"privacy": {"sampling_rate": 1.0, "clip_norm": 0.1}}
ADAPTIVE = {**RECORD, "training": {"micro_batch": 8, "clipping": "adaptive", "schedule": "cosine"}}


def federation(folder, job, seed=0):
    write_small_federation(folder / "small", job=job)
    return SmallFederation(folder / "small", seed=seed)


def holders(small):
    key = bytes(32)
    return [
        small.workload.prepare_private(source.read(permission(source.contract), NOON), key)
        for source in (small.folders[name].sources["small"] for name in small.terms.clients)
    ]


def without_noise():
    """The helpers' shares are zero: what is left of a run is exact."""
    return mock.patch.object(
        helper_module, "noise_blocks", lambda _v, size, _e: iter([np.zeros(size, dtype=np.int64)])
    )


@pytest.mark.parametrize("job", [WITHOUT_NOISE, RECORD, ADAPTIVE, CLIENT], ids=range(4))
def test_without_noise_it_is_the_masked_run_bit_for_bit(tmp_path, job):
    small = federation(tmp_path, job)
    with without_noise():
        small.run()
    direct = DirectRun(
        small.workload, small.terms.plan, holders(small), SeededEntropy(1), variance=0
    )
    released = direct.run()
    assert small.leader.chain.completed == direct.rounds == 3
    assert direct.state.to_bytes() == small.leader.model.to_bytes()
    assert released.any()


@mock.patch.object(
    workload_module, "draw_groups", lambda _e, n, *_: np.full((n, 1), -1, dtype=np.int64)
)
def test_the_noise_has_the_law_of_the_helpers_shares(tmp_path):
    """Rounds in which nobody is sampled: what the masked protocol sums is noise alone."""
    job, sums = {"rounds": 20}, []
    for number in range(3):
        small = federation(tmp_path / str(number), job, seed=number)
        small.run()
        for name, data in small.leader.transcript.items().items():
            if name.endswith("/aggregate.bin"):
                sums.append(np.frombuffer(data, dtype="<i4"))
    masked = np.concatenate(sums)
    assert len(masked) == 3 * 20 * 3
    plan = small.terms.plan
    direct = DirectRun(small.workload, plan, holders(small), SeededEntropy(2))
    simulated = np.concatenate([direct.step() for _ in range(2000)])
    assert stats.ks_2samp(masked, simulated).pvalue > 1e-3
    planted = DirectRun(
        small.workload, plan, holders(small), SeededEntropy(3), plan.guaranteed_variance
    )
    fewer = np.concatenate([planted.step() for _ in range(2000)])
    spread = [float(np.var(part)) / plan.total_variance(4) for part in (masked, simulated, fewer)]
    assert spread[0] == pytest.approx(1.0, abs=0.38)  # 3.6 standard errors
    assert spread[1] == pytest.approx(1.0, abs=0.05)
    assert spread[2] == pytest.approx(0.75, abs=0.04)


def test_progress_is_told_after_every_round(tmp_path):
    small, seen = federation(tmp_path, WITHOUT_NOISE), []
    DirectRun(small.workload, small.terms.plan, holders(small), SeededEntropy(1)).run(seen.append)
    assert seen == [1, 2, 3]
