"""Clients that sample themselves: nobody can have the coin thrown again, and secret ones leave no trace."""

from __future__ import annotations

import json
import re
from unittest import mock

import numpy as np
import pytest

from tacit.party import terms as terms_module
from tacit.party import workload as workload_module
from tacit.testing.federation import SmallFederation, write_small_federation
from tacit.types import PartyName
from tacit.wire.messages import Refusal, RoundStart

NORTH = PartyName("north")
CLIENT = {
    "privacy": {"unit": "client", "expected_units": 4, "clip_norm": 0.5, "max_participations": 3},
    "training": {"algorithm": "fedavg", "local_epochs": 2, "local_batch": 4},
}
POLICY = "permit (principal, action, resource);"


def coin(side):
    """Throws the real coin, and turns it."""
    real = workload_module.poisson_sample

    def thrown(n, threshold, entropy):
        return np.full_like(real(n, threshold, entropy), side)

    return mock.patch.object(workload_module, "poisson_sample", thrown)


def federation(folder, sampling):
    job = {**CLIENT, "privacy": {**CLIENT["privacy"], "client_sampling": sampling}}
    path = write_small_federation(folder / "small", job=job, policy=POLICY)
    for site in (path.parent / "sites").glob("*/site.toml"):
        site.write_text(site.read_text().replace("epsilon = 1.2", "epsilon = 90.0"))
    return SmallFederation(path.parent)


def start_of_round(small):
    """The first start of a round for north, held back."""
    held = small.deliver(small.start(), hold=RoundStart)
    return next(e for e in held if e.receiver.party == NORTH)


@pytest.mark.parametrize("restart", [False, True])
def test_whoever_is_not_sampled_says_so_once_and_pays_nothing(tmp_path, monkeypatch, restart):
    monkeypatch.setattr(terms_module, "NEGLIGIBLE", 1e300)  # four clients would be too few
    small = federation(tmp_path, "visible")
    start = start_of_round(small)
    with coin(False):
        (word,) = small.sites[NORTH].receive(start, small.clock())
    body = small.read(word).body
    assert isinstance(body, Refusal)
    assert body.code == "client.not-sampled"
    budget = small.sites[NORTH].budget
    assert [entry.charged for entry in budget.entries()] == [0]
    if restart:
        small.restart(NORTH)
    with coin(True):  # asked again, it would be sampled
        (again,) = small.sites[NORTH].receive(start, small.clock())
    assert again.message == word.message
    assert [entry.charged for entry in small.sites[NORTH].budget.entries()] == [0]


def told(small):
    """What anybody but north could ever see of it, numbers and lengths, digests left out."""
    log = [
        json.loads(event) for _, event in small.sites[NORTH].ports.log.events(small.terms.run_id)
    ]
    plain = re.sub(r"[0-9a-f]{64}", "digest", json.dumps(log))
    plain = re.sub(r"(\\n[0-9]+\\n)[^\"]+", r"\1root and signature", plain)
    journal = [
        (record.kind, record.round_number, str(record.epsilon))
        for record, _ in small.sites[NORTH].budget.history()
    ]
    return plain, journal


def test_a_secret_sample_leaves_no_trace(tmp_path):
    """Heads or tails: the same messages by size, the same log, the same charges."""
    seen = []
    for side in (True, False):
        small = federation(tmp_path / str(side), "secret")
        sizes: list[tuple[int, list[int]]] = []

        def tap(envelope, sizes=sizes):
            if envelope.receiver.role == "leader":
                sizes.append((len(envelope.message), [len(chunk) for chunk in envelope.chunks]))
            return envelope

        with coin(side):
            small.run(tap=tap)
        assert small.leader.chain.completed == 3
        seen.append((sizes, told(small)))
    assert seen[0] == seen[1]
    assert any(chunks for _, chunks in seen[0][0])


def test_a_client_that_was_never_sampled_follows_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(terms_module, "NEGLIGIBLE", 1e300)
    small = federation(tmp_path, "visible")
    thrown = workload_module.Workload.contribution

    def never_north(self, state, data, *rest, **more):
        with coin(data is not small.sites[NORTH]._runs[small.terms.run_id].data):
            return thrown(self, state, data, *rest, **more)

    monkeypatch.setattr(workload_module.Workload, "contribution", never_north)
    small.run()
    site = small.sites[NORTH]
    assert small.leader.chain.completed == 3
    assert site.spent_on(small.terms.run_id) == 0.0
    model = site.state(small.terms.run_id).get("model")
    assert model == small.leader.model.to_bytes()
