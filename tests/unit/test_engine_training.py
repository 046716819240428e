"""The training child: what it has, what it computes, and what becomes of a bad one."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tacit.engine.folder import FolderSource
from tacit.engine.training.compute import ChildCompute
from tacit.engine.training.process import PASSED_ON, Limits
from tacit.errors import ConfigError, PolicyDenied, RoundAborted
from tacit.party.computation import in_process
from tacit.party.price import public_code
from tacit.party.workload import Carried
from tacit.policy.contract import Contract
from tacit.testing.bad_child import MISDEEDS
from tacit.testing.entropy import SeededEntropy
from tacit.testing.federation import SmallFederation, write_small_federation
from tacit.types import Digest, Milliseconds

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="training children need Linux"
)

KEY = bytes(32)
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

    def child(self, seconds: float = 60, released=contextlib.nullcontext):
        compute = ChildCompute(self.place.folder, Limits(seconds=seconds, niceness=0), released)
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


NET = """
import os
import torch

class Net(torch.nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.linear = torch.nn.Linear(features, classes)

    def forward(self, x):
        return self.linear(x)

open({place!r}, "a").write(f"{{os.getpid()}} ")
"""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("training") / "f", {})


def train(bench, workload, participations: int = 0):
    state = workload.first(b"seed")
    data = workload.prepare_private(bench.batch, KEY)
    carried = Carried(None, participations)
    return workload.contribution(state, data, bench.terms.plan, SeededEntropy(1), carried)


def test_the_child_has_nothing_of_the_site(shipped, monkeypatch):
    monkeypatch.setenv("TACIT_SECRET", "a secret of the environment")
    key = shipped.place.folder / "sites" / "north" / "keys" / "identity.key"
    with key.open("rb"), contextlib.closing(shipped.child()) as workload:
        train(shipped, workload)
        process = Path("/proc") / str(workload.child.pid)
        environment = process.joinpath("environ").read_bytes().split(b"\0")
        names = {entry.split(b"=")[0].decode() for entry in environment if entry}
        assert names <= {"PYTHONPATH", "HOME", "TMPDIR", "LANG", *PASSED_ON}
        assert b"secret" not in b"".join(environment)
        open_files = {str(entry.readlink()) for entry in process.joinpath("fd").iterdir()}
        assert {name.split(":")[0] for name in open_files} == {"/dev/null", "socket", "/memfd"}
        arguments = process.joinpath("cmdline").read_bytes()
        assert str(shipped.place.folder).encode() not in arguments
        maps = process.joinpath("maps").read_text()
        assert str(shipped.place.folder) not in maps
        cwd = (process / "cwd").readlink()
        assert list(cwd.iterdir()) == []
        assert os.getsid(workload.child.pid) == workload.child.pid
    assert not cwd.exists()
    assert not process.exists(), "the child ends with its run"


def test_the_site_never_runs_the_code(tmp_path):
    """And yet the child computes what this process would, local layers included."""
    pytest.importorskip("torch")
    place = tmp_path / "ran"
    training = {**FEDAVG, "local_layers": ["linear.bias"]}
    bench = Bench(
        tmp_path / "f", {**JOBS["client"], "training": training}, NET.format(place=str(place))
    )
    place.unlink()  # The coordinator of the bench runs its own copy.
    with contextlib.closing(bench.child()) as workload:
        found = bench.rounds(workload)
        assert {int(word) for word in place.read_text().split()} == {workload.child.pid}
    assert found == bench.rounds(bench.here())


def test_other_code_never_runs(tmp_path, shipped):
    """Nor does a missing file; both are named with the digest of the run."""
    job = shipped.terms.job.model_copy(update={"model": "model.py:Net"})
    place, wanted = tmp_path / "ran", Digest(bytes(range(32)))
    compute = ChildCompute(tmp_path)
    with pytest.raises(ConfigError) as missing:
        compute(job, shipped.terms.schema, wanted)
    assert missing.value.code == "training.no-code"
    (tmp_path / "model.py").write_text(f"open({str(place)!r}, 'w')\n")
    with pytest.raises(PolicyDenied) as other:
        compute(job, shipped.terms.schema, wanted)
    assert other.value.code == "learn.other-code"
    for caught in (missing, other):
        assert wanted.hex() in caught.value.message
        assert "tacit policy code" in caught.value.remedy
    assert not place.exists()


@pytest.fixture(scope="module")
def bad(shipped):
    limits = Limits(seconds=3, niceness=0)
    compute = ChildCompute(shipped.place.folder, limits, module="tacit.testing.bad_child")
    with contextlib.closing(
        compute(shipped.terms.job, shipped.terms.schema, shipped.code)
    ) as workload:
        yield workload


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("crash", "training.crashed"),
        ("hang", "training.timeout"),
        ("garbage", "training.protocol"),
        ("oversize", "training.protocol"),
        ("draws", "training.protocol"),
        ("many-draws", "training.protocol"),
        ("short", "training.protocol"),
        ("raise", "site.model-failed"),
    ],
)
def test_a_bad_child_costs_one_round(shipped, bad, kind, code):
    good = train(shipped, bad)
    with pytest.raises((RoundAborted, ConfigError)) as caught:
        train(shipped, bad, MISDEEDS.index(kind))
    assert caught.value.code == code
    assert public_code(caught.value) == "site.not-ready"
    assert "record:" not in str(caught.value), "what the code raises stays in the child"
    assert np.array_equal(train(shipped, bad).vector, good.vector)


def test_the_lock_is_free_while_the_child_computes(shipped):
    lock = threading.Lock()
    free: list[bool] = []

    @contextlib.contextmanager
    def released():
        lock.release()
        free.append(not lock.locked())
        try:
            yield
        finally:
            lock.acquire()

    class Watched(SeededEntropy):
        def draw(self, size):
            assert lock.locked(), "a party's entropy is drawn under the lock only"
            return super().draw(size)

    with lock, contextlib.closing(shipped.child(released=released)) as workload:
        state = workload.first(b"seed")
        data = workload.prepare_private(shipped.batch, KEY)
        before = len(free)
        workload.contribution(state, data, shipped.terms.plan, Watched(1), Carried())
        assert lock.locked()
    assert len(free) > before > 0
    assert all(free)


def test_a_run_with_children_is_the_run_without(tmp_path):
    """No transaction is open, and no lock held, while a child computes in a whole run."""
    write_small_federation(tmp_path / "f", names=("north", "south", "west"))
    here = SmallFederation(tmp_path / "f", seed=5)
    here.run()
    there = SmallFederation(tmp_path / "f", seed=5)
    children = []

    def compute(name):
        @contextlib.contextmanager
        def released():
            assert not there.stores[name]._working
            yield

        return ChildCompute(tmp_path / "f", Limits(60, niceness=0), released)

    for name, site in there.sites.items():
        children.append(compute(name))
        object.__setattr__(site._setup, "compute", children[-1])
    there.run()
    assert there.leader.model.digest == here.leader.model.digest
    assert not any(child.alive for compute in children for child in compute.children)


def test_killing_ends_every_child(shipped):
    compute = ChildCompute(shipped.place.folder, Limits(60, niceness=0))
    workload = compute(shipped.terms.job, shipped.terms.schema, shipped.code)
    compute.kill()
    with pytest.raises(RoundAborted):
        workload.first(b"seed")
    workload.close()
