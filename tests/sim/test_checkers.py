"""The instruments of the simulation themselves: linear algebra, oracle, loot, faults."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from tacit.algebra.prg import expand
from tacit.algebra.ring import Ring
from tacit.engine.simulator.algebra import eliminate, isolated, rank
from tacit.engine.simulator.faults import Faults, damage
from tacit.engine.simulator.oracle import Fields, keystream
from tacit.engine.simulator.privacy import ForwardSecrecy
from tacit.engine.simulator.vault import Vault
from tacit.testing.scenarios import Laboratory
from tacit.wire.envelope import Address, Envelope

UPLOADS = [{f"x{i}": 1, f"a{i}": 1, f"b{i}": 1} for i in range(4)]
OWNERS = {f"x{i}": f"operator-{i}" for i in range(4)}


def answer(helper, *members):
    return {f"{helper}{i}": 1 for i in members}


def test_uploads_alone_say_nothing():
    assert isolated(UPLOADS, OWNERS, 4) is None


def test_one_full_sum_says_no_more_than_the_sum():
    known = [*UPLOADS, answer("a", 0, 1, 2, 3), answer("b", 0, 1, 2, 3)]
    unknowns, basis = eliminate(known, {f"{h}{i}" for h in "ab" for i in range(4)})
    assert sorted(unknowns) == sorted(OWNERS)
    assert basis.tolist() in ([[1, 1, 1, 1]], [[2**31 - 2] * 4])
    assert isolated(known, OWNERS, 4) is None
    assert isolated(known, OWNERS, 5) == set(OWNERS.values())


def test_one_answer_is_not_enough():
    assert isolated([*UPLOADS, answer("a", 0, 1)], OWNERS, 4) is None


def test_the_difference_of_two_sums_is_found():
    known = [*UPLOADS, *(answer(h, 0, 1, 2, 3) for h in "ab"), *(answer(h, 1, 2, 3) for h in "ab")]
    assert isolated(known, OWNERS, 2) == {"operator-0"}


def test_a_sum_over_two_clients_of_one_operator_counts_once():
    known = [*UPLOADS, *(answer(h, 0, 1) for h in "ab")]
    assert isolated(known, OWNERS, 2) is None
    assert isolated(known, {**OWNERS, "x1": "operator-0"}, 2) == {"operator-0"}


def test_a_keystream_used_twice_cancels():
    known = [{"x0": 1, "k": 1}, {"x1": 1, "k": 1}]
    assert isolated(known, OWNERS, 3) == {"operator-0", "operator-1"}


def test_rank():
    assert rank(np.array([[1, 2, 3], [2, 4, 6], [0, 1, 1]])) == 2
    assert rank(np.zeros((0, 3), dtype=np.int64)) == 0


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_the_oracle_agrees_with_the_reference(bits):
    ring, fields = Ring(bits), Fields(length=1_000, bits=bits)
    stream = keystream(bytes(range(48)), fields)
    expected = expand(bytes(range(32)), bytes(range(32, 48)), 1_000, ring)
    assert fields.equal(stream, expected.astype(np.int64))
    assert not fields.equal(stream, stream + 1)
    data = bytes(ring.to_bytes(expected))
    assert np.array_equal(fields.read(data) % fields.modulus, stream)


def test_damage_always_changes_the_envelope():
    envelope = Envelope(Address("east", "client"), bytes(40), (bytes(8), bytes(8)))
    random = Random(0)
    changed = [damage(envelope, random) for _ in range(200)]
    assert sum(one != envelope for one in changed) > 190  # a cut may take nothing away


def test_drawn_faults_differ_and_backups_are_asked_for():
    random = Random(0)
    drawn = [Faults.draw(random) for _ in range(100)]
    assert len(set(drawn)) > 80
    assert not any(faults.rollback for faults in drawn)
    assert all(Faults.draw(random, rollback=True).rollback for _ in range(10))
    assert Faults(reorder=1.0, duplicate=0.5).none
    assert not Faults(drop=0.1).none


def test_the_thief_finds_a_seed_in_a_frame_that_an_error_kept(tmp_path):
    with Laboratory(tmp_path).open() as laboratory:
        simulation = laboratory.run("faults", 1, faults=Faults())
        name = simulation.honest_sites[0]
        upload = next(u for u in simulation.history.uploads.values() if u.client == name)

        def fails(seed):
            raise ValueError("an error whose traceback leads to the seed")

        with pytest.raises(ValueError, match="traceback") as caught:
            fails(upload.masks[0].seed)
        checker = ForwardSecrecy()
        checker._search(simulation, name, 1)
        simulation.cluster.sites[name].last_error = caught.value
        with pytest.raises(AssertionError, match="kept a seed"):
            checker._search(simulation, name, 1)


def test_a_vault_shows_no_secret():
    vault = Vault(secrets={b"key": b"very secret"})
    assert "secret" not in repr(vault)
